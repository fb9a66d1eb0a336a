"""The protocol of listeners, which follow a run: a progress bar, mirrors, a sweep."""

from typing import Any, Protocol


class Listener(Protocol):
    """Follows a run."""

    def step(self, done: int) -> None:
        """Called after each optimizer step; `done` steps are done."""

    def row(self, row: dict[str, Any]) -> None:
        """Called after a row was added to the record."""
