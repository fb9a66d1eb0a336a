"""The beginning of a run, or its continuation: the session and the record stand at one and the same step."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mada_lab.checkpoints import checkpoint, fingerprint, redistribution
from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.compatibility import require_alike, require_finite, require_fit
from mada_lab.checkpoints.reading import Saved
from mada_lab.errors import CheckpointError
from mada_lab.records.run_record import NoRecord, RunRecord, read_run, require_absent
from mada_lab.system import environment
from mada_lab.training import changes
from mada_lab.training.state import Session

logger = logging.getLogger(__name__)


def open_record(session: Session) -> RunRecord | NoRecord:
    """The record of a fresh run, or of the one that is resumed, with `session` taken up at its checkpoint.

    A run that was stopped before its first checkpoint begins again.

    Raises:
        ConfigError: There is another run in the folder, or its record is damaged.
        CheckpointError: There is nothing to resume, nothing whole, or something of another run.
    """
    world = session.world
    if session.config.init_from != "resume":
        return world.on_first(lambda: RunRecord.create(session.folder, session.manifest())) or NoRecord()
    found = world.on_first(lambda: _fitting(session))
    saved = redistribution.handed_out(found, session.folder, session.model, session.optimizer, world)
    if saved is None:
        return world.on_first(lambda: RunRecord.resume(session.folder, -1)) or NoRecord()
    world.together(lambda: _require_finite(session, saved), CheckpointError)
    with _explained(session, saved.step):
        session.restore(saved)
    digest = session.digest(fingerprint.is_one(saved.tree["digest"]))
    return world.on_first(lambda: _reopened(session, saved, digest)) or NoRecord()


def require_place(session: Session) -> None:
    """Raises ConfigError if the folder of a fresh run holds one, CheckpointError if that of a resumed one doesn't."""
    (require_absent if session.config.init_from != "resume" else require_run)(session.folder)


def require_run(folder: Path) -> None:
    """Raises CheckpointError unless `folder` holds a run, or checkpoints of one."""
    if not (folder / "manifest.json").exists() and not checkpoint_folder.available(folder):
        raise _nothing(folder)


def _nothing(
    folder: Path, remedy: str = "use --init_from=scratch, or the out_dir of a run that has one"
) -> CheckpointError:
    where = folder / "checkpoints"
    return CheckpointError(f"checkpoint, in {where}: expected one to resume from, got none; {remedy}")


def _require_hardly_begun(session: Session) -> None:
    """Refuses to begin again what has come further than its first checkpoint: someone took that away."""
    run = read_run(session.folder)
    config, data = run.manifest.get("config", {}), run.manifest.get("data")
    _require_same_run(session, config, data.get("sha256", {}) if isinstance(data, dict) else {})
    if config.get("init_from", "scratch") not in ("scratch", "resume"):  # the weights it began with aren't kept
        raise _nothing(session.folder, f"remove the folder, and start again with --init_from={config['init_from']}")
    first = config.get("checkpoint_interval") or config.get("eval_interval") or 0
    if run.summary or (run.rows and run.rows[-1]["step"] > first):
        raise _nothing(session.folder)


def _require_finite(session: Session, saved: Checkpoint) -> None:
    with _explained(session, saved.step):
        require_finite(saved.tree["state"])


def _fitting(session: Session) -> Saved | None:
    """The newest checkpoint, once all of it fits the session; None for a run that begins again."""
    saved = checkpoint.open_newest(session.folder)
    if saved is None:
        _require_hardly_begun(session)
        return None
    tree = saved.outline
    with _explained(session, saved.step):
        _require_same_run(session, tree["config"], tree["data"])
        peaks = session.peak_after(tree), tree["state"]["peak"]
        changes.require_effect(session.config, tree["config"], saved.step, *peaks)
        require_fit(tree, session.model, session.optimizer)
        random, position = session.position()
        require_alike("data position", {"state": position}, {"state": tree["state"]["batches"]})
        require_alike("random", {"cpu": random["cpu"]}, {"cpu": tree["state"]["random"]["cpu"]})
    return saved


@contextmanager
def _explained(session: Session, step: int) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"checkpoint, in {session.folder}, of step {step}: expected the state of this run, "
            f"got {type(error).__name__}: {' '.join(str(error).split())}; resume with the configuration that wrote it"
        ) from error


def _reopened(session: Session, saved: Checkpoint, digest: str) -> RunRecord:
    """The record of a session that was taken up from `saved`, and has `digest` now."""
    note = _note(session, saved, digest)
    if session.looked:
        record = RunRecord.resume(session.folder, session.step, saved.tree["digest"], note)
    else:  # stopped right after the step, whose row the run will write
        record = RunRecord.resume(session.folder, session.step - 1, None, note)
    checkpoint_folder.set_aside_newer(session.folder, session.step)
    return record


def _note(session: Session, saved: Checkpoint, digest: str) -> dict[str, Any]:
    """What the record should say about a resumption."""
    tree, exact = saved.tree, digest == saved.tree["digest"]
    with _explained(session, saved.step):
        if not exact and tree["device"] == session.precision.device.type:
            raise ValueError("a state that comes back with other bits")
    if not exact:
        logger.warning("resumed on another kind of device than before: not bit for bit the run that was stopped")
    changed = {key: {"from": old, "to": new} for key, old, new in changes.changed(session.config, tree["config"])}
    before, now = tree.get("processes", 1), session.world.size
    if before != now:
        changed["processes"] = {"from": before, "to": now}
    if before != now or (now > 1 and "parallel" in changed):
        each = before != now and session.config.grad_clip_of == "each"
        what = "each clips another share of the gradient" if each else "sums are rounded otherwise"
        logger.warning("resumed on other processes than before: %s than in the run before", what)
    origin = {"versions": environment.versions(), "commit": environment.commit()}
    return {"step": saved.step, "changed": changed, "exact": exact, **origin}


def _require_same_run(session: Session, config: dict[str, Any], data: dict[str, str]) -> None:
    changes.require_fixed(session.config, config)
    if data != session.task.data.sha256:
        raise CheckpointError(
            f"checkpoint, in {session.folder}: expected the data that the run started with, got other content in "
            f"{session.task.data.folder}; restore that data set, or start afresh in another out_dir"
        )
