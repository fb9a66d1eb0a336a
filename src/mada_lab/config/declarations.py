"""What each key of a configuration declares beside its type and its default, where the key is defined.

Lists of keys are derived from these declarations, so that no list can lack a key.
"""

import ast
import contextlib
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from mada_optim.rule import Interval

_DECLARATION = "declaration"  # in a field's metadata

COUNT, WHOLE, SEED = Interval(1, 2**31 - 1), Interval(0, 2**31 - 1), Interval(0, 2**63 - 1)

Form = Literal["", "numbers", "intervals"]


class Resume(Enum):
    """What another value of a key does when a run is resumed."""

    FIXED = "refused: the checkpoint holds what the old value decided"
    STEPS = "changes the steps that are left"
    SCHEDULE = "changes the learning rates of the steps that are left"
    RECORD = "changes what is measured, or written into the record"
    OUTSIDE = "changes where and how the run is computed and kept"
    RESOLVED = "is compared by the keys that it stands for"


class Topic(Enum):
    """What a key is about: the groups of `--help`, in its order, with their headings."""

    RUN = "run"
    DATA = "data"
    MODEL = "model"
    OPTIMIZER = "optimizer"
    LEARNING = "learned coefficients"
    SCHEDULE = "length and learning-rate schedule"
    RECORDS = "evaluation and records"
    CHECKPOINTS = "checkpoints"
    DEVICE = "device and processes"


@dataclass(frozen=True)
class Declaration:
    """What a key declares.

    Attributes:
        topic: The group of `--help` that shows it.
        resume: What another value does at a resume.
        allowed: The numbers that it may have; None for a key that isn't a number.
        also: Other names of it. No configuration may use them; the error for one names this key.
        of_optimizer: Whether the optimizer decides if the key has an effect (`mada_lab.optimizers.catalog`).
        of_learner: Options of a learner (`mada_optim.Learner`) that the key sets. It has an effect if the learner has
            one of them.
        by_coefficient: What a text gives for each coefficient: `beta1=5e-4,gamma=0` gives numbers.
        needs: By another key, the values of it with which this key has an effect.
        none_is: The key whose value None stands for.
        text: Its meaning, where the field has no docstring.
    """

    topic: Topic
    resume: Resume
    allowed: Interval | None = None
    also: tuple[str, ...] = ()
    of_optimizer: bool = False
    of_learner: tuple[str, ...] = ()
    by_coefficient: Form = ""
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    none_is: str | None = None
    text: str = ""


def key(
    topic: Topic,
    resume: Resume,
    default: Any = MISSING,
    allowed: Interval | None = None,
    *,
    also: str = "",
    of_optimizer: bool = False,
    of_learner: tuple[str, ...] = (),
    by_coefficient: Form = "",
    needs: Mapping[str, tuple[Any, ...]] | None = None,
    none_is: str | None = None,
    text: str = "",
) -> Any:
    """The field of a key with this `Declaration`; `also` has spaces between the names.

    Without a default, the key has to be given. A key of a learner is one of the optimizer too.
    """
    decided, names = of_optimizer or bool(of_learner), tuple(also.split())
    declared = Declaration(
        topic, resume, allowed, names, decided, of_learner, by_coefficient, needs or {}, none_is, text
    )
    return field(default=default, metadata={_DECLARATION: declared, "help": text or None})


def declarations(kind: type) -> dict[str, Declaration]:
    """The declaration of each key of a kind of configuration.

    Raises:
        TypeError: A key has none.
    """
    missing = [x.name for x in fields(kind) if _DECLARATION not in x.metadata]
    if missing:
        raise TypeError(f"{kind.__name__}.{missing[0]}: expected a field made by declarations.key, got another")
    return {x.name: x.metadata[_DECLARATION] for x in fields(kind)}


def meanings(kind: type) -> dict[str, str]:
    """The meaning of each key, on one line: the docstring of its field, or its declared text."""
    texts = {name: declared.text for name, declared in declarations(kind).items() if declared.text}
    for cls in reversed(kind.__mro__[:-1]):
        with contextlib.suppress(OSError, TypeError):  # a class that was made at run time has no source
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            for x, after in itertools.pairwise(getattr(definition, "body", ())):
                if isinstance(x, ast.AnnAssign) and isinstance(after, ast.Expr):
                    texts[ast.unparse(x.target)] = " ".join(ast.literal_eval(after.value).split())
    return texts


def defaults(kind: type) -> dict[str, Any]:
    """The default of each key of a kind of configuration that has one."""
    return {x.name: x.default for x in fields(kind) if x.default is not MISSING}


def aliases(kind: type) -> dict[str, str]:
    """The key that each other name stands for (`Declaration.also`)."""
    return {name: key for key, declared in declarations(kind).items() for name in declared.also}


def optimizer_keys(kind: type) -> tuple[str, ...]:
    """The keys of which the optimizer decides whether they have an effect."""
    return tuple(name for name, declared in declarations(kind).items() if declared.of_optimizer)


def set_keys(config: Any) -> set[str]:
    """The keys of a configuration that have another value than their default."""
    usual = defaults(type(config))
    return {x.name for x in fields(config) if x.name not in usual or getattr(config, x.name) != usual[x.name]}
