"""An optimizer of one number on Python floats (fp64), fast enough for a million steps.

The rule, its derivatives and the learner's step are the library's own functions, traced into graphs.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.proxy import GraphAppendingTracer, Proxy

from mada_optim import HyperOptimizer, HyperSGD, StepInfo
from mada_optim.checks import intervals, learned_names
from mada_optim.graph.differentiate import differentiate
from mada_optim.graph.specialize import SLOT, corners, reduced, specialize
from mada_optim.learning.hyper_step import projected
from mada_optim.rule import LR, Rule

Function = Callable[..., Any]
Numbers = dict[str, float]


class ScalarOptimizer:
    """Moves the number `x`, from `start`, as `optimizer` would move a parameter that has one element.

    `optimizer` is a fresh one of one fp64 parameter. It is not stepped: its rule, options and learners are used. Raises
    ValueError if it has weight decay, slots that aren't fp64, a learned lr or learners other than HyperSGD.
    """

    def __init__(self, optimizer: HyperOptimizer, start: float) -> None:
        group, rule, learned = optimizer.param_groups[0], optimizer.rule, optimizer.learned
        _require_scalar(optimizer)
        self._sign = -1.0 if group["maximize"] else 1.0
        fixed = corners(rule, group, learned)
        form, graph = specialize(rule, fixed), reduced(rule, fixed)
        slots = [SLOT + slot.name for slot in rule.slots if slot.scalar]
        scalars = (*rule.coefficient_names(), *rule.hyper_parameters, "t", *slots)
        slope = differentiate(graph, learned, scalars, with_product=False)
        self._update, self._slope = on_floats(graph), on_floats(slope)

        self.x, self.t = start, 0  # a caller may project x between two steps
        #: The rule's coefficients by name, as learned, before a guard
        self.coefficients: Numbers = {q: float(group[q]) for q in rule.coefficient_names()}
        self._hyper = {name: float(group[name]) for name in rule.hyper_parameters}
        self._slots: Numbers = {SLOT + slot.name: slot.init for slot in form.slots}
        self._last: tuple[float, Numbers] | None = None  # lr and inputs of the last update
        self._learned = learned
        learner_of = {q: x for x in optimizer.learners for q in learned_names(rule, x.names)}
        self._columns = [Column(q, learner_of[q], rule) for q in learned]

    def step(self, g: float, lr: float) -> None:
        """One step with the gradient `g`: the hyper-step first, then slots and number with the new coefficients."""
        g *= self._sign
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
        if all(map(math.isfinite, h)):
            for column, x in zip(self._columns, h, strict=True):
                self.coefficients[column.name] = column.step(self.coefficients[column.name], x, self.t)


def _require_scalar(optimizer: HyperOptimizer) -> None:
    learners = {type(x) for x in optimizer.learners}
    refused = {
        "weight_decay": bool(optimizer.param_groups[0]["weight_decay"]),
        "state_dtype": optimizer.state_dtype not in (None, torch.float64),
        "a learned lr": LR.name in optimizer.learned,
        "a learner other than HyperSGD": not learners <= {HyperSGD},
    }
    if any(refused.values()):
        got = ", ".join(name for name, given in refused.items() if given)
        raise ValueError(f"scalar optimizer: expected none of {', '.join(refused)}, got {got}; leave it out")


class Column:
    """The coefficient `name` of `rule`, moved by its learner's own step and projected as the library does."""

    def __init__(self, name: str, learner: HyperSGD, rule: Rule) -> None:
        self.name, self._velocity = name, 0.0
        self._from, self._until = max(learner.start, 1), math.inf if learner.stop is None else learner.stop
        ends = intervals(rule, {q: x for q, x in learner.bounds.items() if q == name}, (name,))[name]
        rates = tuple(q.hyper_lr for q in rule.coefficients if q.name == name)
        graph = fx.Graph()
        tracer = _Tracer(graph)
        q, h, velocity, moves = (tracer.proxy(graph.placeholder(x)) for x in ("q", "h", "velocity", "moves"))
        info: Any = StepInfo((name,), ends.low, ends.high, rates, None, moves, moves, 0.0, lambda: None)  # type: ignore[arg-type, return-value]
        new, memory = learner.step(q, h, {"velocity": velocity}, info)  # type: ignore[arg-type]
        graph.output(tracer.create_arg((projected(new, q, info, False), memory["velocity"])))  # type: ignore[arg-type]
        self._move = _compiled(graph)

    def step(self, q: float, h: float, applied: int) -> float:
        """Where the coefficient goes from `q`, after so many applied steps."""
        new: float
        new, self._velocity = self._move(q, h, self._velocity, self._from <= applied < self._until)
        return new


class _Float64(Proxy):
    dtype = torch.float64


class _Tracer(GraphAppendingTracer):
    def proxy(self, node: fx.Node) -> Proxy:
        return _Float64(node, self)


def on_floats(graph: fx.Graph) -> Callable[[Mapping[str, float]], Any]:
    """The graph as a function of its inputs by name, all of them floats; the graph is spent."""
    used = [str(node.target) for node in graph.nodes if node.op == "placeholder" and node.users]
    for node in [node for node in graph.nodes if node.op == "placeholder" and not node.users]:
        graph.erase_node(node)
    forward = _compiled(graph)
    pick = operator.itemgetter(*used) if len(used) > 1 else lambda given: [given[name] for name in used]
    return lambda given: forward(*pick(given))


def _compiled(graph: fx.Graph) -> Function:
    """The graph, with its operations on tensors replaced, as a function of its inputs in their order."""
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


def itself(x: float, *_: int) -> float:
    return x


def isnan(x: float) -> int:
    return int(x != x)  # of which ~ is a truth value as well


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
    "unsqueeze": itself,
    "isnan": isnan,
}
