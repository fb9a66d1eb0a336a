"""Bytes from the network or from a file of the user, handed out only after their checksum was found right."""

import hashlib
import http.client
import time
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from mada_lab.errors import DataError

TIMEOUT_SECONDS = 30.0  # for each wait on the network
DEADLINE_SECONDS = 600.0  # for the whole transfer: a server that sends one byte at a time never meets the timeout
CHUNK_BYTES = 1 << 16
REMEDY = "try again later, or fetch the file by other means and pass it with --from-file PATH"


class _Readable(Protocol):
    """What a response and a file have in common: `read1` returns what has arrived, without waiting for more."""

    def read1(self, size: int, /) -> bytes: ...


class HttpsOnlyRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as long as they stay on https: the standard handler would go down to http or ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Checks the scheme of `newurl`, then does what the standard handler does.

        Raises:
            DataError: The new address isn't https.
        """
        require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(
    url: str, sha256: str, max_bytes: int, *handlers: urllib.request.BaseHandler, deadline: float = DEADLINE_SECONDS
) -> bytes:
    """Downloads `url` into memory.

    Args:
        url: An https address; each redirect must be one too.
        sha256: Hexadecimal digest of the expected content.
        max_bytes: The transfer stops at the first byte more than this.
        *handlers: Further urllib handlers: another proxy, or a network made of paper for a test.
        deadline: Seconds after which the transfer is given up, however alive it is.

    Returns:
        The content, whose digest is `sha256`.

    Raises:
        DataError: The address isn't https, the network failed, or the content is too long, too slow or another one.
    """
    require_https(url)
    opener = urllib.request.build_opener(HttpsOnlyRedirects, *handlers)
    give_up = time.monotonic() + deadline
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            content = read_at_most(response, max_bytes, url, give_up)
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirect to no address at all
        raise DataError(f"download, from {url}: expected a response, got {describe(error)}; {REMEDY}") from error
    return require_sha256(content, sha256, url)


def read_file(path: Path, sha256: str, max_bytes: int) -> bytes:
    """The content of a file that the user fetched by other means, under the same cap and checksum as a download.

    Raises:
        DataError: The file can't be read, is too long, or isn't the expected one.
    """
    try:
        with open(path, "rb") as file:
            content = read_at_most(file, max_bytes, str(path))
    except OSError as error:
        raise DataError(
            f"--from-file, in {path}: expected a readable file, got {describe(error)}; check the path"
        ) from error
    return require_sha256(content, sha256, str(path))


def read_at_most(source: _Readable, max_bytes: int, where: str, give_up: float = float("inf")) -> bytes:
    """Everything `source` has, if that is at most `max_bytes` and arrives before `time.monotonic()` is `give_up`.

    Raises:
        DataError: It has more, or takes longer.
    """
    content = bytearray()
    while chunk := source.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            raise DataError(f"content, in {where}: expected at most {max_bytes} bytes, got more; {REMEDY}")
        if time.monotonic() > give_up:
            raise DataError(f"download, from {where}: expected its end by now, got {len(content)} bytes; {REMEDY}")
    return bytes(content)


def require_https(url: str) -> None:
    """Raises DataError unless `url` begins with https://."""
    if urlsplit(url).scheme != "https":
        raise DataError(f"download, from {url}: expected an https address, got another scheme; {REMEDY}")


def require_sha256(content: bytes, sha256: str, where: str) -> bytes:
    """Returns `content` if its digest is `sha256`, and raises DataError otherwise."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise DataError(f"content, in {where}: expected sha256 {sha256}, got {actual}; {REMEDY}")
    return content


def describe(error: Exception) -> str:
    """An exception in one line, by its text where it has one."""
    return " ".join(str(error).split()) or type(error).__name__
