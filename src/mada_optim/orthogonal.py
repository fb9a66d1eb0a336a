"""What a rule for matrices needs and torch has no operation for."""

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from mada_optim import shards

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


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
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    tall = wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
    orthogonalised: Tensor = tall.reshape(x.shape) * math.sqrt(max(matrix.shape))
    return orthogonalised
