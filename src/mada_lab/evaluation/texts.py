"""Text for evaluation: the documents of a prepared data set, or of a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mada_lab.data import catalog
from mada_lab.data.catalog import Choice, TextSet
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import find, open_or_prepare
from mada_lab.data.sources import Hub
from mada_lab.data.tokenizer import Tokenizer
from mada_lab.errors import ConfigError, DataError, require_exists

EMPTIED = " \n"  # a blank line of WikiText, which is empty in the Hub's copy


@dataclass(frozen=True)
class Text:
    """A text."""

    name: str  #: name of the data set, or of the file
    split: str | None  #: val or test; None for a file without a data set
    source: str  #: its source, in words
    documents: list[str]  #: the documents in order
    ended: bool = False  #: whether the end-of-text token follows each document, if the tokenizer has one
    lines: bool = False  #: whether the source's rows are lines of one document

    @property
    def bytes(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(x.encode()) for x in self.documents)

    @property
    def words(self) -> int:
        """Stretches without white space."""
        return sum(len(x.split()) for x in self.documents)

    def tokens(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """The ids of all documents in one dimension. Raises DataError for a character that can't be encoded."""
        return _joined(self.documents, tokenizer, self.ended)

    def paper_tokens(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """The ids as in the paper's code, which ends each row with a token: with WikiText, each line."""
        if not self.lines:
            return self.tokens(tokenizer)
        rows = (line for x in self.documents for line in x.splitlines(keepends=True))
        return _joined(["" if row == EMPTIED else row for row in rows], tokenizer, ended=True)


def _joined(documents: list[str], tokenizer: Tokenizer, ended: bool) -> NDArray[np.int64]:
    end = [] if tokenizer.end_of_text is None or not ended else [np.array([tokenizer.end_of_text])]
    parts = [np.zeros(0), *(part for x in documents for part in (tokenizer.encode(x), *end))]
    return np.concatenate(parts).astype(np.int64)


def of_data_set(name: str, data_dir: Path, split: str | None) -> Text:
    """The text of a prepared data set, from its tokens; small sets are prepared first.

    Args:
        name: Name of the data set.
        data_dir: Where the data sets live.
        split: None is test, or else val.

    Raises:
        ConfigError: There is no data set of this name.
        DataError: It isn't prepared, is damaged, or has no such split.
    """
    data_set = _text_set(find(name, data_dir, Corpus))
    corpus = open_or_prepare(name, data_dir, Corpus)
    split = split or ("test" if "test" in corpus.splits else "val")
    return Text(name, split, corpus.meta.source, list(_decoded(corpus, split)), data_set.end_of_text, _lines(data_set))


def _decoded(corpus: Corpus, split: str) -> Iterator[str]:
    ids: NDArray[Any] = corpus.split(split)[:]
    end = corpus.tokenizer.end_of_text
    ends = np.flatnonzero(ids == end) if end is not None else np.zeros(0, np.int64)
    parts = np.split(ids, ends + 1)
    yield from (corpus.decode(x[:-1] if len(x) and x[-1] == end else x) for x in parts if len(x))


def of_file(path: Path, name: str | None, split: str | None) -> Text:
    """The text in a file.

    Args:
        path: The file.
        name: Its data set, which separates and splits the documents; None for another text.
        split: None is test, or else val.

    Raises:
        ConfigError: There is no data set of this name.
        DataError: The file can't be read, or has no such split.
    """
    if name is None:
        own = catalog.OWN.source.open(path, path.parent)
        return Text(path.name, None, own.origin, ["".join(x) for _, x in own.read()])
    require_exists(path, "--from-file", DataError)
    data_set = _text_set(catalog.find(name, kind=TextSet))
    texts = data_set.source.open(path, path.parent)
    found: dict[str, list[str]] = {}
    for part, document in data_set.cut(texts):
        found.setdefault(part, []).append("".join(document))
    split = split or ("test" if "test" in found else "val")
    if split not in found:
        raise DataError(f"text, in {path}: expected a split {split}, got only {', '.join(found)}; choose another")
    return Text(name, split, texts.origin, found[split], data_set.end_of_text, _lines(data_set))


def _text_set(choice: Choice) -> TextSet:
    if not isinstance(choice.data_set, TextSet):
        raise ConfigError(f"--dataset={choice.name}: expected a data set of text, got one of images; choose another")
    return choice.data_set


def _lines(data_set: TextSet) -> bool:
    return isinstance(data_set.source, Hub) and data_set.source.lines
