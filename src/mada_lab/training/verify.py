"""What in a run folder, or in one checkpoint, is whole, and what is damaged. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.errors import CheckpointError, ConfigError, LabError, visible
from mada_lab.records import run_record


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: What it is.
        good: Whether it is whole.
        detail: Its size, or what is wrong with it.
    """

    name: str
    good: bool
    detail: str

    def __str__(self) -> str:
        """One line."""
        return visible(f"{'good' if self.good else 'BAD '}  {self.name}: {self.detail}")


def verify(path: Path, deep: bool) -> list[Finding]:
    """Looks at every checkpoint and at the record of a run, or at one checkpoint.

    Args:
        path: A run folder, or a folder `step_NNNNNNNN`.
        deep: Also load the tensors, and look whether they fit their own configuration and are finite.

    Raises:
        ConfigError: There is neither in `path`.
    """
    if checkpoint_folder.STEP.fullmatch(path.resolve().name) and path.is_dir():
        return [_checkpoint(path, deep)]
    folders = checkpoint_folder.available(path)
    if not folders and not (path / run_record.MANIFEST).exists():
        raise ConfigError(f"verify, in {path}: expected a run folder or a checkpoint, got neither; check the path")
    findings = [_record(path), *(_checkpoint(folder, deep) for folder in folders), *_others(path)]
    return findings if folders else [*findings, Finding("checkpoints", True, "none yet")]


def _record(folder: Path) -> Finding:
    try:
        run = run_record.read_run(folder)
    except ConfigError as error:
        return Finding("record", False, str(error))
    last = f"up to step {run.rows[-1]['step']}" if run.rows else "none yet"
    ended = "ended" if run.summary is not None else "going on, or stopped"
    return Finding("record", True, f"{len(run.rows)} rows, {last}; {ended}; resumed {len(run.resumes)} times")


def _checkpoint(folder: Path, deep: bool) -> Finding:
    try:
        facts = checkpoint_folder.verify(folder)
        if deep:
            _look_inside(folder)
    except LabError as error:
        return Finding(folder.name, False, str(error))
    return Finding(folder.name, True, f"{len(facts)} files, {sum(x.bytes for x in facts.values()):,} bytes")


def _others(folder: Path) -> Iterator[Finding]:
    for path in checkpoint_folder.leftovers(folder):
        yield Finding(path.name, True, "left by a process that was killed; the next checkpoint removes it")
    for path in checkpoint_folder.strays(folder):
        yield Finding(path.name, True, "no checkpoint by its name; passed over")


def _look_inside(folder: Path) -> None:
    """Raises CheckpointError unless the state in a checkpoint fits a model and an optimizer of its configuration."""
    from mada_lab.checkpoints import checkpoint, fingerprint, redistribution
    from mada_lab.checkpoints.compatibility import require_fit
    from mada_lab.compute.world import ALONE
    from mada_lab.config import parsing
    from mada_lab.optimizers import catalog
    from mada_lab.tasks.choice import kind, rebuild

    tree = checkpoint.load(folder).tree
    try:
        config = parsing.from_values(tree["config"], str(folder), kind(tree))
        model = rebuild(config, tree)
        optimizer = catalog.build(model, catalog.without_idle(config))  # older versions let such keys pass
        require_fit(tree, model, optimizer)
        optimizer.load_state_dict(tree["state"]["optimizer"])
        digest = redistribution.digest(tree["state"], ALONE, fingerprint.is_one(tree["digest"]))
        if digest != tree["digest"]:
            raise ValueError(f"digest: expected {tree['digest']}, got {digest}")
    except (LabError, KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(checkpoint_folder.damage(folder, "a state that fits its configuration", got)) from error
