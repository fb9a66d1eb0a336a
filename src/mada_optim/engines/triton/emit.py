"""Writes the Triton kernels of a program from the rule's graph, with the arithmetic of loops.cpp.

Per tensor, one lane each: `slope_values` and `step_values` compute scalars in double and store them in a table;
`step_values` also moves the scalars of the state. Per chunk of a tensor: `check`, `sums` and `move` read that table and
run over the elements in fp32. Per tensor or scope, one program each: `combine` and `per_scope` add up, in a fixed
order. `Layout` describes the int64 table with the tensors' addresses.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from mada_optim.engines.code_writer import Writer, indented, name_of
from mada_optim.engines.program import Program
from mada_optim.engines.rounding import STEP, stream
from mada_optim.engines.triton.language import HEAD, PER_SCOPE, SHAPE, TRITON, counted, kernel, load, loaded, one
from mada_optim.graph.builder import total
from mada_optim.graph.specialize import SLOT
from mada_optim.rule import LR

BESIDE = ("step", "gradient", "applied", "anchor")


@dataclass(frozen=True)
class Layout:
    """The columns of the tables that describe each tensor to the kernels, by the names of the program."""

    coefficients: tuple[str, ...]
    hyper_parameters: tuple[str, ...]
    slots: tuple[str, ...]
    scalar_slots: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The int64 table: the tensor's chunks, size and stream of random bits, then addresses; 0 for a missing one."""
        of_state = (*BESIDE, *(SLOT + name for name in (*self.slots, *self.scalar_slots)))
        return ("first", "last", "size", "stream", *of_state, "p", "g", "lr", "log_lr", *self.coefficients)

    @property
    def element_columns(self) -> tuple[str, ...]:
        """The columns with addresses of tensors that have a number per element."""
        return ("gradient", "anchor", *(SLOT + name for name in self.slots), "p", "g")

    @property
    def numbers(self) -> tuple[str, ...]:
        """The fp64 table: plain numbers of the tensor's group; 0 if there is an address instead."""
        return ("lr", "weight_decay", "horizon", *self.coefficients, *self.hyper_parameters)


@dataclass(frozen=True)
class Code:
    """The source of the kernels of a program, and the sizes of their tables."""

    source: str  # of the kernels
    layout: Layout  # the tables that they read
    sums: int  # number of sums of a chunk
    slope_values: int  # number of scalars per tensor for the hypergradients
    step_values: int  # number of scalars per tensor for the step


def emit(program: Program, forward: fx.Graph, backward: fx.Graph, limit: float) -> Code:
    """The kernels of a program, from its graphs; `limit` is the largest accepted gradient."""
    return _Emitter(program, forward, backward, limit).code()


class _Emitter:
    def __init__(self, program: Program, forward: fx.Graph, backward: fx.Graph, limit: float) -> None:
        hyper_parameters = tuple(program.rule.hyper_parameters)
        layout = Layout(program.coefficients, hyper_parameters, program.slots, program.scalar_slots)
        self.layout, self.learned, self.traced, self.limit = layout, program.learned, program.traced, limit
        self.state = str(program.state_dtype or "float32").removeprefix("torch.")
        self.settles, self.along_p = program.keeps_last_update, program.slopes_lr
        self.rounds_weights = program.weights is not None
        scalars = {q: f"q_{q}" for q in layout.coefficients} | {q: f"hyper_{q}" for q in layout.hyper_parameters}
        scalars |= {SLOT + name: f"w_{name}" for name in layout.scalar_slots} | {"t": "t"}
        elements = {"g": "g", **{SLOT + name: f"s_{name}" for name in layout.slots}}
        self.step = Writer(TRITON, forward, scalars, elements)
        self.slope = Writer(TRITON, backward, scalars, {**elements, "cotangent": "g_now"})
        u, after = self.step.output
        ends = [u, *(after[name] for name in layout.slots)]
        self.of_step = [x for x in self.step.shared if x in ends or any(map(self.step.is_element, x.users))]
        slope, (derivatives, product) = self.slope, self.slope.output
        ends = [*derivatives, product, *slope.combined]
        self.of_slope = [x for x in slope.shared if x in ends or any(slope.is_element(y) or y in ends for y in x.users)]
        sums = [f"sum_{j}" for j in range(len(self.slope.totals))] if self.settles else []
        self.sums = [*sums, *["along_p"] * self.along_p, *["along_trace"] * self.traced]
        self.then = 3  # in a row of step_values: lr, keep, share come first
        self.now = self.then + len(self.of_step) * self.settles

    def code(self) -> Code:
        parts = [HEAD, self._check(), self._step_values(), self._move()]
        if self.learned:
            per_scope = PER_SCOPE.replace("H", str(len(self.learned)))
            parts += [self._slope_values(), self._sums(), self._combine(), per_scope]
        counts = (len(self.sums), max(len(self.of_slope), 1), self.now + len(self.of_step))
        return Code("\n\n".join(parts), self.layout, *counts)

    # One lane per tensor.

    def _column(self, name: str) -> int:
        return self.layout.columns.index(name)

    def _number(self, name: str) -> str:
        return f"tl.load({self._place(name)}, mask=here, other=1.0)"

    def _place(self, name: str) -> str:
        return f"numbers + j * {len(self.layout.numbers)} + {self.layout.numbers.index(name)}"

    def _address(self, name: str) -> str:
        return f"tl.load(row + {self._column(name)}, mask=here, other=0)"

    def _lanes(self) -> list[str]:
        """The tensor of each lane, and the values that the last update and this one share."""
        return [
            "j = tl.program_id(0) * LANES + tl.arange(0, LANES).to(tl.int64)",
            "here = j < count",
            "zero = tl.zeros([LANES], tl.float64)",
            f"row = table + j * {len(self.layout.columns)}",
            f"before = doubles({self._address('step')}, here)",
            f"weight_decay = {self._number('weight_decay')}",
            *(f"hyper_{q} = {self._number(q)}" for q in self.layout.hyper_parameters),
            *(f"w_{name} = doubles({self._address(SLOT + name)}, here)" for name in self.layout.scalar_slots),
        ]

    def _last(self) -> list[str]:
        return [
            f"applied = {self._address('applied')}",
            *(f"q_{q} = doubles(applied + {8 * (i + 1)}, here)" for i, q in enumerate(self.layout.coefficients)),
            "t = tl.maximum(before, 1.0)",
        ]

    def _stored(self, nodes: Iterable[fx.Node], width: str, begin: int = 0) -> list[str]:
        return [f"tl.store(values + j * {width} + {i}, {name_of(x)}, mask=here)" for i, x in enumerate(nodes, begin)]

    def _slope_values(self) -> str:
        if not self.settles:
            return ""
        width = str(max(len(self.of_slope), 1))
        body = [*self._lanes(), *self._last(), *self.slope.declarations(self.slope.shared, "")]
        body += self._stored(self.of_slope, width)
        return kernel("slope_values", "table, numbers, count, values, LANES: tl.constexpr", body)

    def _step_values(self) -> str:
        step, width = self.step, str(self.now + len(self.of_step))
        _, after = step.output
        next_scalars = {name: step.operand(after[name], False, "") for name in self.layout.scalar_slots}
        body = self._lanes()
        if self.settles:
            body += [*self._last(), *step.declarations(step.shared, ""), *self._stored(self.of_step, width, self.then)]
            body += [f"w_{name} = tl.where(before >= 1.0, {x}, w_{name})" for name, x in next_scalars.items()]
        for q in self.layout.coefficients:
            body.append(f"q_{q} = value_of({self._address(q)}, {self._number(q)}, here)")
        body += ["t = before + 1.0", *step.declarations(step.shared, ""), *self._stored(self.of_step, width, self.now)]
        body += [f"lr = value_of({self._address('lr')}, {self._number('lr')}, here)"]
        if LR.name in self.learned:
            body += [
                f"alpha = lr * tl.exp(doubles({self._address('log_lr')}, here))",
                "most = tl.maximum(lr, 1.0 / tl.where(weight_decay == 0, 1.0, weight_decay))",
                "lr = tl.where(weight_decay == 0, alpha, tl.minimum(alpha, most))",
            ]
        body += ["keep = 1.0 - lr * weight_decay"]
        share = f"tl.where(before >= 1.0, 1.0 - {self._number('horizon')} * keep, 1.0)"  # how far the anchor moves to p
        first = ("lr", "keep", share)
        body += [f"tl.store(values + j * {width} + {i}, {x}, mask=here)" for i, x in enumerate(first)]
        body += [
            "tl.store(steps + j, before.to(tl.int64), mask=here)",
            "moves = j < tl.where(tl.load(usable) != 0, count, 0)",
        ]
        kept = {name: f"w_{name}" for name in next_scalars} if self.settles else next_scalars
        body += [f"put({self._address(SLOT + name)}, {x} + zero, moves)" for name, x in kept.items()]
        if self.settles:
            now = ("lr", *(f"q_{q}" for q in self.layout.coefficients))
            body += [f"put(applied + {8 * i}, {x}, moves)" for i, x in enumerate(now)]
        body += [f"put({self._address('step')}, before + 1.0, moves)"]
        return kernel("step_values", "table, numbers, count, usable, values, steps, LANES: tl.constexpr", body)

    # One chunk of a tensor.

    def _chunk(self, tensors: Sequence[str]) -> list[str]:
        """The elements of a chunk, and pointers into the tensors that have elements."""
        lines = [
            "c = tl.program_id(0).to(tl.int64)",
            "tensor = tl.load(chunks + 2 * c)",
            "begin = tl.multiple_of(tl.load(chunks + 2 * c + 1), BLOCK)",
            f"row = table + tensor * {len(self.layout.columns)}",
            f"size = tl.load(row + {self._column('size')})",
        ]
        for name in tensors:
            dtypes = {"p": "P", "g": "tl.float32", "gradient": "GRADIENT", "anchor": "tl.float32"}
            dtype = dtypes.get(name, f"tl.{self.state}")
            lines.append(f"at_{name} = pointer(tl.load(row + {self._column(name)}), {dtype}, ALIGNED)")
        return lines

    def _loop(self, body: list[str]) -> list[str]:
        head = ["i = start + tl.arange(0, BLOCK).to(tl.int64)", "mask = i < size"]
        hint = ["if ALIGNED:", "    size = tl.multiple_of(size, 4)"]  # not in a function: it belongs to a named value
        return [*hint, "for start in range(begin, tl.minimum(begin + CHUNK, size), BLOCK):", indented([*head, *body])]

    def _check(self) -> str:
        body = [*self._chunk(["g"]), "bad = tl.zeros([BLOCK], tl.int32)"]
        body += self._loop([loaded("g", "g"), counted("g", self.limit)])
        body += ["tl.store(bad_chunks + c, tl.sum(bad, 0))"]
        return kernel("check", f"table, chunks, bad_chunks, {SHAPE}", body)

    def _sums(self) -> str:
        slope, names = self.slope, self.sums
        read = ["g"] + ["gradient", *(SLOT + name for name in self.layout.slots)] * self.settles
        read += ["p"] * self.along_p + ["p", "anchor"] * self.traced
        body = [*self._chunk(read), f"k = values + tensor * {max(len(self.of_slope), 1)}" if self.settles else ""]
        body += [
            f"k_{name_of(x)} = tl.load(k + {i}).to(tl.float32)" for i, x in enumerate(self.of_slope) if self.settles
        ]
        body += ["bad = tl.zeros([BLOCK], tl.int32)", *(f"{x} = tl.zeros([BLOCK], tl.float32)" for x in names)]
        inner = [loaded("g_now", "g"), counted("g_now", self.limit)]
        if self.settles:
            inner += [loaded("g", "gradient"), *(loaded(f"s_{x}", SLOT + x) for x in self.layout.slots)]
            fused = [x.args[0] for x in slope.totals if x.args[0].target is operator.mul and len(x.args[0].users) == 1]
            inner += slope.declarations([x for x in slope.elements if x.target is not total and x not in fused], "k_")
            for name, x in zip(names, slope.totals, strict=False):
                value = slope.statement(x.args[0], "k_") if x.args[0] in fused else slope.operand(x.args[0], True, "k_")
                inner.append(f"{name} += tl.where(mask, {value}, 0.0)")
        inner += [f"along_p += g_now * {load('p')}"] * self.along_p
        inner += [f"along_trace += g_now * ({load('p')} - {load('anchor')})"] * self.traced
        body += [*self._loop(inner), "tl.store(bad_chunks + c, tl.sum(bad, 0))"]
        body += [f"tl.store(partials + {i} * count + c, tl.sum({x}, 0).to(tl.float64))" for i, x in enumerate(names)]
        return kernel("sums", f"table, chunks, count, values, partials, bad_chunks, {SHAPE}", body)

    def _move(self) -> str:
        slots = self.layout.slots
        tensors = ["p", "g", *(SLOT + name for name in slots)] + ["gradient"] * self.settles + ["anchor"] * self.traced
        body = [*self._chunk(tensors), f"k = values + tensor * {self.now + len(self.of_step)}"]
        body += [f"{x} = tl.load(k + {i}).to(tl.float32)" for i, x in enumerate(("lr", "keep", "share"))]
        body += [
            "size = tl.where(tl.load(usable) != 0, size, 0)",
            "before = tl.load(steps + tensor)",
            "seed = before.to(tl.uint32)",
        ]
        new = "nearest(keep * p - lr * u, P)"
        if self.rounds_weights:
            body += [f"of_weights = seed * {STEP} + tl.load(row + {self._column('stream')}).to(tl.uint32)"]
            new = "stochastic(keep * p - lr * u, i, of_weights, P)"
        for prefix, begin in (("then_", self.then), ("now_", self.now))[not self.settles :]:
            named = enumerate(self.of_step, begin)
            body += [f"{prefix}{name_of(x)} = tl.load(k + {i}).to(tl.float32)" for i, x in named]
        inner = [loaded(f"s_{name}", SLOT + name) for name in slots]
        if self.settles:
            inner += [loaded("g", "gradient"), *self._moved("then_", "tl.where(before >= 1, {}, s_{})")]
            inner += self._stored_slots()
        inner += [loaded("g", "g"), *self._moved("now_", "{}"), loaded("p", "p")]
        if self.traced:
            inner += [loaded("a", "anchor"), "tl.store(at_anchor + i, a + share * (p - a), mask=mask)"]
        inner += [f"tl.store(at_p + i, {new}, mask=mask)"]
        inner += [self._store("gradient", "g", len(slots))] if self.settles else self._stored_slots()
        return kernel("move", f"table, chunks, values, steps, usable, {SHAPE}", [*body, *self._loop(inner)])

    def _moved(self, prefix: str, chosen: str) -> list[str]:
        """The update `u`, and the slots one step on; `chosen` selects between new and old ones."""
        u, after = self.step.output
        lines = self.step.declarations(self.step.elements, prefix)
        lines += [f"u = {self.step.operand(u, True, prefix)}"]
        nexts = {name: self.step.operand(after[name], True, prefix) for name in self.layout.slots}
        return lines + [f"s_{name} = {chosen.format(x, name)}" for name, x in nexts.items()]

    def _stored_slots(self) -> list[str]:
        return [self._store(SLOT + name, f"s_{name}", i) for i, name in enumerate(self.layout.slots)]

    def _store(self, name: str, value: str, slot: int) -> str:
        dtype = "GRADIENT" if name == "gradient" else f"tl.{self.state}"
        value = f"narrowed({value}, i, seed * {STEP} + {stream(slot)}, {dtype})"
        return f"tl.store(at_{name} + i, {value}, mask=mask)"

    def _combine(self) -> str:
        derivatives, product = self.slope.output
        body = ["j = tl.program_id(0).to(tl.int64)", f"row = table + j * {len(self.layout.columns)}"]
        body += [f"first = tl.load(row + {self._column('first')})", f"last = tl.load(row + {self._column('last')})"]
        body += [f"{x} = tl.zeros([LANES], tl.float64)" for x in self.sums]
        loads = [f"{x} += tl.load(partials + {i} * count + c, mask=mask, other=0.0)" for i, x in enumerate(self.sums)]
        inner = ["c = start + tl.arange(0, LANES).to(tl.int64)", "mask = c < last", *loads]
        body += ["for start in range(first, last, LANES):", indented(inner)]
        body += [f"{x} = tl.sum({x}, 0)" for x in self.sums]
        body += [f"begun = {one(self._column('step'))} >= 1.0"]
        h = ["along_trace"] if self.traced else []
        if self.settles:
            body += ["zero = 0.0 * begun.to(tl.float64)", f"k = values + j * {max(len(self.of_slope), 1)}"]
            body += [f"k_{name_of(x)} = tl.load(k + {i})" for i, x in enumerate(self.of_slope)]
            body += [f"lr = {one(self._column('applied'))}", *self.slope.declarations(self.slope.combined, "k_")]
            h = [f"-lr * ({self.slope.operand(x, False, 'k_')})" for x in derivatives] + h
        if self.along_p:  # the formula is in learning/hypergradient.py
            body += [
                f"decay = tl.load({self._place('weight_decay')})",
                f"product = {self.slope.operand(product, False, 'k_')} + zero",
                "kept = 1.0 - lr * decay",
                "whole = (product + decay * along_p) / tl.where(kept == 0, 1.0, kept)",
            ]
            h += ["-lr * tl.where(kept == 0, product, whole)"]
        body += [f"tl.store(h + j * {len(h)} + {i}, tl.where(begun, {x}, 0.0))" for i, x in enumerate(h)]
        return kernel("combine", "table, numbers, count, values, partials, h, LANES: tl.constexpr", body)
