"""Checks which parts of a run folder, or of one checkpoint, are whole, and which are damaged. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.errors import ConfigError, LabError, one_line, translated, visible
from mada_lab.records.reading import MANIFEST
from mada_lab.records.run_record import read_run


@dataclass(frozen=True)
class Finding:
    """The state of the record, of a checkpoint, or of another entry of a run folder."""

    name: str  #: its name
    good: bool  #: whether it is whole
    detail: str  #: its size, or the damage

    def __str__(self) -> str:
        return visible(f"{'good' if self.good else 'BAD '}  {self.name}: {self.detail}")


def verify(path: Path, deep: bool) -> list[Finding]:
    """Checks the record and all checkpoints of a run folder, or one checkpoint, the folder `step_NNNNNNNN`.

    If `deep`, it also loads the tensors, and checks that they are finite and fit their configuration. Raises
    ConfigError if `path` is neither.
    """
    if checkpoint_folder.STEP.fullmatch(path.resolve().name) and path.is_dir():
        return [_checkpoint(path, deep)]
    folders = checkpoint_folder.available(path)
    if not folders and not (path / MANIFEST).exists():
        raise ConfigError(f"verify, in {path}: expected a run folder or a checkpoint, got neither; check the path")
    findings = [_record(path), *(_checkpoint(folder, deep) for folder in folders), *_others(path)]
    return findings if folders else [*findings, Finding("checkpoints", True, "none yet")]


def _record(folder: Path) -> Finding:
    try:
        run = read_run(folder)
    except ConfigError as error:
        return Finding("record", False, str(error))
    last = f"up to step {run.rows[-1]['step']}" if run.rows else "none yet"
    ended = "ended" if run.summary is not None else "going on, or stopped"
    return Finding("record", True, f"{len(run.rows)} rows, {last}; {ended}; resumed {len(run.resumes)} times")


def _checkpoint(folder: Path, deep: bool) -> Finding:
    try:
        facts = checkpoint_folder.verify(folder)
        if deep:
            _require_fit(folder)
    except LabError as error:
        return Finding(folder.name, False, str(error))
    return Finding(folder.name, True, f"{len(facts)} files, {sum(x.bytes for x in facts.values()):,} bytes")


def _others(folder: Path) -> Iterator[Finding]:
    for path in checkpoint_folder.leftovers(folder):
        yield Finding(path.name, True, "left by a process that was killed; the next checkpoint removes it")
    for path in checkpoint_folder.strays(folder):
        yield Finding(path.name, True, "has no name of a checkpoint; ignored")


def _require_fit(folder: Path) -> None:
    """Raises CheckpointError unless the state in a checkpoint fits the model and the optimizer of its configuration."""
    from mada_lab.checkpoints import checkpoint, fingerprint, redistribution
    from mada_lab.checkpoints.compatibility import require_fit
    from mada_lab.config import parsing
    from mada_lab.optimizers import catalog
    from mada_lab.tasks.choice import kind, rebuild

    tree = checkpoint.load(folder).tree
    kinds = (LabError, KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError)
    expected = "a state that fits its configuration"
    with translated(kinds, lambda error: checkpoint_folder.damaged(folder, expected, one_line(error))):
        config = parsing.from_values(tree["config"], str(folder), kind(tree))
        model = rebuild(config, tree)
        optimizer = catalog.build(model, catalog.without_idle(config))  # older versions let such keys pass
        require_fit(tree, model, optimizer)
        optimizer.load_state_dict(tree["state"]["optimizer"])
        digest = redistribution.digest(tree["state"], of_shards=fingerprint.is_one(tree["digest"]))
        if digest != tree["digest"]:
            raise ValueError(f"digest: expected {tree['digest']}, got {digest}")
