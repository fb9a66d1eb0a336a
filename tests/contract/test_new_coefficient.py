"""A coefficient is declared in its rule, and in no other place.

Catches: a list of coefficients that somebody wrote by hand, and a coefficient that nobody can explain.
"""

import copy
from dataclasses import replace

import pytest

from mada_optim import HyperOptimizer, HyperSGD
from mada_optim.describe import describe
from mada_optim.describe.pages import page
from mada_optim.rule import LR, UNIT, Coefficient
from mada_optim.rules import RULES
from tests.problems import everything, parameters, same_bits, train
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

TILT = Coefficient("tilt", r"\tau", UNIT, 0.75, meaning="Share of Adam's update; the rest is the gradient.")


def tilted(c, g, s, t):
    u, after = RULES["adam"].update(c, g, s, t)
    return c["tilt"] * u + (1 - c["tilt"]) * g, after


RULE = replace(RULES["adam"], name="tilted", update=tilted, coefficients=(*RULES["adam"].coefficients, TILT))


def optimizer(params, **options):
    return HyperOptimizer(params, lr=1e-2, rule=RULE, **options)


def test_it_is_a_keyword_an_option_of_a_group_and_refused_outside_of_its_domain():
    params = parameters()
    opt = optimizer([{"params": params[:1]}, {"params": params[1:], "tilt": 0.25}], tilt=0.5)
    assert [float(group["tilt"]) for group in opt.param_groups] == [0.5, 0.25]
    assert optimizer(parameters()).coefficients()["tilt"] == 0.75
    with pytest.raises(ValueError, match=r"tilt=1.5: expected a number in \[0, 1\]"):
        optimizer(parameters(), tilt=1.5)
    with pytest.raises(ValueError, match="did you mean 'tilt'"):
        optimizer(parameters(), tild=0.5)


def test_it_is_learned_with_all_and_its_state_is_saved():
    params = parameters()
    opt = optimizer(params, learn=HyperSGD("all", start=0))
    train(opt, params, range(4))
    assert opt.learned == ("beta1", "beta2", "tilt")
    assert opt.coefficients()["tilt"] != 0.75
    assert opt.hypergradients()["tilt"] != 0.0
    twins = copy.deepcopy(params)
    twin = optimizer(twins, learn=HyperSGD("all", start=0))
    twin.load_state_dict(opt.state_dict())
    for seed in range(4, 8):
        assert same_bits(everything(opt), everything(twin))
        train(opt, params, [seed])
        train(twin, twins, [seed])


def test_its_page_has_its_letter_its_meaning_and_where_terms_fall_away():
    text = page(describe(RULE))
    assert rf"| ${TILT.symbol}$ | `tilt` | {TILT.meaning} | 0.75 | [0, 1] | [0, 1] | 0.1 |" in text
    assert rf"u_t &= {TILT.symbol} \, " in text
    assert "`tilt=1`" in text
    assert "| [adam](adam.md) | `tilt=1` |" in text


@pytest.mark.parametrize("name", RULES)
def test_every_coefficient_says_its_meaning_in_a_sentence(name):
    for q in (*RULES[name].coefficients, LR):
        assert q.meaning.endswith("."), q.name
        assert q.meaning[0].isupper(), q.name
        assert len(q.meaning) <= 100, q.name
