"""The rows of a matrix in a rule: their mean squares, and factors that make them more alike.

A matrix here is a tensor of two dimensions, a batch has three; of more, the first dimension counts the rows, and a
vector is a column. Numbers of rows have the shape of the matrix without its last dimension. `row_mean_squares` and
`row_factors` are single operations in a traced graph, because a graph can't contain the shapes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from mada_optim.sharding import dtensors

EPS = 1e-8  # of the root mean square of a row, relative to that of the matrix, which is 1


def row_mean_squares(x: Tensor) -> Tensor:
    """The mean square of each row of `x`."""
    if has_torch_function((x,)):
        traced: Tensor = handle_torch_function(row_mean_squares, (x,), x)
        return traced
    if dtensors.is_sharded(x):
        return _on_whole(row_mean_squares, x)
    if x.ndim < 2:
        return x * x
    rows = x if x.ndim == 3 else x.flatten(1)
    return mean_squares(rows)


def row_factors(x: Tensor, r: Tensor) -> Tensor:
    """Factors on the rows of `x` that divide them by the roots of `r`, scaled so that the norm of `x` stays.

    Args:
        x: A matrix, or a batch.
        r: A running mean of the squares of each row, >= 0.

    Returns:
        One factor per row, which broadcasts over `x`. They are finite.
    """
    if has_torch_function((x, r)):
        traced: Tensor = handle_torch_function(row_factors, (x, r), x, r)
        return traced
    if dtensors.is_sharded(x):
        return _on_whole(lambda x, r: row_factors(x, r).expand_as(x).contiguous(), x, r)
    inverse = inverse_roots(r)
    sums = torch.stack(sums_of_squares(row_mean_squares(x), inverse)).sum(-1, keepdim=True)
    factors = inverse * norm_ratio(*sums)
    return factors.reshape(*factors.shape, *[1] * (x.ndim - factors.ndim))


def mean_squares(x: Tensor) -> Tensor:
    """The means of squares over the last dimension, without a copy of `x`."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms.square() / max(x.shape[-1], 1)


def inverse_roots(r: Tensor) -> Tensor:
    """One over the root of each element of `r`."""
    return 1 / (r.clamp(min=torch.finfo(r.dtype).tiny).sqrt() + EPS)


def sums_of_squares(squares: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of rows with these mean squares in the square of a norm, without their factors and with them."""
    return squares, squares * factors * factors


def norm_ratio(before: Tensor, after: Tensor) -> Tensor:
    """The factor that takes a norm whose square is `after` to one whose square is `before`; about 0 if both are 0."""
    tiny = torch.finfo(after.dtype).tiny
    return (before / after.clamp(min=tiny)).clamp(min=tiny).sqrt()  # a root has no derivative at 0


def _on_whole(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`function` of DTensors, which every process gathers."""
    result = function(*(dtensors.all_of(y) for y in (x, *others)))
    return dtensors.like(x, dtensors.taken_from(result, x))
