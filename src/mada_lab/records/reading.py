"""Reads the files of a run's record, and refuses what no run writes."""

from pathlib import Path
from typing import Any

from mada_lab.errors import ConfigError, translated
from mada_lab.system.strict_json import loads

FORMAT_VERSION = 1
MANIFEST, METRICS, SUMMARY, RESUMES = "manifest.json", "metrics.jsonl", "summary.json", "resumes.jsonl"

#: Entries that are numbers by name, whose nested names are joined by dots when they are written.
GROUPS = ("coefficients", "hypergradients", "speed", "initial_coefficients", "final_coefficients")
_NUMBERS = ("tokens", "images", "train_loss", "val_loss", "val_accuracy", "lr", "seconds", "skipped_steps")
_SUMMARY_NUMBERS = ("steps", "skipped_steps", "seconds", "peak_memory_bytes")

Json = dict[str, Any]


def read_manifest(folder: Path) -> Json:
    """The manifest of the run in `folder`. Raises ConfigError if it is missing or malformed."""
    path = folder / MANIFEST
    manifest = _read_object(path)
    version, method, config = manifest.get("format_version"), manifest.get("method"), manifest.get("config", {})
    if version != FORMAT_VERSION:
        what = f"expected format_version {FORMAT_VERSION}, got {version!r}"
        raise ConfigError(f"run record, {path}: {what}; read it with the version of mada-optim that wrote it")
    _expect(isinstance(config, dict), f"{path}, config", "an object of flat keys", config)
    _expect(_is_method(method), f"{path}, method", "a description of an optimizer", method)
    return _groups_checked(manifest, f"{path}")


def read_summary(folder: Path) -> Json | None:
    """The summary of the run in `folder`, None if there is none. Raises ConfigError if it is malformed."""
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = _read_object(path)
    for key, value in summary.items():
        if key in _SUMMARY_NUMBERS or key.endswith(("_loss", "_accuracy")):
            _expect(_is_number(value), f"{path}, {key}", "a number or null", value)
    return _groups_checked(summary, f"{path}")


def read_rows(path: Path) -> list[Json]:
    """The rows of a file of lines, without a torn last line. Raises ConfigError if it is missing or malformed."""
    rows = []
    lines = _read_bytes(path).rstrip().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row: Any = loads(line)
        except ValueError as error:
            if number == len(lines):  # the process was killed while it wrote the line, or is writing it
                break
            raise _malformed(f"{path}, line {number}", "a JSON object", str(error)) from error
        rows.append(_row_checked(row, f"{path}, line {number}"))
    return rows


def read_resumes(folder: Path) -> list[Json]:
    """The notes about resumptions of the run in `folder`. Raises ConfigError if they are malformed."""
    return read_rows(folder / RESUMES) if (folder / RESUMES).exists() else []


def _read_bytes(path: Path) -> bytes:
    def unreadable(error: OSError) -> ConfigError:
        what = f"expected a file that can be read, got {error.strerror}; pass the folder of a run"
        return ConfigError(f"run record, {path}: {what}")

    with translated(OSError, unreadable):
        if not path.is_file() and path.exists():  # a device may never end, a pipe never begin
            raise OSError(0, "something else")
        return path.read_bytes()


def _read_object(path: Path) -> Json:
    with translated(ValueError, lambda error: _malformed(f"{path}", "a JSON object", str(error))):
        value: Any = loads(_read_bytes(path))
    _expect(isinstance(value, dict), f"{path}", "a JSON object", value)
    return dict(value)


def _row_checked(row: Json, where: str) -> Json:
    _expect(isinstance(row, dict) and type(row.get("step")) is int, where, "an object with an integer step", row)
    for key in _NUMBERS:
        _expect(_is_number(row.get(key)), f"{where}, {key}", "a number or null", row.get(key))
    _expect(isinstance(row.get("digest", ""), str), f"{where}, digest", "a string", row.get("digest"))
    return _groups_checked(row, where)


def _groups_checked(record: Json, where: str) -> Json:
    for key in GROUPS:
        _expect(_is_group(record.get(key)), f"{where}, {key}", "{name: number}", record.get(key))
    return record


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_group(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_method(value: object) -> bool:
    """Whether it is a description by `mada_lab.optimizers.description`; older records have none."""
    if not isinstance(value, dict):
        return value is None
    texts, numbers = value.get("learned"), (value.get("lr"), value.get("betas", []))
    return (
        isinstance(value.get("description"), str)
        and isinstance(texts, list)
        and all(isinstance(x, str) for x in texts)
        and all(isinstance(part, list) and all(x is not None and _is_number(x) for x in part) for part in numbers)
    )


def _expect(holds: bool, where: str, expected: str, got: object) -> None:
    if not holds:
        raise _malformed(where, expected, repr(got))


def _malformed(where: str, expected: str, got: str) -> ConfigError:
    shown = got if len(got) <= 80 else got[:79] + "…"
    return ConfigError(
        f"run record, {where}: expected {expected}, got {shown}; restore the file, or leave this run out"
    )
