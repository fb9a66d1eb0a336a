"""HyperTorch, a learner that is any `torch.optim.Optimizer`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim.learning.learner import CoefficientOptimizer, Learner, Memory, StepInfo, clipped
from mada_optim.learning.options import NONE, Bounds, Limit, Option, Scope, Start, Stop, names_given, settle

Factory = Callable[[list[Tensor]], Optimizer]


def adam(leaves: list[Tensor]) -> Optimizer:
    """Torch's Adam with its default options, lr 1e-3."""
    return torch.optim.Adam(leaves, lr=1e-3)


def factory_given(make: Factory) -> Factory:
    """`make`, which can be called. Raises ValueError if it can't."""
    if not callable(make):
        raise ValueError(f"make={make!r}: expected a function from a list of tensors to a torch.optim.Optimizer")
    return make


@dataclass(frozen=True, init=False)
class HyperTorch(Learner):
    """Moves coefficients by a `torch.optim.Optimizer`, whose parameters they are.

    With an optimizer of this library, it is a tower (Chandra et al., NeurIPS 2022, arXiv 1909.13371):

        MADA(params, learn=HyperTorch("all", make=lambda leaves: HyperAdam(leaves, lr=1e-3)))

    On CUDA, an optimizer with state on the CPU makes the host wait for the device in each step. The step count of
    torch's Adam is such a state, unless you pass `capturable=True`.

    Args:
        coefficients: Names of coefficients of the rule, or "lr", whose logarithm is learned; "all" for all of the
            rule's.
        names: The same as one value, as `dataclasses.replace` passes them.
        make: Makes the optimizer from a list of tensors, one of shape (rows,) for each coefficient.
        clip: Largest size of a hypergradient, >= 0: each is clipped to [-clip, clip]. math.inf: no clipping.
        start: Number of applied steps before the first hyper-step.
        stop: Number of applied steps after which the coefficients stay, > start; None for no end.
        bounds: (low, high) by name, instead of the rule's intervals; for lr, of the factor on the lr that is set.
        scope: The parameters that share a coefficient: "global", "group" or "tensor".

    Raises:
        ValueError: A value is not allowed. The message names it, the allowed values and a remedy.
    """

    names: str | tuple[str, ...]
    make: Annotated[Factory, Option(read=factory_given)]
    clip: Limit
    start: Start
    stop: Stop
    bounds: Bounds
    scope: Scope

    def __init__(
        self,
        *coefficients: str,
        names: str | tuple[str, ...] = (),
        make: Factory = adam,
        clip: Limit = 10.0,
        start: Start = 50,
        stop: Stop = None,
        bounds: Bounds = NONE,
        scope: Scope = "global",
    ) -> None:
        object.__setattr__(self, "names", names_given("HyperTorch", coefficients, names))
        settle(self, locals())

    def init(self, q: Tensor, info: StepInfo) -> Memory:
        """Returns the optimizer and its parameters, copies of `q`."""
        leaves = [x.clone(memory_format=torch.contiguous_format) for x in q.unbind(-1)]
        optimizer = self.make(leaves)
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"make gave {optimizer!r}: expected a torch.optim.Optimizer of the tensors that it is given"
            )
        if {id(x) for group in optimizer.param_groups for x in group["params"]} != set(map(id, leaves)):
            raise ValueError(
                f"make gave {type(optimizer).__name__} of other tensors: expected one of the {len(leaves)} that it is "
                "given, all of them; lambda leaves: torch.optim.Adam(leaves, lr=1e-3), say"
            )
        return {"optimizer": CoefficientOptimizer(optimizer, leaves)}

    def step(self, q: Tensor, h: Tensor, memory: Memory, info: StepInfo) -> tuple[Tensor, Memory]:
        """One step of the optimizer; in rows that don't move, its state stays.

        State that a step creates is zero in rows that don't move.
        """
        optimizer, leaves = memory["optimizer"].optimizer, memory["optimizer"].leaves
        torch._foreach_copy_(leaves, list(q.unbind(-1)))
        before = {key: x.clone() for key, x in moving_tensors(optimizer)}
        along = torch.where(info.moves.unsqueeze(-1), clipped(h, self.clip), 0.0)
        for x, derivative in zip(leaves, along.unbind(-1), strict=True):
            x.grad = derivative.contiguous()
        optimizer.step()
        optimizer.zero_grad()
        for key, x in moving_tensors(optimizer):
            counts = info.moves if x.shape == info.moves.shape else info.moves.any()
            x.copy_(torch.where(counts.to(x.device), x, before.get(key, torch.zeros_like(x))))
        return torch.stack(leaves, dim=-1), memory


def moving_tensors(
    optimizer: Optimizer, storey: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[tuple[int, ...], int, str], Tensor]]:
    """The tensors that a step changes beside the parameters, with a key: in state and groups, of each storey."""
    states = [optimizer.state.get(p, {}) for group in optimizer.param_groups for p in group["params"]]
    for i, holder in enumerate([*optimizer.param_groups, *states]):
        yield from (((storey, i, name), x) for name, x in holder.items() if isinstance(x, Tensor))
    for i, above in enumerate(getattr(optimizer, "hyper_optimizers", ())):
        yield from moving_tensors(above, (*storey, i))
