"""A network made of paper: answers from a dictionary, with all that goes wrong on a real one."""

import io
import urllib.request
import urllib.response
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any


@dataclass(frozen=True)
class Page:
    """An answer of the server.

    Attributes:
        body: What it sends.
        status: The HTTP status.
        headers: What it says about the body.
        cut: After so many bytes the connection is reset.
        ranges: Whether it sends a part when asked for one.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True


class Body(io.BytesIO):
    """A body that may break off."""

    def __init__(self, content: bytes, cut: int | None) -> None:
        super().__init__(content if cut is None else content[:cut])
        self.broken = cut is not None

    def read1(self, size: int | None = -1, /) -> bytes:
        chunk = super().read1(min(size or -1, 100))
        if not chunk and self.broken:
            raise ConnectionResetError("connection reset by peer")
        return chunk


class PaperNetwork(urllib.request.HTTPSHandler):
    """Answers each request for an address with its next page, the last one for ever; keeps what it was asked for."""

    def __init__(self, pages: dict[str, Page | Exception | Sequence[Page | Exception]]) -> None:
        super().__init__()
        self.pages = {url: list(x) if isinstance(x, Sequence) else [x] for url, x in pages.items()}
        self.asked: list[tuple[str, str | None]] = []

    def https_open(self, req: urllib.request.Request) -> Any:
        wanted = req.get_header("Range")
        self.asked.append((req.full_url, wanted))
        left = self.pages[req.full_url]
        page = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(page, Exception):
            raise page
        body, status, headers = page.body, page.status, Message()
        if wanted and page.ranges and status == 200:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        for key, value in page.headers.items():
            headers[key] = value
        response = urllib.response.addinfourl(Body(body, page.cut), headers, req.full_url, status)
        response.msg = "a reason"  # type: ignore[attr-defined]
        return response

    def http_open(self, req: urllib.request.Request) -> Any:
        raise AssertionError(f"{req.full_url} was asked for")

    ftp_open = file_open = http_open
