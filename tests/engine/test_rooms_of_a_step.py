"""A step stays readable: it enters at most 14 files of the library.

The learners move the coefficients, not the parameters: what `Banks.step` calls is not counted, but for its own file.
"""

import inspect
import sys
from pathlib import Path

import pytest
import torch

import mada_optim
from mada_optim import MADA, AutoMuon
from mada_optim.learning.banks import Banks

ROOT = Path(mada_optim.__file__).parent
LIMIT = 14
MAKERS = {
    "MADA": lambda model: MADA(model.named_parameters(), engine="cpu"),
    "AutoMuon": lambda model: AutoMuon(model.named_parameters(), engine="cpu"),
    "eager": lambda model: MADA(model.named_parameters(), engine="eager"),
}


def files_entered(function):
    """The files of the library whose functions `function` calls."""
    files, within = {}, 0
    learners = inspect.unwrap(Banks.step).__code__

    def profile(frame, event, _):
        nonlocal within
        path = Path(frame.f_code.co_filename)
        if event == "call":
            if not within and ROOT in path.parents:
                files.setdefault(str(path.relative_to(ROOT)), frame.f_code.co_qualname)
            within += within > 0 or frame.f_code is learners
        elif event == "return":
            within -= within > 0

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return files


@pytest.mark.kernel
@pytest.mark.parametrize("new_gradients", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_enters_few_files(make, new_gradients):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    opt = make(model)
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
    for _ in range(2):  # state is begun, and values that follow from a program are computed once
        opt.step()
    held = [p.grad for p in model.parameters()]  # so that no new gradient takes their addresses
    for p, g in zip(model.parameters(), held, strict=True):
        if new_gradients:
            p.grad = g.clone()
    files = files_entered(opt.step)
    assert "learning/banks.py" in files
    listed = "\n".join(f"{path}, first by {name}" for path, name in sorted(files.items()))
    assert len(files) <= LIMIT, f"{len(files)} files:\n{listed}"
