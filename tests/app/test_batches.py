"""Batches depend on the tokens, the sizes and the seed, and on nothing that happens beside them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mada_lab.data.batches import Batches, fixed_batches
from mada_lab.errors import DataError

TOKENS = np.random.default_rng(0).integers(0, 65, 1000).astype(np.uint8)
BLOCK, ROWS = 16, 8


def draw(count: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    batches = Batches(TOKENS, BLOCK, ROWS, seed)
    return [batches.next() for _ in range(count)]


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


def test_shapes_and_shift() -> None:
    x, y = draw(1)[0]
    assert x.shape == y.shape == (ROWS, BLOCK)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_rows_are_stretches_of_the_split() -> None:
    """Tokens that count upwards show where each row was cut: rows are consecutive, and start anywhere."""
    batches = Batches(np.arange(40, dtype=np.uint16), 8, 500, seed=0)
    x, y = batches.next()
    assert torch.equal(x, x[:, :1] + torch.arange(8))
    assert torch.equal(y, x + 1)
    assert set(x[:, 0].tolist()) == set(range(32)), "the first and the last start must both occur"


def test_order_ignores_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = draw(6)
    torch.manual_seed(6)
    batches, found = Batches(TOKENS, BLOCK, ROWS, 1), []
    for _ in range(6):
        torch.rand(7)
        np.random.random(3)
        found.append(batches.next())
    assert same(found, expected)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw(3)
    fixed_batches(TOKENS, BLOCK, ROWS, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_decides() -> None:
    assert same(draw(4, seed=1), draw(4, seed=1))
    assert not same(draw(4, seed=1), draw(4, seed=2))
    batches = draw(4)
    assert not same(batches[:1], batches[1:2])


def test_restored_sequence_goes_on_bitwise() -> None:
    batches = Batches(TOKENS, BLOCK, ROWS, seed=1)
    for _ in range(3):
        batches.next()
    state = batches.state()
    expected = [batches.next() for _ in range(5)]
    other = Batches(TOKENS, BLOCK, ROWS, seed=99)
    other.next()
    other.restore(state)
    assert same([other.next() for _ in range(5)], expected)


def test_state_is_a_copy() -> None:
    batches = Batches(TOKENS, BLOCK, ROWS, seed=1)
    state = batches.state()
    kept = state.clone()
    batches.next()
    assert torch.equal(state, kept)
    assert not torch.equal(batches.state(), kept)


def test_evaluation_set_is_fixed() -> None:
    training = Batches(TOKENS, BLOCK, ROWS, seed=1)
    first = fixed_batches(TOKENS, BLOCK, ROWS, 4, seed=1)
    expected = draw(2)
    found = [training.next()]
    second = fixed_batches(TOKENS, BLOCK, ROWS, 4, seed=1)
    found.append(training.next())
    assert len(first) == 4
    assert same(first, second)
    assert same(found, expected), "evaluating must not move the training batches"
    assert not same(first, fixed_batches(TOKENS, BLOCK, ROWS, 4, seed=2))


def test_evaluation_is_not_on_the_first_training_batches() -> None:
    assert not same(fixed_batches(TOKENS, BLOCK, ROWS, 1, seed=1), draw(1, seed=1))


def test_shortest_split_has_one_batch() -> None:
    x, y = Batches(np.arange(5, dtype=np.uint8), 4, 2, seed=0).next()
    assert x.tolist() == [[0, 1, 2, 3]] * 2
    assert y.tolist() == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("length", [0, 1, 4])
def test_split_that_is_too_short_is_refused(length: int) -> None:
    tokens = np.zeros(length, dtype=np.uint8)
    with pytest.raises(DataError, match=f"expected at least 5 tokens, got {length}; reduce block_size"):
        Batches(tokens, 4, 2, seed=0)
    with pytest.raises(DataError, match=f"expected at least 5 tokens, got {length}; reduce block_size"):
        fixed_batches(tokens, 4, 2, 1, seed=0)
