"""A small data set, prepared once, and a configuration that trains on it in a second."""

from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import prepare
from mada_lab.experiments.sweeps import plan
from mada_lab.training.trainer import Trainer


class Silent:
    """Listens to a run, and keeps its rows."""

    def __init__(self):
        self.rows = []

    def step(self, done):
        pass

    def row(self, row):
        self.rows.append(row)


def update(state, loss):
    """Applies the step whose gradients are there."""
    Trainer(state, Silent()).update(loss)


def fitted(config, **values):
    """`config` with these values, without its keys that have no effect beside them."""
    return plan.fitted(config, values)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare("pydoc", folder)
    return folder


@pytest.fixture
def corpus(data_dir) -> Corpus:
    return Corpus.open(data_dir / "pydoc")


@pytest.fixture
def tiny(tmp_path, data_dir) -> TrainConfig:
    """30 steps of a GPT with 1 block of 16 channels, in which the coefficients move."""
    return replace(
        TrainConfig(),
        data_dir=str(data_dir),
        out_dir=str(tmp_path / "run"),
        device="cpu",
        optimizer="mada",
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        batch_size=4,
        dropout=0.1,
        max_iters=30,
        warmup_iters=3,
        hyper_start=5,
        eval_interval=10,
        eval_iters=2,
        log_interval=1,
    )
