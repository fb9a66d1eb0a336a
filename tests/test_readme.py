"""The README's program runs as it stands, and its shell commands name what exists.

Catches: a README that has drifted from the library.
"""

import re
import subprocess
import sys
from pathlib import Path

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


def test_presets_that_the_readme_names_exist():
    import mada_optim

    for name in (
        "MADA",
        "AutoMuon",
        "AutoAdam",
        "HyperAdam",
        "Adam",
        "AMSGrad",
        "AVGrad",
        "Yogi",
        "Adan",
        "Lion",
        "PAPER_GPT2",
    ):
        assert name in README
        assert hasattr(mada_optim, name)
