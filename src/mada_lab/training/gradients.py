"""The gradient of a step: accumulated over forward passes, observed for the hypergradients, clipped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mada_lab.compute import batch_norm, finite, generators
from mada_lab.compute import world as distributed
from mada_lab.compute.world import World
from mada_lab.system.signals import Signals
from mada_lab.training.state import TrainState
from mada_optim import HyperOptimizer


@contextmanager
def all_or_nothing(states: Sequence[TrainState], signals: Signals) -> Iterator[None]:
    """Rewinds data, random generators and buffers to where the step began if its gradient is abandoned or fails."""
    positions = [state.position() for state in states]
    for state in states:
        state.keep_buffers()
    try:
        with signals.abandonable():
            yield
    except BaseException:
        for state, position in zip(states, positions, strict=True):
            random, batches = position
            state.optimizer.zero_grad()
            generators.restore(random, state.precision.device)
            state.batches.restore(batches)
            state.restore_buffers()
        raise


def accumulate(state: TrainState, forward: nn.Module, signals: Signals) -> Tensor:
    """Adds up the gradient over all forward passes of a step; returns this process's mean loss, 0-d, on the device."""
    count, place, world = state.passes_now, state.precision, state.world
    observes_first = observes(state, "first")
    total = torch.zeros((), device=place.device)
    with all_or_nothing([state], signals):
        for i in range(count):
            generators.seed_pass(state.config.seed, state.step, i * world.size + world.rank, place.device)
            ids, targets = place.send(state.batches.next())
            is_observed = i == 0 and observes_first
            exchanges = i == count - 1 and not state.clips_each
            with distributed.accumulating(forward, state.model, exchanges, is_observed):
                with place.autocast():
                    _, loss = forward(ids, targets)
                state.scaler.scale(loss / state.passes).backward()
            if is_observed:
                observe_own(state)
            total += loss.detach() / count
        if state.clips_each:
            clip_each(state)
        batch_norm.merge(state.model, state.buffers_before, world)
    return total


def observes(state: TrainState, when: str) -> bool:
    """Whether the next hypergradients are of the gradient at this moment: after the "first" pass, or "unclipped"."""
    optimizer = state.optimizer
    return state.config.hyper_observe == when and isinstance(optimizer, HyperOptimizer) and bool(optimizer.learned)


def observe_own(state: TrainState) -> None:
    """Takes the next hypergradients from this process's gradients, which the loss scale still multiplies.

    They are averaged over the processes where each has a gradient of its own.
    """
    assert isinstance(state.optimizer, HyperOptimizer)
    members = distributed.of_own_gradients(state.config.parallel, state.world)
    state.optimizer.observe(loss_scale(state), members)


def loss_scale(state: TrainState) -> Tensor:
    """The factor on the loss, 0-d, on the device."""
    return state.scaler.scale(torch.ones((), device=state.precision.device))


def unscaled_norm(state: TrainState) -> Tensor:
    """Takes the loss scale off the gradient, and returns the gradient's norm, 0-d."""
    state.scaler.unscale_(state.optimizer)
    return finite.gradient_norm(state.parameters)


def clip(state: TrainState, norm: Tensor) -> None:
    """Clips the gradient of the step, whose norm is `norm`, unless each process has clipped its own."""
    if state.clips_each:
        return
    if isinstance(state.optimizer, HyperOptimizer) and observes(state, "unclipped"):
        state.optimizer.observe()
    if state.config.grad_clip > 0:
        nn.utils.clip_grads_with_norm_(state.parameters, state.config.grad_clip, norm)


def clip_each(state: TrainState) -> None:
    """Clips this process's gradient; all processes then have the mean of the clipped gradients."""
    if observes(state, "unclipped"):
        observe_own(state)
    clip_own(state.parameters, state.config.grad_clip, loss_scale(state), state.world)


def clip_own(parameters: Sequence[Tensor], largest: float, scale: Tensor, world: World) -> None:
    """Clips this process's gradient, then replaces it by the mean of all processes' gradients: one message, same bits.

    `largest` is the norm that it is clipped to. The loss is multiplied by `scale`, 0-d, which stays on the gradient. A
    gradient that is not finite on one process becomes NaN on all of them.
    """
    norm = finite.gradient_norm(parameters) / scale
    norm = torch.where(norm.isfinite(), norm, torch.nan)  # clipping by an infinite norm would give 0, which is finite
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    grads = [p.grad for p in parameters if p.grad is not None]
    mean = world.sum(torch.cat([x.flatten() for x in grads])).div_(world.size)
    for x, part in zip(grads, mean.split([x.numel() for x in grads]), strict=True):
        x.copy_(part.view_as(x))
