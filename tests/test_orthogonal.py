"""The polar factor of a matrix by products: the polynomials on its singular values, and their coefficients.

Catches: a step that isn't the polynomial, coefficients that aren't the best, gradients so small or large, or numbers so
coarse, that the iteration breaks; a batch whose matrices have a part in one another.
"""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mada_optim.matrices.polar_factor import (
    JORDAN,
    LARGE,
    MINIMAX,
    _minimax_in,
    cpu_has_bf16,
    orthogonal,
    polar,
    symmetric_product,
)


def jordan(s):
    return s / s.norm(), JORDAN


def minimax(s):
    return s / (s**8).sum() ** (1 / 8), MINIMAX


def moved(x, start):
    """The oracle: the polynomials on each singular value, by the decomposition."""
    u, s, v = torch.linalg.svd(x.flatten(1), full_matrices=False)
    s, quintics = start(s)
    for a, b, c in quintics:
        s = a * s + b * s**3 + c * s**5
    return (u * s @ v).reshape(x.shape) * max(x.flatten(1).shape) ** 0.5


BOTH = pytest.mark.parametrize(
    ("function", "start"), [(orthogonal, jordan), (polar, minimax)], ids=["jordan", "minimax"]
)


@BOTH
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (6, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("size", [1e-150, 1.0, 1e150])
def test_the_iteration_moves_singular_values(function, start, shape, size):
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(function(size * x), moved(x, start), rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (21, 24), (24, 21)], ids=str)
def test_the_iteration_moves_singular_values_in_quarters(function, start, shape, monkeypatch):
    monkeypatch.setattr("mada_optim.matrices.polar_factor.DIVIDED", 4)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(function(x), moved(x, start), rtol=1e-9, atol=1e-9)


def test_a_product_in_quarters_mirrors_the_upper_right_one(monkeypatch):
    monkeypatch.setattr("mada_optim.matrices.polar_factor.DIVIDED", 10)
    x = torch.randn(30, 50)
    a = symmetric_product(x, x.mT)
    square = symmetric_product(a, a, a, 2.0, 3.0)
    for product in (a, square):
        assert torch.equal(product[15:, :15], product[:15, 15:].mT)
        assert torch.equal(product[7:15, :7], product[:7, 7:15].mT)
    torch.testing.assert_close(square, 2 * (x @ x.mT) + 3 * (x @ x.mT) @ (x @ x.mT), rtol=1e-4, atol=1e-2)


def operations(function, m, n):
    """Floating-point operations of products, by torch's counter."""
    x = torch.randn(m, n)
    with FlopCounterMode(display=False) as counter:
        function(x)
    return counter.get_total_flops()


def test_no_product_is_made_twice(monkeypatch):
    """A step on X is X X^T, A^2, and the product with X. On A, the first is A^2 and the others four products each."""
    assert operations(polar, 64, 64) == 4 * (2 + 2 + 2) * 64**3
    assert operations(orthogonal, 64, 64) == 5 * (2 + 2 + 2) * 64**3
    assert operations(polar, 32, 128) == 4 * 32**2 * 128 + 2 * (1 + 3 * 4) * 32**3
    monkeypatch.setattr("mada_optim.matrices.polar_factor.DIVIDED", 32)  # in half, and in half again
    assert operations(polar, 64, 64) == 4 * (2 * 2 * 5 / 8 + 2) * 64**3


def few_directions(rows, columns, noise=1e-3):
    """A few strong ones, as of a gradient, in weak noise, which the iteration makes as strong."""
    return torch.randn(rows, 4) @ torch.randn(4, columns) + noise * torch.randn(rows, columns)


@BOTH
@pytest.mark.parametrize("shape", [(40, 160), (96, 40), (48, 48)], ids=str)
def test_single_precision_is_enough(function, start, shape):
    x = few_directions(*shape)
    exact = moved(x.double(), start)
    assert (function(x) - exact).norm() < 2e-4 * exact.norm()


@pytest.mark.parametrize("divided", [20, 320], ids=["quarters", "whole"])
@pytest.mark.parametrize("function", [orthogonal, polar])
@pytest.mark.parametrize("shape", [(40, 160), (160, 40), (48, 40), (40, 48), (10, 6)], ids=str)
def test_rounding_grows_no_further_than_a_singular_value_would(function, shape, divided, monkeypatch):
    """Where there is nothing in most directions, what rounding leaves there is 342 or 485 times as large in the end."""
    monkeypatch.setattr("mada_optim.matrices.polar_factor.DIVIDED", divided)
    x = few_directions(*shape, noise=0.0)
    exact = function(x.double())
    assert (function(x) - exact).norm() < 2e-3 * exact.norm()


@pytest.mark.parametrize("shape", [(40, 160), (48, 48), (256, 300), (300, 256), (2, 2), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("noise", [0.05, 10.0, 0.0], ids=["few", "all", "rank 4"])
def test_bf16_keeps_singular_values_below_the_bound(noise, shape):
    """What is beyond the room that the coefficients leave would grow by a factor at each step.

    Where there is nothing but 4 directions, the rounding of `x` itself makes weak ones, which the iteration takes up.
    """
    x = few_directions(*shape, noise)
    factor = _minimax_in(torch.bfloat16, x).float()
    assert torch.linalg.matrix_norm(factor, 2) < 1.4
    exact = moved(x.double(), minimax) / max(shape) ** 0.5
    assert noise == 0.0 or (factor * exact).sum() > 0.97 * factor.norm() * exact.norm()


def test_large_matrices_are_taken_in_bf16_where_that_is_fast():
    x = torch.randn(LARGE, LARGE)
    other = torch.bfloat16 if cpu_has_bf16() else torch.float32
    expected = _minimax_in(other, x).float() * LARGE**0.5
    assert torch.equal(polar(x), expected)
    small = torch.randn(LARGE - 1, LARGE - 1)
    assert not torch.equal(polar(small), polar(small).bfloat16().float())


def test_the_coefficients_are_the_best():
    """Chebyshev: a quintic's largest deviation is least where it is reached four times, with alternating signs."""
    low, high = 0.002, 1.02
    for a, b, c in MINIMAX:
        s = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), 20001, dtype=torch.float64)
        off = a * s + b * s**3 + c * s**5 - 1
        turns = [0, *[i + 1 for i, (x, y) in enumerate(pairwise(off.diff().tolist())) if x * y < 0], len(s) - 1]
        peaks = off[turns]
        worst = peaks.abs().amin().item()
        assert len(peaks) == 4
        assert (peaks[1:] * peaks[:-1] < 0).all()
        assert peaks.abs().amax() < 1.005 * worst
        low, high = 1 - worst, 1.02 * (1 + worst)
    assert worst == pytest.approx(0.347, abs=1e-3)


@pytest.mark.parametrize("function", [orthogonal, polar])
def test_what_has_no_direction_stays_0(function):
    assert torch.equal(function(torch.zeros(3, 4)), torch.zeros(3, 4))
    assert function(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("function", [orthogonal, polar])
def test_its_size_is_about_1(function):
    assert function(torch.randn(64, 256)).square().mean().sqrt() == pytest.approx(1.0, abs=0.25)


def each(function, x):
    return torch.stack([function(matrix) for matrix in x])


@BOTH
@pytest.mark.parametrize("shape", [(5, 4, 9), (5, 9, 4), (3, 5, 5), (1, 4, 9), (2, 130, 150), (3, 1, 6)], ids=str)
def test_each_matrix_of_a_batch_is_moved_by_itself(function, start, shape):
    """Whatever the others' sizes are, and in batched products or one by one."""
    x = torch.randn(shape, dtype=torch.float64)
    sizes = torch.logspace(-100, 100, len(x), dtype=x.dtype)[:, None, None]
    expected = each(lambda matrix: moved(matrix, start), x)
    torch.testing.assert_close(function(sizes * x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [orthogonal, polar])
@given(shape=st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6)), seed=st.integers(0, 99))
def test_a_batch_is_its_matrices_one_by_one(function, shape, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = each(function, x) if x.numel() else x
    torch.testing.assert_close(function(x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("function", [orthogonal, polar])
@pytest.mark.parametrize("shape", [(6, 40, 160), (6, 96, 40), (6, 48, 48)], ids=str)
def test_single_precision_is_enough_for_a_batch(function, shape):
    x = torch.stack([few_directions(*shape[1:]) for _ in range(shape[0])])
    exact = each(function, x.double())
    assert ((function(x) - exact).norm(dim=(1, 2)) < 5e-4 * exact.norm(dim=(1, 2))).all()


@pytest.mark.parametrize("function", [orthogonal, polar])
def test_a_matrix_of_zeros_in_a_batch_stays_and_leaves_the_others(function):
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    x[1] = 0
    y = function(x)
    assert torch.equal(y[1], torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(y[[0, 2]], each(function, x[[0, 2]]))


@pytest.mark.parametrize("function", [orthogonal, polar])
@pytest.mark.parametrize("shape", [(1, 12, 20), (3, LARGE, LARGE + 8)], ids=str)
def test_one_matrix_and_large_ones_are_taken_one_by_one_on_a_cpu(function, shape):
    """Batched products in bf16 are less exact there, and of large matrices no faster."""
    x = torch.randn(shape)
    assert torch.equal(function(x), each(function, x))


@pytest.mark.parametrize("together", [1, 50, 1000])
def test_a_batch_is_taken_in_parts(monkeypatch, together):
    x = torch.randn(7, 4, 6, dtype=torch.float64)
    whole, sizes = polar(x), []
    split = torch.split
    monkeypatch.setattr(torch, "split", lambda x, size: (sizes.append(size), split(x, size))[1])
    monkeypatch.setattr("mada_optim.matrix_batches.TOGETHER", together)
    torch.testing.assert_close(polar(x), whole, rtol=1e-9, atol=1e-9)
    assert sizes == {1: [], 50: [2], 1000: []}[together]


@pytest.mark.parametrize("function", [orthogonal, polar])
def test_a_batch_has_the_derivatives_of_its_matrices(function, monkeypatch):
    """Of large matrices too, whose products are otherwise in quarters."""
    monkeypatch.setattr("mada_optim.matrices.polar_factor.DIVIDED", 2)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 4, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(function(x), x, cotangent)
    (expected,) = torch.autograd.grad(each(function, x), x, cotangent)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("has", [True, False])
def test_a_torch_that_lists_no_capabilities_is_asked_otherwise(has, monkeypatch):
    """As torch 2.6."""
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(_is_avx512_bf16_supported=lambda: has))
    assert cpu_has_bf16.__wrapped__() is has
