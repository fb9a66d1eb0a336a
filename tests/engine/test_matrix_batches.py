"""Equal matrices of a step in batches: the same results as one by one.

Catches: a matrix that gets another's factor or is left out, a batch that is larger than its bound, equal matrices of
other layouts that stay out of the batch.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mada_optim import AutoMuon, layouts, matrix_batches
from mada_optim.engines import choice
from mada_optim.engines.staged import engine as staged
from mada_optim.matrices.polar_factor import orthogonal, polar

SHAPES = [(4, 9), (9, 4), (12, 9), (3, 4, 9), (2, 2, 4, 9), (4, 3, 3), (7,), (4, 9), (0, 3), (2, 0, 3)]
LAYOUTS = [True, True, 3, "batched", "batched", True, True, True, True, "batched"]


def drawn(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@given(
    shapes=st.lists(st.sampled_from([(4, 9), (9, 4), (200, 300), (300, 200)]), max_size=12),
    device=st.sampled_from(["cpu", "meta"]),
    elements=st.sampled_from([1, 100, 10**6]),
)
def test_each_matrix_is_in_one_batch_of_equal_ones_within_the_bound(shapes, device, elements):
    """The device "meta" stands for CUDA: any that isn't a CPU has the same plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_batches, "TOGETHER", elements)
        patch.setattr(matrix_batches, "TOGETHER_ON_CUDA", elements)
        plan = matrix_batches.plan([torch.empty(shape, device=device) for shape in shapes])
    assert sorted(i for batch in plan for i in batch) == list(range(len(shapes)))
    for batch in plan:
        (shape,) = {shapes[i] for i in batch}
        assert len(batch) == 1 or len(batch) * shape[0] * shape[1] <= elements
        assert len(batch) == 1 or device == "meta" or min(shape) <= matrix_batches.BATCHED
    if elements == 10**6 and device == "meta":
        assert len(plan) == len(set(shapes))


@pytest.mark.parametrize("function", [orthogonal, polar])
@pytest.mark.parametrize("at_once", [3, 100])
def test_results_are_those_of_one_by_one(function, at_once, monkeypatch):
    monkeypatch.setattr(matrix_batches, "at_once", lambda *_: at_once)
    tensors = drawn(SHAPES)
    together = layouts.of_all(function, tensors, LAYOUTS)
    monkeypatch.setattr(matrix_batches, "at_once", lambda *_: 1)
    expected = [layouts.of_each(function, x, layout) for x, layout in zip(tensors, LAYOUTS, strict=True)]
    torch.testing.assert_close(together, expected, rtol=1e-10, atol=1e-10)


def step(monkeypatch, buffer):
    """Weights after three steps of matrices in several layouts, and the shapes that the middle was given at last."""
    monkeypatch.setattr(staged, "BUFFER", buffer)
    given_shapes, cut = [], choice.cut

    def spied(form):
        stages = cut(form)
        return stages and replace(stages, middle=lambda x: (given_shapes.append(tuple(x.shape)), polar(x))[1])

    monkeypatch.setattr(choice, "cut", spied)
    kinds = {True: [(8, 6), (5, 6), (8, 6), (5, 6)], 3: [(24, 6)], "batched": [(2, 8, 6)]}
    groups = [
        {"params": list(map(torch.nn.Parameter, drawn(shapes, torch.float32))), "matrix": matrix}
        for matrix, shapes in kinds.items()
    ]
    opt = AutoMuon(groups, lr=1e-2)
    params = [p for group in groups for p in group["params"]]
    for seed in range(3):
        given_shapes.clear()
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * seed + i))
        opt.step()
    monkeypatch.setattr(choice, "cut", cut)
    return [p.detach() for p in params], given_shapes


@pytest.mark.kernel
def test_blocks_experts_and_plain_matrices_of_one_shape_are_one_batch(monkeypatch):
    together, shapes = step(monkeypatch, 1 << 22)
    assert shapes == [(7, 8, 6), (2, 5, 6)]
    monkeypatch.setattr(matrix_batches, "at_once", lambda *_: 1)
    one_by_one, shapes = step(monkeypatch, 1 << 22)
    assert shapes == [(8, 6)] * 7 + [(5, 6)] * 2
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-6)


@pytest.mark.kernel
def test_equal_matrices_are_in_the_same_buffer(monkeypatch):
    """Though others are between them. Of 160 elements, 96 are two matrices, 144 are three blocks, 156 is all else."""
    _, shapes = step(monkeypatch, 160)
    assert shapes == [(2, 8, 6), (3, 8, 6), (2, 8, 6), (2, 5, 6)]


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (40, 16)])
@pytest.mark.parametrize("function", [orthogonal, polar])
def test_a_result_does_not_depend_on_the_other_matrices(shape, function):
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for _ in range(4)]
    together = matrix_batches.of_all(function, matrices)
    alone = [matrix_batches.of_all(function, [x])[0] for x in matrices]
    assert all(map(torch.equal, together, alone))
