"""The keys that the library's declarations give: coefficients of its rules, and options of its learners.

A new coefficient of a rule and a new option of a learner are keys without a line of code here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import make_dataclass
from typing import Any

from mada_lab.config.declarations import WHOLE, Key, Resume, Topic, declarations
from mada_optim import HyperSGD, HyperTorch, LearnedLR
from mada_optim.learning.options import Option, options_of
from mada_optim.rule import REAL, Coefficient
from mada_optim.rules import RULES

LEARNERS = (HyperSGD, HyperTorch, LearnedLR)
#: Options that a resume may change.
CHANGEABLE = ("clip", "stop")
#: Options that were keys before there was a prefix.
WITHOUT_PREFIX = ("horizon",)

Member = tuple[str, Any, Key]  # the name of a key, its type and its declaration


def keys_beside(declared: type) -> type:
    """A dataclass of these keys, but for options that keys in `declared` set. Raises TypeError for a repeated name."""
    taken = {option for x in declarations(declared).values() for option in x.of_learner}
    members = [*_coefficients(), *_options(taken)]
    names = [*declarations(declared), *(name for name, _, _ in members)]
    for name in {name for name in names if names.count(name) > 1}:
        raise TypeError(f"coefficient or option {name}: expected a name that no other key has; rename it")
    return make_dataclass("LibraryKeys", [(*x, key.as_field()) for *x, key in members], frozen=True, kw_only=True)


def _coefficients() -> Iterator[Member]:
    rules: dict[str, dict[str, Coefficient]] = {}
    for rule in RULES.values():
        for q in rule.coefficients:
            rules.setdefault(q.name, {})[rule.name] = q
    for name, by_rule in rules.items():
        q, *others = by_rule.values()
        allowed = q.domain if all(x.domain == q.domain for x in others) else REAL
        text = f"{q.meaning} In {q.domain}. Of the rules {', '.join(by_rule)}. None: the optimizer's default."
        yield name, float | None, Key(Topic.OPTIMIZER, Resume.FIXED, None, allowed, of_optimizer=True, text=text)


def _options(taken: set[str]) -> Iterator[Member]:
    learners: dict[str, dict[str, Option]] = {}
    for learner in LEARNERS:
        for name, option in options_of(learner).items():
            if option.interval is not None and name not in taken:
                learners.setdefault(name, {})[learner.__name__] = option
    for name, by_learner in learners.items():
        option = next(iter(by_learner.values()))
        number: Any = int if option.whole else float
        declared = Key(
            Topic.LEARNING,
            Resume.STEPS if name in CHANGEABLE else Resume.FIXED,
            None,
            WHOLE if option.whole else option.interval,
            of_learner=(name,),
            by_coefficient="numbers" if option.by_name else "",
            text=_text(by_learner),
        )
        yield (
            name if name in WITHOUT_PREFIX else f"hyper_{name}",
            number | str | None if option.by_name else number | None,
            declared,
        )


def _text(by_learner: Mapping[str, Option]) -> str:
    option = next(iter(by_learner.values()))
    form = " Here by coefficient: beta1=0.5,gamma=0." if option.by_name else ""
    usual = ", ".join(
        f"{x.default:g} ({learner})" for learner, x in by_learner.items() if isinstance(x.default, int | float)
    )
    return f"{option.meaning}{form}" + (f" None: {usual}." if usual else "")
