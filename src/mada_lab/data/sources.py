"""Where the text of a data set comes from: this Python, a pinned file, or a repository of the Hugging Face Hub."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mada_lab.data.download import PinnedFile, describe, fetch, read_pinned, require_pinned
from mada_lab.data.readers import Document, by_split, documents, not_utf8
from mada_lab.errors import ConfigError, DataError
from mada_lab.system import optional

Stream = Iterator[tuple[str, Document]]


@dataclass(frozen=True)
class Texts:
    """Text that is at hand.

    Attributes:
        origin: Where it came from, in words.
        splits: The splits there are.
        read: Starts a pass over the documents, each with the name of its split.
    """

    origin: str
    splits: tuple[str, ...]
    read: Callable[[], Stream]


class TextSource(Protocol):
    """Where text comes from."""

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """Gets the text.

        Args:
            given: What the user brought instead of a download.
            downloads: A folder for what is downloaded; made when needed.

        Raises:
            ConfigError: A file was given, which this source has no use for.
            DataError: The text can't be had.
        """


@dataclass(frozen=True)
class PythonTopics:
    """The English prose about the language that every CPython ships for its `help()`: needs no network.

    The text differs between versions of Python, hence the version in the origin and the digest in the sidecar.
    """

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """All topics in the order of their names, a blank line between two: one document."""
        if given is not None:
            raise ConfigError(f"--from-file: expected none for a text of Python itself, got {given}; leave it out")
        try:
            from pydoc_data.topics import topics  # some megabytes, and wanted here alone
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
    """One text file on the network, small enough for the memory: one document.

    Attributes:
        file: What is expected, downloaded or brought by the user.
    """

    file: PinnedFile

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """The file's text; the origin is its address also if the user brought it, as the digest is the same."""
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
        paths = [given] if given.is_file() else sorted(path for path in given.rglob("[!.]*") if path.is_file())
        empty = [path for path in paths if path.stat().st_size == 0]
        if empty or not paths:
            got = f"an empty file, {empty[0]}" if empty else "a folder without files"
            raise DataError(f"--from-file {given}: expected text, got {got}; take it out, or choose another path")
        return Texts(str(given), ("train",), lambda: (("train", x) for path in paths for x in documents(path)))


@dataclass(frozen=True)
class Hub:
    """Files of one revision of a data set on the Hugging Face Hub, none of which is a script.

    Attributes:
        repository: Owner and name.
        revision: The commit: the content is fixed.
        files: Paths by split.
        lines: A row is a line of one long text, rather than a document.
        pinned: The files whose digest is known here too, by path.
    """

    repository: str
    revision: str
    files: Mapping[str, tuple[str, ...]]
    lines: bool = False
    pinned: Mapping[str, PinnedFile] = field(default_factory=dict)

    def open(self, given: Path | None, downloads: Path) -> Texts:
        """The files, from the Hub's own cache, the network, or the user."""
        if given is not None:
            found = by_split(given, self.files)
            names = ", ".join(f"{path.name} as {split}" for split, paths in found.items() for path in paths)
            return self._texts(f"files of the user: {names}", found)
        found = {split: [self._download(path) for path in paths] for split, paths in self.files.items()}
        return self._texts(f"https://huggingface.co/datasets/{self.repository}/tree/{self.revision}", found)

    def _texts(self, origin: str, files: Mapping[str, list[Path]]) -> Texts:
        return Texts(origin, tuple(files), lambda: self._read(files))

    def _read(self, files: Mapping[str, list[Path]]) -> Stream:
        for split, paths in files.items():
            found = (document for path in paths for document in documents(path))
            if self.lines:
                yield split, _lines(found)
            else:
                yield from ((split, document) for document in found)

    def _download(self, path: str) -> Path:
        """A file in the cache of the Hub's client, which resumes and retries; nothing is asked for if it is there."""
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
    """Rows as the lines they were: in the Hub's copy of WikiText, a blank line has lost its space and line feed."""
    for document in found:
        for part in document:
            yield part or " \n"
