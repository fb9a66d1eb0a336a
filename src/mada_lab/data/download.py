"""Files from the network or from the user, whose checksums are verified before use."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mada_lab.errors import DataError, translated
from mada_lab.system import files

TRIES = 4
TIMEOUT_SECONDS = 30.0  # for each wait on the network
# A server that sends one byte at a time never meets that timeout. So all tries together have a minute, and the time
# that the length takes at a slow rate.
GRACE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 20_000
CHUNK_BYTES = 1 << 16
REMEDY = "try again later, or fetch the file by other means and pass it with --from-file PATH"


@dataclass(frozen=True)
class PinnedFile:
    """A file whose content is known beforehand."""

    url: str  #: an https address
    sha256: str  #: hexadecimal digest of the content
    bytes: int  #: its length
    remedy: str = REMEDY  #: end of the message for a file that is missing or wrong

    @property
    def name(self) -> str:
        """The last part of the address."""
        return urlsplit(self.url).path.rpartition("/")[2]

    def error(self, what: str, expected: str, got: object, where: str | Path | None = None) -> DataError:
        """The error about `what` in the address, or in the place `where` the file should be."""
        return DataError(f"{what} {where or self.url}: expected {expected}, got {got}; {self.remedy}")

    def other(self, digest: str, where: str | Path | None = None) -> DataError:
        """The error about content of another `digest`."""
        return self.error("content, in", f"sha256 {self.sha256}", digest, where)


class _CutError(Exception):
    """A failure of the network that another try may avoid."""


class HttpsOnlyRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; the standard handler would follow them to http or ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Follows a redirect. Raises DataError if the new address isn't https."""
        require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(
    file: PinnedFile,
    folder: Path,
    *handlers: urllib.request.BaseHandler,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Downloads `file` into `folder`, unless it is there.

    The content grows in `NAME.part`, which later tries and processes continue. It gets its name once its checksum is
    verified.

    Args:
        file: What to download.
        folder: Where to; made when the first bytes arrive.
        *handlers: Further urllib handlers: a proxy, or a simulated network in tests.
        sleep: Waits some seconds between two tries.
        clock: The time in seconds.

    Returns:
        The path of the file.

    Raises:
        DataError: The address isn't https, every try failed, or the content is too long, too slow or wrong.
    """
    require_https(file.url)
    path, part = folder / file.name, folder / f"{file.name}.part"
    if _is_right(path, file):
        return path
    opener = urllib.request.build_opener(HttpsOnlyRedirects, *handlers)
    give_up = clock() + GRACE_SECONDS + file.bytes / SLOWEST_BYTES_PER_SECOND
    for attempt in range(TRIES):
        resumed = part.exists()
        try:
            _transfer(opener, file, part, lambda: clock() > give_up)
        except _CutError as error:
            if attempt + 1 == TRIES:
                raise file.error("download, from", f"{file.bytes} bytes in {TRIES} tries", error) from error
            sleep(2.0**attempt)
            continue
        if _is_right(part, file):
            files.rename(part, path)
            return path
        actual = _digest(part)
        files.remove(part)
        if not resumed:  # what was resumed may have been begun by another server
            break
    raise file.other(actual)


def _transfer(
    opener: urllib.request.OpenerDirector, file: PinnedFile, part: Path, too_late: Callable[[], bool]
) -> None:
    """Appends the missing bytes to `part`. Raises _CutError if the network failed, DataError if it is hopeless."""
    done = part.stat().st_size if part.exists() else 0
    if done == file.bytes:
        return
    with _open(opener, file, part, done) as response:
        goes_on = str(response.headers.get("Content-Range", "")).startswith(f"bytes {done}-")
        _append(response, file, part, done if goes_on else 0, too_late)  # servers without ranges send the whole


def _open(opener: urllib.request.OpenerDirector, file: PinnedFile, part: Path, done: int) -> Any:
    """The response to the request for `file` from offset `done` on."""
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        return opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file
            files.remove(part)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _CutError(describe(error)) from error
        raise file.error("download, from", "a response", describe(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(describe(error)) from error
    except ValueError as error:  # a redirect to no address at all
        raise file.error("download, from", "a response", describe(error)) from error


def receive(response: Any) -> bytes:
    """The bytes that have arrived; empty at the end."""
    try:
        chunk: bytes = response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(describe(error)) from error
    return chunk


def _append(response: Any, file: PinnedFile, part: Path, done: int, too_late: Callable[[], bool]) -> None:
    """Writes the body of `response` to `part` from offset `done` on."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and done + int(announced) != file.bytes:
        raise _unlike(file, part, f"a Content-Length of {announced}" + (f" after {done}" if done else ""))
    files.make_folder(part.parent)
    while chunk := receive(response):
        if done + len(chunk) > file.bytes:
            raise _unlike(file, part, "more")
        files.write_at(part, done, chunk)  # a process that is killed loses nothing
        done += len(chunk)
        if too_late():
            raise file.error("download, from", "its end by now", f"{done} of {file.bytes} bytes")
    if done < file.bytes:
        raise _CutError(f"{done} bytes")


def _unlike(file: PinnedFile, part: Path, got: str) -> DataError:
    """The error for content of another length, which is deleted."""
    files.remove(part)
    return file.error("content, in", f"{file.bytes} bytes", got)


def read_pinned(path: Path, file: PinnedFile) -> bytes:
    """The content of the file at `path`. Raises DataError if it can't be read, or isn't `file`."""
    with readable(path, "file"), open(path, "rb") as source:
        content = source.read(file.bytes + 1)
    if len(content) > file.bytes:
        raise file.error("content, in", f"{file.bytes} bytes", "more", path)
    actual = hashlib.sha256(content).hexdigest()
    if actual != file.sha256:
        raise file.other(actual, path)
    return content


def require_pinned(path: Path, file: PinnedFile) -> Path:
    """Returns `path` if it holds `file`, which may be larger than memory. Raises DataError as `read_pinned`."""
    with readable(path, "file"):
        length = path.stat().st_size
        if length != file.bytes:
            raise file.error("content, in", f"{file.bytes} bytes", length, path)
        actual = _digest(path)
    if actual != file.sha256:
        raise file.other(actual, path)
    return path


def require_https(url: str) -> None:
    """Raises DataError unless `url` begins with https://."""
    if urlsplit(url).scheme != "https":
        raise DataError(f"download, from {url}: expected an https address, got another scheme; {REMEDY}")


def describe(error: Exception) -> str:
    """The text of an exception on one line, or else its class."""
    return " ".join(str(error).split()) or type(error).__name__


def readable(path: Path, what: str) -> AbstractContextManager[None]:
    """Raises DataError in place of an OSError inside: `what` at `path` can't be read."""
    return translated(
        OSError,
        lambda error: DataError(f"{what}, in {path}: expected a readable file, got {describe(error)}; check the path"),
    )


def _is_right(path: Path, file: PinnedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and _digest(path) == file.sha256


def _digest(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
