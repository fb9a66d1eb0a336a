"""Where tensors lie in memory, and how.

A tensor stays the same object while its memory moves or is freed (`share_memory_()`, `x.data = y`, a queue between
processes, `torch.utils.swap_tensors`, a resized storage), and while its shape, strides or dtype change in place. Code
that works on addresses compares both at every step.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

from torch import Tensor

try:
    from torch._C._dynamo import guards
except ImportError:
    guards = None  # type: ignore[assignment]
#: Compares the kinds of many tensors in one call, where torch has it.
GUARDS: Any = getattr(guards, "TensorGuards", None)

Looks = tuple[Any, ...]


class Kinds:
    """Type, dtype, device, shape, strides and lazy bits of tensors, as they are now.

    Args:
        tensors: Plain, strided tensors. They are not kept alive.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._guards, self._looks = None, list[Looks]()
        if GUARDS is not None and tensors:
            shapes, strides = [list(x.shape) for x in tensors], [list(x.stride()) for x in tensors]
            self._guards = GUARDS(*tensors, dynamic_dims_sizes=shapes, dynamic_dims_strides=strides)
        else:
            self._looks = list(map(look, tensors))

    def same(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether `tensors` are of the same kinds, one by one; None is of none."""
        if len(tensors) != self._count:
            return False
        if self._guards is not None:
            same: bool = self._guards.check(*tensors)
            return same
        return all(x is not None and look(x) == y for x, y in zip(tensors, self._looks, strict=True))


class Placement:
    """Addresses and kinds of tensors, as they are now; of 0-d tensors addresses alone, since they are many.

    A 0-d tensor that stays where it was is the same number, whatever its shape is now.

    Args:
        tensors: Any tensors; what has no address is never where it was. They are not kept alive.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._addresses = addresses(tensors)
        self._wide = [x.ndim > 0 for x in tensors] if self._addresses else []
        self._kinds = Kinds(list(compress(tensors, self._wide)))

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether `tensors` lie where those lay, and are of the same kinds, one by one. Their numbers may differ."""
        if self._addresses is None or addresses(tensors) != self._addresses:
            return False
        return self._kinds.same(list(compress(tensors, self._wide)))


def addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """Where the first element of each is; None if one of them has no memory of its own, or is no tensor."""
    try:
        return list(map(Tensor.data_ptr, tensors))
    except (RuntimeError, TypeError):  # wrappers around other tensors; numbers
        return None


def look(x: Tensor) -> Looks:
    """What `Kinds` compares of a tensor."""
    return type(x), x.dtype, x.device, x.shape, x.stride(), x.is_neg(), x.is_conj(), x.requires_grad


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
