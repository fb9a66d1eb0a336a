"""Hypergradients that were taken before a step, from other gradients than its own, and wait for it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim import checks
from mada_optim.sharding import dtensors


class Observation(NamedTuple):
    """Hypergradients that the next step uses. Holds no gradient.

    Attributes:
        h: The hypergradients, (rows, names).
        seen: Which scopes had a gradient, (rows,).
    """

    h: Tensor
    seen: Tensor

    def unscaled(self, scale: float | Tensor) -> "Observation":
        """The same of a loss that wasn't multiplied by `scale`.

        Raises:
            ValueError: It is neither a positive number nor a 0-d tensor.
        """
        if isinstance(scale, Tensor):
            if scale.ndim:
                raise ValueError(
                    f"grad_scale: expected a number or a 0-d tensor, got a tensor of shape {tuple(scale.shape)}; "
                    "pass the factor that the loss was multiplied by, such as scaler.get_scale()"
                )
            return self._replace(h=self.h / scale.detach().to(self.h.device, self.h.dtype))
        remedy = "pass the factor that the loss was multiplied by, such as scaler.get_scale()"
        return self._replace(h=self.h / checks.number("grad_scale", scale, checks.POSITIVE, remedy))

    def averaged(self, group: Any) -> "Observation":
        """The mean over the processes of `group`, each of which has gradients of its own. The same bits on each.

        A scope was seen if it had a gradient on any of them.
        """
        world = torch.distributed.get_world_size(group)
        rows, device_type = len(self.seen), self.h.device.type
        message = torch.cat([self.h.flatten(), self.seen.to(self.h.dtype)])
        message = dtensors.summed(message, [group], device_type)
        return Observation(message[:-rows].reshape(self.h.shape) / world, message[-rows:] > 0)
