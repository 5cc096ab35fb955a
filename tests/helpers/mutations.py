"""Images as users have them: cut off, damaged, wrongly named, of odd kinds; made from a seed.

`mutants(number, seed)` makes them, `examine` reads each by a function, which is to return pixels or a person, or to
raise UserError that names the file:

    tally = examine(mutants(2000, seed=5), tmp_path, lambda path: predictor(path, boxes=[[10, 10, 60, 90]]))
"""

import faulthandler
import io
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import psutil

from helpers.goldens import IMAGES
from transpose.errors import UserError

HANGS = 60  # seconds after which the process ends with a traceback
SIDE = 256  # pixels; the images are scaled down to it
OTHER_ENDINGS = (".png", ".bmp", ".webp", ".tiff", ".gif", ".jp2", ".txt", "")
EXIF_ORIENTATION = 0x0112

Draw = np.random.Generator


@dataclass(frozen=True)
class Mutant:
    """A file that claims to be an image; `content` None makes a folder."""

    number: int
    kind: str
    ending: str
    content: bytes | None

    @property
    def name(self) -> str:
        return f"{self.number:05}_{self.kind}{self.ending}"


@dataclass
class Tally:
    """How many mutants of each kind were read and refused, and the time and memory that it took."""

    read: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")  # seconds of the processor; HANGS ends one that waits forever
    grown: int = 0  # bytes that the process was larger than at the start, at the most


def mutants(number: int, seed: int) -> Iterator[Mutant]:
    """`number` mutants, the kinds in turn."""
    images = [_small(path) for path in sorted(IMAGES.iterdir())[:8]]
    kinds = list(KINDS)
    for index in range(number):
        draw = np.random.default_rng((seed, index))
        kind = kinds[index % len(kinds)]
        ending, content = KINDS[kind](draw, images[draw.integers(len(images))])
        yield Mutant(index, kind, ending, content)


def examine(files: Iterable[Mutant], folder: Path, read: Callable[[Path], Any]) -> Tally:
    """Write each file, read it, and remove it. AssertionError for a refusal that does not name the file."""
    tally, process = Tally(), psutil.Process()
    before = process.memory_info().rss
    for mutant in files:
        path = folder / mutant.name
        if mutant.content is None:
            path.mkdir()
        else:
            path.write_bytes(mutant.content)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        began = time.process_time()
        try:
            read(path)
            tally.read[mutant.kind] += 1
        except UserError as error:
            assert mutant.name in str(error) and "\n" not in str(error), str(error)
            tally.refused[mutant.kind] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        tally.slowest = max(tally.slowest, (time.process_time() - began, mutant.name))
        tally.grown = max(tally.grown, process.memory_info().rss - before)
        path.rmdir() if mutant.content is None else path.unlink()
    return tally


def _small(path: Path) -> np.ndarray:
    """An image (H, W, 3), BGR, no side longer than SIDE."""
    image = cv2.imread(str(path))
    factor = SIDE / max(image.shape)
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _encoded(image: np.ndarray, ending: str = ".jpg", *options: int) -> bytes:
    done, content = cv2.imencode(ending, image, options)
    assert done
    return content.tobytes()


def _by_pil(image: np.ndarray, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image[..., ::-1]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _any(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    """An intact file, a JPEG in half of the draws."""
    ending = ".jpg" if draw.random() < 0.5 else str(draw.choice([".png", ".bmp", ".webp", ".tiff", ".gif"]))
    return ending, _encoded(image, ending)


def truncated(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending, content = _any(draw, image)
    return ending, content[: draw.integers(1, len(content))]


def flipped_bytes(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending, content = _any(draw, image)
    return ending, _with_noise(draw, content, len(content))


def flipped_header(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending, content = _any(draw, image)
    return ending, _with_noise(draw, content, 200)


def _with_noise(draw: Draw, content: bytes, end: int) -> bytes:
    changed = bytearray(content)
    for place in draw.integers(min(end, len(changed)), size=draw.integers(1, 20)):
        changed[place] = draw.integers(256)
    return bytes(changed)


def lost_block(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    """What a bad sector or an interrupted download leaves: zeros in the middle."""
    ending, content = _any(draw, image)
    begin, end = sorted(draw.integers(len(content), size=2))
    return ending, content[:begin] + bytes(end - begin) + content[end:]


def more_bytes(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending, content = _any(draw, image)
    place = draw.integers(len(content) + 1)
    return ending, content[:place] + draw.bytes(draw.integers(1, 5000)) + content[place:]


def wrong_ending(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    return str(draw.choice(OTHER_ENDINGS)), _any(draw, image)[1]


def tiny(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    height, width = draw.choice([1, 1, 2, 3, 300], size=2)
    ending = str(draw.choice([".jpg", ".png", ".bmp", ".webp"]))
    return ending, _encoded(np.resize(image, (height, width, 3)), ending)


def grey(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending = str(draw.choice([".jpg", ".png"]))
    return ending, _encoded(image[..., 0], ending)


def cmyk(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    return ".jpg", _by_pil(image, "JPEG", "CMYK")


def sixteen_bits(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    ending = str(draw.choice([".png", ".tiff"]))
    return ending, _encoded(image.astype(np.uint16) * 257, ending)


def floating(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    values = image.astype(np.float32) / 255
    values[draw.random(values.shape) < 0.01] = draw.choice([np.nan, np.inf, -np.inf, 1e38])
    return ".tiff", _encoded(values, ".tiff")


def turned_by_exif(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = int(draw.integers(0, 10))  # 1 to 8 mean something
    return ".jpg", _by_pil(image, "JPEG", exif=exif)


def progressive(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    content = _encoded(image, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    return ".jpg", content if draw.random() < 0.5 else content[: draw.integers(2, len(content))]


def transparent(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    alpha = draw.integers(256, size=(*image.shape[:2], 1), dtype=np.uint8)
    ending = str(draw.choice([".png", ".webp"]))
    return ending, _encoded(np.concatenate([image, alpha], axis=2), ending)


def of_a_palette(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    kind = str(draw.choice(["PNG", "GIF"]))
    return f".{kind.lower()}", _by_pil(image, kind, "P")


def empty(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    return ".jpg", b""


def folder(draw: Draw, image: np.ndarray) -> tuple[str, None]:
    return ".jpg", None


def no_image(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    """Noise, now and then after the first bytes of an image."""
    begin = [b"", *(_any(draw, image)[1][: draw.integers(1, 100)] for _ in range(2))]
    return ".jpg", begin[draw.integers(3)] + draw.bytes(draw.integers(1, 20_000))


def absurd_size(draw: Draw, image: np.ndarray) -> tuple[str, bytes]:
    width, height = (int(side) for side in draw.choice([0, 1, 60_000, 65_500], size=2))
    ending = str(draw.choice([".jpg", ".png", ".bmp"]))
    content = _encoded(image, ending)
    if ending == ".jpg":
        place, size = content.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width)
    elif ending == ".png":
        place, size = 16, struct.pack(">II", width, height)
    else:
        place, size = 18, struct.pack("<ii", width, -height)
    return ending, content[:place] + size + content[place + len(size) :]


KINDS: dict[str, Callable[[Draw, np.ndarray], tuple[str, bytes | None]]] = {
    kind.__name__: kind
    for kind in (
        *(truncated, flipped_bytes, flipped_header, lost_block, more_bytes, wrong_ending, tiny, grey, cmyk),
        *(sixteen_bits, floating, turned_by_exif, progressive, transparent, of_a_palette),
        *(empty, folder, no_image, absurd_size),
    )
}
