"""The data sets known by name, and where the text of each comes from.

A further one is one more entry in `CORPORA`. A corpus has a name, an `origin` that the sidecar quotes, and `read`,
which returns its text as UTF-8 bytes.
"""

import difflib
import platform
from dataclasses import dataclass
from pathlib import Path

from mada_lab.data import download
from mada_lab.errors import ConfigError, DataError


@dataclass(frozen=True)
class PythonTopics:
    """The English prose about the language that every CPython ships for its `help()`: needs no network.

    The text differs between versions of Python, hence the version in `origin` and the digest in the sidecar.
    """

    name: str

    @property
    def origin(self) -> str:
        """Where the text comes from, with the version of Python."""
        return f"pydoc_data.topics of {platform.python_implementation()} {platform.python_version()}"

    def read(self, from_file: Path | None = None) -> bytes:
        """All topics in the order of their names, a blank line between two.

        Raises:
            ConfigError: A file was given, which this corpus has no use for.
            DataError: This Python was installed without the module.
        """
        if from_file is not None:
            raise ConfigError(f"--from-file, with {self.name}: expected none, got {from_file}; leave the option out")
        try:
            from pydoc_data.topics import topics  # some megabytes, and wanted here alone
        except ImportError as error:
            raise DataError(
                f"corpus {self.name}, in this Python: expected the module pydoc_data.topics, got none; "
                "use a Python with its whole standard library, or another data set"
            ) from error
        return "\n\n".join(topics[key] for key in sorted(topics)).encode()


@dataclass(frozen=True)
class DownloadedText:
    """A text file on the network, pinned by its digest.

    Attributes:
        name: Its name on the command line, and of its folder.
        url: An https address.
        sha256: Hexadecimal digest of the file.
        max_bytes: Length of the file: a transfer never takes more.
    """

    name: str
    url: str
    sha256: str
    max_bytes: int

    @property
    def origin(self) -> str:
        """Where the text comes from: the address, also if the user brought the file, as the digest is the same."""
        return self.url

    def read(self, from_file: Path | None = None) -> bytes:
        """The file's content, downloaded, or from `from_file`.

        Raises:
            DataError: It can't be had, or isn't the file that the digest pins.
        """
        if from_file is not None:
            return download.read_file(from_file, self.sha256, self.max_bytes)
        return download.fetch(self.url, self.sha256, self.max_bytes)


TextSource = PythonTopics | DownloadedText

CORPORA: dict[str, TextSource] = {
    source.name: source
    for source in (
        PythonTopics("pydoc"),
        DownloadedText(
            "shakespeare_char",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            max_bytes=1_115_394,
        ),
    )
}


def find(name: str) -> TextSource:
    """The corpus called `name`.

    Raises:
        ConfigError: There is none; the message offers the nearest name.
    """
    if name in CORPORA:
        return CORPORA[name]
    near = difflib.get_close_matches(name, CORPORA, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "choose one of these"
    raise ConfigError(f"data set, in key dataset: expected one of {', '.join(CORPORA)}, got {name!r}; {remedy}")
