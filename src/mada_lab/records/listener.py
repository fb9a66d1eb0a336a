"""What follows a run: a progress bar, mirrors, a sweep."""

from typing import Any, Protocol


class Listener(Protocol):
    """What follows a run from outside of the loop."""

    def step(self, done: int) -> None:
        """`done` optimizer steps are done."""

    def row(self, row: dict[str, Any]) -> None:
        """A line was added to the record."""
