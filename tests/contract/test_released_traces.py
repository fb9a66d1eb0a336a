"""`mada_released` against what the authors' published code computed on prescribed gradients (fp32).

Catches: any change to the rule, to the order of a step (hyper-step before slots and weights), to momentum, clip,
projection, or to the sign and scale of the hypergradient.
"""

import json

import pytest
import torch

from tests.traces import largest_hypergradients, replay

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
    largest = largest_hypergradients(trace)
    for t, (opt, params, expected) in enumerate(replay(trace)):
        assert opt.coefficients() == pytest.approx(expected["coefficients"], rel=1e-5, abs=1e-9), t
        for k, p in params.items():
            # relative to the tensor: single elements cross zero on their way
            reached = torch.tensor(expected["params"][k])
            assert (p.detach() - reached).norm() <= 1e-5 * reached.norm(), (t, k)
        for q, h in opt.hypergradients().items():
            assert abs(h - expected["hypergradient"][q]) <= 1e-4 * largest[q], (t, q)
