"""How fast a run trains, and which share of its devices' arithmetic the model takes."""

from dataclasses import dataclass

import torch

#: Dense bf16 operations per second, from NVIDIA's data sheets, by a part of the device's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}


@dataclass
class Pace:
    """The steps since the last row. What lies between steps, evaluations and checkpoints, doesn't count."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts a step."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def take(self) -> float | None:
        """Seconds per step, None where there was none; starts anew."""
        mean = self.seconds / self.steps if self.steps else None
        self.steps, self.seconds = 0, 0.0
        return mean


def speed(
    step_seconds: float, seen: dict[str, int], flops: float | None, peak: float | None, processes: int
) -> dict[str, float]:
    """What a row says of it.

    Args:
        step_seconds: Seconds per optimizer step.
        seen: What one step takes of the data, over all processes, by its unit.
        flops: Operations of one step, over all processes.
        peak: What one device can do per second.
        processes: How many devices there are.
    """
    row = {"step_seconds": step_seconds, **{f"{unit}_per_second": n / step_seconds for unit, n in seen.items()}}
    if flops is not None and peak is not None:
        row["model_flops_utilisation"] = flops / step_seconds / (peak * processes)
    return row


def peak_flops(device: torch.device, given: float | None) -> float | None:
    """What `device` can do per second: as `given`, or of GPUs that are known; None where nobody can tell."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
