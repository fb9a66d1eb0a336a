"""The command line `mada-lab`: the only place that parses arguments. Each command, a file here, calls into the rest."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from mada_lab.cli.bars import Warnings
from mada_lab.config.arguments import hung, suggestion
from mada_lab.errors import ConfigError, Interrupted, LabError, of_memory, visible

#: By topic, the commands as they are typed; the file of a command has its `arguments` and its `run`.
TOPICS = {
    "data": ("data prepare",),
    "training": ("train", "vision"),
    "a trained network": ("eval", "generate", "export"),
    "a run": ("report", "verify"),
    "experiments": ("compare", "sweep", "grid", "bench", "toy"),
}
COMMANDS = [name for names in TOPICS.values() for name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. An error is printed in one line and ends the process with its exit code (`errors`)."""
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
        got = visible(" ".join(str(error).split())[:200])
        print(
            f"error: memory: expected enough for this command, got: {got}; use a smaller network or batch",
            file=sys.stderr,
        )
        sys.exit(ConfigError.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run(words: list[str]) -> None:
    """Finds the command and hands it its arguments. Raises ConfigError for an unknown one."""
    for name in COMMANDS:
        typed = name.split()
        if words[: len(typed)] == typed:
            return command(name).run(words[len(typed) :])
    if not words or words[0] in ("-h", "--help", "help"):
        return print(overview())
    if words[0] == "--version":
        from mada_optim import __version__

        return print(f"mada-lab {__version__}")
    remedy = suggestion(words[0], COMMANDS, suggestion(" ".join(words[:2]), COMMANDS, "see `mada-lab --help`"))
    raise ConfigError(f"command line: expected one of {', '.join(COMMANDS)}, got {' '.join(words[:2])}; {remedy}")


def command(name: str) -> ModuleType:
    """The file of a command, imported when it is asked for: no command pays for another's libraries."""
    return importlib.import_module(f"mada_lab.cli.{name.replace(' ', '_')}")


def overview() -> str:
    """The help of `mada-lab` itself: a line for each command."""
    lines = ["usage: mada-lab COMMAND [ARGUMENTS]"]
    for topic, names in TOPICS.items():
        firsts = {name: command(name).arguments().does.partition(". ")[0].rstrip(".") for name in names}
        lines += ["", f"{topic}:", *(hung(f"  {name:<14} {first}", 17) for name, first in firsts.items())]
    lines += [
        "",
        "options:",
        "  --help         with a command: its arguments, their defaults and an example",
        "  --version      print the version",
        "  --debug        with a command: print the traceback of an error",
        "",
        "example:",
        "  mada-lab train --dataset=pydoc --max_iters=500",
    ]
    return "\n".join(lines)
