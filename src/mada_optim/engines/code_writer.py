"""Writes each operation of a rule's graph as an expression of some language.

Element values are fp32 expressions inside a loop. Scalars are computed once per tensor in double, and rounded once for
arithmetic with elements.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from mada_optim.graph.builder import Builder, UnknownOperationError, operation_of, total
from mada_optim.graph.specialize import outputs

COMPARISONS = {"eq": "==", "ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
INFIX = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", **COMPARISONS}


@dataclass(frozen=True)
class Language:
    """How a language writes the operations of rules."""

    # expressions by name of an operation, from whether it is of elements, and its arguments
    calls: Mapping[str, Callable[..., str]]
    # writes an operation of INFIX: by name, whether it is of elements, and two operands
    infix: Callable[[str, bool, str, str], str]
    number: Callable[[float, bool], str]  # writes a constant, among elements or scalars
    declaration: Callable[[str, str, str], str]  # declares a value by kind (bool, float, double), name and expression
    total: Callable[[int], str]  # the sum with this index


class Writer:
    """Writes the operations of one graph; `scalars` and `elements` are its inputs, with the code that reads each."""

    def __init__(self, language: Language, graph: fx.Graph, scalars: dict[str, str], elements: dict[str, str]) -> None:
        self.language, self.graph, self.inputs = language, graph, {**scalars, **elements}
        self._kind = Builder(graph, scalars)
        nodes = list(graph.nodes)
        used = [x for x in nodes if x.op != "output" and (x.users or x.op != "placeholder")]
        self.totals = [x for x in used if x.target is total]
        after = set(self.totals)
        for x in used:
            if any(y in after for y in x.all_input_nodes):
                after.add(x)
        self.elements = [x for x in used if self.is_element(x)]
        self.shared = [x for x in used if not self.is_element(x) and x not in after]
        self.combined = [x for x in used if x in after and x.target is not total]
        self.output = outputs(graph)

    def is_element(self, x: Any) -> bool:
        return self._kind.is_element(x)

    def operand(self, x: Any, element: bool, shared: str) -> str:
        """An argument of an element value or of a scalar; `shared` is the prefix of scalars' names."""
        if not isinstance(x, fx.Node):
            return self.language.number(float(x), element)
        if self.is_element(x) or x not in self.shared:
            return self.language.total(self.totals.index(x)) if x.target is total else name_of(x)
        return shared + name_of(x)

    def statement(self, x: fx.Node, shared: str = "") -> str:
        """The expression of one value. Raises UnknownOperationError if it can't be written."""
        if x.op == "placeholder":
            return self.inputs[str(x.target)]
        element = self.is_element(x)
        name = operation_of(x)
        arguments = [self.operand(y, element, shared) for y in (*x.args, *x.kwargs.values())]
        if name in INFIX:
            left, right = arguments
            return self.language.infix(name, element, left, right)
        if name not in self.language.calls or set(x.kwargs) - {"min"}:
            raise UnknownOperationError(name)
        condition = x.args[0] if name == "where" else None
        if isinstance(condition, fx.Node) and not is_comparison(condition, self.is_element(condition)):
            arguments[0] += " != 0"
        if name == "pow" and x.args[1] == 2:
            return f"{arguments[0]} * {arguments[0]}"
        return self.language.calls[name](element, *arguments)

    def declarations(self, values: Iterable[fx.Node], shared: str) -> list[str]:
        lines = []
        for x in values:
            element = self.is_element(x)
            kind = "bool" if is_comparison(x, element) else "float" if element else "double"
            lines.append(self.language.declaration(kind, name_of(x), self.statement(x, shared)))
        return lines


def name_of(x: fx.Node) -> str:
    return f"n_{x.name}"


def is_comparison(x: fx.Node, element: bool) -> bool:
    """Whether `x` is a truth value of elements; for a scalar, 1 or 0 in a double serves."""
    return element and operation_of(x) in COMPARISONS


def indented(lines: Iterable[str], spaces: int = 4) -> str:
    return textwrap.indent("\n".join(lines), " " * spaces)
