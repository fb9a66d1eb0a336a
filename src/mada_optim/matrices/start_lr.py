"""Where a learned lr starts, if not at the lr that was given: where the first steps fit the sizes of the matrices.

Where an update has a spectral norm s, a step changes what a layer puts out by lr s of what it takes in, at most; with a
step of the same norm at every width, networks of all widths learn alike (Yang, Simon and Bernstein 2023, arXiv
2310.17813). Of an orthogonalised update, O of norm sqrt(max(rows, columns)) times kappa, the norm is known; .02 is what
Muon's authors take (Jordan et al. 2024), so lr itself has that, of which matrices take `matrix_lr_ratio`. An Adam
update has elements of about 1, of the same signs along its strongest directions, so that its norm grows with the width
itself: lr falls with 1 / width (Yang et al. 2022, arXiv 2203.03466).
The two constants are from trials on small networks, docs/lab-notebook.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim.layouts import Layout, as_matrices, is_matrix
from mada_optim.matrices import hidden_matrices
from mada_optim.rule import LR, Rule

Group = dict[str, Any]
Total = Callable[[Tensor], Tensor]

SPECTRAL_STEP = 0.02
POINTWISE_STEP = 0.4
#: Where there is no matrix.
WITHOUT_MATRICES = 1e-3


def of_shapes(rule: Rule, groups: Iterable[Mapping[str, Any]], total: Total = lambda x: x) -> float | None:
    """The first lr of all groups together; None where no parameter that is trained has two dimensions.

    The width is the larger side of the hidden matrices, in the geometric mean over their elements; of all matrices,
    where none is hidden. Each of a batch of matrices counts as one. Frozen parameters don't count. Where processes have
    a part of the parameters each, `total` sums over them.
    """
    groups = list(groups)
    flags = hidden_matrices.hidden(groups)
    hidden = [x for group, own in zip(groups, flags, strict=True) for x in zip(group["params"], own, strict=True)]
    every = [(p, _any_layout(group, p)) for group in groups for p in group["params"]]
    sums = total(torch.tensor([_logarithms(hidden), _logarithms(every)], dtype=torch.float64, device="cpu"))
    (of_hidden, hidden_elements), (of_every, elements) = sums.tolist()
    if not elements:
        return None
    width = math.exp(of_hidden / hidden_elements) if hidden_elements else math.exp(of_every / elements)
    if hidden_elements and not rule.pointwise:
        return SPECTRAL_STEP / (_scale(rule, groups[0]) * math.sqrt(width))
    return POINTWISE_STEP / width


def set_start(rule: Rule, groups: Sequence[Group], chosen: Sequence[bool], defaults: Group, total: Total) -> None:
    """Writes the computed lr into the groups whose lr was not `chosen` by the user, and into the defaults."""
    start = of_shapes(rule, groups, total)
    if start is not None:
        for group in (defaults, *(x for i, x in enumerate(groups) if not any(chosen[i : i + 1]))):
            group["lr"] *= start / WITHOUT_MATRICES


def log_floor(rule: Rule, groups: Sequence[Group], total: Total) -> float | None:
    """Where the learned factor of lr falls slowly from: ln(computed lr / largest lr of a group), at most 0.

    None if there is no matrix, or every lr is 0.
    """
    largest = max((float(group["lr"]) for group in groups), default=0.0)
    if not largest > 0:
        return None
    start = of_shapes(rule, groups, total)
    return None if start is None else min(LR.default, math.log(start / largest))


def _scale(rule: Rule, options: Mapping[str, Any]) -> float:
    """The root mean square of the update of a hidden matrix."""
    return float(options["kappa" if rule.matrix_weight is None else "kappa_matrix"])


def _any_layout(group: Mapping[str, Any], p: Tensor) -> Layout:
    """Where the matrices of a parameter are, hidden or not."""
    layout = hidden_matrices.layout_of(group, p)
    return layout if is_matrix(p, layout) else False


def _logarithms(tensors: Iterable[tuple[Tensor, Layout]]) -> tuple[float, float]:
    """The sum over all elements of the logarithm of their matrix's longer side, and the number of elements.

    Of the parameters that have a layout and are trained.
    """
    sides = [
        (as_matrices(p.shape, layout).longer_side, p.numel()) for p, layout in tensors if layout and p.requires_grad
    ]
    return sum(n * math.log(side) for side, n in sides), float(sum(n for _, n in sides))
