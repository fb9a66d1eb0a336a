"""Reads addresses, shapes and dtypes of many tensors in one call of tensors.cpp, compiled once per machine.

It calls torch's stable C interface on the C++ tensors inside Python's objects. It searches for their place in an
object, and compares what it reads with Python's answers before it is used. Python alone takes five to fifty times as
long (`mada_optim.placement`), which matters in a step of many small tensors (docs/results/performance.md).
"""

import ctypes
import functools
from array import array
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mada_optim import placement
from mada_optim.engines.cpp import build

SOURCE = Path(__file__).with_name("tensors.cpp")
TYPES = (Tensor, torch.nn.Parameter)
FIXED = 8  # as in tensors.cpp, like the order of numbers in `Look`
OBJECT_WORDS = 8  # of a Python object, which are searched for its type and its tensor
WORD = array("q").itemsize
#: Functions of torch's C interface, in the order of `Torch` in tensors.cpp.
GETTERS = "dtype device_type dim storage_size storage_offset sizes strides data_ptr".split()
LAYOUT = "aoti_torch_get_layout"  # before them; older versions of torch have no such function
LAYOUT_AT = 5  # its place in `Torch`
IS_NEG = "_ZN2at6native6is_negERKNS_6TensorE"  # the C interface has none: at::native::is_neg(const at::Tensor &)
Refused = (build.BuildError, OSError, AttributeError, StopIteration, ValueError)


class Reader:
    """Reads tensors through tensors.cpp. Raises one of `Refused` if it can't be built, or torch isn't as expected."""

    def __init__(self) -> None:
        code = ctypes.PyDLL(build.load("", (), SOURCE)._name)  # holds Python's lock, since it reads objects
        self._take, self._holds, self._plain = code.take, code.holds, code.plain
        code.max_numbers.restype = self._take.restype = ctypes.c_int64
        self._width = code.max_numbers()
        self._torch = functions()
        self._knows_layouts = self._torch[LAYOUT_AT] != 0
        self._pointer = ctypes.c_void_p(self._torch.buffer_info()[0])
        self._types = array("q", map(id, TYPES))
        self._like = self._trusted()

    def _trusted(self) -> "array[int]":
        """The look of one element as loops take it, once reading has been compared with Python."""
        xs = [zeros(3, 1, 2)[1:].mT, torch.nn.Parameter(zeros()), torch._neg_view(zeros(2))]
        like = self.take([zeros(1)])
        for x in xs:
            look = self.take([x])
            expected = (id(x), id(type(x)), x._cdata, x.data_ptr(), x.untyped_storage().nbytes(), x.storage_offset())
            if like is None or look is None or (*look[:3], *look[4:7]) != expected:
                raise ValueError("tensors are not where they are expected in Python's objects")
            if list(look[7:]) != [x.ndim, *x.shape, *x.stride()] or (look[3] == like[3]) == x.is_neg():
                raise ValueError("tensors are read otherwise than by Python")
        assert like is not None
        return like

    def take(self, tensors: list[Tensor]) -> "array[int] | None":
        """The looks of tensors; None if one has no memory of its own, or is no plain tensor or parameter."""
        if not set(map(type, tensors)) <= set(TYPES) or not self._strided(tensors):
            return None
        looks = array("q", bytes(WORD * self._width * len(tensors)))
        length = self._take(self._pointer, ctypes.py_object(tensors), ctypes.c_int64(len(tensors)), pointer(looks))
        return None if length < 0 else looks[:length]

    def holds(self, tensors: list[Tensor], looks: "array[int]") -> bool:
        """Whether these are the tensors from which `looks` was taken, unchanged but for their numbers."""
        count = ctypes.c_int64(len(tensors))
        return bool(self._holds(self._pointer, ctypes.py_object(tensors), count, pointer(looks)))

    def plain(self, tensors: list[Any], sizes: "array[int]", to: int, step: int) -> bool:
        """Whether the loops can take each of any objects, as a tensor with these sizes; writes the addresses.

        `sizes` has the dimension and the sizes of each. The first address is written to the address `to`, each later
        one `step` words further.
        """
        expected = (pointer(self._types), pointer(self._like), pointer(sizes))
        arguments = (ctypes.py_object(tensors), ctypes.c_int64(len(tensors)), *expected)
        if not self._strided(tensors):
            return False
        return bool(self._plain(self._pointer, *arguments, ctypes.c_void_p(to), ctypes.c_int64(step)))

    def _strided(self, tensors: list[Any]) -> bool:
        """Whether all tensors are strided; True too where tensors.cpp can tell that itself."""
        return self._knows_layouts or all(getattr(x, "layout", None) is torch.strided for x in tensors)


class Placement:
    """As `mada_optim.placement.Placement`, read by `Reader`; keeps the tensors alive."""

    def __init__(self, reader: Reader, tensors: list[Tensor]) -> None:
        self._reader, self._tensors = reader, tensors
        self._looks = reader.take(tensors)

    def holds(self, tensors: list[Tensor]) -> bool:
        """Whether they are the same tensors, unchanged but for their numbers."""
        if self._looks is None or len(tensors) != len(self._tensors):
            return False
        return self._reader.holds(tensors, self._looks)


class PlainSteps:
    """Tells for all tensors of a step at once whether the loops can take them."""

    def __init__(self) -> None:
        self._sizes = array("q")
        self._addresses = array("q")

    def takes(self, ps: list[Any], gs: list[Any]) -> bool:
        """Whether all parameters and gradients are plain; False too if Python would have to ask each."""
        read = reader()
        if read is None or not set(map(type, ps)) | set(map(type, gs)) <= set(TYPES):
            return False
        if len(self._addresses) != len(ps) or not self._fit(read, ps):
            self._sizes, self._addresses = sizes_of(ps), array("q", bytes(WORD * len(ps)))
        return self._fit(read, ps) and self._fit(read, gs)

    def _fit(self, read: Reader, xs: list[Any]) -> bool:
        return read.plain(xs, self._sizes, self._addresses.buffer_info()[0], 1)


def placement_of(tensors: list[Tensor]) -> "Placement | placement.Placement":
    read = reader()
    return placement.Placement(tensors) if read is None else Placement(read, tensors)


def plain(x: object, dtypes: Container[torch.dtype] = (torch.float32,)) -> bool:
    """Whether `x` is a dense tensor in CPU memory in one of these dtypes, and no subclass.

    A subclass may keep its numbers elsewhere.
    """
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return False
    dense = x.dtype in dtypes and x.is_cpu and x.is_contiguous() and not x.is_neg()
    return dense and (x.data_ptr() != 0 or not x.numel())  # torch may leave zeros without memory


@functools.cache
def reader() -> Reader | None:
    """The reader; None without a compiler, or for an unknown torch."""
    try:
        return Reader()
    except Refused:
        return None


def functions() -> "array[int]":
    """`Torch` in tensors.cpp. Raises OSError, AttributeError or StopIteration if this torch lacks a function."""
    of_torch = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
    calls = [getattr(of_torch, f"aoti_torch_get_{name}") for name in GETTERS]
    item, layout, is_neg = ctypes.pythonapi.PyList_GetItem, getattr(of_torch, LAYOUT, None), of_torch[IS_NEG]
    constants = (of_torch.aoti_torch_layout_strided, of_torch.aoti_torch_device_type_cpu)
    samples = [zeros(), torch.nn.Parameter(zeros())]
    places = [place_of(list(map(id, map(type, samples))), samples), place_of([x._cdata for x in samples], samples)]
    return array("q", [address(item), *places, *map(address, (*constants, layout, *calls, is_neg))])


def zeros(*shape: int) -> Tensor:
    """Zeros that loops can take, whatever the script's default dtype and device are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def place_of(numbers: Sequence[int], objects: Sequence[object]) -> int:
    """How many bytes into each object its number is. Raises StopIteration if the places differ."""
    places = (WORD * k for k in range(OBJECT_WORDS))
    pairs = list(zip(objects, numbers, strict=True))
    return next(k for k in places if all(ctypes.c_int64.from_address(id(x) + k).value == n for x, n in pairs))


def address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def pointer(numbers: "array[int]") -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.buffer_info()[0])


def sizes_of(tensors: Sequence[Tensor]) -> "array[int]":
    """The dimension and the sizes of each, one after another."""
    return array("q", [n for x in tensors for n in (x.ndim, *x.shape)])


def sizes_of_plain(xs: Sequence[Any]) -> "array[int] | None":
    """`sizes_of` for tensors that loops take; None if one is another object, or has lost its memory."""
    return sizes_of(xs) if all(map(plain, xs)) and all(map(placement.intact, xs)) else None
