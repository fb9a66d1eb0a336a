"""The record of a run: what training writes about itself, and how reports read it back.

A run folder holds `manifest.json` (what is being run; written before step 0), `metrics.jsonl` (one JSON object per
log step), `resumes.jsonl` (one object each time the run was taken up again, if it was) and, once training has ended,
`summary.json`. All of it is strict JSON: a number that is not finite is null.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.system.files import make_folder, remove, sync, write_at, write_atomic
from mada_lab.system.strict_json import dumps, flatten, loads

FORMAT_VERSION = 1
MANIFEST, METRICS, SUMMARY, RESUMES = "manifest.json", "metrics.jsonl", "summary.json", "resumes.jsonl"

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Series = tuple[list[int], list[float]]

_NUMBERS = ("tokens", "images", "train_loss", "val_loss", "val_accuracy", "lr", "seconds", "skipped_steps")
_GROUPS = ("coefficients", "hypergradients", "speed", "initial_coefficients", "final_coefficients")


@dataclass
class RunRecord:
    """The writing side. Only one process of a run holds it.

    Keys of a row: `step`, `tokens` or `images`, `train_loss`, `val_loss` and, of images, `val_accuracy` (where
    evaluated), `lr`, `seconds` (since the start), `skipped_steps` (so far), `digest` (of the whole state, where due),
    `speed` (`step_seconds` since the last row, evaluations left out, `tokens_per_second`, and where it can be told
    `model_flops_utilisation`), `coefficients` (`{name: value}`, all of them, as applied) and `hypergradients` (those of
    what is learned); both are empty or absent when nothing is learned.

    A row that can't be written is kept, and written before the next one.
    """

    folder: Path
    _length: int
    _waiting: bytes = b""

    @classmethod
    def create(cls, folder: Path, manifest: Json) -> Self:
        """Starts the record of a new run in `folder`, which is made if need be.

        Raises:
            ConfigError: The folder holds a run already, or it cannot be made or written.
        """
        require_absent(folder)
        manifest = {"format_version": FORMAT_VERSION, **_flat(manifest)}
        try:
            make_folder(folder)
            write_atomic(folder / METRICS, "")
            write_atomic(folder / MANIFEST, dumps(manifest, indent=2) + "\n")
        except OSError as error:
            what = f"expected a folder that can be made and written, got {error.strerror}; choose another out_dir"
            raise ConfigError(f"run record, out_dir {folder}: {what}") from error
        return cls(folder, 0)

    @classmethod
    def resume(cls, folder: Path, step: int, digest: str | None = None, note: Json | None = None) -> Self:
        """Reopens the record of a run that goes on from its checkpoint of `step`.

        Rows after `step`, a line that a killed process left torn, and an old summary go: the run writes them again.

        Args:
            folder: The run folder.
            step: The last step whose row stands.
            digest: That of the state that is resumed; a row of `step` must have the same, if it has one.
            note: What `resumes.jsonl` should say: the step, the keys that changed, the versions.

        Raises:
            ConfigError: A file of the record is missing or malformed; nothing is changed then.
            CheckpointError: The row is of another state (nothing is changed), or the disk fails.
        """
        _read_manifest(folder / MANIFEST)
        rows, resumes = [row for row in _read_rows(folder / METRICS) if row["step"] <= step], _read_resumes(folder)
        found = rows[-1].get("digest") if rows and rows[-1]["step"] == step else None
        if digest is not None and found not in (None, digest):
            raise CheckpointError(
                f"checkpoint, in {folder}, of step {step}: expected the state of digest {found} that {METRICS} names, "
                f"got {digest}; bring record and checkpoints of one run together"
            )
        content = _lines(rows)
        try:
            if note is not None:
                write_atomic(folder / RESUMES, _lines([*resumes, note]))
            remove(folder / SUMMARY)
            write_atomic(folder / METRICS, content)
        except OSError as error:
            raise _not_written(folder, error) from error
        return cls(folder, len(content))

    def log(self, row: Json) -> None:
        """Appends one row, which has left the process on return. Coefficients per group get names `group.beta1`."""
        self._waiting += _lines([_flat(row)])
        try:
            self._write_waiting()
        except OSError as error:
            logger.warning(
                "run record, in %s: expected to add a row, got %s. Training goes on; the row waits in memory",
                self.folder / METRICS,
                error.strerror,
            )

    def _write_waiting(self) -> None:
        # One unbuffered write: a reader beside the run, or a kill, nearly always finds the row whole.
        if self._waiting:
            write_at(self.folder / METRICS, self._length, self._waiting)
            self._length, self._waiting = self._length + len(self._waiting), b""

    def sync(self) -> None:
        """Brings all rows to the disk, before a checkpoint: none is ahead of them. A failure is told, not raised."""
        try:
            self.close()
        except CheckpointError as error:
            logger.warning("%s", error)

    def close(self) -> None:
        """Brings all rows to the disk for good.

        Raises:
            CheckpointError: The disk fails.
        """
        try:
            self._write_waiting()
            sync(self.folder / METRICS)
        except OSError as error:
            raise _not_written(self.folder, error) from error

    def finish(self, summary: Json) -> None:
        """Writes the summary, which says that the run has ended.

        Keys: `optimizer`, `steps`, `skipped_steps`, `initial_coefficients`, `final_coefficients`, `final_train_loss`,
        `final_val_loss`, `best_val_loss`, `seconds`, `peak_memory_bytes`; of images,
        `final_val_accuracy` too.

        Raises:
            CheckpointError: The disk fails.
        """
        self.close()
        try:
            write_atomic(self.folder / SUMMARY, dumps(_flat(summary), indent=2) + "\n")
        except OSError as error:
            raise _not_written(self.folder, error) from error


def require_absent(folder: Path) -> None:
    """Raises ConfigError if `folder` holds a run. Rows before there is a manifest are none: a kill left the file."""
    holds = [name for name in (MANIFEST, METRICS, SUMMARY, "checkpoints") if (folder / name).exists()]
    if holds and not (holds == [METRICS] and (folder / METRICS).stat().st_size == 0):
        raise ConfigError(
            f"run record, out_dir {folder}: expected a folder without a run, got one with {holds[0]}; "
            "choose another out_dir, or continue that run with init_from=resume"
        )


def _not_written(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"run record, in {folder}: expected to write it, got {error.strerror}; "
        "free some space, or check the disk, and go on with init_from=resume"
    )


def _lines(rows: Iterable[Json]) -> bytes:
    return "".join(dumps(row) + "\n" for row in rows).encode()


@dataclass(frozen=True)
class Run:
    """The reading side: one run as it stands on the disk.

    Attributes:
        name: What figures and tables call it: the folder's name.
        folder: The run folder.
        manifest: Content of `manifest.json`.
        rows: Rows of `metrics.jsonl`, in the order written.
        summary: Content of `summary.json`; None while the run goes on, or when it was stopped.
        resumes: Rows of `resumes.jsonl`: `step`, `changed` (`{key: {"from": ..., "to": ...}}`), `exact`, `versions`,
            `commit`.
    """

    name: str
    folder: Path
    manifest: Json
    rows: list[Json]
    summary: Json | None
    resumes: list[Json] = field(default_factory=list)

    def series(self, key: str) -> Series:
        """Steps and values of the rows that have `key`. A value that was not finite is NaN."""
        return _series((row["step"], row[key]) for row in self.rows if key in row)

    def coefficient(self, name: str) -> Series:
        """Steps and values of one coefficient."""
        return self._grouped("coefficients", name)

    def hypergradient(self, name: str) -> Series:
        """Steps and values of one hypergradient (loss per unit of the coefficient)."""
        return self._grouped("hypergradients", name)

    def names(self, group: str) -> list[str]:
        """The names in `group` ("coefficients" or "hypergradients"), in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.get(group) or {}))

    @cached_property
    def learned(self) -> tuple[str, ...]:
        """The names of the coefficients that the run learns, in the order of `names`.

        A record whose manifest doesn't tell is one of those in which only a learned coefficient moves.
        """
        names, method = self.names("coefficients"), self.manifest.get("method")
        if method is None:
            return tuple(name for name in names if self._moves(name))
        return tuple(name for name in names if base(name) in method["learned"])

    def _moves(self, name: str) -> bool:
        values, slopes = self.coefficient(name)[1], self.hypergradient(name)[1]
        return any(x != values[0] for x in values) or any(x != 0 for x in slopes)

    def initial_coefficients(self) -> dict[str, float | None]:
        """The coefficients that training started from, as the manifest says, or else the summary or the first row."""
        return self._coefficients("initial_coefficients", 0)

    def final_coefficients(self) -> dict[str, float | None]:
        """The coefficients that training ended with: the summary's, or else the latest."""
        return self._coefficients("final_coefficients", -1)

    def _grouped(self, group: str, name: str) -> Series:
        grouped = ((row["step"], row.get(group) or {}) for row in self.rows)
        return _series((step, values[name]) for step, values in grouped if name in values)

    def _coefficients(self, key: str, index: int) -> dict[str, float | None]:
        known = [part[key] for part in (self.manifest, self.summary or {}) if part.get(key)]
        logged = [row["coefficients"] for row in self.rows if row.get("coefficients")]
        found = known or logged[index:]
        return dict(found[0]) if found else {}


def base(name: str) -> str:
    """The name of a coefficient without that of its group or parameter: beta1 of h.0.weight.beta1."""
    return name.rsplit(".", 1)[-1]


def read_run(folder: Path) -> Run:
    """Reads the record of a run, which may still be going on: no summary yet, or a last line half written.

    Raises:
        ConfigError: A file is missing or malformed.
    """
    manifest = _read_manifest(folder / MANIFEST)
    summary = _read_summary(folder / SUMMARY) if (folder / SUMMARY).exists() else None
    rows, resumes = _read_rows(folder / METRICS), _read_resumes(folder)
    return Run(folder.resolve().name, folder, manifest, rows, summary, resumes)


def _series(points: Iterable[tuple[int, float | None]]) -> Series:
    pairs = [(step, math.nan if value is None else float(value)) for step, value in points]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _flat(record: Json) -> Json:
    return record | {key: flatten(record[key]) for key in _GROUPS if record.get(key)}


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file() and path.exists():  # a device may never end, a pipe never begin
            raise OSError(0, "something else")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"run record, {path}: expected a file that can be read, got {error.strerror}; pass the folder of a run"
        ) from error


def _read_object(path: Path) -> Json:
    try:
        value: Any = loads(_read_bytes(path))
    except ValueError as error:
        raise _malformed(f"{path}", "a JSON object", str(error)) from error
    _expect(isinstance(value, dict), f"{path}", "a JSON object", value)
    return dict(value)


def _read_manifest(path: Path) -> Json:
    manifest = _read_object(path)
    version, method = manifest.get("format_version"), manifest.get("method")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"run record, {path}: expected format_version {FORMAT_VERSION}, got {version!r}; "
            "read it with the version of mada-optim that wrote it"
        )
    config = manifest.get("config", {})
    _expect(isinstance(config, dict), f"{path}, config", "an object of flat keys", config)
    _expect(_is_method(method), f"{path}, method", "a description of an optimizer", method)
    return _groups_checked(manifest, f"{path}")


def _read_summary(path: Path) -> Json:
    summary = _read_object(path)
    for key, value in summary.items():
        if key in ("steps", "skipped_steps", "seconds", "peak_memory_bytes") or key.endswith(("_loss", "_accuracy")):
            _expect(_is_number(value), f"{path}, {key}", "a number or null", value)
    return _groups_checked(summary, f"{path}")


def _read_rows(path: Path) -> list[Json]:
    rows = []
    lines = _read_bytes(path).rstrip().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row: Any = loads(line)
        except ValueError as error:
            if number == len(lines):  # torn: the process was killed, or is at this moment, in the middle of it
                break
            raise _malformed(f"{path}, line {number}", "a JSON object", str(error)) from error
        rows.append(_checked(row, f"{path}, line {number}"))
    return rows


def _read_resumes(folder: Path) -> list[Json]:
    return _read_rows(folder / RESUMES) if (folder / RESUMES).exists() else []


def _checked(row: Json, where: str) -> Json:
    _expect(isinstance(row, dict) and type(row.get("step")) is int, where, "an object with an integer step", row)
    for key in _NUMBERS:
        _expect(_is_number(row.get(key)), f"{where}, {key}", "a number or null", row.get(key))
    _expect(isinstance(row.get("digest", ""), str), f"{where}, digest", "a string", row.get("digest"))
    return _groups_checked(row, where)


def _groups_checked(record: Json, where: str) -> Json:
    for key in _GROUPS:
        _expect(_is_group(record.get(key)), f"{where}, {key}", "{name: number}", record.get(key))
    return record


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_group(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_method(value: object) -> bool:
    """Whether it is what `mada_lab.optimizers.description` makes; older records have none."""
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


class NoRecord:
    """In place of a record on processes other than the first: it writes nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
