"""The Triton engine: a rule's kernels over all tensors of a step, one launch each, on a CUDA device.

Nothing is read on the host, and what changes from step to step is read from device memory: nothing is compiled anew.
Triton is no dependency: it comes with torch where there is CUDA. Under TRITON_INTERPRET=1 its interpreter runs the same
kernels on the CPU.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import linecache
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mada_optim.engines.eager import Cell, scalar
from mada_optim.engines.row_cache import States
from mada_optim.engines.triton.emit import BESIDE, Code
from mada_optim.placement import intact
from mada_optim.rule import LR, Rule, option_key

CHUNK = 2048  # elements of one program; its sums are made in fp32, and added up in double
BLOCK = 512  # elements that a program has in registers at once
LANES = 128  # tensors, or chunks, of one program
ALIGNMENT = 16  # bytes; with it, and sizes that are multiples of 4, four elements are read at once
WARPS = 4

Row = tuple[int, ...]
Kind = tuple[torch.dtype, torch.dtype]  # of a parameter, and of the gradient that its state keeps
PARAMETERS = (torch.float32, torch.bfloat16, torch.float16)


def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether its interpreter stands in for a device."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.lru_cache(maxsize=256)
def module(source: str) -> Mapping[str, Any]:
    """The kernels by name. Triton reads their source back, from where Python keeps it for tracebacks."""
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
    """Why Triton can't be used on `device`, tried out once, with a kernel; None where it can."""
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
    """Where `device` is the current one, as Triton's launches want it."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Triton:
    """The kernels for one form of a rule, and the choice of the tensors that they may have.

    Args:
        rule: The whole rule.
        learned: The learned coefficients, lr last.
        traced: Whether lr is learned from its trace.
        code: What `emit` wrote.
        device: Where they run.
        state_dtype: The dtype of slots.
    """

    name = "triton"

    def __init__(
        self,
        rule: Rule,
        learned: tuple[str, ...],
        traced: bool,
        code: Code,
        device: torch.device,
        state_dtype: torch.dtype,
    ) -> None:
        self.rule, self.learned, self.code, self.device = rule, learned, code, device
        self.settles, self.layout = len(learned) > traced, code.layout
        self._state_dtype = state_dtype
        beside = ["step", *["gradient", "applied"] * self.settles, *["anchor"] * traced]
        self._of_elements = {*code.layout.slots, *(name for name in beside if name in ("gradient", "anchor"))}
        self._names = {*beside, *code.layout.slots, *code.layout.scalar_slots}
        self._states: States[Row] = States(self._new_row)
        self._tables: dict[Kind, Tables] = {}
        self.kernels = module(code.source)

    def row(self, cell: Cell) -> Row | None:
        """The part of a row that the state decides; None for a tensor that the kernels can't move.

        They move plain, dense tensors on one device, in fp32, bf16 or fp16, whose gradient, in fp32, and state are such
        too.
        """
        if cell.p.dtype not in PARAMETERS or cell.g.dtype is not torch.float32:
            return None
        if not all(self._plain(x) for x in (cell.p, cell.g)):
            return None
        return self._states.row(cell.state, cell.p.shape)

    def keep(self, cells: list[Cell], _: list[Row]) -> None:
        """Forgets the states of others, if there are many."""
        self._states.keep((cell.state for cell in cells), len(cells))

    def table(self, cells: list[Cell], prepared: list[Row]) -> "Launches | Several":
        """`cells` as one job of one step; `prepared` is what `row` gave for each."""
        kinds = [(cell.p.dtype, cell.state["gradient"].dtype if self.settles else cell.p.dtype) for cell in cells]
        jobs = []
        for kind in dict.fromkeys(kinds):
            tensors = [(cell, row) for cell, row, own in zip(cells, prepared, kinds, strict=True) if own == kind]
            jobs.append(self._job(kind, *map(list, zip(*tensors, strict=True))))
        return jobs[0] if len(jobs) == 1 else Several(jobs)

    def _job(self, kind: Kind, cells: list[Cell], prepared: list[Row]) -> "Launches":
        held: list[Tensor] = []
        options: dict[int, tuple[Row, tuple[float, ...]]] = {}
        rows, numbers, chunks = list[Row](), list[tuple[float, ...]](), 0
        for cell, of_state in zip(cells, prepared, strict=True):
            if id(cell.options) not in options:
                options[id(cell.options)] = self._of_options(cell.options, held)
            addresses, plain = options[id(cell.options)]
            last = chunks + -(-cell.p.numel() // CHUNK)
            rows.append((chunks, last, cell.p.numel(), *of_state, cell.p.data_ptr(), cell.g.data_ptr(), *addresses))
            numbers.append(plain)
            chunks = last
        tables = self._tables.setdefault(kind, Tables(self.device))
        return Launches(self, kind, self.kernels, tables, cells, rows, numbers, held)

    def _plain(self, x: Tensor) -> bool:
        own = type(x) is Tensor or type(x) is torch.nn.Parameter
        dense = own and x.device == self.device and x.is_contiguous() and not x.is_neg()
        return dense and (x.data_ptr() != 0 or not x.numel())

    def _new_row(self, state: dict[str, Tensor], shape: torch.Size) -> Row | None:
        if state.keys() != self._names or not all(self._fits(name, x, shape) for name, x in state.items()):
            return None
        slots = (*self.layout.slots, *self.layout.scalar_slots)
        return tuple(state[name].data_ptr() if name in state else 0 for name in (*BESIDE, *slots))

    def _fits(self, name: str, x: Tensor, of_parameter: torch.Size) -> bool:
        dtype, shape = (self._state_dtype, of_parameter) if name in self._of_elements else (torch.float64, ())
        dtype = torch.float32 if name == "anchor" else dtype
        if name == "applied":
            shape = torch.Size([1 + len(self.rule.coefficients)])
        right = x.dtype in PARAMETERS if name == "gradient" else x.dtype is dtype
        return right and self._plain(x) and x.shape == shape and not x.is_neg() and intact(x)

    def _of_options(self, options: Mapping[str, Any], held: list[Tensor]) -> tuple[Row, tuple[float, ...]]:
        """The addresses of what a group has as tensors, and the numbers of what it has as such."""
        keys = ("lr", option_key(LR.name), *self.layout.coefficients)
        tensors = {key: scalar(x, self.device) for key in keys if isinstance(x := options.get(key), Tensor)}
        held += tensors.values()  # an lr in another dtype is here alone
        numbers = (0.0 if name in tensors else float(options[name]) for name in self.layout.numbers)
        return tuple(tensors[key].data_ptr() if key in tensors else 0 for key in keys), tuple(numbers)


class Tables:
    """What the kernels are told of the tensors, on the device; made anew where it has changed.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: dict[str, tuple[list[Any], Tensor]] = {}
        self._captured: list[Tensor] = []

    def get(self, name: str, rows: list[Any], dtype: torch.dtype) -> Tensor:
        """`rows` as a tensor."""
        last, table = self._last.get(name, (None, None))
        if table is None or last != rows:
            table = self._upload(rows, dtype)
            self._last[name] = (rows, table)
        return table

    def _upload(self, rows: list[Any], dtype: torch.dtype) -> Tensor:
        """Without waiting for the device, as a copy from pinned memory can be."""
        host = torch.tensor(rows, dtype=dtype, device="cpu")
        if self._device.type == "cpu":
            return host
        host = host.pin_memory()
        table = host.to(self._device, non_blocking=True)
        if torch.cuda.is_current_stream_capturing():
            self._captured += [host, table]  # each replay copies again
        return table


class Launches:
    """Tensors of one step, handed to the kernels.

    Args:
        kernel: Whose they are.
        kind: What they are.
        kernels: The kernels by name.
        tables: Where their tables are kept.
        cells: The tensors.
        rows: Of `Layout.columns`, one per tensor.
        numbers: Of `Layout.numbers`, likewise.
        held: What the rows point to and nobody else may hold.
    """

    def __init__(
        self,
        kernel: Triton,
        kind: Kind,
        kernels: Mapping[str, Any],
        tables: Tables,
        cells: list[Cell],
        rows: list[Row],
        numbers: list[tuple[float, ...]],
        held: list[Tensor],
    ) -> None:
        self._kernel, self._kernels, self._tables, self._cells, self._held = kernel, kernels, tables, cells, held
        self._rows = tables.get("rows", rows, torch.int64)
        self._numbers = tables.get("numbers", numbers, torch.float64)
        chunks = [(j, start) for j, row in enumerate(rows) for start in range(0, row[2], CHUNK)]
        self._chunk_count = len(chunks)
        self._chunks = tables.get("chunks", chunks or [(0, 0)], torch.int64)
        aligned = all(row[2] % 4 == 0 and not any(x % ALIGNMENT for x in row[3:]) for row in rows)
        p, gradient = (getattr(kernels["tl"], str(dtype).removeprefix("torch.")) for dtype in kind)
        self._shape = {"P": p, "GRADIENT": gradient, "ALIGNED": aligned, "CHUNK": CHUNK, "BLOCK": BLOCK}

    def usable(self) -> Tensor:
        """Whether every gradient is usable, 0-d."""
        bad = self._empty(self._chunk_count, dtype=torch.int32)
        self._launch("check", self._chunk_count, self._rows, self._chunks, bad, **self._shape)
        return ~bad.any()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        kernel, count = self._kernel, self._chunk_count
        if not kernel.learned:
            return self.usable(), self._empty(scopes, 0)
        bad = self._empty(count, dtype=torch.int32)
        values = self._empty(len(self._cells), kernel.code.slope_values)
        partials = self._empty(kernel.code.sums, max(count, 1))
        if kernel.settles:
            self._per_tensor("slope_values", values)
        self._launch("sums", count, self._rows, self._chunks, count, values, partials, bad, **self._shape)
        h, out = (self._empty(x, len(kernel.learned)) for x in (len(self._cells), scopes))
        what = (self._rows, self._numbers, count, values, partials, h)
        self._launch("combine", len(self._cells), *what, LANES=LANES)
        ranges = self._tables.get("ranges", ranges_of([cell.scope for cell in self._cells], scopes), torch.int64)
        self._launch("per_scope", scopes, ranges, h, out, LANES=LANES)
        return ~bad.any(), out

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        usable = where.to(self._kernel.device, torch.int8)
        values = self._empty(len(self._cells), self._kernel.code.step_values)
        steps = self._empty(len(self._cells), dtype=torch.int64)
        self._per_tensor("step_values", usable, values, steps)
        what = (self._rows, self._chunks, values, steps, usable)
        self._launch("move", self._chunk_count, *what, **self._shape)
        # as every in-place operation of torch does
        torch.autograd.graph.increment_version([cell.p for cell in self._cells])

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._kernel.device)

    def _per_tensor(self, name: str, *out: Tensor) -> None:
        count = len(self._cells)
        self._launch(name, -(-count // LANES), self._rows, self._numbers, count, *out, LANES=LANES)

    def _launch(self, name: str, programs: int, *arguments: Any, **constants: Any) -> None:
        """No product and sum in one rounding: learning with a hyper_lr of 0 and learning nothing give the same bits."""
        if not programs:
            return
        with on(self._kernel.device):
            self._kernels[name][(programs,)](*arguments, **constants, num_warps=WARPS, enable_fp_fusion=False)


class Several:
    """Jobs of one step, of tensors of several dtypes, as one."""

    def __init__(self, jobs: list[Launches]) -> None:
        self._jobs = jobs

    def usable(self) -> Tensor:
        """As `Launches.usable`, over all."""
        return torch.stack([job.usable() for job in self._jobs]).all()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """As `Launches.hypergradients`, over all."""
        finite, h = zip(*(job.hypergradients(scopes) for job in self._jobs), strict=True)
        return torch.stack(finite).all(), torch.stack(h).sum(0)

    def advance(self, where: Tensor) -> None:
        """As `Launches.advance`."""
        for job in self._jobs:
            job.advance(where)


def ranges_of(scopes: list[int], rows: int) -> list[tuple[int, int]]:
    """By scope: the first of its tensors and the one after its last; the scopes of tensors in order don't fall."""
    ranges = [(0, 0)] * rows
    for j, scope in enumerate(scopes):
        first, last = ranges[scope]
        assert first == last or last == j, "the tensors of a scope are next to one another"
        ranges[scope] = (first if first != last else j, j + 1)
    return ranges
