"""What a kernel is to the dispatcher."""

from typing import Any, Protocol

from torch import Tensor

from mada_optim.engines.eager import Cell


class Job(Protocol):
    """Tensors of one step, given to a kernel. Whoever uses it holds the gradients."""

    def usable(self) -> Tensor:
        """Whether every gradient is usable, 0-d."""

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        """Whether every gradient is usable, 0-d, and the hypergradients, (scopes, learned) in fp64."""

    def advance(self, where: Tensor) -> None:
        """Moves weights and state one step on, with the coefficients as they are now, where `where` (0-d) holds."""


class Kernel(Protocol):
    """One form of a rule, ready to run."""

    @property
    def name(self) -> str:
        """The engine's name."""

    def row(self, cell: Cell) -> Any:
        """What it prepares for a tensor; None for one that it can't move."""

    def keep(self, cells: list[Cell], prepared: list[Any]) -> None:
        """Forgets what is prepared for others, if there is much of it: these are all tensors of a step."""

    def table(self, cells: list[Cell], prepared: list[Any]) -> Job:
        """Tensors, with what `row` gave for each, as one job."""
