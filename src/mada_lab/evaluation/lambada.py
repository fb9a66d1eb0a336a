"""LAMBADA's measure: whether the last word of a passage is its most likely continuation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.compute.device import Precision
from mada_lab.data.tokenizer import Tokenizer
from mada_lab.errors import DataError
from mada_lab.evaluation.perplexity import exponential
from mada_lab.model.gpt import GPT

BATCH = 8


@dataclass(frozen=True)
class LastWords:
    """The result for a number of passages."""

    documents: int
    accuracy: float  #: share of passages in which each token of the last word is the most likely one
    perplexity: float  #: e to the mean loss of a last word, summed over its tokens


@dataclass(frozen=True)
class _Passage:
    ids: list[int]
    word: int  # tokens of the last word, at the end


def last_words(model: GPT, documents: Sequence[str], tokenizer: Tokenizer, precision: Precision) -> LastWords:
    """Measures the last word of each document, with the space before it. The model must be in evaluation mode.

    Raises:
        DataError: A document has no second word, or its last word is longer than the model's context.
    """
    passages = [_passage(text, tokenizer, model.config.block_size, number) for number, text in enumerate(documents, 1)]
    found = [x for at in range(0, len(passages), BATCH) for x in _look(model, passages[at : at + BATCH], precision)]
    hits, nats = (sum(column) for column in zip(*found, strict=True))
    return LastWords(len(passages), hits / len(passages), exponential(nats / len(passages)))


def _passage(text: str, tokenizer: Tokenizer, context: int, number: int) -> _Passage:
    before, space, word = text.rstrip().rpartition(" ")
    ids = tokenizer.encode(before + space + word).tolist()
    length = len(ids) - len(tokenizer.encode(before))
    if not before.strip() or not 0 < length <= context:
        raise DataError(
            f"passage {number}: expected words, the last of at most {context} tokens, got {text[-40:]!r}; leave it out"
        )
    return _Passage(ids[-context - 1 :], length)


@torch.no_grad()
def _look(model: GPT, passages: Sequence[_Passage], precision: Precision) -> Iterator[tuple[bool, float]]:
    """Yields whether each last word was predicted, and its loss. Padding is after the end, where no token sees it."""
    longest = max(len(x.ids) for x in passages)
    rows = torch.from_numpy(np.array([x.ids + [0] * (longest - len(x.ids)) for x in passages], dtype=np.int64))
    with precision.autocast():
        logits, _ = model(rows[:, :-1].to(precision.device))
    for passage, row in zip(passages, logits, strict=True):
        end = len(passage.ids) - 1
        told = row[end - passage.word : end].float().cpu()
        word = torch.tensor(passage.ids[-passage.word :])
        yield bool((told.argmax(-1) == word).all()), F.cross_entropy(told.double(), word, reduction="sum").item()
