"""Finds a rule by its name."""

from mada_optim import checks
from mada_optim.rule import Rule
from mada_optim.rules import RULES


def find_rule(rule: str | Rule) -> Rule:
    """The rule of this name, or the one given. Raises ValueError, with the nearest name, if there is none."""
    if isinstance(rule, Rule):
        return rule
    return RULES[checks.member("rule", rule, RULES, "the registry is mada_optim.rules.RULES")]
