"""Numbers that have stopped being numbers: one decision per step, and a guard before anything is saved."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_lab.compute.world import ALONE, World
from mada_lab.errors import NumericsError
from mada_lab.system.signals import SIGNALS
from mada_optim import HyperOptimizer
from mada_optim.sharding import dtensors


@dataclass
class Skips:
    """Steps that moved nothing, as their loss or their gradient was not finite.

    Attributes:
        total: Since the start of the run.
        in_a_row: Up to now.
    """

    total: int = 0
    in_a_row: int = 0

    def count(self, skipped: bool) -> None:
        """Counts a step."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Norm of the whole gradient, all processes' shards of it included, 0-d: finite only if every element of it is."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if dtensors.is_sharded(norm) else norm  # type: ignore[attr-defined]


def decide(
    loss: Tensor, norm: Tensor, asked: int | None = None, world: World = ALONE
) -> tuple[float, bool, int | None]:
    """The mean loss of all processes, whether the step may be taken, and the signal that asks one of them to stop.

    The one place where a step waits for the device, and for the other processes, and only once: in one message.
    """
    own = torch.stack([loss.float(), norm.float().to(loss.device)])
    not_finite = (~own.isfinite()).any().float().reshape(1)
    signals = torch.tensor([float(asked == number) for number in SIGNALS], device=loss.device)
    mean, strange, *counts = world.sum(torch.cat([own[:1] / world.size, not_finite, signals])).tolist()
    heard = next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), None)
    return mean, not strange, heard


def decide_each(losses: Tensor, norms: Tensor) -> list[tuple[float, bool]]:
    """Of runs side by side, the loss of each, and whether its step may be taken: as `decide`, one wait for all."""
    return [
        (loss, math.isfinite(loss) and math.isfinite(norm)) for loss, norm in torch.stack([losses, norms], 1).tolist()
    ]


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with an element that is not finite; None if all are."""
    for name, x in tensors.items():
        if x.is_floating_point() and x.numel() and not all(torch.stack(torch.aminmax(x)).isfinite()):
            return name
    return None


def require_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raises NumericsError, with the first name, unless every element of every tensor is finite."""
    name = first_not_finite(tensors)
    if name is not None:
        raise NumericsError(
            f"state, at step {step}, in {name}: expected finite numbers, got others, which are not saved; "
            "lower learning_rate, and go on from the last checkpoint with init_from=resume"
        )


def skipped_steps(skips: Skips, optimizer: Optimizer) -> int:
    """The steps that moved nothing: those that the loop left out, and those that the optimizer refused by itself.

    Reads a count from the device. Optimizers of others have none: they take every step.
    """
    return skips.total + (optimizer.skipped_steps if isinstance(optimizer, HyperOptimizer) else 0)


def require_progress(step: int, skips: Skips, most: int) -> None:
    """Raises NumericsError when `most` steps in a row were skipped: no further one would go otherwise."""
    if skips.in_a_row >= most:
        raise NumericsError(
            f"loss or gradient, at step {step}: expected finite numbers, got others {skips.in_a_row} times in a row; "
            "lower learning_rate, and start afresh or from the last checkpoint with init_from=resume"
        )


def require_any(step: int, skipped: int) -> None:
    """Raises NumericsError if every step up to `step` was skipped: the weights are those of the start."""
    if skipped >= step > 0:
        raise NumericsError(
            f"loss or gradient, at step {step}: expected finite numbers, got others in all {step} steps so far, which "
            "moved nothing; lower learning_rate, check the data, and start afresh"
        )
