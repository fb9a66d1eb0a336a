"""Generates text with a trained network, token by token."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mada_lab.compute.device import Precision
from mada_lab.data.tokenizer import Tokenizer
from mada_lab.errors import DataError
from mada_lab.model.gpt import GPT


@torch.no_grad()
def sample(
    model: GPT, prompt: list[int], count: int, temperature: float, top_k: int | None, seed: int, precision: Precision
) -> Iterator[int]:
    """Yields `count` token ids that follow `prompt`. The same seed gives the same ids on one kind of device.

    Args:
        model: The network in evaluation mode, on the device of `precision`.
        prompt: At least one token id; the network sees the last block_size of prompt and sample.
        count: Number of tokens.
        temperature: Divides the logits; 0 takes the most likely token each time.
        top_k: Number of most likely tokens to draw from; None is all.
        seed: Seed of the draws, which are made on the CPU.
        precision: Device and dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = list(prompt)
    for _ in range(count):
        ids = torch.tensor([seen[-model.config.block_size :]], device=precision.device)
        with precision.autocast():
            logits = model(ids)[0][0, -1].float().cpu()
        seen.append(_draw(logits, temperature, top_k, generator))
        yield seen[-1]


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial(((logits - logits.max()) / temperature).softmax(-1), 1, generator=generator))


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of `prompt`. If it is empty: the end-of-text token, or a line feed.

    Raises:
        DataError: The prompt has an unknown character; or it is empty and a line feed is unknown.
    """
    if not prompt and tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        ids: list[int] = np.asarray(tokenizer.encode(prompt or "\n")).tolist()
        return ids
    except DataError as error:
        if prompt:
            raise
        raise DataError("generate, option --prompt: expected some text, as no line feed is known, got none") from error
