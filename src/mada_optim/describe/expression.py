"""Equations of a rule, read from its graph: one for each slot and each variable of its author; the rest is inlined.

An equation's tree has the operations of the graph, but the shared term `root` is one operation.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from mada_optim.describe.graphs import Traced, under_root
from mada_optim.describe.symbols import at, symbol
from mada_optim.graph.builder import operation_of
from mada_optim.graph.specialize import SLOT, nodes_behind

SEQUENCE = "sequence"  # the operation that makes one argument of several


@dataclass(frozen=True)
class Symbol:
    """A letter in LaTeX, with its subscripts."""

    latex: str


@dataclass(frozen=True)
class Literal:
    """A number, or another constant argument of an operation."""

    value: Any


@dataclass(frozen=True)
class Call:
    """An operation, by the name that `operation_of` gives it."""

    operation: str
    arguments: tuple["Expression", ...]
    keywords: tuple[tuple[str, "Expression"], ...] = ()


Expression = Symbol | Literal | Call


@dataclass(frozen=True)
class Line:
    """One equation, `left = right`, of the variable that is called `name` in code."""

    name: str
    left: Symbol
    right: Expression


def letters(form: Traced) -> dict[str, str]:
    """LaTeX of each coefficient and hyper-parameter by name.

    A hyper-parameter takes the letter of the variable that the function puts it in, where there is one.
    """
    nodes = {name: x for name, x in form.names.items() if isinstance(x, fx.Node)}
    aliases = {str(node.target): name for name, node in nodes.items() if node.op == "placeholder"}
    given = {name: symbol(aliases.get(name, name)) for name in form.rule.hyper_parameters}
    return {**given, **{q.name: q.symbol for q in form.rule.coefficients}}


def lines(form: Traced, slots: Iterable[str]) -> list[Line]:
    """The equations of the update and of the named slots, in the order of computation."""
    return _Reader(form, list(slots)).lines()


class _Reader:
    """Reads one graph: `symbols` are the letters of placeholders and of nodes with a line, `names` those in code."""

    def __init__(self, form: Traced, slots: list[str]) -> None:
        letter = {slot.name: slot.symbol for slot in form.rule.slots}
        given = letters(form)
        self.ends = {name: (at(letter[name], "t"), form.after[name]) for name in slots} | {"u": ("u_t", form.u)}
        nodes = sorted(nodes_behind((x for _, x in self.ends.values()), _inputs))  # in the order of computation
        self.operations = [node for node in nodes if node.op != "placeholder"]
        self.symbols: dict[fx.Node, Symbol] = {}
        self.names: dict[fx.Node, str] = {}
        for node in nodes:
            if node.op == "placeholder":
                self.symbols[node] = Symbol(_given(str(node.target), letter, given))
        self._taken = {x.latex for x in self.symbols.values()} | {latex for latex, _ in self.ends.values()}
        self._name_lines(form)

    def _name_lines(self, form: Traced) -> None:
        """Gives lines to slots, the update, slots not kept, the author's variables, and operations used twice."""
        for name, (latex, node) in self.ends.items():
            self._name(node, name, latex)
        for slot in form.rule.slots:
            self._name_if_free(form.after[slot.name], slot.name, at(slot.symbol, "t"))
        for name, node in form.names.items():
            self._name_if_free(node, name, at(symbol(name), "t"))
        numbers = itertools.count(1)
        for node in self._shared():
            while node not in self.symbols:
                i = next(numbers)
                self._name_if_free(node, f"x{i}", f"x_{{{i},t}}")

    def _name_if_free(self, node: Any, name: str, latex: str) -> None:
        if latex not in self._taken:
            self._name(node, name, latex)

    def _name(self, node: Any, name: str, latex: str) -> None:
        if node in self.operations and node not in self.symbols:
            self.symbols[node], self.names[node] = Symbol(latex), name
            self._taken.add(latex)

    def _shared(self) -> list[fx.Node]:
        """Operations without a line that are used more than once, except those on letters alone."""
        uses = Counter(x for node in self.operations for x in _inputs(node))
        rest = [node for node in self.operations if node not in self.symbols and uses[node] > 1]
        return [node for node in rest if any(x not in self.symbols for x in _inputs(node))]

    def lines(self) -> list[Line]:
        """A line for each named operation, then for each slot or update that equals another's value."""
        nodes = [node for node in self.operations if node in self.names]
        equations = [Line(self.names[node], self.symbols[node], self._tree(node)) for node in nodes]
        others = {name: end for name, end in self.ends.items() if name not in self.names.values()}
        equations += [Line(name, Symbol(latex), self._read(x)) for name, (latex, x) in others.items()]
        return [line for line in equations if line.left != line.right]

    def _read(self, x: Any) -> Expression:
        if isinstance(x, tuple | list):
            return Call(SEQUENCE, tuple(map(self._read, x)))
        if not isinstance(x, fx.Node):
            return Literal(x)
        return self.symbols[x] if x in self.symbols else self._tree(x)

    def _tree(self, node: fx.Node) -> Expression:
        if (inside := under_root(node)) is not None:
            return Call("sqrt", (self._read(inside),))
        keywords = tuple((key, self._read(x)) for key, x in node.kwargs.items())
        return Call(operation_of(node), tuple(map(self._read, node.args)), keywords)


def _given(name: str, slots: Mapping[str, str], others: Mapping[str, str]) -> str:
    """The letter of an input of the graph."""
    if name.startswith(SLOT):
        return at(slots[name.removeprefix(SLOT)], "t-1")
    return {"g": "g_t", "t": "t", **others}[name]


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The operands of a node, each as often as it occurs; those of the shared term `root` are its argument."""
    inside = under_root(node)
    operands: list[fx.Node] = []
    map_arg((node.args, node.kwargs) if inside is None else inside, operands.append)
    return operands
