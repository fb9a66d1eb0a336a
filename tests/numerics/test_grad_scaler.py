"""`torch.amp.GradScaler`: it multiplies a loss, divides the gradients before the step, and skips steps that overflow.

Catches: a hypergradient of scaled gradients, a skipped step that the coefficients or the hypergradient's memory notice,
and two optimizers of one scaler that skip together. Scales are powers of 2, so all is equal bit for bit.
"""

import copy

import pytest
import torch

from mada_optim import MADA, HyperSGD
from tests.problems import MIDWAY, everything, same_bits

LEARNED = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")
OVERFLOWS = (4, 5, 11)


def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def optimizer(params, engine):
    return MADA(params, lr=1e-2, learn=HyperSGD(*LEARNED, start=0), engine=engine, **MIDWAY)


def loss_of(model, step):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.sum(-1, keepdim=True)).square().mean()


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_scaled_run_is_the_unscaled_one_without_its_overflows(engine, clip):
    model = network()
    twin = copy.deepcopy(model)
    opt, other = optimizer(model.parameters(), engine), optimizer(twin.parameters(), engine)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    scales = set()
    for step in range(16):
        scales.add(scaler.get_scale())
        opt.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step in OVERFLOWS:
            model[0].weight.grad[0, 0] = float("inf")
        if clip:
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        before = everything(opt)
        scaler.step(opt)
        scaler.update()
        assert same_bits(before, everything(opt)) == (step in OVERFLOWS)
        if step not in OVERFLOWS:
            other.zero_grad()
            loss_of(twin, step).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
            other.step()
        assert same_bits(everything(opt), everything(other)), step
    assert len(scales) > 2
    assert any(opt.hypergradients().values())


def test_two_optimizers_of_one_scaler_skip_each_for_itself():
    models = network(), network()
    opts = [optimizer(model.parameters(), "auto") for model in models]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        for opt in opts:
            opt.zero_grad()
        scaler.scale(sum(loss_of(model, step) for model in models)).backward()
        if step == 3:
            models[1][2].bias.grad.fill_(float("nan"))
        before = [everything(opt) for opt in opts]
        for opt in opts:
            scaler.step(opt)
        scaler.update()
        stayed = [same_bits(x, everything(opt)) for x, opt in zip(before, opts, strict=True)]
        assert stayed == [False, step == 3]
