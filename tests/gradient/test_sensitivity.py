"""The hypergradient's vector-Jacobian product against central differences, in float64, for every rule.

Catches: a derivative cut or doubled anywhere in a rule (an average of ones left out, a `detach`), and a NaN where the
root has no derivative.
"""

import pytest
import torch
from torch import fx

from mada_optim.graph.differentiate import differentiate
from mada_optim.graph.specialize import SLOT, trace
from mada_optim.learning.hypergradient import sensitivity
from mada_optim.rules import RULES
from tests.problems import slots_at_0

EVERY = [(rule, q.name) for rule in RULES for q in RULES[rule].coefficients]
SPREAD = {
    "beta1": 0.87,
    "beta2": 0.93,
    "beta3": 0.4,
    "rho": 0.6,
    "c": 0.7,
    "gamma": 0.8,
    "momentum": 0.8,
    "nesterov": 0.4,
    "alpha": 0.93,
    "centered": 0.3,
    "mu": 0.9,
    "omega": 0.4,
    "nu": 0.3,
}
NEVER = slice(0, 1)  # rows that never have a gradient
LATELY = slice(1, 2)  # rows whose gradient is 0 in the last step only


def gradients(steps):
    g = torch.randn(steps, 8, 3, dtype=torch.float64)
    g[:, NEVER] = 0.0
    g[-1, LATELY] = 0.0
    return g


def scalars(numbers):
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in numbers.items()}


def before_step(rule, c, g, t):
    """The slots at step t-1, from gradients g."""
    s = slots_at_0(RULES[rule], g[0])
    for i in range(1, t):
        _, s = RULES[rule].update(c, g[i - 1], s, torch.tensor(float(i), dtype=torch.float64))
    return s


def problem(rule, values, t):
    c = {**RULES[rule].hyper_parameters, **scalars({q.name: values[q.name] for q in RULES[rule].coefficients})}
    g = gradients(t)
    return c, g[-1], before_step(rule, c, g, t), torch.tensor(float(t), dtype=torch.float64)


def central_difference(rule, q, c, g, s, t, cotangent):
    """Richardson's extrapolation of two central differences: the error falls as h^4, rounding grows as 1/h.

    A rule curves in beta on the scale of 1 - beta, so h is a fiftieth of that, at most 1e-4; of mu, whose
    direction is orthogonalised, a two hundredth.
    """

    def quotient(h):
        ends = [RULES[rule].update({**c, q: c[q] + x}, g, s, t)[0] for x in (h, -h)]
        return (((ends[0] - ends[1]) * cotangent).sum() / (2 * h)).item()

    scale = 0.005 if q == "mu" else 0.02
    h = min(1e-4, scale * (1 - c[q].item())) if q[:4] in ("beta", "alph", "mome", "mu") else 1e-4
    return (4 * quotient(h / 2) - quotient(h)) / 3


def hold_vbar(monkeypatch, rule, c, g, s, t):
    """The authors' code takes vbar as a constant, so its difference quotient must hold vbar at what it is at c."""
    _, after = RULES[rule].update(c, g, s, t)
    monkeypatch.setattr(f"mada_optim.rules.{rule}.stop_gradient", lambda _: after["vbar"])


def check(monkeypatch, rule, q, values, t):
    c, g, s, t = problem(rule, values, t)
    cotangent = torch.randn(8, 3, dtype=torch.float64)
    if rule == "lion":  # at beta1 = 0 the sign of 0 jumps with beta1: there is no derivative to compare
        cotangent[LATELY] = 0.0
    exact = sensitivity(RULES[rule], [q], c, g, s, t, cotangent)[0].item()
    if rule in ("mada_released", "mada_published"):
        hold_vbar(monkeypatch, rule, c, g, s, t)
    assert exact == pytest.approx(central_difference(rule, q, c, g, s, t, cotangent), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("t", [1, 2, 50])
@pytest.mark.parametrize(("rule", "q"), EVERY)
def test_inside_the_interval(monkeypatch, rule, q, t):
    check(monkeypatch, rule, q, SPREAD, t)


@pytest.mark.parametrize("t", [1, 2, 50])
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(("rule", "q"), EVERY)
def test_on_the_bounds(monkeypatch, rule, q, end, t):
    interval = next(x.interval for x in RULES[rule].coefficients if x.name == q)
    check(monkeypatch, rule, q, {**SPREAD, q: getattr(interval, end)}, t)


@pytest.mark.parametrize("rule", RULES)
def test_an_element_that_never_had_a_gradient_has_no_part(rule):
    """v = 0 and g = 0: sqrt has no derivative there, and the hypergradient is 0, not NaN."""
    names = RULES[rule].coefficient_names()
    c, g, s, t = problem(rule, SPREAD, 50)
    cotangent = torch.zeros(8, 3, dtype=torch.float64)
    cotangent[NEVER] = 1.0
    assert torch.equal(sensitivity(RULES[rule], names, c, g, s, t, cotangent)[0], torch.zeros(len(names)).double())


def test_a_rule_that_uses_no_coefficient_has_no_sensitivity():
    c, g, s, t = problem("lion", SPREAD, 2)
    assert sensitivity(RULES["lion"], ["beta2"], c, g, s, t, g)[0].tolist() == [0.0]


def closed_form(rule, c, g, s, t, cotangent):
    """What `differentiate` makes of the rule's graph, run by torch."""
    names, scalar = rule.coefficient_names(), [SLOT + x.name for x in rule.slots if x.scalar]
    graph = differentiate(trace(rule), names, (*names, *rule.hyper_parameters, "t", *scalar))
    given = {**c, **{SLOT + name: x for name, x in s.items()}, "g": g, "t": t, "cotangent": cotangent}
    inputs = [given[x.target] for x in graph.nodes if x.op == "placeholder"]
    derivatives, product = fx.GraphModule({}, graph).forward(*inputs)
    return torch.tensor([float(x) for x in derivatives], dtype=torch.float64), product


@pytest.mark.parametrize("t", [1, 2, 50])
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.pointwise])
def test_the_closed_form_is_the_vector_jacobian_product(rule, t):
    c, g, s, t = problem(rule, SPREAD, t)
    cotangent = torch.randn(8, 3, dtype=torch.float64)
    expected, product = sensitivity(RULES[rule], RULES[rule].coefficient_names(), c, g, s, t, cotangent)
    derivatives, same = closed_form(RULES[rule], c, g, s, t, cotangent)
    torch.testing.assert_close(derivatives, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(same, product, rtol=1e-10, atol=1e-12)
