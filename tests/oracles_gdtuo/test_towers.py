"""gdtuo, by the authors of the towers, as the oracle: coefficients and parameters at every one of 50 steps.

Gradients are prescribed, the same for both. Catches: a hypergradient that is not theirs (a factor, a sign, a step too
late), a storey that moves too early or after the one below it. `adapters` makes the conventions agree.
"""

import pytest
import torch
from gradient_descent_the_ultimate_optimizer import gdtuo

from mada_optim import SGD, HyperTorch
from tests.oracles_gdtuo import adapters as a

STEPS = 50
SHAPES = [(3, 4), (5,)]

SGD_ONLY = a.sgd(0.05)
MOMENTUM = a.sgd(0.02, 0.8)
ADAGRAD = a.adagrad(0.05)
RMSPROP, OUR_RMSPROP = (a.rmsprop(0.01, 0.99, rule) for rule in (a.RMSPROP, "rmsprop"))
ADAM = a.adam(0.01)
BAYDIN, OUR_ADAM = a.adam_baydin(0.01, a.ADAM), a.adam_baydin(0.01, "adam")

TOWERS = {
    "SGD": [SGD_ONLY],
    "SGD with momentum": [MOMENTUM],
    "AdaGrad": [ADAGRAD],
    "RMSProp": [RMSPROP],
    "RMSProp, our rule": [OUR_RMSPROP],
    "Adam": [ADAM],
    "Adam, our rule": [OUR_ADAM],
    "SGD / SGD": [SGD_ONLY, a.sgd(1e-4)],
    "SGD / Adam": [SGD_ONLY, a.adam(1e-3)],
    "SGD with momentum / SGD": [MOMENTUM, a.sgd(1e-5)],
    "SGD with momentum / SGD with momentum": [MOMENTUM, a.sgd(1e-6, 0.5)],
    "AdaGrad / SGD": [ADAGRAD, a.sgd(1e-4)],
    "AdaGrad / AdaGrad": [ADAGRAD, a.adagrad(1e-3)],
    "RMSProp / SGD": [RMSPROP, a.sgd(1e-4)],
    "RMSProp / RMSProp": [RMSPROP, a.rmsprop(1e-4, 0.9, a.RMSPROP)],
    "RMSProp, our rule / Adam": [OUR_RMSPROP, a.adam(1e-3)],
    "Adam / SGD": [ADAM, a.sgd(1e-5)],
    "Adam / Adam": [ADAM, a.adam(1e-3)],
    "AdamBaydin / SGD": [BAYDIN, a.sgd(1e-5)],
    "AdamBaydin / AdamBaydin": [BAYDIN, a.adam_baydin(1e-3, a.ADAM)],
    "Adam, our rule / SGD": [OUR_ADAM, a.sgd(1e-5)],
    "SGD / SGD / SGD": [SGD_ONLY, a.sgd(1e-4), a.sgd(1e-8)],
    "SGD with momentum / SGD with momentum / SGD": [MOMENTUM, a.sgd(1e-6, 0.5), a.sgd(1e-14)],
    "AdaGrad / Adam / SGD": [ADAGRAD, a.adam(1e-3), a.sgd(1e-6)],
    "Adam / SGD / SGD": [ADAM, a.sgd(1e-6), a.sgd(1e-10)],
    "Adam / Adam / SGD": [ADAM, a.adam(1e-3), a.sgd(1e-6)],
    "Adam / Adam / Adam": [ADAM, a.adam(1e-3), a.adam(1e-4)],
    "AdamBaydin / AdamBaydin / AdamBaydin": [BAYDIN, a.adam_baydin(1e-3, a.ADAM), a.adam_baydin(1e-4, a.ADAM)],
    "Adam, our rule / SGD / SGD": [OUR_ADAM, a.sgd(1e-6), a.sgd(1e-10)],
}


@pytest.fixture
def fp64():
    """gdtuo makes its coefficients in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients():
    """With a common direction, so that learning rates rise."""
    common = [torch.randn(shape) for shape in SHAPES]
    return [[x + torch.randn(x.shape) for x in common] for _ in range(STEPS)]


def compare(opt, params, theirs, storeys, tolerance):
    """Steps both, and compares how far parameters and the coefficients of all storeys came, relative to that.

    Returns the relative displacements of the coefficients, by storey.
    """
    rounding = torch.finfo(torch.get_default_dtype()).eps
    origins = [p.detach().clone() for p in params]
    starts = list(a.their_readings(theirs.optimizer, storeys))
    for t, gs in enumerate(gradients()):
        for p, g in zip(params, gs, strict=True):
            p.grad = g.clone()
        opt.step()
        theirs.take(gs)
        reads = list(a.their_readings(theirs.optimizer, storeys))
        for mine, read, start in zip(a.our_readings(opt), reads, starts, strict=True):
            for q, x in read.items():
                assert abs(mine[q] - x) <= tolerance * abs(x - start[q]) + 4 * rounding * abs(x), (t, q)
        for p, q, origin in zip(params, theirs.parameters.values(), origins, strict=True):
            assert (p - q).norm() <= tolerance * (q - origin).norm(), t
    return [{q: abs(x / start[q] - 1) for q, x in read.items()} for read, start in zip(reads, starts, strict=True)]


def pair(storeys):
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = a.Prescribed({str(i): p.detach().clone() for i, p in enumerate(params)}, a.theirs(storeys))
    return params, a.ours(params, storeys), theirs


@pytest.mark.parametrize("name", TOWERS)
def test_towers(name, fp64):
    storeys = TOWERS[name]
    params, opt, theirs = pair(storeys)
    moved = compare(opt, params, theirs, storeys, tolerance=1e-6)
    if (
        len(storeys) > 1
    ):  # what hardly moves is hardly compared; one lr for all latents of a storey moves some of them less
        assert min(moved[0].values()) > 1e-8
        assert all(max(storey.values()) > 1e-3 for storey in moved[:-1])


@pytest.mark.parametrize("name", ["Adam, our rule / SGD", "Adam, our rule / SGD / SGD", "SGD / SGD / SGD"])
def test_towers_in_fp32(name):
    """As both come: gdtuo's coefficients in fp32 too; Adam on the C++ loops where there is a compiler."""
    params, opt, theirs = pair(TOWERS[name])
    compare(opt, params, theirs, TOWERS[name], tolerance=1e-5)


def test_an_lr_for_each_tensor(fp64):
    """gdtuo.SGDPerParam is scope="tensor"."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    lrs = torch.tensor([0.05, 0.02])
    one = gdtuo.SGDPerParam([("0", 0.05), ("1", 0.02)], optimizer=gdtuo.SGD(1e-4))
    theirs = a.Prescribed({str(i): p.detach().clone() for i, p in enumerate(params)}, one)
    learner = HyperTorch(
        "lr",
        make=lambda q: a.Latent(q, [a.alpha(lrs)], lambda z: SGD(z, lr=1e-4)),
        start=0,
        scope="tensor",
    )
    opt = SGD([{"params": [p], "lr": lr} for p, lr in zip(params, lrs.tolist(), strict=True)], learn=learner)
    for gs in gradients():
        for p, g in zip(params, gs, strict=True):
            p.grad = g.clone()
        opt.step()
        theirs.take(gs)
        for i, p in enumerate(params):
            lr = one.parameters[f"{i}_alpha"].item()
            assert opt.coefficients()[f"{i}.0"]["lr"] == pytest.approx(lr, rel=1e-9)
            torch.testing.assert_close(p.detach(), theirs.parameters[str(i)].detach(), rtol=1e-9, atol=1e-12)
