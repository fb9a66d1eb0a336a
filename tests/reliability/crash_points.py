"""Every change of the disk, one after another, fails or is the last: of a save, of a run, of its resumption, of data.

The method is SQLite's: the first, the second, ... the n-th operation goes wrong, until there is no n-th.
"""

import logging
import os
import shutil
from dataclasses import replace

import torch

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.data.prepare import prepare
from mada_lab.errors import LabError
from mada_lab.system import files
from tests.reliability import runs
from tests.reliability.faults import MODES, Died, FaultyOs
from tests.reliability.tally import Tally

SHORT = replace(runs.TINY, max_iters=12, checkpoint_interval=4, keep_checkpoints=1, log_interval=4, eval_interval=6)
AFTER_FAULT = {"KILL": (-9,), "POWER": (-9,), "ENOSPC": (0, 2, 4), "EIO": (0, 2, 4), "FULL": (0, 2, 4)}


def tree(step):
    return {"x": torch.full((300,), float(step)), "step": step}


def of_a_save(folder, modes=MODES):
    """Save step 3, and remove step 1 and a leftover, with step 2 kept; in this process."""
    tally = Tally("what is there is whole, old or new; the next save goes well and tidies up")
    logging.disable(logging.WARNING)
    for mode in modes:
        at = 1
        while _save_with_fault(folder / f"{mode}-{at}", at, mode, tally):
            at += 1
        tally.figures[mode] = f"{at - 1} points"
    logging.disable(logging.NOTSET)
    return tally


def _save_with_fault(run_folder, at, mode, tally):
    """Returns whether there was an `at`-th change."""
    for step in (1, 2):
        checkpoint.save(run_folder, Checkpoint(step, tree(step)), keep=2)
    (run_folder / "checkpoints" / "step_00000003.part").mkdir()
    (run_folder / "checkpoints" / "step_00000003.part" / "half").write_text("x")
    files.os = fault = FaultyOs(at, mode, in_process=True)
    try:
        checkpoint.save(run_folder, Checkpoint(3, tree(3)), keep=2)
        outcome = "saved"
    except Died:
        outcome = "died"
    except LabError:
        outcome = "refused"
    finally:
        files.os = os
    tally.case(f"{mode} {at}", _problem_after_save(run_folder, outcome))
    shutil.rmtree(run_folder)
    return at <= len(fault.changes)


def _problem_after_save(run_folder, outcome):
    for path in checkpoint_folder.available(run_folder)[-2:]:
        if checkpoint.load(path).tree["x"].tolist() != tree(checkpoint_folder.step_of(path))["x"].tolist():
            return f"{path.name} holds another state"
    newest = checkpoint.load_newest(run_folder).step
    if newest not in (2, 3) or (outcome == "saved" and newest != 3):
        return f"{outcome}, and the newest is {newest}"
    checkpoint.save(run_folder, Checkpoint(4, tree(4)), keep=2)
    left = sorted(x.name for x in (run_folder / "checkpoints").iterdir())
    expected = ["step_00000003" if newest == 3 else "step_00000002", "step_00000004"]
    return "" if left == expected else f"{outcome}, then there is {left}"


def of_a_run(folder, config, modes=MODES, every=1):
    """A whole run, from the making of its folder to its summary."""
    tally = Tally("readable at once; after a resume the same rows, summary and state as undisturbed")
    reference, changes = _reference(folder, config)
    for mode in modes:
        for at in range(1, changes + 1, every):
            mine = replace(config, out_dir=str(folder / f"{mode}-{at}"))
            tally.case(f"{mode} {at}", _disturbed(mine, (at, mode), reference))
    tally.figures["points"] = str(changes)
    return tally


def of_a_resume(folder, config, modes=MODES, every=1):
    """The resumption of a run that was killed at step 9, its removals of old checkpoints included."""
    tally = Tally("as above")
    reference, _ = _reference(folder, config)
    stopped = replace(config, out_dir=str(folder / "stopped"), background_save=False)  # so that step 8 is saved
    assert runs.in_child(killed_at, stopped, 9) == -9
    copy = replace(config, out_dir=str(folder / "counted"), init_from="resume")
    shutil.copytree(stopped.out_dir, copy.out_dir)
    changes = len(runs.count_changes(copy))
    for mode in modes:
        for at in range(1, changes + 1, every):
            mine = replace(config, out_dir=str(folder / f"{mode}-{at}"), init_from="resume")
            shutil.copytree(stopped.out_dir, mine.out_dir)
            tally.case(f"{mode} {at}", _disturbed(mine, (at, mode), reference))
    tally.figures["points"] = str(changes)
    return tally


def killed_at(config, step):
    """Trains, and dies when `step` steps are done."""
    runs.train(config, at_step=lambda done: os.kill(os.getpid(), 9) if done == step else None)


def _reference(folder, config):
    folder.mkdir()
    whole = replace(config, out_dir=str(folder / "reference"))
    changes = runs.count_changes(whole)
    return runs.finished(whole.out_dir), len(changes)


def _disturbed(config, fault, reference):
    code = runs.in_child(runs.train, config, fault)
    if code not in AFTER_FAULT[fault[1]]:
        return f"exit code {code}"
    if broken := runs.broken(config.out_dir):
        return f"not whole: {broken}"
    if code != 0:
        code = runs.in_child(runs.train, runs.again(config))
    same = code == 0 and runs.finished(config.out_dir) == reference
    shutil.rmtree(config.out_dir)
    return "" if same else f"exit code {code} after the resume, or another result"


def of_data(folder, modes=MODES, every=1):
    """The preparation of the embedded corpus."""
    tally = Tally("no folder, or a whole one; a second preparation gives the undisturbed bytes")
    folder.mkdir()
    files.os = counter = FaultyOs()
    try:
        prepare("pydoc", folder / "reference")
    finally:
        files.os = os
    reference = contents(folder / "reference")
    for mode in modes:
        for at in range(1, len(counter.changes) + 1, every):
            mine = folder / f"{mode}-{at}"
            code = runs.in_child(prepare_with_fault, mine, (at, mode))
            whole = not (mine / "pydoc").exists() or contents(mine) == reference
            right = code in ((-9,) if mode in ("KILL", "POWER") else (0, 3))
            again = contents(prepare("pydoc", mine).parent) == reference
            tally.case(f"{mode} {at}", "" if whole and right and again else f"exit code {code}, {whole=}, {again=}")
    tally.figures["points"] = str(len(counter.changes))
    return tally


def prepare_with_fault(folder, fault):
    files.os = FaultyOs(*fault)
    prepare("pydoc", folder)


def contents(data_dir):
    return {path.name: path.read_bytes() for path in sorted((data_dir / "pydoc").iterdir())}
