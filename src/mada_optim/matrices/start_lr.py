"""lr="auto": the initial learning rate, computed from the shapes of the matrices.

A step with an update of spectral norm s changes a layer's output by at most lr s times its input. With steps of the
same norm at every width, networks of all widths learn alike (Yang, Simon and Bernstein 2023, arXiv 2310.17813). The
norm of an orthogonalized update is kappa sqrt(max(rows, columns)). Its steps have the norm .02, as by Muon's authors
(Jordan et al. 2024), times `matrix_lr_ratio`. The elements of an Adam update are about 1 in size, with the same signs
along its strongest directions, so that its norm grows like the width: lr is proportional to 1 / width (Yang et al.
2022, arXiv 2203.03466). The two constants are from trials on small networks, docs/inside/lab-notebook.md.
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
#: The lr of a model without matrices.
WITHOUT_MATRICES = 1e-3


def of_shapes(rule: Rule, groups: Iterable[Mapping[str, Any]], total: Total = lambda x: x) -> float | None:
    """The initial lr of all groups together; None if no trained parameter has two dimensions.

    The width is the geometric mean, over the elements of the hidden matrices, of their matrix's longer side; if none is
    hidden, over all matrices. Each matrix of a batch counts by itself; frozen parameters don't count. If processes have
    a part of the parameters each, `total` sums over the processes.
    """
    groups = list(groups)
    flags = hidden_matrices.hidden(groups)
    hidden = [
        x for group, layouts in zip(groups, flags, strict=True) for x in zip(group["params"], layouts, strict=True)
    ]
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
    """The layout of a parameter's matrices, hidden or not."""
    layout = hidden_matrices.layout_of(group, p)
    return layout if is_matrix(p, layout) else False


def _logarithms(tensors: Iterable[tuple[Tensor, Layout]]) -> tuple[float, float]:
    """The sum over elements of the logarithm of their matrix's longer side, and the number of elements.

    Only trained parameters with a layout count.
    """
    sides = [
        (as_matrices(p.shape, layout).longer_side, p.numel()) for p, layout in tensors if layout and p.requires_grad
    ]
    return sum(n * math.log(side) for side, n in sides), float(sum(n for _, n in sides))
