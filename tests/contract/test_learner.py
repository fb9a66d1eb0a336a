"""Hyper-steps that are as long whatever the size of the hypergradients, and an end that the schedule sets.

Catches: a mean square without its correction, or one that a step that doesn't count goes into; learning that goes on
while the schedule takes lr down, or stops in the warm-up; state that doesn't survive being saved.
"""

import itertools

import pytest
import torch

from mada_optim import MADA
from mada_optim.hyper.bank import EVIDENCE, LARGEST_LR, MEAN_SQUARES
from mada_optim.hyper.learner import Learner
from tests.problems import give_gradients, same_bits

OPTIONS = {
    "weight_decay": 0.0,
    "learn": "lr",
    "lr_init": "lr",
    "horizon": 0.9,
    "hyper_start": 1,
    "hyper_lr": 0.05,
    "hyper_memory": 0.9,
    "hyper_clip": 1e9,
    "hyper_averaging": 0.0,
}
AVERAGED = {**OPTIONS, "hyper_averaging": 0.8}


def learned(opt):
    return opt.param_groups[0]["log_lr"].item()


def train(opt, p, steps, size=1.0, start=0):
    for seed in range(start, start + steps):
        give_gradients([p], seed)
        p.grad *= size
        opt.step()


def parameter():
    return torch.nn.Parameter(torch.ones(5, 3))


def test_the_first_step_is_hyper_lr_and_the_next_are_over_the_root_mean_square():
    p = parameter()
    opt = MADA([p], **OPTIONS)
    train(opt, p, 2)
    assert abs(learned(opt)) == pytest.approx(0.05)
    square = weight = last = 0.0
    for seed in range(1, 6):
        h = opt.hypergradients()["lr"]
        square, weight = 0.9 * square + 0.1 * h**2, 0.9 * weight + 0.1
        before = learned(opt)
        if seed > 1:
            assert before == pytest.approx(last - 0.05 * h / (square / weight) ** 0.5)
        last = before
        train(opt, p, 1, start=10 + seed)


def test_the_size_of_gradients_says_nothing():
    """Adam's update doesn't depend on it, and neither do the steps of lr."""
    results = []
    for size in (1.0, 1e-6):
        p = parameter()
        opt = MADA([p], eps=1e-30, **OPTIONS)
        train(opt, p, 12, size)
        results.append(learned(opt))
    assert results[1] == pytest.approx(results[0], rel=1e-3)


def test_a_hypergradient_of_0_moves_nothing():
    p = parameter()
    opt = MADA([p], **OPTIONS)
    train(opt, p, 4, size=0.0)
    assert learned(opt) == 0.0


@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
def test_the_schedule_ends_the_learning(scope):
    p = parameter()
    opt = MADA([p], **{**OPTIONS, "hyper_freeze": 0.4}, scope=scope, lr=0.0)
    path = []
    for step, lr in enumerate((0.0, 0.5e-3, 1e-3, 0.5e-3, 0.41e-3, 0.39e-3, 0.1e-3, 0.8e-3)):
        opt.param_groups[0]["lr"] = lr
        train(opt, p, 1, start=step)
        path.append(opt.param_groups[0]["log_lr"].reshape(-1)[0].item())
    moved = [a != b for a, b in itertools.pairwise(path)]
    assert moved[1:] == [True, True, True, False, False, True]


def test_a_schedule_takes_nothing_from_start_and_stop():
    p = parameter()
    opt = MADA([p], **{**OPTIONS, "hyper_start": 3, "hyper_stop": 5, "hyper_freeze": 0.4})
    path = [learned(opt)]
    for step in range(7):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    assert [a != b for a, b in itertools.pairwise(path)] == [False, False, False, True, True, False, False]


@pytest.mark.parametrize("options", [OPTIONS, AVERAGED], ids=["as they are", "averaged"])
def test_what_the_learner_remembers_is_saved(options):
    one, other = parameter(), parameter()
    options = {**options, "hyper_freeze": 0.4}
    first, second = MADA([one], **options), MADA([other], **options)
    train(first, one, 6)
    other.data.copy_(one)
    second.load_state_dict(first.state_dict())
    first.param_groups[0]["lr"] = second.param_groups[0]["lr"] = 0.5e-3
    for opt, p in ((first, one), (second, other)):
        train(opt, p, 5, start=6)
    assert same_bits([one], [other])
    assert learned(first) == learned(second) != 0.0


def weighed(signs, decay=0.8):
    """What the learner makes of hypergradients of size 1."""
    nothing = torch.zeros(1, dtype=torch.float64)
    learner = Learner(*[nothing] * 4, limit=1.0, start=1, averaging=nothing + decay)
    sums, kept = [nothing] * 3, []
    for sign in signs:
        along, *sums = learner.weigh(nothing + sign, *sums)
        kept.append(along.item())
    return kept


def test_a_mean_counts_as_far_as_noise_would_not_have_made_it():
    signs = [1, 1, -1, 1, 1, 1, 1, 1, -1, 1]
    for n, along in enumerate(weighed(signs), 1):
        weights = [0.8**k for k in range(n)]
        mean = sum(w * x for w, x in zip(weights, reversed(signs[:n]), strict=True)) / sum(weights)
        variance = sum(w**2 for w in weights) / sum(weights) ** 2
        assert along == pytest.approx(mean * max(0.0, 1 - 2 * variance / mean**2))


def test_one_sign_moves_nothing_and_steady_ones_almost_as_much_as_they_say():
    steady = weighed([-1] * 40)
    assert steady[0] == 0.0
    assert -1.0 < steady[-1] < -0.75
    assert weighed([1, -1] * 20) == [0.0] * 40
    assert weighed([0] * 3) == [0.0] * 3
    assert weighed([0.5, -1], decay=0.0) == [0.5, -1.0]


def test_noise_moves_lr_less_than_without_averaging():
    ends = {}
    for decay in (0.0, 0.8):
        p = parameter()
        opt = MADA([p], **{**OPTIONS, "horizon": 0.0, "hyper_averaging": decay})
        path = []
        for seed in range(200):
            train(opt, p, 1, start=seed)
            path.append(learned(opt))
        ends[decay] = torch.tensor(path).diff().abs().sum().item()
    assert 0 < ends[0.8] < 0.3 * ends[0.0]


def test_averaging_needs_to_know_the_size():
    with pytest.raises(ValueError, match=r"hyper_averaging of lr=0.9: expected a hyper_memory of lr > 0, got 0"):
        MADA([parameter()], **{**AVERAGED, "hyper_memory": 0.0, "hyper_averaging": 0.9})


def test_a_step_that_does_not_count_is_not_remembered():
    p = parameter()
    opt = MADA([p], **AVERAGED, hyper_freeze=0.4)
    train(opt, p, 3)
    before = {key: opt.param_groups[0][key].clone() for key in (*MEAN_SQUARES, *EVIDENCE, LARGEST_LR)}
    opt.param_groups[0]["lr"] = 1.0
    train(opt, p, 1, size=float("nan"))
    assert all(torch.equal(opt.param_groups[0][key], x) for key, x in before.items())


@pytest.mark.parametrize(
    ("key", "x"),
    [("hyper_memory", 1.0), ("hyper_freeze", 1.5), ("hyper_memory", {"beta1": 0.9}), ("hyper_averaging", 1.0)],
)
def test_wrong_values_are_refused(key, x):
    with pytest.raises(ValueError, match=f"{key}.*expected"):
        MADA([parameter()], **{**OPTIONS, key: x})


def test_no_momentum_is_a_momentum_of_zero():
    q, h, velocity = (torch.randn(3, 2, dtype=torch.float64) for _ in range(3))
    lr, low, high = (torch.full((2,), x, dtype=torch.float64) for x in (0.1, -9.0, 9.0))
    none, zero = (Learner(lr, momentum, low, high, limit=1.0, start=1) for momentum in (None, 0.0 * lr))
    for mine, theirs in zip(none.step(q, h, velocity), zero.step(q, h, velocity), strict=True):
        assert torch.equal(mine, theirs)
