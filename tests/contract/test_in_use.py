"""A coefficient that is fixed where a slot has no influence costs no slot and no work, in every engine.

Catches: a slot that nobody reads, work whose result is multiplied by 0, a corner that is left later with a memory that
was never kept, a state of version 0.1.0 (which kept every slot) that goes on differently.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mada_optim import MADA, SGD, Adam, Adan, AVGrad, HyperAdam, HyperSGD, Lion, RMSprop, Yogi
from mada_optim.rules import RULES
from tests.problems import MIDWAY, everything, fast, give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine

STATES = Path(__file__).parents[1] / "data" / "states_of_0.1.0.pt"

OFF = {
    "nothing": ({}, "m v w1 w2 vbar wbar2 n g_prev w3 l"),
    "beta3 = 0": ({"beta3": 0.0}, "m v w1 w2 vbar wbar2 l"),
    "rho = 1": ({"rho": 1.0}, "m v w1 w2 n g_prev w3 l"),
    "gamma = 1": ({"gamma": 1.0}, "m v w1 w2 vbar wbar2 n g_prev w3"),
    "c = 1": ({"c": 1.0}, "m v w1 w2 vbar wbar2 n g_prev w3 l"),
    "beta1 = 0": ({"betas": (0.0, 0.95)}, "v w2 vbar wbar2 n g_prev w3 l"),
    "Adam": ({"beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}, "m v w1 w2"),
    "AVGrad": ({"beta3": 0.0, "rho": 0.0, "c": 1.0, "gamma": 1.0}, "m v w1 w2 vbar wbar2"),
    "Yogi": ({"beta3": 0.0, "rho": 1.0, "c": 0.0, "gamma": 1.0}, "m v w1 w2"),
    "Adan": ({"rho": 1.0, "c": 1.0, "gamma": 1.0}, "m v w1 w2 n g_prev w3"),
    "Lion": ({"gamma": 0.0}, "l"),
}
OTHERS = {
    "SGD": (lambda p: SGD(p), ""),
    "SGD with momentum": (lambda p: SGD(p, momentum=0.9), "b"),
    "RMSprop": (lambda p: RMSprop(p), "v"),
    "RMSprop, centered": (lambda p: RMSprop(p, centered=1.0), "v mean"),
    "RMSprop with momentum": (lambda p: RMSprop(p, momentum=0.9), "v b"),
    "Adam without momentum": (lambda p: Adam(p, betas=(0.0, 0.99)), "v w2"),
}


def fixed(params, start, **options):
    return MADA(params, lr=1e-2, learn=(), **{**MIDWAY, **start, **options})


@pytest.mark.parametrize("name", OFF)
def test_mada_keeps_the_slots_that_count(name):
    start, slots = OFF[name]
    params = parameters()
    opt = fixed(params, start)
    promised = opt.memory()
    train(opt, params, range(2))
    for p in params:
        assert set(opt.state[p]) == {"step", *slots.split()}
        assert set(opt.slots(p)) == set(slots.split())
    assert set(promised.bytes) == {"step", *slots.split()}
    assert promised.bytes == opt.memory().bytes


@on_one_engine
@pytest.mark.parametrize("name", OTHERS)
def test_other_rules_keep_the_slots_that_count(name):
    make, slots = OTHERS[name]
    params = parameters()
    opt = make(params)
    train(opt, params, range(2))
    assert {frozenset(opt.state[p]) for p in params} == {frozenset({"step", *slots.split()})}


@on_one_engine
def test_what_is_learned_is_kept_at_a_corner_too():
    params = parameters()
    opt = MADA(params, learn=("rho",))
    train(opt, params, range(2))
    assert set(opt.state[params[0]]) == {"step", "m", "v", "w1", "w2", "vbar", "wbar2", "gradient", "applied"}
    assert set(HyperAdam(params).memory().bytes) == {"step", "m", "v", "w1", "w2", "gradient", "applied"}


def test_groups_have_corners_of_their_own():
    params = parameters()[:2]
    opt = fixed([{"params": params[:1], "gamma": 0.0}, {"params": params[1:], "gamma": 1.0}], {})
    train(opt, params, range(2))
    assert "l" in opt.state[params[0]]
    assert "m" not in opt.state[params[0]]
    assert "l" not in opt.state[params[1]]


class Counter(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(opt, params):
    """Of the third step."""
    train(opt, params, range(2))
    give_gradients(params, 2)
    with Counter() as counter:
        opt.step()
    return counter.count


NAMED = {
    "Adam": lambda p: Adam(p, betas=(0.9, 0.95)),
    "AVGrad": lambda p: AVGrad(p, betas=(0.9, 0.95)),
    "Yogi": lambda p: Yogi(p, betas=(0.9, 0.95)),
    "Adan": lambda p: Adan(p, betas=(0.9, 0.95), beta3=0.1),
    "Lion": lambda p: Lion(p, betas=(0.9, 0.95)),
}


@pytest.mark.parametrize("name", NAMED)
def test_at_a_corner_mada_does_the_work_of_the_named_optimizer(name, engine):
    """Operations of torch in a step: at most one more for each coefficient that the named one has not."""
    start, _ = OFF[name]
    params, others = parameters()[:1], parameters()[:1]
    mada, named = fixed(params, start), NAMED[name](others)
    further = len(mada.rule.coefficients) - len(named.rule.coefficients)
    count = operations(mada, params)
    assert count <= operations(named, others) + further
    everything_on = parameters(torch.float32 if engine == "tiled" else torch.float64)[:1]  # fp64: the eager loop's
    assert count <= 0.8 * operations(fixed(everything_on, {}), everything_on)


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_a_corner_the_weights_are_those_of_the_whole_rule(name, dtype):
    """A coefficient that is a tensor is never folded: the whole rule runs. Up to the sign of a zero, bit for bit."""
    start, _ = OFF[name]
    params, twin_params = (p := parameters(dtype)), copy.deepcopy(p)
    opt, whole = fixed(params, start, weight_decay=0.1), fixed(twin_params, start, weight_decay=0.1)
    for q in RULES["mada"].coefficient_names():
        whole.param_groups[0][q] = torch.as_tensor(whole.param_groups[0][q], dtype=torch.float64)
    train(opt, params, range(8))
    train(whole, twin_params, range(8))
    assert set(whole.state[twin_params[0]]) == {"step", *RULES["mada"].slot_names()}
    if opt.engine == whole.engine:
        assert same_bits(list(params), list(twin_params))
    else:  # no loop is made for a rule without m
        assert name in ("beta1 = 0", "Lion")
        for p, q in zip(params, twin_params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["beta3 = 0", "rho = 1", "gamma = 1", "Adam", "Lion"])
def test_hypergradients_of_the_rest_are_those_of_the_whole_rule(name):
    start, _ = OFF[name]
    corner = {"beta1", "beta2", "beta3", "rho", "c", "gamma"} - start.keys()
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, whole = (learning(p, learn=fast(*corner, lr=0.0), **start) for p in (params, twin_params))
    for q in start:
        whole.param_groups[0][q] = torch.tensor(start[q], dtype=torch.float64)
    for seed in range(6):
        train(opt, params, [seed])
        train(whole, twin_params, [seed])
        assert opt.hypergradients() == pytest.approx(whole.hypergradients(), rel=1e-12, abs=0)
    assert same_bits(list(params), list(twin_params))
    assert any(opt.hypergradients().values()) or name == "Lion"


# ---------------------------------------------------------------------------------------- a corner that is left later


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5)], ids=["float", "tensor"])
@pytest.mark.parametrize(("q", "lacks"), [("beta3", "n, g_prev, w3"), ("rho", "vbar, wbar2"), ("gamma", "l")])
def test_a_corner_that_is_left_is_refused(q, lacks, value):
    params = parameters()
    opt = MADA(params, learn=())
    train(opt, params, range(3))
    opt.param_groups[0][q] = value
    before = everything(opt)
    give_gradients(params, 3)
    with pytest.raises(
        RuntimeError, match=f"expected the slots {lacks}, got none.*pass the new value to the constructor, or learn"
    ):
        opt.step()
    assert same_bits(everything(opt), before)


def test_a_corner_that_is_left_for_another_is_refused_where_it_needs_more():
    params = parameters()
    opt = MADA(params, learn=(), rho=0.0, gamma=1.0)
    train(opt, params, range(3))
    opt.param_groups[0]["rho"] = 1.0  # needs less
    train(opt, params, range(3, 5))
    opt.param_groups[0]["rho"] = 0.0
    with pytest.raises(RuntimeError, match="expected the slots vbar, wbar2, got none"):  # stale by two steps
        train(opt, params, [5])


def test_a_corner_may_be_left_where_no_slot_hangs_on_it():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = MADA(params, learn=()), MADA(twin_params, learn=(), c=0.5)
    opt.param_groups[0]["c"] = 0.5
    train(opt, params, range(3))
    train(twin, twin_params, range(3))
    opt.param_groups[0]["c"] = twin.param_groups[0]["c"] = 0.0
    train(opt, params, range(3, 6))
    train(twin, twin_params, range(3, 6))
    assert same_bits(everything(opt), everything(twin))


def test_a_corner_may_be_left_before_the_first_step():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = MADA(params, learn=()), MADA(twin_params, learn=(), rho=0.5)
    opt.param_groups[0]["rho"] = 0.5
    train(opt, params, range(3))
    train(twin, twin_params, range(3))
    assert same_bits(list(params), list(twin_params))


def test_a_state_from_a_corner_brings_the_corner_along():
    params = parameters()
    opt = MADA(params, learn=())
    train(opt, params, range(3))
    twin_params = copy.deepcopy(params)
    twin = MADA(twin_params, learn=(), rho=0.5)
    twin.load_state_dict(opt.state_dict())
    assert twin.coefficients()["rho"] == 1.0
    train(opt, params, range(3, 6))
    train(twin, twin_params, range(3, 6))
    assert same_bits(everything(opt), everything(twin))


# -------------------------------------------------------------------------------------------- states of version 0.1.0

MAKERS = {
    "all learned": learning,
    "betas learned": lambda params: HyperAdam(params, learn=HyperSGD("all", start=2)),
    "none learned": lambda params: MADA(params, learn=()),
    "lion": lambda params: Lion(params),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_of_0_1_0_goes_on_to_the_same_parameters(name, engine):
    """Its loops were others, so where something is learned the sums, and the last digits, come in another order."""
    then = torch.load(STATES, weights_only=True)[name]
    params = [torch.nn.Parameter(x.clone()) for x in then["before"]]
    opt = MAKERS[name](params)
    opt.load_state_dict(then["state"])
    train(opt, params, range(100, 105))
    if name == "lion" or (engine == "eager" and name == "none learned"):
        assert same_bits([p.detach() for p in params], then["after"])
        assert opt.coefficients() == then["coefficients"]
    else:
        for p, expected in zip(params, then["after"], strict=True):
            torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-6)
        assert opt.coefficients() == pytest.approx(then["coefficients"], abs=1e-6)


def test_a_state_of_0_1_0_leaves_behind_what_is_not_in_use():
    then = torch.load(STATES, weights_only=True)["none learned"]
    assert {"vbar", "n", "g_prev", "l"} <= then["state"]["state"][0].keys()
    params = [torch.nn.Parameter(x.clone()) for x in then["before"]]
    opt = MADA(params, learn=())
    opt.load_state_dict(then["state"])
    assert set(opt.state[params[0]]) == {"step", "m", "v", "w1", "w2"}
    assert opt.memory().bytes.keys() == {"step", "m", "v", "w1", "w2"}
