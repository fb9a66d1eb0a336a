"""How a page speaks of a run: its name beside its line, and what it is in one sentence."""

from collections.abc import Iterable, Sequence
from typing import Any

from mada_lab.plots.style import line_style, printable
from mada_lab.records.outcome import outcome
from mada_lab.records.run_record import Run, base
from mada_lab.reports.html import line_sample, text

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COMPUTED = ", computed from the matrix shapes"


def labels(runs: Sequence[Run]) -> list[str]:
    """Each run's name behind a sample of its line."""
    looks = [line_style(i) for i in range(len(runs))]
    samples = [line_sample(look["color"], look["linestyle"]) for look in looks]
    return [
        f'<span class="run">{sample}<span>{text(run.name)}</span></span>'
        for sample, run in zip(samples, runs, strict=True)
    ]


def sentences(runs: Sequence[Run]) -> str:
    """What each run is, as a list; HTML."""
    named = zip(labels(runs), runs, strict=True)
    return listed(f"{label}<span>{text(sentence(run))}</span>" for label, run in named)


def listed(items: Iterable[str]) -> str:
    """A list with an item per run; HTML."""
    lines = "\n".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="runs">\n{lines}\n</ul>'


def sentence(run: Run) -> str:
    """One sentence without the run's name, plain text. A record that doesn't describe its optimizer names it.

    The parts are the optimizer, what is learned, and the learning rate; with the betas, if nothing is learned.
    """
    method = run.manifest.get("method") or _told_by_old_record(run)
    learned = [name for name in method["learned"] if name != "lr"]
    parts = [method["description"]]
    if learned:
        parts.append(_coefficients(learned))
    if "lr" in method["learned"]:
        parts.append(f"the learning rate is learned{_numbers(', from', method['lr'])}" + _origin(method))
    else:
        given = _betas(method) if not learned else ""
        parts += [] if learned else ["nothing is learned"]
        parts += [given + rate + _origin(method)] if (rate := _rate(method["lr"])) else []
    return printable("; ".join(parts)) + "."


def _coefficients(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is learned"
    count = _COUNTS[len(names)] if len(names) < len(_COUNTS) else str(len(names))
    return f"{count} coefficients are learned ({', '.join(names)})"


def _rate(rates: Sequence[float]) -> str:
    return _numbers("learning rates" if len(rates) > 1 else "learning rate", rates)


def _numbers(words: str, numbers: Sequence[float]) -> str:
    return f"{words} {' and '.join(f'{x:.3g}' for x in numbers)}" if numbers else ""


def _origin(method: dict[str, Any]) -> str:
    return _COMPUTED if method.get("lr_computed") and method["lr"] else ""


def _betas(method: dict[str, Any]) -> str:
    return f"betas ({', '.join(f'{x:g}' for x in method['betas'])}), " if method.get("betas") else ""


def _told_by_old_record(run: Run) -> dict[str, Any]:
    """`method` as far as a record without one tells it."""
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
