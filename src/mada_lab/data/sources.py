"""Sources of text: this Python, a pinned file, a repository of the Hugging Face Hub, or files of the user."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from mada_lab.data.download import PinnedFile, describe, fetch, read_pinned, require_pinned
from mada_lab.data.readers import Document, by_split, documents, not_utf8, paths_in
from mada_lab.errors import ConfigError, DataError, require_exists
from mada_lab.system import optional

Stream = Iterator[tuple[str, Document]]
Found = TypeVar("Found", covariant=True)


@dataclass(frozen=True)
class Texts:
    """Text of a source."""

    origin: str  #: its source, in words
    splits: tuple[str, ...]  #: names of its splits
    read: Callable[[], Stream]  #: iterates over the documents, each with the name of its split


class Source(Protocol[Found]):
    """A source of text (`Texts`) or of images (`Pictures`)."""

    def open(self, given: Path | None, downloads: Path) -> Found:
        """Gets the content.

        Args:
            given: A file or folder of the user instead of a download.
            downloads: Folder for downloads; made when needed.

        Raises:
            ConfigError: A file was given to a source that takes none.
            DataError: The content is missing or damaged.
        """


def require_none(given: Path | None, source: str) -> None:
    """Raises ConfigError if the user gave a file in the place of a source that no file has."""
    if given is not None:
        raise ConfigError(f"--from-file: expected none for {source}, got {given}; leave it out")


@dataclass(frozen=True)
class PythonTopics:
    """The English text of `help()` in every CPython; no network is needed.

    It differs between versions of Python, so the origin names the version and the sidecar has the digest.
    """

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """One document: all topics in the order of their names, with blank lines between."""
        require_none(given, "a text of Python itself")
        try:
            from pydoc_data.topics import topics  # some megabytes
        except ImportError as error:
            raise DataError(
                "text, in this Python: expected the module pydoc_data.topics, got none; "
                "use a Python with its whole standard library, or another data set"
            ) from error
        text = "\n\n".join(topics[key] for key in sorted(topics))
        origin = f"pydoc_data.topics of {platform.python_implementation()} {platform.python_version()}"
        return Texts(origin, ("train",), lambda: iter([("train", [text])]))


@dataclass(frozen=True)
class TextFile:
    """One text file on the network, which fits in memory: one document."""

    file: PinnedFile

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """The file's text. Its origin is the address, even if the user passed the file: the digest is the same."""
        content = read_pinned(given or fetch(self.file, downloads), self.file)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(error, self.file.url) from error
        return Texts(self.file.url, ("train",), lambda: iter([("train", [text])]))


@dataclass(frozen=True)
class OwnText:
    """Text of the user: each file is a document (`readers.documents`)."""

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """The file, or all files in the folder and below but hidden ones, in the order of their paths."""
        if given is None:
            raise ConfigError("--from-file: expected a text file or a folder of them, got none; add it")
        paths = [path for place in paths_in(given) for path in _below(place)]
        return Texts(str(given), ("train",), lambda: (("train", x) for path in paths for x in documents(path)))


def _below(place: Path) -> list[Path]:
    """`place`, or all files in the folder and below but hidden ones. Raises DataError for none, or an empty one."""
    require_exists(place, "--from-file", DataError)
    paths = [place] if place.is_file() else sorted(path for path in place.rglob("[!.]*") if path.is_file())
    empty = [path for path in paths if path.stat().st_size == 0]
    if empty or not paths:
        nothing = "a folder without files" if place.is_dir() else "neither a file nor a folder"
        got = f"an empty file, {empty[0]}" if empty else nothing
        raise DataError(f"--from-file {place}: expected text, got {got}; take it out, or choose another path")
    return paths


@dataclass(frozen=True)
class Hub:
    """Data files of one revision of a data set on the Hugging Face Hub; scripts are not used."""

    repository: str  #: owner and name
    revision: str  #: the commit, which fixes the content
    files: Mapping[str, tuple[str, ...]]  #: paths by split
    lines: bool = False  #: whether a row is a line of one long text instead of a document
    pinned: Mapping[str, PinnedFile] = field(default_factory=dict)  #: files whose digest is known here too, by path

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """The files from the Hub's cache, the network, or the user."""
        if given is not None:
            found = by_split(given, self.files)
            names = ", ".join(f"{path.name} as {split}" for split, paths in found.items() for path in paths)
            origin = f"files of the user: {names}"
        else:
            found = {split: [self._download(path) for path in paths] for split, paths in self.files.items()}
            origin = f"https://huggingface.co/datasets/{self.repository}/tree/{self.revision}"
        return Texts(origin, tuple(found), lambda: self._read(found))

    def _read(self, files: Mapping[str, list[Path]]) -> Stream:
        for split, paths in files.items():
            found = (document for path in paths for document in documents(path))
            if self.lines:
                yield split, _lines(found)
            else:
                yield from ((split, document) for document in found)

    def _download(self, path: str) -> Path:
        """A file in the cache of the Hub's client, which downloads it if it is missing."""
        hub = optional.load("huggingface_hub", "mada-optim[hf]")
        try:
            found = hub.hf_hub_download(self.repository, path, repo_type="dataset", revision=self.revision)
        except Exception as error:  # it raises what its HTTP library raises, whichever that is
            raise DataError(
                f"download, of {path} in {self.repository} of the Hugging Face Hub: expected the file, got "
                f"{describe(error)}; try again later, or fetch it by other means and pass it with --from-file PATH"
            ) from error
        if path in self.pinned:
            require_pinned(Path(found), self.pinned[path])
        return Path(found)


def _lines(found: Iterable[Document]) -> Iterator[str]:
    """Yields rows as lines: the blank lines of WikiText, which are empty in the Hub's copy, are restored."""
    for document in found:
        for part in document:
            yield part or " \n"
