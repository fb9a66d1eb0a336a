"""How far a learned lr rises above its start, and on what evidence.

Catches: an lr that rises on noise, or against evidence that it should be smaller; one that isn't let up where all steps
agree; a ceiling that comes down again, that holds below the start, or that other coefficients have; steps that don't
count taken for some that do.
"""

import copy
import math

import pytest
import torch

from mada_optim import MADA, AutoMuon, HyperSGD, HyperTorch, LearnedLR
from mada_optim.rules import RULES
from tests.problems import same_bits, step_info
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

ONE = torch.ones(1, 1, dtype=torch.float64)


class Upward(LearnedLR):
    """Wants to go up by 3, at each step; the evidence is that of the gradients."""

    def weigh(self, h, *sums):
        return torch.full_like(h, -3.0), *sums


def up(**options):
    options = {"horizon": 0.9, "memory": 0.9, "reach": 0.1, "rise": 0.5, "clip": 10.0, "start": 1, **options}
    return Upward(fall=0.0, freeze=0.0, **options)


def matrix():
    return torch.nn.Parameter(torch.linspace(-1.0, 1.0, 12).reshape(4, 3))


def lrs(opt, p, signs):
    """The learned lr after each step, whose gradients are all 1 or all -1: the lr is too small while they stay so."""
    path = []
    for sign in signs:
        p.grad = torch.full_like(p, float(sign))
        opt.step()
        path.append(opt.coefficients()["lr"])
    return path


def test_evidence_is_the_sum_of_what_steps_say_less_a_share():
    learner = LearnedLR(reach=0.1, rise=0.6)
    ceiling, evidence = math.log(0.01) * ONE, 0 * ONE
    votes = [0.5, 0.9, -0.2, -3.0, -1.0, -1.0, -1.0, -0.7]  # hypergradients: against a larger lr, then for one
    owed, opened = 0.0, 0.0
    for h in votes:
        ceiling, evidence = learner.testify(h * ONE, ceiling, evidence)
        owed += min(max(-h, -1.0), 1.0) - 0.6
        opened, owed = opened + max(owed, 0.0), min(owed, 0.0)
        assert evidence.item() == pytest.approx(owed, abs=1e-12)
        assert ceiling.item() == pytest.approx(math.log(0.01) + opened * 0.1 / 0.4)
    assert opened == 0.0  # what spoke against it isn't made good yet: -3 counts as -1
    for _ in range(4):
        ceiling, evidence = learner.testify(-ONE, ceiling, evidence)
    assert ceiling.item() == pytest.approx(math.log(0.01) + 0.3 * 0.1 / 0.4)  # -1.3 + 4 * 0.4


@pytest.mark.parametrize(("start", "ceiling", "reached"), [(1.0, 2.0, 2.0), (3.0, 2.0, 3.0), (1.0, math.inf, 4.0)])
def test_the_ceiling_leaves_one_that_is_above(start, ceiling, reached):
    """A hypergradient of 1 is no evidence for a higher ceiling."""
    learner, info = up(reach=0.0), step_info(ends=(-9.0, 9.0))
    moved, _ = learner.step(start * ONE, ONE, {**learner.init(ONE, info), "ceiling": ceiling * ONE}, info)
    assert moved.item() == reached


def test_the_intervals_end_holds_too():
    learner, info = up(reach=0.0), step_info(ends=(-9.0, 2.0))
    reached, _ = learner.step(ONE, -ONE, {**learner.init(ONE, info), "ceiling": 99 * ONE}, info)
    assert reached.item() == 2.0


class _Far(torch.optim.Optimizer):
    """A fixed distance, at each step, of any coefficient."""

    def __init__(self, leaves):
        super().__init__(leaves, {})

    def step(self, closure=None):
        for x in self.param_groups[0]["params"]:
            x += 3.0


def test_other_coefficients_rise_as_they_did():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=[HyperTorch("beta1", make=_Far, start=1), up()])
    assert max(lrs(opt, p, [1, -1] * 3)) == pytest.approx(0.01)
    highest = next(q.interval.high for q in RULES["mada"].coefficients if q.name == "beta1")
    assert opt.coefficients()["beta1"] == pytest.approx(highest, abs=1e-9)


def test_where_all_steps_agree_it_rises_by_its_reach():
    p = matrix()
    path = lrs(MADA([p], lr=0.01, learn=up()), p, [1] * 8)
    assert path[:2] == pytest.approx([0.01, 0.01 * math.exp(0.1)], rel=1e-4)  # the first step has no hypergradient
    assert path == pytest.approx([0.01 * math.exp(0.1 * t) for t in range(8)], rel=1e-3)


def test_where_they_disagree_it_doesnt_rise():
    p = matrix()
    path = lrs(MADA([p], lr=0.01, learn=up()), p, [1, -1] * 20)
    assert max(path) == pytest.approx(0.01)
    p = matrix()
    assert max(lrs(MADA([p], lr=0.01, learn=up(rise=0.0)), p, [1, -1] * 20)) > 0.05


def test_evidence_for_a_smaller_lr_is_made_good_first():
    p = matrix()
    opt = MADA([p], lr=0.01, betas=(0.0, 0.99), learn=up(horizon=0.0))
    against = lrs(opt, p, [1, -1, 1, -1, 1])  # each gradient against the step before: four times the same hypergradient
    assert max(against) == pytest.approx(0.01)
    owed = opt.param_groups[0]["hyper_evidence"].item()
    assert owed == pytest.approx(-4 * 1.5, rel=0.02)
    path = lrs(opt, p, [1] * 40)
    waits = sum(x == pytest.approx(0.01) for x in path)
    assert waits >= 12  # each step makes good at most 1 - .5
    assert path[-1] > 0.02


def test_what_has_been_opened_stays_open_and_below_the_start_all_is():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=up())
    top = lrs(opt, p, [1] * 5)[-1]
    lrs(opt, p, [-1, 1] * 20)
    opt.param_groups[0]["log_lr"].fill_(-2.0)
    path = lrs(opt, p, [-1, 1] * 20)
    assert path[-1] == pytest.approx(top, rel=1e-4)
    assert max(path) == path[-1]
    assert opt.param_groups[0]["hyper_evidence"].item() < 0


def test_an_lr_above_its_ceiling_is_left_there():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=up())
    opt.param_groups[0]["log_lr"].fill_(2.0)
    assert lrs(opt, p, [1, -1, 1]) == pytest.approx([0.01 * math.exp(2.0)] * 3, rel=1e-5)


@pytest.mark.parametrize("start", ["auto", 1e-5])
def test_it_rises_from_where_it_starts(start):
    p = matrix()
    opt = MADA([p], lr=start, learn=up())
    path = lrs(opt, p, [1, -1] * 5)
    assert path == pytest.approx([path[0]] * 10, rel=1e-4)


def test_without_a_reach_any_evidence_lets_it_rise():
    p = matrix()
    path = lrs(MADA([p], lr=0.01, learn=up(reach=0.0)), p, [1, 1, 1])
    assert path == pytest.approx([0.01, 0.01 * math.exp(3.0), 0.01 * math.exp(6.0)], rel=1e-4)


def test_only_steps_that_count_say_something():
    p = matrix()
    opt = MADA([p], lr=0.01, learn=up())
    lrs(opt, p, [1, -1, -1])
    before = [opt.param_groups[0][key].clone() for key in ("hyper_ceiling", "hyper_evidence")]
    p.grad = torch.full_like(p, math.nan)
    for _ in range(5):
        opt.step()
    assert same_bits(before, [opt.param_groups[0][key] for key in ("hyper_ceiling", "hyper_evidence")])


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_each_scope_has_its_own_evidence(scope):
    agreed, p = matrix(), matrix()
    opt = MADA([{"params": [agreed]}, {"params": [p]}], lr=0.01, learn=up(scope=scope))
    for step in range(6):
        agreed.grad, p.grad = torch.ones_like(p), torch.full_like(p, (-1.0) ** step)
        opt.step()
    first, second = (group["log_lr"].reshape(-1)[0].item() for group in opt.param_groups)
    assert first == pytest.approx(0.5, rel=1e-3)
    assert second == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("start", [0.01, "auto", 5.0])
def test_one_that_is_resumed_has_the_evidence_and_the_ceiling(start):
    p, other = matrix(), matrix()
    first, second = (MADA([x], lr=lr, learn=up()) for x, lr in ((p, 0.01), (other, start)))
    lrs(first, p, [1, 1, 1, -1, -1])
    other.data.copy_(p)
    second.load_state_dict(first.state_dict())
    assert lrs(first, p, [1, 1, -1, 1, 1, 1]) == lrs(second, other, [1, 1, -1, 1, 1, 1])


@pytest.mark.parametrize("copied", [False, True])
def test_a_group_that_is_added_starts_under_the_same_ceiling(copied):
    p, late = matrix(), matrix()
    opt = MADA([p], lr=0.005, learn=LearnedLR(horizon=0.9, scope="group"))
    opt = copy.deepcopy(opt) if copied else opt
    opt.add_param_group({"params": [late]})
    assert [(group["lr"], group["hyper_ceiling"].item()) for group in opt.param_groups] == [(0.005, 0.0)] * 2


def test_a_state_without_evidence_is_refused_and_changes_nothing():
    p, other = matrix(), matrix()
    first, second = MADA([p], learn=up(rise=0.0)), MADA([other], learn=up())
    lrs(first, p, [1, 1])
    before = second.param_groups[0]["log_lr"].clone()
    with pytest.raises(ValueError, match="hyper_evidence"):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["log_lr"].item() == before.item()


def test_without_it_there_is_nothing_to_remember():
    opt = AutoMuon([matrix()], learn=LearnedLR(rise=0.0))
    assert not {"hyper_ceiling", "hyper_evidence"} & set(opt.param_groups[0])
    assert {"hyper_ceiling", "hyper_evidence"} < set(AutoMuon([matrix()]).param_groups[0])


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"rise=1\.0: expected a number in \[0, 1\)"):
        LearnedLR(rise=1.0)
    with pytest.raises(TypeError, match="rise"):  # of lr alone
        HyperSGD("beta1", rise=0.5)
    with pytest.raises(ValueError, match=r"rise=0\.5: expected a memory > 0, got 0; .* or set rise=0"):
        LearnedLR(rise=0.5, memory=0.0, averaging=0.0)  # hypergradients without a size say nothing that is counted
