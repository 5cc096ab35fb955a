"""Downloads against a server of this machine, over TLS with a certificate made for the test."""

import errno
import hashlib
import multiprocessing
import os
import resource
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from transpose.errors import UserError
from transpose.runtime import download
from transpose.runtime.download import fetch, recorded_sum, verify

CONTENT = bytes(range(256)) * 20_000  # five chunks
SUM = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does; a test changes it. `cuts` are the numbers of bytes after which answers break off."""

    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    length: Callable[[int], int | None] = lambda true: true
    status: int = 200
    location: str = ""
    part: Callable[[int], int] = lambda begin: begin
    asked: list[str | None] = field(default_factory=list)  # the Range of each request


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        does = self.server.does
        does.asked.append(self.headers["Range"])
        if does.status != 200:
            self.send_response(does.status)
            if does.location:
                self.send_header("Location", does.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = 0
        if does.ranges and self.headers["Range"] and self.headers["If-Range"] == does.etag:
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if begin >= len(does.content):
            self.send_error(416)
            return
        body = does.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            first = does.part(begin)
            self.send_header("Content-Range", f"bytes {first}-{len(does.content) - 1}/{len(does.content)}")
        if does.etag:
            self.send_header("ETag", does.etag)
        if (length := does.length(len(body))) is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: does.cuts.pop(0)] if does.cuts else body)
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no news."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ThreadingHTTPServer]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.authority = tmp_path_factory.mktemp("authority") / "authority.pem"
    authority.cert_pem.write_to_path(str(server.authority))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def does(server, monkeypatch) -> Behaviour:
    """The server behaves well, and its authority is trusted as a user's environment would have it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))
    server.does = Behaviour()
    return server.does


@pytest.fixture
def url(server) -> str:
    return f"https://127.0.0.1:{server.server_port}/weights.pth"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "models" / "weights.pth"


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_a_file_comes_whole_with_its_sum_recorded(does, url, path):
    assert fetch(url, path) == path and path.read_bytes() == CONTENT
    assert files(path) == {"weights.pth", "weights.pth.sha256"}
    assert path.with_name("weights.pth.sha256").read_text() == f"{SUM}  weights.pth\n"
    assert recorded_sum(path) == SUM
    verify(path)


@pytest.mark.parametrize("known", [SUM, SUM[:8], SUM.upper()])
def test_a_known_sum_is_compared_and_not_recorded(does, url, path, known):
    fetch(url, path, known)
    assert files(path) == {"weights.pth"}


def test_wrong_bytes_never_get_the_name(does, url, path):
    does.content = CONTENT[:-1] + b"?"
    with pytest.raises(
        UserError, match=rf"has the sha256 [0-9a-f]{{64}}, but its publisher says {SUM}: nothing is kept"
    ):
        fetch(url, path, SUM)
    assert files(path) == set()
    hashed = path.with_name(f"weights-{SUM[:8]}.pth")
    with pytest.raises(UserError, match=f"its name says {SUM[:8]}"):
        fetch(url, hashed)
    assert files(path) == set()


def test_a_file_that_changes_at_its_source_is_noticed_at_the_second_download(does, url, path):
    fetch(url, path)
    path.unlink()
    does.content, does.etag = CONTENT + b"!", '"two"'
    with pytest.raises(UserError, match=rf"weights\.pth\.sha256 says {SUM}: nothing is kept"):
        fetch(url, path)
    assert files(path) == {"weights.pth.sha256"}


def test_a_file_that_changes_on_the_disk_is_noticed(does, url, path):
    fetch(url, path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(
        UserError, match=rf"weights\.pth: its sha256 is .*weights\.pth\.sha256 says {SUM}: it is damaged"
    ):
        verify(path)


def test_a_record_that_is_none_is_named(path):
    path.parent.mkdir()
    record = path.with_name("weights.pth.sha256")
    for wrong in (b"<html>", b"\xff\xfe", SUM[:63].encode()):
        record.write_bytes(wrong)
        with pytest.raises(UserError, match=r"weights\.pth\.sha256: not a sha256 sum"):
            recorded_sum(path)


# Cuts


def test_a_cut_download_goes_on_where_it_was(does, url, path):
    does.cuts = [2_000_000, 1_000_000]
    fetch(url, path, SUM)
    assert does.asked == [None, "bytes=2000000-", "bytes=3000000-"]
    assert path.read_bytes() == CONTENT


def test_what_came_is_kept_for_the_next_call(does, url, path):
    does.cuts = [2_000_000, 0]
    with pytest.raises(UserError, match=r"closed before the end.* after 2,000,000 bytes; they are kept, and the same"):
        fetch(url, path, SUM)
    assert files(path) == {"weights.pth.part", "weights.pth.part.tag"}
    fetch(url, path, SUM)
    assert does.asked[-1] == "bytes=2000000-" and files(path) == {"weights.pth"}
    assert path.read_bytes() == CONTENT


def test_without_ranges_it_starts_again(does, url, path):
    does.cuts, does.ranges = [2_000_000], False
    fetch(url, path, SUM)
    assert does.asked == [None, "bytes=2000000-"] and path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"two"', "", 'W/"one"'], ids=["changed", "no version told", "weak version"])
def test_two_versions_are_never_put_together(does, url, path, etag):
    does.cuts = [2_000_000, 0]
    does.etag = '"one"' if etag == '"two"' else etag
    with pytest.raises(UserError, match="closed before the end"):
        fetch(url, path)
    does.content, does.etag = CONTENT[::-1], etag
    fetch(url, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_whole_part_that_was_never_renamed_is_fetched_again(does, url, path):
    path.parent.mkdir()
    path.with_name("weights.pth.part").write_bytes(CONTENT)
    path.with_name("weights.pth.part.tag").write_text('"one"')
    fetch(url, path, SUM)
    assert does.asked == [f"bytes={len(CONTENT)}-", None] and files(path) == {"weights.pth"}


# Lies


def test_more_bytes_promised_than_sent(does, url, path):
    does.length = lambda true: true + 1000
    with pytest.raises(UserError, match=r"closed before the end, 5,121,000 bytes, after 5,120,000 bytes"):
        fetch(url, path)
    assert not path.exists()


def test_fewer_bytes_promised_than_sent(does, url, path):
    does.length = lambda true: true - 1000
    with pytest.raises(UserError, match="nothing is kept"):
        fetch(url, path, SUM)
    assert files(path) == set()


def test_no_length_is_refused_unless_the_sum_is_known(does, url, path):
    does.length = lambda true: None
    with pytest.raises(UserError, match=r"does not say how long the file is, and no sum of it is known: refused"):
        fetch(url, path)
    assert files(path) == set()
    fetch(url, path, SUM)
    assert path.read_bytes() == CONTENT


def test_another_part_than_the_one_asked_for(does, url, path):
    does.cuts, does.part = [2_000_000], lambda begin: begin - 5
    with pytest.raises(UserError, match=r"sends another part than the one asked for; delete .*weights\.pth\.part"):
        fetch(url, path, SUM)
    assert not path.exists()


# Refusals


def test_only_https(does, url, path):
    for insecure in (url.replace("https", "http"), "file:///etc/hostname", "ftp://127.0.0.1/x"):
        with pytest.raises(UserError, match="refused, files are downloaded over https only"):
            fetch(insecure, path)
    does.status, does.location = 302, url.replace("https", "http")
    with pytest.raises(UserError, match=r"http://.*over https only"):
        fetch(url, path)
    assert len(does.asked) == 1 and not path.exists()


def test_a_server_that_nobody_vouches_for(does, url, path, monkeypatch, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with pytest.raises(UserError, match=r"cannot be reached \(.*certificate verify failed"):
        fetch(url, path)
    assert does.asked == []


def test_no_network_says_how_else_to_bring_the_file(path):
    for nowhere in ("https://weights.invalid/weights.pth", "https://127.0.0.1:9/weights.pth"):
        with pytest.raises(UserError, match=rf"{nowhere}: cannot be reached \(.+\); without a network, .* at {path}$"):
            fetch(nowhere, path)
    assert files(path) == set()


def test_a_missing_file_and_a_server_in_trouble(does, url, path):
    for does.status in (404, 503):
        with pytest.raises(UserError, match=rf"the server answers {does.status} .* put it at {path}$"):
            fetch(url, path)


def test_a_folder_that_cannot_be_written(does, url, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken/weights\.pth\.part: cannot write"):
        fetch(url, tmp_path / "taken" / "weights.pth")


def test_a_full_disk_is_told_and_the_download_goes_on_later(does, url, path):
    """A limit on the size of files stands for the disk's end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"weights\.pth\.part: cannot write \(File too large\)"):
            fetch(url, path, SUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(path) == {"weights.pth.part", "weights.pth.part.tag"}
    fetch(url, path, SUM)
    assert does.asked[-1] == "bytes=3000000-" and path.read_bytes() == CONTENT


def _hold(path: Path, held, release) -> None:
    with download._opened(path):
        held.set()
        release.wait(20)


def test_a_disk_that_refuses_the_name_is_told(does, url, path, monkeypatch):
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target == path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(
        UserError, match=r"weights\.pth: cannot write \(No space left on device\); .*part holds what came"
    ):
        fetch(url, path, SUM)
    assert files(path) == {"weights.pth.part", "weights.pth.part.tag"}


def test_a_second_download_of_the_same_file_waits_to_be_told(does, url, path):
    processes = multiprocessing.get_context("fork")
    held, release = processes.Event(), processes.Event()
    other = processes.Process(target=_hold, args=(path.with_name("weights.pth.part"), held, release))
    other.start()
    try:
        assert held.wait(20)
        with pytest.raises(UserError, match="another process is downloading this file"):
            fetch(url, path)
    finally:
        release.set()
        other.join()
    fetch(url, path)
    assert path.read_bytes() == CONTENT
