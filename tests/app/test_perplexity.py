"""Losses of a text in windows, against a loop that looks at one token at a time.

Catches: a token scored twice or never, one scored with less context than its window has, sums instead of means, rows of
a batch that mix, and windows that differ from the recipe of `transformers` or from the paper's code.
"""

import math

import numpy as np
import pytest
import torch

from mada_lab.compute.device import Precision
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import DataError
from mada_lab.evaluation.lambada import last_words
from mada_lab.evaluation.perplexity import Window, paper, score, strided
from mada_lab.model.gpt import GPT
from tests.app.test_model import model, scrambled, theirs

PLACE = Precision(torch.device("cpu"), torch.float32)
CONTEXT = 32


def gpt(**changes: float) -> GPT:
    return scrambled(model(**changes)).eval()


def text(tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 61, tokens).astype(np.uint8)


@torch.no_grad()
def loss_of_one(network: GPT, tokens: np.ndarray, at: int, start: int) -> float:
    """The loss of the token at `at`, when the network sees those from `start` on."""
    logits, _ = network(torch.from_numpy(tokens[start:at].astype(np.int64))[None])
    return -logits[0, -1].double().log_softmax(-1)[int(tokens[at])].item()


@pytest.mark.parametrize(
    ("tokens", "stride"), [(75, 1), (75, 7), (75, 16), (75, 32), (97, 32), (33, 32), (20, 16), (2, 5)]
)
def test_each_token_once_in_the_first_window_that_has_it(tokens: int, stride: int) -> None:
    network, ids = gpt(), text(tokens)
    expected = []
    for at in range(1, tokens):
        number = max(math.ceil((at - CONTEXT) / stride), 0)  # the first of windows [n stride, n stride + CONTEXT]
        expected.append(loss_of_one(network, ids, at, number * stride))
    found = score(network, ids, strided(tokens, CONTEXT, stride), PLACE)
    assert found.tokens == tokens - 1
    assert found.loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_a_stride_of_one_gives_each_token_all_the_context_there_is() -> None:
    network, ids = gpt(), text(60)
    expected = [loss_of_one(network, ids, at, max(at - CONTEXT, 0)) for at in range(1, 60)]
    assert score(network, ids, strided(60, CONTEXT, 1), PLACE).nats == pytest.approx(sum(expected), rel=1e-5)


def test_longer_context_and_smaller_stride_change_the_number() -> None:
    network, ids = gpt(), text(200)
    losses = {score(network, ids, strided(200, *x), PLACE).loss for x in ((32, 32), (32, 8), (16, 16))}
    assert len(losses) == 3


@pytest.mark.parametrize("stride", [5, 16])
def test_equals_the_recipe_of_transformers(stride: int) -> None:
    """That recipe's windows hold as many tokens as the network has positions, so the last is a target alone."""
    network, ids = gpt(), text(100)
    other, row = theirs(network), torch.from_numpy(ids.astype(np.int64))[None]
    nats, count, previous = 0.0, 0, 0
    for begin in range(0, row.shape[1], stride):
        end = min(begin + CONTEXT, row.shape[1])
        window, labels = row[:, begin:end], row[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            mean = other(window, labels=labels).loss.item()
        scored = int((labels[:, 1:] != -100).sum())
        nats, count, previous = nats + mean * scored, count + scored, end
        if end == row.shape[1]:
            break
    found = score(network, ids, strided(100, CONTEXT - 1, stride), PLACE)
    assert (found.tokens, count) == (99, 99)
    assert found.loss == pytest.approx(nats / count, rel=1e-5)


def test_windows_of_the_paper() -> None:
    """Worked out by hand: (2080 - 6) // 200 = 10 tokens a chunk, so windows at 0, 6, then 10, 16, ..."""
    windows = list(paper(2080, 6))
    assert len(windows) == 400
    assert [x.start for x in windows[:4]] == [0, 6, 10, 16]
    assert windows[-1] == Window(1996, 6, 6)
    assert {(x.length, x.scored) for x in windows} == {(6, 6)}
    assert [x.start for x in list(paper(206, 6))[-2:]] == [198, 199], "a chunk of one token has one window"
    with pytest.raises(DataError, match="expected at least 206 tokens, got 205"):
        list(paper(205, 6))


def test_the_paper_counts_a_token_as_often_as_it_scores_it() -> None:
    network, ids = gpt(), text(300)
    found = score(network, ids, paper(300, CONTEXT), PLACE)
    losses = [loss_of_one(network, ids, 3 + at + 1, 3) for at in range(CONTEXT)]  # those of its window number 3
    assert score(network, ids, list(paper(300, CONTEXT))[3:4], PLACE).nats == pytest.approx(sum(losses), rel=1e-5)
    assert (found.windows, found.tokens) == (200, 200 * CONTEXT)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="expected at least 2 tokens, got 1"):
        score(gpt(), text(1), strided(1, CONTEXT, 4), PLACE)


def test_last_words_against_one_passage_at_a_time() -> None:
    """Of three letters, so that a random network hits some of the words."""
    letters, random = CharTokenizer(" ab"), np.random.default_rng(1)
    network = gpt(vocab_size=3)
    passages = ["".join(random.choice(list("ab  "), size)) + "a b" for size in (*range(3, 20), 50, 60)] + ["b a\n"]
    nats, hits = [], []
    for passage in passages:
        ids = letters.encode(passage.rstrip())
        start, begin = max(0, len(ids) - 1 - CONTEXT), len(passage.rstrip().rpartition(" ")[0])
        nats += [sum(loss_of_one(network, ids, at, start) for at in range(begin, len(ids)))]
        seen = [torch.from_numpy(ids[start:at].astype(np.int64))[None] for at in range(begin, len(ids))]
        hits += [all(int(network(x)[0][0, -1].argmax()) == y for x, y in zip(seen, ids[begin:], strict=True))]
    found = last_words(network, passages, letters, PLACE)
    assert 0 < sum(hits) < len(hits)
    assert (found.documents, found.accuracy) == (len(passages), sum(hits) / len(hits))
    assert found.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)
    with pytest.raises(DataError, match="passage 2: expected words"):
        last_words(network, ["a b", "b"], letters, PLACE)
