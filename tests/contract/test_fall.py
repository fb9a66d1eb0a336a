"""How fast a learned lr falls, and from where.

Catches: an lr that falls below its floor, or is lifted to it; a floor where none is asked for, of other coefficients,
or above where an lr was told to start; steps that don't count taken for some that do.
"""

import copy
import math

import pytest
import torch

from mada_optim import MADA, AutoAdam, HyperSGD, HyperTorch, LearnedLR
from mada_optim.matrices import start_lr
from mada_optim.rules import RULES
from tests.problems import give_gradients, same_bits, step_info
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine


class Downward(LearnedLR):
    """Wants an eighth of the lr, at each step, whatever the hypergradient says."""

    def normalize(self, h, square, weight):
        return torch.ones_like(h), square, weight


def down(**options):
    options = {"rate": 3 * math.log(2), "horizon": 0.9, "fall": 4.0, "start": 1, **options}
    return Downward(freeze=0.0, averaging=0.0, reach=0.0, rise=0.0, **options)


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
    steps = torch.tensor([0.0, 50.0, 450.0, 1e6], dtype=torch.float64)
    learner, info = down(fall=50.0, rate=100.0), step_info(rows=4, steps=steps, floor=math.log(0.1))
    q = torch.ones(4, 1, dtype=torch.float64)
    low = torch.exp(learner.lowest(q, steps.unsqueeze(-1), torch.full_like(q, math.log(0.1))))
    assert low.squeeze(-1).tolist() == pytest.approx([0.1, 0.05, 0.01, 0.1 / (1 + 1e6 / 50)])
    reached, _ = learner.step(q, torch.ones_like(q), learner.init(q, info), info)
    assert reached.exp().squeeze(-1).tolist() == pytest.approx([0.1, 0.05, 0.01, math.exp(-9.0)])  # the interval's end


def test_no_lr_falls_faster():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=down())
    shape = start_lr.of_shapes(opt.rule, opt.param_groups)
    assert shape > 0.01
    path = lrs(opt, p, 12)
    assert path == pytest.approx([0.01, *(0.01 / (1 + t / 4) for t in range(1, 12))], rel=1e-5)  # t counts steps before


def test_the_floor_is_where_shapes_say_for_an_lr_that_starts_higher():
    p = matrix()
    opt = MADA([p], lr=5.0, learn=down(fall=1e6))
    shape = start_lr.of_shapes(opt.rule, opt.param_groups)
    assert lrs(opt, p, 4) == pytest.approx([5.0, 0.625, *[shape] * 2], rel=1e-4)
    assert 0.625 / 8 < shape < 0.625


@pytest.mark.parametrize("start", [1e-5, "auto"])
def test_it_is_the_start_for_one_that_starts_there_or_lower(start):
    p = matrix()
    path = lrs(MADA([p], lr=start, learn=down(fall=1e6)), p, 4)
    assert path == pytest.approx([path[0]] * 4, rel=1e-4)


def test_an_lr_below_its_floor_is_left_there():
    """As where a user, or a scheduler, has put it there."""
    p = matrix()
    opt = MADA([p], lr=0.01, learn=down())
    opt.param_groups[0]["log_lr"].fill_(-2.0)
    assert lrs(opt, p, 3) == pytest.approx([0.01 * math.exp(-2.0)] * 3, rel=1e-5)


def test_only_steps_that_count_let_it_fall():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=down())
    path = lrs(opt, p, 3)
    p.grad.fill_(math.nan)
    for _ in range(5):
        opt.step()
    assert lrs(opt, p, 1)[0] == pytest.approx(0.01 / (1 + 3 / 4), rel=1e-5)
    assert path[-1] == pytest.approx(0.01 / (1 + 2 / 4), rel=1e-5)


@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
def test_each_scope_counts_its_own_steps(scope):
    late, p = matrix(), matrix()
    opt = MADA([{"params": [late]}, {"params": [p]}], lr=0.01, learn=down(scope=scope))
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


class _Down(torch.optim.Optimizer):
    """As far at each step, of any coefficient."""

    def __init__(self, leaves):
        super().__init__(leaves, {})

    def step(self, closure=None):
        for x in self.param_groups[0]["params"]:
            x -= 3 * math.log(2)


def test_other_coefficients_fall_as_they_did():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=[HyperTorch("beta1", make=_Down, start=1), down()])
    path = lrs(opt, p, 3)
    assert path[-1] == pytest.approx(0.01 / (1 + 2 / 4), rel=1e-5)
    lowest = next(q.interval.low for q in RULES["mada"].coefficients if q.name == "beta1")
    assert opt.coefficients()["beta1"] == pytest.approx(lowest, abs=1e-6)


def test_a_fall_that_is_over_after_a_step_or_none_changes_nothing():
    ends = []
    for fall in (0.0, 1e-300):
        p = matrix()
        lrs(AutoAdam([p], learn=LearnedLR(fall=fall)), p, 20)
        ends.append(p.detach().clone())
    assert same_bits(ends[:1], ends[1:])


def test_without_a_matrix_there_is_no_floor():
    p = torch.nn.Parameter(torch.ones(5))
    assert lrs(MADA([p], lr=0.01, learn=down()), p, 3)[-1] == pytest.approx(0.01 / 8**2, rel=1e-5)


@pytest.mark.parametrize("start", [0.01, "auto", 5.0])
def test_one_that_is_resumed_falls_on_from_where_it_began(start):
    """Whatever the optimizer that takes it up was told of a start: as when fine-tuning is resumed."""
    p, other = matrix(), matrix()
    first, second = MADA([p], lr=0.01, learn=down()), MADA([other], lr=start, learn=down())
    lrs(first, p, 5)
    other.data.copy_(p)
    second.load_state_dict(first.state_dict())
    path = lrs(first, p, 4, start=5)
    assert path == lrs(second, other, 4, start=5)
    assert path[-1] == pytest.approx(0.01 / (1 + 8 / 4), rel=1e-5)


@pytest.mark.parametrize("copied", [False, True])
def test_a_group_that_is_added_has_the_same_floor(copied):
    p, late = matrix(), matrix()
    opt = MADA([p], lr=0.5, learn=LearnedLR(horizon=0.9, fall=4.0, scope="group"))
    opt = copy.deepcopy(opt) if copied else opt
    opt.add_param_group({"params": [late]})
    floors = [group["hyper_floor"].item() for group in opt.param_groups]
    assert floors == pytest.approx([math.log(start_lr.of_shapes(opt.rule, opt.param_groups[:1]) / 0.5)] * 2)
    assert floors[0] < 0.0


def test_a_state_without_a_floor_is_refused_and_changes_nothing():
    p, other = matrix(), matrix()
    first, second = MADA([p], learn=down(fall=0.0)), MADA([other], learn=down())
    lrs(first, p, 2)
    before = second.param_groups[0]["log_lr"].clone()
    with pytest.raises(ValueError, match="hyper_floor"):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["log_lr"].item() == before.item()


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"fall=-1\.0: expected a number in \[0, inf\)"):
        LearnedLR(fall=-1.0)
    with pytest.raises(TypeError, match="fall"):  # of lr alone
        HyperSGD("beta1", fall=10)
