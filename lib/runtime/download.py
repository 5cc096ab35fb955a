"""Files from the network, transferred by pooch: over https only, and checked before they get their name."""

import hashlib
import os
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import torch

from ..errors import UserError
from .files import root_cause, write_atomically
from .log import logger, on_terminal

SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")  # PyTorch's way: resnet50-19c8e357.pth


def cached_place(in_clone: Path) -> Path:
    """A file of the clone if it is there, else its place in the cache: TRANSPOSE_HOME, else torch.hub's folder."""
    cache = Path(os.environ.get("TRANSPOSE_HOME") or f"{torch.hub.get_dir()}/checkpoints").expanduser()
    return in_clone if in_clone.exists() else cache / in_clone.name


def fetch(url: str, path: Path, sha256: str = "") -> Path:
    """The file at `path`, downloaded from `url` if it is not there, and checked either way; returns `path`.

    `sha256` is the sum in hexadecimal, or its beginning; without it the file's name may hold one, else `<path>.sha256`,
    which the first download writes, as sha256sum does, if no sum is known. Raises UserError if the url is not https,
    the network or the disk fails, or the bytes are not the expected ones.
    """
    record = path.with_name(f"{path.name}.sha256")
    if sha256:
        expected, source = sha256.lower(), "its publisher"
    elif in_name := SUM_IN_NAME.search(path.name):
        expected, source = in_name[1], "its name"
    else:
        expected, source = _read_sum(record), str(record)
    if path.exists():
        if expected:
            _check_sum(path, str(path), expected, source, "move it away to download it again")
        return path

    def receive(file: IO[bytes]) -> None:
        _transfer(url, file, path, known=bool(expected))
        file.flush()
        found = _check_sum(Path(file.name), url, expected, source, "nothing is kept")
        if not expected:
            write_atomically(record, lambda file: file.write(f"{found}  {path.name}\n".encode()))

    logger.info("%s: downloading %s", path, url)
    write_atomically(path, receive)
    return path


def _read_sum(record: Path) -> str:
    if not record.exists():
        return ""
    found = re.match(rb"[0-9a-f]{64}\b", record.read_bytes())
    if found is None:
        raise UserError(f"{record}: not a sha256 sum in the form of sha256sum; move it away to record a new one")
    return found[0].decode()


def _check_sum(path: Path, subject: str, expected: str, source: str, advice: str) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise UserError(f"{subject}: its sha256 is {found}, but {source} says {expected}: damaged or changed; {advice}")
    return found


def _transfer(url: str, file: IO[bytes], path: Path, known: bool) -> None:
    """Write what `url` gives to a file; `known`: a sum will show whether all of it came."""
    import pooch
    from requests import RequestException

    stated = ""

    def check(answer: Any, **_: Any) -> None:
        """Called with the head of every answer, before a redirection is followed or a body is read."""
        nonlocal stated
        stated = length = answer.headers.get("Content-Length")
        if answer.is_redirect:
            _refuse_insecure(urljoin(answer.url, answer.headers["Location"]))
        elif answer.status_code != 200:
            raise UserError(f"{url}: the server answers {answer.status_code} {answer.reason}; {otherwise}")
        elif not (known if length is None else length.isdecimal()):
            raise UserError(f"{url}: the server does not say how long the file is, and no sum of it is known: refused")

    otherwise = f"if it cannot be downloaded, bring the file another way and put it at {path}"
    _refuse_insecure(url)
    download = pooch.HTTPDownloader(
        progressbar=on_terminal(),
        chunk_size=1 << 20,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": check},
        verify=os.environ.get("SSL_CERT_FILE") or True,
    )
    try:
        download(url, file, None)
    except RequestException as error:
        raise UserError(f"{url}: the download failed ({root_cause(error)}); {otherwise}") from None
    if stated and file.tell() != int(stated):  # which not every version of urllib3 looks at
        raise UserError(f"{url}: the download failed ({file.tell():,} of {int(stated):,} bytes came); {otherwise}")


def _refuse_insecure(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise UserError(f"{url}: refused, files are downloaded over https only")
