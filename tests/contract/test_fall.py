"""How fast a learned lr falls, and from where.

Catches: an lr that falls below its floor, or is lifted to it; a floor where none is asked for, of other coefficients,
or above where an lr was told to start; steps that don't count taken for some that do.
"""

import copy
import math

import pytest
import torch

from mada_optim import LEARNED_LR, MADA, initial_lr
from mada_optim.hyper.learner import Learner
from tests.problems import give_gradients, same_bits

#: Every step goes down as far as it may, whatever the hypergradient says.
DOWN = {
    "learn": "lr",
    "horizon": 0.9,
    "hyper_start": 1,
    "hyper_fall": 4.0,
    "hyper_optimizer": lambda leaves: _Down(leaves),
}


class _Down(torch.optim.Optimizer):
    """An eighth of the lr, at each step."""

    def __init__(self, leaves):
        super().__init__(leaves, {})

    def step(self, closure=None):
        for x in self.param_groups[0]["params"]:
            x -= 3 * math.log(2)


def matrix():
    return torch.nn.Parameter(torch.linspace(-1.0, 1.0, 12).reshape(4, 3))


def lrs(opt, p, steps, start=0):
    """The learned lr after each of so many steps."""
    path = []
    for seed in range(start, start + steps):
        give_gradients([p], seed)
        opt.step()
        path.append(opt.coefficients()["lr"])
    return path


def test_the_floor_comes_down_as_one_over_t():
    learner = Learner(*[-9.0 * torch.ones(2)] * 4, limit=1.0, start=0, fall=50.0)
    q, steps, floor = torch.ones(4, 2), torch.tensor([0.0, 50.0, 450.0, 1e6]), torch.full((4,), math.log(0.1))
    low = torch.exp(learner.lowest(q, steps, floor))
    assert low[:, 1].tolist() == pytest.approx([0.1, 0.05, 0.01, math.exp(-9.0)])  # at last the interval's end
    assert low[:, 0].tolist() == pytest.approx([math.exp(-9.0)] * 4)  # another coefficient has none


def test_no_lr_falls_faster():
    p = matrix()
    opt = MADA([p], lr=0.01, lr_init="lr", **DOWN)
    shape = initial_lr.of_shapes(opt.rule, opt.param_groups)
    assert shape > 0.01
    path = lrs(opt, p, 12)
    assert path == pytest.approx([0.01, *(0.01 / (1 + t / 4) for t in range(1, 12))], rel=1e-5)  # t counts steps before


def test_the_floor_is_where_shapes_say_for_an_lr_that_starts_higher():
    p = matrix()
    opt = MADA([p], lr=1.0, **{**DOWN, "hyper_fall": 1e6}, lr_init=5.0)
    shape = initial_lr.of_shapes(opt.rule, opt.param_groups)
    assert lrs(opt, p, 4) == pytest.approx([5.0, 0.625, *[shape] * 2], rel=1e-4)
    assert 0.625 / 8 < shape < 0.625


@pytest.mark.parametrize("start", [1e-5, "shape"])
def test_it_is_the_start_for_one_that_starts_there_or_lower(start):
    p = matrix()
    opt = MADA([p], lr=1.0, **{**DOWN, "hyper_fall": 1e6}, lr_init=start)
    path = lrs(opt, p, 4)
    assert path == pytest.approx([path[0]] * 4, rel=1e-4)


def test_an_lr_below_its_floor_is_left_there():
    """As where a user, or a scheduler, has put it there."""
    p = matrix()
    opt = MADA([p], lr=0.01, lr_init="lr", **DOWN)
    opt.param_groups[0]["log_lr"].fill_(-2.0)
    assert lrs(opt, p, 3) == pytest.approx([0.01 * math.exp(-2.0)] * 3, rel=1e-5)


def test_only_steps_that_count_let_it_fall():
    p = matrix()
    opt = MADA([p], lr=0.01, lr_init="lr", **DOWN)
    path = lrs(opt, p, 3)
    p.grad.fill_(math.nan)
    for _ in range(5):
        opt.step()
    assert lrs(opt, p, 1)[0] == pytest.approx(0.01 / (1 + 3 / 4), rel=1e-5)
    assert path[-1] == pytest.approx(0.01 / (1 + 2 / 4), rel=1e-5)


@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
def test_each_scope_counts_its_own_steps(scope):
    late, p = matrix(), matrix()
    opt = MADA([{"params": [late]}, {"params": [p]}], lr=0.01, lr_init="lr", **DOWN, scope=scope)
    for seed in range(6):
        give_gradients([p], seed)
        opt.step()
    give_gradients([late, p], 6)
    opt.step()
    give_gradients([late, p], 7)
    opt.step()
    first, second = (group["log_lr"].reshape(-1)[0].exp().item() for group in opt.param_groups)
    assert second == pytest.approx(1 / (1 + 7 / 4), rel=1e-5)
    assert first == pytest.approx(second if scope == "global" else 1 / (1 + 1 / 4), rel=1e-5)


def test_other_coefficients_fall_as_they_did():
    p = matrix()
    opt = MADA([p], lr=0.01, lr_init="lr", **{**DOWN, "learn": ("beta1", "lr")})
    path = lrs(opt, p, 3)
    assert path[-1] == pytest.approx(0.01 / (1 + 2 / 4), rel=1e-5)
    assert opt.coefficients()["beta1"] == pytest.approx(opt.intervals["beta1"].low, abs=1e-6)


def test_without_a_fall_or_a_matrix_nothing_changes():
    ends = []
    for options in ({}, {"hyper_fall": 0.0}, {"hyper_fall": 1e-300}):
        p = matrix()
        opt = MADA([p], **{**LEARNED_LR, "hyper_fall": None, **options})
        lrs(opt, p, 20)
        ends.append(p.detach().clone())
    assert same_bits(ends[0], ends[1])
    assert same_bits(ends[0], ends[2])  # a floor that is gone after a step
    p = torch.nn.Parameter(torch.ones(5))
    assert lrs(MADA([p], lr=0.01, lr_init="lr", **DOWN), p, 3)[-1] == pytest.approx(0.01 / 8**2, rel=1e-5)


@pytest.mark.parametrize("start", ["lr", "shape", 5.0])
def test_one_that_is_resumed_falls_on_from_where_it_began(start):
    """Whatever the optimizer that takes it up was told of a start: as when fine-tuning is resumed."""
    p, other = matrix(), matrix()
    first, second = MADA([p], lr=0.01, lr_init="lr", **DOWN), MADA([other], lr=0.01, lr_init=start, **DOWN)
    lrs(first, p, 5)
    other.data.copy_(p)
    second.load_state_dict(first.state_dict())
    path = lrs(first, p, 4, start=5)
    assert path == lrs(second, other, 4, start=5)
    assert path[-1] == pytest.approx(0.01 / (1 + 8 / 4), rel=1e-5)


@pytest.mark.parametrize("copied", [False, True])
def test_a_group_that_is_added_has_the_same_floor(copied):
    p, late = matrix(), matrix()
    opt = MADA([p], lr=0.01, lr_init=0.5, **{**DOWN, "hyper_optimizer": None}, scope="group")
    opt = copy.deepcopy(opt) if copied else opt
    opt.add_param_group({"params": [late]})
    floors = [group["log_lr_floor"].item() for group in opt.param_groups]
    assert floors == pytest.approx([math.log(initial_lr.of_shapes(opt.rule, opt.param_groups[:1]) / 0.5)] * 2)
    assert floors[0] < 0.0


def test_a_state_without_a_floor_is_refused_and_changes_nothing():
    p, other = matrix(), matrix()
    first, second = MADA([p], **{**DOWN, "hyper_fall": 0.0}), MADA([other], **DOWN)
    lrs(first, p, 2)
    before = second.param_groups[0]["log_lr"].clone()
    with pytest.raises(ValueError, match="log_lr_floor"):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["log_lr"].item() == before.item()


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"hyper_fall=-1\.0: expected a number in \[0, inf\)"):
        MADA([matrix()], hyper_fall=-1.0)
    with pytest.raises(ValueError, match=r"hyper_fall=10: expected 'lr' in learn"):
        MADA([matrix()], learn="beta1", hyper_fall=10)
