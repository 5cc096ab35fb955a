"""Downloads against a server of this machine, over TLS with a certificate made for the test."""

import errno
import hashlib
import os
import resource
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import trustme

from transpose.errors import UserError
from transpose.runtime.download import cached_place, fetch

CONTENT = bytes(range(256)) * 20_000  # five chunks
SUM = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does; a test changes it. `cut` is the number of bytes after which an answer breaks off."""

    content: bytes = CONTENT
    cut: int | None = None
    length: Callable[[int], int | str | None] = lambda true: true
    status: int = 200
    location: str = ""
    requests: int = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        does = self.server.does
        does.requests += 1
        self.send_response(does.status)
        if does.location:
            self.send_header("Location", does.location)
        body = does.content if does.status == 200 else b""
        if (length := does.length(len(body))) is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: does.cut])
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        """A client that disconnects is not logged."""


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


def test_a_complete_download_records_its_checksum(does, url, path):
    assert fetch(url, path) == path and path.read_bytes() == CONTENT
    assert files(path) == {"weights.pth", "weights.pth.sha256"}
    assert path.with_name("weights.pth.sha256").read_text() == f"{SUM}  weights.pth\n"
    assert fetch(url, path) == path and does.requests == 1  # it is there, and checked


@pytest.mark.parametrize("known", [SUM, SUM[:8], SUM.upper()])
def test_a_known_sum_is_compared_and_not_recorded(does, url, path, known):
    fetch(url, path, known)
    assert files(path) == {"weights.pth"}


def test_wrong_bytes_never_get_the_name(does, url, path):
    does.content = CONTENT[:-1] + b"?"
    with pytest.raises(
        UserError, match=rf"its sha256 is [0-9a-f]{{64}}, but its publisher says {SUM}: .* nothing is kept"
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
    does.content = CONTENT + b"!"
    with pytest.raises(UserError, match=rf"weights\.pth\.sha256 says {SUM}: .* nothing is kept"):
        fetch(url, path)
    assert files(path) == {"weights.pth.sha256"}


def test_a_file_that_changes_on_the_disk_is_noticed(does, url, path):
    fetch(url, path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(
        UserError, match=rf"weights\.pth: its sha256 is .*weights\.pth\.sha256 says {SUM}: .*move it away to"
    ):
        fetch(url, path)
    assert does.requests == 1


def test_a_malformed_record_is_named(does, url, path):
    path.parent.mkdir()
    record = path.with_name("weights.pth.sha256")
    for wrong in (b"<html>", b"\xff\xfe", SUM[:63].encode()):
        record.write_bytes(wrong)
        with pytest.raises(UserError, match=r"weights\.pth\.sha256: not a checksum file of sha256sum"):
            fetch(url, path)
    assert does.requests == 0


# Cuts and lies


def test_a_cut_download_leaves_nothing(does, url, path):
    does.cut = 2_000_000
    for known in ("", SUM):
        with pytest.raises(
            UserError, match=r"the download failed \(IncompleteRead: .*2000000 bytes read, 3120000 more"
        ):
            fetch(url, path, known)
        assert files(path) == set()
    does.cut = None
    assert fetch(url, path).read_bytes() == CONTENT


def test_more_bytes_promised_than_sent(does, url, path):
    does.length = lambda true: true + 1000
    with pytest.raises(UserError, match=r"the download failed \(IncompleteRead: .*5120000 bytes read, 1000 more"):
        fetch(url, path)
    assert files(path) == set()


def test_fewer_bytes_promised_than_sent(does, url, path):
    does.length = lambda true: true - 1000
    with pytest.raises(UserError, match="nothing is kept"):
        fetch(url, path, SUM)
    assert files(path) == set()


def test_a_missing_length_is_refused_unless_the_checksum_is_known(does, url, path):
    does.length = lambda true: None
    with pytest.raises(UserError, match=r"the server does not state the file's length"):
        fetch(url, path)
    assert files(path) == set()
    fetch(url, path, SUM)
    assert path.read_bytes() == CONTENT


def test_a_malformed_length(does, url, path):
    does.length = lambda true: "long"
    with pytest.raises(UserError, match=r"the server does not state the file's length"):
        fetch(url, path, SUM)
    assert files(path) == set()


# Refusals


def test_only_https(does, url, path):
    for insecure in (url.replace("https", "http"), "file:///etc/hostname", "ftp://127.0.0.1/x"):
        with pytest.raises(UserError, match="refused, because files are downloaded over https only"):
            fetch(insecure, path)
    does.status = 302
    for does.location in (url.replace("https", "http"), "HTTP://127.0.0.1:9/x", "ftp://127.0.0.1/x"):
        with pytest.raises(UserError, match=rf"{does.location}: refused, .* over https only"):
            fetch(url, path)
    assert does.requests == 3 and files(path) == set()


def test_an_endless_redirection(does, url, path):
    does.status, does.location = 302, url
    with pytest.raises(UserError, match=r"the download failed .*redirects"):
        fetch(url, path)
    assert does.requests > 1 and files(path) == set()


def test_a_redirection_that_leads_nowhere(does, url, path):
    does.status = 302
    with pytest.raises(UserError, match="the server answers 302 Found"):
        fetch(url, path)
    assert files(path) == set()


def test_a_server_without_a_trusted_certificate(does, url, path, monkeypatch, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    for trusted in (str(other), ""):  # another authority; those of every computer
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        with pytest.raises(
            UserError, match=r"the download failed \(SSLCertVerificationError: .*certificate verify failed"
        ):
            fetch(url, path)
    assert does.requests == 0 and files(path) == set()


def test_without_network_the_message_says_where_to_put_the_file(path):
    for nowhere in ("https://weights.invalid/weights.pth", "https://127.0.0.1:9/weights.pth"):
        with pytest.raises(
            UserError, match=rf"^{nowhere}: the download failed \(.+\); if the download fails again, .* at {path}$"
        ):
            fetch(nowhere, path)
    assert files(path) == set()


def test_a_missing_file_and_a_server_in_trouble(does, url, path):
    for does.status in (404, 503):
        with pytest.raises(UserError, match=rf"the server answers {does.status} .* put it at {path}$"):
            fetch(url, path)
    assert files(path) == set()


def test_a_folder_that_cannot_be_written(does, url, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken/weights\.pth: cannot write"):
        fetch(url, tmp_path / "taken" / "weights.pth")


def test_a_full_disk_is_reported_and_leaves_no_file(does, url, path):
    """A limit on the size of files simulates a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"weights\.pth: cannot write \(File too large\)"):
            fetch(url, path, SUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(path) == set()


def test_a_refused_file_name_is_reported(does, url, path, monkeypatch):
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target == path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"weights\.pth: cannot write \(No space left on device\)"):
        fetch(url, path, SUM)
    assert files(path) == set()


# The place


def test_a_file_of_the_clone_else_the_users_cache(tmp_path, monkeypatch):
    in_clone = tmp_path / "clone" / "models" / "weights.pth"
    monkeypatch.delenv("TRANSPOSE_HOME", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert cached_place(in_clone) == tmp_path / "hub" / "checkpoints" / "weights.pth"
    monkeypatch.setenv("TRANSPOSE_HOME", "~/poses")
    assert cached_place(in_clone) == Path.home() / "poses" / "weights.pth"
    in_clone.parent.mkdir(parents=True)
    in_clone.touch()
    assert cached_place(in_clone) == in_clone
