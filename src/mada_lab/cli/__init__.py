"""The command line `mada-lab`: the only place that parses arguments. Each command, a file here, calls into the rest."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from mada_lab.cli.bars import Warnings
from mada_lab.errors import ConfigError, Interrupted, LabError, of_memory, visible

#: What is typed, and the file that has its USAGE and its `run`.
COMMANDS = {
    ("data", "prepare"): "data_prepare",
    ("train",): "train",
    ("report",): "report",
    ("verify",): "verify",
    ("vision",): "vision",
    ("eval",): "eval",
    ("export",): "export",
    ("generate",): "generate",
    ("toy",): "toy",
    ("sweep",): "sweep",
    ("grid",): "grid",
    ("compare",): "compare",
    ("bench",): "bench",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; an error ends the process with its exit code (`mada_lab.errors`) and one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(handlers=[Warnings()])
    try:
        run(words)
    except LabError as error:
        if debug and not isinstance(error, Interrupted):
            raise
        if not error.is_shared or os.environ.get("RANK", "0") == "0":
            print(error if isinstance(error, Interrupted) else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if debug or not of_memory(error):
            raise
        what = f"expected enough of it for this command, got: {' '.join(str(error).split())[:200]}"
        print(f"error: memory: {visible(what)}; lower the sizes of the network or the batch", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted; `--init_from=resume` goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def run(words: list[str]) -> None:
    """Finds the command and hands it its arguments."""
    for typed, file in COMMANDS.items():
        if tuple(words[: len(typed)]) == typed:
            return command(file).run(words[len(typed) :])
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: mada-lab COMMAND [ARGUMENTS] [--debug]")
        for file in COMMANDS.values():
            print("\n" + command(file).USAGE, end="")
        return None
    known = ", ".join(" ".join(typed) for typed in COMMANDS)
    raise ConfigError(f"command line: expected one of {known}, got {' '.join(words[:2])}; see `mada-lab --help`")


def command(file: str) -> ModuleType:
    """The file of a command, imported when it is asked for: no command pays for another's libraries."""
    return importlib.import_module(f"mada_lab.cli.{file}")
