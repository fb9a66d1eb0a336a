"""Every attack against every reader, each in a process of its own that is watched."""

import json
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from mada_lab.checkpoints.folder import available
from mada_lab.errors import CheckpointError
from mada_lab.training.verify import verify
from tests.reliability import runs
from tests.reliability.attacks import ATTACKS, naive_loader_is_hit
from tests.reliability.tally import Tally

LIMIT = 10.0  # seconds
MEMORY = 200 << 20  # bytes, beside twice the files
#: To a resume it is a key that may not be changed; the checkpoint itself is seen to be damaged by `verify`.
KEYS_OF_ANOTHER_RUN = "a configuration of 10^9 layers"
CONFIG = replace(runs.TINY, max_iters=6, checkpoint_interval=6, keep_checkpoints=1)


def of_checkpoints(folder, config, names=tuple(ATTACKS)):
    """Resumes, and verifies deeply, what each attack made of a good run."""
    tally = Tally("refused by train and by verify --deep in 10 s, in bounded memory; no code is run")
    folder.mkdir()
    canary = folder / "canary"
    assert naive_loader_is_hit(canary)
    good = replace(config, out_dir=str(folder / "good"))
    assert runs.in_child(runs.train, good) == 0
    slowest, largest = 0.0, 0
    for i, name in enumerate(names):
        mine = replace(config, out_dir=str(folder / f"{i}"), init_from="resume", max_iters=8)
        shutil.copytree(good.out_dir, mine.out_dir)
        ATTACKS[name](available(Path(mine.out_dir))[0], canary)
        expected = 2 if name.startswith("record: ") or name == KEYS_OF_ANOTHER_RUN else 4
        problems = []
        for reader, code in ((resume, expected), (deep, 4)):
            began = time.monotonic()
            got = runs.in_child(watched, reader, mine, folder / "report")
            seconds, grown, classes = time.monotonic() - began, *json.loads((folder / "report").read_text())
            slowest, largest = max(slowest, seconds), max(largest, grown)
            if got != code or seconds > LIMIT or classes or grown > 2 * size(Path(mine.out_dir)) + MEMORY:
                problems.append(f"{reader.__name__}: exit code {got}, {seconds:.1f} s, {grown:,} bytes, {classes}")
        if canary.exists():
            problems.append("code was run")
            canary.unlink()
        tally.case(name, "; ".join(problems))
        shutil.rmtree(mine.out_dir)
    tally.figures = {"slowest": f"{slowest:.1f} s", "most memory": f"{largest / 2**20:.0f} MiB"}
    return tally


def resume(config):
    runs.train(config)


def deep(config):
    folder = Path(config.out_dir)
    bad = [finding for finding in verify(folder, deep=True) if not finding.good]
    if bad or not available(folder):
        raise CheckpointError(f"{len(bad)} bad")


def watched(reader, config, report):
    """Reads, and leaves in `report` how far the memory grew and what was unpickled."""
    classes = []

    def hook(event, arguments):
        if event in ("pickle.find_class", "os.system"):
            classes.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report.write_text('[0, ["died"]]')
    try:
        reader(config)
    finally:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        report.write_text(json.dumps([grown, classes]))


def size(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
