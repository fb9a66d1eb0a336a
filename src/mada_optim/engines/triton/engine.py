"""The Triton engine: a rule's kernels over all tensors of a step, one launch each, on a CUDA device.

Nothing is read on the host. Numbers that change from step to step are read from device memory, so nothing is compiled
again. Triton is no dependency; it comes with torch for CUDA. Under TRITON_INTERPRET=1 its interpreter runs the kernels
on the CPU.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import linecache
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim import modes
from mada_optim.engines.numbers import LOG_LR, scalar, scheduled_lr
from mada_optim.engines.prepared_states import PreparedStates
from mada_optim.engines.program import Program
from mada_optim.engines.protocol import JoinedBatches, StepInput, TensorBatch
from mada_optim.engines.triton.emit import BESIDE, Code
from mada_optim.placement import intact

CHUNK = 2048  # elements of one program; its sums are made in fp32, and added up in double
BLOCK = 512  # elements that a program has in registers at once
LANES = 128  # tensors, or chunks, of one program
ALIGNMENT = 16  # bytes; with it, and sizes that are multiples of 4, four elements are read at once
WARPS = 4

Addresses = tuple[int, ...]
Dtypes = tuple[torch.dtype, torch.dtype]  # of a parameter, and of the gradient that its state keeps
PARAMETERS = (torch.float32, torch.bfloat16, torch.float16)


def installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.lru_cache(maxsize=256)
def module(source: str) -> Mapping[str, Any]:
    """The kernels by name. Triton reads their source from `linecache`, where Python keeps it for tracebacks."""
    name = f"<mada_optim kernels {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    kernels: dict[str, Any] = {"__name__": "mada_optim.engines.triton.engine.written"}
    exec(compile(source, name, "exec"), kernels)
    return kernels


TRIAL = """import triton
import triton.language as tl


@triton.jit
def trial(x):
    tl.store(x, 1.0)
"""


@functools.cache
def fault(device: torch.device) -> str | None:
    """Why Triton can't be used on `device`, tried once with a kernel; None if it can."""
    if not installed():
        return "Triton is not installed, which a torch built for CUDA brings along (pip install triton)"
    if device.type != ("cpu" if interpreted() else "cuda"):
        return f"Triton has no kernels for {device.type}"
    try:
        with on(device):
            module(TRIAL)["trial"][(1,)](torch.zeros(1, dtype=torch.float32, device=device))
    except Exception as error:  # no compiler for its launcher, a device that it doesn't know, ...
        lines = str(error).strip().splitlines()
        return f"Triton doesn't work here: {lines[-1] if lines else type(error).__name__}"
    return None


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes `device` the current one, as Triton's launches need it."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Triton:
    """The kernels of one program, and the choice of the tensors that they can move. `code` is from `emit`."""

    name = "triton"

    def __init__(self, program: Program, code: Code) -> None:
        self.program, self.code, self.layout, self.device = program, code, code.layout, program.device
        self._states: PreparedStates[Addresses] = PreparedStates(self._addresses_of)
        self._tables: dict[Dtypes, DeviceTables] = {}
        self.kernels = module(code.source)

    def prepare(self, entry: StepInput) -> Addresses | None:
        """The addresses in the state; None for a tensor that the kernels can't move.

        They move dense tensors on one device, in fp32, bf16 or fp16; the gradient is in fp32.
        """
        if entry.p.dtype not in PARAMETERS or entry.g.dtype is not torch.float32:
            return None
        if not all(self._plain(x) for x in (entry.p, entry.g)):
            return None
        return self._states.get(entry.state, entry.p.shape)

    def forget_others(self, entries: list[StepInput], _: list[Addresses]) -> None:
        self._states.forget_others(entries)

    def batch(self, entries: list[StepInput], prepared: list[Addresses]) -> TensorBatch:
        """A batch for each combination of dtypes, as one."""
        keeps = self.program.keeps_last_update
        all_dtypes = [(x.p.dtype, x.state["gradient"].dtype if keeps else x.p.dtype) for x in entries]
        parts: list[TensorBatch] = []
        for dtypes in dict.fromkeys(all_dtypes):
            places = [i for i, of_entry in enumerate(all_dtypes) if of_entry == dtypes]
            parts.append(self._part(dtypes, [entries[i] for i in places], [prepared[i] for i in places]))
        return parts[0] if len(parts) == 1 else JoinedBatches(parts)

    def _part(self, dtypes: Dtypes, entries: list[StepInput], prepared: list[Addresses]) -> "TritonBatch":
        held: list[Tensor] = []
        options: dict[int, tuple[Addresses, tuple[float, ...]]] = {}
        rows, numbers, chunks = list[Addresses](), list[tuple[float, ...]](), 0
        for entry, of_state in zip(entries, prepared, strict=True):
            if id(entry.options) not in options:
                options[id(entry.options)] = self._of_options(entry.options, held)
            addresses, plain = options[id(entry.options)]
            last = chunks + -(-entry.p.numel() // CHUNK)
            of_tensor = (chunks, last, entry.p.numel(), entry.stream)
            rows.append((*of_tensor, *of_state, entry.p.data_ptr(), entry.g.data_ptr(), *addresses))
            numbers.append(plain)
            chunks = last
        tables = self._tables.setdefault(dtypes, DeviceTables(self.device))
        return TritonBatch(self, dtypes, tables, entries, rows, numbers, held)

    def _plain(self, x: Tensor) -> bool:
        known = type(x) is Tensor or type(x) is torch.nn.Parameter
        dense = known and x.device == self.device and x.is_contiguous() and not x.is_neg()
        return dense and (x.data_ptr() != 0 or not x.numel())

    def _addresses_of(self, state: dict[str, Tensor], shape: torch.Size) -> Addresses | None:
        fits = state.keys() == self.program.state_keys and all(self._fits(*item, shape) for item in state.items())
        if not fits:
            return None
        slots = (*self.layout.slots, *self.layout.scalar_slots)
        return tuple(state[name].data_ptr() if name in state else 0 for name in (*BESIDE, *slots))

    def _fits(self, name: str, x: Tensor, of_parameter: torch.Size) -> bool:
        of_elements = name in ("gradient", "anchor", *self.layout.slots)
        dtype, shape = (self.program.state_dtype or torch.float32, of_parameter) if of_elements else (torch.float64, ())
        dtype = torch.float32 if name == "anchor" else dtype
        if name == "applied":
            shape = torch.Size([1 + len(self.program.coefficients)])
        right = x.dtype in PARAMETERS if name == "gradient" else x.dtype is dtype
        return right and self._plain(x) and x.shape == shape and not x.is_neg() and intact(x)

    def _of_options(self, options: Mapping[str, Any], held: list[Tensor]) -> tuple[Addresses, tuple[float, ...]]:
        """The addresses of a group's tensors, and its plain numbers."""
        keys = ("lr", LOG_LR, *self.layout.coefficients)
        values = {**{key: options.get(key) for key in (*keys, *self.layout.numbers)}, "lr": scheduled_lr(options)}
        tensors = {key: scalar(x, self.device) for key in keys if isinstance(x := values[key], Tensor)}
        held += tensors.values()  # an lr in another dtype is kept alive here alone
        numbers = (0.0 if name in tensors else float(values[name]) for name in self.layout.numbers)
        return tuple(tensors[key].data_ptr() if key in tensors else 0 for key in keys), tuple(numbers)


class DeviceTables:
    """The tables that the kernels read, on the device; made anew if they have changed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: dict[str, tuple[list[Any], Tensor]] = {}
        self._captured: list[Tensor] = []

    def chunks(self, sizes: list[int]) -> Tensor:
        """A row for each chunk: the tensor, and the chunk's first element; (0, 0) if there is none."""
        return self._kept("chunks", [CHUNK, *sizes], lambda: chunks_of(sizes) or [(0, 0)], torch.int64)

    def get(self, name: str, rows: list[Any], dtype: torch.dtype) -> Tensor:
        return self._kept(name, rows, lambda: rows, dtype)

    def _kept(self, name: str, key: list[Any], rows: Callable[[], list[Any]], dtype: torch.dtype) -> Tensor:
        """The table of this name, made from `rows` if `key` has changed."""
        last, table = self._last.get(name, (None, None))
        if table is None or last != key:
            table = self._upload(rows(), dtype)
            if not modes.capturing(self._device):  # else the table has no numbers before the first replay
                self._last[name] = (key, table)
        if modes.capturing(self._device):
            self._captured.append(table)  # replays read it, also after a later step has others
        return table

    def _upload(self, rows: list[Any], dtype: torch.dtype) -> Tensor:
        """Copies from pinned memory, so that the host doesn't wait."""
        host = torch.tensor(rows, dtype=dtype, device="cpu")
        if self._device.type == "cpu":
            return host
        host = host.pin_memory()
        if modes.capturing(self._device):
            self._captured.append(host)  # each replay copies again
        return host.to(self._device, non_blocking=True)


class TritonBatch(TensorBatch):
    """Tensors of one step with the same dtypes, given to the kernels.

    `rows` (`Layout.columns`) and `numbers` (`Layout.numbers`) have a row per tensor. `held` are tensors that the rows
    point to and that only the batch keeps alive.
    """

    def __init__(
        self,
        kernel: Triton,
        dtypes: Dtypes,
        tables: DeviceTables,
        entries: list[StepInput],
        rows: list[Addresses],
        numbers: list[tuple[float, ...]],
        held: list[Tensor],
    ) -> None:
        self._kernel, self._tables, self._entries, self._held = kernel, tables, entries, held
        self._rows = tables.get("rows", rows, torch.int64)
        self._numbers = tables.get("numbers", numbers, torch.float64)
        self._chunk_count = rows[-1][1]
        self._chunks = tables.chunks([row[2] for row in rows])
        layout = kernel.layout
        size, *addresses = map(layout.columns.index, ("size", *layout.element_columns))
        aligned = all(row[size] % 4 == 0 and not any(row[x] % ALIGNMENT for x in addresses) for row in rows)
        p, gradient = (getattr(kernel.kernels["tl"], str(dtype).removeprefix("torch.")) for dtype in dtypes)
        self._shape = {"P": p, "GRADIENT": gradient, "ALIGNED": aligned, "CHUNK": CHUNK, "BLOCK": BLOCK}

    def usable(self) -> Tensor:
        bad = self._empty(self._chunk_count, dtype=torch.int32)
        self._launch("check", self._chunk_count, self._rows, self._chunks, bad, **self._shape)
        return ~bad.any()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        kernel, count = self._kernel, self._chunk_count
        if not kernel.program.learned:
            return self.usable(), self._empty(scopes, 0)
        bad = self._empty(count, dtype=torch.int32)
        values = self._empty(len(self._entries), kernel.code.slope_values)
        partials = self._empty(kernel.code.sums, max(count, 1))
        if kernel.program.keeps_last_update:
            self._per_tensor("slope_values", values)
        self._launch("sums", count, self._rows, self._chunks, count, values, partials, bad, **self._shape)
        h, out = (self._empty(x, len(kernel.program.learned)) for x in (len(self._entries), scopes))
        arguments = (self._rows, self._numbers, count, values, partials, h)
        self._launch("combine", len(self._entries), *arguments, LANES=LANES)
        ranges = self._tables.get("ranges", ranges_of([entry.scope for entry in self._entries], scopes), torch.int64)
        self._launch("per_scope", scopes, ranges, h, out, LANES=LANES)
        return ~bad.any(), out

    def advance(self, where: Tensor) -> None:
        usable = where.to(self._kernel.device, torch.int8)
        values = self._empty(len(self._entries), self._kernel.code.step_values)
        steps = self._empty(len(self._entries), dtype=torch.int64)
        self._per_tensor("step_values", usable, values, steps)
        arguments = (self._rows, self._chunks, values, steps, usable)
        self._launch("move", self._chunk_count, *arguments, **self._shape)
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([entry.p for entry in self._entries])

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._kernel.device)

    def _per_tensor(self, name: str, *out: Tensor) -> None:
        count = len(self._entries)
        self._launch(name, -(-count // LANES), self._rows, self._numbers, count, *out, LANES=LANES)

    def _launch(self, name: str, programs: int, *arguments: Any, **constants: Any) -> None:
        """Launches without fused products and sums, so that a hyper_lr of 0 gives the bits of learning nothing."""
        if not programs:
            return
        with on(self._kernel.device):
            self._kernel.kernels[name][(programs,)](*arguments, **constants, num_warps=WARPS, enable_fp_fusion=False)


def chunks_of(sizes: list[int]) -> list[tuple[int, int]]:
    """For each chunk of the tensors with these sizes: the tensor's place, and the chunk's first element."""
    return [(j, start) for j, size in enumerate(sizes) for start in range(0, size, CHUNK)]


def ranges_of(scopes: list[int], rows: int) -> list[tuple[int, int]]:
    """For each scope, the first of its tensors and the one after its last; scopes of tensors in order don't fall."""
    ranges = [(0, 0)] * rows
    for j, scope in enumerate(scopes):
        first, last = ranges[scope]
        assert first == last or last == j, "the tensors of a scope are next to one another"
        ranges[scope] = (first if first != last else j, j + 1)
    return ranges
