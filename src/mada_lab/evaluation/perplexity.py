"""The loss of a network on a text, in windows of which some tokens are scored.

A window of T inputs has T targets, each the token after an input. The first token of a text is no target.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.compute.device import Precision
from mada_lab.errors import DataError
from mada_lab.model.gpt import GPT

LOGITS = 1 << 25  # at most in one forward pass (128 MB in float32), but at least one row
PAPER_CHUNKS = 200


@dataclass(frozen=True)
class Window:
    """A window of a text."""

    start: int  #: position of its first input
    length: int  #: number of inputs
    scored: int  #: number of scored targets, the last ones


@dataclass(frozen=True)
class Score:
    """The result."""

    nats: float  #: sum of the losses
    tokens: int  #: number of scored targets; those scored twice count twice
    windows: int  #: number of windows

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens


def strided(tokens: int, context: int, stride: int) -> Iterator[Window]:
    """Yields windows of `context` inputs, `stride` apart, that score every target once.

    A target is scored in the first window that has it, with at least context - stride tokens before it.
    """
    scored_to = 1  # targets from here on are not scored yet
    for start in range(0, tokens - 1, stride):
        end = min(start + context, tokens - 1)
        yield Window(start, end - start, end + 1 - scored_to)
        scored_to = end + 1
        if end == tokens - 1:
            return


def paper(tokens: int, context: int) -> Iterator[Window]:
    """Yields the windows of the MADA paper's code: 200 chunks in adjacent windows, the last of which exceeds its chunk.

    So some tokens count twice, or many times in a text of less than 200 contexts.

    Raises:
        DataError: The text is too short for 200 chunks.
    """
    chunk = (tokens - context) // PAPER_CHUNKS
    if chunk < 1:
        needed = context + PAPER_CHUNKS
        raise DataError(f"text, with mode paper: expected at least {needed} tokens, got {tokens}; use --mode stride")
    for number in range(PAPER_CHUNKS):
        for start in range(chunk * number, chunk * (number + 1), context):
            yield Window(start, context, context)


def score(model: GPT, tokens: NDArray[Any], windows: Iterable[Window], precision: Precision) -> Score:
    """Sums the losses of the scored targets in float64. The model must be in evaluation mode.

    Args:
        model: The network, on the device of `precision`.
        tokens: Token ids of the text, in one dimension.
        windows: Windows of it.
        precision: Device and dtype of the forward pass.

    Raises:
        DataError: There is no target to score.
    """
    nats, count, seen = 0.0, 0, 0
    ids = torch.from_numpy(tokens.astype(np.int64))
    for batch in _batches(windows, model.config.vocab_size):
        losses = token_losses(model, torch.stack([ids[x.start : x.start + x.length + 1] for x in batch]), precision)
        for window, row in zip(batch, losses, strict=True):
            nats += row[-window.scored :].double().sum().item()
            count += window.scored
        seen += len(batch)
    if count == 0:
        raise DataError(f"text: expected at least 2 tokens, got {len(tokens)}; use a longer text")
    return Score(nats, count, seen)


@torch.no_grad()
def token_losses(model: GPT, rows: Tensor, precision: Precision) -> Tensor:
    """The loss of each token but the first, in float32 on the CPU: (B, T+1) ids -> (B, T)."""
    rows = rows.to(precision.device)
    with precision.autocast():
        logits, _ = model(rows[:, :-1])
    losses = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return losses.unflatten(0, (len(rows), -1)).cpu()


def _batches(windows: Iterable[Window], vocabulary_size: int) -> Iterator[list[Window]]:
    """Yields groups of windows of one length, as many as fit in a forward pass."""
    for length, group in itertools.groupby(windows, key=lambda window: window.length):
        size = max(LOGITS // (length * vocabulary_size), 1)
        while batch := list(itertools.islice(group, size)):
            yield batch


def exponential(x: float) -> float:
    """The exponential of `x`; infinity rather than an error where that is too large."""
    return math.exp(x) if x < 700 else math.inf
