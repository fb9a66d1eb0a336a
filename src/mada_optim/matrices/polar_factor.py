"""The polar factor of a matrix, by matrix products alone.

A tensor of three dimensions is a batch of matrices, computed in batched products where they are faster and as exact
(`mada_optim.matrix_batches`).

A step of the iteration is X <- p(A) X with p(A) = a + b A + c A^2 and A = X X^T. It moves each singular value s to
a s + b s^3 + c s^5 and no singular vector. `orthogonal` and `polar` are single operations in a traced graph, because a
graph can't contain the shapes. A DTensor is gathered: each process computes the whole result and keeps its shard.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from mada_optim import matrix_batches, modes
from mada_optim.sharding import dtensors

Quintic = tuple[float, float, float]
Steps = Callable[[Tensor, float], Tensor]  # of a matrix or a batch, and a factor on the result

#: Jordan's coefficients (Muon, 2024): torch.optim.Muon takes this step five times, from X over its Frobenius norm.
JORDAN: tuple[Quintic, ...] = ((3.4445, -4.7750, 2.0315),) * 5
#: Each has the smallest largest deviation from 1 on the image of [.002, 1] under those before it; no composition does
#: better (Amsel et al. 2025, arXiv 2505.16932). Each is scaled for arguments up to 1.02, a margin for rounding to bf16.
MINIMAX: tuple[Quintic, ...] = (
    (8.263223, -23.504199, 16.754055),
    (4.037, -2.887657, 0.521567),
    (3.670128, -2.640994, 0.495335),
    (2.793181, -2.014978, 0.42979),
)
LONG = 1.5  # ratio of the longer to the shorter side above which fp32 and fp64 iterate on A instead of X
LARGE = 256  # shorter side from which bf16 products are faster on a CPU with instructions for them
DIVIDED = 320  # rows from which quarters of a symmetric product are faster than all of it, with one or two threads


def orthogonal(x: Tensor) -> Tensor:
    """Approximately the semi-orthogonal matrix nearest to `x`, scaled to a root mean square of 1; 0 for `x` = 0.

    It takes the five steps of torch.optim.Muon, after which all singular values are about 1 (between .7 and 1.2). With
    k = min(rows, columns) singular values of 1, the root mean square is sqrt(k / (rows columns)) = 1 / sqrt(max(rows,
    columns)); the result is multiplied by the inverse. Three dimensions are a batch of matrices; with more, the matrix
    is the first dimension by all others; a vector is a column.
    """
    return _on_whole_matrix(orthogonal, x, _jordan)


def polar(x: Tensor) -> Tensor:
    """Like `orthogonal`, in four steps instead of five, and in bf16 where that is fast.

    Singular values from .002 to 1 of the largest end between .65 and 1.35. Smaller ones grow 342 times; those of
    `orthogonal` grow 485 times. But X is normalized by |A^2|_F^(1/4), which the first step has at no cost, instead of
    |X|_F. If m singular values are about equal, that is about m^(3/8) times nearer to the largest of them. The steps of
    fp32 matrices are in bf16, as those of torch.optim.Muon always are, on CUDA, and for large matrices on a CPU with
    bf16 instructions.
    """
    return _on_whole_matrix(polar, x, _minimax)


#: Operations that are not elementwise.
OF_MATRICES = (orthogonal, polar)


@modes.without_autocast()
def _on_whole_matrix(function: Callable[[Tensor], Tensor], x: Tensor, steps: Steps) -> Tensor:
    """`function(x)`, computed by `steps` on a matrix or a batch of matrices."""
    if has_torch_function_unary(x):
        traced: Tensor = handle_torch_function(function, (x,), x)
        return traced
    if dtensors.is_sharded(x):
        return dtensors.like(x, dtensors.taken_from(function(x.full_tensor()), x))  # type: ignore[attr-defined]
    if x.numel() == 0:
        return x
    if x.ndim == 3:
        return _of_batch(steps, x, math.sqrt(max(x.shape[1:])))
    matrix = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    return steps(matrix, math.sqrt(max(matrix.shape))).reshape(x.shape)


def _of_batch(steps: Steps, x: Tensor, factor: float) -> Tensor:
    """`steps` on each matrix of a batch, on as many at once as is fast."""
    size = matrix_batches.at_once(x.shape[1], x.shape[2], x.device)
    if size == 1:
        return torch.stack([steps(matrix, factor) for matrix in x])
    return steps(x, factor) if size >= len(x) else torch.cat([steps(part, factor) for part in torch.split(x, size)])


def _normalized(x: Tensor) -> Tensor:
    """`x` over its largest element, so that squares stay finite.

    The largest element is a constant for the derivative: multiples of `x` have the polar factor of `x`, so the
    derivative in the scale is 0. Torch 2.10 and older have no derivative of `aminmax`.
    """
    constant = x.detach()
    if x.ndim == 2:
        low, high = torch.aminmax(constant)  # a tenth of the time of the maximum norm
    else:
        low, high = (ends[..., None] for ends in torch.aminmax(constant.flatten(1), dim=1, keepdim=True))
    return x / torch.maximum(-low, high).clamp(min=torch.finfo(x.dtype).tiny)


def _jordan(x: Tensor, factor: float = 1.0) -> Tensor:
    x = _normalized(x)
    gram = _gram(x)
    square_of_norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)  # the trace of A; 1 at least, where X isn't 0
    norm = square_of_norm.clamp(min=0.25).sqrt()  # a root has no derivative at 0
    return _all_steps(x, gram, symmetric_product(gram, gram), norm, JORDAN, factor)


def _minimax(x: Tensor, factor: float = 1.0) -> Tensor:
    return _minimax_in(dtype_of_products(x), x, factor).to(x.dtype)


def _minimax_in(dtype: torch.dtype, x: Tensor, factor: float = 1.0) -> Tensor:
    x = _normalized(x).to(dtype)
    gram = _gram(x)
    square = symmetric_product(gram, gram)
    of_each = (-2, -1) if x.ndim == 3 else None
    exact = torch.promote_types(dtype, torch.float32)
    norm = torch.linalg.vector_norm(square, dim=of_each, dtype=exact)
    norm = norm.clamp(min=0.0625).sqrt().sqrt()  # the largest eigenvalue of A^2 is s^4; a root has no derivative at 0
    return _all_steps(x, gram, square, norm, MINIMAX, factor)


def dtype_of_products(x: Tensor) -> torch.dtype:
    in_bf16 = x.is_cuda or (x.device.type == "cpu" and min(x.shape[-2:]) >= LARGE and cpu_has_bf16())
    return torch.bfloat16 if x.dtype is torch.float32 and in_bf16 else x.dtype


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16 products; without them, bf16 is slower than fp32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # as in torch 2.6; processors with AMX have AVX512-BF16 too
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _is_tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _gram(x: Tensor) -> Tensor:
    """A: X X^T, or X^T X if that is smaller; then X is multiplied from the other side."""
    return symmetric_product(x.mT, x) if _is_tall(x) else symmetric_product(x, x.mT)


def _all_steps(
    x: Tensor, gram: Tensor, square: Tensor, norm: Tensor, quintics: Sequence[Quintic], factor: float
) -> Tensor:
    """X over its norm after all steps, times `factor`. The steps are taken on A where that is cheaper.

    They are not if torch rounds the factors of products: the small eigenvalues of A would then be noise, which grows.
    The norm divides the coefficients of the first step, and `factor` multiplies those of the last, instead of X.
    """
    (a, b, c), *rest, last = quintics
    scale = norm[..., None, None] if x.ndim == 3 else norm
    exact = torch.promote_types(x.dtype, torch.float32)  # the terms of the first step are large and nearly cancel out
    cube = scale * scale * scale  # pow rounds one number otherwise than several
    p = torch.addcmul(gram.to(exact) * (b / cube), square.to(exact), c / (cube * scale * scale))
    _add_to_diagonal(p, a / scale)
    p = p.to(x.dtype)
    rest.append((factor * last[0], factor * last[1], factor * last[2]))
    is_long = max(x.shape[-2:]) > LONG * min(x.shape[-2:])
    return _on_gram(x, gram, p, rest) if is_long and modes.products_are_exact(x) else _on_matrix(x, p, rest)


def _on_matrix(x: Tensor, p: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """The steps one by one: 4 m^2 n + 2 m^3 operations each, m the shorter side and n the longer.

    a X is added after the product: on the diagonal of p(A), bf16 would round it.
    """
    x = _times(p, x)
    for a, b, c in quintics:
        gram = _gram(x)
        p = symmetric_product(gram, gram, gram, b, c)
        left, right = (x, p) if _is_tall(x) else (p, x)
        x = _plus_product(x, left, right, a, 1.0)
    return x


def _on_gram(x: Tensor, gram: Tensor, p: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """The steps on A: 8 m^3 operations each after the first, and 2 m^2 n for the product with X.

    All these matrices are polynomials of the first A, so they commute: a step takes A to p(A)^2 A, and X is multiplied
    once, by the product of all p(A). With rounding they don't commute exactly: the error of the product is largest on
    its right side, where A and X are smallest. A mirror would bring it to the left side, so that matrices of low rank
    came out wrong by some percent; only squares of p(A) bear it. For a tall X, the product is transposed.
    """
    product = p
    for a, b, c in quintics:
        gram = gram @ symmetric_product(p, p)
        p = _plus_product(gram, gram, gram, b, c)
        _add_to_diagonal(p, a)
        product = p @ product
    return _times(product, x)


def _add_to_diagonal(x: Tensor, number: Tensor | float) -> None:
    """Adds a number to the diagonal of a matrix; to those of a batch, one of shape (number, 1, 1) or a float."""
    x.diagonal(dim1=-2, dim2=-1).add_(number[..., 0] if isinstance(number, Tensor) and x.ndim == 3 else number)


def _times(p: Tensor, x: Tensor) -> Tensor:
    """The product p X, or X p^T for a tall X."""
    return x @ p.mT if _is_tall(x) else p @ x


def _plus_product(x: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """The sum beta x + alpha left right, of matrices or of batches."""
    function = torch.addmm if x.ndim == 2 else torch.baddbmm
    return function(x, left, right, beta=beta, alpha=alpha)


def symmetric_product(
    left: Tensor, right: Tensor, plus: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """The sum alpha left right + beta plus, of matrices or of batches, if it is symmetric.

    Of large matrices on a CPU three quarters are computed, and the lower left one is copied from the upper right one,
    as also within the quarters on the diagonal. That saves up to half of the operations.
    """
    if not _is_divided(left) or (left.requires_grad and torch.is_grad_enabled()):
        return left @ right if plus is None else _plus_product(plus, left, right, beta, alpha)
    out = left.new_empty(len(left), len(left))
    if plus is not None:
        out.copy_(plus)
    _add_symmetric(out, left, right, beta if plus is not None else 0.0, alpha)
    return out


def _is_divided(x: Tensor) -> bool:
    """Whether a symmetric product with as many rows is faster in quarters. Each thread needs enough of them."""
    least = DIVIDED * max(2, torch.get_num_threads()) // 2
    return x.ndim == 2 and len(x) >= least and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _add_symmetric(out: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> None:
    """Writes alpha left right + beta out into `out`; with beta = 0 whatever is in it."""
    if not _is_divided(left):
        torch.addmm(out, left, right, beta=beta, alpha=alpha, out=out)
        return
    half = len(out) // 2
    _add_symmetric(out[:half, :half], left[:half], right[:, :half], beta, alpha)
    _add_symmetric(out[half:, half:], left[half:], right[:, half:], beta, alpha)
    corner = out[:half, half:]
    torch.addmm(corner, left[:half], right[:, half:], beta=beta, alpha=alpha, out=corner)
    out[half:, :half] = corner.mT
