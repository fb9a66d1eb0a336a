"""Clipping on each process by itself: what the mean over all processes is then of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mada_lab.compute import finite
from mada_lab.compute.world import World


def clip_each(parameters: Sequence[Tensor], largest: float, scale: Tensor, world: World) -> None:
    """Clips this process's gradient, and puts the mean of all processes' gradients in its place: one message.

    A gradient that is not finite on one process is NaN on all of them afterwards.

    Args:
        parameters: Those of this process, with its own gradients.
        largest: Norm that the gradient is clipped to.
        scale: What the loss was multiplied by, 0-d; it stays on the gradient.
        world: The processes.
    """
    norm = finite.gradient_norm(parameters) / scale
    norm = torch.where(norm.isfinite(), norm, torch.nan)  # by an infinite one it would become 0, and count
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    average([p.grad for p in parameters if p.grad is not None], world)


def average(tensors: Sequence[Tensor], world: World) -> None:
    """Puts the mean over all processes in the place of each tensor, the same bits on each."""
    mean = world.sum(torch.cat([x.flatten() for x in tensors])).div_(world.size)
    for x, part in zip(tensors, mean.split([x.numel() for x in tensors]), strict=True):
        x.copy_(part.view_as(x))
