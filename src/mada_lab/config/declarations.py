"""What each key of a configuration declares beside its type and its default, where the key is defined.

Lists of keys are derived from these declarations, so that no list can lack a key.
"""

import ast
import contextlib
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from enum import Enum
from typing import Any, Literal, TypeVar, dataclass_transform

from mada_optim.rule import Interval

COUNT, WHOLE, SEED = Interval(1, 2**31 - 1), Interval(0, 2**31 - 1), Interval(0, 2**63 - 1)

T = TypeVar("T")


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
class Key:
    """What a key declares."""

    topic: Topic  #: the group of `--help` that shows it
    resume: Resume  #: what another value does at a resume
    default: Any  #: its value where none is given
    allowed: Interval | None = None  #: the numbers that it may have; None for a key that isn't a number
    _: KW_ONLY
    #: Other names of it, with spaces between. No configuration may use them; the error for one names this key.
    also: str = ""
    #: whether the optimizer decides if the key has an effect (`mada_lab.optimizers.catalog`)
    of_optimizer: bool = False
    #: Options of a learner (`mada_optim.Learner`) that the key sets. It has an effect if the learner has one of them.
    of_learner: tuple[str, ...] = ()
    #: what a text gives for each coefficient: `beta1=5e-4,gamma=0` gives numbers
    by_coefficient: Literal["", "numbers", "intervals"] = ""
    #: by another key, the values of it with which this key has an effect
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    none_is: str | None = None  #: the key whose value None stands for
    text: str = ""  #: its meaning, where the field has no docstring

    def as_field(self) -> Any:
        """The field of a dataclass that has this declaration."""
        return field(default=self.default, metadata={"key": self, "help": self.text or None})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Key,))
def configuration(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass of a class whose attributes are keys. Raises TypeError for one that isn't a `Key`."""
    for name in inspect.get_annotations(cls):
        declared = cls.__dict__.get(name)
        if not isinstance(declared, Key):
            raise TypeError(f"{cls.__name__}.{name}: expected a declarations.Key, got {declared!r}")
        setattr(cls, name, declared.as_field())
    return dataclass(frozen=True, kw_only=True)(cls)


def declarations(kind: type) -> dict[str, Key]:
    """The declaration of each key of a kind of configuration."""
    return {x.name: x.metadata["key"] for x in fields(kind)}


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
    """The default of each key of a kind of configuration."""
    return {name: declared.default for name, declared in declarations(kind).items()}


def aliases(kind: type) -> dict[str, str]:
    """The key that each other name stands for (`Key.also`)."""
    return {name: key for key, declared in declarations(kind).items() for name in declared.also.split()}


def optimizer_keys(kind: type) -> tuple[str, ...]:
    """The keys of which the optimizer decides whether they have an effect: those of learners too."""
    return tuple(name for name, x in declarations(kind).items() if x.of_optimizer or x.of_learner)


def set_keys(config: Any) -> set[str]:
    """The keys of a configuration that have another value than their default."""
    return {name for name, usual in defaults(type(config)).items() if getattr(config, name) != usual}
