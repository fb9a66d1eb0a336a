"""`mada-lab data prepare`."""

from pathlib import Path

from mada_lab.cli.words import split, whole_number
from mada_lab.errors import ConfigError

MOST_WORKERS = 1024  # threads
USAGE = """\
data prepare NAME [--from-file PATH] [--tokenizer gpt2|gpt2_small|char] [--bpe-files DIR] [--data-dir DIR] [--workers N]
    make a data set: pydoc, shakespeare, shakespeare_char, wikitext, wikitext103, lambada, openwebtext, cifar10, digits;
    docs/lab/data.md tells about each
"""


def run(words: list[str]) -> None:
    """`data prepare NAME` with its options."""
    names, options = split(words, {"--from-file", "--tokenizer", "--bpe-files", "--data-dir", "--workers"})
    if len(names) != 1:
        raise ConfigError(f"data prepare: expected the name of one data set, got {len(names)}; see `mada-lab --help`")
    workers = whole_number("data prepare", options, "--workers", 1, 1, MOST_WORKERS)
    from mada_lab.cli.bars import CountBar
    from mada_lab.data.prepare import prepare as prepare_data

    given, bpe_files = (Path(options[name]) if name in options else None for name in ("--from-file", "--bpe-files"))
    with CountBar(names[0]) as bar:
        folder = prepare_data(
            names[0],
            Path(options.get("--data-dir", "data")),
            given,
            tokenizer=options.get("--tokenizer"),
            bpe_files=bpe_files,
            workers=workers if "--workers" in options else None,
            listen=bar,
        )
    print(f"data set {folder.name}: {folder}")
