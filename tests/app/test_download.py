"""The network may be cut, slow, redirected or lying: `fetch` returns the pinned content, or says what to do."""

import hashlib
import io
import urllib.request
import urllib.response
from email.message import Message
from typing import Any

import pytest

from mada_lab.data import download
from mada_lab.errors import DataError

URL = "https://example.org/text"
CONTENT = b"some text" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class PaperNetwork(urllib.request.HTTPSHandler):
    """Answers from a dictionary, address to (status, redirect or content), and keeps what it was asked for."""

    def __init__(self, pages: dict[str, tuple[int, str | bytes | Exception]]) -> None:
        super().__init__()
        self.pages = pages
        self.asked: list[str] = []

    def https_open(self, req: urllib.request.Request) -> Any:
        self.asked.append(req.full_url)
        status, answer = self.pages[req.full_url]
        if isinstance(answer, Exception):
            raise answer
        headers = Message()
        if isinstance(answer, str):
            headers["Location"] = answer
        body = io.BytesIO(answer if isinstance(answer, bytes) else b"")
        response = urllib.response.addinfourl(body, headers, req.full_url, status)
        response.msg = "a reason"  # type: ignore[attr-defined]
        return response

    def http_open(self, req: urllib.request.Request) -> Any:
        raise AssertionError(f"{req.full_url} was asked for")

    ftp_open = file_open = http_open


def fetch(network: PaperNetwork, max_bytes: int = len(CONTENT), **kwargs: float) -> bytes:
    return download.fetch(URL, SHA256, max_bytes, network, **kwargs)


def test_download_follows_redirects_that_stay_on_https() -> None:
    network = PaperNetwork({URL: (302, "https://cdn.example.org/t"), "https://cdn.example.org/t": (200, CONTENT)})
    assert fetch(network) == CONTENT
    assert network.asked == [URL, "https://cdn.example.org/t"]


@pytest.mark.parametrize("url", ["http://example.org/text", "file:///etc/passwd", "ftp://example.org/x", "text"])
def test_download_starts_on_https_alone(url: str) -> None:
    with pytest.raises(DataError, match=r"expected an https address.*--from-file PATH"):
        download.fetch(url, SHA256, 1000, PaperNetwork({}))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://example.org/text", "ftp://example.org/text"])
def test_redirect_out_of_https_is_refused(status: int, target: str) -> None:
    network = PaperNetwork({URL: (status, target)})
    with pytest.raises(DataError, match=rf"from {target}: expected an https address.*--from-file PATH"):
        fetch(network)
    assert network.asked == [URL]


def test_download_stops_at_the_cap() -> None:
    network = PaperNetwork({URL: (200, CONTENT)})
    with pytest.raises(DataError, match=r"expected at most 899 bytes, got more.*--from-file PATH"):
        fetch(network, max_bytes=len(CONTENT) - 1)


def test_endless_body_is_not_read_to_its_end() -> None:
    class Endless(io.BytesIO):
        given = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            self.given += 100
            return b"x" * 100

    body = Endless()
    with pytest.raises(DataError, match="expected at most 1000 bytes"):
        download.read_at_most(body, 1000, URL)
    assert body.given == 1100


def test_slow_body_is_given_up() -> None:
    with pytest.raises(DataError, match=r"expected its end by now, got 900 bytes.*--from-file PATH"):
        fetch(PaperNetwork({URL: (200, CONTENT)}), deadline=-1.0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, b"no"), "HTTP Error 404"),
        ((500, b"no"), "HTTP Error 500"),
        ((200, TimeoutError("timed out")), "timed out"),
        ((200, ConnectionResetError()), "ConnectionResetError"),
        ((302, "file:///etc/passwd"), "is not allowed"),
        ((302, "https://[broken"), "expected a response, got"),
        ((302, URL), "infinite loop"),
        ((200, b"<html>sign in first</html>"), "expected sha256"),
        ((200, CONTENT[: len(CONTENT) // 2]), "expected sha256"),
    ],
)
def test_every_failure_says_what_to_do(answer: tuple[int, str | bytes | Exception], message: str) -> None:
    with pytest.raises(DataError, match=rf"{message}.*--from-file PATH") as caught:
        fetch(PaperNetwork({URL: answer}))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
