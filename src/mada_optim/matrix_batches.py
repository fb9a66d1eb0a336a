"""Equal matrices in batches: how many of a step's matrices a function is given at once.

A batch costs as many calls as one matrix. On CUDA that is most of the time of small and medium matrices, so all are
taken in batches. On a CPU only small ones are: batched products of larger ones are no faster, and in bf16 less exact.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Of a matrix, or of each matrix of a batch, which has three dimensions.
Function = Callable[[Tensor], Tensor]

BATCHED = 128  # shorter side up to which batched products are faster on a CPU
TOGETHER = 1 << 22  # elements in one batch on a CPU, which bounds its memory
TOGETHER_ON_CUDA = 1 << 23  # likewise on CUDA: 32 MiB in fp32


def at_once(rows: int, columns: int, device: torch.device) -> int:
    """The number of matrices of this shape in one batch, at least 1."""
    on_cpu = device.type == "cpu"
    if rows * columns == 0 or (on_cpu and min(rows, columns) > BATCHED):
        return 1
    return max(1, (TOGETHER if on_cpu else TOGETHER_ON_CUDA) // (rows * columns))


def plan(matrices: Sequence[Tensor]) -> list[list[int]]:
    """The positions of the matrices of each batch: equal in shape, dtype and device, and `at_once` of them at most."""
    equal: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
    for i, x in enumerate(matrices):
        equal.setdefault((x.shape, x.dtype, x.device), []).append(i)
    batches = []
    for (shape, _, device), positions in equal.items():
        size = at_once(shape[-2], shape[-1], device)
        batches += [positions[i : i + size] for i in range(0, len(positions), size)]
    return batches


def of_all(function: Function, matrices: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each matrix, in batches where they are faster.

    Args:
        function: Gives a tensor of the shape of its argument: a matrix, or a batch of matrices in three dimensions.
        matrices: Tensors of two dimensions, or of three, whose matrices join those of the others.

    Returns:
        The results, in the shapes and the order of `matrices`. They may share memory with one another. At a time,
        `function` has a copy of at most `TOGETHER` elements, on CUDA `TOGETHER_ON_CUDA`.
    """
    singles = [matrix for x in matrices for matrix in (x.unbind() if x.ndim == 3 else (x,))]
    results: dict[int, Tensor] = {}
    for positions in plan(singles):
        first = singles[positions[0]]
        if at_once(first.shape[0], first.shape[1], first.device) == 1:
            results[positions[0]] = function(first)
        else:  # also of one matrix: the result doesn't depend on the other matrices, as batched products round alike
            batch = torch.stack([singles[i] for i in positions])
            results.update(zip(positions, function(batch).unbind(), strict=True))
    in_order = iter([results[i] for i in range(len(singles))])
    return [_joined([next(in_order) for _ in x], x) if x.ndim == 3 else next(in_order) for x in matrices]


def _joined(results: list[Tensor], x: Tensor) -> Tensor:
    return torch.stack(results) if results else torch.empty_like(x)
