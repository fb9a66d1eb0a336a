"""A rule without what its fixed coefficients switch off, against the whole rule: every rule, every corner.

Catches: a term that is folded away though it counts, a slot kept or dropped by mistake, a bill that is not what is
allocated, a rule of somebody else that can't be traced and is broken by trying.
"""

import itertools

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.graph.specialize import corners, specialize
from mada_optim.learning.hypergradient import sensitivity
from mada_optim.rule import LR, UNIT, Coefficient, Rule, Slot
from mada_optim.rules import RULES
from tests.gradient.test_sensitivity import SPREAD
from tests.problems import slots_at_0, train

STEPS = 4


def combinations(rule, most=2):
    """Each coefficient free, at 0, or at 1 where the rule is defined there: up to two of them fixed, or all.

    All three to the sixth would take minutes, and a term is switched off by one coefficient or by two.
    """
    choices = [[None, *(x for x in (0.0, 1.0) if x in q.domain)] for q in rule.coefficients]
    for values in itertools.product(*choices):
        fixed = {q: x for q, x in zip(rule.coefficient_names(), values, strict=True) if x is not None}
        if len(fixed) <= most or len(fixed) == len(choices):
            yield fixed


def gradients(dtype):
    generator = torch.Generator().manual_seed(3)
    g = torch.randn(STEPS, 12, generator=generator, dtype=torch.float64)
    g[:, :2] = 0.0  # never a gradient
    g[-1, 2:4] = 0.0  # none in the last step
    g[1, 4:6] = 0.0
    return g.to(dtype)


def assert_the_same(rule, form, c, free, dtype):
    """Updates, slots that are left, and hypergradients of what is free: equal, where 0 and -0 are."""
    gs = gradients(dtype)
    whole, part = slots_at_0(rule, gs[0]), slots_at_0(form, gs[0])
    assert part.keys() <= whole.keys()
    for i, g in enumerate(gs):
        t, cotangent = torch.tensor(i + 1.0, dtype=torch.float64), gs[i - 1]
        h, k = (sensitivity(r, free, c, g, s, t, cotangent) for r, s in ((rule, whole), (form, part)))
        assert all(map(torch.equal, h, k)), t
        (u, whole), (v, part) = rule.update(c, g, whole, t), form.update(c, g, part, t)
        assert u.isfinite().all()
        assert (u.dtype, u.shape) == (v.dtype, v.shape)
        assert torch.equal(u, v), t
        assert all(torch.equal(x, whole[name]) for name, x in part.items()), t


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2), (torch.float64, 1)])
@pytest.mark.parametrize("name", RULES)
def test_at_every_corner_a_rule_is_itself(name, dtype, most):
    """In single precision, in which numbers of both widths meet, and in double."""
    rule = RULES[name]
    for fixed in combinations(rule, most):
        options = {**rule.hyper_parameters, **SPREAD, **fixed}
        form = specialize(rule, corners(rule, {**options, **scalars(SPREAD, fixed)}, ()))
        c = {**rule.hyper_parameters, **scalars({q: options[q] for q in rule.coefficient_names()}, {})}
        assert_the_same(rule, form, c, [q for q in rule.coefficient_names() if q not in fixed], dtype)


def scalars(values, but):
    """As 0-d tensors, as coefficients are; plain numbers stand for what is fixed."""
    return {q: torch.tensor(x, dtype=torch.float64) for q, x in values.items() if q not in but}


HYPER_CORNERS = [
    ("mada", {"kappa": 0.0, "lion_beta1": 0.0}),
    ("mada", {"kappa": 0.0, "gamma": 0.0}),
    ("mada", {"lion_beta1": 0.0, "lion_beta2": 0.0, "gamma": 0.0}),
    ("mada", {"lion_beta1": 1.0}),
    ("adagrad", {"lr_decay": 1.0, "initial_accumulator_value": 1.0}),
    ("nadam", {"momentum_decay": 0.0, "beta1": 0.0}),
    ("nadam", {"momentum_decay": 1.0}),
    ("rmsprop", {"eps": 1.0, "centered": 1.0}),
]


@pytest.mark.parametrize(("name", "fixed"), HYPER_CORNERS)
def test_hyper_parameters_have_corners_too(name, fixed):
    rule = RULES[name]
    options = {**rule.hyper_parameters, **scalars(SPREAD, fixed), **fixed}
    form = specialize(rule, corners(rule, options, ()))
    c = {**options, **scalars({q: x for q, x in fixed.items() if q in SPREAD}, {})}
    assert_the_same(rule, form, c, [], torch.float64)


def test_what_is_learned_and_what_is_a_tensor_is_never_folded():
    rule = RULES["mada"]
    options = {**rule.hyper_parameters, **scalars(SPREAD, ()), "rho": 1.0, "c": 1.0, "gamma": torch.tensor(1.0)}
    assert dict(corners(rule, options, learned=("rho",))) == {"c": 1.0, "kappa": 1.0}


# ----------------------------------------------------------------------------------------------------- rules of others

A = Coefficient("a", "a", UNIT, 0.0)
M = Slot("m", "m")


def branches(c, g, s, t):
    if t == 1:
        return g, {"m": g}
    return c["a"] * s["m"] + g, {"m": s["m"] + g}


def loops(c, g, s, t):
    return torch.stack([x + c["a"] * y for x, y in zip(g, s["m"], strict=True)]), {"m": s["m"] + g}


def measures(c, g, s, t):
    return g / len(g) + c["a"] * s["m"], {"m": s["m"] + g}


def converts(c, g, s, t):
    return g / int(t) + c["a"] * s["m"], {"m": s["m"] + g}


def makes_a_tensor(c, g, s, t):
    return g * torch.arange(1.0, 4.0) + c["a"] * s["m"], {"m": s["m"] + g}


@pytest.mark.parametrize("update", [branches, loops, measures, converts, makes_a_tensor])
def test_a_rule_that_cannot_be_traced_is_left_whole(update):
    rule = Rule("theirs", update, (A,), (M,))
    assert specialize(rule, (("a", 0.0),)) is rule
    assert moved(rule, 0.0) == moved(rule, torch.tensor(0.0, dtype=torch.float64))


def takes_the_root(c, g, s, t):
    return g + torch.sqrt(c["a"] * g**2), {"m": s["m"] + g}


def takes_the_size(c, g, s, t):
    return g + (c["a"] * g).abs(), {"m": s["m"] + g}


def vanishes(c, g, s, t):
    return c["a"] * s["m"], {"m": s["m"] + g}


def forgets(c, g, s, t):
    return g + s["m"], {"m": c["a"] * s["m"]}


def gives_the_slot(c, g, s, t):
    return s["m"] + c["a"] * g, {"m": g}


def keywords(c, g, s, t):
    return g + torch.clamp(s["m"], min=c["a"] * 0.5), {"m": s["m"] + g}


@pytest.mark.parametrize("fixed", [0.0, 1.0])
@pytest.mark.parametrize("update", [takes_the_root, takes_the_size, vanishes, forgets, gives_the_slot, keywords])
def test_a_term_that_vanishes_where_a_tensor_is_needed(update, fixed):
    rule = Rule("theirs", update, (A,), (M,))
    assert moved(rule, fixed) == moved(rule, torch.tensor(fixed, dtype=torch.float64))


def swaps(c, g, s, t):
    return s["m"], {"m": s["old"], "old": g}


@pytest.mark.kernel
@pytest.mark.parametrize("update", [vanishes, gives_the_slot, swaps])
def test_a_rule_may_return_old_slots(update):
    """As its update, or as another slot: nothing is overwritten before it was read."""
    rule = Rule("theirs", update, (A,), (M, Slot("old", "o"))[: 1 + (update is swaps)])
    assert moved(rule, 0.0, "eager") == pytest.approx(moved(rule, 0.0, "cpu"))
    one = torch.tensor(1.0, dtype=torch.float64)
    assert moved(rule, one, "eager") == pytest.approx(moved(rule, one, "cpu"))


def moved(rule, a, engine="auto"):
    """Where three numbers get to; with a tensor for the coefficient the rule is whole."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.ones(3))
    opt = HyperOptimizer([p], lr=0.1, rule=rule, learn=(), engine=engine)
    opt.param_groups[0]["a"] = a
    train(opt, [p], range(4))
    return p.tolist()


# ------------------------------------------------------------------------------------------------------------ the bill

DTYPES = [(torch.float32, None), (torch.bfloat16, None), (torch.float64, None), (torch.float32, torch.bfloat16)]
LEARNED = [((), "global"), *itertools.product(["all", LR.name], ["global", "group", "tensor"])]
#: The bytes of coefficients are the same in every dtype.
BILLS = [(*DTYPES[0], LEARNED), *((*dtypes, LEARNED[:2]) for dtypes in DTYPES[1:])]


def starts(rule):
    """Coefficients at their defaults, all inside, all at 0, and at 1 where they may be."""
    inside = {q.name: SPREAD[q.name] for q in rule.coefficients}
    yield {}
    yield inside
    yield dict.fromkeys(inside, 0.0)
    yield {q.name: 1.0 if 1.0 in q.domain else inside[q.name] for q in rule.coefficients}


def bytes_held(opt):
    """By name: of the storages that the states hold, each counted once."""
    held, seen = {}, set()
    for state in opt.state.values():
        for name, x in state.items():
            storage = x.untyped_storage()
            assert storage.data_ptr() not in seen or storage.nbytes() == 0
            seen.add(storage.data_ptr())
            held[name] = held.get(name, 0) + storage.nbytes()
    return held


def elementwise(opt):
    """The slots, one number per element, that the first parameter has."""
    kept = opt.slots(opt.param_groups[0]["params"][0])
    return [slot for slot in opt.rule.slots if slot.name in kept and slot.per_element]


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "learned"), BILLS, ids=lambda x: "" if isinstance(x, list) else str(x)
)
@pytest.mark.parametrize("name", RULES)
def test_the_bill_is_what_is_allocated(name, dtype, state_dtype, learned):
    rule = RULES[name]
    for start, (learn, scope) in itertools.product(starts(rule), learned):
        params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(3, 4), (), (0, 3)]]
        params += [torch.nn.Parameter(torch.randn(5, dtype=torch.complex64))] if dtype == torch.float32 else []
        wide = {q.name: (0.0, 1.0 if 1.0 in q.domain else 0.9999) for q in rule.coefficients if learn == "all"}
        learner = HyperSGD(learn, scope=scope, bounds=wide) if learn else ()
        opt = HyperOptimizer(params, rule=name, learn=learner, state_dtype=state_dtype, engine="eager", **start)
        bill = opt.memory()
        train(opt, params, [0])
        assert bill.bytes == bytes_held(opt) == opt.memory().bytes
        assert bill.parameters == sum(p.numel() for p in params)
        assert bill.total == sum(bytes_held(opt).values())
        wanted = {state_dtype or torch.promote_types(dtype, torch.float32)}
        assert {opt.state[params[0]][slot.name].dtype for slot in elementwise(opt)} <= wanted
