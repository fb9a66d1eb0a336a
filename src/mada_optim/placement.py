"""Compares addresses, shapes and strides of tensors, for code that keeps addresses from step to step.

A tensor stays the same object while its memory moves or is freed (`share_memory_()`, `x.data = y`, a queue between
processes, `torch.utils.swap_tensors`, a resized storage), and while its shape, strides or dtype change in place.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

from torch import Tensor
from torch.nn import Parameter

Looks = tuple[Any, ...]
PLAIN = (Tensor, Parameter)


class Placement:
    """Addresses, shapes and dtypes of tensors at one moment; of 0-d tensors only the address and the sign.

    The tensors are not kept alive. `mada_optim.engines.cpp.tensors` has a faster one.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._addresses = addresses(tensors)
        self._dims, self._looks = forms(tensors) if self._addresses else ([], [])

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether `tensors` have the same addresses, shapes and dtypes; False if one has no address."""
        if self._addresses is None or addresses(tensors) != self._addresses:
            return False
        return not tensors or forms(tensors) == (self._dims, self._looks)


def forms(tensors: Sequence[Tensor]) -> tuple[list[int], list[Looks]]:
    """The dimension of each, -1 if it is 0-d and lazily negated, and the looks of those that are not 0-d."""
    dims = [
        -1 if not n and negated else n
        for n, negated in zip(map(Tensor.dim, tensors), map(Tensor.is_neg, tensors), strict=True)
    ]
    return dims, list(map(look, compress(tensors, (n > 0 for n in dims))))


def addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """The address of each first element; None if one has no memory of its own, or is no tensor."""
    try:
        return list(map(Tensor.data_ptr, tensors))
    except (RuntimeError, TypeError):  # wrappers around other tensors; numbers
        return None


def look(x: Tensor) -> Looks:
    """All that is compared but the address."""
    return type(x), x.dtype, x.device, x.shape, x.stride(), x.is_neg(), x.untyped_storage().nbytes()


def intact(x: Tensor) -> bool:
    """Whether all elements of a strided tensor are inside its storage, which may have been resized since."""
    if not x.numel():
        return True
    last = x.numel() - 1 if x.is_contiguous() else sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.untyped_storage().nbytes() >= (x.storage_offset() + last + 1) * x.element_size()


def stacked(x: Tensor) -> bool:
    """Whether several elements of a strided tensor share one place in memory, as after `expand`."""
    if x.is_contiguous():
        return False
    return any(n > 1 and not stride for n, stride in zip(x.shape, x.stride(), strict=True))


def fault_of(x: object, shape: tuple[int, ...], p: Tensor) -> str | None:
    """The fault of `x`, which belongs to the parameter `p` and should have this shape; None if there is none."""
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
