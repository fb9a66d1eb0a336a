"""Descriptions say what the rules compute, and the pages in docs/reference/rules are those descriptions.

The LaTeX itself is read back by an independent grammar (`tests.latex`) and evaluated in float64 against the rule, so a
wrong sign, order, subscript, pair of parentheses or name fails here. Also caught: a stale page, a formula that a
renderer or GitHub refuses, a corner or an equality that does not hold, bytes that the optimizer's state does not have.
"""

import functools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.mathtext import MathTextParser

from mada_optim import HyperOptimizer
from mada_optim.describe import describe
from mada_optim.describe.__main__ import main
from mada_optim.describe.corners import correspondence
from mada_optim.describe.graphs import traced
from mada_optim.describe.pages import COMMAND, all_pages, page
from mada_optim.describe.symbols import at, symbol
from mada_optim.rule import UNIT, Coefficient, Rule, Slot
from mada_optim.rules import RULES
from tests.latex import evaluate_lines
from tests.problems import slots_at_0

FOLDER = Path(__file__).parents[1] / "docs" / "reference" / "rules"
Q, R = Coefficient("q", "q", UNIT, 0.5), Coefficient("r", "r", UNIT, 0.5)


described = functools.cache(describe)


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def options(rule):
    """A value inside the domain for whatever a rule takes, away from all corners and defaults."""
    names = (*rule.coefficient_names(), *rule.hyper_parameters)
    return {name: number(0.3 + 0.4 * i / len(names)) for i, name in enumerate(names)}


def trajectory(rule, c, zeros=True):
    """(g, slots before, t, update, slots after) for some steps, from gradients that are sometimes 0, or never."""
    steps = 4
    g = torch.randn(steps, 7, dtype=torch.float64)
    if zeros:
        g[1, 2:4], g[:, 0] = 0.0, 0.0
    slots = slots_at_0(rule, g[0])
    for t in range(1, steps + 1):
        u, after = rule.update(c, g[t - 1], slots, number(float(t)))
        yield g[t - 1], slots, number(float(t)), u, after
        slots = after


def assert_says_the_rule(description, equations, rule, c, kept, zeros=True):
    """The equations, from step to step, give the update and the `kept` slots of the rule."""
    letters = {x.name: x.symbol for x in (*description.coefficients, *description.hyper_parameters)}
    slots = [slot for slot in rule.slots if slot.name in kept]
    for g, before, t, u, after in trajectory(rule, c, zeros):
        given = {letters[name]: x for name, x in c.items()} | {at(x.symbol, "t-1"): before[x.name] for x in slots}
        values = evaluate_lines(equations, {**given, "g_t": g, "t": t})
        torch.testing.assert_close(values["u_t"].expand_as(u), u, rtol=1e-12, atol=1e-15)
        for slot in slots:
            found = values[at(slot.symbol, "t")]
            torch.testing.assert_close(found.expand_as(after[slot.name]), after[slot.name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_the_formulas_are_the_rule(name):
    d, rule = described(name), RULES[name]
    assert not d.untraced
    assert_says_the_rule(d, d.equations, rule, options(rule), rule.slot_names())


@pytest.mark.parametrize("name", RULES)
def test_what_is_left_at_a_corner_is_the_rule(name):
    d, rule = described(name), RULES[name]
    assert len(d.corners) >= len(d.coefficients)
    for corner in d.corners:
        kept = set(rule.slot_names()) - set(corner.slots_gone)
        c = {**options(rule), corner.name: number(corner.value)}
        assert_says_the_rule(d, corner.equations, rule, c, kept)
        assert set(corner.terms_gone).isdisjoint(x.name for x in corner.equations)


def mul(x, y):
    return x * y


OPERATIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": mul,
    "div": lambda x, y: x / (0.3 + abs(y)),
    "ratio": lambda x, y: x / y,
    "neg": lambda x, _: -x,
    "square": lambda x, _: x**2,
    "power": lambda x, y: (0.5 + x**2) ** (y / (1 + y**2)),
    "sqrt": lambda x, _: torch.sqrt(x**2 + 0.25),
    "sign": lambda x, y: torch.sign(x - 0.1) * y,
    "less": lambda x, y: torch.where(x < y, x * 2e-5, -3.5 * y),
    "method": lambda x, y: x.where(y >= 0.25, y.exp()),
    "max": lambda x, y: torch.maximum(x, y),
    "clamp": lambda x, _: torch.clamp(x, -0.5, max=0.7),
}


def grown(generator, leaves, depth):
    """A random expression in the operations above."""
    if depth == 0:
        return generator.choice(leaves)
    x, y = (grown(generator, leaves, depth - generator.randint(1, 2) if depth > 1 else 0) for _ in range(2))
    return OPERATIONS[generator.choice(list(OPERATIONS))](x, y)


def random_update(seed, c, g, s, t):
    generator = random.Random(seed)
    m = grown(generator, [g, s["m"], c["q"]], 2)
    shared = grown(generator, [g, m, c["r"]], 2)
    return shared * grown(generator, [shared, g, m, t + 1.5], 4), {"m": m}


@pytest.mark.parametrize("seed", range(40))
def test_formulas_of_random_rules(seed):
    """Whatever stands inside of whatever: parentheses, fractions in fractions, exponents, cases in products."""
    rule = Rule("random", functools.partial(random_update, seed), (Q, R), (Slot("m", "m", init=0.7),))
    d = describe(rule)
    assert_says_the_rule(d, d.equations, rule, options(rule), ("m",), zeros=False)


@pytest.mark.parametrize("name", RULES)
def test_formulas_can_be_typeset(name):
    r"""By matplotlib's mathtext, which lacks only environments; and without \operatorname, which GitHub refuses."""
    parser = MathTextParser("path")
    d = described(name)
    for line in map(str, (*d.equations, *(x for corner in d.corners for x in corner.equations))):
        assert line.count("{") == line.count("}")
        assert r"\operatorname" not in line
        rows = line.replace(r"\left(\begin{cases}", "(").replace(r"\end{cases}\right)", ")")
        rows = re.sub(r"\\(begin|end)\{cases\}|&", "", rows).replace(r"\\", ";")
        parser.parse(f"${rows}$")


def test_names_become_letters():
    names = {"m": "m", "vhat": r"\hat v", "beta1": r"\beta_1", "eps": r"\epsilon", "mu_next": r"\mu^{\text{next}}"}
    names |= {"square": r"\text{square}", "lr_decay": r"\text{lr decay}", "wbar12": r"\bar w_{12}"}
    assert {name: symbol(name) for name in names} == names
    assert at("w_1", "t") == "w_{1,t}"
    assert at("w_1", "t-1") == "w_{1,t-1}"
    assert at(r"v^{\max}", "t-1") == r"v^{\max}_{t-1}"
    assert (at("g_{t-1}", "t-1"), at("g_{t-1}", "t")) == ("g_{t-1}", "g_t")


def test_adam_reads_like_its_paper():
    assert [str(x) for x in describe("adam").equations] == [
        r"m_t = \beta_1 \, m_{t-1} + (1 - \beta_1) \, g_t",
        r"v_t = \beta_2 \, v_{t-1} + (1 - \beta_2) \, g_t^2",
        r"w_{1,t} = \beta_1 \, w_{1,t-1} + (1 - \beta_1)",
        r"w_{2,t} = \beta_2 \, w_{2,t-1} + (1 - \beta_2)",
        r"u_t = \frac{m_t / w_{1,t}}{\sqrt{v_t / w_{2,t}} + \epsilon}",
    ]


OF_MADA = {"adam", "avgrad", "yogi", "adan", "lion"}
CONTAINED = {"mada": OF_MADA, "mada_matrix": {*OF_MADA, "mada"}, "adan": {"adam"}, "normuon": {"muon"}}


@pytest.mark.parametrize("name", RULES)
def test_rules_in_rules(name):
    """Those that the design names, no others; and each gives the other rule's updates."""
    d, rule = described(name), RULES[name]
    assert {x.rule for x in d.equals} == CONTAINED.get(name, set())
    for x in d.equals:
        other = RULES[x.rule]
        c = {**options(rule), **{q: number(value) for q, value in x.fixed.items()}}
        theirs = {x.renamed.get(q, q): value for q, value in c.items() if q in x.renamed or q not in x.renamed.values()}
        torch.manual_seed(1)
        ours = [u for *_, u, _ in trajectory(rule, c)]
        torch.manual_seed(1)
        for mine, (*_, u, _) in zip(ours, trajectory(other, theirs), strict=True):
            torch.testing.assert_close(mine, u, rtol=1e-12, atol=1e-15)
        assert len(x.slots) == len(other.slots)


def test_what_is_needed_twice_gets_a_line_and_a_letter_of_its_own():
    def update(c, g, s, t):
        x1 = g - s["m"]
        u = (lambda y: y * torch.sign(y))(c["q"] * g + x1)
        x1 = x1 / t
        return u + x1 / (1 + x1**2), {"m": s["m"] + g}

    d = describe(Rule("mine", update, (Q,), (Slot("m", "m"),)))
    assert [x.left for x in d.equations] == ["x_{2,t}", "x_{1,t}", "u_t", "m_t"]
    assert_says_the_rule(d, d.equations, Rule("mine", update, (Q,), (Slot("m", "m"),)), {"q": number(0.4)}, ("m",))

    def two_of_a_letter(c, g, s, t):
        eps, epsilon = g + c["q"], g - c["q"]
        return eps * torch.sign(epsilon), {}

    rule = Rule("mine", two_of_a_letter, (Q,), ())
    assert_says_the_rule(describe(rule), describe(rule).equations, rule, {"q": number(0.4)}, ())


def test_parentheses_and_exponents_that_chance_may_miss():
    def update(c, g, s, t):
        mu_next = c["q"] + g**2
        quotient = (g / (mu_next * (c["r"] + 1)) - g / (g / t) / (t * t)) / (2 + mu_next**2)
        return quotient - (g - (mu_next - 3) * -g) + (-g) ** 2 * 2, {}

    rule = Rule("mine", update, (Q, R), ())
    lines = describe(rule).equations
    assert_says_the_rule(describe(rule), lines, rule, options(rule), (), zeros=False)
    assert r"(\mu^{\text{next}}_t)^2" in lines[1].right


def test_an_equality_needs_the_same_start_and_the_same_operations():
    adam = RULES["adam"]
    copy = replace(adam, name="mine")
    assert {(x.rule, *x.fixed) for x in describe(copy).equals} == {("adam",)}
    later = replace(copy, slots=(replace(adam.slots[0], init=1.0), *adam.slots[1:]))
    assert describe(later).equals == ()
    swapped = replace(copy, update=lambda c, g, s, t: adam.update({**c, "beta2": c["beta1"]}, g, s, t))
    assert describe(swapped).equals == ()
    one = Rule("one", lambda c, g, s, t: (c["q"] * g + c["q"] * t, {}), (Q, R), ())
    two = Rule("two", lambda c, g, s, t: (c["q"] * g + c["r"] * t, {}), (Q, R), ())
    assert correspondence(traced(one), traced(one)) == {}
    assert correspondence(traced(one), traced(two)) is None
    assert correspondence(traced(two), traced(one)) is None


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_bytes_are_those_of_the_state(name, learning):
    d, rule = described(name), RULES[name]
    inside = {q.name: 0.6 for q in rule.coefficients}
    learn = ("all" if rule.coefficients else "lr") if learning else ()

    def total(size):
        group = {"params": [torch.nn.Parameter(torch.zeros(2, size))], "matrix": True}
        return HyperOptimizer([group], rule=rule, learn=learn, engine="eager", **inside).memory().total

    each = (total(30) - total(10)) / 40
    assert d.bytes_per_parameter(learning) == each
    rows = 2 * 4 * sum(slot.per_row for slot in rule.slots)
    assert d.bytes_per_tensor(learning) == total(10) - 20 * each - rows


def test_pages_are_up_to_date():
    expected = all_pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    assert expected.keys() == {f"{name}.md" for name in RULES} | {"README.md"}
    assert found.keys() == expected.keys(), f"docs/reference/rules: delete what has no rule, and run {COMMAND}"
    stale = [name for name in expected if found[name] != expected[name]]
    assert not stale, f"stale: {', '.join(stale)}; run {COMMAND}"


@pytest.mark.parametrize("name", RULES)
def test_the_program_of_a_page_runs(name):
    (program,) = re.findall(r"```python\n(.*?)```", page(described(name)), flags=re.DOTALL)
    scope = {"model": torch.nn.Linear(2, 2)}
    exec(program, scope)
    assert scope["opt"].rule.name == name


def test_the_command(tmp_path, capsys):
    main(["adam", "--write", str(tmp_path / "pages")])
    assert "# adam" in capsys.readouterr().out
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "pages").iterdir()} == all_pages()
    for arguments, said in ((["adm"], "did you mean 'adam'?"), ([], "--write docs/reference/rules")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert said in capsys.readouterr().err


def branching(c, g, s, t):
    """Steps by the sign of the sum.

    Not a formula.
    """
    return (g if g.sum() > 0 else -g), {"m": s["m"]}


def test_a_rule_that_cannot_be_traced_is_described_in_its_own_words():
    for update in (branching, lambda c, g, s, t: (g / len(g), s), lambda c, g, s, t: (g * float(t), s)):
        d = describe(Rule("mine", update, (Q,), (Slot("m", "m"),), {"eps": 1e-8}))
        assert d.untraced
        assert not d.equations
        assert not d.corners
        assert f"({d.untraced})" in page(d)
        assert r"| $\epsilon$ | `eps` | 1e-08 |" in page(d)
    mine = page(describe(Rule("mine", branching, (Q,), (Slot("m", "m"),))))
    assert "# mine\n\nSteps by the sign of the sum.\n\nNot a formula." in mine


def test_a_mistake_in_a_rule_is_not_taken_for_branching():
    with pytest.raises(KeyError, match="beta7"):
        describe(Rule("mine", lambda c, g, s, t: (c["beta7"] * g, {}), (), ()))
    with pytest.raises(ValueError, match="did you mean 'lion'"):
        describe("lionn")


def test_whatever_a_rule_calls_has_some_formula():
    def update(c, g, s, t):
        both = torch.stack([g, s["m"]]).sum(0, keepdim=False)
        return both @ both.mT, {"m": both}

    d = describe(Rule("mine", update, (), (Slot("m", "m"),)))
    assert [str(x) for x in d.equations] == [
        r"m_t = \text{sum}(\text{stack}((g_t, m_{t-1})), 0, \text{keepdim} = \text{False})",
        r"u_t = m_t \, m_t^\top",
    ]
    parser = MathTextParser("path")
    for x in d.equations:
        parser.parse(f"${x}$")
