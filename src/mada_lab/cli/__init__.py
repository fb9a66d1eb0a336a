"""The command line `mada-lab`: the only place that parses arguments. Each command, a file here, calls into the rest."""

import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from mada_lab.config.arguments import suggestion
from mada_lab.errors import ConfigError, Interrupted, LabError, of_memory, visible
from mada_lab.system import optional

#: By topic, the commands and what they do. The file of a command has its `arguments` and its `run`.
TOPICS = {
    "data": {"data prepare": "make a data set: a known one, or one of your own text"},
    "training": {"train": "train a GPT on text", "vision": "train a network on images"},
    "a trained network": {
        "eval": "measure a network on a text: loss, perplexities, bits per byte",
        "generate": "generate text",
        "export": "write a network in Hugging Face's format",
    },
    "a run": {
        "report": "write a page about one run or several",
        "verify": "find damaged files of a run or a checkpoint",
    },
    "experiments": {
        "compare": "train several optimizers with several seeds, and compare their losses",
        "sweep": "train every point of a grid, or draws of a search",
        "grid": "draw contours of the final losses over initial betas",
        "bench": "train small tasks with default and with tuned optimizers",
        "toy": "play an online problem on which Adam fails",
    },
}
HELP = ("-h", "--help")
COMMANDS = [name for commands in TOPICS.values() for name in commands]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. An error is printed in one line and ends the process with its exit code (`errors`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
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
        if words[:1] == typed[:1] and set(words[1:]) <= {*HELP}:  # `data` alone, whose only command is `data prepare`
            return command(name).run(["--help"])
    if not words or words[0] in (*HELP, "help"):
        return print(overview())
    if words[0] == "--version":
        from mada_optim import __version__

        return print(f"mada-lab {__version__}")
    remedy = suggestion(words[0], COMMANDS, suggestion(" ".join(words[:2]), COMMANDS, "see `mada-lab --help`"))
    raise ConfigError(f"command line: expected one of {', '.join(COMMANDS)}, got {' '.join(words[:2])}; {remedy}")


def command(name: str) -> ModuleType:
    """The file of a command, imported when it is asked for: no command pays for another's libraries.

    Raises DataError if a library of the extra `lab` is missing, or torch is too old for the application.
    """
    optional.check_torch()
    bars, found = (optional.load(f"mada_lab.cli.{x}", "mada-optim[lab]") for x in ("bars", name.replace(" ", "_")))
    logging.basicConfig(handlers=[bars.Warnings()])
    return found


def overview() -> str:
    """The help of `mada-lab` itself: a line for each command."""
    lines = ["usage: mada-lab COMMAND [ARGUMENTS]"]
    for topic, commands in TOPICS.items():
        lines += ["", f"{topic}:", *(f"  {name:<14} {does}" for name, does in commands.items())]
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
