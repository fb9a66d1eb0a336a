"""Checks and times on a CUDA device what a CPU can't show, within a fixed time; the results are one JSON file.

    benchmarks/gpu.sh [--minutes 9.5] [--out out/gpu] [--only PART ...]    writes OUT/gpu.json, anew after each part
    python -m benchmarks.gpu --table out/gpu/gpu.json [--write]            tables in Markdown; --write: into PAGE
    python -m benchmarks.gpu --device cpu --tiny --out DIR                 every part, small: a rehearsal on a CPU

A part is an entry of `PARTS`: commands in processes of their own, with a limit of time. A part that fails or runs out
of time stops no other. A part whose packages are missing is skipped, in one printed line.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "performance.md"
BEGIN, END = "<!-- gpu: begin -->\n", "<!-- gpu: end -->\n"
LEAST = 3.0  # seconds: with less left, a part isn't begun
OURS = "MADA, all six learned|MADA, six and lr learned|MADA, bf16 state|MADA, none learned|AutoAdam|Adam|Lion".split(
    "|"
)
FEW = ["MADA, all six learned", "Adam"]

Row = dict[str, Any]
Command = list[str]


@dataclass(frozen=True)
class Setting:
    """Where the parts run, and how large they are."""

    device: str = "cuda"
    tiny: bool = False

    @property
    def processes(self) -> int:
        """How many share the tests, most of whose time is Triton's compiler."""
        return 1 if self.tiny else max(1, min(8, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True)
class Part:
    """Some commands, which leave rows in a folder of their own."""

    name: str
    minutes: float  # the most that it may take
    commands: Callable[[Setting, Path], list[Command]]
    read: Callable[[Path], list[Row]] = lambda folder: rows_in(folder)
    needs: tuple[str, ...] = ()  # packages beside torch
    cuda: bool = False  # whether it says nothing on a CPU
    at_once: bool = False  # whether its commands run at the same time


def python(*words: object) -> Command:
    return [sys.executable, *map(str, words)]


def rows_in(folder: Path) -> list[Row]:
    """The rows of all files of JSON in a folder, a list in each."""
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


# The parts: commands of each, and how their rows are read.


def facts(setting: Setting, folder: Path) -> list[Command]:
    return [python("-m", "benchmarks.gpu", "--facts", folder / "facts.json", "--device", setting.device)]


def tests(setting: Setting, folder: Path) -> list[Command]:
    """Shares of tests/gpu; their configuration needs no plugins of pytest."""
    words = ["-m", "pytest", "-q", "-c", "tests/gpu/pytest_alone.ini", "--rootdir", ".", "-p", "no:cacheprovider"]
    words += ["tests/gpu", "-k", "state_saved or shards"] if setting.tiny else ["tests/gpu"]
    count = setting.processes
    shares = [(f"--share={i + 1}/{count}", f"--record={folder / f'{i}.jsonl'}") for i in range(count)]
    return [python(*words, *share) for share in shares]


def test_rows(folder: Path) -> list[Row]:
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def step_times(model: str, *names: str, graph: bool = False, repeats: int = 15) -> Callable[..., list[Command]]:
    """Of a model's tensors, with the optimizers that are named, or with all."""

    def commands(setting: Setting, folder: Path) -> list[Command]:
        words = ["-m", "benchmarks.step_time", "--device", setting.device, "--json", folder / "rows.json"]
        words += ["--model", "200x1000", "--repeats", 2] if setting.tiny else ["--model", model, "--repeats", repeats]
        chosen = FEW if setting.tiny else names
        return [python(*words, *["--graph"] * graph, *["--only", *chosen] * bool(chosen))]

    return commands


def polar_factors(setting: Setting, folder: Path) -> list[Command]:
    size = ["--tiny"] if setting.tiny else []
    return [python("-m", "benchmarks.polar_time", "--device", setting.device, "--json", folder / "rows.json", *size)]


def training_steps(model: str, *options: str) -> Callable[..., list[Command]]:
    def commands(setting: Setting, folder: Path) -> list[Command]:
        words = ["-m", "benchmarks.training_step", "--device", setting.device, "--json", folder / "rows.json"]
        size = ["--model", "tiny", "--repeats", 2] if setting.tiny else ["--model", model]
        return [python(*words, *size, *options)]

    return commands


def lab(setting: Setting, folder: Path) -> list[Command]:
    """The demonstration's network in bf16, compiled by torch; in a rehearsal a few steps of a smaller one."""
    options = [f"--device={setting.device}", "--dtype=bfloat16", f"--data_dir={folder / 'data'}"]
    small = (
        "--compile=False --max_iters=4 --warmup_iters=2 --eval_iters=1 --n_layer=1 --n_embd=32 --block_size=16".split()
    )
    options += small if setting.tiny else ["--compile=True"]
    train = ["-m", "mada_lab", "train", "configs/demo.toml", *options]
    optimizers = ("mada",) if setting.tiny else ("mada", "adamw")
    return [python(*train, f"--optimizer={x}", f"--out_dir={folder / x}") for x in optimizers]


def lab_rows(folder: Path) -> list[Row]:
    """What the finished runs say of themselves."""
    summaries = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/summary.json"))}
    keys = ("final_train_loss", "final_val_loss", "seconds", "peak_memory_bytes")
    return [{"optimizer": name, **{key: x[key] for key in keys if key in x}} for name, x in summaries.items()]


LAB = ("numpy", "tqdm", "safetensors", "jinja2")
#: One entry each, in order: what is most worth knowing comes first. Their limits add up to less than 9.5 minutes.
PARTS = (
    Part("device", 0.5, facts),
    Part("tests", 3.2, tests, read=test_rows, needs=("pytest", *LAB), at_once=True),
    Part("step, 3.2M", 0.8, step_times("3.2M", *OURS, "AutoMuon", "torch Muon and AdamW fused", "MADA, eager engine")),
    Part("step, 124M", 0.7, step_times("124M", *OURS, "AutoMuon", "torch Muon and AdamW fused")),
    Part("step, 200 tensors", 0.4, step_times("200x1000", *OURS)),
    Part("polar factors", 0.3, polar_factors),
    Part("training step, 10.7M", 0.4, training_steps("10.7M")),
    Part("training step, 124M bf16", 0.6, training_steps("124M", "--bf16")),
    Part("graph, 3.2M", 0.3, step_times("3.2M", *OURS, graph=True), cuda=True),
    Part("graph, 200 tensors", 0.3, step_times("200x1000", *OURS, graph=True), cuda=True),
    Part("mada-lab train", 1.5, lab, read=lab_rows, needs=LAB),
)


# Running them.


def run_parts(parts: Sequence[Part], setting: Setting, out: Path, minutes: float) -> dict[str, Any]:
    """Runs the parts in order and writes OUT/gpu.json after each; returns what it holds."""
    began, found = time.monotonic(), list[Row]()
    results = {"commit": commit(), "setting": vars(setting), "minutes": minutes, "parts": found}
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        folder = out / part.name.replace(", ", "-").replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        left = 60 * minutes - (time.monotonic() - began)
        found.append(run_part(part, setting, folder, left))
        results["seconds"] = round(time.monotonic() - began, 1)
        write(out / "gpu.json", results)
        last = found[-1]
        print(f"{part.name:26} {last['state']:12} {last['seconds']:6.1f} s  {last['reason']}", flush=True)
    return results


def run_part(part: Part, setting: Setting, folder: Path, left: float) -> Row:
    """State, rows and reason of one part, of which `left` is the time in seconds that all parts have left."""
    began = time.monotonic()
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    limit = min(60 * part.minutes, left)
    if missing:
        state, reason = "skipped", f"not installed: {', '.join(missing)}"
    elif part.cuda and setting.device != "cuda":
        state, reason = "skipped", "needs a CUDA device"
    elif limit < LEAST:
        state, reason = "out of time", "not begun"
    else:
        state, reason = run_commands(part.commands(setting, folder), folder, began + limit, part.at_once, setting)
    rows = list[Row]()
    try:
        rows = part.read(folder)
    except (ValueError, OSError) as error:  # cut off while it was written
        reason = f"{reason}; rows can't be read: {error}"
    if state == "ok" and not rows:
        state, reason = "failed", "left no rows"
    seconds = round(time.monotonic() - began, 1)
    return {"name": part.name, "state": state, "reason": reason, "seconds": seconds, "rows": rows}


def run_commands(commands: list[Command], folder: Path, end: float, at_once: bool, setting: Setting) -> tuple[str, str]:
    """Runs commands until `end`, a time of the monotonic clock; the state of the worst, and its last line."""
    states, running = list[tuple[str, str]](), list[Running]()
    try:
        for i, command in enumerate(commands):
            running.append(Running(command, folder / f"{i}.log", setting))
            if not at_once:
                states.append(running.pop().outcome(end))
        states += [x.outcome(end) for x in running]
    finally:
        for x in running:
            x.kill()
    order = ("out of time", "failed", "ok")
    return min(states, key=lambda x: order.index(x[0]))


class Running:
    """A command in a process group of its own, whose output goes to a file."""

    def __init__(self, command: Command, log: Path, setting: Setting) -> None:
        self._log = log
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "MADA_GPU_TESTS_ON": setting.device}
        environment.setdefault("TRITON_CACHE_DIR", str(log.parents[1] / "triton"))  # what a part compiles, others find
        with log.open("w") as file:
            options = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": ROOT, "env": environment}
            self._process = subprocess.Popen(command, start_new_session=True, **options)

    def outcome(self, end: float) -> tuple[str, str]:
        """The state, and the last line that was printed if it isn't "ok"."""
        try:
            code = self._process.wait(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return "out of time", self.last_line()
        return ("ok", "") if code == 0 else ("failed", f"exit status {code}: {self.last_line()}")

    def last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "printed nothing")

    def kill(self) -> None:
        """Ends the command and the processes that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def write(path: Path, value: object) -> None:
    """Writes JSON so that a reader never sees a part of it."""
    path.with_suffix(".new").write_text(json.dumps(value, indent=1))
    path.with_suffix(".new").replace(path)


def commit() -> str | None:
    """The commit that is checked out; None if git can't tell."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device_facts(device: str) -> Row:
    """The device, its copy bandwidth, and the versions of what runs on it."""
    import torch

    from benchmarks.step_time import copy_bandwidth
    from mada_optim.engines.triton import engine

    row: Row = {"device": platform.processor() or platform.machine()}
    if device == "cuda":
        of = torch.cuda.get_device_properties(0)
        row = {"device": of.name, "capability": f"{of.major}.{of.minor}", "memory GiB": round(of.total_memory / 2**30)}
        row["copy GB/s"] = round(copy_bandwidth(torch.device("cuda"), 15) / 1e9)
    triton = importlib.import_module("triton").__version__ if engine.installed() else None
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton}
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    fault = engine.fault(torch.device(device))
    return {**row, **versions, "python": platform.python_version(), "C compiler": compiler, "Triton's fault": fault}


# The tables.


def page_section(results: dict[str, Any]) -> str:
    """The results in Markdown: the device, each part's state, and a table of each part's rows."""
    by_name = {part["name"]: part for part in results["parts"]}
    device = ", ".join(f"{key} {x}" for row in by_name.get("device", {}).get("rows", []) for key, x in row.items() if x)
    lines = [f"Commit {results['commit']}; {device}; {results['seconds']:.0f} s in all.", ""]
    states = [
        {"part": x["name"], "state": x["state"], "seconds": x["seconds"], "reason": x["reason"]}
        for x in by_name.values()
    ]
    lines += [*table(states), ""]
    for name, part in by_name.items():
        rows = summed(part["rows"]) if name == "tests" else part["rows"]
        if rows and name != "device":
            lines += [f"**{name}**", "", *table(rows), ""]
    return "\n".join(lines)


def summed(tests: list[Row]) -> list[Row]:
    """Numbers of tests by outcome, and the tests that failed."""
    counts = Counter(row["outcome"] for row in tests)
    totals = [{"tests": outcome, "number": n, "message": ""} for outcome, n in sorted(counts.items())]
    failed = [row for row in tests if row["outcome"] == "failed"]
    return totals + [{"tests": f"`{x['test']}`", "number": 1, "message": x["message"].split("\n")[0]} for x in failed]


def table(rows: list[Row]) -> list[str]:
    """Rows in Markdown; a list of three numbers is a median with its quartiles."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[cell(row.get(key, "")) for key in columns] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *lines)]


def cell(x: object) -> str:
    if isinstance(x, list):
        low, middle, high = map(cell, x)
        return f"{middle} [{low}, {high}]"
    return f"{x:.4g}" if isinstance(x, float) else "" if x is None else str(x).replace("|", "/").replace("\n", " ")


def write_page(section: str, page: Path = PAGE) -> None:
    """Puts the section between the page's markers. Raises ValueError if they are missing."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: expected {BEGIN.strip()} and {END.strip()} around the tables; put them back")
    page.write_text(f"{before}{BEGIN}\n{section.strip()}\n\n{END}{after}")


def main() -> None:
    """Runs the parts, or prints the tables of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="the most that all parts together may take")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: a rehearsal")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[part.name for part in PARTS])
    parser.add_argument("--table", type=Path, metavar="JSON", help="prints the tables of a file, and runs nothing")
    parser.add_argument(
        "--write", action="store_true", help="with --table: writes them into docs/results/performance.md"
    )
    parser.add_argument("--facts", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setting = Setting(arguments.device, arguments.tiny)
    if arguments.facts:
        write(arguments.facts, [device_facts(arguments.device)])
    elif arguments.table:
        section = page_section(json.loads(arguments.table.read_text()))
        write_page(section) if arguments.write else print(section)
    else:
        parts = [part for part in PARTS if not arguments.only or part.name in arguments.only]
        results = run_parts(parts, setting, arguments.out.absolute(), arguments.minutes)
        sys.exit(any(part["state"] in ("failed", "out of time") for part in results["parts"]))


if __name__ == "__main__":
    main()
