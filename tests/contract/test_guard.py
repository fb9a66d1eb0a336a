"""Guarded betas: what they are, that nothing changes without a guard, and that bad ones no longer ruin a run.

Catches: a ramp that is late or early by a step, a bias correction by other betas than the averages had, an engine that
computes other ones, and a guard that changes good betas.
"""

import copy
import pickle

import pytest
import torch

from mada_optim import MADA, Adam, AutoAdam, AutoMuon, AVGrad, Guard, HyperOptimizer, HyperSGD
from mada_optim.beta_guard import betas as bounded
from mada_optim.beta_guard import guarded
from mada_optim.learning.hypergradient import sensitivity
from mada_optim.rules import RULES
from tests.problems import give_gradients, same_bits, train
from tests.representatives import on_one_engine, on_the_eager_engine

GUARDS = [Guard(), Guard(ramp=20, least_beta2=0.98), Guard(ramp=0.0)]
BETAS = [(0.9, 0.99), (0.99, 0.6), (0.5, 0.6), (0.97, 0.999), (0.0, 0.0)]


def oracle(betas, guard, gs, eps):
    """Adam's update at the last gradient, the betas of each step worked out as numbers."""
    m = v = w1 = w2 = 0.0
    for t, g in enumerate(gs, 1):
        beta1 = min(betas[0], t / (t + guard.ramp))
        beta2 = max(*betas, guard.least_beta2)
        m, w1 = beta1 * m + (1 - beta1) * g, beta1 * w1 + 1 - beta1
        v, w2 = beta2 * v + (1 - beta2) * g**2, beta2 * w2 + 1 - beta2
    return (m / w1) / ((v / w2).sqrt() + eps)


def run(betas, gs, **options):
    """The weights after each step, from 0, with betas that are put into the group: at construction some are refused."""
    p = torch.nn.Parameter(torch.zeros_like(gs[0]))
    opt = MADA([p], lr=1.0, betas=(0.9, 0.99), eps=1e-8, learn=(), **options)
    opt.param_groups[0]["betas"] = betas
    path = [p.detach().clone()]
    for g in gs:
        p.grad = g.clone()
        opt.step()
        path.append(p.detach().clone())
    return path


@on_the_eager_engine
@pytest.mark.parametrize("guard", GUARDS, ids=str)
@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_the_update_is_adams_with_the_guarded_betas(betas, guard):
    gs = list(torch.randn(40, 6, dtype=torch.float64))
    path = run(betas, gs, guard=guard)
    for t in range(1, len(gs) + 1):
        expected = oracle(betas, guard, gs[:t], 1e-8)
        assert torch.allclose(path[t - 1] - path[t], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ["cpu", "tiled"])
@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_engines_agree(betas, engine):
    gs = list(torch.randn(20, 300))
    fast, slow = (run(betas, gs, guard=GUARDS[1], engine=x) for x in (engine, "eager"))
    assert torch.allclose(fast[-1], slow[-1], rtol=1e-5, atol=1e-5)


@on_the_eager_engine
def test_who_is_guarded():
    p = torch.nn.Parameter(torch.ones(2))
    named = HyperSGD("beta1", "lr")
    for opt in (MADA([p], learn=()), MADA([p]), AutoMuon([p], guard=None), Adam([p]), HyperOptimizer([p])):
        assert opt.rule is RULES[opt.rule.name]
    for opt in (MADA([p], guard=Guard()), Adam([p], guard=Guard()), AutoMuon([p], guard=Guard())):
        assert opt.rule is guarded(RULES[opt.rule.name], Guard())
    own = Guard(ramp=100.0, least_beta2=0.99)
    for opt in (AutoMuon([p]), AutoMuon([p], learn=named), AutoMuon([p], learn=()), AVGrad([p], guard=own)):
        assert opt.rule is guarded(RULES[opt.rule.name], own)
    for opt in (AutoAdam([p]), AutoAdam([p], learn=named)):
        assert opt.rule is guarded(RULES["mada"], Guard(ramp=5.0, least_beta2=0.99))


def test_a_floor_holds_for_a_beta2_that_comes_below_it_later():
    """As where it is learned, or put into a group: it is raised, and read as such; at construction it is refused."""
    p = torch.nn.Parameter(torch.ones(2))
    opt = AutoAdam([p])
    opt.param_groups[0]["beta2"] = 0.5
    assert opt.coefficients()["beta2"] == 0.99


def test_a_guarded_optimizer_travels():
    """By pickle and by state dict."""
    p = torch.nn.Parameter(torch.ones(3, 2))
    opt = AutoMuon([p], betas=(0.999, 0.99))
    train(opt, [p], range(3))
    q = copy.deepcopy(p)
    twin, other = AutoMuon([q], betas=(0.999, 0.99)), pickle.loads(pickle.dumps(opt))
    twin.load_state_dict(opt.state_dict())
    r = other.param_groups[0]["params"][0]
    for one, x in ((opt, p), (twin, q), (other, r)):
        train(one, [x], range(3, 8))
    assert same_bits([p, p], [q, r])


def test_good_betas_are_soon_what_they_are():
    for guard in GUARDS:
        t, wanted = torch.tensor(9 * guard.ramp, dtype=torch.float64), pytest.approx([0.9, 0.99], abs=1e-15)
        assert [float(x) for x in bounded(0.9, 0.99, t + (guard.ramp == 0), guard)] == wanted


def test_an_update_stays_bounded_where_gradients_shrink():
    gs = [torch.full((1,), 0.3 ** min(t, 30)) for t in range(60)]
    guards = {"none": None, "some": Guard()}
    steps = {name: torch.stack(run((0.99, 0.6), gs, guard=x)).diff(dim=0).abs().max() for name, x in guards.items()}
    assert steps["none"] > 100
    assert steps["some"] <= 1.5


@on_one_engine
@pytest.mark.parametrize("t", [1, 3, 600])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.95, 0.9), (0.9, 0.999)], ids=str)
@pytest.mark.parametrize("guard", [Guard(), Guard(least_beta2=0.99)], ids=str)
def test_the_hypergradient_is_that_of_the_guarded_update(betas, t, guard):
    rule, double = guarded(RULES["mada"], guard), {"dtype": torch.float64}
    numbers = {"beta3": 0.4, "rho": 0.6, "c": 0.7, "gamma": 0.8, "beta1": betas[0], "beta2": betas[1]}
    c = {**rule.hyper_parameters, **{q: torch.tensor(x, **double) for q, x in numbers.items()}}
    s = {x.name: torch.tensor(0.7, **double) if x.scalar else torch.rand(5, **double) for x in rule.slots}
    g, cotangent, step = torch.randn(5, **double), torch.randn(5, **double), torch.tensor(float(t), **double)
    learned = ("beta1", "beta2")
    derivatives, _ = sensitivity(rule, learned, c, g, s, step, cotangent)
    for q, derivative in zip(learned, derivatives, strict=True):
        ends = [(rule.update({**c, q: c[q] + h}, g, s, step)[0] * cotangent).sum() for h in (1e-6, -1e-6)]
        assert derivative.item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), rel=1e-6, abs=1e-9)


def test_a_rule_without_a_guard_is_learned_without_one():
    p = torch.nn.Parameter(torch.ones(3, 2))
    opt = MADA([p], rule="mada_released")
    give_gradients([p], 0)
    opt.step()
    assert opt.rule is RULES["mada_released"]
    for wrong, message in (
        ({"guard": Guard()}, "expected a rule with the slots m, v, w1, w2"),
        ({"guard": Guard(ramp=1)}, r"guard=Guard\(ramp=1, .*expected a rule with the slots m, v, w1, w2"),
        ({"guard": 1}, "guard=1: expected None or a Guard"),
        ({"guard": True}, "guard=True: expected None or a Guard"),
        ({"guard": 0}, "guard=0: "),
        ({"guard": 0.99}, "guard=0.99: "),
    ):
        with pytest.raises(ValueError, match=message):
            MADA([p], rule="mada_released", **wrong)


def test_numbers_that_are_no_guard():
    for wrong in ({"ramp": -1.0}, {"ramp": float("inf")}, {"ramp": "5"}, {"least_beta2": 1.0}, {"least_beta2": True}):
        with pytest.raises(ValueError, match=f"Guard\\({next(iter(wrong))}="):
            Guard(**wrong)
