"""How many steps were applied, and how many were skipped as a gradient was not finite; a step waits for neither."""

import warnings

import torch
from torch import Tensor

from mada_optim import modes

#: Verdicts that are kept before they are counted, all at once: a list is cheaper than an addition in each step.
PENDING = 100
#: Steps after which it is worth a warning that all were skipped; a scaled loss may overflow in the very first.
WORTH_A_WARNING = 3


class StepCount:
    """Counts the steps of an optimizer since it was made, or has loaded a state.

    Args:
        owner: Name of the optimizer, for the warning.
    """

    def __init__(self, owner: str) -> None:
        self._owner, self._warned = owner, False
        self._pending: list[Tensor] = []
        self._counts: Tensor | None = None  # applied and skipped

    def add(self, finite: Tensor) -> None:
        """Takes in whether a step was applied, 0-d and boolean, which nothing may change later."""
        if finite.is_cuda and torch.cuda.is_current_stream_capturing():
            self._count(finite.reshape(1))  # a replayed graph counts too
            return
        self._pending.append(finite)
        if len(self._pending) >= PENDING or self._counts is None:
            self._fold()

    @modes.neutral()
    def _fold(self) -> None:
        for device in {x.device for x in self._pending}:  # one, but where parameters have moved meanwhile
            self._count(torch.stack([x for x in self._pending if x.device == device]))
        self._pending = []

    def _count(self, verdicts: Tensor) -> None:
        counts = torch.stack([verdicts.sum(), (~verdicts).sum()])
        if self._counts is None or self._counts.device != counts.device:
            self._counts = counts if self._counts is None else counts + self._counts.to(counts.device)
        else:
            self._counts += counts

    def read(self) -> tuple[int, int]:
        """Applied and skipped steps; waits for the device. Warns once if all so far were skipped."""
        self._fold()
        applied, skipped = (0, 0) if self._counts is None else map(int, self._counts.tolist())
        if skipped >= WORTH_A_WARNING and not applied and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._owner}: every step so far was skipped ({skipped}), as a gradient was not finite, or so large "
                "that its square is not; the weights have not moved. Look for NaN or inf in the loss and the data, or "
                "for a loss scale that is not taken off the gradients",
                stacklevel=3,
            )
        return applied, skipped

    def __getstate__(self) -> dict[str, object]:
        """Numbers alone: they travel to any device."""
        self._fold()
        return {**self.__dict__, "_counts": None if self._counts is None else self._counts.cpu()}
