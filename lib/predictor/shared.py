"""The images of one command, shared out over processes, and gone on with after a kill.

The list of images is cut into chunks. What is found in a chunk becomes a file, its part, in a folder beside the
results; when all parts are there, the first process joins them in order. Persons share batches only within a chunk, and
the chunks depend on nothing but the list and the batch: the result has the same bytes in one process, in several, and
after a kill, on the same hardware with the same number of threads. In memory are the names of all images and what is
found in one chunk.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import UserError, passing_over
from ..runtime import distributed, lock
from ..runtime.files import checksum, make_writable, write_atomically, write_text
from ..runtime.log import logger
from .export import Exported
from .image import archive_of

if TYPE_CHECKING:
    from .predictor import Predictor

CHUNK = 32  # images; a larger batch makes larger chunks
PARTS = ".parts"  # the folder of parts in a folder of results; ends that of a file
HOW = "how.json"  # begins a folder of parts: what the results depend on
UNWRITTEN = "unwritten"  # of a part: why outputs of its images could not be written; it is made again


def is_unfinished(folder: Path) -> bool:
    return (folder / HOW).exists()


def dependence(options: Mapping[str, Any], images: Iterable[Sequence[Any]]) -> dict[str, str]:
    """What results depend on, by name: options, of a file with its sum, and the images.

    An image is its path and what else its results carry, such as its name and id; its file's size and time count too.
    """
    total = hashlib.sha256()
    for image in images:
        total.update(repr(image).encode())
        with contextlib.suppress(OSError):  # reading it says why
            status = os.stat(archive_of(image[0]) or image[0])
            total.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    texts = {
        f"--{name.replace('_', '-')}": f"{value} {checksum(value) if isinstance(value, Path) else ''}"
        for name, value in options.items()
    }
    return {"list of images": total.hexdigest()} | texts


def of_network(predictor: "Predictor") -> str:
    """A sum of a network's weights, and how it is tested."""
    trained = predictor.trained
    file = trained.path if isinstance(trained, Exported) else trained.weights
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]  # OpenVINO's are two
    return " ".join([*map(checksum, files), str(predictor.options)])


class Parts:
    """This process's share of `count` images, `batch` of them at a time, and the folder of what is found in them.

    `how` says by name what the results depend on. Raises UserError if an unfinished run with another `how` left parts
    here, unless `overwrite` lets this one start over; if another run is writing them; and if the processes see
    different images or options. The first process raises it for all: the others exit with the same code.
    """

    def __init__(self, folder: Path, how: Mapping[str, str], count: int, batch: int, overwrite: bool):
        self.folder, self._makes_parent = folder, not folder.parent.exists()
        size = max(CHUNK, batch)
        self._chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        how = {**how, "number of images": str(count), "number of images in a part": str(size)}
        distributed.join()
        done, errors = set[int](), list[UserError]()
        if distributed.rank() == 0:
            with passing_over(errors.append):
                done = self._begin(how, overwrite)
        (first, done, errors), *others = distributed.gather((how, done, errors))
        if any(other != first for other, *_ in others):
            differing = "the processes see different images or options; on all machines they must agree"
            errors.append(UserError(f"{folder}: {differing}"))
        if errors:
            distributed.stop()
            raise SystemExit(2) if distributed.rank() else errors[0]
        todo = [number for number in range(len(self._chunks)) if number not in done]
        self._own = todo[distributed.rank() :: distributed.world()]
        self.length = sum(self._chunks[number].stop - self._chunks[number].start for number in self._own)

    def _begin(self, how: Mapping[str, str], overwrite: bool) -> set[int]:
        """The numbers of the chunks that are done."""
        if self.folder.is_symlink():
            raise UserError(
                f"{self.folder}: this folder is filled and emptied, and must not be a symbolic link: move it away"
            )
        for folder in (self.folder.parent, self.folder):
            make_writable(folder, "--out")
        lock.claim(self.folder, option="--out")
        if is_unfinished(self.folder):
            before = json.loads((self.folder / HOW).read_bytes())
            other = [name for name in {**before, **how} if before.get(name) != how.get(name)]
            if not other:
                done = {n for n in range(len(self._chunks)) if self._is_done(n)}
                images = sum(self._chunks[n].stop - self._chunks[n].start for n in done)
                logger.info("%s: going on after the %d images that an unfinished run has done", self.folder, images)
                return done
            if not overwrite:
                raise UserError(
                    f"{self.folder}: holds an unfinished run with a different {other[0]}; repeat its command to go on, "
                    "or pass --overwrite to start over"
                )
        for file in self.folder.glob("*.json"):
            file.unlink()
        write_text(self.folder / HOW, json.dumps(how))
        return set()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08}.json"

    def _is_done(self, number: int) -> bool:
        return self._file(number).exists() and not json.loads(self._file(number).read_bytes()).get(UNWRITTEN)

    def fill(self, find: Callable[[slice], dict[str, Any]]) -> bool:
        """Write the part that `find` makes of each of this process's chunks, and wait for the other processes; returns
        whether this is the process that joins the parts."""
        if distributed.rank():
            logger.setLevel(logging.WARNING)  # until here the first process has warned for all
        for number in self._own:
            write_text(self._file(number), json.dumps(find(self._chunks[number])))
        distributed.gather(None)
        distributed.stop()
        return distributed.rank() == 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All parts, in order, one at a time in memory."""
        return (json.loads(self._file(number).read_bytes()) for number in range(len(self._chunks)))

    def remove(self) -> None:
        """When the results are whole. What a kill leaves of the folder is no unfinished run."""
        (self.folder / HOW).unlink()
        shutil.rmtree(self.folder, ignore_errors=True)  # NFS keeps the lock's file while it is open
        if self._makes_parent and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()  # no image could be used


def write_lists(path: Path, lists: Iterable[list], within: str = "[]") -> None:
    """Write the entries of successive lists as one JSON list in the place of the first [] of a text, as `json.dumps`
    would write it. Raises UserError as `write_atomically`."""
    before, after = within.split("[]", 1)

    def write(file: IO[bytes]) -> None:
        file.write(f"{before}[".encode())
        texts = (json.dumps(entries)[1:-1] for entries in lists if entries)
        for number, text in enumerate(texts):
            file.write(f"{', ' if number else ''}{text}".encode())
        file.write(f"]{after}".encode())

    write_atomically(path, write)


def write_tables(path: Path, tables: Iterable[str]) -> None:
    """Write successive CSV texts, each of which is empty or begins with the header, as one with one header."""

    def write(file: IO[bytes]) -> None:
        for number, table in enumerate(filter(None, tables)):
            text = table.split("\n", 1)[1] if number else table
            file.write(text.encode(errors="backslashreplace"))  # as write_text

    write_atomically(path, write)
