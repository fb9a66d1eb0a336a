"""Hyper-steps that are as long whatever the size of the hypergradients, and an end that the schedule sets.

Catches: a mean square without its correction, or one that a step that doesn't count goes into; learning that goes on
while the schedule takes lr down, or stops in the warm-up; state that doesn't survive being saved.
"""

import itertools

import pytest
import torch

from mada_optim import MADA, HyperSGD, LearnedLR
from tests.problems import along_trace, give_gradients, same_bits, step_info
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

MEMORY = ("square", "weight", "mean", "mean_weight", "mean_noise", "largest_lr")
AVERAGED = {"averaging": 0.8}


def learning(p, lr=1e-3, eps=1e-8, **numbers):
    """lr alone is learned, along hypergradients over their root mean square."""
    return MADA([p], lr=lr, eps=eps, learn=along_trace(**{"rate": 0.05, "memory": 0.9, "clip": 1e9, **numbers}))


def learned(opt):
    return opt.param_groups[0]["log_lr"].item()


def train(opt, p, steps, size=1.0, start=0):
    for seed in range(start, start + steps):
        give_gradients([p], seed)
        p.grad *= size
        opt.step()


def parameter():
    return torch.nn.Parameter(torch.ones(5, 3))


def test_the_first_step_is_the_rate_and_the_next_are_over_the_root_mean_square():
    p = parameter()
    opt = learning(p)
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
        opt = learning(p, eps=1e-30)
        train(opt, p, 12, size)
        results.append(learned(opt))
    assert results[1] == pytest.approx(results[0], rel=1e-3)


def test_a_hypergradient_of_0_moves_nothing():
    p = parameter()
    opt = learning(p)
    train(opt, p, 4, size=0.0)
    assert learned(opt) == 0.0


@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
def test_the_schedule_ends_the_learning(scope):
    p = parameter()
    opt = learning(p, lr=0.0, freeze=0.4, scope=scope)
    path = []
    for step, lr in enumerate((0.0, 0.5e-3, 1e-3, 0.5e-3, 0.41e-3, 0.39e-3, 0.1e-3, 0.8e-3)):
        opt.param_groups[0]["lr"] = lr
        train(opt, p, 1, start=step)
        path.append(opt.param_groups[0]["log_lr"].reshape(-1)[0].item())
    moved = [a != b for a, b in itertools.pairwise(path)]
    assert moved[1:] == [True, True, True, False, False, True]


def test_a_schedule_takes_nothing_from_start_and_stop():
    p = parameter()
    opt = learning(p, start=3, stop=5, freeze=0.4)
    path = [learned(opt)]
    for step in range(7):
        train(opt, p, 1, start=step)
        path.append(learned(opt))
    assert [a != b for a, b in itertools.pairwise(path)] == [False, False, False, True, True, False, False]


@pytest.mark.parametrize("options", [{}, AVERAGED], ids=["as they are", "averaged"])
def test_what_the_learner_remembers_is_saved(options):
    one, other = parameter(), parameter()
    first, second = (learning(p, freeze=0.4, **options) for p in (one, other))
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
    learner = LearnedLR(averaging=decay)
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


def test_without_averaging_each_hypergradient_counts_as_it_is():
    info, learner = step_info(), along_trace(rate=0.05, memory=0.9)
    q = torch.zeros(1, 1, dtype=torch.float64)
    memory = learner.init(q, info)
    q, memory = learner.step(q, q + 3.0, memory, info)
    assert q.item() == pytest.approx(-0.05)
    q, memory = learner.step(q, 0 * q - 0.5, memory, info)
    mean_square = (0.9 * 0.1 * 3.0**2 + 0.1 * 0.5**2) / (0.9 * 0.1 + 0.1)
    assert q.item() == pytest.approx(-0.05 + 0.05 * 0.5 / mean_square**0.5)


def test_noise_moves_lr_less_than_without_averaging():
    ends = {}
    for decay in (0.0, 0.8):
        p = parameter()
        opt = learning(p, horizon=0.0, averaging=decay)
        path = []
        for seed in range(200):
            train(opt, p, 1, start=seed)
            path.append(learned(opt))
        ends[decay] = torch.tensor(path).diff().abs().sum().item()
    assert 0 < ends[0.8] < 0.3 * ends[0.0]


def test_averaging_needs_to_know_the_size():
    with pytest.raises(ValueError, match=r"averaging=0.9: expected a memory > 0, got 0; give it one, such as 0.999"):
        LearnedLR(memory=0.0, averaging=0.9, rise=0.0)


def test_a_step_that_does_not_count_is_not_remembered():
    p = parameter()
    opt = learning(p, freeze=0.4, **AVERAGED)
    train(opt, p, 3)
    before = {f"hyper_{key}": opt.param_groups[0][f"hyper_{key}"].clone() for key in MEMORY}
    assert all(x.item() for x in before.values())
    opt.param_groups[0]["lr"] = 1.0
    train(opt, p, 1, size=float("nan"))
    assert all(torch.equal(opt.param_groups[0][key], x) for key, x in before.items())


@pytest.mark.parametrize(
    ("key", "x"), [("memory", 1.0), ("freeze", 1.5), ("memory", {"beta1": 0.9}), ("averaging", 1.0)]
)
def test_wrong_values_are_refused(key, x):
    with pytest.raises(ValueError, match=f"{key}=.*expected a number"):
        LearnedLR(**{key: x})


def test_no_momentum_is_a_momentum_of_next_to_nothing():
    q, h, velocity = (torch.randn(3, 2, dtype=torch.float64) for _ in range(3))
    info = step_info(rows=3, names=("beta1", "rho"))
    none, tiny = (HyperSGD("beta1", "rho", lr=0.1, clip=1.0, momentum=x) for x in (0.0, 1e-300))
    moved = [learner.step(q, h, {"velocity": velocity}, info)[0] for learner in (none, tiny)]
    assert torch.equal(*moved)
    assert not torch.equal(moved[0], q)
