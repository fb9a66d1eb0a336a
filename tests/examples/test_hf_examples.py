"""Hugging Face: the Trainer, with both ways to name the optimizer and a resume, and Accelerate.

Catches: coefficients that a checkpoint loses, that the Trainer's two groups don't share, or that never reach the log.
"""

import pytest
import torch

from tests.examples.conftest import fell, largest_move

COEFFICIENTS = {f"mada/{q}" for q in ("beta1", "beta2", "beta3", "rho", "c", "gamma")}


@pytest.fixture(scope="module")
def trainers():
    return {}


@pytest.fixture
def trained(example, trainers):
    """The example's three trainers; it runs once for this file."""
    if not trainers:
        trainers.update(example("hf_trainer").main())
    return trainers


def optimizer(trainer):
    return trainer.optimizer.optimizer  # Accelerate wraps it


@pytest.mark.parametrize("name", ["whole", "yours"])
def test_the_trainer_trains_and_logs_coefficients(trained, name):
    history = trained[name].state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] - 1.0
    assert all(entry.keys() >= COEFFICIENTS for entry in history)
    logged = {key.removeprefix("mada/"): x for key, x in history[-1].items() if key in COEFFICIENTS}
    assert logged == {q: optimizer(trained[name]).coefficients()[q] for q in logged}
    assert largest_move(logged) > 1e-3
    assert history[0]["mada/gamma"] != history[-1]["mada/gamma"]


def test_the_trainers_groups_share_their_coefficients(trained):
    decay, no_decay = optimizer(trained["whole"]).param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.1, 0.0)
    assert decay["gamma"] is no_decay["gamma"]
    yours = [(group["name"], group["matrix"]) for group in optimizer(trained["yours"]).param_groups]
    assert yours == [("hidden", True), ("other", False), ("no_decay", False)]


def test_a_resumed_trainer_goes_on_bit_for_bit(trained):
    whole, resumed = trained["whole"], trained["resumed"]
    assert resumed.state.global_step == whole.state.global_step
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert optimizer(whole).coefficients() == optimizer(resumed).coefficients()


def test_accelerate_goes_on_bit_for_bit_from_a_saved_state(example):
    result = example("accelerate_loop").main()
    assert fell(result["losses"])
    whole, resumed = result["coefficients"]
    assert whole == resumed
    assert largest_move(whole) > 1e-3
    for p, q in zip(result["whole"], result["resumed"], strict=True):
        assert torch.equal(p, q)
