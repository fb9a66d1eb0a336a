"""Finite checks: one decision per step whether it is applied; non-finite state is never saved."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mada_lab.compute.world import ALONE, World
from mada_lab.errors import NumericsError
from mada_lab.system.signals import SIGNALS
from mada_optim.sharding import dtensors


@dataclass
class Skips:
    """Counts the steps that were skipped because loss or gradient was not finite."""

    total: int = 0  #: since the start of the run
    in_a_row: int = 0  #: since the last step that was taken

    def count(self, skipped: bool) -> None:
        """Counts a step."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0


class Decision(NamedTuple):
    """Whether a step is applied."""

    loss: float  #: the mean loss of all processes
    is_finite: bool  #: whether loss and gradient are finite on all processes
    signal: int | None  #: the signal that asks one of the processes to stop; None if none does


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Norm of the whole gradient, 0-d, all processes' shards included: finite only if every element of it is."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if dtensors.is_sharded(norm) else norm  # type: ignore[attr-defined]


def decide(loss: Tensor, norm: Tensor, signal: int | None = None, world: World = ALONE) -> Decision:
    """Decides, for all processes alike, whether a step is applied.

    A step waits for the device and for the other processes only here, and only once: one message holds this process's
    mean loss, the norm of the gradient (both 0-d), and the signal that this process has received.
    """
    values = torch.stack([loss.float(), norm.float().to(loss.device)])
    not_finite = (~values.isfinite()).any().float().reshape(1)
    signals = torch.tensor([float(signal == number) for number in SIGNALS], device=loss.device)
    mean, bad, *counts = world.sum(torch.cat([values[:1] / world.size, not_finite, signals])).tolist()
    heard = next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), None)
    return Decision(mean, not bad, heard)


def decide_each(losses: Tensor, norms: Tensor) -> list[tuple[float, bool]]:
    """For runs side by side: the loss of each, and whether its step is applied; waits for the device once."""
    return [
        (loss, math.isfinite(loss) and math.isfinite(norm)) for loss, norm in torch.stack([losses, norms], 1).tolist()
    ]


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with an element that is not finite; None if all are finite."""
    for name, x in tensors.items():
        if x.is_floating_point() and x.numel() and not all(torch.stack(torch.aminmax(x)).isfinite()):
            return name
    return None


def require_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raises NumericsError, which names the first tensor with an element that is not finite."""
    name = first_not_finite(tensors)
    if name is not None:
        remedy = "lower learning_rate, and go on from the last checkpoint with --init_from=resume"
        raise _not_finite(f"state, at step {step}, in {name}", ", which are not saved", remedy)


def require_progress(step: int, skips: Skips, most: int) -> None:
    """Raises NumericsError if `most` steps in a row were skipped: the next ones would be skipped too."""
    if skips.in_a_row >= most:
        remedy = "lower learning_rate, and start afresh or from the last checkpoint with --init_from=resume"
        raise _not_finite(f"loss or gradient, at step {step}", f" {skips.in_a_row} times in a row", remedy)


def require_any(step: int, skipped: int) -> None:
    """Raises NumericsError if all steps up to `step` were skipped: the weights are still the initial ones."""
    if skipped >= step > 0:
        which = f" in all {step} steps so far, which moved nothing"
        raise _not_finite(
            f"loss or gradient, at step {step}", which, "lower learning_rate, check the data, and start afresh"
        )


def _not_finite(where: str, which: str, remedy: str) -> NumericsError:
    return NumericsError(f"{where}: expected finite numbers, got others{which}; {remedy}")
