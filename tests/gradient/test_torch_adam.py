"""torch.optim's differentiable Adam as a second oracle of the hypergradient, in float64.

Its lr and betas are tensors that autograd differentiates through one step, from a state taken as constant. Its bias
correction is 1 - beta^t with the beta of that step, through which it differentiates; our rules divide by averages of
ones, whose past is constant. So derivatives agree in lr at any t, and in the betas at t = 1, where both are 0, or
against a rule with torch's correction. Catches: a factor, a sign or a term missing in the derivative at Adam's corner.
"""

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.rule import Rule, Slot
from mada_optim.rules import RULES
from mada_optim.rules.terms import ema, root

pytestmark = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="torch's Adam has been differentiable in its betas since torch 2.7"
)

LR, BETA1, BETA2, EPS = 0.02, 0.87, 0.95, 1e-6


def corrected_by_powers(c, g, s, t):
    beta1, beta2 = c["beta1"], c["beta2"]
    m, v = ema(beta1, s["m"], g), ema(beta2, s["v"], g**2)
    return m / (1 - beta1**t) / (root(v / (1 - beta2**t)) + c["eps"]), {"m": m, "v": v}


POWERS = Rule("powers", corrected_by_powers, RULES["adam"].coefficients, (Slot("m", "m"), Slot("v", "v")), {"eps": EPS})


def theirs(gs, cotangent):
    """Torch's derivatives of < cotangent, parameter > in the lr and the betas of the last step, that of `gs[-1]`."""
    lr, beta1, beta2 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (LR, BETA1, BETA2))
    p = torch.zeros_like(gs[0])
    opt = torch.optim.Adam([p], lr=lr, betas=(beta1, beta2), eps=EPS, differentiable=True)
    for g in gs:
        for x in (p, *opt.state[p].values()):
            x.detach_()
        p.grad = g
        opt.step()
    derivatives = torch.autograd.grad((cotangent * p).sum(), [lr, beta1, beta2])
    return dict(zip(("lr", "beta1", "beta2"), (x.item() for x in derivatives), strict=True))


def ours(gs, g_next, learn, **options):
    """The hypergradients that the step with `g_next` finds."""
    p = torch.nn.Parameter(torch.zeros_like(g_next))
    opt = HyperOptimizer([p], lr=LR, betas=(BETA1, BETA2), learn=HyperSGD(*learn, lr=0.0), **{"eps": EPS, **options})
    for g in [*gs, g_next]:
        p.grad = g.clone()
        opt.step()
    return opt.hypergradients()


def gradients(steps):
    return list(torch.randn(steps, 24, dtype=torch.float64))


@pytest.mark.parametrize("t", [1, 2, 3, 50])
@pytest.mark.parametrize("rule", ["adam", "mada"])
def test_lr_at_any_step(rule, t):
    """What is learned is ln of a factor, whose derivative is lr times that in lr."""
    *gs, g_next = gradients(t + 1)
    assert ours(gs, g_next, rule=rule, learn=["lr"])["lr"] == pytest.approx(LR * theirs(gs, g_next)["lr"], rel=1e-12)


@pytest.mark.parametrize("t", [1, 2, 3, 50])
def test_betas_with_powers_as_corrections(t):
    *gs, g_next = gradients(t + 1)
    mine, expected = ours(gs, g_next, rule=POWERS, learn=["all"]), theirs(gs, g_next)
    for q in ("beta1", "beta2"):
        assert mine[q] == pytest.approx(expected[q], rel=1e-9, abs=1e-13)
        assert (abs(expected[q]) > 1e-3) == (t > 1)


@pytest.mark.parametrize("rule", ["adam", "mada"])
def test_betas_at_the_first_step(rule):
    """Both averages are the one gradient there, whatever the betas."""
    g, g_next = gradients(2)
    for h in (ours([g], g_next, rule=rule, learn=("beta1", "beta2")), theirs([g], g_next)):
        assert [h["beta1"], h["beta2"]] == pytest.approx([0.0, 0.0], abs=1e-14)


def test_betas_with_averages_of_ones():
    """Where the past of the correction is a constant, powers differ by the derivative of that past, by hand.

    With w = 1 - beta^t, dw/dbeta is -t beta^(t-1) there; of beta w_{t-1} + 1 - beta it is w_{t-1} - 1 = -beta^(t-1).
    The updates are the same, so the difference of the derivatives is that of ln w1 and of ln w2 / 2.
    """
    t = 7
    *gs, g_next = gradients(t + 1)
    mine, expected = ours(gs, g_next, rule="adam", learn=["all"], eps=0.0), theirs(gs, g_next)
    along = theirs(gs, g_next)["lr"]  # - < g_next, u >, with eps next to nothing
    for q, beta, power in (("beta1", BETA1, 1.0), ("beta2", BETA2, -0.5)):
        missing = -(t - 1) * beta ** (t - 1) / (1 - beta**t)
        assert expected[q] - mine[q] == pytest.approx(-power * missing * LR * along, rel=1e-4)
