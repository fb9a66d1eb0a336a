"""Options of learners: the annotation of a field says what is allowed, and one function checks it."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

from mada_optim.checks import NON_NEGATIVE, member, number, scope_given
from mada_optim.rule import DECAY, UNIT, Interval


class FrozenDict(Mapping[str, Any]):
    """A dict that nobody can change, so that what has it can be frozen, compared, hashed and copied."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._items = dict(given)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


#: A dict without entries, as a default.
NONE = FrozenDict({})
PerCoefficient = float | Mapping[str, float]
#: What the values mean that are allowed beside numbers.
BESIDE = {math.inf: "math.inf is no limit", None: "None is no end"}


@dataclass(frozen=True)
class Option:
    """The declaration of a learner's option."""

    interval: Interval | None = None  # where a number must lie; None if the option is no number
    beside: tuple[float | None, ...] = ()  # values that are allowed beside such numbers: math.inf, or None
    whole: bool = False  # whether the number must be whole
    by_name: bool = False  # whether it may be a dict too, with a number for each of some coefficients
    # checks the value of an option that is no number, and returns it as it is kept
    read: Callable[[Any], Any] | None = None
    default: Any = inspect.Parameter.empty  # its value where the user gives none
    meaning: str = ""  # its description in the docstring of its learner

    def checked(self, name: str, x: object) -> Any:
        """`x` as it is kept. Raises ValueError if it is not allowed."""
        if self.read is not None:
            return self.read(x)
        if self.by_name and isinstance(x, Mapping):
            return FrozenDict({q: self._number(f"{name} of {q}", value) for q, value in x.items()})
        return self._number(name, x)

    def _number(self, name: str, x: object) -> float | None:
        if x is None and None in self.beside:
            return None
        if x == math.inf and math.inf in self.beside:
            return math.inf
        assert self.interval is not None
        remedy = "".join(f"{BESIDE[x]}, " for x in self.beside) + f"the default is {self.default!r}"
        value = number(name, x, self.interval, remedy)
        if self.whole and value != int(value):
            raise ValueError(f"{name}={x!r}: expected a whole number; {remedy}")
        return int(value) if self.whole else value


def bounds_given(given: object) -> Mapping[str, Any]:
    """A copy of bounds by name (else ValueError); the optimizer compares the ends with its rule."""
    if not isinstance(given, Mapping):
        raise ValueError(f"bounds={given!r}: expected a dict by coefficient; bounds={{'beta1': (0.5, 0.99)}}, say")
    return FrozenDict({name: tuple(ends) if isinstance(ends, list) else ends for name, ends in given.items()})


Amount = Annotated[float, Option(NON_NEGATIVE)]
Decay = Annotated[float, Option(DECAY)]
Share = Annotated[float, Option(UNIT)]
Limit = Annotated[float, Option(NON_NEGATIVE, beside=(math.inf,))]
AmountOfEach = Annotated[PerCoefficient, Option(NON_NEGATIVE, by_name=True)]
DecayOfEach = Annotated[PerCoefficient, Option(DECAY, by_name=True)]
Start = Annotated[int, Option(NON_NEGATIVE, whole=True)]
Stop = Annotated[int | None, Option(NON_NEGATIVE, whole=True, beside=(None,))]
Bounds = Annotated[Mapping[str, tuple[float, float]], Option(read=bounds_given)]
Scope = Annotated[str, Option(read=scope_given)]


def declared(learner: type[Any]) -> dict[str, Option]:
    """What the annotations of a class and its bases say of its attributes, by name."""
    hints = get_type_hints(learner, include_extras=True).items()
    declarations = {name: x for name, hint in hints for x in getattr(hint, "__metadata__", ()) if isinstance(x, Option)}
    return {name: replace(x, default=getattr(learner, name, None)) for name, x in declarations.items()}


def options_of(learner: type[Any]) -> Mapping[str, Option]:
    """The options of a class of learners by name, with defaults and meanings, in the order of its signature."""
    options, meanings = declared(learner), _meanings(learner)
    return MappingProxyType(
        {
            name: replace(options[name], default=x.default, meaning=meanings.get(name, ""))
            for name, x in inspect.signature(learner).parameters.items()
            if name in options
        }
    )


def _meanings(learner: type[Any]) -> dict[str, str]:
    """The description of each argument in the section Args of a docstring, that of a base if it has none."""
    docs = (inspect.cleandoc(x.__doc__ or "") for x in learner.__mro__)
    section = next((doc for doc in docs if "Args:\n" in doc), "").partition("Args:\n")[2].partition("\n\n")[0]
    return {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): ((?:.|\n {5,})+)", section, re.M)}


def settle(learner: Any, given: Mapping[str, Any]) -> None:
    """Sets the options of a frozen learner to the `given` values. Raises ValueError if one is not allowed."""
    for name, x in options_of(type(learner)).items():
        object.__setattr__(learner, name, x.checked(name, given[name]))
    require_steps(given["start"], given["stop"])


def require_steps(start: int, stop: int | None) -> None:
    """Refuses a `stop` (ValueError) before the first hyper-step, which comes after one applied step at the earliest."""
    if stop is not None and stop <= max(start, 1):
        raise ValueError(
            f"stop={stop}: expected more than {max(start, 1)} at start={start}, got a learner that never moves "
            "anything; raise stop, lower start, or leave the learner out"
        )


def names_given(owner: str, coefficients: Iterable[object], names: object) -> str | tuple[str, ...]:
    """The names that a learner was given, one by one or as one value, or "all". Raises ValueError if one is no text."""
    given = (*coefficients, *(names if isinstance(names, tuple | list) else (names,)))
    if not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f'{owner}{given!r}: expected names of coefficients, or "all"; {owner}("beta1", "beta2"), say')
    return "all" if given == ("all",) else tuple(str(name) for name in given)


def only_of(names: Iterable[str], option: str, given: object) -> None:
    """Refuses a number by name (ValueError) for a coefficient that isn't learned by this learner."""
    for name in given if isinstance(given, Mapping) else ():
        member(f"{option} key", name, names, "only coefficients that this learner learns have one: name it there too")
