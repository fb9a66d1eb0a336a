"""The drill: every promise of docs/lab/reliability.md, tried until it breaks or the counts are through.

    python -m tests.reliability.drill [--scale 1.0] [--only WORD] [--folder DIR] [--write]

`make drill` runs it whole and writes the table into docs/lab/reliability.md. `--folder` tries another file system.
"""

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from mada_lab.checkpoints.folder import available
from mada_lab.data.prepare import prepare
from mada_lab.system import environment
from tests.reliability import crash_points, elastic, fuzz, kills, resumes, rot, runs, siege, stops

PAGE = Path(__file__).parents[2] / "docs" / "lab" / "reliability.md"
BEGIN, END = "<!-- drill: begin -->\n", "<!-- drill: end -->\n"
QUICK = tuple(phase for phase in stops.PHASES if "minute" not in phase)
SLOW = tuple(phase for phase in stops.PHASES if "minute" in phase)


class Drill:
    """The parts, each a function of a folder of its own.

    Attributes:
        scale: Share of the full counts.
    """

    def __init__(self, folder, scale):
        self.folder, self.scale, self.rng = folder, scale, random.Random(20)
        prepare("pydoc", folder / "data")
        self.parts = {
            "crash points of a save and its removals": lambda at: crash_points.of_a_save(at),
            "crash points of a whole run": lambda at: self._points(crash_points.of_a_run, at),
            "crash points, saving in the background": lambda at: self._points(crash_points.of_a_run, at, True),
            "crash points of a resumption": lambda at: self._points(crash_points.of_a_resume, at),
            "crash points of data preparation": lambda at: crash_points.of_data(at, every=self._every()),
            "kill -9 at random moments": lambda at: self._kills(at, False),
            "kill -9, saving in the background": lambda at: self._kills(at, True),
            "kill -9 of one of two processes": lambda at: self._kills_of_two(at, "ddp"),
            "kill -9 of one of two processes, sharded": lambda at: self._kills_of_two(at, "fsdp"),
            "kill -9 of one of two processes, a file each": lambda at: self._kills_of_two(at, "fsdp", "each"),
            "kill -9 of one of two processes, under torchrun --max-restarts": lambda at: elastic.at_random(
                at, self._with_data(elastic.KILLED), self._count(30), self.rng
            ),
            "resume matrix": lambda at: resumes.matrix(at, self._ready(resumes.CONFIG, at)),
            "resume matrix, two processes": lambda at: self._matrix_of_two(at, "ddp"),
            "resume matrix, two processes, sharded": lambda at: self._matrix_of_two(at, "fsdp"),
            "resume matrix, two processes, a file each": lambda at: self._matrix_of_two(at, "fsdp", "each"),
            "SIGTERM in phases of a run": lambda at: self._stops(at, 10, QUICK),
            "SIGTERM in work of a minute": lambda at: self._stops(at, 3, SLOW),
            "SIGTERM in torch.compile": lambda at: stops.in_a_compilation(at, self._with_data(stops.CONFIG), (1, 4, 8)),
            "SIGTERM in data preparation": lambda at: stops.in_data_preparation(at, self._count(20), self.rng),
            "flipped bits": lambda at: rot.flips(self._checkpoint(at), self._count(500), self.rng),
            "every bit of a manifest flipped": lambda at: rot.flips_of_the_manifest(self._checkpoint(at)),
            "truncated files": lambda at: rot.truncations(self._checkpoint(at), self._count(200), self.rng),
            "malicious files": lambda at: siege.of_checkpoints(at, self._with_data(siege.CONFIG)),
            "fuzzed configurations": lambda at: fuzz.configurations(at, self._count(2000), self.rng),
            "fuzzed data files": lambda at: fuzz.data_files(at, self._count(1000), self.rng),
        }

    def run(self, name):
        """The tally of a part, and its seconds."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.folder) as at:
            tally = self.parts[name](Path(at) / "part")
        return tally, time.monotonic() - began

    def _count(self, full):
        return max(1, round(full * self.scale))

    def _every(self):
        return max(1, round(1 / self.scale))

    def _with_data(self, config):
        return replace(config, data_dir=str(self.folder / "data"))

    def _ready(self, config, at):
        at.mkdir()
        return self._with_data(config)

    def _points(self, part, at, background=False):
        config = replace(self._with_data(crash_points.SHORT), background_save=background)
        return part(at, config, every=self._every())

    def _kills(self, at, background):
        config = replace(self._with_data(kills.CONFIG), background_save=background)
        return kills.at_random(at, config, self._count(200), self.rng)

    def _kills_of_two(self, at, parallel, shards="one"):
        config = replace(self._with_data(kills.GROUP), parallel=parallel, checkpoint_shards=shards)
        return kills.at_random(at, config, self._count(30), self.rng, size=2)

    def _matrix_of_two(self, at, parallel, shards="one"):
        config = replace(self._ready(resumes.CONFIG, at), parallel=parallel, checkpoint_shards=shards)
        return resumes.matrix(at, config, accumulations=(2, 4), size=2)

    def _stops(self, at, repeats, phases):
        return stops.in_phases(at, self._with_data(stops.CONFIG), self._count(repeats), self.rng, phases)

    def _checkpoint(self, at):
        config = replace(self._with_data(siege.CONFIG), out_dir=str(at))
        assert runs.in_child(runs.train, config) == 0
        return available(at)[0]


def origin(folder):
    """When, what and where."""
    command = ["stat", "-f", "-c", "%T", folder]
    disk = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    versions = environment.versions()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {environment.commit()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release()}, {disk or 'unknown file system'}, "
        f"Python {versions['python']}, torch {versions['torch']}."
    )


def main():
    """Prints the table; the exit code is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    lines = ["| what is done | what must hold | held | figures | seconds |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    broken = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        drill = Drill(Path(folder), arguments.scale)
        for name in drill.parts:
            if arguments.only in name:
                tally, seconds = drill.run(name)
                broken += len(tally.failures)
                lines.append(f"{tally.row(name)} {seconds:.0f} |")
                print("\n".join([lines[-1], *tally.failures]), flush=True)
        lines = [origin(folder), "", *lines]
    print(lines[0])
    if arguments.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
