"""A step in a function that torch.compile compiles: one operation of the graph.

The compiler can't trace a step, which runs loops in C++ or Triton. The operation declares the tensors that it reads and
changes: weights, gradients, learning rates, coefficients. So it keeps its place among all others that use these, and a
whole training step is one graph. The slots are outside of the graph.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import Optimizer

from mada_optim.learning.banks import Banks

Group = dict[str, Any]

OPERATION = "mada_optim::step"
SCHEMA = (
    "(Tensor(a!)[] moved, Tensor[] gradients, Tensor[] numbers, int[] places, str[] keys, str name, bool enabled) -> ()"
)
#: The compiler's own CUDA graphs leave the operation out, because a step may allocate memory that it keeps.
TAGS = [getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "cudagraph_unsafe") if hasattr(torch.Tag, name)]


class GraphStep:
    """The tensors of an optimizer, as a compiled function finds them.

    The compiler looks at the attributes again at each call of the function, and compiles anew if there are other
    parameters or tensors of other shapes. It doesn't look at numbers in groups, which a step reads for itself.

    Args:
        make: Refers weakly to the optimizer's method that makes a step.
        banks: The learned coefficients.

    Attributes:
        name: Names the optimizer in graphs.
        groups: Its parameter groups.
        keys: The keys in each group whose values are tensors, but for those of learned coefficients.
        columns: The learned coefficients, and the memory of their learners.
        is_plain: Whether all parameters are plain tensors. Others, such as DTensors, can't be given to an operation.
    """

    def __init__(self, make: "weakref.WeakMethod[Callable[[], object]]", banks: Banks) -> None:
        self._make, self._banks = make, banks
        self.name = str(next(NUMBERS))
        self.groups: list[Group] = []
        self.keys: list[list[str]] = []
        self.columns: list[Tensor] = []
        self.is_plain = False
        STEPS[self.name] = self

    def take(self, groups: list[Group]) -> None:
        """Takes over the groups, after a change."""
        columns = self._banks.columns()
        self.groups, self.columns = groups, list(columns.values())
        self.keys = [[k for k, x in group.items() if isinstance(x, Tensor) and k not in columns] for group in groups]
        self.is_plain = all(type(p) in (Tensor, Parameter) for p in self.params())

    def params(self) -> list[Tensor]:
        return [p for group in self.groups for p in group["params"]]

    def joined(self, closure: object) -> bool:
        """Makes a step an operation of the graph that torch.compile traces now; returns whether it has.

        A closure, and parameters that can't be given to an operation, break the graph instead.
        """
        if closure is not None or not self.is_plain:
            return False
        params, keys = self.params(), [(i, key) for i, of_group in enumerate(self.keys) for key in of_group]
        keys = [(i, key) for i, key in keys if isinstance(self.groups[i].get(key), Tensor)]
        places = [j for j, p in enumerate(params) if p.grad is not None]
        enabled = torch.is_grad_enabled()
        with torch.no_grad():
            torch.ops.mada_optim.step(
                [params[j] for j in places] + self.columns,
                [params[j].grad for j in places],
                [self.groups[i][key] for i, key in keys],
                places,
                [f"{i}.{key}" for i, key in keys],
                self.name,
                enabled,
            )
        return True

    def cleared(self, set_to_none: bool) -> bool:
        """Whether all gradients have been set to None in a graph, which torch.compile traces now."""
        if not torch.compiler.is_dynamo_compiling() or not set_to_none:
            return False
        for p in self.params():
            p.grad = None
        return True

    def run(self, moved: list[Tensor], gradients: list[Tensor], numbers: dict[str, Tensor], places: list[int]) -> None:
        """Makes a step on the optimizer's tensors, for which the graph may have given copies."""
        make: Any = self._make()
        if make.__self__.param_groups is not self.groups:
            self.take(make.__self__.param_groups)
            raise RuntimeError(
                "param_groups: expected the list that the compiled function was traced with, got another; call the "
                "function again, or change the groups in the list"
            )
        params = self.params()
        targets = [*(params[j] for j in places), *self.columns]
        changed = others([*zip(targets, moved, strict=True)])
        for x, y in (*changed, *others([(self._number(key), y) for key, y in numbers.items()])):
            x.copy_(y)
        with gradients_of(params, dict(zip(places, gradients, strict=True))):
            make()
        for x, y in changed:
            y.copy_(x)
        self.take(self.groups)

    def _number(self, key: str) -> Tensor:
        i, _, name = key.partition(".")
        x: Tensor = self.groups[int(i)][name]
        return x


STEPS: weakref.WeakValueDictionary[str, GraphStep] = weakref.WeakValueDictionary()
NUMBERS = itertools.count()


def others(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of tensors that don't share their memory."""
    return [(x, y) for x, y in pairs if x.data_ptr() != y.data_ptr()]


@contextmanager
def gradients_of(params: Sequence[Tensor], gradients: dict[int, Tensor]) -> Iterator[None]:
    """Gives the gradients to the parameters in these places, and None to all others, and takes them back."""
    before = [p.grad for p in params]
    try:
        for j, p in enumerate(params):
            p.grad = gradients.get(j)
        yield
    finally:
        for p, g in zip(params, before, strict=True):
            p.grad = g


def _run(
    moved: list[Tensor],
    gradients: list[Tensor],
    numbers: list[Tensor],
    places: list[int],
    keys: list[str],
    name: str,
    enabled: bool,
) -> None:
    try:
        STEPS[name].run(moved, gradients, dict(zip(keys, numbers, strict=True)), places)
    except BaseException:
        torch.set_grad_enabled(enabled)  # the graph, which turned gradients off before the step, doesn't get to its end
        raise


def _no_output(*_: object) -> None:
    pass


torch.library.define(OPERATION, SCHEMA, tags=TAGS)
torch.library.impl(OPERATION, "default", _run)
torch.library.register_fake(OPERATION, _no_output)


def zero_grad(optimizer: Any, set_to_none: bool = True) -> None:
    """As in torch.optim. Unlike there, torch.compile can trace it."""
    if not optimizer.graph_step.cleared(set_to_none):
        Optimizer.zero_grad(optimizer, set_to_none)
