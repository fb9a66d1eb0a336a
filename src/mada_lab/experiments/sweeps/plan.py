"""What a sweep consists of: a configuration, and the points that it is changed to. A pure description, as JSON too."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mada_lab.config import parsing
from mada_lab.config.declarations import defaults, set_keys
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog

Values = dict[str, Any]

#: Where and on what a worker computes is its own affair.
LOCAL = ("out_dir", "data_dir", "device", "init_from")
RANGE = re.compile(r"(?P<low>[^.:]*(?:\.\d[^.:]*)?)\.\.(?P<high>[^:]*?)(?P<log>:log)?")
LONGEST_NAME = 120


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: `cases` times `grid`, or `trials` draws from `search`.

    Attributes:
        base: The keys that all runs share.
        cases: By name, keys that change together; one case without a name where there is nothing to say.
        grid: By key, the values of an axis. The last key changes fastest.
        search: By key, `low..high`, `low..high:log`, or a list of values.
        trials: Number of draws.
    """

    base: RunConfig
    cases: Mapping[str, Values] = field(default_factory=lambda: {"": {}})
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0

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
        """The configuration of a point. Raises ConfigError for keys, types and values that don't go."""
        return fitted(self.base, values)

    def distributions(self) -> dict[str, BaseDistribution]:
        """What each key of the search is drawn from. Raises ConfigError."""
        return {key: _distribution(key, given) for key, given in self.search.items()}

    def check(self) -> None:
        """Raises ConfigError unless every point can be configured: a sweep shouldn't fail when it is half done."""
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
        """The keys of each point; of a search, of each combination of choices, with ranges at their lower ends."""
        if not self.search:
            yield from (values for _, values in self.points)
            return
        found = self.distributions().items()
        yield from _product(
            {k: list(x.choices) if isinstance(x, CategoricalDistribution) else [x.low] for k, x in found}
        )

    def to_json(self) -> Values:
        """All that decides the results."""
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
        """12 digits that any difference in the results' causes changes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


def require_used(plans: Sequence[Plan]) -> None:
    """Raises ConfigError if a key that all runs share has no effect in any of them."""
    base = plans[0].base
    never = set[str].intersection(*(_idle(_combined(base, values)) for plan in plans for values in plan.outlines()))
    for key in sorted(never & set_keys(base)):
        what = f"expected a key that has an effect in one run at least, got {key}={getattr(base, key)}"
        raise ConfigError(f"sweep, key {key}: {what}; leave it out")


def fitted(base: RunConfig, values: Values) -> RunConfig:
    """`base` with `values`, without the keys of `base` that have no effect beside them.

    Raises:
        ConfigError: One of the values has no effect, or they don't go together.
    """
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
    """The keys in which two plans differ."""
    a, b = ({**x["base"], **{k: v for k, v in x.items() if k != "base"}} for x in (one.to_json(), other.to_json()))
    return [key for key in a if a[key] != b.get(key)]


def axis(key: str, text: str) -> list[Any]:
    """The values in `v1,v2,...`, each of the key's type. Raises ConfigError."""
    return [parsing.parse_value(key, part) for part in text.split(",")]


def describe(point: int, values: Values) -> str:
    """A name for the folder of a drawn point."""
    return f"{point:04d}_{_name('', {key: _short(x) for key, x in values.items()})}"


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _product(grid: Mapping[str, list[Any]]) -> Iterator[Values]:
    return (dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values()))


def _name(case: str, cell: Values) -> str:
    parts = [case, *(f"{key}={value}" for key, value in cell.items())]
    return re.sub(r"[^\w.=+-]", "_", "_".join(part for part in parts if part))[:LONGEST_NAME]


def _distribution(key: str, given: Any) -> BaseDistribution:
    parsing.require_known(key, "the sweep's search")
    if isinstance(given, list):
        return CategoricalDistribution(given)
    match = RANGE.fullmatch(str(given))
    if match is None:
        what = f"expected low..high, low..high:log, or a list of values, got {given}; correct it"
        raise ConfigError(f"sweep, search, key {key}: {what}")
    low, high = (parsing.parse_value(key, match[part].strip()) for part in ("low", "high"))
    kind = {int: IntDistribution, float: FloatDistribution}.get(type(low))
    try:
        if kind is None or not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a range of what has no order, or no end")
        return kind(low, high, log=match["log"] is not None)
    except ValueError as error:
        raise ConfigError(f"sweep, search, key {key}: expected a range, got {given}: {error}; correct it") from error
