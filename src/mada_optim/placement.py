"""Where tensors lie in memory, and how.

A tensor stays the same object while its memory moves or is freed (`share_memory_()`, `x.data = y`, a queue between
processes, `torch.utils.swap_tensors`, a resized storage), and while its shape, strides or dtype change in place. Code
that works on addresses compares both at every step.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

from torch import Tensor

Looks = tuple[Any, ...]


class Placement:
    """Addresses and kinds of tensors, as they are now; of 0-d tensors little beside addresses, since they are many.

    For many tensors `mada_optim.engines.cpp.tensors` has a faster one.

    Args:
        tensors: Any tensors; what has no address is never where it was. They are not kept alive.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._addresses = addresses(tensors)
        self._dims, self._looks = seen(tensors) if self._addresses else ([], [])

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether `tensors` lie where those lay, and are of the same kinds, one by one. Their numbers may differ."""
        if self._addresses is None or addresses(tensors) != self._addresses:
            return False
        return not tensors or seen(tensors) == (self._dims, self._looks)


def seen(tensors: Sequence[Tensor]) -> tuple[list[int], list[Looks]]:
    """How many dimensions each has, -1 for a number that is lazily negated, and the looks of those that have some."""
    dims = [
        -1 if not n and negated else n
        for n, negated in zip(map(Tensor.dim, tensors), map(Tensor.is_neg, tensors), strict=True)
    ]
    return dims, list(map(look, compress(tensors, (n > 0 for n in dims))))


def addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """Where the first element of each is; None if one of them has no memory of its own, or is no tensor."""
    try:
        return list(map(Tensor.data_ptr, tensors))
    except (RuntimeError, TypeError):  # wrappers around other tensors; numbers
        return None


def look(x: Tensor) -> Looks:
    """What is compared of a tensor beside its address."""
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
