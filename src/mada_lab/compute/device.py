"""The device of the model, and the precision of its forward pass."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from mada_lab.compute import world
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """A device, and the dtype of the forward pass."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which matrix products run in `dtype`."""
        lower = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if lower else None, enabled=lower)

    def send(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch on the device. Copies to a CUDA device start from pinned memory, and don't wait for its kernels."""
        if self.device.type != "cuda":
            return batch[0].to(self.device), batch[1].to(self.device)
        ids, targets = (x.pin_memory().to(self.device, non_blocking=True) for x in batch)
        return ids, targets


def choose(config: RunConfig) -> Precision:
    """The device and dtype of `config`. Raises ConfigError if this machine has no such device."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (local_rank := world.local_rank()) is not None:
        name = f"cuda:{local_rank}"  # each process of a machine has a device of its own
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        what = f"expected one that is here, got {name} ({reason}); use auto"
        raise ConfigError(f"device, in key device: {what}") from error
    return Precision(device, getattr(torch, config.dtype))
