"""The tiled engine: a rule as torch operations, on one piece after another that the caches hold. It needs no compiler.

What depends on scalars alone is computed for all tensors at once, in vectors with one number per tensor. State is laid
out as engine/eager.py says.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from mada_optim.engines.cpp.engine import usable_scalars
from mada_optim.engines.cpp.tensors import plain
from mada_optim.engines.eager import Cell, largest_gradient
from mada_optim.engines.group_numbers import CPU, Numbers
from mada_optim.engines.tiled.lower import Program, lower
from mada_optim.graph.builder import Builder, total
from mada_optim.graph.specialize import SLOT, outputs
from mada_optim.placement import intact
from mada_optim.rule import LR, Rule

TILE = 1 << 18  # elements, 1 MiB of each operand: less is no work for two threads, more leaves the cache
Vectors = dict[str, Tensor]  # (tensors,) by the name of a graph's input
Values = dict[fx.Node, Tensor]  # (tensors,) by node


class Tiled:
    """The programs for one form of a rule, and the choice of the tensors that they may have.

    Args:
        rule: The whole rule.
        form: What is left of it.
        learned: The learned coefficients, lr last.
        traced: Whether lr is learned from its trace.
        forward: The graph of `form`.
        backward: The graph of its derivatives.
        scalars: Names of the graphs' inputs that are scalars.

    Raises:
        NoLoweringError: The rule has an operation that isn't lowered.
    """

    name = "tiled"

    def __init__(
        self,
        rule: Rule,
        form: Rule,
        learned: tuple[str, ...],
        traced: bool,
        forward: fx.Graph,
        backward: fx.Graph,
        scalars: tuple[str, ...],
    ) -> None:
        self.rule, self.forward, self.backward = rule, forward, backward
        self.learned, self.traced = learned, traced
        self.settles = len(learned) > traced  # something is learned from the last update, which the state then keeps
        self.slots = [slot.name for slot in form.slots if not slot.scalar]
        self.scalar_slots = [slot.name for slot in form.slots if slot.scalar]
        self.totals = [x for x in backward.nodes if x.target is total]
        u, self.after = outputs(forward)
        moved, kinds = {name: self.after[name] for name in self.slots}, Builder(forward, scalars)
        self.settle = lower(forward, kinds, [], moved)
        self.move = lower(forward, kinds, [u], {} if self.settles else moved)
        self.slope = lower(backward, Builder(backward, scalars), self.totals, {})
        assert self.move.result is not None
        self.result = self.move.result
        most = max(program.buffers for program in (self.settle, self.move, self.slope))
        self.buffers = torch.empty(most, TILE, dtype=torch.float32, device=CPU)

    def row(self, cell: Cell) -> Cell | None:
        """The cell, if its tensors may be moved: dense, in CPU memory, in fp32."""
        whole = (*self.slots, *["gradient"] * self.settles, *["anchor"] * self.traced)
        scalars = ("step", *["applied"] * self.settles, *self.scalar_slots)
        if not cell.state.keys() >= {*whole, *scalars}:
            return None
        tensors = [cell.p, cell.g, *(cell.state[name] for name in whole)]
        fits = all(x.shape == cell.p.shape and plain(x) and intact(x) for x in tensors)
        return cell if fits and all(usable_scalars(name, cell.state[name], self.rule) for name in scalars) else None

    def keep(self, cells: list[Cell], _: list[Cell]) -> None:
        """Does nothing, as nothing is kept."""

    def table(self, cells: list[Cell], _: list[Cell]) -> "Tiles":
        """`cells` as one job of one step."""
        return Tiles(self, cells)


class Tiles:
    """Tensors of one step."""

    def __init__(self, kernel: Tiled, cells: list[Cell]) -> None:
        self._kernel, self._cells = kernel, cells
        self._numbers = Numbers(kernel.rule, [cell.options for cell in cells])
        self._groups = torch.tensor(self._numbers.rows, device=CPU)

    def usable(self) -> Tensor:
        """Whether every gradient is usable, 0-d."""
        largest = [torch.stack(torch.aminmax(g)).abs().amax() for cell in self._cells for g in _pieces(cell.g)]
        most = torch.stack([torch.zeros((), dtype=torch.float32, device=CPU), *largest]).amax()
        return most <= largest_gradient(torch.float32)

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""
        learned = self._kernel.learned
        out = torch.zeros(scopes, len(learned), dtype=torch.float64, device=CPU)
        if learned:
            rows, begun = torch.tensor([cell.scope for cell in self._cells], device=CPU), self._of_state("step") > 0
            h = [self._derivatives()] if self._kernel.settles else []
            h += [self._along_trace()] if self._kernel.traced else []
            out.index_add_(0, rows, torch.where(begun.unsqueeze(-1), torch.cat(h, dim=-1), 0.0))
        return self.usable(), out

    def _along_trace(self) -> Tensor:
        """< g, theta - A >, (tensors, 1)."""
        h = torch.zeros(len(self._cells), 1, dtype=torch.float64, device=CPU)
        for i, cell in enumerate(self._cells):
            for g, p, anchor in zip(*map(_pieces, (cell.g, cell.p, cell.state["anchor"])), strict=True):
                h[i] += (g * (p - anchor)).sum()
        return h

    def _derivatives(self) -> Tensor:
        """-lr < g, d theta / dq >, (tensors, learned in one step)."""
        kernel, of_lr = self._kernel, LR.name in self._kernel.learned and not self._kernel.traced
        lr, inputs = self._applied()
        values = evaluate(kernel.backward, inputs, {})
        decay = self._now()[:, 1 + len(kernel.rule.coefficients)]
        wants_along = of_lr and any(cell.options["weight_decay"] for cell in self._cells)
        sums_of = torch.zeros(len(self._cells), len(kernel.totals) + 1, dtype=torch.float32, device=CPU)
        totals, along = sums_of[:, :-1], sums_of[:, -1]
        for i, (cell, scalars) in enumerate(zip(self._cells, rows_of(kernel.slope, values), strict=True)):
            inner = {"g": cell.state["gradient"], "cotangent": cell.g}
            for registers in self._registers(kernel.slope, cell, inner, scalars):
                sums = kernel.slope.run(registers)
                totals[i] += torch.stack(sums) if sums else 0.0
            for g, p in zip(_pieces(cell.g), _pieces(cell.p), strict=True) if wants_along else ():
                along[i] += (g * p).sum()
        values |= zip(kernel.totals, totals.double().unbind(-1), strict=True)
        values = evaluate(kernel.backward, inputs, values)
        derivatives, product = outputs(kernel.backward)
        columns = [self._vector(values.get(x, x)) for x in derivatives]
        if of_lr:  # hyper/gradient.py has the formula
            kept, whole = 1 - lr * decay, self._vector(values.get(product, product))
            columns.append(torch.where(kept == 0, whole, (whole + decay * along) / kept))
        return -lr.unsqueeze(-1) * torch.stack(columns, dim=-1)

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""
        if not ctypes.c_bool.from_address(where.data_ptr()).value:
            return
        kernel, learning = self._kernel, self._kernel.settles
        t, between, then = self._of_state("step"), self._scalar_slots(), {}
        if learning:
            _, inputs = self._applied()
            then = evaluate(kernel.forward, inputs, {})
            between = {k: torch.where(t > 0, self._after(k, then), x) for k, x in between.items()}
        now = self._now()
        values = evaluate(kernel.forward, self._inputs(now[:, 1:], t + 1, between), {})
        decay = now[:, 0] * now[:, 1 + len(kernel.rule.coefficients)]
        keep, lr = (1 - decay).float(), now[:, 0].float()
        horizon = now[:, 2 + len(kernel.rule.coefficients)]
        share = torch.where(t > 0, 1 - horizon * (1 - decay), 1.0).float()  # of the anchor's way to the weights
        settles = rows_of(kernel.settle, then) if learning else [[]] * len(self._cells)
        moves = rows_of(kernel.move, values)
        for i, cell in enumerate(self._cells):
            if learning and ctypes.c_double.from_address(cell.state["step"].data_ptr()).value > 0:
                for registers in self._registers(kernel.settle, cell, {"g": cell.state["gradient"]}, settles[i]):
                    kernel.settle.run(registers)
            if learning:
                cell.state["gradient"].copy_(cell.g)  # before the weights move, whose memory it may share
            anchors = _pieces(cell.state["anchor"]) if kernel.traced else ()
            pieces = zip(_pieces(cell.p), self._registers(kernel.move, cell, {"g": cell.g}, moves[i]), strict=True)
            for j, (p, registers) in enumerate(pieces):
                kernel.move.run(registers)
                u = registers[kernel.result]
                if kernel.traced:
                    anchors[j].addcmul_(p - anchors[j], share[i])
                p.mul_(keep[i]).addcmul_(u, lr[i], value=-1)
        kept = between if learning else {k: self._after(k, values) for k in between}
        self._store(kept, t + 1, now[:, : 1 + len(kernel.rule.coefficients)] if learning else None)

    def _store(self, scalar_slots: dict[str, Tensor], t: Tensor, applied: Tensor | None) -> None:
        states = [cell.state for cell in self._cells]
        for name, x in {**scalar_slots, "step": t}.items():
            torch._foreach_copy_([state[name] for state in states], list(x.unbind()))
        if applied is not None:
            torch._foreach_copy_([state["applied"] for state in states], list(applied.unbind()))

    def _registers(
        self, program: Program, cell: Cell, inputs: dict[str, Tensor], scalars: list[Tensor]
    ) -> Iterator[list[Any]]:
        """The program's registers for each piece of a tensor."""
        named = {**inputs, **{SLOT + name: cell.state[name] for name in self._kernel.slots}}
        columns = [_pieces(named[name]) for name in program.elements]
        for piece in zip(*columns, strict=True):
            buffers = self._kernel.buffers[: program.buffers, : piece[0].numel()].unbind()
            yield [*piece, *scalars, *program.numbers, *buffers]

    def _now(self) -> Tensor:
        """What `Numbers` has, (tensors, all of it)."""
        self._numbers.update()
        return self._numbers.matrix()[self._groups]

    def _applied(self) -> tuple[Tensor, Vectors]:
        """The learning rate of the last update, and the scalar inputs of its graph."""
        applied, count = self._of_state("applied"), 1 + len(self._kernel.rule.coefficients)
        options = torch.cat([applied[:, 1:], self._now()[:, count:]], dim=-1)
        return applied[:, 0], self._inputs(options, self._of_state("step").clamp(min=1), self._scalar_slots())

    def _inputs(self, options: Tensor, t: Tensor, scalar_slots: dict[str, Tensor]) -> Vectors:
        rule, columns = self._kernel.rule, options.unbind(-1)
        names = (*rule.coefficient_names(), "weight_decay", "horizon", *rule.hyper_parameters)
        slots = {SLOT + name: x for name, x in scalar_slots.items()}
        return {**dict(zip(names, columns, strict=True)), "t": t, **slots}

    def _of_state(self, name: str) -> Tensor:
        return torch.stack([cell.state[name] for cell in self._cells])

    def _scalar_slots(self) -> dict[str, Tensor]:
        return {name: self._of_state(name) for name in self._kernel.scalar_slots}

    def _after(self, slot: str, values: Values) -> Tensor:
        node = self._kernel.after[slot]
        return self._vector(values.get(node, node))

    def _vector(self, x: Any) -> Tensor:
        return (
            x if isinstance(x, Tensor) else torch.full((len(self._cells),), float(x), dtype=torch.float64, device=CPU)
        )


def evaluate(graph: fx.Graph, inputs: Vectors, known: Values) -> Values:
    """What of a graph follows from its scalar inputs, and from the totals where those are known."""
    values = dict(known)
    for x in graph.nodes:
        if x in values or x.op == "output":
            continue
        if x.op == "placeholder":
            if x.target in inputs:
                values[x] = inputs[str(x.target)]
        elif x.target is not total and all(y in values for y in x.all_input_nodes):
            first, *rest = map_arg(x.args, values.__getitem__)
            method = getattr(first, x.target) if isinstance(x.target, str) else None
            values[x] = method(*rest, **x.kwargs) if method else x.target(first, *rest, **x.kwargs)
    return values


def rows_of(program: Program, values: Values) -> list[list[Tensor]]:
    """By tensor: the scalars of a program, 0-d, in fp32."""
    if not program.scalars:
        return [[]] * len(next(iter(values.values())))
    matrix = torch.stack([values[x] for x in program.scalars], dim=-1).float()
    return [list(row.unbind()) for row in matrix.unbind()]


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    if 0 < x.numel() <= TILE:  # as most are: for speed
        return (x.view(-1),)
    return torch.split(x.view(-1), TILE) if x.numel() else ()
