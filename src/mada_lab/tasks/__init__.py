"""Tasks: a network and the data that it is trained on. The trainer knows their protocols only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mada_lab.compute.device import Precision
from mada_lab.compute.world import World
from mada_lab.config.keys import RunConfig
from mada_lab.tasks.measure import Batch, Measured


class Data(Protocol):
    """A data set, opened."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def sha256(self) -> dict[str, str]:
        """Hexadecimal digest of each file."""


class Batches(Protocol):
    """An endless sequence of training batches."""

    def next(self) -> Batch:
        """The next batch: the model's inputs and their targets, on the CPU."""

    def state(self) -> Tensor:
        """The position in the sequence, on the CPU."""

    def restore(self, state: Tensor) -> None:
        """Goes back to the position `state`."""


class Task(Protocol):
    """A network and its data.

    A network takes a batch, inputs and targets, and returns its outputs and their mean cross-entropy, 0-d.
    """

    @property
    def config(self) -> RunConfig:
        """The configuration; if training starts from given weights, with their sizes."""

    @property
    def data(self) -> Data: ...

    def model(self) -> nn.Module:
        """The network at the start: with fresh weights, drawn from torch's global generator, or with given ones."""

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The parts of `model` that sharding gathers one at a time."""

    def batches(self, world: World) -> Batches:
        """This process's training batches, from the beginning."""

    def validation(self) -> Sequence[Batch]:
        """The fixed batches of the validation loss."""

    def training(self) -> Sequence[Batch]:
        """The fixed batches of the final training loss."""

    def measure(self, model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World) -> Measured:
        """Loss and accuracy of `model` on `batches`, which processes share, without dropout and random numbers."""

    def seen(self, passes: int) -> dict[str, int]:
        """How much training data so many forward passes use, by its unit."""

    def flops(self, model: nn.Module) -> float | None:
        """Operations of one step, forward and backward; None if not counted."""

    def sizes(self) -> dict[str, Any]:
        """What determines the network's sizes beside the configuration; stored in checkpoints."""
