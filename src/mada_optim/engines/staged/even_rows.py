"""The part on rows of a rule that orthogonalizes: a factor on each row of each matrix, from a slot of mean squares.

Of a sharded matrix each process has some rows. Only the two squares of its norm are summed over the processes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mada_optim.engines.numbers import scalar
from mada_optim.engines.protocol import StepInput
from mada_optim.engines.staged.cut import Rows
from mada_optim.matrices.rows import inverse_roots, mean_squares, norm_ratio, sums_of_squares
from mada_optim.rule import Coefficients
from mada_optim.sharding import dtensors, exchange


class RowsHere(NamedTuple):
    """The rows of one parameter's matrices that this process has."""

    entry: StepInput  # of the tail
    rows: Tensor  # the polar factor, (rows, columns), which is overwritten
    r: Tensor  # the slot, (rows,)
    number: int  # matrices in the whole parameter
    of_each: int  # rows of each of them

    def places(self) -> Tensor:
        """The number of the matrix of each row."""
        whole, columns = self.entry.whole, self.rows.shape[1]
        first = 0 if whole is None else dtensors.first_element(whole) // max(columns, 1)
        rows = torch.arange(first, first + len(self.rows), device=self.rows.device)
        return rows.div(self.of_each, rounding_mode="floor")


def make_even(part: Rows, of_all: Sequence[RowsHere], where: Tensor) -> None:
    """Multiplies each row by its factor, and moves the slots where `where` (0-d boolean) holds."""
    numbers = {id(x.entry.options): _numbers(part, x.entry) for x in of_all}
    averages, inverses, sums = [], [], []
    for x in of_all:
        squares = mean_squares(x.rows)
        r = part.average(numbers[id(x.entry.options)], squares, {part.slot: x.r}, where)[1][part.slot]
        inverse = inverse_roots(r)
        averages.append(r)
        inverses.append(inverse)
        sums.append(_by_matrix(x, torch.stack(sums_of_squares(squares, inverse))))
    exchange.sum_over_shards(sums, [x.entry.whole for x in of_all])
    for x, r, inverse, of_matrices in zip(of_all, averages, inverses, sums, strict=True):
        ratio = norm_ratio(*of_matrices)
        even = inverse * (ratio if x.number == 1 else ratio.index_select(0, x.places()))
        factors, _ = part.factors(numbers[id(x.entry.options)], even, {}, where)
        x.rows.mul_(factors.unsqueeze(1))
        x.r.copy_(torch.where(where, r, x.r))


def _by_matrix(x: RowsHere, of_rows: Tensor) -> Tensor:
    """The sums over the rows of each matrix that are here: (2, number) of (2, rows)."""
    if x.number == 1:
        return of_rows.sum(1, keepdim=True)
    return of_rows.new_zeros(2, x.number).index_add_(1, x.places(), of_rows)


def _numbers(part: Rows, entry: StepInput) -> Coefficients:
    fixed, given = entry.program.rule.hyper_parameters, entry.options
    return {name: given[name] if name in fixed else scalar(given[name], entry.p.device) for name in part.numbers}
