"""Every scheduler of torch.optim.lr_scheduler sets our lr as it sets that of torch.optim, and the step obeys it.

Catches: an lr read once and kept, a tensor lr that groups share or that a scheduler can't write, schedulers that warn
of a step they can't see, and momentum that is cycled and not used.
"""

import copy
import functools

import pytest
import torch

from mada_optim import HyperOptimizer
from mada_optim.rule import DECAY, Coefficient, Rule, Slot
from tests.problems import everything, same_bits
from tests.representatives import PRESETS_ON_EVERY_ENGINE, on_one_engine
from tests.torch_checks.infos import INFOS, LEARNING, MODES, each_info
from tests.torch_checks.problems import least_squares
from tests.torch_checks.schedules import SCHEDULERS, advance

METRICS = [1.0, 0.5, 0.5, 0.5]

#: For what doesn't depend on the preset: with coefficients that are learned, and with an lr that is.
LEARNED = [case for case in MODES if case.info.name in ("MADA", "AutoMuon")]
on_learned = pytest.mark.parametrize("case", LEARNED, ids=str)
each_scheduler = pytest.mark.parametrize("make_scheduler", SCHEDULERS.values(), ids=SCHEDULERS)


def two_groups(problem, kind=float):
    weight, bias = problem.params
    return [{"params": [weight], "lr": kind(1e-2)}, {"params": [bias], "lr": kind(2e-3)}]


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def lrs(opt):
    return [float(group["lr"]) for group in opt.param_groups]


def scheduled(problem, opt, scheduler, metrics=METRICS):
    """The lr of each group at every step."""
    path = []
    for metric in metrics:
        path.append(lrs(opt))
        problem.backward(opt)
        opt.step()
        advance(scheduler, metric)
    return [*path, lrs(opt)]


#: Torch's own SequentialLR, in 2.6, calls others in a way that torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")


@functools.cache
def path_in_torch(make_scheduler):
    """What the same scheduler does to the lr of torch's own optimizer."""
    problem = least_squares()
    opt = torch.optim.AdamW(two_groups(problem))
    return scheduled(problem, opt, make_scheduler(opt))


@functools.cache
def keeps_tensors(make_scheduler):
    """Whether the scheduler writes into a tensor that is the lr; in some versions of torch, some put another there."""
    problem = least_squares()
    opt = torch.optim.SGD(two_groups(problem, double))
    own = [group["lr"] for group in opt.param_groups]
    scheduled(problem, opt, make_scheduler(opt))
    return all(group["lr"] is x for group, x in zip(opt.param_groups, own, strict=True))


def assert_the_step_takes_what_is_set(info, make_scheduler):
    problem = least_squares()
    by_hand = problem.twin()
    opt, twin = info.optim_cls(two_groups(problem), **LEARNING), info.optim_cls(two_groups(by_hand), **LEARNING)
    path = scheduled(problem, opt, make_scheduler(opt))
    assert path == path_in_torch(make_scheduler)
    assert len({tuple(x) for x in path}) > 1
    for values in path[:-1]:
        for group, lr in zip(twin.param_groups, values, strict=True):
            group["lr"] = lr
        by_hand.train(twin, 1)
    assert same_bits(everything(opt), everything(twin))


@each_scheduler
@pytest.mark.parametrize("info", [x for x in INFOS if x.name in PRESETS_ON_EVERY_ENGINE], ids=lambda x: x.name)
def test_a_scheduler_sets_the_lr_that_the_step_takes(info, make_scheduler):
    assert_the_step_takes_what_is_set(info, make_scheduler)


@on_one_engine
@pytest.mark.parametrize("scheduler", ["LambdaLR", "OneCycleLR"])
@each_info
def test_the_step_of_every_optimizer_takes_the_lr_that_is_set(info, scheduler):
    """A number that differs between groups, and one that starts elsewhere than at the lr of the group."""
    assert_the_step_takes_what_is_set(info, SCHEDULERS[scheduler])


@on_one_engine
@each_scheduler
@on_learned
def test_a_tensor_lr_is_scheduled_in_place_and_as_a_float_is(case, make_scheduler):
    if make_scheduler is SCHEDULERS["SequentialLR"] and torch.__version__ < (2, 7):
        pytest.skip("SequentialLR of torch 2.6 schedules a tensor otherwise than a float, with torch's optimizers too")
    problem = least_squares()
    opt = case.make(two_groups(problem, double))
    own = [group["lr"] for group in opt.param_groups]
    path = scheduled(problem, opt, make_scheduler(opt))
    if keeps_tensors(make_scheduler):
        assert all(group["lr"] is x for group, x in zip(opt.param_groups, own, strict=True))
    for values, expected in zip(path, path_in_torch(make_scheduler), strict=True):
        assert values == pytest.approx(expected, rel=1e-6)


@on_one_engine
@each_scheduler
@on_learned
def test_optimizer_and_scheduler_resume_together(case, make_scheduler):
    problem = least_squares()
    opt = case.make(two_groups(problem))
    scheduler = make_scheduler(opt)
    scheduled(problem, opt, scheduler, METRICS[:2])

    resumed = problem.twin()
    twin = case.make(two_groups(resumed))
    twin_scheduler = make_scheduler(twin)
    twin_scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))

    assert scheduled(problem, opt, scheduler, METRICS[2:]) == scheduled(resumed, twin, twin_scheduler, METRICS[2:])
    assert same_bits(everything(opt), everything(twin))


CYCLES = {
    "OneCycleLR": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=8),
    "CyclicLR": lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 1e-3, 1e-2, step_size_up=3),
}

each_cycle = pytest.mark.parametrize("cycle", CYCLES.values(), ids=CYCLES)


def side_by_side(opt, problem, cycle):
    """Our momentum as a step took it, and that of torch's SGD under the same scheduler, with where SGD has come to."""
    other = problem.twin()
    reference = torch.optim.SGD(other.params, lr=1e-2, momentum=0.5)
    ours, theirs = cycle(opt), cycle(reference)
    for _ in range(6):
        problem.train(opt, 1)
        other.train(reference, 1)
        yield opt.coefficients()["momentum"], float(reference.param_groups[0]["momentum"]), other.params
        ours.step()
        theirs.step()


@on_one_engine
@each_cycle
@each_info
def test_momentum_is_cycled_where_there_is_one_and_refused_where_not(info, cycle):
    """Presets keep beta1 and beta2 apart and have no `betas` that a scheduler could write: it says so."""
    problem = least_squares()
    opt = info.optim_cls(problem.params, lr=1e-2, learn=())
    if "momentum" in opt.defaults:
        for ours, theirs, _ in side_by_side(opt, problem, cycle):
            assert ours == pytest.approx(theirs)
    else:
        with pytest.raises(ValueError, match="optimizer must support momentum or beta1 with `cycle_momentum`"):
            cycle(opt)


def heavy_ball(c, g, s, t):
    buffer = c["momentum"] * s["buffer"] + g
    return buffer, {"buffer": buffer}


MOMENTUM = Coefficient("momentum", r"\mu", DECAY, 0.5, DECAY)
HEAVY_BALL = Rule("heavy ball", heavy_ball, (MOMENTUM,), (Slot("buffer", "b"),))


@each_cycle
def test_momentum_is_cycled_in_a_rule_that_has_a_coefficient_of_that_name(cycle):
    """A rule of a third party, which is torch's SGD: its parameters agree only if the step took that momentum."""
    problem = least_squares(dtype=torch.float64)
    opt = HyperOptimizer(problem.params, lr=1e-2, rule=HEAVY_BALL, learn=())
    for ours, theirs, reference in side_by_side(opt, problem, cycle):
        assert ours == pytest.approx(theirs)
        torch.testing.assert_close(problem.params, reference)
