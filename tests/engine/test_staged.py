"""Loops around products of matrices against the eager engine: parameters, slots, hypergradients, at every step.

Catches: a rule cut where the update needs more than what is between, a buffer that another matrix reads, a step counted
twice, a learning rate or a decay taken twice, matrices that are left out where buffers end.
"""

import copy
from dataclasses import replace

import pytest
import torch

from benchmarks import step_memory
from mada_optim import AutoMuon, HyperOptimizer, LearnedLR
from mada_optim.engines import choice
from mada_optim.engines.staged import engine as staged
from mada_optim.engines.staged.cut import cut
from mada_optim.graph.specialize import specialize
from mada_optim.matrices.polar_factor import orthogonal, polar
from mada_optim.matrices.rows import row_factors, row_mean_squares
from mada_optim.rule import Coefficient, Interval, Rule, Slot
from mada_optim.rules import RULES
from mada_optim.rules.terms import ema
from tests.engine.test_cpu_kernel import close, numbers
from tests.problems import same_bits

SHAPES = {"a": (20, 7), "k": (4, 3, 3, 3), "c": (6, 6), "d": (9,), "e": (5, 40), "x": (3, 5, 18), "head": (3, 5)}
ENGINES = [pytest.param("cpu", marks=pytest.mark.kernel), pytest.param("tiled", marks=pytest.mark.kernel)]


@pytest.fixture(autouse=True, params=[1 << 22, 200, 1], ids=["at once", "some", "one by one"])
def _buffers(request, monkeypatch):
    monkeypatch.setattr(staged, "BUFFER", request.param)


def named(seed=0):
    torch.manual_seed(seed)
    return [(name, torch.nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()]


def gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)


def pair(engine, make):
    ours = named()
    theirs = [(name, copy.deepcopy(p)) for name, p in ours]
    fast, slow = make(ours, engine), make(theirs, "eager")
    assert (fast.engine, slow.engine) == (engine, "eager")
    assert fast.engine_reasons == []
    return [p for _, p in ours], fast, [p for _, p in theirs], slow


def muon(params, engine):
    return HyperOptimizer(params, lr=0.02, rule="muon", learn=(), weight_decay=0.1, engine=engine)


def default(params, engine):
    return AutoMuon(params, lr=1e-2, learn=LearnedLR(horizon=0.9, start=1), engine=engine)


def uphill(params, engine):
    return HyperOptimizer(params, rule="mada_matrix", weight_decay=0.1, maximize=True, engine=engine)


def per_tensor(params, engine):
    return AutoMuon(params, learn=LearnedLR(scope="tensor", start=1), engine=engine)


def even_rows(params, engine):
    return HyperOptimizer(params, lr=0.02, rule="normuon", weight_decay=0.1, engine=engine)


def mixed_rows(params, engine):
    return AutoMuon(params, lr=1e-2, nu=0.3, learn=LearnedLR(start=1), engine=engine)


MAKERS = [muon, default, uphill, per_tensor, even_rows, mixed_rows]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_to_the_eager_engine(engine, make):
    assert_equal_steps(engine, make)


def assert_equal_steps(engine, make):
    params, fast, twins, slow = pair(engine, make)
    for step in range(10):
        gradients(params, step)
        gradients(twins, step)
        if step % 4 == 2:
            params[2].grad = twins[2].grad = None
        fast.step()
        slow.step()
        assert torch.allclose(numbers(fast.hypergradients()), numbers(slow.hypergradients()), rtol=1e-3, atol=1e-5)
        assert torch.allclose(numbers(fast.coefficients()), numbers(slow.coefficients()), rtol=1e-5, atol=1e-7)
        for p, q in zip(params, twins, strict=True):
            assert close(p.detach(), q.detach(), 1e-4), step
            assert list(fast.state[p]) == list(slow.state[q])
            assert all(close(x, slow.state[q][key], 1e-4) for key, x in fast.state[p].items()), step


@pytest.mark.parametrize("engine", ENGINES)
def test_the_middle_takes_what_the_head_gives(engine, monkeypatch):
    """To its scale, which an orthogonalization wouldn't notice: no learned lr is in it."""
    taken = []
    cut_in_three = choice.cut

    def spied(form):
        stages = cut_in_three(form)
        return stages and replace(stages, middle=lambda x: (taken.append(x.clone()), polar(x))[1])

    monkeypatch.setattr(choice, "cut", spied)
    params, fast, *_ = pair(engine, per_tensor)
    fast.param_groups[0]["log_lr"] += 0.5
    b = torch.zeros(SHAPES["a"])
    for step in range(4):
        gradients(params, step)
        fast.step()
        b = ema(0.95, b, params[0].grad)
        assert close(taken[5 * step], ema(0.95, b, params[0].grad))
    assert len(taken) == 4 * 5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_changes_no_bit(engine):
    params, fast, *_ = pair(engine, default)
    gradients(params, 0)
    fast.step()
    before = copy.deepcopy([fast.state[p] for p in params]), [p.detach().clone() for p in params]
    params[4].grad[1, 2] = torch.nan
    fast.step()
    assert same_bits(before[1], params)
    for old, p in zip(before[0], params, strict=True):
        assert same_bits(list(old.values()), list(fast.state[p].values()))


@pytest.mark.kernel
def test_what_has_no_loops_takes_part_in_the_same_step():
    """A matrix that isn't dense, and a gradient of another layout: the eager engine moves them."""
    params, twins = ([p for _, p in named()] for _ in range(2))
    for some in (params, twins):
        some[0] = torch.nn.Parameter(some[0].detach().mT)
    fast, slow = muon(params, "auto"), muon(twins, "eager")
    for step in range(4):
        gradients(params, step)
        gradients(twins, step)
        for some in (params, twins):
            some[2].grad = some[2].grad.mT
        fast.step()
        slow.step()
    assert all(close(p.detach(), q.detach(), 1e-4) for p, q in zip(params, twins, strict=True))


@pytest.mark.kernel
def test_what_kernels_prepare_lasts_from_step_to_step(monkeypatch):
    """But for t, which the eager engine may have moved meanwhile."""
    params = [p for _, p in named()]
    fast, taken = muon(params, "auto"), []
    batch = staged.StagedBatch

    def spied(kernel, matrices):
        made = batch(kernel, matrices)
        taken.append([(x.head, x.tail) for x in matrices])
        assert all(x.before.state["step"] == x.after.state["step"] for x in matrices)
        return made

    monkeypatch.setattr(staged, "StagedBatch", spied)
    for step in range(4):
        gradients(params, step)
        if step == 2:
            params[0].grad = params[0].grad.mT.contiguous().mT  # not dense
        fast.step()
    assert [len(rows) for rows in taken] == [7, 6, 7]  # the second step reuses the first one's batch
    assert all(x is y for one, other in zip(taken[0], taken[2], strict=True) for x, y in zip(one, other, strict=True))


@pytest.mark.kernel
def test_a_step_has_four_copies_of_a_matrix_at_most():
    """The buffer, and what products of matrices in fp32 have beside it."""
    assert step_memory.peak(200, 1000) < 4.1 * 4 * 200 * 1000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"omega": 0.5}, "is not pointwise"),
        ({"learn": ("omega", "lr")}, "is not pointwise"),
        ({"learn": "lr"}, "is not pointwise, and its last update is to be differentiated"),
        ({"state_dtype": torch.bfloat16}, "is not pointwise, and its slots are in torch.bfloat16"),
    ],
    ids=["mixed", "learned", "one step", "bf16 slots"],
)
def test_the_rest_says_why_it_has_none(options, reason):
    opt = HyperOptimizer(named(), rule="mada_matrix", **options)
    assert any(x.endswith(reason) for x in opt.engine_reasons)


def test_the_cut():
    form = specialize(RULES["mada_matrix"], (("nu", 0.0), ("omega", 1.0)))
    stages = cut(form)
    assert stages.middle is polar
    assert [slot.name for slot in stages.head.slots] == ["b"]
    assert stages.tail.slots == ()
    c, g, b, t = {"mu": 0.9, "kappa_matrix": 0.2}, torch.randn(3, 4), torch.randn(3, 4), torch.tensor(1.0)
    x, after = stages.head.update(c, g, {"b": b}, t)
    u, none = stages.tail.update(c, stages.middle(x), {}, t)
    expected, slots = form.update(c, g, {"b": b}, t)
    assert same_bits([u, after["b"]], [expected, slots["b"]])
    assert none == {}
    assert cut(RULES["muon"]).middle is orthogonal


NU = Coefficient("nu", r"\nu", Interval(0.0, 1.0), 0.5)


def test_the_cut_with_rows():
    """Each part by itself, one after the other, is the rule."""
    rule = RULES["normuon"]
    stages = cut(rule)
    assert [slot.name for slot in stages.head.slots] == ["b"]
    c = {"mu": 0.9, "nu": 0.7, "kappa": 0.2, "row_beta": 0.6}
    g, t = torch.randn(3, 4), torch.tensor(1.0)
    s = {"b": torch.randn(3, 4), "r": torch.rand(3)}
    x, after = stages.head.update(c, g, s, t)
    o = stages.middle(x)
    _, rows = stages.rows.average(c, row_mean_squares(o), {"r": s["r"]}, t)
    factors, _ = stages.rows.factors(c, row_factors(o, rows["r"]), {}, t)
    u, _ = stages.tail.update(c, o * factors, {}, t)
    expected, slots = rule.update(c, g, s, t)
    assert same_bits([u, after["b"], rows["r"]], [expected, slots["b"], slots["r"]])
    assert set(stages.rows.numbers) == {"nu", "row_beta"}


def into_both(c, g, s, t):
    x = orthogonal(g)
    return c["nu"] * x, {"m": x}


def rule_of(update):
    return Rule("third", update, (NU,), (Slot("m", "m"),), pointwise=False)


def on_rows(c, g, s, t):
    o = orthogonal(g)
    return o, ema(0.9, s["r"], row_mean_squares(o))


def with_the_gradient(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o * row_factors(g, r), {"r": r}


def with_a_sum(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o + row_factors(o, r), {"r": r}


def with_the_old_slot(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o * row_factors(o, s["r"]), {"r": r}


def with_the_gradients_rows(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o * row_factors(o, r), {"r": r + row_mean_squares(g)}


def with_the_number_of_the_step(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o * row_factors(o, r / t), {"r": r / t}


def with_that_number_as_a_factor(c, g, s, t):
    o, r = on_rows(c, g, s, t)
    return o * (row_factors(o, r) * t), {"r": r}


@pytest.mark.parametrize(
    "update",
    [
        with_the_gradient,
        with_a_sum,
        with_the_old_slot,
        with_the_gradients_rows,
        with_the_number_of_the_step,
        with_that_number_as_a_factor,
    ],
)
def test_what_is_not_cut_with_rows(update):
    rule = Rule("rows", update, (NU,), (Slot("r", "r", per_row=True),), pointwise=False)
    assert cut(rule) is None


@pytest.mark.parametrize(
    "update",
    [
        lambda c, g, s, t: (c["nu"] * g, {"m": s["m"]}),
        lambda c, g, s, t: (orthogonal(g) + c["nu"] * g, {"m": g}),
        lambda c, g, s, t: (orthogonal(g) * s["m"], {"m": g}),
        lambda c, g, s, t: (orthogonal(g), {"m": orthogonal(g)}),
        lambda c, g, s, t: (c["nu"] * g, {"m": ema(c["nu"], s["m"], orthogonal(g))}),
        into_both,
        lambda c, g, s, t: (orthogonal(polar(g)), {"m": g}),
        lambda c, g, s, t: (orthogonal(g) if g.sum() > 0 else g, {"m": g}),
    ],
    ids=["none", "and the gradient", "and a slot", "twice", "in a slot", "in both", "two", "a branch"],
)
def test_what_is_not_cut(update):
    assert cut(rule_of(update)) is None
