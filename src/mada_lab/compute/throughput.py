"""How fast a run trains, and which share of its devices' peak arithmetic the model uses."""

from dataclasses import dataclass

import torch

#: Dense bf16 operations per second, from NVIDIA's data sheets, by a part of the device's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}


@dataclass
class Pace:
    """Measures the time per optimizer step since the last row, without evaluations and checkpoints between steps."""

    flops: float | None = None  #: operations of one step, over all processes; None if not counted
    peak_flops: float | None = None  #: peak operations per second of one device; None if unknown
    processes: int = 1  #: number of devices
    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts a step."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def take(self, seen: dict[str, int]) -> dict[str, float]:
        """The speed since the last call; empty without a step. `seen`: data of one step on all processes, by unit."""
        if not self.steps:
            return {}
        mean, self.steps, self.seconds = self.seconds / self.steps, 0, 0.0
        row = {"step_seconds": mean, **{f"{unit}_per_second": n / mean for unit, n in seen.items()}}
        if self.flops is not None and self.peak_flops is not None:
            row["model_flops_utilisation"] = self.flops / mean / (self.peak_flops * self.processes)
        return row


def peak_flops(device: torch.device, given: float | None) -> float | None:
    """Peak operations per second of `device`: `given`, or that of a known GPU; None if unknown."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
