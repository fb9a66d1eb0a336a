"""The C++ engine: which tensors the compiled loops can move, and the calls that move them, all in one batch."""

import ctypes
from array import array
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mada_optim.engines.cpp.tensors import WORD, plain, reader, sizes_of_plain
from mada_optim.engines.eager import largest_gradient
from mada_optim.engines.numbers import GroupNumbers
from mada_optim.engines.prepared_states import PreparedStates
from mada_optim.engines.program import CPU, Program
from mada_optim.engines.protocol import JoinedBatches, StepInput, TensorBatch
from mada_optim.engines.rounding import DROPPED
from mada_optim.placement import intact

MAX_SLOTS, MAX_SCALARS = 12, 8  # as in loops.cpp
STEP_WORDS = 6  # of `StepPointers` in loops.cpp
STATE, PARAMETER, GRADIENT, NUMBERS, SCOPE, STREAM = range(STEP_WORDS)  # its members
LIMIT = ctypes.c_double(largest_gradient(torch.float32))


class StatePointers(ctypes.Structure):
    """`StatePointers` in loops.cpp, field by field."""

    address: int
    sizes: tuple[int, ...]  # dimensions and shape of the parameter
    _fields_ = (
        ("size", ctypes.c_int64),
        ("slots", ctypes.c_void_p * MAX_SLOTS),
        ("scalars", ctypes.c_void_p * MAX_SCALARS),
        ("step", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("applied", ctypes.c_void_p),
        ("anchor", ctypes.c_void_p),
    )


class Loops:
    """The compiled loops of one program, and the choice of the tensors that they can move.

    `build` compiles them, or gives what was compiled, for weights in a dtype.
    """

    name = "cpu"

    def __init__(self, program: Program, build: Callable[[torch.dtype], ctypes.CDLL]) -> None:
        self.program, self._build = program, build
        self._libraries: dict[torch.dtype, ctypes.CDLL] = {}
        library = self.library(torch.float32)
        assert library.state_bytes() == ctypes.sizeof(StatePointers)
        assert library.step_bytes() == STEP_WORDS * WORD
        self._states = PreparedStates(self._pointers)
        self._weights = (torch.float32, *DROPPED) if program.weights else (torch.float32,)

    def library(self, dtype: torch.dtype) -> ctypes.CDLL:
        """The compiled loops for weights of this dtype."""
        if dtype not in self._libraries:
            self._libraries[dtype] = self._build(dtype)
        return self._libraries[dtype]

    def prepare(self, entry: StepInput) -> StatePointers | None:
        """Pointers into the state; None for a tensor that the loops can't move.

        They move dense tensors in CPU memory whose gradient is dense and fp32, and whose state fits: in fp32, and in
        bf16 and fp16 if those are rounded stochastically.
        """
        known = entry.plain or (plain(entry.p, self._weights) and plain(entry.g))
        return self._states.get(entry.state, entry.p.shape) if known else None

    def forget_others(self, entries: list[StepInput], _: list[StatePointers]) -> None:
        self._states.forget_others(entries)

    def batch(self, entries: list[StepInput], prepared: list[StatePointers]) -> TensorBatch:
        """A batch for each dtype of weights, as one."""
        by_dtype: dict[torch.dtype, list[tuple[StepInput, StatePointers]]] = {}
        for pair in zip(entries, prepared, strict=True):
            by_dtype.setdefault(pair[0].p.dtype, []).append(pair)
        parts = [LoopBatch(self, dtype, *map(list, zip(*pairs, strict=True))) for dtype, pairs in by_dtype.items()]
        return parts[0] if len(parts) == 1 else JoinedBatches(parts)

    def _fits(self, name: str, x: Tensor, shape: torch.Size) -> bool:
        if name in self.program.slots or name in ("gradient", "anchor"):
            slot_dtype = self.program.state_dtype or torch.float32
            return x.dtype is (torch.float32 if name == "anchor" else slot_dtype) and usable(x, shape)
        return usable_scalar(name, x, self.program)

    def _pointers(self, state: dict[str, Tensor], shape: torch.Size) -> StatePointers | None:
        program = self.program
        if not all(name in state and self._fits(name, state[name], shape) for name in program.state_names):
            return None
        of_state = StatePointers(size=shape.numel(), **{name: state[name].data_ptr() for name in program.beside_slots})
        of_state.address, of_state.sizes = ctypes.addressof(of_state), (len(shape), *shape)
        for i, name in enumerate(program.slots):
            of_state.slots[i] = state[name].data_ptr()
        for i, name in enumerate(program.scalar_slots):
            of_state.scalars[i] = state[name].data_ptr()
        return of_state


class LoopBatch(TensorBatch):
    """Tensors moved by the loops, in one step or in several with other gradients.

    Keeps all that the loops point to alive, but for gradients and the tensors of states.
    """

    can_follow = True

    def __init__(self, loops: Loops, dtype: torch.dtype, entries: list[StepInput], states: list[StatePointers]) -> None:
        _, _, self._ps, gradients, _, options, scopes, *_, streams = zip(*entries, strict=True)
        self._program, self._library, self._states = loops.program, loops.library(dtype), states
        self._sizes: array[int] | None = None
        self._numbers = GroupNumbers(self._program, options)
        self._pointers = array("q", bytes(STEP_WORDS * WORD * len(entries)))
        self._set(STATE, [state.address for state in states])
        self._set(NUMBERS, self._numbers.addresses())
        self._set(SCOPE, scopes)
        self._set(STREAM, streams)
        self._first, self._count = self._pointers.buffer_info()[0], len(entries)
        self._point_to(gradients)

    def _set(self, member: int, numbers: Iterable[int]) -> None:
        """Fills one member of every `StepPointers`."""
        self._pointers[member::STEP_WORDS] = array("q", numbers)

    def _point_to(self, gradients: Iterable[Tensor]) -> None:
        self._set(PARAMETER, map(Tensor.data_ptr, self._ps))
        self._set(GRADIENT, map(Tensor.data_ptr, gradients))
        self._set_call()

    def _set_call(self) -> None:
        self._call = (ctypes.c_void_p(self._first), ctypes.c_int64(self._count), torch.get_num_threads())

    def follow(self, gradients: list[Any]) -> bool:
        if self._sizes is None:
            self._sizes = array("q", chain.from_iterable(state.sizes for state in self._states))
        ps, read = list(self._ps), reader()
        if read is None:
            if not (sizes_of_plain(ps) == self._sizes == sizes_of_plain(gradients)):
                return False
            self._point_to(gradients)
            return True
        for tensors, member in ((ps, PARAMETER), (gradients, GRADIENT)):
            if not read.plain(tensors, self._sizes, self._first + WORD * member, STEP_WORDS):
                return False
        self._set_call()
        return True

    def usable(self) -> Tensor:
        usable = torch.empty((), dtype=torch.bool, device=CPU)
        self._library.check(*self._call, LIMIT, ctypes.c_void_p(usable.data_ptr()))
        return usable

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        program = self._program
        columns = len(program.learned)
        h = torch.empty(scopes, columns, dtype=torch.float64, device=CPU)
        usable = torch.empty((), dtype=torch.bool, device=CPU)
        out = (ctypes.c_void_p(h.data_ptr()), ctypes.c_void_p(usable.data_ptr()))
        self._numbers.read_settings()
        of_lr, rows = program.slopes_lr, ctypes.c_int64(scopes)
        self._library.hypergradients(*self._call, LIMIT, of_lr, rows, columns, *out)
        return usable, h

    def advance(self, where: Tensor) -> None:
        self._numbers.read_all()
        self._library.advance(*self._call, ctypes.c_void_p(where.data_ptr()))
        torch.autograd.graph.increment_version(self._ps)  # as every in-place operation of torch does


def usable(x: object, shape: tuple[int, ...]) -> bool:
    """Whether `x` is a dense tensor of this shape, in CPU memory."""
    if type(x) is not Tensor or not x.is_cpu or x.shape != shape:
        return False
    return x.is_contiguous() and not x.is_neg() and intact(x)


def usable_scalar(name: str, x: Tensor, program: Program) -> bool:
    """Whether `x` can be the entry `name` of a state, which has one number, or in "applied" one per coefficient."""
    return x.dtype is torch.float64 and usable(x, (1 + len(program.coefficients),) if name == "applied" else ())
