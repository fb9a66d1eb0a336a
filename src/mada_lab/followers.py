"""What processes other than the first have in place of record and checkpoints: they write nothing."""

from typing import Any

from mada_lab.checkpoints.checkpoint import Checkpoint


class NoRecord:
    """Takes rows, and leaves them."""

    def log(self, row: dict[str, Any]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class NoSaver:
    """Takes checkpoints, and leaves them."""

    def __enter__(self) -> "NoSaver":
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""

    def has(self, step: int) -> bool:
        """The first process knows."""
        return True

    def save(self, state: Checkpoint) -> None:
        """Does nothing."""

    def poll(self) -> None:
        """Does nothing."""

    def settle(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
