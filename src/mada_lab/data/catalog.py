"""All data sets by name. Each is one entry here and a section of docs/lab/data.md."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from mada_lab.data.cuts import Cut, as_given, every, last, last_tenth
from mada_lab.data.download import PinnedFile
from mada_lab.data.image_sources import Cifar10, Digits, Pictures
from mada_lab.data.sources import Hub, OwnText, PythonTopics, Source, TextFile, Texts
from mada_lab.errors import ConfigError
from mada_lab.system import files
from mada_optim.checks import did_you_mean

UNASKED_BYTES = 10 << 20  # `train` downloads up to this by itself; larger sets need `data prepare`


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """A data set of text."""

    source: Source[Texts]
    tokenizers: tuple[str, ...]  #: Its tokenizers, the default first. The folder with another is called NAME_TOKENIZER.
    cut: Cut = as_given  #: splits the text into training and validation text
    end_of_text: bool = False  #: whether the end-of-text token follows each document, if the tokenizer has one
    download_bytes: int = 0  #: approximate size of the download


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A data set of images, and the approximate size of its download."""

    source: Source[Pictures]
    download_bytes: int = 0


TINY_SHAKESPEARE = PinnedFile(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    bytes=1_115_394,
)
CIFAR10_BINARY = PinnedFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    bytes=170_052_171,
)
LAMBADA_REVISION = "900124bf3b8235c6daf21033af9948b3f07346c4"
LAMBADA_TEST = PinnedFile(
    f"https://huggingface.co/datasets/EleutherAI/lambada_openai/resolve/{LAMBADA_REVISION}/data/lambada_test.jsonl",
    sha256="4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    bytes=1_819_752,
)


def _wikitext(config: str, train_files: int) -> Hub:
    def files(split: str, count: int) -> tuple[str, ...]:
        return tuple(f"{config}/{split}-{number:05}-of-{count:05}.parquet" for number in range(count))

    paths = {"train": files("train", train_files), "val": files("validation", 1), "test": files("test", 1)}
    return Hub("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", paths, lines=True)


DATA_SETS: dict[str, TextSet | ImageSet] = {
    "pydoc": TextSet(source=PythonTopics(), tokenizers=("char", "gpt2"), cut=last_tenth),
    "shakespeare": TextSet(
        source=TextFile(TINY_SHAKESPEARE), tokenizers=("gpt2", "char"), cut=last_tenth, download_bytes=1_100_000
    ),
    "wikitext": TextSet(
        source=_wikitext("wikitext-2-raw-v1", 1),
        tokenizers=("gpt2", "gpt2_small"),
        cut=last_tenth,
        download_bytes=7_700_000,
    ),
    "wikitext103": TextSet(
        source=_wikitext("wikitext-103-raw-v1", 2), tokenizers=("gpt2",), cut=last_tenth, download_bytes=315_000_000
    ),
    "lambada": TextSet(
        source=Hub(
            "EleutherAI/lambada_openai",
            LAMBADA_REVISION,
            {"test": ("data/lambada_test.jsonl",)},
            pinned={"data/lambada_test.jsonl": LAMBADA_TEST},
        ),
        tokenizers=("gpt2",),
        end_of_text=True,
        download_bytes=1_800_000,
    ),
    "openwebtext": TextSet(
        source=Hub(
            "Skylion007/openwebtext",
            "79d93d786212f7344586290adb811d4ae6a1762c",
            {"train": tuple(f"plain_text/train-{number:05}-of-00080.parquet" for number in range(80))},
        ),
        tokenizers=("gpt2",),
        cut=every(2000),  # nanoGPT's share of validation text
        end_of_text=True,
        download_bytes=24_000_000_000,
    ),
    "cifar10": ImageSet(source=Cifar10(CIFAR10_BINARY), download_bytes=170_000_000),
    "digits": ImageSet(source=Digits()),
}


#: What the user made with `mada-lab data prepare text`.
OWN = TextSet(source=OwnText(), tokenizers=("char", "gpt2", "gpt2_small"), end_of_text=True)
NAME = re.compile(r"\w[\w.-]*", re.ASCII)
DOWNLOADS = ".download"  # ending of the folder beside a data set that keeps its downloads
TEMPORARY = (DOWNLOADS, files.PART, files.LOCK)


@dataclass(frozen=True)
class Choice:
    """A data set with one of its tokenizers."""

    name: str  #: name of the folder, and in the sidecar
    data_set: TextSet | ImageSet  #: the entry of the catalog
    tokenizer: str | None = None  #: the tokenizer of a text; None of images


def choices() -> dict[str, Choice]:
    """All data sets with each of their tokenizers, by the name of the folder."""
    found: dict[str, Choice] = {}
    for name, data_set in DATA_SETS.items():
        if isinstance(data_set, ImageSet):
            found[name] = Choice(name, data_set)
            continue
        for tokenizer in data_set.tokenizers:
            folder = name if tokenizer == data_set.tokenizers[0] else f"{name}_{tokenizer}"
            found[folder] = Choice(folder, data_set, tokenizer)
    return found


def find(
    name: str, tokenizer: str | None = None, own: Iterable[str] = (), kind: type[TextSet | ImageSet] | None = None
) -> Choice:
    """The data set called `name`, encoded by `tokenizer`.

    Args:
        name: A name in `DATA_SETS`, or NAME_TOKENIZER, or one of `own`.
        tokenizer: One of the data set's; None is the one in the name, or else the usual one.
        own: Names of data sets that the user made.
        kind: The kind of data set that the message offers; None offers all.

    Raises:
        ConfigError: There is none; the message offers the nearest name.
    """
    known = choices() | {name: Choice(name, OWN) for name in own if name not in choices()}
    if name not in known:
        fit = [x for x, choice in known.items() if kind is None or isinstance(choice.data_set, kind)]
        remedy = did_you_mean(name, fit, "`mada-lab data prepare text` makes one of your own text")
        raise ConfigError(f"data set, in key dataset: expected one of {', '.join(fit)}, got {name!r}; {remedy}")
    wanted = known[name]
    if tokenizer in (None, wanted.tokenizer):
        return wanted
    other = known.get(f"{name}_{tokenizer}")
    if other is None:
        allowed = [
            spoken(choice.tokenizer or "none") for choice in known.values() if choice.data_set is wanted.data_set
        ]
        expected = " or ".join(allowed if name in DATA_SETS else [spoken(str(wanted.tokenizer))])
        raise ConfigError(f"--tokenizer, with data set {name}: expected {expected}, got {tokenizer}; leave it out")
    return other


def spoken(tokenizer: str) -> str:
    """The name of a tokenizer on the command line."""
    return "characters" if tokenizer == "char" else tokenizer


def of_own_text(name: str, tokenizer: str, share: Fraction) -> Choice:
    """A data set of the user's text, of which the last `share` of each document validates.

    Raises:
        ConfigError: The name is another data set's, a temporary file's or no folder's, or the tokenizer is unknown.
    """
    if name in choices() or not NAME.fullmatch(name):
        got = "that of a known data set" if name in choices() else "another"
        what = f"expected a new name of letters, digits, `_`, `-` and `.`, got {got}"
        raise ConfigError(f"--name={name}: {what}; choose another")
    if name.endswith(TEMPORARY):
        what = f"expected no ending {' or '.join(TEMPORARY)}, which temporary files have, got one"
        raise ConfigError(f"--name={name}: {what}; choose another")
    if tokenizer not in OWN.tokenizers:
        allowed = [*map(spoken, OWN.tokenizers)]
        remedy = did_you_mean(tokenizer, allowed, "choose one of them")
        raise ConfigError(f"--tokenizer={tokenizer}: expected {', '.join(allowed)}; {remedy}")
    return Choice(name, replace(OWN, cut=last(share)), tokenizer)
