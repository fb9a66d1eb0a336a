"""Keys that declarations of the library give: a new coefficient or option is added in a copy of the source."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mada_lab.config import derived
from mada_lab.config.declarations import Key, Resume, Topic, configuration, declarations, meanings, optimizer_keys
from mada_lab.config.keys import TrainConfig, VisionConfig
from mada_optim import HyperSGD, LearnedLR
from mada_optim.learning.options import options_of
from mada_optim.rules import RULES

SRC = Path(__file__).parents[2] / "src"

TOY = '''
"""A mix of the gradient and its sign."""

import torch

from mada_optim.rule import UNIT, Coefficient, Rule

KAPPA = Coefficient("kappa", r"\\\\kappa", UNIT, 1.0, meaning="Mix: 1 is the gradient, 0 its sign.")


def update(c, g, s, t):
    return c["kappa"] * g + (1 - c["kappa"]) * torch.sign(g), {}


RULE = Rule("toy", update, (KAPPA,), ())
'''

#: Trains two steps with the coefficient learned, from a file and the command line, and asks for help and a resume.
NEW_COEFFICIENT = """
import json, pathlib
from mada_lab import cli
from mada_lab.errors import CheckpointError, ConfigError

pathlib.Path("toy.toml").write_text('optimizer = "toy"\\nkappa = 0.5\\nhyper_start = 0\\n')
size = "--out_dir=out --n_layer=1 --n_head=1 --n_embd=8 --block_size=8 --eval_iters=1 --batch_size=2".split()
words = ["train", "toy.toml", *size, "--max_iters=2", "--learn=kappa", "--log_interval=1", "--data_dir=" + DATA]
words.append("--out_dir=out")
cli.run(words)
rows = [json.loads(line) for line in pathlib.Path("out/metrics.jsonl").read_text().splitlines()]
values = [row["coefficients"]["kappa"] for row in rows]
assert values[0] == 0.5 and values[-1] not in (0.5, 1.0), values
refused = {"--kappa=0.4": "resume, key kappa: expected 0.5", "--kappa=2": "kappa: expected a number in [0, 1]"}
for change, message in refused.items():
    try:
        cli.run([*words, "--init_from=resume", change])
    except (CheckpointError, ConfigError) as error:
        assert message in str(error), error
    else:
        raise AssertionError(change)
try:
    cli.run(["train", "--optimizer=adamw", "--kappa=0.5"])
except ConfigError as error:
    assert "in key kappa: expected one of the keys that it has" in str(error), error
try:
    cli.run(["train", "--help"])
except SystemExit:
    pass
"""

NEW_OPTION = """
from mada_lab.config import parsing
from mada_lab.optimizers import catalog
from torch import nn

config = parsing.load(["--optimizer=mada", "--hyper_wobble=0.25"])
(learner,) = catalog.build(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), config).learners
assert learner.wobble == 0.25
try:
    parsing.load(["--help"])
except SystemExit:
    pass
"""


@pytest.fixture
def source(tmp_path):
    """A copy of the source that a test may change."""
    return shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))


def ran(source, code):
    """What `code` prints, with the package in `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source.parent, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_coefficient_of_a_new_rule_is_a_key(source, data_dir):
    (source / "mada_optim" / "rules" / "toy.py").write_text(TOY)
    changed(source / "mada_optim" / "rules" / "__init__.py", '"sgd adagrad', '"toy sgd adagrad')
    shown = ran(source, f"DATA = {str(data_dir)!r}\n{NEW_COEFFICIENT}")
    assert "--kappa" in shown
    assert "Mix: 1 is the gradient, 0 its sign." in shown


def test_an_option_of_a_learner_is_a_key(source):
    file = source / "mada_optim" / "learning" / "hyper_sgd.py"
    changed(file, "    rebound: Limit\n", "    rebound: Limit\n    wobble: Limit\n")
    changed(file, "rebound: Limit = math.inf,\n", "rebound: Limit = math.inf,\n        wobble: Limit = 0.5,\n")
    changed(file, "        scope: The", "        wobble: How far it wobbles.\n        scope: The")
    shown = " ".join(ran(source, NEW_OPTION).replace("│", " ").split())
    assert "--hyper-wobble" in shown or "--hyper_wobble" in shown
    assert "How far it wobbles. None: 0.5 (HyperSGD)." in shown


def test_every_coefficient_has_a_key_of_the_optimizer():
    names = {q.name for rule in RULES.values() for q in rule.coefficients}
    declared = declarations(TrainConfig)
    assert all(name in optimizer_keys(TrainConfig) and declared[name].resume is Resume.FIXED for name in names)


def test_every_number_of_a_learner_is_set_by_one_key():
    options = [x for learner in (HyperSGD, LearnedLR) for x, option in options_of(learner).items() if option.interval]
    for option in options:
        keys = [name for name, x in declarations(TrainConfig).items() if option in x.of_learner]
        assert keys == (["hyper_lr", "hyper_lr_factor"] if option in ("lr", "rate") else keys[:1]) != []


@pytest.mark.parametrize("kind", [TrainConfig, VisionConfig])
def test_every_key_has_a_meaning(kind):
    texts = meanings(kind)
    assert texts.keys() == declarations(kind).keys()
    assert all(texts.values())
    assert texts["rho"].startswith(next(q.meaning for q in RULES["mada"].coefficients if q.name == "rho"))


def test_a_coefficient_with_the_name_of_another_key_is_refused():
    @configuration
    class Taken:
        gamma: float = Key(Topic.MODEL, Resume.FIXED, 1.0)

    with pytest.raises(TypeError, match="gamma: expected a name that no other key has"):
        derived.keys_beside(Taken)
