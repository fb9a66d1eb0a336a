"""Every named optimizer, and MADA at its corners, against independent oracles in float64 over 50 steps.

Catches: a corner that is not the named optimizer: a wrong order, a wrong initial value, a missing correction. Compared
are displacements from the start, which a difference of parameters would drown.
"""

import pytest
import torch

from mada_optim import MADA, Adam, Adan, AMSGrad, AVGrad, HyperSGD, Lion, Yogi
from tests import oracles
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

STEPS, LR, EPS = 50, 1e-2, 1e-8
ADAM = {"betas": (0.9, 0.95)}
ADAN = {"betas": (0.98, 0.99), "beta3": 0.92}

TRANSCRIBED = {
    "AVGrad": (AVGrad, ADAM, lambda gs: oracles.avgrad(gs, 0.9, 0.95, EPS)),
    "Yogi": (Yogi, ADAM, lambda gs: oracles.yogi(gs, 0.9, 0.95, EPS)),
    "Adan": (Adan, ADAN, lambda gs: oracles.adan(gs, 0.98, 0.99, 0.92, EPS)),
    "Lion": (Lion, {"betas": (0.95, 0.98)}, lambda gs: oracles.lion(gs, 0.95, 0.98)),
    "MADA at AVGrad": (MADA, {**ADAM, "rho": 0.0}, lambda gs: oracles.avgrad(gs, 0.9, 0.95, EPS)),
    "MADA at Yogi": (MADA, {**ADAM, "c": 0.0}, lambda gs: oracles.yogi(gs, 0.9, 0.95, EPS)),
    "MADA at Adan": (MADA, ADAN, lambda gs: oracles.adan(gs, 0.98, 0.99, 0.92, EPS)),
    "MADA at Lion": (MADA, {**ADAM, "gamma": 0.0}, lambda gs: oracles.lion(gs, 0.95, 0.98)),
}


def start():
    return torch.nn.Parameter(torch.randn(4, 5, dtype=torch.float64))


def gradients():
    return list(torch.randn(STEPS, 4, 5, dtype=torch.float64))


def assert_same_displacement(p, expected, origin):
    displacement = (expected - origin).norm()
    assert displacement > 0
    assert (p.detach() - expected).norm() <= 1e-12 * displacement


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", TRANSCRIBED)
def test_transcribed_oracle(name, weight_decay):
    cls, options, update = TRANSCRIBED[name]
    p, gs = start(), gradients()
    origin = theta = p.detach().clone()
    eps = {} if cls is Lion else {"eps": EPS}
    opt = cls([p], lr=LR, weight_decay=weight_decay, learn=(), **eps, **options)
    for t, g in enumerate(gs, 1):
        p.grad = g.clone()
        opt.step()
        theta = (1 - LR * weight_decay) * theta - LR * update(gs[:t])
        assert_same_displacement(p, theta, origin)


@pytest.mark.parametrize("learn", [(), HyperSGD("all", lr=0.0, start=0)], ids=["nothing", "all"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("cls", "options"), [(Adam, {}), (MADA, {}), (AMSGrad, {"amsgrad": True})], ids=["Adam", "MADA", "AMSGrad"]
)
def test_torch_is_the_oracle(cls, options, weight_decay, learn):
    """Parameters and slots at every step; with everything learned at a hyper learning rate of 0 too."""
    p = start()
    q = torch.nn.Parameter(p.detach().clone())
    origin = p.detach().clone()
    ours = cls([p], lr=LR, weight_decay=weight_decay, learn=learn, **ADAM)
    theirs = torch.optim.AdamW([q], lr=LR, weight_decay=weight_decay, **ADAM, **options)
    for g in gradients():
        p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        assert_same_displacement(p, q.detach(), origin)
        slots, state = ours.slots(p), theirs.state[q]
        torch.testing.assert_close(slots["m"], state["exp_avg"], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(slots["v"], state["exp_avg_sq"], rtol=1e-12, atol=1e-15)
        if cls is AMSGrad:
            torch.testing.assert_close(slots["vmax"], state["max_exp_avg_sq"], rtol=1e-12, atol=1e-15)


def test_adam_without_decay_is_torch_adam():
    p = start()
    q = torch.nn.Parameter(p.detach().clone())
    origin = p.detach().clone()
    ours, theirs = MADA([p], lr=LR, learn=(), **ADAM), torch.optim.Adam([q], lr=LR, **ADAM)
    for g in gradients():
        p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        assert_same_displacement(p, q.detach(), origin)


def test_without_a_word_they_are_torchs_adam():
    """At each one's own default numbers, but for decay, which is AdamW's .01 there."""
    p = start()
    q = torch.nn.Parameter(p.detach().clone())
    origin = p.detach().clone()
    ours, theirs = Adam([p], weight_decay=0.01), torch.optim.AdamW([q])
    for g in gradients():
        p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        assert_same_displacement(p, q.detach(), origin)


def test_correction_stays_exact_while_beta_changes():
    """With constant gradients every corrected average is that gradient, whatever path the betas took: u = sign(g)."""
    p = start()
    g = torch.randn(4, 5, dtype=torch.float64)
    opt = Adam([p], lr=LR, eps=0.0)
    for t in range(20):
        opt.param_groups[0]["beta1"].fill_(0.5 + 0.02 * t)
        opt.param_groups[0]["beta2"].fill_(0.99 - 0.02 * t)
        before, p.grad = p.detach().clone(), g.clone()
        opt.step()
        torch.testing.assert_close((before - p.detach()) / LR, torch.sign(g), rtol=1e-12, atol=1e-12)
