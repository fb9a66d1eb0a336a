"""What `coefficients()`, `hypergradients()` and `repr` say: the values that a step applies.

Catches: a reading of what is set instead of what is used (a ramp, a raised beta2, a learned factor, the floor under
decay), a step early or late, of another parameter's step count; a reading that changes a run.
"""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

from mada_optim import MADA, SGD, Adam, AutoAdam, AutoMuon, Guard, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.rules import RULES
from tests.problems import everything, fast, give_gradients, learning, parameters, same_bits, train, with_muon
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

GUARDS = [Guard(), Guard(ramp=100.0, least_beta2=0.99), Guard(ramp=0.0), Guard(ramp=3.5)]


def spied(rule):
    """The rule, and the betas that its function has been given."""
    seen, update = [], rule.update

    def spy(c, g, s, t):
        if isinstance(c["beta1"], torch.Tensor):  # no symbol, as where the rule is traced
            seen.append((float(c["beta1"]), float(c["beta2"])))
        return update(c, g, s, t)

    return replace(rule, update=spy), seen


def read(opt):
    return opt.coefficients()["beta1"], opt.coefficients()["beta2"]


@pytest.mark.parametrize("guard", [None, *GUARDS], ids=str)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.995, 0.99), (0.5, 0.999)], ids=str)
def test_guarded_betas_are_read_as_the_rule_gets_them(betas, guard):
    rule, seen = spied(RULES["adam"])
    p = torch.nn.Parameter(torch.ones(5))
    opt = HyperOptimizer([p], rule=rule, betas=betas, guard=guard, engine="eager")
    for step in range(12):
        next_betas = read(opt)
        train(opt, [p], [step])
        assert seen.pop() == pytest.approx(next_betas, rel=1e-12)
        assert not seen


@pytest.mark.parametrize(("make", "ramp"), [(AutoMuon, 100.0), (AutoAdam, 5.0), (Adam, None)])
def test_a_ramp_is_read_step_by_step(make, ramp):
    params = parameters()
    opt = make(params, betas=(0.9, 0.999))
    for step in range(1, 60):
        expected = 0.9 if ramp is None else min(0.9, step / (step + ramp))
        assert read(opt) == pytest.approx((expected, 0.999), rel=1e-12)
        train(opt, params, [step])


def test_a_beta2_below_beta1_is_read_as_it_is_raised():
    opt = Adam(parameters(), betas=(0.99, 0.6), guard=Guard(ramp=0.0))
    assert read(opt) == pytest.approx((0.99, 0.99), rel=1e-12)
    opt.param_groups[0]["beta1"] = 0.5
    assert read(opt) == pytest.approx((0.5, 0.6), rel=1e-12)
    assert read(Adam(parameters(), betas=(0.99, 0.6))) == (0.99, 0.6)


def test_a_skipped_step_is_no_step_of_the_ramp():
    params = parameters()
    opt = AutoAdam(params)
    train(opt, params, range(3))
    before = read(opt)
    give_gradients(params, 3)
    params[0].grad[0] = math.nan
    opt.step()
    assert read(opt) == before == pytest.approx((4 / 9, 0.99))


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_each_has_the_ramp_of_its_own_steps(scope):
    """A late group, and a tensor that sat some steps out."""
    params = parameters()
    opt = AutoAdam(params[:1], learn=LearnedLR(scope=scope))
    train(opt, params[:1], range(3))
    opt.add_param_group({"params": params[1:]})
    for seed in range(2):
        give_gradients(params, seed)
        params[2].grad = None if seed else params[2].grad
        opt.step()
    found = [row["beta1"] for row in opt.coefficients().values()]
    expected = [6 / 11, 3 / 8] if scope == "group" else [6 / 11, 3 / 8, 2 / 7, 3 / 8]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("idle", ["frozen", "without a gradient"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("scope", ["global", "group"])
def test_of_several_parameters_one_that_steps_is_read(scope, apart, idle):
    """The first, an embedding, say, does not; by itself it may be a group, with an lr of its own."""
    params = parameters()
    params[0].requires_grad_(idle != "frozen")
    groups = [{"params": params[:1], "lr": 0.5}, {"params": params[1:]}] if apart else [{"params": params}]
    opt = AutoAdam(groups, lr=1e-2, learn=LearnedLR(scope=scope))
    for seed in range(4):
        give_gradients(params, seed)
        params[0].grad = None
        opt.step()
    found = opt.coefficients() if scope == "global" else list(opt.coefficients().values())[-1]
    assert (found["beta1"], found["lr"]) == pytest.approx((5 / 10, 1e-2))
    frozen = [p.requires_grad_(False) for p in params[:1]]
    first = AutoAdam([{"params": frozen, "lr": 0.5}, {"params": params[1:]}], lr=1e-2).coefficients()
    assert first["lr"] == pytest.approx(1e-2)


@pytest.mark.parametrize("learn", [(), *(LearnedLR(scope=x) for x in ("global", "group", "tensor"))])
@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_group_is_read(empty, learn):
    params = parameters()
    groups = [{"params": params, "lr": 0.1}]
    groups.insert(empty, {"params": [], "lr": 0.5})
    opt = AutoAdam(groups, learn=learn)
    train(opt, params, range(3))
    found, last = opt.coefficients(), opt.hypergradients()
    rows = [found] if "beta1" in found else list(found.values())
    assert pytest.approx(4 / 9) in [row["beta1"] for row in rows]
    assert len(rows) == (1 if "beta1" in found else 2 if learn.scope == "group" else len(params))
    assert found.keys() == last.keys() or not learn


def test_learned_betas_are_read_guarded():
    """A learned beta1 beyond its ramp, and a beta2 that has come below beta1."""
    params = parameters()
    opt = learning(params, learn=fast("beta1", "beta2"), guard=Guard(ramp=5.0))
    train(opt, params, range(2))
    opt.param_groups[0]["beta1"].fill_(0.98)
    opt.param_groups[0]["beta2"].fill_(0.6)
    assert read(opt) == pytest.approx((3 / 8, 0.98))
    opt.param_groups[0]["beta1"].fill_(0.25)
    assert read(opt) == pytest.approx((0.25, 0.6))


# -------------------------------------------------------------------------------------------------------- a learned lr


def test_a_learned_lr_is_the_scheduled_one_times_its_factor():
    p = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    opt = SGD([p], lr=0.1, learn=HyperSGD("lr", lr=0.01, start=0))
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)
    for t in range(6):
        before, p.grad = p.detach().clone(), torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
        opt.step()
        factor = opt.param_groups[0]["log_lr"].exp().item()
        assert opt.coefficients()["lr"] == pytest.approx(0.1 * 0.5**t * factor, rel=1e-12)
        torch.testing.assert_close(before - p.detach(), opt.coefficients()["lr"] * p.grad, rtol=1e-9, atol=0)
        schedule.step()
    assert factor > 1.001


def test_an_lr_that_is_not_learned_is_no_coefficient():
    assert "lr" not in MADA(parameters()).coefficients()
    assert "lr" in MADA(parameters(), learn="lr").coefficients()


@pytest.mark.parametrize(("lr", "applied"), [(0.1, 0.2), (0.3, 0.3)])
def test_a_learned_lr_is_read_no_higher_than_decay_lets_it(lr, applied):
    """1 / weight_decay, at which a step leaves nothing of a weight; or the scheduled lr where that is higher."""
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    opt = SGD([p], lr=lr, weight_decay=5.0, learn=HyperSGD("lr", lr=0.0))
    opt.param_groups[0]["log_lr"].fill_(2.0)
    assert opt.coefficients()["lr"] == pytest.approx(applied, rel=1e-12)
    p.grad = torch.ones_like(p)
    opt.step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, (1 - 5 * applied) - applied), rtol=1e-12, atol=1e-12)
    opt.param_groups[0]["weight_decay"] = 0.0
    assert opt.coefficients()["lr"] == pytest.approx(lr * math.exp(2.0), rel=1e-12)


def test_what_is_put_into_a_group_is_read_at_once():
    opt = learning([{"params": [p]} for p in parameters()], learn=fast("rho", "lr", scope="group"))
    opt.param_groups[1].update(rho=0.25, lr=0.5, beta3=0.7)
    first, second, *_ = opt.coefficients().values()
    assert (first["rho"], first["lr"], first["beta3"]) == (0.6, 0.01, 0.1)
    assert (second["rho"], second["lr"], second["beta3"]) == (0.25, 0.5, 0.7)


# ---------------------------------------------------------------------------------------------- reading changes nothing

MAKERS = {
    "MADA": lambda params: learning(params),
    "AutoMuon": lambda params: AutoMuon(params, learn=LearnedLR(start=1)),
    "guarded, by tensor": lambda params: learning(params, learn=fast(scope="tensor"), guard=Guard()),
    "several": lambda params: with_muon(params, learn=[LearnedLR(start=1), HyperSGD("omega", scope="tensor", start=0)]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_reading_changes_nothing(make):
    """No bit of what a step may change, no random number, and no later step."""
    params, twins = (p := parameters()), copy.deepcopy(p)
    opt, silent = make(params), make(twins)
    for seed in range(8):
        train(opt, params, [seed])
        train(silent, twins, [seed])
        before, drawn = everything(opt), torch.get_rng_state()
        keys = [list(group) for group in opt.param_groups]
        readings = [(opt.coefficients(), opt.hypergradients(), repr(opt), opt.memory()) for _ in range(2)]
        assert readings[0] == readings[1]
        assert same_bits(everything(opt), before)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert [list(group) for group in opt.param_groups] == keys
        assert same_bits(everything(opt), everything(silent)), seed


def test_readings_are_plain_numbers_that_stay():
    params = parameters()
    opt = learning(params)
    readings = []
    for seed in range(4):
        train(opt, params, [seed])
        readings.append((opt.coefficients(), opt.hypergradients()))
    assert all(type(x) is float for pair in readings for reading in pair for x in reading.values())
    assert all(a != b for a, b in itertools.pairwise(readings[1:]))


# ----------------------------------------------------------------------------------------------------------------- repr


def lines(opt):
    return repr(opt).splitlines()


def test_repr_says_rule_names_learner_and_scope():
    assert lines(Adam(parameters()))[:3] == ["Adam (", "rule: adam", "learned: nothing"]
    assert lines(AutoMuon(parameters()))[:4] == [
        "AutoMuon (",
        "rule: mada_matrix",
        "learned: lr, by LearnedLR, scope global",
        "",
    ]
    learners = [HyperSGD("rho", "beta1", scope="tensor"), LearnedLR(scope="group")]
    assert lines(MADA(parameters(), learn=learners))[:5] == [
        "MADA (",
        "rule: mada",
        "learned: beta1, rho, by HyperSGD, scope tensor",
        "learned: lr, by LearnedLR, scope group",
        "",
    ]


def test_repr_has_the_options_of_each_group():
    params = parameters()
    opt = HyperOptimizer([{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.25, "name": "rest"}], lr=0.5)
    first, second = (text.splitlines() for text in repr(opt).split("Parameter Group ")[1:])
    assert {"    lr: 0.5", "    weight_decay: 0.0", "    beta1: 0.9"} <= set(first)
    assert {"    lr: 0.5", "    weight_decay: 0.25", "    name: rest"} <= set(second)
    assert (first[0], second[0], second[-1]) == ("0", "1", ")")


def test_repr_follows_what_is_learned_and_hides_what_learners_remember():
    params = parameters()
    opt = learning(params, learn=fast(scope="tensor"))
    train(opt, params, range(3))
    text = repr(opt)
    assert f"    rho: {opt.param_groups[0]['rho'].tolist()}" in text.splitlines()
    assert "params" not in text
    for key in ("velocity", "hypergradient", "applied_steps"):
        assert key not in text
        assert any(key in name for name in opt.param_groups[0])
