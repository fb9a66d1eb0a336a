"""Which engine moves which tensor: compiled loops where there are some for the rule, the eager engine for the rest."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim import layouts
from mada_optim.engines import choice, eager, fit
from mada_optim.engines.cpp.table import Table
from mada_optim.engines.eager import Cell
from mada_optim.graph.specialize import Corners, corners, specialize
from mada_optim.learning.hypergradient import LastUpdate, along_trace, hypergradient
from mada_optim.rule import Rule
from mada_optim.sharding import dtensors


class Dispatcher:
    """Chooses the loops for each form that a rule takes at its corners, and shares a step's tensors out.

    Args:
        requested: The engine that was asked for.
        rule: The whole rule.
        learned: The learned coefficients.
        traced: Whether lr is learned from its trace.
        state_dtype: The dtype of slots, None for that of computation.
    """

    def __init__(
        self, requested: str, rule: Rule, learned: tuple[str, ...], traced: bool, state_dtype: torch.dtype | None
    ) -> None:
        self._requested, self._rule, self._state_dtype = requested, rule, state_dtype
        self._learned, self._traced = learned, traced
        self._memory = eager.Memory(last_update=len(learned) > traced, trace=traced)
        self._kernels: dict[Rule, choice.Kernel | None] = {}
        #: Why tensors run on the eager engine: one reason for each form of the rule that has no loops.
        self.reasons: list[str] = []

    def prepare(self, fixed: Corners, device: torch.device) -> None:
        """Chooses, and compiles if need be, the loops of the groups that have these corners.

        Raises:
            ValueError: The engine that was asked for can't be had.
        """
        form = specialize(self._rule, fixed)
        if form not in self._kernels:
            self._kernels[form] = self._chosen(fixed, device)

    def _chosen(self, fixed: Corners, device: torch.device) -> choice.Kernel | None:
        if self._requested == "eager":
            return None
        try:
            what = (self._rule, fixed, self._learned, self._traced, device, self._state_dtype)
            return choice.choose(self._requested, *what)
        except choice.NoKernelError as error:
            if self._requested != "auto":
                raise ValueError(f"engine={self._requested!r}: {error}; leave it at 'auto'") from error
            self.reasons.append(str(error))
            return None

    @property
    def engine(self) -> str:
        """Name of the fastest engine in use."""
        names = {kernel.name for kernel in self._kernels.values() if kernel is not None}
        return next((name for name in ("triton", "cpu", "tiled") if name in names), "eager")

    @property
    def keeps_addresses(self) -> bool:
        """Whether what kernels prepare for a state has addresses in it."""
        return self.engine in ("triton", "cpu")

    def share_out(self, cells: list[Cell]) -> "Work":
        """The tensors of one step, by engine.

        Raises:
            RuntimeError: A state doesn't fit its parameter; nothing is changed.
        """
        jobs: dict[choice.Kernel, tuple[list[Cell], list[Any]]] = {}
        rest = []
        for cell in cells:
            # not prepared yet: a corner was set in a group since it was added, or the optimizer is a copy
            if cell.rule not in self._kernels:
                self.prepare(corners(self._rule, cell.options, ()), cell.p.device)  # what is learned is a tensor
            kernel = self._kernels[cell.rule]
            row = None if kernel is None else kernel.row(cell)
            if kernel is None or row is None:
                fit.check(cell, eager.state_names(cell.rule, self._memory))
                rest.append(self._for_eager(cell))
            else:
                taken, rows = jobs.setdefault(kernel, ([], []))
                taken.append(cell)
                rows.append(row)
        for kernel, job in jobs.items():
            kernel.keep(*job)
        tables = [kernel.table(*job) for kernel, job in jobs.items()]
        return Work(tables, rest, {cell.scope for cell in cells}, [cell.g for cell in cells])

    def forget(self) -> None:
        """Makes the kernels prepare all states anew: tensors of them have moved, or changed in kind."""
        for kernel in self._kernels.values():
            if kernel is not None:
                kernel.keep([], [])

    def _for_eager(self, cell: Cell) -> Cell:
        """The cell as the eager engine takes it: its rule sees matrices, and gathers those that it has parts of."""
        if cell.rule.pointwise:
            return cell
        if cell.whole is None:
            is_matrix = layouts.view_shape(cell.p.shape, cell.layout) == cell.p.shape
            return cell if is_matrix else cell._replace(rule=layouts.viewing(cell.rule, cell.layout))
        one_step = len(self._learned) > self._traced
        return cell._replace(rule=dtensors.gathering(cell.rule, cell.whole, cell.layout, differentiated=one_step))


class Work:
    """The tensors of one step: those that loops take, as one job for each kind of loops, and the rest.

    Args:
        jobs: The former.
        rest: The latter.
        scopes: Rows of the learned coefficients of all of them; empty where there is no tensor.
        gradients: Of all of them. Jobs know their addresses alone, and may outlive the step.
    """

    def __init__(
        self, jobs: Sequence[choice.Job], rest: list[Cell], scopes: set[int], gradients: Sequence[Any]
    ) -> None:
        self._jobs, self._rest, self.scopes, self._gradients = jobs, rest, scopes, gradients

    @property
    def table(self) -> Table | None:
        """All of them, where all go through the same compiled loops."""
        job = self._jobs[0] if len(self._jobs) == 1 and not self._rest else None
        return job if isinstance(job, Table) else None

    def usable(self, home: torch.device) -> Tensor:
        """Whether the step counts, 0-d on `home`: every gradient is usable."""
        verdicts = [job.usable() for job in self._jobs]
        if self._rest or not verdicts:
            verdicts.append(eager.all_usable(self._rest, home))
        return functools.reduce(torch.logical_and, verdicts)

    def hypergradients(self, learned: Sequence[str], scopes: int, home: torch.device) -> tuple[Tensor, Tensor]:
        """Whether the step counts (0-d), and the hypergradients of what an update has moved before, (scopes, learned).

        Both are on `home`, where the coefficients live.
        """
        parts = [job.hypergradients(scopes) for job in self._jobs]
        if self._rest or not parts:
            parts.append((eager.all_usable(self._rest, home), self._of_rest(learned, scopes, home)))
        verdicts, hs = zip(*parts, strict=True)
        return functools.reduce(torch.logical_and, verdicts), functools.reduce(torch.add, hs)

    def _of_rest(self, learned: Sequence[str], scopes: int, home: torch.device) -> Tensor:
        total = torch.zeros(scopes, len(learned), dtype=eager.scalar_dtype(home), device=home)
        for cell in self._rest if learned else ():
            h = torch.where(cell.state["step"] > 0, _hypergradient(learned, cell), 0.0)
            total[cell.scope] += h.to(home)
        return total

    def advance(self, finite: Tensor) -> None:
        """Moves weights and slots, where the 0-d boolean holds."""
        for job in self._jobs:
            job.advance(finite)
        for cell in self._rest:
            eager.advance(cell, finite.to(cell.p.device))


def _hypergradient(learned: Sequence[str], cell: Cell) -> Tensor:
    """The hypergradients of one tensor, 1-d: of one step, and of lr from its trace where there is one."""
    theta, anchor = cell.p.to(cell.g.dtype), cell.state.get("anchor")
    of_trace = [] if anchor is None else [along_trace(cell.g, theta, anchor.to(cell.g.dtype))]
    one_step = learned[: len(learned) - len(of_trace)]  # lr comes last
    h = [hypergradient(one_step, _last_update(cell), theta, cell.g)] if one_step else []
    return torch.cat([*h, *(x.reshape(1).to(cell.state["step"].dtype) for x in of_trace)])


def _last_update(cell: Cell) -> LastUpdate:
    lr, c, g = cell.last_update()
    slots, t = eager.widen(cell.slots(), g.dtype), cell.state["step"].clamp(min=1)
    return LastUpdate(cell.rule, c, g, slots, t, lr, cell.options["weight_decay"])
