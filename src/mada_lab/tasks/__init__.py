"""What is trained on what: all that the loop leaves open."""

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
    def name(self) -> str:
        """What it is called."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def sha256(self) -> dict[str, str]:
        """Hexadecimal digest of each file."""


class Batches(Protocol):
    """An endless sequence of training batches."""

    def next(self) -> Batch:
        """The next batch: what the model takes, and its targets, on the CPU."""

    def state(self) -> Tensor:
        """Where the sequence stands, on the CPU."""

    def restore(self, state: Tensor) -> None:
        """Goes on from where `state` was taken."""


class Task(Protocol):
    """A network and its data.

    A network takes a batch, inputs and targets, and returns its outputs and their mean cross-entropy, 0-d.
    """

    @property
    def config(self) -> RunConfig:
        """The configuration, with the sizes of the weights that training starts from."""

    @property
    def data(self) -> Data:
        """The data set."""

    def model(self) -> nn.Module:
        """The network at the start: with fresh weights, drawn from torch's global generator, or with given ones."""

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The parts of `model` that sharding gathers one at a time."""

    def batches(self, world: World) -> Batches:
        """What it is trained on, from the beginning: this process's share."""

    def validation(self) -> Sequence[Batch]:
        """What it is evaluated on: always the same."""

    def training(self) -> Sequence[Batch]:
        """The fixed part of the training data that its final training loss is taken on."""

    def measure(self, model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World) -> Measured:
        """How good `model` is on `batches`, which processes share, without dropout. Draws no random number."""

    def seen(self, passes: int) -> dict[str, int]:
        """How much of the training data so many forward passes take, by its unit."""

    def flops(self, model: nn.Module) -> float | None:
        """Operations of one step, forward and backward; None where they aren't counted."""

    def sizes(self) -> dict[str, Any]:
        """What the size of the network depends on beside the configuration, for a checkpoint."""
