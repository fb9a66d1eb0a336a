"""Dtypes side by side, cast on the way, and torch's default dtype, which a step must not follow.

Catches: a promotion to the widest dtype of the model, a state rounded by its neighbours, and a constant that is made
in torch's default dtype instead of the parameter's.
"""

import pytest
import torch

from tests.problems import everything, fast, same_bits
from tests.torch_checks.infos import each_info, each_mode
from tests.torch_checks.problems import give, least_squares

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64]
SHAPES = [(2, 3)] * 4 + [(3, 2)]


def one_of_each():
    params = [torch.randn(3, dtype=d) if d.is_complex else torch.randn(2, 3).to(d) for d in DTYPES]
    return [torch.nn.Parameter(x) for x in params]


def matrices(params):
    """A group that says which they are, as a guess is made from all parameters."""
    return {"params": params, "matrix": True}


@each_mode
def test_dtypes_side_by_side_move_as_each_alone(case):
    """float64 next to bf16: with nothing learned, no parameter knows of the others, and each keeps its dtypes."""
    params = one_of_each()
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    together = case.make_plain([matrices(params)], lr=1e-2)
    apart = [case.make_plain([matrices([p])], lr=1e-2) for p in alone]
    for step in range(4):
        give(params, SHAPES, step)
        for p, q in zip(params, alone, strict=True):
            q.grad = p.grad.clone()
        together.step()
        for opt in apart:
            opt.step()
    assert [p.dtype for p in params] == DTYPES
    for p, q, opt in zip(params, alone, apart, strict=True):
        assert torch.equal(p, q)
        wide = torch.float64 if p.dtype == torch.float64 else torch.float32
        slots = together.slots(p)
        assert {slots[x.name].dtype for x in together.rule.slots if x.name in slots and x.per_element} <= {wide}
        assert same_bits(list(together.state[p].values()), list(opt.state[q].values()))


@each_info
def test_dtypes_side_by_side_learn_together(info):
    """One set of coefficients, whose hypergradient is the sum over all dtypes, in double precision."""
    params = one_of_each()
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    still = {"learn": fast(lr=0.0), "lr": 1e-2}
    together = info.optim_cls([matrices(params)], **still)
    apart = [info.optim_cls([matrices([p])], **still) for p in alone]
    for step in range(4):
        give(params, SHAPES, step)
        for p, q in zip(params, alone, strict=True):
            q.grad = p.grad.clone()
        for opt in (together, *apart):
            opt.step()
        for name, h in together.hypergradients().items():
            assert h == pytest.approx(sum(opt.hypergradients()[name] for opt in apart), rel=1e-9, abs=1e-15)


@each_mode
def test_a_model_may_be_cast_on_the_way(case):
    """To bf16, to float64 and back: the state stays, and steps go on."""
    model = torch.nn.Linear(3, 2)
    opt = case.make(model.parameters())
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
        model.to(dtype)
        for step in range(2):
            before = model.weight.detach().clone()
            give(list(model.parameters()), [(2, 3), (2,)], step)
            opt.step()
            assert model.weight.dtype == dtype
            assert dtype == torch.bfloat16 or not torch.equal(model.weight, before)
    assert opt.state[model.weight]["step"] == 8
    assert all(x.isfinite().all() for x in everything(opt))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@each_mode
def test_the_default_dtype_changes_no_bit(case, dtype):
    problem = least_squares()
    twin_problem, kwargs = problem.twin(), case.kwargs()
    twin = case.make(twin_problem.params)
    twin_problem.train(twin, 4)
    torch.set_default_dtype(dtype)
    try:
        opt = case.info.optim_cls(problem.params, **kwargs)
        problem.train(opt, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(everything(opt), everything(twin))
