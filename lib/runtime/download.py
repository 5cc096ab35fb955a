"""Download files with pooch: over https only, and checked before they are moved to their path."""

import os
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import torch

from ..errors import UserError
from .files import checksum, read_bytes, root_cause, write_atomically, write_text
from .log import logger, on_terminal

SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")  # PyTorch's way: resnet50-19c8e357.pth


def cached_place(in_clone: Path) -> Path:
    """A file of the clone if it is there, else its path in the cache: TRANSPOSE_HOME, else torch.hub's folder."""
    cache = Path(os.environ.get("TRANSPOSE_HOME") or f"{torch.hub.get_dir()}/checkpoints").expanduser()
    return in_clone if in_clone.exists() else cache / in_clone.name


def fetch(url: str, path: Path, sha256: str = "") -> Path:
    """The file at `path`, downloaded from `url` if it is not there, and checked either way; returns `path`.

    `sha256` is the checksum in hexadecimal, or its beginning. Without it, the checksum in the file's name is used, or
    that in `<path>.sha256`, which the first download writes (in sha256sum's format) if no checksum is known. Raises
    UserError if the url is not https, the network or the disk fails, or the checksum differs.
    """
    record, in_name = path.with_name(f"{path.name}.sha256"), "".join(SUM_IN_NAME.findall(path.name))
    sums = {"its publisher": sha256.lower(), "its name": in_name, str(record): _recorded(record)}
    source, expected = next(((name, known) for name, known in sums.items() if known), ("", ""))

    def check(file: Path, subject: object, advice: str) -> str:
        found = checksum(file)
        if not found.startswith(expected):
            differ = f"its sha256 is {found}, but {source} says {expected}"
            raise UserError(f"{subject}: {differ}: damaged or changed; {advice}")
        return found

    def receive(file: IO[bytes]) -> None:
        _transfer(url, file, path, known=bool(expected))
        found = check(Path(file.name), url, "nothing is kept")
        if not expected:
            write_text(record, f"{found}  {path.name}\n")

    if not path.exists():
        logger.info("%s: downloading %s", path, url)
        write_atomically(path, receive)
    elif expected:
        check(path, path, "move it away to download it again")
    return path


def _recorded(record: Path) -> str:
    """The checksum in a file written by sha256sum, "" if there is none."""
    content = read_bytes(record) if record.exists() else b""
    if content and not re.match(rb"[0-9a-f]{64}\b", content):
        raise UserError(f"{record}: not a checksum file of sha256sum; move it away to record a new one")
    return content[:64].decode()


def _transfer(url: str, file: IO[bytes], path: Path, known: bool) -> None:
    """Download `url` to a file; `known`: a checksum will show whether it is complete."""
    import pooch
    from requests import RequestException

    otherwise = f"if the download fails again, get the file another way and put it at {path}"

    def check(answer: Any, **_: Any) -> None:
        """Called with the headers of every response, before a redirect is followed or a body is read."""
        length = answer.headers.get("Content-Length")
        if answer.is_redirect:
            _refuse_insecure(urljoin(answer.url, answer.headers["Location"]))
        elif answer.status_code != 200:
            raise UserError(f"{url}: the server answers {answer.status_code} {answer.reason}; {otherwise}")
        elif not (known if length is None else length.isdecimal()):
            why = "the server does not state the file's length and no checksum is known"
            raise UserError(f"{url}: refused, because {why}")

    _refuse_insecure(url)
    trusted = os.environ.get("SSL_CERT_FILE") or True
    options = {"headers": {"Accept-Encoding": "identity"}, "hooks": {"response": check}, "verify": trusted}
    try:
        pooch.HTTPDownloader(progressbar=on_terminal(), chunk_size=1 << 20, **options)(url, file, None)
    except RequestException as error:
        raise UserError(f"{url}: the download failed ({root_cause(error)}); {otherwise}") from None


def _refuse_insecure(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise UserError(f"{url}: refused, because files are downloaded over https only")
