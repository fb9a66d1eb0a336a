"""Elements and tensors whose gradient is 0, from the start (an embedding that no batch has) or from some step on.

Catches: 0 / 0 in an update or its derivative, with denormals and with denormals flushed to zero, where a second moment
that decays becomes an exact 0 before its root does; and silent elements that have a say in the coefficients.
`python -m benchmarks.numerics` runs 10,000 steps of each.
"""

import pytest
import torch

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.rules import RULES
from tests.numerics.adversary import ENGINES
from tests.problems import everything, same_bits


@pytest.fixture(params=[False, True], ids=["denormals", "flushed"])
def _denormals(request):
    if request.param and not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush denormals")
    yield
    torch.set_flush_denormal(False)


def optimizer(rule, engine, params, **start):
    learner = HyperSGD(*RULES[rule].coefficient_names(), "lr", momentum=0.5, start=0)
    return HyperOptimizer(params, lr=1e-2, rule=rule, learn=learner, weight_decay=0.1, engine=engine, **start)


def beside_silence(rule, engine, steps, elements, tensors):
    """Coefficients and the five weights that have gradients, beside silent elements of their tensor and others."""
    params = [torch.nn.Parameter(torch.ones(size)) for size in (5 + elements, *(7,) * tensors)]
    opt = optimizer(rule, engine, params)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for p in params:
            p.grad = torch.zeros_like(p)
        params[0].grad[:5] = torch.randn(5, generator=generator)
        opt.step()
    return opt.coefficients(), params[0].detach()[:5], all(x.isfinite().all() for x in everything(opt))


@pytest.mark.parametrize(("engine", "rule"), [x for x in ENGINES if "muon" not in x[1]])  # elements hang together
def test_silent_tensors_and_elements_have_no_say(engine, rule):
    """Tensors not a bit; elements only through the order in which the others are summed."""
    coefficients, weights, _ = beside_silence(rule, engine, 20, elements=0, tensors=0)
    beside_tensors = beside_silence(rule, engine, 20, elements=0, tensors=2)
    assert beside_tensors[0] == coefficients
    assert same_bits([beside_tensors[1]], [weights])
    beside_elements = beside_silence(rule, engine, 20, elements=3, tensors=0)
    assert beside_elements[0] == pytest.approx(coefficients, abs=1e-6)
    assert beside_tensors[2]
    assert beside_elements[2]


def fall_silent(rule, engine, steps, size=1.0):
    """The worst step of a run that has gradients five times, then none: the number of tensors that are not finite."""
    p = torch.nn.Parameter(torch.ones(5))
    start = {"betas": (0.5, 0.501)} if "beta2" in RULES[rule].coefficient_names() else {}
    opt, worst = optimizer(rule, engine, [p], **start), 0
    for step in range(steps):
        p.grad = torch.randn(5) * size * (step < 5)
        opt.step()
        worst = max(worst, sum(not x.isfinite().all() for x in everything(opt)))
    return worst


@pytest.mark.usefixtures("_denormals")
@pytest.mark.parametrize(("engine", "rule"), ENGINES)
def test_moments_decay_to_zero_without_a_nan(engine, rule):
    """From 1e-24 v is 0 after 75 steps."""
    assert fall_silent(rule, engine, 90, size=1e-12) == 0
