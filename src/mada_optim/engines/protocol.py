"""The interface of engines: a kernel for each program, which makes batches of a step's tensors and moves them."""

import functools
from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mada_optim.engines.program import Program
from mada_optim.layouts import Layout
from mada_optim.rule import Rule


class StepInput(NamedTuple):
    """One parameter tensor in one step."""

    program: Program  # the program that moves it
    rule: Rule  # the program's form; the eager engine replaces it by one that views or gathers matrices
    p: Tensor  # the parameter, real and at least 1-d; of a DTensor, the local shard
    g: Tensor  # the gradient to descend, in the shape of `p` and the dtype of computation
    state: dict[str, Tensor]  # the parameter's state, empty before its first step
    options: MutableMapping[str, Any]  # the parameter's group as the parameter sees it
    scope: int = 0  # the row of its learned coefficients
    # the DTensor that `p` is a shard of, if the rule needs matrices that are cut; else None
    whole: Tensor | None = None
    layout: Layout = True  # where the matrices are in the whole parameter
    plain: bool = False  # whether `p` and `g` are known to be dense fp32 tensors in CPU memory, as the C++ loops need
    stream: int = 0  # of the random bits with which its weights are rounded (`rounding.stream`)


class TensorBatch(Protocol):
    """Tensors of one step, given to one kernel. The caller keeps the gradients alive."""

    can_follow: bool = False  # whether the batch can be used for later steps (`follow`)

    def usable(self) -> Tensor:
        """Whether every gradient is finite and within range, 0-d."""

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""

    def advance(self, where: Tensor) -> None:
        """Moves weights and state by one step with the current coefficients, where `where` (0-d boolean) holds."""

    def follow(self, gradients: list[Any]) -> bool:
        """Takes the gradients of another step for the same tensors; False if the kernel can't take them."""
        return False


class Kernel(Protocol):
    """One program, ready to run."""

    @property
    def name(self) -> str:
        pass

    def prepare(self, entry: StepInput) -> Any:
        """Prepares a tensor's state, as addresses for instance; None if the kernel can't move the tensor."""

    def forget_others(self, entries: list[StepInput], prepared: list[Any]) -> None:
        """Drops what was prepared for tensors other than `entries`, all tensors of a step, if there are many others."""

    def batch(self, entries: list[StepInput], prepared: list[Any]) -> TensorBatch:
        """The tensors as one batch; `prepared` has the result of `prepare` for each."""


class ReplicatedBatch(TensorBatch):
    """A batch of which `replicas` processes have the same tensors: of the hypergradients, each counts its part."""

    def __init__(self, batch: TensorBatch, replicas: int) -> None:
        self._batch, self._replicas = batch, replicas
        self.can_follow = batch.can_follow

    def usable(self) -> Tensor:
        return self._batch.usable()

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        usable, h = self._batch.hypergradients(scopes)
        return usable, h / self._replicas

    def advance(self, where: Tensor) -> None:
        self._batch.advance(where)

    def follow(self, gradients: list[Any]) -> bool:
        return self._batch.follow(gradients)


class JoinedBatches(TensorBatch):
    """Several batches as one."""

    def __init__(self, parts: Sequence[TensorBatch]) -> None:
        self._parts = parts

    def usable(self) -> Tensor:
        return functools.reduce(torch.logical_and, [part.usable() for part in self._parts])

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        usable, h = zip(*(part.hypergradients(scopes) for part in self._parts), strict=True)
        return functools.reduce(torch.logical_and, usable), functools.reduce(torch.add, h)

    def advance(self, where: Tensor) -> None:
        for part in self._parts:
            part.advance(where)
