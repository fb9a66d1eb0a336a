"""Whether the state of a parameter still fits it: a user may have moved, resized or replaced tensors since.

torch computes with a state that doesn't fit as far as it gets: it broadcasts, reads beyond the end of a storage that
was resized, or fails when half of the state has moved.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from mada_optim.engines.eager import Cell, per_element
from mada_optim.placement import intact, stacked

PLAIN = (Tensor, torch.nn.Parameter)
REMEDY = "restore it, load a state dict, or begin the state anew: opt.state.pop(parameter)"


def check(cell: Cell, names: Iterable[str]) -> None:
    """Refuses a state that can't be used.

    Args:
        cell: A parameter and its state.
        names: The entries that are used.

    Raises:
        RuntimeError: Names the parameter, the entry, what it must be, and what to do.
    """
    shared, slots = per_element(cell.rule), cell.rule.slot_names()
    for name in names:
        shape = cell.p.shape if name in shared else (1 + len(cell.rule.coefficients),) * (name == "applied")
        x = cell.state.get(name)
        fault = fault_of(x, tuple(shape), cell.p)
        if fault is None and name in slots and isinstance(x, Tensor) and x.dtype is torch.float16:
            fault = "expected float32, bfloat16 or float64, which hold squares of gradients, got float16"
        if fault is not None:
            raise RuntimeError(f"state of {called(cell)}, {name!r}: {fault}; {REMEDY}")


def fault_of(x: object, shape: tuple[int, ...], p: Tensor) -> str | None:
    """What is wrong with an entry of the state of `p` that should have this shape; None if nothing is."""
    if not isinstance(x, Tensor):
        return f"expected a tensor, got {'nothing' if x is None else type(x).__name__}"
    if x.shape != shape:
        return f"expected the size {shape}, got {tuple(x.shape)}"
    if x.device != p.device:
        return f"expected the device {p.device} of the parameter, got {x.device}"
    if type(x) not in PLAIN:
        return None  # subclasses may keep their numbers elsewhere
    if not intact(x):
        return f"expected memory for {x.numel()} elements, got a storage of {x.untyped_storage().nbytes()} bytes"
    if stacked(x):
        return f"expected memory of its own for each element, got the strides {x.stride()}"
    return None


def called(cell: Cell) -> str:
    """A parameter by its name, or by its shape if it has none."""
    params = cell.options["params"]
    names = cell.options.get("param_names", [f"parameter {j} of its group" for j in range(len(params))])
    own = (name for x, name in zip(params, names, strict=True) if x is cell.p or x is cell.whole)
    return next(own, f"the parameter of shape {tuple(cell.p.shape)}")
