"""What each key of a configuration declares beside its type and its default, where the key is defined.

A list of keys is derived from these declarations, so that no key can be left out of it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Literal

_DECLARATION = "declaration"  # in a field's metadata


class Resume(Enum):
    """What another value of a key does when a run is resumed."""

    FIXED = "refused: the checkpoint holds what the old value decided"
    STEPS = "changes the steps that are left"
    SCHEDULE = "changes the learning rates of the steps that are left"
    RECORD = "changes what is measured, or written into the record"
    OUTSIDE = "changes where and how the run is computed and kept"
    RESOLVED = "is compared by the keys that it stands for"


@dataclass(frozen=True)
class Declaration:
    """What a key declares.

    Attributes:
        resume: What another value does at a resume.
        of_optimizer: Whether the optimizer decides if the key has an effect (`mada_lab.optimizers.catalog`).
        of_learner: Options of a learner (`mada_optim.Learner`) that the key sets: it has an effect where a learner has
            one of them.
        by_coefficient: What a text gives for each coefficient, as `beta1=5e-4,gamma=0` gives numbers.
        needs: By another key, the values of it with which this key has an effect.
        none_is: The key whose value None stands for.
    """

    resume: Resume
    of_optimizer: bool = False
    of_learner: tuple[str, ...] = ()
    by_coefficient: Literal["", "numbers", "intervals"] = ""
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    none_is: str | None = None


def key(
    resume: Resume,
    default: Any = MISSING,
    *,
    of_optimizer: bool = False,
    of_learner: tuple[str, ...] = (),
    by_coefficient: Literal["", "numbers", "intervals"] = "",
    needs: Mapping[str, tuple[Any, ...]] | None = None,
    none_is: str | None = None,
) -> Any:
    """The field of a key; one without a default has to be given. A key of a learner is one of the optimizer too."""
    of_optimizer = of_optimizer or bool(of_learner)
    declared = Declaration(resume, of_optimizer, of_learner, by_coefficient, needs or {}, none_is)
    metadata = {_DECLARATION: declared}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def declarations(kind: type) -> dict[str, Declaration]:
    """The declaration of each key of a kind of configuration.

    Raises:
        TypeError: A key has none.
    """
    missing = [x.name for x in fields(kind) if _DECLARATION not in x.metadata]
    if missing:
        raise TypeError(f"{kind.__name__}.{missing[0]}: expected a field made by declarations.key, got another")
    return {x.name: x.metadata[_DECLARATION] for x in fields(kind)}


def defaults(kind: type) -> dict[str, Any]:
    """The default of each key of a kind of configuration that has one."""
    return {x.name: x.default for x in fields(kind) if x.default is not MISSING}


def optimizer_keys(kind: type) -> tuple[str, ...]:
    """The keys of which the optimizer decides whether they have an effect."""
    return tuple(name for name, declared in declarations(kind).items() if declared.of_optimizer)


def set_keys(config: Any) -> set[str]:
    """The keys of a configuration that have another value than their default."""
    usual = defaults(type(config))
    return {x.name for x in fields(config) if x.name not in usual or getattr(config, x.name) != usual[x.name]}
