"""The command line `mada-lab`: the only place that parses arguments. Each command is a thin call into the rest."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mada_lab.errors import CheckpointError, ConfigError, Interrupted, LabError
from mada_lab.progress import Warnings

USAGE = """usage: mada-lab COMMAND [ARGUMENTS] [--debug]

  data prepare NAME [--from-file PATH] [--tokenizer gpt2|char] [--bpe-files DIR] [--data-dir DIR] [--workers N]
                        make a data set: pydoc, shakespeare, shakespeare_char, wikitext, wikitext103, lambada,
                        openwebtext, cifar10, digits; docs/data.md tells about each
  train [CONFIG.toml] --key=value ...
                        train a GPT; `mada-lab train --help` lists the keys
  report RUN... [--out PATH]
                        one HTML page about one or several runs
  verify PATH [--deep]  what in a run folder, or a checkpoint, is whole, and what is damaged
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; an error ends the process with its exit code (`mada_lab.errors`) and one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(handlers=[Warnings()])
    try:
        run(words)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except LabError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted; `--init_from=resume` goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def run(words: list[str]) -> None:
    """Finds the command and hands it its arguments."""
    commands: dict[tuple[str, ...], Callable[[list[str]], None]] = {
        ("data", "prepare"): prepare,
        ("train",): train,
        ("report",): report,
        ("verify",): verify,
    }
    for name, command in commands.items():
        if tuple(words[: len(name)]) == name:
            return command(words[len(name) :])
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return None
    known = ", ".join(" ".join(name) for name in commands)
    raise ConfigError(f"command line: expected one of {known}, got {' '.join(words[:2])}; see `mada-lab --help`")


def prepare(words: list[str]) -> None:
    """`data prepare NAME` with its options."""
    names, options = split(words, {"--from-file", "--tokenizer", "--bpe-files", "--data-dir", "--workers"})
    if len(names) != 1:
        raise ConfigError(f"data prepare: expected the name of one data set, got {len(names)}; see `mada-lab --help`")
    workers = options.get("--workers", "1")
    if not workers.isdecimal() or int(workers) < 1:
        raise ConfigError(f"data prepare, option --workers: expected a number of threads, got {workers}; correct it")
    from mada_lab.data.prepare import prepare as prepare_data
    from mada_lab.progress import CountBar

    given, bpe_files = (Path(options[name]) if name in options else None for name in ("--from-file", "--bpe-files"))
    with CountBar(names[0]) as bar:
        folder = prepare_data(
            names[0],
            Path(options.get("--data-dir", "data")),
            given,
            tokenizer=options.get("--tokenizer"),
            bpe_files=bpe_files,
            workers=int(workers) if "--workers" in options else None,
            listen=bar,
        )
    print(f"data set {folder.name}: {folder}")


def train(words: list[str]) -> None:
    """`train [CONFIG.toml] --key=value ...`."""
    from mada_lab import settings

    config = settings.load(words)
    from mada_lab import optimizers
    from mada_lab.data.prepare import open_or_prepare
    from mada_lab.loop import train as train_model
    from mada_lab.progress import ProgressBar

    optimizers.require_known(config.optimizer)
    unused = optimizers.without_effect(config)
    if unused:
        print(f"note: {config.optimizer} has no {', '.join(unused)}: these keys have no effect", file=sys.stderr)
    corpus = open_or_prepare(config.dataset, Path(config.data_dir))
    with ProgressBar(config.max_iters, config.optimizer) as bar:
        session = train_model(config, corpus, bar)
    print(
        f"{config.optimizer}: final validation loss {session.val_loss:.4f} after {session.step} steps: {config.out_dir}"
    )


def report(words: list[str]) -> None:
    """`report RUN... [--out PATH]`."""
    names, options = split(words, {"--out"})
    if not names:
        raise ConfigError("report: expected one run folder or several, got none; see `mada-lab --help`")
    from mada_lab.record import read_run
    from mada_lab.report import headline, write_report

    folders = [Path(name) for name in names]
    page = write_report(folders, Path(options.get("--out", folders[0] / "report.html")))
    print("\n".join(headline([read_run(folder) for folder in folders])))
    print(f"report: {page.resolve()}")


def verify(words: list[str]) -> None:
    """`verify PATH [--deep]`."""
    deep = "--deep" in words
    names, _ = split([word for word in words if word != "--deep"], set())
    if len(names) != 1:
        raise ConfigError(f"verify: expected the folder of a run or a checkpoint, got {len(names)}; name one")
    from mada_lab.verify import verify as findings_in

    findings = findings_in(Path(names[0]), deep)
    print("\n".join(str(finding) for finding in findings))
    bad = sum(not finding.good for finding in findings)
    if bad:
        raise CheckpointError(f"verify, in {names[0]}: expected all of it whole, got {bad} damaged; see above")


def split(words: list[str], allowed: set[str]) -> tuple[list[str], dict[str, str]]:
    """Positional words, and options with their values, given as `--name value` or `--name=value`."""
    names, options = [], {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            names.append(word)
            continue
        name, given, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in allowed:
            raise ConfigError(
                f"command line: expected one of {', '.join(sorted(allowed))}, got {name}; see `mada-lab --help`"
            )
        if not given:
            value = next(rest, "")
        if not value:
            raise ConfigError(f"command line, option {name}: expected a value, got none; see `mada-lab --help`")
        options[name] = value
    return names, options
