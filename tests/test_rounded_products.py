"""Polar factors where torch rounds the factors of products: of norm about 1 all the same.

Catches: steps on the Gram matrix, whose small eigenvalues rounding turns into large ones.
"""

import contextlib

import pytest
import torch

from mada_optim.matrices.polar_factor import orthogonal, polar


@contextlib.contextmanager
def legacy(value):
    """What most scripts say."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def backend_rounds():
    """What torch's newer options say instead of `set_float32_matmul_precision`."""
    before, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


needs_options = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="torch has options of a backend's precision since torch 2.9"
)
PRECISIONS = {
    "medium": lambda: legacy("medium"),
    "high": lambda: legacy("high"),
    "backend": backend_rounds,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("precision", [pytest.param(x, marks=[needs_options] * (x == "backend")) for x in PRECISIONS])
@pytest.mark.parametrize("shape", [(128, 512), (512, 128), (96, 100), (300, 300)], ids=str)
@pytest.mark.parametrize("function", [polar, orthogonal])
def test_rounded_products_leave_a_polar_factor_near_one(function, shape, precision):
    """Of a matrix of low rank with noise, whose small singular values are what rounding turns into large ones."""
    torch.manual_seed(0)
    x = torch.randn(shape[0], 4) @ torch.randn(4, shape[1]) + 0.01 * torch.randn(shape)
    with PRECISIONS[precision]():
        norm = torch.linalg.matrix_norm(function(x).double() / max(shape) ** 0.5, 2)
        assert norm < 1.4
        assert function(x).dtype is torch.float32
