"""How many steps were skipped, and one warning where all were.

Catches: a count that misses steps or counts those that were applied, a warning at each read, for a few steps, or where
only the first ones were skipped, and a count that travels wrongly.
"""

import copy
import pickle
import warnings

import pytest
import torch

from mada_optim import Adam, AutoMuon, HyperAdam
from mada_optim.stepping.step import PENDING
from tests.problems import give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine

MAKERS = {
    "Adam": Adam,
    "AutoMuon": AutoMuon,
    "all learned": learning,
    "bf16 state": lambda params: HyperAdam(params, state_dtype=torch.bfloat16),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

BAD = (float("nan"), float("inf"), -float("inf"), 1e30)


def spoil(opt, params, steps, bad=float("nan")):
    for step in range(steps):
        give_gradients(params, step)
        params[0].grad[-1, step % 4] = bad
        opt.step()


READS = {
    "skipped_steps": lambda opt: opt.skipped_steps,
    "coefficients": lambda opt: opt.coefficients(),
    "state_dict": lambda opt: opt.state_dict(),
}


@each_maker
@pytest.mark.parametrize("bad", BAD)
def test_it_counts_the_steps_that_changed_nothing(make, bad):
    params = parameters()
    opt = make(params)
    assert opt.skipped_steps == 0
    train(opt, params, range(3))
    assert opt.skipped_steps == 0
    spoil(opt, params, 4, bad)
    assert opt.skipped_steps == 4
    train(opt, params, range(2))
    spoil(opt, params, 1, bad)
    assert (opt.skipped_steps, type(opt.skipped_steps)) == (5, int)
    assert all(state["step"] == 5 for state in opt.state.values())


@on_one_engine
def test_it_counts_many():
    params = parameters()
    opt = Adam(params)
    for step in range(3 * PENDING + 7):
        (train if step % 3 else lambda opt, params, seeds: spoil(opt, params, 1))(opt, params, [step])
    assert opt.skipped_steps == PENDING + 3


def test_a_step_without_a_gradient_is_none():
    opt = Adam(parameters())
    for _ in range(5):
        opt.step()
    assert opt.skipped_steps == 0


@on_one_engine
@each_maker
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_warning_at_the_first_read_says_that_all_were_skipped(make, read):
    params = parameters()
    opt = make(params)
    spoil(opt, params, 7)
    with pytest.warns(UserWarning, match=r"every step so far was skipped \(7\)") as caught:
        read(opt)
    assert [x.filename for x in caught] == [__file__]
    for again in READS.values():
        again(opt)
    spoil(opt, params, 7)
    assert opt.skipped_steps == 14


@on_one_engine
@each_maker
def test_no_warning_for_the_first_two_or_if_one_was_applied(make):
    params = parameters()
    opt = make(params)
    spoil(opt, params, 2)
    assert opt.skipped_steps == 2
    train(opt, params, range(1))
    spoil(opt, params, 50)
    assert opt.skipped_steps == 52


def test_a_scaler_of_the_loss_that_skips_steps_itself_is_nothing_to_warn_of():
    params = [torch.nn.Parameter(torch.ones(3))]
    opt, scaler = Adam(params), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step in range(8):
        opt.zero_grad()
        scaler.scale((params[0] * (float("inf") if step < 5 else 1.0)).sum()).backward()
        scaler.step(opt)
        scaler.update()
    opt.state_dict()
    assert opt.skipped_steps == 0


@on_one_engine
@pytest.mark.parametrize("through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@each_maker
def test_a_copy_counts_on(make, through):
    if make is MAKERS["bf16 state"]:
        make = Adam  # a lambda's optimizer pickles as well; one is enough
    params = parameters()
    opt = make(params)
    train(opt, params, range(1))
    spoil(opt, params, 3)
    twin = through(opt)
    spoil(twin, twin.param_groups[0]["params"], 2)
    assert (opt.skipped_steps, twin.skipped_steps) == (3, 5)


def test_it_is_counted_anew_after_a_load():
    params = parameters()
    opt, twin = Adam(params), Adam(parameters())
    train(opt, params, range(2))
    spoil(opt, params, 3)
    assert set(opt.state_dict()) == {"state", "param_groups"}
    twin.load_state_dict(opt.state_dict())
    assert twin.skipped_steps == 0
    opt.load_state_dict(opt.state_dict())
    assert opt.skipped_steps == 0
    spoil(opt, params, 4)
    with pytest.warns(UserWarning, match=r"skipped \(4\)"):
        opt.state_dict()


def test_reading_changes_nothing():
    params, twins = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twins)
    for step in range(6):
        train(opt, params, [step])
        train(twin, twins, [step])
        spoil(opt, params, 1)
        spoil(twin, twins, 1)
        assert opt.skipped_steps == step + 1
    assert same_bits(params, twins)


def test_warnings_as_errors_leave_the_count():
    params = parameters()
    opt = Adam(params)
    spoil(opt, params, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="every step"):
            opt.state_dict()
    assert opt.skipped_steps == 3
