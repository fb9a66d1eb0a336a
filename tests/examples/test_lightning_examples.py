"""Lightning: the Trainer with resumes, also of manual optimization, and Fabric.

Catches: a step whose closure is not run first, coefficients that a checkpoint loses or that never reach the logger.
"""

import csv

import pytest
import torch

from tests.examples.conftest import fell, largest_move

COEFFICIENTS = {f"mada/{q}" for q in ("beta1", "beta2", "beta3", "rho", "c", "gamma")}

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),  # advice on speed
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning"),  # Lightning's
]


@pytest.fixture(scope="module")
def results():
    return {}


@pytest.fixture
def fitted(example, results):
    """What the example gives; it runs once for this file."""
    if not results:
        results.update(example("lightning_trainer").main())
    return results


def test_lightning_trains_and_logs_coefficients(fitted):
    rows = list(csv.DictReader(fitted["log"].splitlines()))
    assert rows[0].keys() >= COEFFICIENTS
    assert len(rows) == 8  # every 12 of 96 steps
    assert all(row["loss"] and row["mada/gamma"] for row in rows)
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    (optimizer,) = fitted["trainer"].optimizers
    assert largest_move(optimizer.coefficients()) > 1e-3
    for q, x in optimizer.coefficients().items():
        if f"mada/{q}" in COEFFICIENTS:
            assert float(rows[-1][f"mada/{q}"]) == pytest.approx(x, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["resumed", "by_hand"])
def test_a_resumed_fit_goes_on_bit_for_bit_by_automatic_and_by_manual_optimization(fitted, name):
    for p, q in zip(fitted["module"].parameters(), fitted[name].parameters(), strict=True):
        assert torch.equal(p, q)


def test_fabric_trains_and_goes_on_bit_for_bit(example):
    result = example("fabric_loop").main()
    run, resumed = result["run"], result["resumed"]
    assert fell(result["losses"])
    assert largest_move(run["opt"].coefficients()) > 1e-3
    assert run["opt"].coefficients() == resumed["opt"].coefficients()
    for p, q in zip(run["model"].parameters(), resumed["model"].parameters(), strict=True):
        assert torch.equal(p, q)
