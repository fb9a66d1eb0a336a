"""The network may be cut, slow, redirected or lying: a file gets its name when its content is right, or never.

Catches: content that isn't checked, a transfer without end, a step down from https, a resumed file that is a mixture.
"""

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from mada_lab.data import download
from mada_lab.data.catalog import CIFAR10_BINARY, TINY_SHAKESPEARE
from mada_lab.data.download import PinnedFile, read_pinned, require_pinned
from mada_lab.errors import DataError
from tests.app.data.conftest import pinned
from tests.app.data.paper_network import Page, PaperNetwork

CONTENT = bytes(range(256)) * 4
FILE = pinned(CONTENT, "text")
URL = FILE.url
LENGTH = len(CONTENT)


def fetch(pages: Any, folder: Path, **kwargs: Any) -> tuple[Path, PaperNetwork, list[float]]:
    """Downloads from a network that knows `FILE` as `pages`; waits take no time, and are returned."""
    network, waits = PaperNetwork(pages if isinstance(pages, dict) else {URL: pages}), []
    kwargs.setdefault("sleep", waits.append)
    return download.fetch(FILE, folder, network, **kwargs), network, waits


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_download(tmp_path: Path) -> None:
    path, network, waits = fetch(Page(CONTENT), tmp_path / "new")
    assert path == tmp_path / "new" / "text"
    assert path.read_bytes() == CONTENT
    assert left(tmp_path / "new") == ["text"]
    assert network.asked == [(URL, None)]
    assert waits == []


def test_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(CONTENT)
    assert fetch(Page(status=500), tmp_path)[1].asked == []
    (tmp_path / "text").write_bytes(CONTENT[::-1])
    assert fetch(Page(CONTENT), tmp_path)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://example.org/text", "file:///etc/passwd", "ftp://example.org/x", "text"])
def test_download_starts_on_https_alone(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected an https address.*--from-file PATH"):
        download.fetch(PinnedFile(url, FILE.sha256, LENGTH), tmp_path, PaperNetwork({}))


def test_redirects_that_stay_on_https_are_followed(tmp_path: Path) -> None:
    there = "https://cdn.example.org/t"
    pages = {URL: Page(status=302, headers={"Location": there}), there: Page(CONTENT)}
    path, network, _ = fetch(pages, tmp_path)
    assert path.read_bytes() == CONTENT
    assert [url for url, _ in network.asked] == [URL, there]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://example.org/text", "ftp://example.org/text"])
def test_redirect_out_of_https_is_refused(status: int, target: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"from {target}: expected an https address.*--from-file PATH"):
        fetch(Page(status=status, headers={"Location": target}), tmp_path)
    assert left(tmp_path) == []


# ---- cut and resumed ----


@pytest.mark.parametrize("cut", [1, LENGTH // 2, LENGTH - 1])
def test_cut_download_goes_on_where_it_was(cut: int, tmp_path: Path) -> None:
    path, network, waits = fetch([Page(CONTENT, cut=cut), Page(CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert network.asked == [(URL, None), (URL, f"bytes={cut}-")]
    assert waits == [1.0]


def test_server_without_ranges_sends_it_all_again(tmp_path: Path) -> None:
    path, _, _ = fetch([Page(CONTENT, cut=100), Page(CONTENT, ranges=False)], tmp_path)
    assert path.read_bytes() == CONTENT


def test_another_range_than_asked_for_is_no_continuation(tmp_path: Path) -> None:
    (tmp_path / "text.part").write_bytes(CONTENT[:100])
    whole = Page(CONTENT, status=206, headers={"Content-Range": f"bytes 0-{LENGTH - 1}/{LENGTH}"})
    assert fetch(whole, tmp_path)[0].read_bytes() == CONTENT


def test_new_beginning_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    """200 bytes of something else, then a server without ranges that is cut after 100."""
    (tmp_path / "text.part").write_bytes(b"\0" * 200)
    path, network, _ = fetch([Page(CONTENT, cut=100, ranges=False), Page(CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in network.asked] == ["bytes=200-", "bytes=100-"]


def test_short_body_is_a_cut(tmp_path: Path) -> None:
    """The connection is closed in good order, only too early."""
    path, network, _ = fetch([Page(CONTENT[:300]), Page(CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert network.asked[1] == (URL, "bytes=300-")


def test_another_process_goes_on_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 1024 bytes in 4 tries, got connection reset.*--from-file PATH"):
        fetch([Page(CONTENT, cut=200), Page(CONTENT, cut=0)], tmp_path)
    assert left(tmp_path) == ["text.part"]
    path, network, _ = fetch(Page(CONTENT), tmp_path)
    assert network.asked == [(URL, "bytes=200-")]
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == ["text"]


@pytest.mark.parametrize("part", [b"\0" * 200, b"\0" * LENGTH, b"\0" * (LENGTH + 5)])
def test_part_of_another_content_is_discarded(part: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.part").write_bytes(part)
    assert fetch(Page(CONTENT), tmp_path)[0].read_bytes() == CONTENT


def test_range_that_the_server_refuses_starts_again(tmp_path: Path) -> None:
    (tmp_path / "text.part").write_bytes(CONTENT[:200])
    path, network, _ = fetch([Page(status=416), Page(CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert network.asked == [(URL, "bytes=200-"), (URL, None)]


def test_failures_that_pass_are_waited_for(tmp_path: Path) -> None:
    pages = [Page(status=503), TimeoutError("timed out"), Page(status=429), Page(CONTENT)]
    path, _, waits = fetch(pages, tmp_path)
    assert path.read_bytes() == CONTENT
    assert waits == [1.0, 2.0, 4.0]


# ---- given up ----


@pytest.mark.parametrize(
    ("page", "tries", "message"),
    [
        (Page(status=404), 1, "HTTP Error 404"),
        (Page(status=403), 1, "HTTP Error 403"),
        (Page(status=500), 4, "4 tries, got HTTP Error 500"),
        (TimeoutError("timed out"), 4, "timed out"),
        (ConnectionResetError(), 4, "ConnectionResetError"),
        (Page(status=302, headers={"Location": "file:///etc/passwd"}), 1, "is not allowed"),
        (Page(status=302, headers={"Location": "https://[broken"}), 1, "expected a response, got"),
        (Page(status=302, headers={"Location": URL}), 5, "infinite loop"),
        (
            Page(b"<html>sign in first</html>", headers={"Content-Length": "26"}),
            1,
            "1024 bytes, got a Content-Length of",
        ),
        (Page(b"<html>sign in first</html>"), 4, "1024 bytes in 4 tries, got 26 bytes"),
        (Page(CONTENT[::-1]), 1, f"expected sha256 {FILE.sha256}, got"),
        (Page(CONTENT, headers={"Content-Length": "1023"}), 1, "got a Content-Length of 1023"),
        (Page(CONTENT + b"x"), 1, "expected 1024 bytes, got more"),
    ],
)
def test_every_failure_says_what_to_do(page: Page | Exception, tries: int, message: str, tmp_path: Path) -> None:
    network = PaperNetwork({URL: page})
    with pytest.raises(DataError, match=rf"{message}.*--from-file PATH") as caught:
        download.fetch(FILE, tmp_path, network, sleep=lambda _: None)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(network.asked) == tries
    assert "text" not in left(tmp_path)
    assert left(tmp_path) == (["text.part"] if "got 26 bytes" in message else [])


def test_endless_body_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = 0

    def receive(_: Any) -> bytes:
        nonlocal given
        given += 100
        return b"x" * 100

    monkeypatch.setattr(download, "receive", receive)
    with pytest.raises(DataError, match="expected 1024 bytes, got more"):
        fetch(Page(CONTENT), tmp_path)
    assert given == 1100
    assert left(tmp_path) == []


def test_slow_body_is_given_up(tmp_path: Path) -> None:
    """A byte now and then never meets a timeout: 100 bytes come every 30 seconds, and 60 and a bit are allowed."""
    seconds = iter(range(0, 10_000, 30))
    with pytest.raises(DataError, match=r"expected its end by now, got 300 of 1024 bytes.*--from-file PATH"):
        fetch(Page(CONTENT), tmp_path, clock=functools.partial(next, seconds))


def test_full_disk_is_no_failure_of_the_network(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match="a file"):
        fetch(Page(CONTENT), tmp_path / "a file" / "folder")


# ---- files of the user ----


def test_file_of_the_user_must_be_the_pinned_one(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(CONTENT)
    assert read_pinned(path, FILE) == CONTENT
    assert require_pinned(path, FILE) == path
    for wrong in (CONTENT[::-1], CONTENT[:-1], CONTENT + b"x", b""):
        path.write_bytes(wrong)
        for check in (read_pinned, require_pinned):
            with pytest.raises(DataError, match=rf"in {path}: expected (sha256|1024 bytes).*--from-file PATH"):
                check(path, FILE)
    for check in (read_pinned, require_pinned):
        with pytest.raises(DataError, match=r"expected a readable file, got .*; check the path"):
            check(tmp_path / "missing", FILE)


def test_long_file_of_the_user_is_not_read_into_the_memory(tmp_path: Path) -> None:
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(1 << 40)  # a terabyte, of which the disk keeps nothing
    with pytest.raises(DataError, match="expected 1024 bytes, got more"):
        read_pinned(tmp_path / "zeros", FILE)
    with pytest.raises(DataError, match="expected 1024 bytes, got 1099511627776"):
        require_pinned(tmp_path / "zeros", FILE)


def test_name_is_the_end_of_the_address() -> None:
    assert (TINY_SHAKESPEARE.name, CIFAR10_BINARY.name) == ("input.txt", "cifar-10-binary.tar.gz")
