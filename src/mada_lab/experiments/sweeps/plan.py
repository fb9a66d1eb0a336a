"""The plan of a sweep: a configuration, the points that change it, and checks that every point is possible."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from mada_lab.config import parsing
from mada_lab.config.declarations import defaults, optimizer_keys, set_keys
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog
from mada_lab.tasks.choice import choose
from mada_lab.tasks.open_data import open_data

Values = dict[str, Any]

#: Keys that each worker has for itself.
LOCAL = ("out_dir", "data_dir", "device", "init_from")
RANGE = re.compile(r"(?P<low>[^.:]*(?:\.\d[^.:]*)?)\.\.(?P<high>[^:]*?)(?P<log>:log)?")
LONGEST_NAME = 120


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; with `log`, drawn evenly in their logarithm."""

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> list[float]:
        """The lowest and the highest number, without repetition."""
        return list(dict.fromkeys((self.low, self.high)))


Choices = list[Any]


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: `cases` times `grid`, or `trials` draws from `search`."""

    base: RunConfig  #: the keys that all runs share
    #: By name, keys that change together; by default one case without a name and without keys
    cases: Mapping[str, Values] = field(default_factory=lambda: {"": {}})
    #: By key, the values of an axis; the last key changes fastest
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    #: By key, `low..high`, `low..high:log`, or a list of values
    search: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0  #: number of draws

    @cached_property
    def points(self) -> list[tuple[str, Values]]:
        """Name and keys of each point of the cases and the grid."""
        return [
            (_name(case, cell), values | cell) for case, values in self.cases.items() for cell in _product(self.grid)
        ]

    @property
    def size(self) -> int:
        """Number of points."""
        return self.trials if self.search else len(self.points)

    def config(self, values: Values) -> RunConfig:
        """The configuration of a point. Raises ConfigError for keys, types and values that are not possible."""
        return fitted(self.base, values)

    @property
    def space(self) -> dict[str, "Range | Choices"]:
        """The range or the choices of each key of the search. Raises ConfigError."""
        return {key: _drawn_from(key, given) for key, given in self.search.items()}

    def check(self) -> None:
        """Raises ConfigError unless every point can be configured."""
        if bool(self.search) == bool(self.grid or any(self.cases.values())):
            raise ConfigError("sweep: expected a grid or a search, got both or none; give --grid, or --search, keys")
        if self.search and self.trials < 1:
            raise ConfigError(f"sweep, --trials: expected at least 1 with --search, got {self.trials}; set it")
        for key in {*self.grid, *self.search} & set(LOCAL):
            raise ConfigError(f"sweep, key {key}: expected one that changes the result, got {key}; leave it out")
        for key, axis in self.grid.items():
            if not axis or len(set(map(repr, axis))) < len(axis):
                raise ConfigError(f"sweep, grid, key {key}: expected distinct values, got {axis}; correct them")
        for values in self.outlines():
            self.config(values)

    def outlines(self) -> Iterator[Values]:
        """The keys of each point; of a search, of each combination of choices and ends of ranges."""
        if not self.search:
            return (values for _, values in self.points)
        return _product({key: x.ends if isinstance(x, Range) else x for key, x in self.space.items()})

    def to_json(self) -> Values:
        """All keys that the results depend on."""
        base = {key: value for key, value in asdict(self.base).items() if key not in LOCAL}
        return {"base": base, "cases": self.cases, "grid": self.grid, "search": self.search, "trials": self.trials}

    @classmethod
    def from_json(cls, values: Values, local: RunConfig) -> "Plan":
        """The plan that `to_json` gave, for a worker whose place is that of `local`. Raises ConfigError."""
        place = {key: getattr(local, key) for key in LOCAL}
        try:
            base = parsing.from_values({**values["base"], **place}, "the sweep's storage", type(local))
            return cls(base, values["cases"], values["grid"], values["search"], values["trials"])
        except (KeyError, TypeError, AttributeError) as error:
            what = f"expected the plan of a sweep, got {type(error).__name__}: {error}; use another --storage"
            raise ConfigError(f"sweep, storage: {what}") from error

    @property
    def digest(self) -> str:
        """12 digits that differ if plans differ in anything but the keys of `LOCAL`."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


def require_possible(plans: Sequence[Plan]) -> None:
    """Raises ConfigError unless every point can be configured and its optimizer made, and every key has an effect."""
    for plan in plans:
        plan.check()
    require_used(plans)
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))  # with one hidden matrix
    for config in _distinct(plans, ("optimizer", "learning_rate", "init_from")):
        catalog.build(model, replace(config, coefficients_from=None, pace_from=None))


def require_data(plans: Sequence[Plan]) -> None:
    """Raises ConfigError, DataError unless the data sets of all points are there, and long enough to be evaluated on.

    Small data sets are prepared.
    """
    for config in _distinct(plans, ("dataset", "block_size", "init_from"), optimizers=False):
        choose(config, open_data(config)).validation()


def _distinct(plans: Sequence[Plan], keys: tuple[str, ...], optimizers: bool = True) -> list[RunConfig]:
    """A configuration for each combination of the values of `keys`, and of the keys of optimizers."""
    configs = [plan.config(values) for plan in plans for values in plan.outlines()]
    keys = (*keys, *(optimizer_keys(type(plans[0].base)) if optimizers else ()))
    return list({repr([getattr(config, key, None) for key in keys]): config for config in configs}.values())


def require_used(plans: Sequence[Plan]) -> None:
    """Raises ConfigError if a key that all runs share has no effect in any of them."""
    base = plans[0].base
    never = set[str].intersection(*(_idle(_combined(base, values)) for plan in plans for values in plan.outlines()))
    for key in sorted(never & set_keys(base)):
        what = f"expected a key that has an effect in one run at least, got {key}={getattr(base, key)}"
        raise ConfigError(f"sweep, key {key}: {what}; leave it out")


def fitted(base: RunConfig, values: Values) -> RunConfig:
    """`base` with `values`, without the keys that have no effect then. Raises ConfigError for impossible values."""
    config = _combined(base, values)
    config = replace(config, **{key: defaults(type(base))[key] for key in _idle(config) if key not in values})
    parsing.check(config)
    parsing.require_effect(config, values)
    catalog.require_had(config, values)
    return config


def _combined(base: RunConfig, values: Values) -> RunConfig:
    config = replace(base, **parsing.typed(values, "the sweep", type(base)))
    catalog.require_known(config.optimizer)
    return config


def _idle(config: RunConfig) -> set[str]:
    return {*parsing.idle(config), *catalog.idle(config), *catalog.replaced(config)}


def differences(one: Plan, other: Plan) -> list[str]:
    """The keys in which two plans differ, with the values of `other`."""
    a, b = ({**x.pop("base"), **x} for x in (one.to_json(), other.to_json()))
    return [f"{key}={_told(b[key])}" for key in a if a[key] != b[key]]


def _told(value: Any) -> str:
    """A value, as the command line has it; of an axis or a case, its keys with their values."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={_told(x)}" for key, x in value.items()) or "nothing"
    return str(value)


def axis(key: str, text: str) -> list[Any]:
    """The values in `v1,v2,...`, each of the key's type. Raises ConfigError."""
    return [parsing.parse_value(key, part) for part in text.split(",")]


def describe(point: int, values: Values) -> str:
    """A name for the folder of a drawn point."""
    short = {key: f"{x:.4g}" if isinstance(x, float) else x for key, x in values.items()}
    return f"{point:04d}_{_name('', short)}"


def _product(grid: Mapping[str, Sequence[Any]]) -> Iterator[Values]:
    return (dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values()))


def _name(case: str, cell: Values) -> str:
    parts = [case, *(f"{key}={value}" for key, value in cell.items())]
    return re.sub(r"[^\w.=+-]", "_", "_".join(part for part in parts if part))[:LONGEST_NAME]


def _drawn_from(key: str, given: Any) -> Range | Choices:
    parsing.require_known(key, "the sweep's search")
    if isinstance(given, list):
        return given
    match = RANGE.fullmatch(str(given))
    if match is None:
        what = f"expected low..high, low..high:log, or a list of values, got {given}; correct it"
        raise ConfigError(f"sweep, search, key {key}: {what}")
    low, high = (parsing.parse_value(key, match[part].strip()) for part in ("low", "high"))
    log = match["log"] is not None
    numbers = type(low) is type(high) and isinstance(low, int | float) and not isinstance(low, bool)
    if not numbers or not (math.isfinite(low) and math.isfinite(high) and low <= high) or (log and low <= 0):
        what = f"expected a range of finite numbers, low <= high, and low > 0 with :log, got {given}"
        raise ConfigError(f"sweep, search, key {key}: {what}; correct it")
    return Range(low, high, log)
