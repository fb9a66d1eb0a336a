"""Writes operations into the graph of a rule.

An *element* value has one number per element of the parameter: it depends on the gradient or on a slot. A *scalar* has
one per tensor: coefficients, t, averages of ones. `total` sums an element value over the tensor.
"""

import operator
from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from mada_optim.graph.specialize import ALGEBRA

Value = Any  # a node of the graph, or a number
Adjoint = dict[Value, Value]  # a sum of element values e_j by e_j, with their scalar factors k_j; of a scalar, {1.0: k}


def total(x: Tensor) -> Tensor:
    return x.sum()


class UnknownOperationError(Exception):
    """The rule has an operation that can't be differentiated, or written for an engine."""


def operation_of(node: fx.Node) -> str:
    """The name of an operation in Python or torch: "add", "where", "sqrt"."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class Builder:
    """Writes operations into a graph, each once, simplified where a number is 0 or 1."""

    def __init__(self, graph: fx.Graph, scalars: Iterable[str]) -> None:
        self.graph = graph
        self.made: dict[tuple[Any, ...], fx.Node] = {}
        self._scalars = set(scalars)  # names of inputs that are scalars
        self._kinds: dict[fx.Node, bool] = {}

    def __call__(self, target: Any, *args: Any) -> Any:
        folded = ALGEBRA[target](*args) if target in ALGEBRA else None
        if folded is not None:
            return folded
        key = (target, *args)
        if key not in self.made:
            self.made[key] = self.graph.call_function(target, args)
        return self.made[key]

    def is_element(self, x: Any) -> bool:
        """Whether `x` has one number per element."""
        if not isinstance(x, fx.Node):
            return False
        if x not in self._kinds:
            self._kinds[x] = self._depends_on_elements(x)
        return self._kinds[x]

    def _depends_on_elements(self, x: fx.Node) -> bool:
        if x.op == "placeholder":
            return str(x.target) not in self._scalars
        return x.target is not total and any(map(self.is_element, x.all_input_nodes))

    def mul(self, x: Value, y: Value) -> Any:
        return self(operator.mul, x, y)

    def sum_of(self, adjoint: Adjoint) -> Adjoint:
        """An adjoint of element values as one term."""
        if len(adjoint) <= 1:
            return adjoint
        whole: Any = 0.0
        for e, k in adjoint.items():
            whole = self(operator.add, whole, self.mul(k, e))
        return {whole: 1.0}
