"""torch's default device is the script's business: a step on the CPU is the same whatever it is.

Catches: a tensor that a step makes without saying where. In a process of its own, which such a tensor may end.
"""

import subprocess
import sys

import pytest

STEPS_UNDER_ANOTHER_DEFAULT = """
import itertools
import torch
from mada_optim import MADA, AutoMuon, HyperSGD, LearnedLR

WAYS = [(MADA, HyperSGD("all", start=0)), (AutoMuon, LearnedLR(start=0))]
for engine, (make, learner) in itertools.product(("eager", "auto"), WAYS):
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt, twin = (make([x], learn=learner, engine=engine) for x in (p, q))
    for g in torch.randn(4, 3):
        p.grad, q.grad = g.clone(), g.clone()
        twin.step()
        with torch.device("meta"):
            opt.step()
    assert torch.equal(p, q)
"""


@pytest.fixture(autouse=True)
def engine():
    """Both are in the script."""


def test_the_default_device_changes_no_bit():
    """As where a script makes CUDA the default, and offloads an optimizer to the CPU."""
    done = subprocess.run([sys.executable, "-c", STEPS_UNDER_ANOTHER_DEFAULT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
