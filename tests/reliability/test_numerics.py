"""Losses and gradients that are not finite: the step moves nothing, is counted, and a run of them ends in time.

Catches: a skip that multiplies by zero (0 * NaN is NaN), one that moves a moment, a coefficient or a step count, a
checkpoint of weights that are no numbers.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mada_lab.checkpoints import saver
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.folder import available
from mada_lab.compute import finite
from mada_lab.compute.finite import Skips
from mada_lab.errors import NumericsError
from mada_lab.records.run_record import read_run
from mada_lab.system.signals import Signals
from mada_lab.training.gradients import accumulate
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from tests.app.conftest import Silent, fitted, update
from tests.problems import same_bits
from tests.reliability import runs


def moved(session):
    """All that a step may move, but for data and random numbers."""
    tensors = [x.detach().clone() for x in session.model.state_dict().values()]
    state = session.optimizer.state_dict()
    tensors += [x.clone() for slots in state["state"].values() for x in slots.values()]
    for group in state["param_groups"]:
        tensors += [torch.as_tensor(x) for x in group.values() if isinstance(x, torch.Tensor | float)]
    return tensors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("optimizer", ["automuon", "mada", "mada_released", "hyperadam", "adamw", "lion"])
def test_a_gradient_that_is_not_finite_moves_nothing(tiny, corpus, optimizer, bad):
    session = TrainState.start(fitted(tiny, optimizer=optimizer), corpus)
    for _ in range(8):
        update(session, accumulate(session, session.model, Signals()))
    before, position = moved(session), session.batches.state()
    loss = accumulate(session, session.model, Signals())
    session.model.wpe.weight.grad[3, 2] = bad
    update(session, loss)
    assert same_bits(moved(session), before)
    assert (session.step, session.skips) == (9, Skips(total=1, in_a_row=1))
    assert not torch.equal(session.batches.state(), position)
    assert all(p.grad is None for p in session.model.parameters())
    update(session, accumulate(session, session.model, Signals()))
    assert not same_bits(moved(session), before)
    assert session.skips == Skips(total=1, in_a_row=0)


def test_a_loss_that_is_not_finite_moves_nothing_though_its_gradient_is(tiny, corpus):
    session = TrainState.start(tiny, corpus)
    before = moved(session)
    update(session, accumulate(session, session.model, Signals()) * math.nan)
    assert same_bits(moved(session), before)


def test_a_scaled_loss_that_overflows_is_a_skip_and_lowers_the_scale(tiny, corpus):
    session = TrainState.start(replace(tiny, dtype="float16"), corpus)
    update(session, accumulate(session, session.model, Signals()))
    before, scale = moved(session), session.scaler.get_scale()
    loss = accumulate(session, session.model, Signals())
    session.model.wpe.weight.grad[0, 0] = math.inf
    update(session, loss)
    assert same_bits(moved(session), before)
    assert session.scaler.get_scale() == scale / 2
    assert session.skips.total == 1


def test_clipping_is_torchs_own(tiny, corpus):
    """The norm is taken once, for the decision and for the clipping."""
    session = TrainState.start(tiny, corpus)
    accumulate(session, session.model, Signals())
    parameters = list(session.model.parameters())
    mine = [p.grad.clone() for p in parameters]
    norm = finite.gradient_norm(parameters)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(parameters, 0.01))
    clipped = [p.grad.clone() for p in parameters]
    for p, g in zip(parameters, mine, strict=True):
        p.grad.copy_(g)
    torch.nn.utils.clip_grads_with_norm_(parameters, 0.01, norm)
    assert same_bits(clipped, [p.grad for p in parameters])


def poison(monkeypatch, steps):
    monkeypatch.setattr("mada_lab.training.gradients.accumulate", runs.poisoned(accumulate, steps))


def test_skips_are_recorded_and_few_do_not_end_a_run(tiny, corpus, tmp_path, monkeypatch):
    poison(monkeypatch, (7, 8, 20))
    session = train(replace(tiny, max_skipped_steps=3), corpus, Silent())
    run = read_run(tmp_path / "run")
    assert [row["skipped_steps"] for row in run.rows] == [0] * 7 + [1] + [2] * 12 + [3] * 11
    assert run.summary["skipped_steps"] == session.skips.total == 3
    assert run.summary["steps"] == 30


def test_many_in_a_row_end_it_with_the_last_checkpoint_intact(tiny, corpus, tmp_path, monkeypatch):
    poison(monkeypatch, range(13, 100))
    with pytest.raises(NumericsError, match="at step 16: expected finite numbers, got others 4 times in a row"):
        train(replace(tiny, max_skipped_steps=4), corpus, Silent())
    run = read_run(tmp_path / "run")
    assert (run.rows[-1]["step"], run.rows[-1]["skipped_steps"], run.summary) == (16, 4, None)
    monkeypatch.undo()
    train(replace(tiny, init_from="resume", max_skipped_steps=4), corpus, heard := Silent())
    assert heard.rows[0]["step"] == 11
    assert heard.rows[-1]["skipped_steps"] == 0


@pytest.mark.parametrize("background", [False, True])
def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, background):
    config = replace(tiny, background_save=background)
    for bad in (math.nan, math.inf):
        tree = {"model": {"a": torch.ones(3), "b": torch.tensor([[1.0, bad], [0.0, 0.0]])}}
        with saver.Saver(config) as it, pytest.raises(NumericsError, match=r"at step 7, in /model/b: expected finite"):
            it.save(Checkpoint(7, tree))
    assert available(tmp_path / "run") == []


def test_finiteness_is_seen_in_every_type_and_place():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        good = {"a": torch.tensor([1.0, -2.0], dtype=dtype), "empty": torch.zeros(0, dtype=dtype), "n": torch.tensor(3)}
        assert finite.first_not_finite(good) is None
        assert finite.first_not_finite({**good, "z": torch.tensor(-math.inf, dtype=dtype)}) == "z"
    assert finite.first_not_finite({"max": torch.tensor([torch.finfo(torch.float32).max] * 5)}) is None


@pytest.mark.parametrize("optimizer", ["automuon", "mada", "mada_released", "hyperadam", "adamw", "lion"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_that_never_moved_ends_with_an_error(tiny, corpus, tmp_path, monkeypatch, caplog, optimizer, dtype):
    """Whoever skips the steps; fewer of them than `max_skipped_steps`."""
    monkeypatch.setattr(finite, "gradient_norm", lambda _: torch.tensor(math.nan))
    config = fitted(tiny, optimizer=optimizer, dtype=dtype, max_iters=4, warmup_iters=1, eval_interval=4)
    with pytest.raises(
        NumericsError, match="at step 4: expected finite numbers, got others in all 4 steps so far"
    ) as caught:
        train(config, corpus, Silent())
    assert caught.value.exit_code == 5
    run = read_run(tmp_path / "run")
    assert [row["skipped_steps"] for row in run.rows] == [0, 1, 2, 3, 4]
    assert run.summary is None
    assert [x.message.split(":")[0] for x in caplog.records] == ["1 of the 1 steps so far were skipped"]


def test_a_loss_scale_has_time_to_fall(tiny, corpus, monkeypatch):
    """Steps that overflow at first are usual in float16; an evaluation before the last step is no verdict."""
    norms = iter([math.nan] * 4)
    monkeypatch.setattr(finite, "gradient_norm", lambda _: torch.tensor(next(norms, 1.0)))
    session = train(replace(tiny, dtype="float16", max_iters=6, warmup_iters=1, eval_interval=2), corpus, Silent())
    assert (session.step, session.skips.total) == (6, 4)


@pytest.fixture
def overflow_at(request):
    """Makes gradients finite, and so large at these steps that the optimizer skips them."""

    def at(*steps):
        taken = iter(range(1, 1000))

        def overflow(optimizer, *_):
            if next(taken) in steps:
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        p.grad.fill_(1e30)

        request.addfinalizer(register_optimizer_step_pre_hook(overflow).remove)

    return at


def test_steps_that_the_optimizer_skips_by_itself_are_counted(tiny, corpus, tmp_path, overflow_at, caplog):
    """The loop found loss and gradient finite, and the optimizer didn't; the count is in the checkpoint too."""
    overflow_at(2, 5)
    session = train(replace(tiny, max_iters=6, warmup_iters=1, eval_interval=3, log_interval=3), corpus, Silent())
    run = read_run(tmp_path / "run")
    assert [row["skipped_steps"] for row in run.rows] == [0, 1, 2]
    assert run.summary["skipped_steps"] == 2
    assert (session.skips.total, session.state_dict()["skips"]["total"]) == (0, 2)
    assert [x.message for x in caplog.records] == [
        "1 of the 3 steps so far were skipped: loss or gradient was not finite, and nothing moved"
    ]


def test_an_optimizer_that_skipped_every_step_ends_the_run(tiny, corpus, overflow_at):
    overflow_at(1, 2, 3)
    config = replace(tiny, max_iters=6, warmup_iters=1, eval_interval=3, log_interval=3)
    message = "at step 3: expected finite numbers, got others in all 3 steps so far"
    with pytest.warns(UserWarning, match="every step so far was skipped"), pytest.raises(NumericsError, match=message):
        train(config, corpus, Silent())
