"""The recipe for state on the CPU, as the guide has it, trains as the optimizer would without it.

Catches: a program of the page that loses a gradient, or whose model and copy drift apart.
"""

import re
from pathlib import Path

import torch

from mada_optim import AutoMuon, param_groups

PAGE = Path(__file__).parents[2] / "docs/guide/training-loops.md"


def test_the_model_has_the_weights_that_stepping_it_would_give():
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (program,) = (x for x in programs if "host = " in x)
    torch.manual_seed(0)
    names = {}
    exec(program, names)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    opt = AutoMuon(param_groups(model))
    for _ in range(10):
        x = torch.randn(32, 8)
        opt.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        opt.step()
    assert all(map(torch.equal, model.parameters(), (p.cpu() for p in names["model"].parameters())))
    assert all(map(torch.equal, model.parameters(), names["host"].parameters()))
