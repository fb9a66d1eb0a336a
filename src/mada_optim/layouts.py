"""The layout of a parameter's matrices: the parameter itself, a batch of matrices, or blocks of its rows.

A rule for matrices orthogonalizes each separately. Slots keep the parameter's shape; the rule sees a view.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mada_optim import matrix_batches
from mada_optim.rule import Coefficients, Rule, Slots

#: True: one matrix, the first dimension by all others. "batched": one in the last two dimensions, for each place in the
#: others. A number n: n blocks of as many rows each. False: none.
Layout = bool | int | str

BATCHED = "batched"
KERNEL = 16  # longest side of a convolution's kernel, where nothing but a shape is known


class Matrices(NamedTuple):
    """The equal matrices in a parameter: how many, and the rows and columns of each."""

    number: int
    rows: int
    columns: int

    @property
    def longer_side(self) -> int:
        return max(self.rows, self.columns)


def as_matrices(shape: Sequence[int], layout: Layout) -> Matrices:
    """The matrices of a parameter of this shape, by a `settled` layout; a vector is a column."""
    if isinstance(layout, str):
        return Matrices(math.prod(shape[:-2]), *shape[-2:])
    blocks = int(layout)
    return Matrices(blocks, shape[0] // blocks, math.prod(shape[1:]))


def layout_by_shape(p: Tensor) -> Layout:
    """The layout of a parameter by its shape alone: "batched" for experts, True for all else.

    Of three dimensions, the last is the length of a convolution's kernel or a side of each expert; of more, the last
    two are. A leading dimension of 1 is that of a position embedding, which broadcasts over the examples.
    """
    sides = p.shape[-1:] if p.ndim == 3 else p.shape[-2:]
    return BATCHED if p.ndim > 2 and p.shape[0] > 1 and min(sides) > KERNEL else True


def settled(p: Tensor, layout: Layout) -> Layout:
    """The layout of `p` in its simplest form: True for one matrix, as of a vector or a complex parameter."""
    if layout is False or p.ndim < 2 or p.is_complex():
        return layout is not False
    if isinstance(layout, str):
        return BATCHED if p.ndim > 2 else True
    return layout if layout > 1 and p.shape[0] % layout == 0 else True


def is_matrix(p: Tensor, layout: Layout = True) -> bool:
    """Whether a parameter, or each matrix in it, is more than a row or a column."""
    if p.ndim < 2 or p.numel() == 0 or p.is_complex():
        return False
    _, rows, columns = as_matrices(p.shape, layout)
    return rows > 1 and columns > 1


def view_shape(shape: torch.Size, layout: Layout) -> torch.Size:
    """The shape in which a rule for matrices sees a parameter: (rows, columns), or (number, rows, columns)."""
    if len(shape) < 2 or layout is False:
        return shape
    matrices = as_matrices(shape, layout)
    return torch.Size(matrices[1:] if layout is True else matrices)


def row_shape(shape: torch.Size, layout: Layout) -> torch.Size:
    """The shape of a slot with one number per row of the matrices in a parameter: its first dimensions."""
    return shape[:-1] if layout == BATCHED and len(shape) > 2 else shape[:1]


def viewing(rule: Rule, layout: Layout) -> Rule:
    """`rule` for tensors in the parameter's shape; it sees their matrices."""
    rows = [slot.name for slot in rule.slots if slot.per_row]

    def update(c: Coefficients, g: Tensor, s: Slots, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        shape = view_shape(g.shape, layout)
        if shape == g.shape:
            return rule.update(c, g, s, t)
        seen = {name: _reshaped(x, shape[:-1] if name in rows else shape) for name, x in s.items()}
        u, after = rule.update(c, g.reshape(shape), seen, t)
        return u.reshape(g.shape), {name: _reshaped(x, s[name].shape) for name, x in after.items()}

    return replace(rule, update=update)


def of_each(function: Callable[[Tensor], Tensor], x: Tensor, layout: Layout) -> Tensor:
    """`function` of the matrices in `x`, in the shape of `x`, which is the parameter's."""
    shape = view_shape(x.shape, layout)
    return function(x) if shape == x.shape else function(x.reshape(shape)).reshape(x.shape)


def of_all(function: Callable[[Tensor], Tensor], tensors: Sequence[Tensor], layouts: Sequence[Layout]) -> list[Tensor]:
    """`function` of the matrices in each tensor, those of equal shapes together where that is faster.

    Args:
        function: Of a matrix, or of each matrix of a batch, as `mada_optim.matrices.polar_factor.polar`.
        tensors: Parameters, or tensors of their shapes, of one dimension or more. A vector is a column.
        layouts: The `settled` layout of each.

    Returns:
        A result in the shape of each tensor, as if `of_each` took them one by one, up to rounding.
    """
    views = [
        x.reshape(view_shape(x.shape, layout or True)) if x.ndim > 1 else x.reshape(-1, 1)
        for x, layout in zip(tensors, layouts, strict=True)
    ]
    results = matrix_batches.of_all(function, views)
    return [y.reshape(x.shape) for x, y in zip(tensors, results, strict=True)]


def _reshaped(slot: Tensor, shape: torch.Size) -> Tensor:
    return slot.reshape(shape) if slot.ndim else slot
