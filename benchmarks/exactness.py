"""How exact the library is, in numbers: the errors that the tests bound, measured and printed.

    python -m benchmarks.exactness [TRACES.json]

From the repository root. TRACES.json holds the traces of the published optimizer; without it that part is left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mada_optim import MADA, Adam, AMSGrad
from mada_optim.learning.hypergradient import sensitivity
from mada_optim.rules import RULES
from tests.contract import test_corners as corners
from tests.gradient import test_sensitivity as gradients
from tests.traces import largest_hypergradients, replay


def trace_errors(trace: dict[str, Any]) -> tuple[float, float, float]:
    """Worst relative errors of coefficients and parameters, and of hypergradients against their largest magnitude."""
    largest, of_q, of_p, of_h = largest_hypergradients(trace), 0.0, 0.0, 0.0
    for opt, params, expected in replay(trace):
        reached = {k: torch.tensor(expected["params"][k]) for k in params}
        of_p = max(of_p, *(((p.detach() - reached[k]).norm() / reached[k].norm()).item() for k, p in params.items()))
        pairs = [(x, expected["coefficients"][q]) for q, x in opt.coefficients().items()]
        of_q = max(of_q, *(abs(x - y) / abs(y) for x, y in pairs if y))
        of_h = max(of_h, *(abs(h - expected["hypergradient"][q]) / largest[q] for q, h in opt.hypergradients().items()))
    return of_q, of_p, of_h


def sensitivity_error(rule: str, q: str) -> float:
    """Worst relative error of the vector-Jacobian product against the difference quotient, at t = 1, 2 and 50."""
    worst = 0.0
    for step in (1, 2, 50):
        torch.manual_seed(0)
        c, g, s, t = gradients.problem(rule, gradients.SPREAD, step)
        cotangent = torch.randn(24, dtype=torch.float64)
        exact = sensitivity(RULES[rule], [q], c, g, s, t, cotangent)[0].item()
        numeric = gradients.central_difference(rule, q, c, g, s, t, cotangent)
        worst = max(worst, abs(exact - numeric) / max(abs(numeric), 1e-3))
    return worst


def corner_error(name: str) -> float:
    """Worst error of a displacement over 50 steps, relative to it, against the transcribed oracle."""
    torch.manual_seed(0)
    cls, options, update = corners.TRANSCRIBED[name]
    p, gs = corners.start(), corners.gradients()
    origin = theta = p.detach().clone()
    opt, worst = cls([p], lr=corners.LR, eps=corners.EPS, learn=(), **options), 0.0
    for t, g in enumerate(gs, 1):
        p.grad = g.clone()
        opt.step()
        theta = theta - corners.LR * update(gs[:t])
        worst = max(worst, ((p.detach() - theta).norm() / (theta - origin).norm()).item())
    return worst


def torch_error(cls: Any, weight_decay: float, **options: bool) -> float:
    """The same against torch.optim.AdamW."""
    torch.manual_seed(0)
    p = corners.start()
    q, origin, worst = torch.nn.Parameter(p.detach().clone()), p.detach().clone(), 0.0
    ours = cls([p], lr=corners.LR, weight_decay=weight_decay, learn=(), **corners.ADAM)
    theirs = torch.optim.AdamW([q], lr=corners.LR, weight_decay=weight_decay, **corners.ADAM, **options)
    for g in corners.gradients():
        p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        worst = max(worst, ((p - q).norm() / (q - origin).norm()).item())
    return worst


def main() -> None:
    """Prints the three tables."""
    for path in sys.argv[1:]:
        print("published traces: coefficients and parameters (relative), hypergradients (of their largest)")
        for name, trace in json.loads(Path(path).read_text()).items():
            print("  {:24} {:.1e} {:.1e} {:.1e}".format(name, *trace_errors(trace)))
    print("vector-Jacobian product against central differences, float64, worst of t = 1, 2, 50 (relative)")
    for name, rule in RULES.items():
        if name in ("mada_released", "mada_published"):  # their quotients need vbar held: tests/gradient does that
            continue
        errors = {q: sensitivity_error(name, q) for q in rule.coefficient_names()}
        print(f"  {name:24} " + "  ".join(f"{q} {error:.1e}" for q, error in errors.items()))
    print("corners against oracles, float64, 50 steps, worst error of the displacement (relative)")
    for name in corners.TRANSCRIBED:
        print(f"  {name:24} {corner_error(name):.1e}")
    for name, cls, options in (("Adam", Adam, {}), ("MADA at Adam", MADA, {}), ("AMSGrad", AMSGrad, {"amsgrad": True})):
        errors = [torch_error(cls, decay, **options) for decay in (0.0, 0.1)]
        print(f"  {name + ' (torch)':24} {errors[0]:.1e}, with decay {errors[1]:.1e}")


if __name__ == "__main__":
    main()
