"""Observed hypergradients: taken before a step, from other gradients than the step's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import checks
from mada_optim.sharding import dtensors


class Observation(NamedTuple):
    """Hypergradients that the next step uses."""

    h: Tensor  # the hypergradients, (rows, names)
    seen: Tensor  # which scopes had a gradient, (rows,)

    def unscaled(self, scale: float | Tensor) -> "Observation":
        """The hypergradients of the loss, where they were taken of `scale` times the loss. Raises ValueError."""
        remedy = "pass the factor that the loss was multiplied by, such as scaler.get_scale()"
        if not isinstance(scale, Tensor):
            return self._replace(h=self.h / checks.number("grad_scale", scale, checks.POSITIVE, remedy))
        if scale.ndim:
            shape = tuple(scale.shape)
            raise ValueError(f"grad_scale: expected a number or a 0-d tensor, got a tensor of shape {shape}; {remedy}")
        return self._replace(h=self.h / scale.detach().to(self.h.device, self.h.dtype))

    def averaged(self, group: Any) -> "Observation":
        """The mean over the processes of `group`, the same bits on each of them.

        A scope counts as seen if it had a gradient on any of them.
        """
        world = torch.distributed.get_world_size(group)
        rows, device_type = len(self.seen), self.h.device.type
        message = torch.cat([self.h.flatten(), self.seen.to(self.h.dtype)])
        message = dtensors.summed(message, [group], device_type)
        return Observation(message[:-rows].reshape(self.h.shape) / world, message[-rows:] > 0)
