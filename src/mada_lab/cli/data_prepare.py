"""`mada-lab data prepare`."""

from argparse import ArgumentTypeError
from fractions import Fraction

from mada_lab.config.arguments import Arguments, number, path, whole

OWN = "text"
MOST_WORKERS = 1024  # threads


def arguments() -> Arguments:
    """What may be typed after `data prepare`."""
    does = "Make a data set: a known one, or one of your own text (docs/lab/data.md)."
    names = (
        "text for your own; or pydoc, shakespeare, shakespeare_char, wikitext, wikitext103, lambada, openwebtext, "
        "cifar10, digits."
    )
    example = "mada-lab data prepare text --from-file my.txt --name mytext"
    made = Arguments("data prepare", does, example, {"NAME": names})
    meaning = "File or folder instead of the download; with `text`, a text file in UTF-8 or a folder of them."
    made.option("from-file", meaning, path, shown="PATH")
    meaning = "characters, gpt2, or gpt2_small (2,048 of GPT-2's tokens; wikitext). (default: that of the set)"
    made.option("tokenizer", meaning, shown="NAME")
    made.option(
        "bpe-files", "Folder with GPT-2's encoder.json and vocab.bpe, instead of a download.", path, shown="DIR"
    )
    made.option("data-dir", "Folder of the data sets.", path, "data", "DIR")
    made.option("workers", "Threads that encode. (default: one per CPU)", whole(1, MOST_WORKERS), shown="N")
    topic = "with `text`"
    made.option("name", "Name of the data set, for --dataset.", shown="NAME", topic=topic)
    meaning = "Share of each file's characters, at its end, that validates; in (0, 1). (default: 0.1)"
    made.option("validation-share", meaning, _share, shown="X", topic=topic)
    return made


def run(words: list[str]) -> None:
    """`data prepare NAME` with its options."""
    options = arguments()
    given = options.read(words)
    (name,) = given.places
    own = name == OWN
    for option, value in (("name", given.name), ("validation-share", given.validation_share)):
        if value is not None and not own:
            options.error(f"option --{option}: expected none beside {name}, got {value}")
    if own and (given.from_file is None or given.name is None):
        options.error("expected --from-file and --name beside text")
    from mada_lab.cli.bars import CountBar
    from mada_lab.data.corpus import Corpus
    from mada_lab.data.prepare import prepare

    tokenizer = "char" if given.tokenizer == "characters" else given.tokenizer
    share = (given.validation_share or Fraction(1, 10)) if own else None
    with CountBar(given.name or name) as bar:
        folder = prepare(
            given.name or name,
            given.data_dir,
            given.from_file,
            tokenizer=tokenizer,
            bpe_files=given.bpe_files,
            workers=given.workers,
            listen=bar,
            own=share,
        )
    print(f"data set {folder.name}: {folder}")
    if share is not None:
        made = Corpus.open(folder)
        print(
            f"{len(made.train):,} training tokens, {len(made.val):,} validation tokens: the last {float(share):.3g} "
            f"of each file's characters; {made.vocabulary_size:,} different tokens"
        )


def _share(given: str) -> Fraction:
    """Exactly the share that is written, in (0, 1)."""
    if number()(given) >= 1:
        raise ArgumentTypeError(f"expected a number in (0, 1), got {given}")
    return Fraction(given)
