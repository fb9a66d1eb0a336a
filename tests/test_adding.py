"""The lists of files in docs/inside/architecture.md are true: a toy of each kind is added to a copy by them alone.

Catches: a list that has grown silently; a rule, coefficient, learner and so on that needs another file too.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from mada_lab.data.prepare import prepare
from tests.rooms import PAGE, ROOT

SMALL = "--n_layer=1 --n_head=1 --n_embd=16 --block_size=8 --batch_size=2 --max_iters=3 --eval_iters=1".split()


class Copy:
    """A copy of the sources, and the files that were changed in it."""

    def __init__(self, folder):
        self.folder, self.touched = folder, set()
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, path, text):
        assert not (self.folder / path).exists()
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(textwrap.dedent(text))
        self.touched.add(path)

    def put(self, path, before, text):
        """Puts `text` in front of the first `before`."""
        source = (self.folder / path).read_text()
        assert before in source, f"{path} has no {before!r}"
        (self.folder / path).write_text(source.replace(before, text + before, 1))
        self.touched.add(path)

    def run(self, *command):
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        made = subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def train(self, *words, data_dir="data"):
        """The coefficients in the last row of a short run."""
        self.run("-m", "mada_lab", "train", *SMALL, "--out_dir=run", f"--data_dir={data_dir}", *words)
        rows = [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        return [row["coefficients"] for row in rows if "coefficients" in row][-1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the default data set is."""
    folder = tmp_path_factory.mktemp("data")
    prepare("pydoc", folder)
    return folder


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def listed(thing, name):
    """The files that the page lists for a thing, NAME replaced."""
    (row,) = re.findall(rf"^\| {thing} \| (.*?) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {f"src/{path}" for path in re.findall(r"`([\w/.]+)`", row.replace("NAME", name))}


RULE = """
    from mada_optim.rule import UNIT, Coefficient, Rule

    KAPPA = Coefficient("kappa", r"\\\\kappa", UNIT, 0.5, meaning="Scale of the update.")


    def update(c, g, s, t):
        return c["kappa"] * g, {}


    RULE = Rule("scaled", update, (KAPPA,), ())
"""


def test_a_rule(copy, data_dir):
    copy.add("src/mada_optim/rules/scaled.py", RULE)
    copy.put("src/mada_optim/rules/__init__.py", "sgd adagrad", "scaled ")
    words = "--optimizer=scaled --kappa=0.25 --learn=kappa --hyper_start=0".split()
    assert copy.train(*words, data_dir=data_dir)["kappa"] != 0.25
    assert copy.touched == listed("a rule", "scaled")


def test_a_coefficient(copy, data_dir):
    path = "src/mada_optim/rules/sgd.py"
    meaning = 'KAPPA = Coefficient("kappa", r"\\kappa", UNIT, 1.0, meaning="Scale of the update.")\n'
    copy.put(path, "\n\ndef update", meaning)
    source = (copy.folder / path).read_text()
    source = source.replace("    return u, {", '    return c["kappa"] * u, {')
    source = source.replace("NESTEROV), (", "NESTEROV, KAPPA), (")
    (copy.folder / path).write_text(source)
    words = "--optimizer=sgd --kappa=0.25 --learn=kappa --hyper_start=50".split()
    assert copy.train(*words, data_dir=data_dir)["kappa"] == 0.25
    assert "Scale of the update" in copy.run("-m", "mada_lab", "train", "--help")
    assert "kappa" in copy.run("-m", "mada_optim.describe", "sgd")
    assert copy.touched == listed("a coefficient", "sgd")


LEARNER = """
    from dataclasses import dataclass

    import torch

    from mada_optim.learning.learner import Learner


    @dataclass(frozen=True)
    class SignStep(Learner):
        size: float = 0.01
        names: str = "all"

        def init(self, q, info):
            return {}

        def step(self, q, h, memory, info):
            return q - self.size * torch.sign(h), memory
"""


def test_a_learner(copy):
    copy.add("src/mada_optim/learning/sign_step.py", LEARNER)
    line = "from mada_optim.learning.sign_step import SignStep\n"
    copy.put("src/mada_optim/__init__.py", "from mada_optim.learning.learner", line)
    program = """
        import torch
        from mada_optim import MADA, SignStep
        p = torch.nn.Parameter(torch.ones(3))
        opt = MADA([p], learn=SignStep(names=("beta1",)))
        for _ in range(4):
            opt.zero_grad(); (p ** 2).sum().backward(); opt.step()
        print(opt.coefficients()["beta1"])
    """
    assert float(copy.run("-c", textwrap.dedent(program))) != pytest.approx(0.9)
    assert copy.touched == listed("a learner", "sign_step")


def test_a_data_set(copy):
    entry = '    "topics": TextSet(source=PythonTopics(), tokenizers=("char",), cut=last_tenth),\n'
    copy.put("src/mada_lab/data/catalog.py", '    "cifar10": ImageSet(', entry)
    copy.run("-m", "mada_lab", "data", "prepare", "topics")
    assert copy.train("--dataset=topics")
    assert copy.touched == listed("a data set", "topics")  # and its section in docs/lab/data.md, which has a test


EXPERIMENT = """
    from mada_lab.config.keys import TrainConfig


    def defaults(key: str) -> object:
        return getattr(TrainConfig(), key)
"""
COMMAND = """
    from mada_lab.config.arguments import Arguments


    def arguments() -> Arguments:
        return Arguments("ask", "Print the default of a key.", "mada-lab ask seed", {"KEY": "A key."})


    def run(words: list[str]) -> None:
        given = arguments().read(words)
        from mada_lab.experiments.ask import defaults

        print(defaults(given.places[0]))
"""


def test_an_experiment(copy):
    copy.add("src/mada_lab/experiments/ask.py", EXPERIMENT)
    copy.add("src/mada_lab/cli/ask.py", COMMAND)
    copy.put("src/mada_lab/cli/__init__.py", '        "compare": ', '        "ask": "print the default of a key",\n')
    assert copy.run("-m", "mada_lab", "ask", "seed") == "1337\n"
    assert "print the default of a key" in copy.run("-m", "mada_lab", "--help")
    assert copy.touched == listed("an experiment", "ask")


ENGINE = """
    from mada_optim.engines.eager import Eager


    class Plain(Eager):
        name = "plain"
"""


def test_an_engine(copy):
    copy.add("src/mada_optim/engines/plain/engine.py", ENGINE)
    copy.put(
        "src/mada_optim/engines/choice.py",
        "from mada_optim.engines.program",
        "from mada_optim.engines.plain.engine import Plain\n",
    )
    branch = '    if engine == "plain":\n        return Plain()\n'
    copy.put("src/mada_optim/engines/choice.py", "    if program.state_dtype not in", branch)
    copy.put("src/mada_optim/checks.py", '"eager")', '"plain", ')
    program = """
        import torch
        from mada_optim import MADA
        p = torch.nn.Parameter(torch.ones(3))
        opt = MADA([p], engine="plain")
        (p ** 2).sum().backward(); opt.step()
        print(opt.engine)
    """
    assert copy.run("-c", textwrap.dedent(program)) == "plain\n"
    assert copy.touched == listed("an engine", "plain")
