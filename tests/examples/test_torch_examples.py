"""The examples that need torch and scikit-learn alone do what their heads say, on real data.

Catches: an example that no longer runs, doesn't train, or whose coefficients stand still; and an example that no table
lists.
"""

import re

import pytest
import torch

from tests.examples.conftest import EXAMPLES, fell, largest_move


@pytest.mark.parametrize("name", ["plain_loop", "cnn"])
def test_a_network_learns_and_its_lr_moves(name, example, capsys):
    result = example(name).main()
    assert fell(result["losses"])
    assert result["accuracy"] > 0.85
    start, end, step = result["start"], result["coefficients"], len(result["losses"]) + 1
    assert abs(end["lr"] / start["lr"] - 1) > 0.1
    beta1 = pytest.approx(min(0.9, step / (step + 100)))  # as the guard gives it to the next step
    assert end == start | {"lr": end["lr"], "beta1": beta1}
    assert "'lr'" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "accuracy"), [("compiled_model", 0.85)])
def test_a_network_learns_and_its_coefficients_move(name, accuracy, example, capsys):
    result = example(name).main()
    assert fell(result["losses"])
    assert result["accuracy"] > accuracy
    assert largest_move(result["coefficients"]) > 1e-3
    assert "beta1" in capsys.readouterr().out


def test_lr_schedulers_set_the_lr_and_coefficients_move(example):
    runs = example("lr_schedulers").main()
    for run in runs.values():
        assert fell(run["losses"])
        assert largest_move(run["coefficients"]) > 1e-3
    cosine, cycle, plateau = (runs[name]["lrs"] for name in ("warmup_then_cosine", "one_cycle", "on_plateau"))
    assert cosine[0] == pytest.approx(5e-4)
    assert cosine[20] == max(cosine) == pytest.approx(5e-3)
    assert cosine[-1] < 1e-5
    assert max(cycle) == pytest.approx(1e-2, rel=1e-3)
    assert set(plateau) < {5e-3 * 0.5**i for i in range(20)}
    assert plateau[-1] < plateau[0]


def test_mixed_precision_learns_and_an_overflow_is_skipped(example):
    runs = example("amp").main()
    for run in runs.values():
        assert fell(run["losses"])
        assert largest_move(run["coefficients"]) > 1e-3
    assert runs["bf16"]["skipped"] == 0
    assert 0 < runs["fp16"]["skipped"] < 20


def test_accumulated_micro_batches_make_the_step_of_one_batch(example):
    whole, accumulated = example("gradient_accumulation").main().values()
    assert fell(whole["losses"])
    assert accumulated["losses"] == pytest.approx(whole["losses"], rel=1e-3)
    assert accumulated["coefficients"] == pytest.approx(whole["coefficients"], rel=1e-4)
    assert largest_move(whole["coefficients"]) > 1e-3
    for p, q in zip(whole["parameters"], accumulated["parameters"], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_averages_of_weights_are_means_that_steps_leave_alone(example):
    result = example("weight_averaging").main()
    assert fell(result["losses"])
    assert min(result["scores"].values()) > 0.9
    scheduled = [lr for lr, _ in result["lrs"]]
    assert scheduled[-1] < 0.5 * scheduled[0]
    assert all(applied != lr for lr, applied in result["lrs"])  # the learned factor multiplies the scheduled rate
    averages = [p for name in ("swa", "ema") for p in result[name].parameters()]
    before = [p.detach().clone() for p in averages]
    result["opt"].step()
    assert all(map(torch.equal, averages, before))


def test_the_table_lists_every_example():
    listed = re.findall(r"^\| \[(\w+\.py)\]\((?:\./)?\1\)", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))
