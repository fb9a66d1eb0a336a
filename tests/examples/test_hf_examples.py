"""Hugging Face: the Trainer, with both ways to name the optimizer and resumes, Accelerate, PEFT and TRL.

Catches: coefficients that a checkpoint loses, that the Trainer's two groups don't share, or that never reach the log;
adapters that Muon moves unasked, and frozen weights that move.
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
    """The example's trainers; it runs once for this file."""
    if not trainers:
        trainers.update(example("hf_trainer").main())
    return trainers


def optimizer(trainer):
    return trainer.optimizer.optimizer  # Accelerate wraps it


def logged(trainer):
    """The training losses, and what the last entry has of the coefficients, by their names."""
    history = trainer.state.log_history
    last = {key.removeprefix("mada/"): x for key, x in history[-1].items() if key.startswith("mada/")}
    return [entry["loss"] for entry in history if "loss" in entry], last


def test_the_trainer_trains_and_logs_coefficients(trained):
    losses, last = logged(trained["whole"])
    history = trained["whole"].state.log_history
    assert losses[-1] < losses[0] - 1.0
    assert all(entry.keys() >= COEFFICIENTS for entry in history)
    assert last == optimizer(trained["whole"]).coefficients()
    assert largest_move(last) > 1e-3
    assert history[0]["mada/gamma"] != history[-1]["mada/gamma"]


def test_the_trainer_schedules_the_rate_that_automuon_learns(trained):
    losses, last = logged(trained["yours"])
    assert losses[-1] < losses[0]
    assert last == optimizer(trained["yours"]).coefficients()
    scheduled = [entry["learning_rate"] for entry in trained["yours"].state.log_history if "loss" in entry]
    assert scheduled == sorted(scheduled, reverse=True)
    assert [group["name"] for group in optimizer(trained["yours"]).param_groups] == ["hidden", "other", "no_decay"]
    assert optimizer(trained["yours"]).param_groups[0]["log_lr"].item() != 0.0


def test_the_trainers_groups_share_their_coefficients(trained):
    decay, no_decay = optimizer(trained["whole"]).param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.1, 0.0)
    assert decay["gamma"] is no_decay["gamma"]


@pytest.mark.parametrize(("whole", "resumed"), [("whole", "resumed"), ("yours", "yours_resumed")])
def test_a_resumed_trainer_goes_on_bit_for_bit(trained, whole, resumed):
    whole, resumed = trained[whole], trained[resumed]
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
def test_adam_moves_the_factors_of_lora_and_muon_does_if_told(example):
    pytest.importorskip("peft", reason="peft is not installed: pip install 'mada-optim[finetuning]'")
    runs = example("peft_lora").main()
    for name, hidden in (("Adam", False), ("Muon", True)):
        run = runs[name]
        factors = {x.name for x in run["groups"].weights}
        assert len(factors) == 4
        assert all(".lora_A." in factor or ".lora_B." in factor for factor in factors)
        assert run["moved"] == factors
        assert {bool(x) for group in run["opt"].param_groups for x in group["hidden_matrices"]} == {hidden}
        assert run["losses"][-1] < run["losses"][0]
        torch.testing.assert_close(run["merged"], run["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL's arguments set it
def test_the_sft_trainer_trains_with_automuon(example):
    pytest.importorskip("trl", reason="trl is not installed: pip install 'mada-optim[finetuning]'")
    trainer = example("trl_sft").main()
    losses, last = logged(trainer)
    assert losses[-1] < 0.5 * losses[0]
    assert last == optimizer(trainer).coefficients()
    assert [group["name"] for group in optimizer(trainer).param_groups] == ["hidden", "other", "no_decay"]
