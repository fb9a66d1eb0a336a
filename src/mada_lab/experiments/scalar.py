"""An optimizer of one number, fast enough for a million steps: plain floats in place of tensors.

Nothing is defined anew. The rule, its derivatives and the hyper-step are traced from the library's own functions into
graphs, and each graph is evaluated on Python's floats, which are fp64.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.fx.proxy import GraphAppendingTracer, Proxy

from mada_optim import HyperOptimizer
from mada_optim.differentiate import differentiate
from mada_optim.hyper.learner import Learner
from mada_optim.spec import LR
from mada_optim.specialize import SLOT, corners, reduced, specialize

Function = Callable[..., Any]
Numbers = dict[str, float]


class ScalarOptimizer:
    """Moves a number as `optimizer` would move a parameter that has one element.

    Args:
        optimizer: A fresh optimizer in fp64, whose rule, coefficients and learner are taken over; it is not stepped.
            Not offered: weight decay, a learned lr, a hyper_optimizer.
        start: Where the number starts.

    Attributes:
        x: The number; a caller may project it between two steps.
        coefficients: The rule's coefficients by name, as they are now.
    """

    def __init__(self, optimizer: HyperOptimizer, start: float) -> None:
        group, rule, learned = optimizer.param_groups[0], optimizer.rule, optimizer.learned
        if group["weight_decay"] or LR.name in learned or optimizer.hyper_optimizer is not None:
            raise ValueError("a scalar optimizer has no weight decay, learned lr or hyper_optimizer; leave them out")
        fixed = corners(rule, group, learned)
        form, graph = specialize(rule, fixed), reduced(rule, fixed)
        slots = [SLOT + slot.name for slot in rule.slots if slot.scalar]
        scalars = (*rule.coefficient_names(), *rule.hyper_parameters, "t", *slots)
        slope = differentiate(graph, learned, scalars, with_product=False)
        self._update, self._slope = on_floats(graph), on_floats(slope)

        self.x, self.t = start, 0
        self.coefficients: Numbers = {q: float(group[q]) for q in rule.coefficient_names()}
        self._hyper = {name: float(group[name]) for name in rule.hyper_parameters}
        self._slots: Numbers = {SLOT + slot.name: slot.init for slot in form.slots}
        self._last: tuple[float, Numbers] | None = None  # lr of the last update, and what its rule was given
        self._learned, self._learner = learned, optimizer.learner
        self._hyper_step = hyper_step(optimizer.learner, len(learned))
        self._velocity = [0.0] * len(learned)

    def step(self, g: float, lr: float) -> None:
        """One step with the gradient `g`: the hyper-step first, then slots and number with the new coefficients."""
        if self._learned and self._last is not None:
            self._learn(g, *self._last)
        self.t += 1
        given = {**self.coefficients, **self._hyper, **self._slots, "g": g, "t": self.t}
        u, after = self._update(given)
        self.x -= lr * u
        self._last = lr, given
        self._slots = {SLOT + name: x for name, x in after.items()}

    def _learn(self, g: float, lr: float, then: Numbers) -> None:
        derivatives, _ = self._slope({**then, "cotangent": g})
        h = [-lr * x for x in derivatives]
        if self.t < max(self._learner.start, 1) or not all(map(math.isfinite, h)):
            return
        q = [self.coefficients[name] for name in self._learned]
        q, self._velocity = self._hyper_step(*q, *h, *self._velocity)
        self.coefficients.update(zip(self._learned, q, strict=True))


class _Float64(Proxy):
    dtype = torch.float64


class _Tracer(GraphAppendingTracer):
    def proxy(self, node: fx.Node) -> Proxy:
        return _Float64(node, self)


def hyper_step(learner: Learner, count: int) -> Function:
    """The learner's clip, step and projection of `count` coefficients, as a function on floats.

    It takes all q, then all h, then all velocities, and gives the new q and velocities.
    """
    graph = fx.Graph()
    tracer = _Tracer(graph)
    given = [[tracer.proxy(graph.placeholder(f"{x}_{i}")) for i in range(count)] for x in ("q", "h", "velocity")]
    moved = []
    for i, (q, h, velocity) in enumerate(zip(*given, strict=True)):
        vectors = {x: getattr(learner, x) for x in ("lr", "momentum", "low", "high")}
        numbers: dict[str, Any] = {x: None if y is None else float(y[i]) for x, y in vectors.items()}
        one: Any = replace(learner, **numbers)
        new, velocity = one.step(q, one.clip(h), velocity)
        moved.append((one.project(new), velocity))
    graph.output(tracer.create_arg(([q for q, _ in moved], [velocity for _, velocity in moved])))
    return _compiled(graph)


def on_floats(graph: fx.Graph) -> Callable[[Mapping[str, float]], Any]:
    """The graph as a function of its inputs by name, all of them floats; the graph is spent."""
    used = [str(node.target) for node in graph.nodes if node.op == "placeholder" and node.users]
    for node in [node for node in graph.nodes if node.op == "placeholder" and not node.users]:
        graph.erase_node(node)
    forward = _compiled(graph)
    pick = operator.itemgetter(*used) if len(used) > 1 else lambda given: [given[name] for name in used]
    return lambda given: forward(*pick(given))


def _compiled(graph: fx.Graph) -> Function:
    """The graph, with its operations on tensors replaced, as a function of its inputs in their order.

    Raises:
        ValueError: It has an operation that is not known here.
    """
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and not _is_python(node.target):
            name = node.target if isinstance(node.target, str) else node.target.__name__
            if name not in SCALAR:
                raise ValueError(f"the operation {name} has no form for floats; add it to SCALAR")
            node.op, node.target = "call_function", SCALAR[name]
    forward: Function = fx.GraphModule({}, graph).forward
    return forward


def _is_python(target: object) -> bool:
    return getattr(target, "__module__", None) == "_operator"


def where(condition: bool, x: float, y: float) -> float:
    return x if condition else y


def sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def clamp(x: float, min: float = -math.inf, max: float = math.inf) -> float:
    return min if x < min else max if x > max else x


def itself(x: float) -> float:
    return x


#: Operations on tensors, and the same on floats.
SCALAR: dict[str, Function] = {
    "where": where,
    "sign": sign,
    "clamp": clamp,
    "sqrt": math.sqrt,
    "maximum": max,
    "abs": abs,
    "exp": math.exp,
    "total": itself,
    "detach": itself,
}
