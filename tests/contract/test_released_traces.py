"""`mada_released` against what the authors' published code computed on prescribed gradients (fp32).

Catches: any change to the rule, to the order of a step (hyper-step before slots and weights), to momentum, clip,
projection, or to the sign and scale of the hypergradient.
"""

import json
import math

import pytest
import torch

from mada_optim import MADA

TRACES = (
    "adam_corner_fixed",
    "betas_learned",
    "avgrad_blend_learned",
    "yogi_blend_learned",
    "all_six_learned",
    "readme_command",
)


@pytest.mark.parametrize("name", TRACES)
def test_released_trace(name, reference):
    trace = json.loads((reference / "reference" / "released_optimizer_traces.json").read_text())[name]
    start = dict(trace["algorithm"]["initial_coefficients"])
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in trace["initial_params"].items()}
    opt = MADA(
        params.values(),
        lr=trace["algorithm"]["lr"],
        eps=trace["algorithm"]["eps"],
        betas=(start.pop("beta1"), start.pop("beta2")),
        hyper_lr=trace["algorithm"]["hyper_lr"],
        hyper_momentum=trace["algorithm"]["hyper_momentum"],
        hyper_start=0,
        hyper_clip=math.inf,  # the published training loop clips, not the optimizer
        rule="mada_released",
        learn="all",
        **start,
    )
    largest = {q: max(abs(step["hypergradient"][q]) for step in trace["steps"]) for q in opt.coefficients()}
    for t, (gradients, expected) in enumerate(zip(trace["gradients"], trace["steps"], strict=True)):
        for k, p in params.items():
            p.grad = torch.tensor(gradients[k])
        opt.step()
        assert opt.coefficients() == pytest.approx(expected["coefficients"], rel=1e-5, abs=1e-9), t
        for k, p in params.items():
            # relative to the tensor: single elements cross zero on their way
            reached = torch.tensor(expected["params"][k])
            assert (p.detach() - reached).norm() <= 1e-5 * reached.norm(), (t, k)
        for q, h in opt.hypergradients().items():
            assert abs(h - expected["hypergradient"][q]) <= 1e-4 * largest[q], (t, q)
