"""The errors of the application, one class for each exit code.

Every message has the form `what, in which file or key: expected, got; what to do`. The command line prints it on one
line after `error: `.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

E = TypeVar("E", bound="LabError")


def visible(text: str) -> str:
    """`text` on one line, with newlines, escape sequences and other invisible characters written out."""
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)


def of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the host or on a device. torch has no class for the former."""
    said = ("can't allocate memory", "not enough memory", "out of memory", "calculation overflowed")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


class LabError(Exception):
    """An expected failure: reported in one line, without a traceback unless `--debug` asks for one."""

    exit_code = 1
    #: Whether all processes of a run raise it at once, so that one of them reports it.
    is_shared = False

    def __str__(self) -> str:
        """The message, with invisible characters written out."""
        return visible(super().__str__())


@contextmanager
def translated(
    kinds: type[Exception] | tuple[type[Exception], ...], into: Callable[[Any], LabError | None]
) -> Iterator[None]:
    """Raises `into(error)` in place of an error of these `kinds`; the error itself if `into` returns None."""
    try:
        yield
    except kinds as error:
        ours = into(error)
        if ours is None:
            raise
        raise ours from error


def one_line(error: Exception, most: int | None = None) -> str:
    """The class of an error, and its text on one line, of at most `most` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def shared(error: E) -> E:
    """`error`, marked as one that all processes of a run raise at once."""
    error.is_shared = True
    return error


class ConfigError(LabError):
    """A key, a value or a combination of them in the configuration is wrong."""

    exit_code = 2


class DataError(LabError):
    """A data set is missing, damaged, or not what its sidecar says."""

    exit_code = 3


class CheckpointError(LabError):
    """A checkpoint or a record is missing, damaged, of another run, or can't be written."""

    exit_code = 4


class NumericsError(LabError):
    """Numbers are not finite, step after step."""

    exit_code = 5
    is_shared = True


class DistributedError(LabError):
    """A process of the group, or the connection to it, failed."""

    exit_code = 6


class Followed(LabError):  # noqa: N818 it is another's
    """The first process of the group failed and reports it. The others end with its exit code."""

    is_shared = True

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("the first process of the group failed")


class Interrupted(LabError):  # noqa: N818 it is none
    """A signal asked the command to stop; no error. The exit code is 128 + the signal's number.

    Attributes:
        resumable: Whether a run was saved, from which `--init_from=resume` goes on.
    """

    is_shared = True

    def __init__(self, number: int, step: int | None = None) -> None:
        """A run that was saved at `step`; without it, a command that leaves nothing to resume."""
        self.exit_code, self.resumable = 128 + number, step is not None
        saved = f" at step {step}, and saved; `--init_from=resume` goes on from there" if self.resumable else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{saved}")


def require_exists(path: Path, what: str, kind: type[LabError] = ConfigError) -> None:
    """Raises an error of `kind` if there is nothing at `path`; the message calls it `what`."""
    if not path.exists():
        raise kind(f"{what} {path}: expected a file or folder that exists, got a missing path; check it")
