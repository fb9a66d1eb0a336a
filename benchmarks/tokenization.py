"""Preparing a text with GPT-2's tokenizer, paired with tiktoken's own batch encoder on the same threads.

    python benchmarks/tokenization.py --text DIR --bpe-files DIR [--threads 2] [--repeats 15]

DIR holds wikitext2's valid.txt and test.txt. Ours goes from these files to the token files on the disk, digests of both
and the flush to the disk included. tiktoken's is `encode_ordinary_batch` on the same text in memory, cut into articles,
its ids left in Python lists. Building the tokenizer, which takes as long as a megabyte of text, is in neither. Each
round times both, the order in turn.
"""

import argparse
import gc
import re
import statistics
import tempfile
import time
from pathlib import Path

import tiktoken

from mada_lab.data.catalog import TextSet, find
from mada_lab.data.corpus import Corpus
from mada_lab.data.gpt2 import Gpt2Tokenizer, find_encoder
from mada_lab.data.prepare import prepare, write_text
from mada_lab.system.files import new_folder

HEADING = re.compile(r"(?m)^(?= = [^=\n]+ = $)")


def ours(text: Path, tokenizer: Gpt2Tokenizer, threads: int) -> float:
    """Seconds to make the data set `wikitext`."""
    choice = find("wikitext")
    assert isinstance(choice.data_set, TextSet)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        texts = choice.data_set.source.open(text, Path(folder))
        with new_folder(Path(folder, choice.name)) as part:
            write_text(part, choice, texts, tokenizer, threads)
        return time.perf_counter() - began


def theirs(encoding: tiktoken.Encoding, articles: list[str], threads: int) -> float:
    """Seconds to encode the articles in memory."""
    began = time.perf_counter()
    encoding.encode_ordinary_batch(articles, num_threads=threads)
    return time.perf_counter() - began


def same_tokens(text: Path, bpe_files: Path, encoding: tiktoken.Encoding) -> bool:
    """Whether the prepared test split is what tiktoken makes of the file in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus.open(prepare("wikitext", Path(folder), text, bpe_files=bpe_files))
        return corpus.split("test")[:].tolist() == encoding.encode_ordinary((text / "test.txt").read_text("utf-8"))


def main() -> None:
    """Prints both rates, and the ratio within rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--bpe-files", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()

    whole = "".join((arguments.text / name).read_text("utf-8") for name in ("valid.txt", "test.txt"))
    articles = HEADING.split(whole)
    tokenizer = Gpt2Tokenizer(find_encoder(arguments.bpe_files, Path()))
    encoding = tokenizer.encoding
    assert same_tokens(arguments.text, arguments.bpe_files, encoding)

    measure = {
        "mada_lab": lambda: ours(arguments.text, tokenizer, arguments.threads),
        "encode_ordinary_batch": lambda: theirs(encoding, articles, arguments.threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measure}
    for round_ in range(arguments.repeats + 2):
        for name in list(measure)[:: 1 if round_ % 2 else -1]:
            gc.collect()
            taken = measure[name]()
            if round_ >= 2:  # two rounds to warm up
                seconds[name].append(taken)

    megabytes = len(whole.encode()) / 1e6
    print(
        f"{megabytes:.2f} MB in {len(articles)} articles, {arguments.threads} threads, tiktoken {tiktoken.__version__}"
    )
    for name, taken_ in seconds.items():
        print(f"{name:24} {megabytes / statistics.median(taken_):7.2f} MB/s")
    ours_, theirs_ = seconds.values()
    ratios = [b / a for a, b in zip(ours_, theirs_, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(f"rate of ours / theirs: {middle:.3f} [{low:.3f}, {high:.3f}], {arguments.repeats} paired rounds")


if __name__ == "__main__":
    main()
