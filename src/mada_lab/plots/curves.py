"""Numbers for figures: smooths and thins series, and finds vertical ranges with round spans."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Range = tuple[float, float]

SMOOTHING = 20  # a smoothed line averages over 1/SMOOTHING of the rows


def smooth(values: Sequence[float]) -> Floats:
    """Centered moving mean over 1/20 of the values. Values that are not finite stay out of it, and remain gaps.

    At the start, where losses fall steeply, the window shrinks to stay centered; at the end it keeps its left half, so
    that the last point is a mean too.
    """
    y = floats(values)
    known = np.isfinite(y)
    i = np.arange(len(y))
    left = np.minimum(i, len(y) // SMOOTHING // 2)
    right = np.minimum(left, len(y) - 1 - i)
    total = _window_sums(np.where(known, y, 0.0), i - left, i + right + 1)
    count = _window_sums(floats(known), i - left, i + right + 1)
    return np.where(known, total / np.maximum(count, 1), np.nan)


def _window_sums(y: Floats, start: NDArray[np.int_], stop: NDArray[np.int_]) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(y)])
    window: Floats = sums[stop] - sums[start]
    return window


def thin(steps: Sequence[int], values: Sequence[float] | Floats, limit: int = 2000) -> tuple[Floats, Floats]:
    """At most about `limit` of the points: the lowest and the highest of each stretch, so that no spike is lost.

    A stretch without a finite value keeps one point, the gap.
    """
    x, y = floats(steps), floats(values)
    if len(x) <= limit:
        return x, y
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(x)), limit // 2):
        part = y[stretch]
        if np.isfinite(part).any():
            kept += sorted({int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])})
        else:
            kept.append(int(stretch[0]))
    return x[kept], y[kept]


def floats(values: Sequence[float] | Floats) -> Floats:
    """The values as an array."""
    return np.asarray(values, dtype=np.float64)


def finite(values: Sequence[float] | Floats) -> Floats:
    """The finite values."""
    y = floats(values)
    return y[np.isfinite(y)]


def round_up(x: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is >= x > 0."""
    power = 10.0 ** math.floor(math.log10(x))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= x * (1 - 1e-9))


def coefficient_range(low: float, high: float, least: float = 0.01) -> Range:
    """A vertical range for values in [low, high] whose span is a round number, `least` at the smallest.

    With the floor, a coefficient that hardly moves looks flat. The range of values in [0, 1] stays in [0, 1], with a
    margin that keeps a line on the bound visible.
    """
    if low >= 0 and high <= 1 and high - low > 0.92:
        return -0.04, 1.04
    span = round_up(max(least, (high - low) / 0.92))
    bottom = (low + high - span) / 2
    if low >= 0 and high <= 1 and span <= 1:
        margin = 0.04 * span
        bottom = min(max(bottom, -margin), 1 + margin - span)
    return bottom, bottom + span


def symmetric_range(values: Floats) -> Range:
    """A range [-limit, limit] with a round limit that holds 99% of the values."""
    size = float(np.percentile(np.abs(values), 99)) if len(values) else 0.0
    limit = round_up(size) if size > 0 else 1.0
    return -limit, limit


def loss_range(curves: Sequence[tuple[Sequence[int], Floats]]) -> Range:
    """A range for the losses after the first 10% of the steps, which the fall from the initial loss would flatten.

    It holds all losses of a curve with fewer than two after that, whose line would be outside. It ends at most a tenth
    above the highest initial loss, since a run that diverged would flatten the others too. Without a finite loss, the
    range is (0, 1).
    """
    curves = [(steps, y) for steps, y in curves if len(finite(y))]
    if not curves:
        return 0.0, 1.0
    start = 0.1 * max(steps[-1] for steps, _ in curves)
    late = [(finite(y[np.asarray(steps) >= start]), finite(y)) for steps, y in curves]
    shown = np.concatenate([end if len(end) > 1 else whole for end, whole in late])
    highest = min(float(shown.max()), 1.1 * max(float(finite(y)[0]) for _, y in curves))
    lowest = min(float(shown.min()), highest)
    margin = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 0.05
    return lowest - margin, highest + margin
