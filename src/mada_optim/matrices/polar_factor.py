"""The polar factor of a matrix, by matrix products alone.

A tensor of three dimensions is a batch of matrices; batched products are used where they are faster and as exact.

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

from mada_optim import modes
from mada_optim.sharding import dtensors

Quintic = tuple[float, float, float]

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
BATCHED = 128  # shorter side up to which batched products are faster on a CPU
TOGETHER = 1 << 22  # elements of matrices in one batched product, which bounds its memory


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
def _on_whole_matrix(function: Callable[[Tensor], Tensor], x: Tensor, steps: Callable[[Tensor], Tensor]) -> Tensor:
    """`function(x)`, computed by `steps` on a matrix or a batch of matrices."""
    if has_torch_function_unary(x):
        traced: Tensor = handle_torch_function(function, (x,), x)
        return traced
    if dtensors.is_sharded(x):
        return dtensors.like(x, dtensors.taken_from(function(x.full_tensor()), x))  # type: ignore[attr-defined]
    if x.numel() == 0:
        return x
    if x.ndim == 3:
        return _of_batch(steps, x) * math.sqrt(max(x.shape[1:]))
    matrix = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    return steps(matrix).reshape(x.shape) * math.sqrt(max(matrix.shape))


def _of_batch(steps: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`steps` on each matrix of a batch, on as many at once as is fast."""
    size = _at_once(x)
    if size == 1:
        return torch.stack([steps(matrix) for matrix in x])
    return torch.cat([steps(part) for part in torch.split(x, size)])


def _at_once(x: Tensor) -> int:
    """Number of matrices of a batch that are computed together; on a CPU 1, if they are large."""
    by_itself = x.device.type == "cpu" and min(x.shape[1:]) > BATCHED
    return 1 if by_itself or len(x) == 1 else max(1, TOGETHER // x[0].numel())


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


def _norm(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The Frobenius norm of a matrix, or of each of a batch."""
    of_each = {} if x.ndim == 2 else {"dim": (1, 2), "keepdim": True}
    norm: Tensor = torch.linalg.vector_norm(x, dtype=dtype, **of_each)
    return norm


def _jordan(x: Tensor) -> Tensor:
    x = _normalized(x)
    x = x / _norm(x).clamp(min=0.5)  # 1 at least, where `x` isn't 0
    return _all_steps(x, _gram(x), JORDAN)


def _minimax(x: Tensor) -> Tensor:
    return _minimax_in(dtype_of_products(x), x).to(x.dtype)


def _minimax_in(dtype: torch.dtype, x: Tensor) -> Tensor:
    x = _normalized(x).to(dtype)
    gram = _gram(x)
    exact = torch.promote_types(dtype, torch.float32)
    norm = _norm(gram @ gram, exact) ** 0.25  # of A^2, whose largest eigenvalue is s^4
    scale = norm.clamp(min=0.5).to(dtype)  # 1 at least, where `x` isn't 0
    x, gram = x / scale, gram / scale**2
    return _all_steps(x, gram, MINIMAX)


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
    return x.mT @ x if _is_tall(x) else x @ x.mT


def _all_steps(x: Tensor, gram: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """X after all steps, which are taken on A where that is cheaper.

    They are not if torch rounds the factors of products: the small eigenvalues of A would then be noise, which grows.
    """
    is_long = max(x.shape[-2:]) > LONG * min(x.shape[-2:])
    return _on_gram(x, gram, quintics) if is_long and modes.products_are_exact(x) else _on_matrix(x, gram, quintics)


def _on_matrix(x: Tensor, gram: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """The steps one by one: 4 m^2 n + 2 m^3 operations each for m rows and n columns, m the smaller."""
    for i, (a, b, c) in enumerate(quintics):
        gram = _gram(x) if i else gram
        p = _plus_product(gram, gram, gram, b, c)
        left, right = (x, p) if _is_tall(x) else (p, x)
        x = _plus_product(x, left, right, a, 1.0)
    return x


def _on_gram(x: Tensor, gram: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """The steps on A: about 8 m^3 operations each, and 4 m^2 n for the product with X.

    All these matrices are polynomials of the first A, so they commute: a step takes A to p(A)^2 A, and X is multiplied
    once, by the product of all p(A). With rounding they don't commute exactly: the error of the product is largest on
    its right side, where A and X are smallest. For a tall X, the product is transposed.
    """
    product = p = _polynomial(gram, quintics[0])
    for quintic in quintics[1:]:
        gram = gram @ (p @ p)
        p = _polynomial(gram, quintic)
        product = p @ product
    return x @ product.mT if _is_tall(x) else product @ x


def _polynomial(gram: Tensor, quintic: Quintic) -> Tensor:
    a, b, c = quintic
    constant = a * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return constant + _plus_product(gram, gram, gram, b, c)


def _plus_product(x: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """The sum beta x + alpha left right, of matrices or of batches."""
    function = torch.addmm if x.ndim == 2 else torch.baddbmm
    return function(x, left, right, beta=beta, alpha=alpha)
