"""Begins or resumes a run: brings its state and its record to the same step."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mada_lab.checkpoints import checkpoint, fingerprint, redistribution
from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.checkpoints.compatibility import require_alike, require_finite, require_fit
from mada_lab.checkpoints.reading import Saved
from mada_lab.checkpoints.saver import WritesNothing
from mada_lab.errors import CheckpointError, one_line, translated
from mada_lab.records.reading import MANIFEST
from mada_lab.records.run_record import RunRecord, read_run, require_absent
from mada_lab.system import environment
from mada_lab.training import changes, lr_schedule
from mada_lab.training.state import TrainState

#: The remedy of `mada-lab train` and `vision` if the folder is in use already.
GO_ON = "`--init_from=resume` goes on; another --out_dir starts anew"

logger = logging.getLogger(__name__)


def open_record(state: TrainState) -> RunRecord | WritesNothing:
    """The record of a fresh run, or of a resumed one, whose checkpoint is restored into `state`.

    A run that was stopped before its first checkpoint begins again.

    Raises:
        ConfigError: The folder holds another run, or its record is damaged.
        CheckpointError: There is no checkpoint, no whole one, or one of another run.
    """
    world = state.world
    if state.config.init_from != "resume":
        state.config = lr_schedule.resolved(state.config)
        return world.on_first(lambda: RunRecord.create(state.folder, state.manifest())) or WritesNothing()
    newest = world.on_first(lambda: _fitting(state))
    state.config = replace(state.config, warmup_iters=world.broadcast(state.config.warmup_iters))
    saved = redistribution.load_on_all(newest, state.folder, state.model, state.optimizer, world)
    if saved is None:
        return world.on_first(lambda: RunRecord.resume(state.folder, -1)) or WritesNothing()
    explained = _of_this_run(state, saved.step)
    world.together(lambda: explained(require_finite)(saved.tree["state"]), CheckpointError)
    explained(state.restore)(saved)
    digest = state.digest(fingerprint.is_one(saved.tree["digest"]))
    return world.on_first(lambda: _reopened(state, saved, digest)) or WritesNothing()


def require_place(state: TrainState, remedy: str = GO_ON) -> None:
    """Raises ConfigError if the folder of a fresh run holds a run, CheckpointError if that of a resumed run has none.

    `remedy` ends the first error, in words of the command that began the run. Writes nothing.
    """
    folder = state.folder
    if state.config.init_from != "resume":
        require_absent(folder, remedy)
    elif not (folder / MANIFEST).exists() and not checkpoint_folder.available(folder):
        raise _nothing(folder)


def _nothing(
    folder: Path, remedy: str = "use --init_from=scratch, or the out_dir of a run that has one"
) -> CheckpointError:
    where = folder / "checkpoints"
    return CheckpointError(f"checkpoint, in {where}: expected one to resume from, got none; {remedy}")


def _require_hardly_begun(state: TrainState) -> None:
    """Refuses to begin again if the run has passed its first checkpoint, which someone has removed."""
    run = read_run(state.folder)
    config, data = run.manifest.get("config", {}), run.manifest.get("data")
    _require_same_run(state, config, data.get("sha256", {}) if isinstance(data, dict) else {})
    if config.get("init_from", "scratch") not in ("scratch", "resume"):  # the weights it began with aren't kept
        raise _nothing(state.folder, f"remove the folder, and start again with --init_from={config['init_from']}")
    first = config.get("checkpoint_interval") or config.get("eval_interval") or 0
    if run.summary or (run.rows and run.rows[-1]["step"] > first):
        raise _nothing(state.folder)


def _fitting(state: TrainState) -> Saved | None:
    """The newest checkpoint, once all of it fits `state`; None for a run that begins again."""
    saved = checkpoint.open_newest(state.folder)
    if saved is None:
        _require_hardly_begun(state)
        return None
    tree = saved.outline
    with _of_this_run(state, saved.step):
        _require_same_run(state, tree["config"], tree["data"])
        peaks = state.peak_after(tree), tree["state"]["peak"]
        changes.require_effect(state.config, tree["config"], saved.step, *peaks)
        require_fit(tree, state.model, state.optimizer)
        random, position = state.position()
        require_alike("data position", {"state": position}, {"state": tree["state"]["batches"]})
        require_alike("random", {"cpu": random["cpu"]}, {"cpu": tree["state"]["random"]["cpu"]})
    return saved


@contextmanager
def _of_this_run(state: TrainState, step: int) -> Iterator[None]:
    """Turns the errors of a checkpoint that doesn't fit into ours."""

    def misfit(error: Exception) -> CheckpointError:
        what = f"expected the state of this run, got {one_line(error)}; resume with the configuration that wrote it"
        return CheckpointError(f"checkpoint, in {state.folder}, of step {step}: {what}")

    with translated((KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError), misfit):
        yield


def _reopened(state: TrainState, saved: Checkpoint, digest: str) -> RunRecord:
    """The record of a run that was restored from `saved`, and has `digest` now."""
    note = _note(state, saved, digest)
    if state.reported:
        record = RunRecord.resume(state.folder, state.step, saved.tree["digest"], note)
    else:  # stopped right after the step, whose row the run will write
        record = RunRecord.resume(state.folder, state.step - 1, None, note)
    checkpoint_folder.set_aside_newer(state.folder, state.step)
    return record


def _note(state: TrainState, saved: Checkpoint, digest: str) -> dict[str, Any]:
    """The record's note about this resumption."""
    tree, exact = saved.tree, digest == saved.tree["digest"]
    with _of_this_run(state, saved.step):
        if not exact and tree["device"] == state.precision.device.type:
            raise ValueError("a state that comes back with other bits")
    if not exact:
        logger.warning("resumed on another kind of device than before: not bit for bit the run that was stopped")
    changed = {key: {"from": old, "to": new} for key, old, new in changes.changed(state.config, tree["config"])}
    before, now = tree.get("processes", 1), state.world.size
    if before != now:
        changed["processes"] = {"from": before, "to": now}
    if before != now or (now > 1 and "parallel" in changed):
        each = before != now and state.config.grad_clip_of == "each"
        why = "each clips another share of the gradient" if each else "sums are rounded differently"
        logger.warning("resumed on other processes than before: %s than in the run before", why)
    origin = {"versions": environment.versions(), "commit": environment.commit()}
    return {"step": saved.step, "changed": changed, "exact": exact, **origin}


def _require_same_run(state: TrainState, config: dict[str, Any], data: dict[str, str]) -> None:
    """Raises an error unless `state` continues the run of `config` and `data`; keeps the warm-up of that run."""
    state.config = lr_schedule.resolved(state.config, config)
    changes.require_fixed(state.config, config)
    if data != state.task.data.sha256:
        raise CheckpointError(
            f"checkpoint, in {state.folder}: expected the data that the run started with, got other content in "
            f"{state.task.data.folder}; restore that data set, or start afresh in another out_dir"
        )
