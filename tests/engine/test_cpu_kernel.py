"""C++ loops and programs on tiles against the eager engine: parameters, every slot, hypergradients, at every step.

Catches: a closed-form derivative that is not the rule's, a slot that is stored at the wrong time, an element left out
where a chunk or a vector ends, and a pointer to memory that has moved.
"""

import copy

import pytest
import torch

from mada_optim import MADA, Guard, HyperOptimizer, HyperSGD
from mada_optim.rule import Coefficient, Interval, Rule, Slot
from mada_optim.rules import RULES
from tests.gradient.test_sensitivity import SPREAD
from tests.problems import (
    along_trace,
    assert_mixed_tensors_agree,
    everything,
    parameters,
    same_bits,
    train,
)
from tests.representatives import RULES_ON_EVERY_ENGINE

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that tensors have several, the last one short."""
    monkeypatch.setattr("mada_optim.engines.tiled.engine.TILE", 4096)


NO_DERIVATIVE = {"lion": {"beta1", "beta2"}}  # signs
SPREAD_OF_MADA = {q: SPREAD[q] for q in RULES["mada"].coefficient_names()}
SHAPES = [(300, 211), (1,), (), (17,), (1025,), (0, 3), (33, 7)]  # over one chunk, over one block, tails of vectors
POINTWISE = [name for name, rule in RULES.items() if rule.pointwise]


FROM_THE_FIRST = HyperSGD("all", start=0)
ENGINES = ("cpu", "tiled")
ROUNDING = {"cpu": 1e-5, "tiled": 5e-5}  # of a hypergradient: a tile is summed in fp32 as a whole


def learners(learn, horizon=0.0, **numbers):
    """Of the coefficients in `learn`; with a horizon, lr is learned along its trace."""
    names = (learn,) if isinstance(learn, str) else learn
    others = tuple(q for q in names if q != "lr" or not horizon)
    found = [HyperSGD(*others, **{"lr": 1e-3, "momentum": 0.5, "start": 2, **numbers})] if others else []
    return [*found, along_trace(horizon, rate=1e-3, start=2, **numbers)] if horizon else found


def pair(rule, learn, engine="cpu", start=None, hyper=None, **options):
    """Two of a rule, with an engine and with the eager one; `hyper` has the numbers of `learners`."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    twins = copy.deepcopy(params)
    start = {q.name: SPREAD[q.name] for q in RULES[rule].coefficients} if start is None else start
    learn = learners(learn, **(hyper or {}))
    build_one = {"rule": rule, "learn": learn, "lr": 1e-2, "weight_decay": 0.1, **start, **options}
    fast, slow = (HyperOptimizer(x, engine=e, **build_one) for x, e in ((params, engine), (twins, "eager")))
    return params, fast, twins, slow


def close(a, b, rtol=2e-5):
    """Relative to the largest element, and where that is small to what it is made of: single ones pass through 0."""
    scale = max(b.abs().max().item(), 0.05) if b.numel() else 0.0
    return (a - b).abs().max() <= rtol * scale if b.numel() else a.shape == b.shape


def gradients(seed):
    generator = torch.Generator().manual_seed(seed)
    gs = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gs[0][:5] = 0.0  # rows that never have a gradient
    gs[4][3] *= seed % 2  # an element that has none at times
    return gs


EVERY = [(rule, learn) for rule in POINTWISE for learn in ("all", ())]
EVERY += [(rule, ("lr",)) for rule in RULES_ON_EVERY_ENGINE if rule in POINTWISE]  # tests/gradient/test_lr.py has all


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("rule", "learn"), [*EVERY, ("mada", ("beta2", "rho", "lr"))])
def test_equal_to_the_eager_engine(rule, learn, engine):
    assert_equal_runs(*pair(rule, learn, engine), rule=rule, engine=engine)


BF16 = {"state_dtype": torch.bfloat16}
TRACED = {"hyper": {"horizon": 0.9}}
OPTIONS = ({"maximize": True}, {"hyper": {"scope": "tensor"}}, TRACED, {"guard": Guard()})


@pytest.mark.parametrize(
    ("engine", "options"),
    [("cpu", BF16), ("cpu", {**BF16, **TRACED}), *((engine, x) for engine in ENGINES for x in OPTIONS)],
    ids=str,
)
@pytest.mark.parametrize("learn", [("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr"), ("lr",)], ids=["all", "lr"])
def test_equal_to_the_eager_engine_under_options(learn, engine, options):
    one_digit = 2**-7 if "state_dtype" in options else 2e-5  # stochastic rounding may fall on the other side
    assert_equal_runs(*pair("mada", learn, engine, **options), rule="mada", rtol=one_digit, engine=engine)


CORNERS = {
    "adam": (0.0, 1.0, 1.0, 1.0),
    "avgrad": (0.0, 0.0, 1.0, 1.0),
    "adan": (0.4, 1.0, 1.0, 1.0),
    "lion": (0, 1, 1, 0),
}


@pytest.mark.parametrize("learn", [("beta1", "lr"), ()], ids=["learning", "fixed"])
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_to_the_eager_engine_at_the_corners(engine, corner, learn):
    at = dict(zip(("beta3", "rho", "c", "gamma"), CORNERS[corner], strict=True))
    assert_equal_runs(*pair("mada", learn, engine, start={**SPREAD_OF_MADA, **at}), rule="mada", engine=engine)


def assert_equal_runs(params, fast, twins, slow, rule, rtol=2e-5, engine="cpu", steps=12):
    assert (fast.engine, slow.engine) == (engine, "eager")
    assert fast.engine_reasons == []
    fast_h, slow_h = [], []
    for step in range(steps):
        for p, q, g in zip(params, twins, gradients(step), strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        if step % 4 == 2:
            params[3].grad = twins[3].grad = None
        fast.step()
        slow.step()
        fast_h.append(numbers(fast.hypergradients()))
        slow_h.append(numbers(slow.hypergradients()))
        assert torch.allclose(numbers(fast.coefficients()), numbers(slow.coefficients()), rtol=1e-6, atol=rtol / 10)
        for p, q in zip(params, twins, strict=True):
            assert close(p.detach(), q.detach(), rtol), step
            mine, theirs = fast.slots(p), slow.slots(q)
            assert list(mine) == list(theirs)
            assert all(close(mine[name], theirs[name], rtol) for name in mine), step
    mine, theirs = torch.stack(fast_h), torch.stack(slow_h)
    assert ((mine - theirs).abs() <= 5 * rtol * theirs.abs().amax(0)).all()
    assert (theirs != 0).any() == bool(set(fast.learned) - NO_DERIVATIVE.get(rule, set()))


def numbers(reading):
    """A reading of one scope or of several, as a vector."""
    return torch.tensor([y for x in reading.values() for y in (x.values() if isinstance(x, dict) else [x])])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", [rule for rule in POINTWISE if RULES[rule].coefficients])
def test_as_exact_as_the_eager_engine(rule, engine):
    """Both against the eager engine in float64: the rounding is of the same size."""
    params, fast, twins, slow = pair(rule, "all", engine, hyper={"lr": 0.0})
    exact = [torch.nn.Parameter(p.detach().double()) for p in params]
    start = {q.name: SPREAD[q.name] for q in RULES[rule].coefficients}
    oracle = HyperOptimizer(exact, rule=rule, learn=HyperSGD("all", lr=0.0), lr=1e-2, weight_decay=0.1, **start)
    assert oracle.engine == "cpu"  # for fp32 tensors; these are fp64, and it leaves them to the eager loop
    for step in range(10):
        for p, q, r, g in zip(params, twins, exact, gradients(step), strict=True):
            p.grad, q.grad, r.grad = g.clone(), g.clone(), g.double()
        for opt in (fast, slow, oracle):
            opt.step()
    for name, h in oracle.hypergradients().items():
        allowed = ROUNDING[engine] * max(abs(h), 1e-3)
        assert abs(fast.hypergradients()[name] - h) <= 2 * abs(slow.hypergradients()[name] - h) + allowed
    error = [sum((p.detach() - r.detach()).norm() for p, r in zip(x, exact, strict=True)) for x in (params, twins)]
    assert error[0] <= 2 * error[1]


def test_the_number_of_threads_changes_no_bit():
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        params, fast, _, _ = pair("mada", "all")
        for step in range(4):
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = g
            fast.step()
        results.append(everything(fast))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_tensors_that_the_loops_do_not_take_run_beside_those_they_do():
    assert_mixed_tensors_agree("auto")


def test_state_that_was_replaced_is_seen():
    """Loaded, or exchanged by hand: the loops must not write where it was before."""
    params, fast, twins, slow = pair("mada", "all")
    for step in range(8):
        for p, q, g in zip(params, twins, gradients(step), strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        fast.step()
        slow.step()
        if step == 3:
            fast.load_state_dict(copy.deepcopy(fast.state_dict()))
        if step == 5:
            for p, q in zip(params, twins, strict=True):
                fast.state[p]["m"] = torch.zeros_like(fast.state[p]["m"])
                slow.state[q]["m"] = torch.zeros_like(slow.state[q]["m"])
    for p, q in zip(params, twins, strict=True):
        assert close(p.detach(), q.detach())


def test_a_step_is_seen_by_autograd():
    """A backward pass through weights that a step has changed since must fail, as with torch's own optimizers."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = MADA([p])
    loss = (p**3).sum()
    p.grad = torch.ones(3)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def rule_of(update, **options):
    return Rule("own", update, (Coefficient("a", "a", Interval(0.0, 1.0), 0.5),), (), **options)


@pytest.mark.parametrize("engine", ["cpu", "tiled"])
def test_where_is_the_same_as_a_method(engine):
    p = torch.nn.Parameter(torch.zeros(4))
    rule = rule_of(lambda c, g, s, t: (g.where(g > 0, 2 * g), {}))
    opt = HyperOptimizer([p], lr=1.0, rule=rule, engine=engine)
    p.grad = torch.tensor([1.0, -1.0, 2.0, -2.0])
    opt.step()
    assert p.tolist() == [-1.0, 2.0, -2.0, 4.0]


def test_a_rule_of_a_third_party_has_loops_of_its_own():
    params, twins = (p := parameters()), copy.deepcopy(p)
    rule = rule_of(lambda c, g, s, t: (c["a"] * torch.sqrt(g**2 + 1) + (1 - c["a"]) * g, {}))
    fast = HyperOptimizer(params, rule=rule, learn=FROM_THE_FIRST)
    slow = HyperOptimizer(twins, rule=rule, learn=FROM_THE_FIRST, engine="eager")
    assert fast.engine == "cpu"
    train(fast, params, range(5))
    train(slow, twins, range(5))
    assert fast.coefficients()["a"] == pytest.approx(slow.coefficients()["a"], abs=1e-6) != 0.5
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_slot_that_is_read_after_its_next_value(engine):
    def update(c, g, s, t):
        after = c["a"] * s["m"] + g
        return after + s["m"], {"m": after}

    params, twins = (p := parameters()), copy.deepcopy(p)
    rule = Rule("own", update, (Coefficient("a", "a", Interval(0.0, 1.0), 0.5),), (Slot("m", "m"),))
    fast = HyperOptimizer(params, rule=rule, learn=(), engine=engine)
    slow = HyperOptimizer(twins, rule=rule, learn=(), engine="eager")
    train(fast, params, range(4))
    train(slow, twins, range(4))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


AVERAGES = {
    "weight first": lambda a, x, y: a * x + (1 - a) * y,
    "rest first": lambda a, x, y: (1 - a) * y + a * x,
    "factors turned": lambda a, x, y: x * a + y * (1 - a),
    "other rest": lambda a, x, y: a * x + (2 - a) * y,
    "a difference": lambda a, x, y: a * x - (1 - a) * y,
    "no rest": lambda a, x, y: a * x + (a - 1) * y,
    "product read twice": lambda a, x, y: a * x + (1 - a) * y + torch.sign(a * x),
    "joined": lambda a, x, y: (x * a) * (1 - a) + 0.5 * (y * 3.0),
    "joined, read twice": lambda a, x, y: (x * a) * (1 - a) + torch.sqrt((x * a) ** 2 + 1) + y,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_averages_and_what_looks_like_them(average, engine):
    def update(c, g, s, t):
        after = average(c["a"], s["m"], g)
        return after, {"m": after}

    params, twins = (p := parameters()), copy.deepcopy(p)
    rule = Rule("own", update, (Coefficient("a", "a", Interval(0.0, 1.0), 0.7),), (Slot("m", "m"),))
    fast = HyperOptimizer(params, rule=rule, learn=FROM_THE_FIRST, engine=engine)
    slow = HyperOptimizer(twins, rule=rule, learn=FROM_THE_FIRST, engine="eager")
    train(fast, params, range(5))
    train(slow, twins, range(5))
    assert fast.coefficients()["a"] == pytest.approx(slow.coefficients()["a"], abs=1e-6) != 0.7
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_that_has_grown_is_an_error(engine):
    p = torch.nn.Parameter(torch.ones(4))
    opt = HyperOptimizer([p], rule="adam", learn=(), engine=engine)
    train(opt, [p], range(2))
    p.grad, p.data = None, torch.ones(9)
    p.grad = torch.ones(9)
    with pytest.raises(RuntimeError, match="size"):
        opt.step()
    assert same_bits([p], [torch.ones(9)])


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (rule_of(lambda c, g, s, t: (c["a"] * torch.erf(g), {})), "an operation without loops: erf"),
        (rule_of(lambda c, g, s, t: (g if c["a"] > 0 else -g, {})), "can't be traced"),
        (rule_of(lambda c, g, s, t: (c["a"] * g, {}), pointwise=False), "not pointwise"),
    ],
    ids=["operation", "branch", "whole tensors"],
)
def test_a_rule_without_loops_runs_eagerly_and_says_why(rule, reason):
    params = parameters()
    opt = HyperOptimizer(params, rule=rule, learn=())
    assert opt.engine == "eager"
    assert reason in opt.engine_reasons[0]
    train(opt, params, range(2))
    with pytest.raises(ValueError, match=reason):
        HyperOptimizer(params, rule=rule, learn=(), engine="cpu")
