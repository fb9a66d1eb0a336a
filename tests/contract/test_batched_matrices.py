"""Matrices that are packed into one parameter: experts, and the blocks of a fused projection.

Catches: packed matrices that step otherwise than they would as separate parameters, or start at another learning rate;
a shape or a word in a group that is taken for another layout; a layout that is lost when the state is saved.
"""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mada_optim import AutoAdam, AutoMuon, HyperOptimizer, HyperSGD
from mada_optim.matrices.polar_factor import polar
from mada_optim.rules import RULES
from tests.problems import along_trace, same_bits, with_muon
from tests.representatives import on_one_engine, on_the_eager_engine

COEFFICIENTS = {"omega": 0.6, "rho": 0.7}
LEARNING = {**COEFFICIENTS, "learn": HyperSGD("beta1", "rho", "omega", "lr", lr=1e-2, start=1)}
TRACED = {**COEFFICIENTS, "learn": [HyperSGD("beta1", "rho", "omega", lr=1e-2, start=1), along_trace()]}
OPTIONS = {
    "default": (AutoMuon, {}),
    "fixed": (with_muon, {"omega": 1.0}),
    "a part of Adam": (with_muon, {"omega": 0.3, "beta3": 0.1}),
    "learning": (with_muon, LEARNING),
    "learning from a trace": (with_muon, TRACED),
    "momentum of Muon": (HyperOptimizer, {"rule": "muon", "learn": HyperSGD("mu", "lr", lr=1e-3, start=1)}),
    "Muon from a trace": (HyperOptimizer, {"rule": "muon", "learn": along_trace()}),
}
STEPS = 6


def drawn(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def run(param_sets, split, make, options, steps=STEPS):
    """Two optimizers on the same numbers, whole parameters and the parts that `split` gives; both after some steps."""
    whole, parts = param_sets
    groups = [{"params": [p], "matrix": said} for p, said in whole], [{"params": parts, "matrix": True}]
    first, second = (make(x, lr=1e-2, weight_decay=0.1, **options) for x in groups)
    for i in range(steps):
        for j, (p, _) in enumerate(whole):
            p.grad = drawn(p.shape, 100 * i + j, p.dtype)
        for q, g in zip(parts, split([p.grad for p, _ in whole]), strict=True):
            q.grad = g.clone()
        first.step()
        second.step()
    return first, second


def assert_same(first, second, whole, parts, split, tolerance=1e-9):
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(split([p.detach() for p in whole]), [q.detach() for q in parts], **close)
    assert first.coefficients() == pytest.approx(second.coefficients(), rel=tolerance)
    assert first.hypergradients() == pytest.approx(second.hypergradients(), rel=1e-3, abs=tolerance)
    ours = [first.slots(p) for p in whole]
    theirs = [second.slots(q) for q in parts]
    for name in [name for name in theirs[0] if theirs[0][name].ndim]:
        torch.testing.assert_close(split([x[name] for x in ours]), [x[name] for x in theirs], **close)


def experts(xs):
    """Each matrix in the last two dimensions."""
    return [matrix.clone() for x in xs for matrix in x.reshape(-1, *x.shape[-2:])]


@on_the_eager_engine
@pytest.mark.parametrize(("make", "options"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [(4, 5, 20), (3, 9, 4), (2, 3, 4, 6), (1, 6, 5), (2, 130, 140)], ids=str)
def test_packed_matrices_step_as_separate_ones(shape, make, options):
    whole = nn.Parameter(drawn(shape, 0))
    parts = [nn.Parameter(x) for x in experts([whole.detach()])]
    opts = run(([(whole, "batched")], parts), experts, make, options)
    assert_same(*opts, [whole], parts, experts)


def blocks(n):
    return lambda xs: [block.clone() for x in xs for block in x.chunk(n)]


@on_the_eager_engine
@pytest.mark.parametrize(("make", "options"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("n", "shape"), [(3, (12, 5)), (3, (24, 10)), (2, (8, 3, 2, 2)), (2, (6, 4, 3))], ids=str)
def test_blocks_of_rows_step_as_separate_matrices(n, shape, make, options):
    """Queries, keys and values of a fused projection; the groups of a convolution."""
    whole = nn.Parameter(drawn(shape, 0))
    parts = [nn.Parameter(x) for x in blocks(n)([whole.detach()])]
    opts = run(([(whole, n)], parts), blocks(n), make, options)
    assert_same(*opts, [whole], parts, blocks(n))


def flattened(xs):
    return [x.flatten(1).clone() for x in xs]


SINGLE = {
    "experts": ((4, 12, 20), "batched", experts),
    "experts of two kinds": ((2, 2, 12, 20), "batched", experts),
    "a fused projection": ((36, 20), 3, blocks(3)),
    "groups of a convolution": ((24, 5, 3, 3), 2, blocks(2)),
    "a convolution in one dimension": ((12, 8, 3), True, flattened),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "said", "split"), SINGLE.values(), ids=SINGLE)
def test_they_do_so_in_single_precision_and_in_half(shape, said, split, state_dtype, dtype):
    """In loops too. Of bf16 slots, rounding is by the place in the parameter, and by that the numbers are others."""
    whole = nn.Parameter(drawn(shape, 0, dtype))
    parts = [nn.Parameter(x) for x in split([whole.detach()])]
    run(([(whole, said)], parts), split, AutoMuon, {"state_dtype": state_dtype})
    tolerance = 1e-4 if dtype is torch.float32 and state_dtype is None else 3e-2
    moved = torch.cat([x.flatten() for x in split([whole.detach()])]), torch.cat([q.detach().flatten() for q in parts])
    torch.testing.assert_close(*moved, rtol=tolerance, atol=tolerance)


@settings(deadline=None)  # the first case compiles
@given(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple),
    said=st.sampled_from([True, False, "batched", 1, 2, 3]),
)
def test_a_parameter_of_any_shape_has_a_finite_step(shape, said):
    """And none of its layout is refused, but blocks that rows don't divide into."""
    p, options = nn.Parameter(torch.ones(shape)), {"lr": 1e-2}
    if len(shape) > 1 and shape[0] > 1 and shape[0] % (said if said in (2, 3) else 1):
        with pytest.raises(ValueError, match="expected a divisor of the number of rows"):
            with_muon([{"params": [p], "matrix": said}], **options)
        return
    opt = with_muon([{"params": [p], "matrix": said}], **options)
    for seed in range(2):
        p.grad = drawn(shape, seed, torch.float32)
        opt.step()
    assert p.isfinite().all()
    assert (p != 1).all()


def first_step(shape, said, g):
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    p.grad = g.clone()
    with_muon([{"params": [p], "matrix": said}], lr=1.0).step()
    return -p.detach() / RULES["mada_matrix"].hyper_parameters["kappa_matrix"]


@pytest.mark.parametrize(
    ("said", "view"),
    [(True, (64, 9)), (1, (64, 9)), ("batched", (64, 3, 3)), (8, (8, 8, 9)), (4, (4, 16, 9))],
    ids=str,
)
def test_a_group_says_what_a_shape_does_not(said, view):
    """The step of a kernel's shape is that of the matrices that the group says it has, each by its own polar factor."""
    g = drawn((64, 3, 3), 0)
    matrices = g.reshape(view if len(view) == 3 else (1, *view))
    expected = torch.stack([polar(x) for x in matrices]).reshape(64, 3, 3)
    step = first_step((64, 3, 3), said, g)
    torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-9)
    singular = torch.linalg.svdvals(step.reshape(matrices.shape)) / max(matrices.shape[1:]) ** 0.5
    assert singular.max() < 1.36
    assert step.square().mean() <= 1.36**2


def found(params):
    opt = AutoMuon(params)
    return [flag for group in opt.param_groups for flag in group["hidden_matrices"]]


BY_SHAPE = {
    (8, 128, 64): "batched",
    (8, 4, 17): "batched",
    (64, 32, 16): True,  # the kernel of a convolution in one dimension
    (64, 3, 3): True,
    (64, 32, 3, 3): True,
    (8, 4, 3, 3, 3): True,
    (16, 3, 16, 16): True,
    (4, 8, 32, 17): "batched",
    (4, 8, 32, 16): True,
    (4, 8, 16, 32): True,
    (8, 1, 64): False,  # rows or columns alone
    (8, 64, 1): True,  # a kernel of length 1
    (1, 32, 64): False,  # an embedding of positions, or queries
    (1, 1, 64): False,
    (32, 64): True,
    (32,): False,
}


@on_one_engine
@pytest.mark.parametrize(("shape", "layout"), BY_SHAPE.items(), ids=str)
def test_shape_alone_tells_experts_from_kernels(shape, layout):
    head = nn.Parameter(torch.ones(5, 64))
    got = found([nn.Parameter(torch.ones(shape)), head])
    assert got == [layout, False]
    assert type(got[0]) is type(layout)


def test_a_group_settles_each_of_its_parameters():
    """What is no batch is one matrix or none; vectors and parameters that only broadcast are none."""
    shapes = [(4, 6, 8), (6, 8), (6,), (), (4, 1, 8), (4, 6, 1), (2, 3, 4, 5), (1, 8), (0, 4, 5), (1, 4, 5)]
    expected = ["batched", True, False, False, False, False, "batched", False, False, "batched"]
    assert found([{"params": [nn.Parameter(torch.ones(shape)) for shape in shapes], "matrix": "batched"}]) == expected
    shapes = [(6, 8), (12, 2, 3), (6,), (1, 8), (3, 5), (0, 5), (6, 1)]
    assert found([{"params": [nn.Parameter(torch.ones(shape)) for shape in shapes], "matrix": 3}]) == [
        3,
        3,
        False,
        False,
        False,  # blocks of one row
        False,
        False,
    ]
    complex_ = nn.Parameter(torch.ones(4, 6, 8, dtype=torch.complex64))
    assert found([{"params": [complex_], "matrix": "batched"}]) == [False]


@on_one_engine
@pytest.mark.parametrize("said", ["yes", "Batched", 0, -2, 2.0, None, (3,), float("nan")], ids=repr)
def test_another_word_is_refused(said):
    with pytest.raises(ValueError, match=r"expected True or False, 'batched', or a number of blocks >= 1; leave it"):
        AutoMuon([{"params": [nn.Parameter(torch.ones(6, 4))], "matrix": said}])


def test_blocks_that_do_not_divide_rows_are_refused_when_the_group_is_added():
    opt = AutoMuon([("fc", nn.Parameter(torch.ones(6, 4)))])
    qkv = [("attn.bias", nn.Parameter(torch.ones(8))), ("attn.qkv", nn.Parameter(torch.ones(8, 4)))]
    with pytest.raises(
        ValueError, match=r"matrix=3 .*a divisor of the number of rows of each matrix, got .*'attn.qkv'"
    ):
        opt.add_param_group({"params": qkv, "matrix": 3})
    assert len(opt.param_groups) == 1
    with pytest.raises(ValueError, match=r"got the parameter 'number 1' of shape \(8, 4\)"):
        AutoMuon([{"params": [p for _, p in qkv], "matrix": 3}])
    opt.add_param_group({"params": qkv, "matrix": 4})
    assert opt.param_groups[1]["hidden_matrices"] == [False, 4]


def test_a_rule_of_matrices_alone_has_no_group_without():
    p = nn.Parameter(torch.ones(6, 4))
    with pytest.raises(ValueError, match="matrix=False in a parameter group: the rule 'muon' takes every parameter"):
        HyperOptimizer([{"params": [p], "matrix": False}], rule="muon")
    HyperOptimizer([{"params": [p], "matrix": False}], rule="adam")


def first_lr(params, make):
    return make(params).coefficients()["lr"]


HEAD = ("lm_head.weight", nn.Parameter(torch.ones(4, 64)))


@on_one_engine
@pytest.mark.parametrize("make", [AutoMuon, AutoAdam], ids=["Muon", "Adam"])
def test_a_start_counts_the_matrices_as_they_are(make):
    def at(width):
        return 0.4 / width if make is AutoAdam else 0.02 / (0.2 * width**0.5)

    packed = nn.Parameter(torch.ones(8, 128, 64))
    apart = [(f"experts.{i}.w", nn.Parameter(torch.ones(128, 64))) for i in range(8)]
    assert first_lr([("experts.w", packed), HEAD], make) == pytest.approx(at(128))
    assert first_lr([*apart, HEAD], make) == pytest.approx(at(128))
    assert first_lr([{"params": [packed], "matrix": True}], make) == pytest.approx(at(128 * 64))
    qkv = nn.Parameter(torch.ones(192, 64))
    assert first_lr([{"params": [qkv], "matrix": 3}], make) == pytest.approx(at(64))
    assert first_lr([{"params": [qkv], "matrix": True}], make) == pytest.approx(at(192))
    ends = [{"params": [("emb.w", packed)], "matrix": False}]  # none is hidden: Adam's rate
    assert first_lr(ends, make) == pytest.approx(0.4 / 128)


@on_one_engine
@pytest.mark.parametrize("make", [AutoMuon, AutoAdam], ids=["Muon", "Adam"])
def test_frozen_weights_have_no_part_in_the_start(make):
    frozen = nn.Parameter(torch.ones(2000, 2000), requires_grad=False)
    trained = [("a.w", nn.Parameter(torch.ones(16, 16))), HEAD]
    assert first_lr([("b.w", frozen), *trained], make) == first_lr(trained, make)
    of_head = first_lr([("b.w", frozen), HEAD], make)
    assert of_head == pytest.approx(0.4 / 64)  # Adam's rate, as no hidden matrix is trained
    assert first_lr([("b.w", frozen)], make) == pytest.approx(1e-3)


def model(seed=0):
    """Experts, a fused projection with its bias, and a matrix."""
    shapes = [(4, 6, 20), (12, 8), (12,), (8, 8)]
    return [nn.Parameter(drawn(shape, seed + i, torch.float32)) for i, shape in enumerate(shapes)]


def optimizer(params, make=AutoMuon, **options):
    experts, qkv, bias, rest = params
    groups = [{"params": [experts]}, {"params": [qkv, bias], "matrix": 3}, {"params": [rest], "matrix": True}]
    return make(groups, lr=1e-2, weight_decay=0.1, **options)


def train(opt, params, seeds):
    for seed in seeds:
        for i, p in enumerate(params):
            p.grad = drawn(p.shape, 10 * seed + i, torch.float32)
        opt.step()


SAVED = {"default": {}, "omega learned": {"make": with_muon, **TRACED}}


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
def test_a_run_that_is_saved_goes_on(options):
    """Also from a file that is read without running what is in it."""
    one, other = model(), model()
    first, second = optimizer(one, **options), optimizer(other, **options)
    train(first, one, range(5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for p, q in zip(one, other, strict=True):
        q.data.copy_(p.data)
    assert [group["hidden_matrices"] for group in second.param_groups] == [["batched"], [3, False], [True]]
    for travelled in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        own = [p for group in travelled.param_groups for p in group["params"]]
        train(travelled, own, range(5, 8))
    train(first, one, range(5, 8))
    train(second, other, range(5, 8))
    assert same_bits(one, other)
    assert same_bits(one, own)


def test_a_run_of_flattened_matrices_goes_on_as_it_began():
    """States of older versions have True for each matrix; so they have for experts, which were one matrix then."""
    one, other = model(), model()
    first = AutoMuon([{"params": one[:1], "matrix": True}, {"params": one[1:], "matrix": True}], lr=1e-2)
    second = optimizer(other)
    assert second.param_groups[0]["hidden_matrices"] == ["batched"]
    train(first, one, range(3))
    old = first.state_dict()
    old["param_groups"] = [
        {**group, "params": places, "hidden_matrices": flags}
        for group, places, flags in zip(
            [old["param_groups"][0], old["param_groups"][1], dict(old["param_groups"][1])],
            [[0], [1, 2], [3]],
            [[True], [True, False], [True]],
            strict=True,
        )
    ]
    second.load_state_dict(old)
    for p, q in zip(one, other, strict=True):
        q.data.copy_(p.data)
    train(first, one, range(3, 6))
    train(second, other, range(3, 6))
    assert same_bits(one, other)


@on_one_engine
@pytest.mark.parametrize("entry", [5, "batch", "batched", -3, 2.5])
def test_a_saved_layout_that_does_not_fit_is_refused(entry):
    opt = optimizer(model())
    state = opt.state_dict()
    state["param_groups"][1]["hidden_matrices"] = [entry, False]
    with pytest.raises(ValueError, match=r"'hidden_matrices': got .* for a parameter of shape \(12, 8\)"):
        optimizer(model()).load_state_dict(state)


def test_state_has_the_shape_of_its_parameter():
    params = model()
    opt = optimizer(params, with_muon, omega=0.5)
    train(opt, params, range(2))
    for p in params:
        slots = opt.slots(p)
        assert ("b" in slots) == (p.ndim > 1)
        assert all(x.shape == p.shape for x in slots.values() if x.ndim)
