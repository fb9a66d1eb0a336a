"""Online problems in one dimension on which Adam fails (Reddi, Kale and Kumar, ICLR 2018), played by any method.

At time t a method plays x_t in [-1, 1], pays f_t(x_t) = s_t x_t, and learns the slope s_t. Then it moves, and x is
projected on [-1, 1] in place. The slopes repeat, and the sum over a period is positive, so the best fixed play is -1.
Average regret: the loss paid until t, minus that of playing -1 always, over t.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mada_optim
from mada_lab.errors import ConfigError
from mada_lab.experiments.toy.scalar_optimizer import ScalarOptimizer
from mada_lab.records.run_record import Json, RunRecord
from mada_lab.system import environment
from mada_optim import HyperOptimizer, HyperSGD

BEST, WORST = -1.0, 1.0


@dataclass(frozen=True)
class Problem:
    """Slopes with a period: `first` at times 1, 1 + period, ..., and `other` at all other times."""

    period: int
    first: float
    other: float
    betas: tuple[float, float]  #: the betas with which Adam fails
    lr: Mapping[str, float]  #: the learning rate at t = 1, by schedule

    def slope(self, t: int) -> float:
        """The slope of f_t, t >= 1."""
        return self.first if t % self.period == 1 else self.other


#: The synthetic experiment of their section 5, and theorem 1 with C = 3, where beta2 = 1/(1 + C^2).
PROBLEMS = {
    "reddi": Problem(101, 1010.0, -10.0, (0.9, 0.99), {"sqrt": 0.5, "constant": 1e-3}),
    "c3": Problem(3, 3.0, -1.0, (0.0, 0.1), {"sqrt": 0.1, "constant": 1e-2}),
}

#: lr / sqrt(t), which their theorems are about, and one lr throughout, as in MADA's published toy.
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "sqrt": lambda lr, t: lr / t**0.5,
    "constant": lambda lr, t: lr,
}

#: The coefficients that MADA's published toy learns, with its hyper learning rate; the betas stay fixed.
PUBLISHED: Json = {"learn": HyperSGD("rho", "beta3", "c", lr=0.1, momentum=0.9)}
#: All six coefficients learned, with the library's defaults; beta2 may fall to the beta2 of theorem 1.
EVERYTHING: Json = {"learn": HyperSGD("all", bounds={"beta2": (0.01, 0.9999)})}

METHODS: dict[str, tuple[type[HyperOptimizer], Json]] = {
    "adam": (mada_optim.Adam, {}),
    "amsgrad": (mada_optim.AMSGrad, {}),
    "avgrad": (mada_optim.AVGrad, {}),
    "yogi": (mada_optim.Yogi, {}),
    "mada_toy": (mada_optim.MADA, PUBLISHED),
    "mada": (mada_optim.MADA, EVERYTHING),
    "mada_toy_released": (mada_optim.MADA, {**PUBLISHED, "rule": "mada_released"}),
}


@dataclass(frozen=True, kw_only=True)
class Game:
    """One method on one problem."""

    problem: str  #: name in PROBLEMS
    method: str  #: name in METHODS
    schedule: str = "sqrt"  #: name in SCHEDULES
    learning_rate: float | None = None  #: by default that of the problem
    steps: int = 1_000_000  #: number of plays
    points: int = 600  #: about the number of recorded rows, half of them even in t, half even in log t

    def __post_init__(self) -> None:
        for key, known in (("problem", PROBLEMS), ("method", METHODS), ("schedule", SCHEDULES)):
            if getattr(self, key) not in known:
                names = ", ".join(known)
                raise ConfigError(f"toy, {key}: expected one of {names}, got {getattr(self, key)}; choose one")
        if self.steps < 1:
            raise ConfigError(f"toy, steps: expected at least 1, got {self.steps}; the default is 1000000")

    @property
    def lr(self) -> float:
        """The learning rate at t = 1."""
        return PROBLEMS[self.problem].lr[self.schedule] if self.learning_rate is None else self.learning_rate

    def optimizer(self) -> tuple[Tensor, HyperOptimizer]:
        """A parameter at 0 in fp64, and the method that moves it. Raises ConfigError if it refuses a value."""
        cls, options = METHODS[self.method]
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        try:
            return x, cls([x], lr=self.lr, betas=PROBLEMS[self.problem].betas, **options)
        except ValueError as error:
            raise ConfigError(f"toy, method {self.method}: {error}") from error

    def config(self) -> Json:
        """All keys that the results depend on."""
        beta1, beta2 = PROBLEMS[self.problem].betas
        options = {key: x if isinstance(x, str) else repr(x) for key, x in METHODS[self.method][1].items()}
        return {**asdict(self), "learning_rate": self.lr, "beta1": beta1, "beta2": beta2, **options}


@dataclass(frozen=True)
class Point:
    """The state of a game after `step` plays."""

    step: int
    average_regret: float
    iterate: float
    lr: float
    coefficients: Mapping[str, float] = field(default_factory=dict)


def play(game: Game) -> Iterator[Point]:
    """Plays the game, and yields the recorded points."""
    problem, schedule, lr = PROBLEMS[game.problem], SCHEDULES[game.schedule], game.lr
    _, optimizer = game.optimizer()
    player, regret = ScalarOptimizer(optimizer, 0.0), 0.0
    stops = recorded(game.steps, game.points)
    for last, stop in zip([0, *stops], stops, strict=False):
        for t in range(last + 1, stop + 1):
            slope = problem.slope(t)
            regret += slope * (player.x - BEST)
            player.step(slope, schedule(lr, t))
            player.x = min(max(player.x, BEST), WORST)
        coefficients = dict(player.coefficients) if optimizer.learned else {}
        yield Point(stop, regret / stop, player.x, schedule(lr, stop), coefficients)


def recorded(steps: int, points: int) -> list[int]:
    """The recorded times: the first, the last, and others evenly in t and in log t."""
    evenly, in_log = np.linspace(1, steps, points // 2), np.geomspace(1, steps, points // 2)
    return sorted({int(t) for t in np.rint(np.concatenate([evenly, in_log]))} | {1, steps})


def record(game: Game, folder: Path) -> Json:
    """Plays the game into a run folder, and returns the summary. Seconds are processor time of one core.

    Raises ConfigError if a value is refused, or the folder holds a run already.
    """
    _, optimizer = game.optimizer()
    start: Any = optimizer.coefficients() if optimizer.learned else {}
    rows = RunRecord.create(folder, manifest(game, start))
    began, point = time.process_time(), Point(0, 0.0, 0.0, game.lr)
    for point in play(game):
        row = {key: x for key, x in asdict(point).items() if key != "coefficients" or x}
        rows.log({**row, "seconds": time.process_time() - began})
    summary = {
        "optimizer": game.method,
        "steps": game.steps,
        "initial_coefficients": start,
        "final_coefficients": dict(point.coefficients),
        "final_average_regret": point.average_regret,
        "final_iterate": point.iterate,
        "seconds": time.process_time() - began,
    }
    rows.finish(summary)
    return summary


def manifest(game: Game, start: Mapping[str, float]) -> Json:
    """The manifest of a game."""
    return {
        "config": game.config(),
        "optimizer": game.method,
        "initial_coefficients": dict(start),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "data": {"name": game.problem},
    }
