"""`make demo` trains three optimizers on one configuration, each by a command that the application takes."""

import re
import shlex
from pathlib import Path

import pytest

from mada_lab.cli.train import require_possible
from mada_lab.config import parsing

ROOT = Path(__file__).parents[2]


def commands():
    """What the target demo runs, without the program's name."""
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    lines = recipe.replace("\\\n", " ").replace("$(DEMO_FLAGS)", "").splitlines()
    return [shlex.split(line.replace("$(LAB)", "")) for line in lines if "$(LAB)" in line]


TRAIN = [words[1:] for words in commands() if words[0] == "train"]


@pytest.fixture
def configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    return {config.optimizer: config for config in map(parsing.load, TRAIN)}


def test_every_command_is_possible(configs, monkeypatch):
    for words, config in zip(TRAIN, configs.values(), strict=True):
        require_possible(config, parsing.request(words).keys)


def test_the_same_network_is_trained_by_three_optimizers_and_all_are_in_the_report(configs):
    assert list(configs) == ["mada", "automuon", "adamw"]
    assert {(x.dataset, x.n_embd, x.max_iters, x.batch_size, x.seed) for x in configs.values()} == {
        ("pydoc", 128, 500, 12, 1337)
    }
    assert configs["mada"].learning_rate == configs["adamw"].learning_rate == 3e-3
    assert configs["automuon"].learning_rate == "auto"
    *_, report = commands()
    assert report[1:4] == [x.out_dir for x in configs.values()]


def test_continuous_integration_shortens_all_of_them():
    script = (ROOT / ".ci" / "run").read_text()
    flags = shlex.split(re.search(r'DEMO_FLAGS="(.*?)"', script).group(1))
    assert (ROOT / "Makefile").read_text().count("$(DEMO_FLAGS)") == len(TRAIN) == 3
    for words in TRAIN:
        assert parsing.load([str(ROOT / words[0]), *words[1:], *flags]).max_iters == 60
