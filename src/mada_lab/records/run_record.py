"""The record of a run: training writes it, reports read it.

A run folder holds `manifest.json` (the configuration and its origin; written before step 0), `metrics.jsonl` (one JSON
object per log step), `resumes.jsonl` (one object per resumption, if there was any) and, once training has ended,
`summary.json`. All of it is strict JSON: a number that is not finite is null.
"""

import logging
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from mada_lab.errors import CheckpointError, ConfigError, translated
from mada_lab.records import reading
from mada_lab.records.reading import FORMAT_VERSION, GROUPS, MANIFEST, METRICS, RESUMES, SUMMARY, Json
from mada_lab.system.files import make_folder, remove, sync, write_at, write_atomic
from mada_lab.system.strict_json import dumps, flatten

logger = logging.getLogger(__name__)

Series = tuple[list[int], list[float]]


@dataclass
class RunRecord:
    """Writes the record of a run, in one of its processes.

    Keys of a row: `step`, `tokens` or `images`, `train_loss`, `val_loss` and, of images, `val_accuracy` (where
    evaluated), `lr`, `seconds` (since the start), `skipped_steps` (so far), `digest` (of the whole state, where due),
    `speed` (`step_seconds` since the last row without evaluations, `tokens_per_second`, and, if known,
    `model_flops_utilisation`), `coefficients` (`{name: value}`, all of them, as applied) and `hypergradients` (of the
    learned ones); both are empty or absent when nothing is learned.

    A row that can't be written is kept, and written before the next one.
    """

    folder: Path
    _length: int
    _waiting: bytes = b""

    @classmethod
    def create(cls, folder: Path, manifest: Json) -> Self:
        """Starts the record of a new run in `folder`. Raises ConfigError if it holds one, or can't be written."""
        require_absent(folder)

        def no_folder(error: OSError) -> ConfigError:
            what = f"expected a folder that can be made and written, got {error.strerror}; choose another out_dir"
            return ConfigError(f"run record, out_dir {folder}: {what}")

        content = dumps({"format_version": FORMAT_VERSION, **_flat(manifest)}, indent=2) + "\n"
        with translated(OSError, no_folder):
            make_folder(folder)
            write_atomic(folder / METRICS, "")
            write_atomic(folder / MANIFEST, content)
        return cls(folder, 0)

    @classmethod
    def resume(cls, folder: Path, step: int, digest: str | None = None, note: Json | None = None) -> Self:
        """Reopens the record of a run that is resumed from its checkpoint of `step`.

        Removes later rows, a torn line and an old summary: the run writes them again.

        Args:
            folder: The run folder.
            step: The last step whose row stays.
            digest: The digest of the restored state; a row of `step` must have the same, if it has one.
            note: The new row of `resumes.jsonl`: the step, the keys that changed, the versions.

        Raises:
            ConfigError: A file of the record is missing or malformed; nothing is changed then.
            CheckpointError: The row belongs to another state (nothing is changed), or the disk fails.
        """
        reading.read_manifest(folder)
        rows = [row for row in reading.read_rows(folder / METRICS) if row["step"] <= step]
        resumes = reading.read_resumes(folder)
        recorded = rows[-1].get("digest") if rows and rows[-1]["step"] == step else None
        if digest is not None and recorded not in (None, digest):
            raise CheckpointError(
                f"checkpoint, in {folder}, of step {step}: expected the state of digest {recorded} that {METRICS} "
                f"names, got {digest}; bring record and checkpoints of one run together"
            )
        record = cls(folder, len(content := _lines(rows)))
        with record._writing():
            if note is not None:
                write_atomic(folder / RESUMES, _lines([*resumes, note]))
            remove(folder / SUMMARY)
            write_atomic(folder / METRICS, content)
        return record

    def log(self, row: Json) -> None:
        """Appends one row, at once. Coefficients per group get names like `group.beta1`."""
        self._waiting += _lines([_flat(row)])
        try:
            self._write_waiting()
        except OSError as error:
            text = "run record, in %s: expected to add a row, got %s. Training goes on; the row waits in memory"
            logger.warning(text, self.folder / METRICS, error.strerror)

    def sync(self) -> None:
        """Flushes all rows to the disk, before a checkpoint, which must not be ahead of them; warns of a failure."""
        try:
            self.close()
        except CheckpointError as error:
            logger.warning("%s", error)

    def close(self) -> None:
        """Flushes all rows to the disk. Raises CheckpointError if the disk fails."""
        with self._writing():
            self._write_waiting()
            sync(self.folder / METRICS)

    def finish(self, summary: Json) -> None:
        """Writes the summary, which marks the run as ended. Raises CheckpointError if the disk fails.

        Keys: `optimizer`, `steps`, `skipped_steps`, `initial_coefficients`, `final_coefficients`, `final_train_loss`,
        `final_val_loss`, `best_val_loss`, `seconds`, `peak_memory_bytes`; of images, `final_val_accuracy` too.
        """
        self.close()
        with self._writing():
            write_atomic(self.folder / SUMMARY, dumps(_flat(summary), indent=2) + "\n")

    def _write_waiting(self) -> None:
        # one unbuffered write: a reader beside the run, or a kill, nearly always finds the row whole
        if self._waiting:
            write_at(self.folder / METRICS, self._length, self._waiting)
            self._length, self._waiting = self._length + len(self._waiting), b""

    def _writing(self) -> AbstractContextManager[None]:
        def not_written(error: OSError) -> CheckpointError:
            what = f"expected to write it, got {error.strerror}; free some space, or check the disk"
            return CheckpointError(f"run record, in {self.folder}: {what}, and go on with --init_from=resume")

        return translated(OSError, not_written)


def require_absent(folder: Path, remedy: str = "choose another folder") -> None:
    """Raises ConfigError, which ends with `remedy`, if `folder` holds a run.

    An empty file of rows without a manifest is no run: a process was killed before it began one.
    """
    present = [name for name in (MANIFEST, METRICS, SUMMARY, "checkpoints") if (folder / name).exists()]
    if present and not (present == [METRICS] and (folder / METRICS).stat().st_size == 0):
        what = f"expected a folder without a run, got one with {present[0]}"
        raise ConfigError(f"run record, in {folder}: {what}; {remedy}")


def _lines(rows: Iterable[Json]) -> bytes:
    return "".join(dumps(row) + "\n" for row in rows).encode()


def _flat(record: Json) -> Json:
    return record | {key: flatten(record[key]) for key in GROUPS if record.get(key)}


@dataclass(frozen=True)
class Run:
    """The record of one run, as it stands on the disk."""

    name: str  #: the name in figures and tables: the folder's
    folder: Path  #: the run folder
    manifest: Json  #: content of `manifest.json`
    rows: list[Json]  #: rows of `metrics.jsonl`, in the order written
    summary: Json | None  #: content of `summary.json`; None while the run goes on, or when it was stopped
    #: Rows of `resumes.jsonl`: `step`, `changed` (`{key: {"from": ..., "to": ...}}`), `exact`, `versions`,
    #: `commit`
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
        """The names of the learned coefficients, in the order of `names`.

        In older records, whose manifests don't name them, every coefficient that moves is learned.
        """
        names, method = self.names("coefficients"), self.manifest.get("method")
        if method is None:
            return tuple(name for name in names if self._moves(name))
        return tuple(name for name in names if base(name) in method["learned"])

    def _moves(self, name: str) -> bool:
        values, slopes = self.coefficient(name)[1], self.hypergradient(name)[1]
        return any(x != values[0] for x in values) or any(x != 0 for x in slopes)

    def initial_coefficients(self) -> dict[str, float | None]:
        """The coefficients at the start: the manifest's, else the summary's, else the first row's."""
        return self._coefficients("initial_coefficients", 0)

    def final_coefficients(self) -> dict[str, float | None]:
        """The coefficients at the end: the summary's, else the latest."""
        return self._coefficients("final_coefficients", -1)

    def _grouped(self, group: str, name: str) -> Series:
        grouped = ((row["step"], row.get(group) or {}) for row in self.rows)
        return _series((step, values[name]) for step, values in grouped if name in values)

    def _coefficients(self, key: str, index: int) -> dict[str, float | None]:
        known = [part[key] for part in (self.manifest, self.summary or {}) if part.get(key)]
        logged = [row["coefficients"] for row in self.rows if row.get("coefficients")]
        chosen = known or logged[index:]
        return dict(chosen[0]) if chosen else {}


def base(name: str) -> str:
    """The name of a coefficient without its group or parameter: beta1 for h.0.weight.beta1."""
    return name.rsplit(".", 1)[-1]


def read_run(folder: Path) -> Run:
    """Reads the record of a run, finished or not. Raises ConfigError if a file is missing or malformed."""
    manifest, summary = reading.read_manifest(folder), reading.read_summary(folder)
    rows, resumes = reading.read_rows(folder / METRICS), reading.read_resumes(folder)
    return Run(folder.resolve().name, folder, manifest, rows, summary, resumes)


def read_runs(folder: Path) -> list[Run]:
    """Reads the records in `runs`, where a sweep or a comparison in `folder` has them; none if it isn't one."""
    return [read_run(path.parent) for path in sorted((folder / "runs").glob(f"*/{MANIFEST}"))]


def _series(points: Iterable[tuple[int, float | None]]) -> Series:
    pairs = [(step, math.nan if value is None else float(value)) for step, value in points]
    return [step for step, _ in pairs], [value for _, value in pairs]
