"""Names a run beside a sample of its line, and describes it in one sentence."""

from collections.abc import Sequence
from typing import Any

from mada_lab.plots.style import line_style, printable
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import Run, base
from mada_lab.reports.html import Label

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COMPUTED = ", computed from the matrix shapes"
_DASHES = {"solid": "none", "dashed": "6 2", "dotted": "2 2", "dashdot": "7 2 2 2"}
_UNFINISHED = "no summary: still going, or stopped; latest values"


def labels(runs: Sequence[Run], state: bool = False) -> list[Label]:
    """Each run's name beside a sample of its line; with `state`, also a note below a run that has no summary."""
    looks = [line_style(i) for i in range(len(runs))]
    return [
        Label(run.name, look["color"], _DASHES[look["linestyle"]], "" if run.summary or not state else _UNFINISHED)
        for run, look in zip(runs, looks, strict=True)
    ]


def sentence(run: Run) -> str:
    """One sentence without the run's name, plain text. A record that doesn't describe its optimizer names it.

    The parts are the optimizer, what is learned, and the learning rate; with the betas, if nothing is learned.
    """
    method = run.manifest.get("method") or _method_of_old_record(run)
    learned = [name for name in method["learned"] if name != "lr"]
    parts = [method["description"]]
    if learned:
        parts.append(_coefficients(learned))
    if "lr" in method["learned"]:
        parts.append(f"the learning rate is learned{_numbers(', from', method['lr'])}" + _origin(method))
    else:
        given = _betas(method) if not learned else ""
        parts += [] if learned else ["nothing is learned"]
        words = "learning rates" if len(method["lr"]) > 1 else "learning rate"
        parts += [given + rate + _origin(method)] if (rate := _numbers(words, method["lr"])) else []
    return printable("; ".join(parts)) + "."


def _coefficients(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is learned"
    count = _COUNTS[len(names)] if len(names) < len(_COUNTS) else str(len(names))
    return f"{count} coefficients are learned ({', '.join(names)})"


def _numbers(words: str, numbers: Sequence[float]) -> str:
    return f"{words} {' and '.join(f'{x:.3g}' for x in numbers)}" if numbers else ""


def _origin(method: dict[str, Any]) -> str:
    return _COMPUTED if method.get("lr_computed") and method["lr"] else ""


def _betas(method: dict[str, Any]) -> str:
    return f"betas ({', '.join(f'{x:g}' for x in method['betas'])}), " if method.get("betas") else ""


def _method_of_old_record(run: Run) -> dict[str, Any]:
    """What `method` would say, read from the other keys of a record without it."""
    config, start = run.manifest.get("config", {}), run.initial_coefficients()
    rate = start.get("lr", config.get("learning_rate"))
    betas = [start.get(name, config.get(name)) for name in ("beta1", "beta2")]
    return {
        "description": outcome(run).optimizer,
        "learned": list(dict.fromkeys(map(base, run.learned))),
        "lr": [float(rate)] if _is_number(rate) else [],
        "betas": betas if all(map(_is_number, betas)) else [],
    }


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
