"""fp16 and bf16 weights, and slots narrower than the computation.

Catches: a square taken in fp16, which is 0 of 1e-4 and infinite of 257; hypergradients that see rounded slots; a slot
that overflows where the gradient itself is fine.
"""

import math

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.rules import RULES
from tests.numerics.adversary import step_changes_a_bit
from tests.problems import everything, same_bits

HALVES = (torch.float16, torch.bfloat16)


def optimizer(rule, p, **options):
    learner = HyperSGD(*RULES[rule].coefficient_names(), "lr", momentum=0.5, start=0)
    return HyperOptimizer([p], rule=rule, learn=learner, engine="eager", **options)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_narrow_weights_learn_what_wide_ones_do(rule, dtype):
    """From the same gradients: slots, hypergradients and coefficients bit for bit."""
    narrow, wide = (torch.nn.Parameter(torch.ones(4, dtype=x)) for x in (dtype, torch.float32))
    one, other = (optimizer(rule, p, lr=1e-3) for p in (narrow, wide))
    for step in range(12):
        narrow.grad = (torch.tensor([1e-4, 257.0, -3e4, 0.5]) * (-1) ** (step // 3)).to(dtype)
        wide.grad = narrow.grad.float()
        one.step()
        other.step()
        assert one.hypergradients() == other.hypergradients()
        assert one.coefficients() == other.coefficients()
        slots, wide_slots = one.slots(narrow), other.slots(wide)
        assert same_bits(list(slots.values()), list(wide_slots.values()))
    assert all(x.isfinite().all() for x in everything(one))
    assert any(other.hypergradients().values())


def test_weights_too_large_for_an_update_stay_and_learning_goes_on():
    """bf16 has nothing between 256 and 258."""
    p = torch.nn.Parameter(torch.full((4,), 256.0, dtype=torch.bfloat16))
    opt = optimizer("mada", p, lr=1e-3)
    before = opt.coefficients()
    for step in range(6):
        p.grad = torch.full_like(p, (-1.0) ** (step // 2))
        opt.step()
    assert torch.equal(p, torch.full_like(p, 256.0))
    assert opt.coefficients()["lr"] != before["lr"]


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_whose_square_the_slots_cannot_take_is_skipped(rule, state_dtype):
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    opt = optimizer(rule, p, lr=1e-3, state_dtype=state_dtype)
    for largest in (1.0, 1e30, 1.0):
        p.grad = torch.tensor([1e-4, 257.0, largest, 0.5], dtype=torch.float64)
        assert step_changes_a_bit(opt) == (largest == 1.0)
        assert all(x.isfinite().all() for x in everything(opt))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_slots_of_a_smaller_range_than_fp32_are_refused(dtype):
    with pytest.raises(ValueError, match="state_dtype"):
        optimizer("adam", torch.nn.Parameter(torch.ones(4)), state_dtype=dtype)


def test_a_learned_lr_takes_no_offence_at_weights_that_fp16_cannot_hold():
    """They become infinite, as in torch.optim, and are the user's; the coefficients stay finite."""
    p = torch.nn.Parameter(torch.full((2,), 6e4, dtype=torch.float16))
    opt = optimizer("sgd", p, lr=1.0, weight_decay=0.1)
    for _ in range(4):
        p.grad = torch.full_like(p, -6e4)
        opt.step()
    assert p.isinf().all()
    assert all(math.isfinite(x) for x in opt.coefficients().values())
