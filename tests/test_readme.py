"""The README's program runs as it stands, and its shell commands name what exists.

Catches: a README that has drifted from the library.
"""

import re
import subprocess
import sys
from pathlib import Path

import mada_optim

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_program_of_the_readme_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(program.strip().splitlines()) <= 16
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    loss = float(re.match(r"loss ([\d.]+)", run.stdout).group(1))
    assert loss < 0.2
    assert "beta1" in run.stdout


def test_configurations_that_the_readme_names_exist():
    paths = re.findall(r"configs/[\w.]+\.toml", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_optimizer_is_named_in_its_guide_and_nothing_else():
    guide = (ROOT / "docs" / "guide" / "choosing.md").read_text()
    called = set(re.findall(r"\b([A-Z]\w+)\(", guide + README)) - {"Linear", "Sequential", "GELU"}
    assert [name for name in called if not hasattr(mada_optim, name)] == []
    optimizers = [name for name in mada_optim.__all__ if is_optimizer(getattr(mada_optim, name))]
    assert len(optimizers) > 10
    assert [name for name in optimizers if not re.search(rf"`{name}\b", guide)] == []


def is_optimizer(x):
    return isinstance(x, type) and issubclass(x, mada_optim.HyperOptimizer) and x is not mada_optim.HyperOptimizer


def test_the_readme_is_short():
    assert len(README.split()) <= 900
