"""The tiled engine: a rule as torch operations on pieces that fit into the caches. It needs no compiler.

Values that depend on scalars alone are computed for all tensors at once, in vectors with one number per tensor. The
state is as in engines/eager.py.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from mada_optim.engines.cpp.engine import usable_scalar
from mada_optim.engines.cpp.tensors import plain
from mada_optim.engines.eager import largest_gradient
from mada_optim.engines.numbers import GroupNumbers
from mada_optim.engines.program import CPU, Program
from mada_optim.engines.protocol import StepInput, TensorBatch
from mada_optim.engines.tiled.lower import Lowered, lower
from mada_optim.graph.builder import Builder, total
from mada_optim.graph.specialize import SLOT, outputs
from mada_optim.placement import intact

TILE = 1 << 18  # elements, 1 MiB of each operand: smaller tiles can't occupy two threads, larger ones leave the cache
Vectors = dict[str, Tensor]  # (tensors,) by the name of a graph's input
Values = dict[fx.Node, Tensor]  # (tensors,) by node


class Tiled:
    """A program on tiles, and the choice of the tensors that it can move. Raises UnknownOperationError."""

    name = "tiled"

    def __init__(self, program: Program, forward: fx.Graph, backward: fx.Graph) -> None:
        self.program, self.forward, self.backward = program, forward, backward
        keeps, scalars = program.keeps_last_update, program.scalar_inputs
        self.totals = [x for x in backward.nodes if x.target is total]
        u, self.after = outputs(forward)
        moved, kinds = {name: self.after[name] for name in program.slots}, Builder(forward, scalars)
        self.settle = lower(forward, kinds, [], moved)  # the slots, over the last update
        self.move = lower(forward, kinds, [u], {} if keeps else moved)
        self.slope = lower(backward, Builder(backward, scalars), self.totals, {})
        assert self.move.result is not None
        self.result = self.move.result
        most = max(x.buffers for x in (self.settle, self.move, self.slope))
        self.buffers = torch.empty(most, TILE, dtype=torch.float32, device=CPU)

    def prepare(self, entry: StepInput) -> StepInput | None:
        """The tensor itself if it, its gradient and its state are dense fp32 in CPU memory; else None."""
        program = self.program
        if not entry.state.keys() >= {*program.state_names}:
            return None
        scalars = [name for name in program.state_names if name in ("step", "applied", *program.scalar_slots)]
        whole = [entry.state[name] for name in program.state_names if name not in scalars]
        fits = all(x.shape == entry.p.shape and plain(x) and intact(x) for x in (entry.p, entry.g, *whole))
        return entry if fits and all(usable_scalar(name, entry.state[name], program) for name in scalars) else None

    def forget_others(self, entries: list[StepInput], prepared: list[StepInput]) -> None:
        pass

    def batch(self, entries: list[StepInput], _: list[StepInput]) -> "TileBatch":
        return TileBatch(self, entries)


class TileBatch(TensorBatch):
    """Tensors of one step, moved tile by tile."""

    def __init__(self, kernel: Tiled, entries: list[StepInput]) -> None:
        self._kernel, self._entries = kernel, entries
        self._numbers = GroupNumbers(kernel.program, [entry.options for entry in entries])
        self._groups = torch.tensor(self._numbers.rows, device=CPU)

    def usable(self) -> Tensor:
        largest = [torch.stack(torch.aminmax(g)).abs().amax() for entry in self._entries for g in _pieces(entry.g)]
        most = torch.stack([torch.zeros((), dtype=torch.float32, device=CPU), *largest]).amax()
        return most <= largest_gradient(torch.float32)

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        learned = self._kernel.program.learned
        out = torch.zeros(scopes, len(learned), dtype=torch.float64, device=CPU)
        if learned:
            rows, begun = torch.tensor([entry.scope for entry in self._entries], device=CPU), self._of_state("step") > 0
            h = [self._derivatives()] if self._kernel.program.keeps_last_update else []
            h += [self._along_trace()] if self._kernel.program.traced else []
            out.index_add_(0, rows, torch.where(begun.unsqueeze(-1), torch.cat(h, dim=-1), 0.0))
        return self.usable(), out

    def _along_trace(self) -> Tensor:
        """< g, theta - A >, (tensors, 1)."""
        h = torch.zeros(len(self._entries), 1, dtype=torch.float64, device=CPU)
        for i, entry in enumerate(self._entries):
            for g, p, anchor in zip(*map(_pieces, (entry.g, entry.p, entry.state["anchor"])), strict=True):
                h[i] += (g * (p - anchor)).sum()
        return h

    def _derivatives(self) -> Tensor:
        """-lr < g, d theta / dq >, (tensors, learned in one step)."""
        kernel, of_lr = self._kernel, self._kernel.program.slopes_lr
        lr, inputs = self._applied()
        values = evaluate(kernel.backward, inputs, {})
        decay = self._now()[:, 1 + len(kernel.program.coefficients)]
        wants_along = of_lr and any(entry.options["weight_decay"] for entry in self._entries)
        sums_of = torch.zeros(len(self._entries), len(kernel.totals) + 1, dtype=torch.float32, device=CPU)
        totals, along = sums_of[:, :-1], sums_of[:, -1]
        for i, (entry, scalars) in enumerate(zip(self._entries, rows_of(kernel.slope, values), strict=True)):
            inner = {"g": entry.state["gradient"], "cotangent": entry.g}
            for registers in self._registers(kernel.slope, entry, inner, scalars):
                sums = kernel.slope.run(registers)
                totals[i] += torch.stack(sums) if sums else 0.0
            for g, p in zip(_pieces(entry.g), _pieces(entry.p), strict=True) if wants_along else ():
                along[i] += (g * p).sum()
        values |= zip(kernel.totals, totals.double().unbind(-1), strict=True)
        values = evaluate(kernel.backward, inputs, values)
        derivatives, product = outputs(kernel.backward)
        columns = [self._vector(values.get(x, x)) for x in derivatives]
        if of_lr:  # the formula is in learning/hypergradient.py
            kept, whole = 1 - lr * decay, self._vector(values.get(product, product))
            columns.append(torch.where(kept == 0, whole, (whole + decay * along) / kept))
        return -lr.unsqueeze(-1) * torch.stack(columns, dim=-1)

    def advance(self, where: Tensor) -> None:
        if not ctypes.c_bool.from_address(where.data_ptr()).value:
            return
        kernel, learning = self._kernel, self._kernel.program.keeps_last_update
        t, between, then = self._of_state("step"), self._scalar_slots(), {}
        if learning:
            _, inputs = self._applied()
            then = evaluate(kernel.forward, inputs, {})
            between = {k: torch.where(t > 0, self._after(k, then), x) for k, x in between.items()}
        now = self._now()
        values = evaluate(kernel.forward, self._inputs(now[:, 1:], t + 1, between), {})
        decay = now[:, 0] * now[:, 1 + len(kernel.program.coefficients)]
        keep, lr = (1 - decay).float(), now[:, 0].float()
        horizon = now[:, 2 + len(kernel.program.coefficients)]
        share = torch.where(t > 0, 1 - horizon * (1 - decay), 1.0).float()  # how far the anchor moves to the weights
        settles = rows_of(kernel.settle, then) if learning else [[]] * len(self._entries)
        moves = rows_of(kernel.move, values)
        for i, entry in enumerate(self._entries):
            if learning and ctypes.c_double.from_address(entry.state["step"].data_ptr()).value > 0:
                for registers in self._registers(kernel.settle, entry, {"g": entry.state["gradient"]}, settles[i]):
                    kernel.settle.run(registers)
            if learning:
                entry.state["gradient"].copy_(entry.g)  # before the weights move, whose memory it may share
            anchors = _pieces(entry.state["anchor"]) if kernel.program.traced else ()
            pieces = zip(_pieces(entry.p), self._registers(kernel.move, entry, {"g": entry.g}, moves[i]), strict=True)
            for j, (p, registers) in enumerate(pieces):
                kernel.move.run(registers)
                u = registers[kernel.result]
                if kernel.program.traced:
                    anchors[j].addcmul_(p - anchors[j], share[i])
                p.mul_(keep[i]).addcmul_(u, lr[i], value=-1)
        kept = between if learning else {k: self._after(k, values) for k in between}
        self._store(kept, t + 1, now[:, : 1 + len(kernel.program.coefficients)] if learning else None)

    def _store(self, scalar_slots: dict[str, Tensor], t: Tensor, applied: Tensor | None) -> None:
        states = [entry.state for entry in self._entries]
        for name, x in {**scalar_slots, "step": t}.items():
            torch._foreach_copy_([state[name] for state in states], list(x.unbind()))
        if applied is not None:
            torch._foreach_copy_([state["applied"] for state in states], list(applied.unbind()))

    def _registers(
        self, lowered: Lowered, entry: StepInput, inputs: dict[str, Tensor], scalars: list[Tensor]
    ) -> Iterator[list[Any]]:
        """The program's registers for each piece of a tensor."""
        named = {**inputs, **{SLOT + name: entry.state[name] for name in self._kernel.program.slots}}
        columns = [_pieces(named[name]) for name in lowered.elements]
        for piece in zip(*columns, strict=True):
            buffers = self._kernel.buffers[: lowered.buffers, : piece[0].numel()].unbind()
            yield [*piece, *scalars, *lowered.numbers, *buffers]

    def _now(self) -> Tensor:
        self._numbers.read_all()
        return self._numbers.matrix()[self._groups]

    def _applied(self) -> tuple[Tensor, Vectors]:
        """The learning rate of the last update, and the scalar inputs of its graph."""
        applied, count = self._of_state("applied"), 1 + len(self._kernel.program.coefficients)
        options = torch.cat([applied[:, 1:], self._now()[:, count:]], dim=-1)
        return applied[:, 0], self._inputs(options, self._of_state("step").clamp(min=1), self._scalar_slots())

    def _inputs(self, options: Tensor, t: Tensor, scalar_slots: dict[str, Tensor]) -> Vectors:
        rule, columns = self._kernel.program.rule, options.unbind(-1)
        names = (*rule.coefficient_names(), "weight_decay", "horizon", *rule.hyper_parameters)
        slots = {SLOT + name: x for name, x in scalar_slots.items()}
        return {**dict(zip(names, columns, strict=True)), "t": t, **slots}

    def _of_state(self, name: str) -> Tensor:
        return torch.stack([entry.state[name] for entry in self._entries])

    def _scalar_slots(self) -> dict[str, Tensor]:
        return {name: self._of_state(name) for name in self._kernel.program.scalar_slots}

    def _after(self, slot: str, values: Values) -> Tensor:
        node = self._kernel.after[slot]
        return self._vector(values.get(node, node))

    def _vector(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            return x
        return torch.full((len(self._entries),), float(x), dtype=torch.float64, device=CPU)


def evaluate(graph: fx.Graph, inputs: Vectors, known: Values) -> Values:
    """The values of a graph that follow from its scalar inputs, and from the totals in `known`."""
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


def rows_of(lowered: Lowered, values: Values) -> list[list[Tensor]]:
    """The scalars of lowered code for each tensor, 0-d, in fp32."""
    if not lowered.scalars:
        return [[]] * len(next(iter(values.values())))
    matrix = torch.stack([values[x] for x in lowered.scalars], dim=-1).float()
    return [list(row.unbind()) for row in matrix.unbind()]


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    if 0 < x.numel() <= TILE:  # the usual case, for speed
        return (x.view(-1),)
    return torch.split(x.view(-1), TILE) if x.numel() else ()
