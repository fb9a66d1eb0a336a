"""What a rule for matrices needs and torch has no operation for."""

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from mada_optim import shards

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5
WIDE = 1.5  # columns over rows, from where on the iteration is cheaper on A than on X


def orthogonal(x: Tensor) -> Tensor:
    """The semi-orthogonal matrix nearest to `x`, roughly, scaled to a root mean square of 1; 0 where `x` is 0.

    Five steps of the Newton-Schulz iteration X <- a X + (b A + c A^2) X, A = X X^T, in whose limit all singular values
    are about 1 (between .7 and 1.2), with Jordan's coefficients (Muon, 2024). A kernel of a convolution is the
    matrix of its output channels by all else, a vector a column. With k = min(rows, columns) singular values of 1 the
    root mean square is sqrt(k / (rows columns)) = 1 / sqrt(max(rows, columns)).

    One operation to who traces a rule: it is of matrices, and no constant shape could be written into a graph. A
    DTensor is gathered: each process computes all of it, and keeps its shard.
    """
    if has_torch_function_unary(x):
        whole: Tensor = handle_torch_function(orthogonal, (x,), x)
        return whole
    if shards.is_sharded(x):
        return shards.like(x, shards.taken_from(orthogonal(x.full_tensor()), x))  # type: ignore[attr-defined]
    if x.numel() == 0:
        return x
    matrix = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)  # squares of what is left are numbers
    wide = wide / torch.linalg.vector_norm(wide).clamp(min=0.5)  # 1 at least, where `x` isn't 0
    wide = _iterated(wide)
    tall = wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
    orthogonalised: Tensor = tall.reshape(x.shape) * math.sqrt(max(matrix.shape))
    return orthogonalised


def _iterated(x: Tensor) -> Tensor:
    """X after all steps; no more rows than columns.

    With p(A) = a + b A + c A^2 a step is X <- p(A) X. All these matrices are polynomials of the first A, so they
    commute: A = X X^T itself goes to p(A)^2 A, and X can wait for the product of all p(A). That is some
    4 m^2 n + 34 m^3 operations for m rows and n columns, for 20 m^2 n + 10 m^3 of the steps on X.
    """
    a, b, c = NEWTON_SCHULZ
    if x.shape[1] > WIDE * x.shape[0]:
        return _product(x @ x.mT) @ x
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _product(gram: Tensor) -> Tensor:
    """p(A) of the last step times that of the one before, and so on; `gram` is the first A."""
    a, b, c = NEWTON_SCHULZ
    constant = a * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = p = constant + torch.addmm(gram, gram, gram, beta=b, alpha=c)
    for _ in range(STEPS - 1):
        gram = gram @ (p @ p)
        p = constant + torch.addmm(gram, gram, gram, beta=b, alpha=c)
        product = p @ product
    return product
