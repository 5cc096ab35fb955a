"""Files from the network: over https only, resumed where they were cut off, checked before they get their name.

Beside `weights.pth`, `weights.pth.part` holds what has come so far and `weights.pth.part.tag` which version of the file
that is (the server's ETag or date); `weights.pth.sha256` records the sum of a file whose sum nobody has published, in
the form that `sha256sum -c` reads.
"""

import fcntl
import hashlib
import http.client
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from .files import write_atomically
from .log import Progress

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
SILENCE = 30.0  # seconds without a byte after which a connection counts as cut
ATTEMPTS = 5  # to go on after a cut, before the user is asked to
SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")  # PyTorch's way: resnet50-19c8e357.pth


def fetch(url: str, path: Path, sha256: str = "") -> Path:
    """Download `url` to `path`, which appears there whole and checked or not at all; returns `path`.

    `sha256` is the sum in hexadecimal or how it begins; without it what the name says (resnet50-19c8e357.pth), else
    the one recorded beside it. If there is none, the sum is recorded. What came before a cut is kept and gone on from.
    Raises UserError if the url is not https, the network or the disk fails, or the bytes are not the expected ones.
    """
    _refuse_insecure(url)
    wanted = sha256 or published_sum(path) or recorded_sum(path)
    part = path.with_name(f"{path.name}.part")
    with _opened(part) as file:
        logger.info("%s: downloading %s", path, url)
        for _ in range(ATTEMPTS):
            begun = file.tell()
            cut = _receive(url, file, part, path, known=bool(wanted))
            if not cut or file.tell() <= begun:
                break
        if cut:
            raise UserError(
                f"{url}: {cut} after {file.tell():,} bytes; they are kept, and the same command goes on from there"
            )
        found = _digest(part)
        if not found.startswith(wanted.lower()):
            _forget(part)
            raise UserError(
                f"{url}: what came has the sha256 {found}, but {_origin(path, sha256)} says {wanted}: nothing is kept; "
                "the file was changed at its source or on the way"
            )
        if not sha256 and not published_sum(path):
            _record(path, found)
        try:
            os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise UserError(f"{path}: cannot write ({error.strerror}); {part} holds what came") from None
        _tag(part).unlink(missing_ok=True)
    logger.info("%s: %.1f MB, sha256 %s", path, path.stat().st_size / 1e6, found)
    return path


def verify(path: Path, sha256: str = "") -> None:
    """Raise UserError if a file is not what `sha256`, its name or the record beside it says; without any, nothing."""
    wanted = sha256 or published_sum(path) or recorded_sum(path)
    found = _digest(path) if wanted else ""
    if not found.startswith(wanted.lower()):
        raise UserError(
            f"{path}: its sha256 is {found}, but {_origin(path, sha256)} says {wanted}: it is damaged or another file; "
            "move it away to download it again"
        )


def published_sum(path: Path) -> str:
    """How the sha256 begins that stands in a file's name, '' if none does."""
    found = SUM_IN_NAME.search(path.name)
    return found[1] if found else ""


def recorded_sum(path: Path) -> str:
    """The sha256 that was recorded beside a file when it was first downloaded, '' if none was."""
    record = _record_of(path)
    if not record.exists():
        return ""
    try:
        found = re.match(r"[0-9a-f]{64}\b", record.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        found = None
    if found is None:
        raise UserError(f"{record}: not a sha256 sum in the form of sha256sum; move it away to record a new one")
    return found[0]


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, digest: str) -> None:
    write_atomically(_record_of(path), lambda file: file.write(f"{digest}  {path.name}\n".encode()))


def _origin(path: Path, sha256: str) -> str:
    """Who says what a file's sum is."""
    if sha256:
        return "its publisher"
    return "its name" if published_sum(path) else str(_record_of(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


@contextmanager
def _opened(part: Path) -> Iterator[IO[bytes]]:
    """The file of what has come so far, at its end and for this process alone; a lock dies with its process."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab", buffering=0)  # a buffer would be written again while an error of the disk is told
    except OSError as error:
        raise UserError(f"{part}: cannot write ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), part.stat())  # not renamed by another, just before
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise UserError(f"{part}: another process is downloading this file; wait for it")
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                _forget(part)


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _refuse_insecure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_insecure(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise UserError(f"{url}: refused, files are downloaded over https only")


def _request(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The server's answer, its certificate verified. Raises HTTPError for an answer that is an error."""
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(secure, _SecureRedirects)
    return opener.open(urllib.request.Request(url, headers=headers), timeout=SILENCE)


def _receive(url: str, file: IO[bytes], part: Path, path: Path, known: bool) -> str:
    """Append to `file` what is missing of `url`; returns how it was cut off, '' if it is whole."""
    headers = {"User-Agent": "transpose-pose", "Accept-Encoding": "identity"}
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    if not tag:  # nobody could say whether the rest is of the same file
        _empty(file)
    elif file.tell():
        headers |= {"Range": f"bytes={file.tell()}-", "If-Range": tag}
    try:
        answer = _request(url, headers)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            _tag(part).unlink()
            return _receive(url, file, part, path, known)
        raise UserError(
            f"{url}: the server answers {error.code} {error.reason}; if the file has moved, get it there and put it at "
            f"{path}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if file.tell():
            return f"the server cannot be reached ({_reason(error)})"
        raise UserError(
            f"{url}: cannot be reached ({_reason(error)}); without a network, bring the file another way and put it at "
            f"{path}"
        ) from None
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            _empty(file)
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-"):
            raise UserError(f"{url}: the server sends another part than the one asked for; delete {part}")
        if answer.length is None and not known:
            raise UserError(f"{url}: the server does not say how long the file is, and no sum of it is known: refused")
        version = answer.headers["ETag"] or ""
        version = answer.headers["Last-Modified"] or "" if version.startswith("W/") else version
        write_atomically(_tag(part), lambda tag: tag.write(version.encode()))
        total = None if answer.length is None else file.tell() + answer.length
        try:
            for chunk in _chunks(answer, path.name):
                _append(file, chunk, part)
        except (OSError, http.client.HTTPException) as error:
            return f"the connection broke ({_reason(error)})"
    if total is not None and file.tell() < total:
        return f"the connection was closed before the end, {total:,} bytes,"
    return ""


def _append(file: IO[bytes], chunk: bytes, part: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise UserError(f"{part}: cannot write ({error.strerror}); what came before is kept") from None


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _chunks(answer: http.client.HTTPResponse, name: str) -> Iterator[bytes]:
    """The body, a MiB at a time."""
    with Progress(-(-(answer.length or 0) // CHUNK), f"{name}, MiB") as progress:
        yield from progress.follow(iter(lambda: answer.read(CHUNK), b""))


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)
