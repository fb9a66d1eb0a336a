"""The types of the library as a user's strict mypy sees them, from the installed package and its py.typed.

Catches: a missing py.typed, a public function without annotations, a decorator that hides a signature, and a type so
wide that a wrong call passes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".mypy_cache"  # with torch in it after `make check`
GOOD = """
import torch
from mada_optim import MADA, AutoMuon, HyperSGD, param_groups

model = torch.nn.Linear(4, 4)
first = AutoMuon(param_groups(model))
opt = MADA(model.named_parameters(), lr=1e-3, learn=HyperSGD("all"))
model(torch.ones(2, 4)).square().mean().backward()
opt.step()
coefficients: dict[str, float] | dict[str, dict[str, float]] = opt.coefficients()
print(first.coefficients(), coefficients)
"""
#: A wrong call in each line, with mypy's code for it.
BAD = """
import torch
from mada_optim import MADA, SGD, AutoMuon, HyperSGD, LearnedLR, param_groups
params = [torch.nn.Parameter(torch.ones(2))]
MADA(params, rho="1")  # arg-type
MADA(params, omega=1.0)  # call-arg
SGD(params, momentum=None)  # arg-type
AutoMuon(params, learn=0.5)  # arg-type
HyperSGD(1.0)  # arg-type
HyperSGD("all", stop="end")  # arg-type
LearnedLR(fall=None)  # arg-type
LearnedLR(1.0, 0.9, 300.0, 0.4, "global", 0.9)  # call-arg
param_groups(params)  # arg-type
MADA(params).coefficient()  # attr-defined
"""


def test_a_users_strict_mypy(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={CACHE}", "good.py", "bad.py"]
    path = os.pathsep.join(x for x in sys.path if x)
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=250, env={**os.environ, "PYTHONPATH": path}
    )
    errors = [(int(line), code) for line, code in re.findall(r"bad\.py:(\d+): error: .*\[([\w-]+)\]", run.stdout)]
    lines = BAD.splitlines()
    assert errors == [(i, x.split("# ")[1]) for i, x in enumerate(lines, 1) if "# " in x], run.stdout + run.stderr
    assert "good.py" not in run.stdout, run.stdout
