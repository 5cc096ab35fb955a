"""Read image files: find them, refuse some before decoding, and decode the others to pixels."""

import contextlib
import io
import os
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import PIL.TiffImagePlugin

from ..errors import UserError
from ..runtime.files import open_to_read, root_cause
from .json_fields import leads_out

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", 0xDA, b"\xff\xd9"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers whose segment states the size
JPEG_LONE = {0x01, *range(0xD0, 0xDA)}  # markers without a segment
JPEG_EXIF, EXIF_START = 0xE1, b"Exif\0\0"
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF's and TIFF's tag
# A TIFF's tags that its pixels depend on, from TIFF 6.0 and its supplements; Pillow and libtiff get no others.
TIFF_TAGS = {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326)}
TIFF_TAGS |= {332, 338, 339, 347, 529, 530, 532}
TILE = 322, 323  # width, height
# How one begins -> its order of bytes, where the place of its directory stands, and the types of places and of the
# number of entries. The last two are BigTIFF's.
TIFF_FORMS = {
    **{b"II*\0": ("<", 4, "I", "H"), b"MM\0*": (">", 4, "I", "H")},
    **{b"II+\0": ("<", 8, "Q", "Q"), b"MM\0+": (">", 8, "Q", "Q")},
}
MAX_VALUES = 200_000  # of a tag, such as one for each strip
# Of texts in a PNG, which take up to four times as many in memory: Pillow's own limit is 64 MB.
PIL.PngImagePlugin.MAX_TEXT_MEMORY = 8 << 20
MAX_PIXELS = 2**27  # per image; 400 MB decoded
LIMIT_KEY = "DATASET.MAX_IMAGE_PIXELS"  # the name of the reader's limit in errors
# Read by Pillow. AVIF and JPEG 2000 are left out: their headers may state a smaller size than is decoded.
OTHER_FORMATS = ("PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # modes of Pillow
MAX_BYTES_A_PIXEL = 8  # bytes of a file per allowed pixel: uncompressed RGBA of 16 bits


class Reader(Protocol):
    """Reads images by name."""

    source: Path

    def read(self, name: str, owner: str) -> np.ndarray:
        """Pixels (H, W, 3), BGR. Errors name the instance `owner`. Raises UserError if the image cannot be read."""


class ImageReader:
    """Decodes the images of a folder, or of a zip with the images at its root, as uint8 BGR, without EXIF rotation.

    Recently read images stay in memory up to `cache_bytes`; the last one always does. An image of more than
    `max_pixels` is refused before it is decoded, and so is a name that leads out of the folder.
    """

    def __init__(self, source: Path, cache_bytes: int = 0, max_pixels: int = MAX_PIXELS):
        self.source = source
        self.cache_bytes = cache_bytes
        self.max_pixels = max_pixels
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._zip: zipfile.ZipFile | None = None
        self._opened_by = 0  # process that opened the zip: a fork would share its file position

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_zip": None, "_cache": OrderedDict(), "_cached_bytes": 0}

    def read(self, name: str, owner: str) -> np.ndarray:
        """Pixels (H, W, 3). `owner` says in an error whose image it is. Raises UserError if it cannot be read."""
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        image = self._decode(name, owner)
        self._cache[name] = image
        self._cached_bytes += image.nbytes
        while len(self._cache) > 1 and self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return image

    def _decode(self, name: str, owner: str) -> np.ndarray:
        return decode_image(self.content(name, owner), f"{self.source / name} ({owner})", max_pixels=self.max_pixels)

    def content(self, name: str, owner: str) -> bytes:
        """The image's file. Raises UserError as `read` does."""
        where = f"{self.source / name} ({owner})"
        if leads_out(name):
            raise UserError(f"{where}: the name {name!r} leads out of the images' folder, and is refused")
        return self._bytes(name, where)

    def version(self, name: str) -> str:
        """A text that changes when the image is replaced; empty if the image cannot be read."""
        try:
            if self.source.suffix == ".zip":
                member = self._archive().getinfo(name)
                return f"{member.file_size} {member.CRC}"
            status = os.stat(self.source / name)
            return f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError, LookupError):
            return ""

    def missing(self, names: list[str]) -> np.ndarray:
        """Which (N, bool) of the named images are missing; names that the folder does not list are tried too."""
        if self.source.suffix == ".zip":
            members = set(self._archive().namelist())
            return np.array([name not in members for name in names], bool)
        try:
            there = set(os.listdir(self.source))
        except OSError as error:
            raise UserError(f"{self.source}: cannot list the images ({error})") from None
        return np.array([n not in there and not os.path.isfile(self.source / n) for n in names], bool)

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._opened_by != os.getpid():
            self._zip, self._opened_by = opened_zip(self.source), os.getpid()
        return self._zip

    def _bytes(self, name: str, where: str) -> bytes:
        if self.source.suffix != ".zip":
            return content_of(self.source / name, where, self.max_pixels)
        return content_of_member(self._archive(), name, where, self.max_pixels)


def opened_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip. Raises UserError if it is missing or damaged in any way."""
    try:
        with open_to_read(path):
            return zipfile.ZipFile(path)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot read the zip of the images ({root_cause(error)})") from None


def content_of(path: Path, where: str, max_pixels: int = MAX_PIXELS, limit: str = LIMIT_KEY) -> bytes:
    """The bytes of an image file; errors call it `where`, and call the option that sets `max_pixels` `limit`.

    Raises UserError for anything but a regular file, and for a file larger than any image of `max_pixels`.
    """
    try:
        with open_to_read(path) as file:
            _refuse_bytes(os.fstat(file.fileno()).st_size, where, max_pixels, limit)
            return file.read()
    except UserError:
        raise
    except (OSError, ValueError) as error:  # of a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: cannot read the image ({reason}{spelt_otherwise(path)})") from None


def spelt_otherwise(path: Path) -> str:
    """What to add where a file is missing: that one is there whose name differs in upper and lower case alone."""
    with contextlib.suppress(OSError, ValueError):
        for name in os.listdir(path.parent):
            if name != path.name and name.lower() == path.name.lower():
                return f"; there is {name}: upper and lower case count"
    return ""


def content_of_member(
    archive: zipfile.ZipFile, name: str, where: str, max_pixels: int = MAX_PIXELS, limit: str = LIMIT_KEY
) -> bytes:
    """The same of a zip's member. Raises UserError if the zip has none of this name, or is damaged."""
    try:
        member = archive.getinfo(name)
        _refuse_bytes(member.file_size, where, max_pixels, limit)
        with archive.open(member) as file:
            # No more than the stated size: read() without a limit would unpack a zip bomb.
            return file.read(member.file_size)
    except OSError as error:
        raise UserError(f"{where}: cannot read the image ({error.strerror or error})") from None
    except (UserError, MemoryError):
        raise
    except KeyError:
        raise UserError(f"{where}: the zip has no such member at its root; zip the images without a folder") from None
    except Exception as error:
        raise UserError(f"{where}: cannot read the zip ({root_cause(error)})") from None


def _refuse_bytes(count: int, where: str, max_pixels: int, limit: str = LIMIT_KEY) -> None:
    if count > MAX_BYTES_A_PIXEL * max_pixels:
        raise UserError(
            f"{where}: refused before reading: it has {count:,} bytes, more than any image of the {max_pixels:,} "
            f"pixels that {limit} allows"
        )


def decode_image(
    content: bytes,
    where: str,
    oriented: bool = False,
    max_pixels: int = MAX_PIXELS,
    limit: str = LIMIT_KEY,
) -> np.ndarray:
    """The pixels (H, W, 3), uint8 BGR, of an image file's content; `oriented` turns them as EXIF says.

    Without `oriented` the pixels are as stored, in every format. Only the upper 8 of 16 bits are used. Errors call the
    file `where`, and the option that sets `max_pixels` `limit`. Raises UserError if the file is empty, truncated, no
    image, or has more than `max_pixels` by its header, before it is decoded.
    """
    if not content:
        raise UserError(f"{where}: the image file is empty")
    if not content.startswith(JPEG_START):
        return _by_pillow(content, where, oriented, max_pixels, limit)
    size, place = _jpeg_size(content)
    if content.rfind(JPEG_END, place) < 0:  # it is most often the last thing
        raise UserError(f"{where}: the JPEG is truncated")  # OpenCV fills what is missing with grey
    _refuse_size(*size, where, max_pixels, limit)
    try:
        image = cv2.imdecode(
            np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | (0 if oriented else cv2.IMREAD_IGNORE_ORIENTATION)
        )
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{where}: not an image that can be decoded")
    return image


def orientation(content: bytes) -> int:
    """The EXIF orientation of an image file's content, 1 (as stored) where it has none; nothing is decoded."""
    try:
        if content.startswith(JPEG_START):
            segments = (content[place + 4 : end] for m, place, end in _jpeg_segments(content) if m == JPEG_EXIF)
            exif = next((segment for segment in segments if segment.startswith(EXIF_START)), b"")
        elif content[:4] in TIFF_FORMS:
            exif = content
        elif content.startswith(PNG_START):
            exif = _exif_of_png(content)
        else:
            with warnings.catch_warnings(action="ignore"), _opened(content) as image:
                exif = image.info.get("exif", b"")
        return _orientation(exif)
    except Exception:  # what a foreign library makes of damaged files
        return 1


def _orientation(exif: bytes) -> int:
    """What a TIFF, such as EXIF's data, says; 1 if it says nothing or is damaged."""
    try:
        content = exif.removeprefix(EXIF_START)
        entry = _first_directory(content, {ORIENTATION})[1][ORIENTATION]
        order, _, word, _ = TIFF_FORMS[content[:4]]
        return struct.unpack_from(f"{order}H", entry, len(entry) - struct.calcsize(word))[0]
    except (LookupError, ValueError, struct.error):
        return 1


def _first_directory(content: bytes, tags: Collection[int]) -> tuple[int, dict[int, bytes]]:
    """The place of a TIFF's first directory, and its entries of these tags.

    Of a tag that occurs twice the first counts, as for libtiff. Raises struct.error, LookupError or ValueError for what
    is no TIFF, or cut off.
    """
    order, at, word, number = TIFF_FORMS[content[:4]]
    (place,) = struct.unpack_from(order + word, content, at)
    (count,) = struct.unpack_from(order + number, content, place)
    first, length = place + struct.calcsize(number), 4 + 2 * struct.calcsize(word)
    entries: dict[int, bytes] = {}
    for (entry,) in struct.iter_unpack(f"{length}s", content[first : first + length * count]):
        tag, _, values = struct.unpack_from(f"{order}HH{word}", entry)
        if tag in tags:
            if values > MAX_VALUES:
                raise ValueError(f"{values:,} values of tag {tag}")
            entries.setdefault(tag, entry)
    return place, entries


def _bare_tiff(content: bytes, tags: Collection[int]) -> bytes:
    """A TIFF of one page without other tags: in a small one they may all point at the same megabyte."""
    order, _, word, number = TIFF_FORMS[content[:4]]
    place, entries = _first_directory(content, tags)
    end = bytes(struct.calcsize(word))  # no other directory follows
    directory = struct.pack(order + number, len(entries)) + b"".join(entries.values()) + end
    return content[:place] + directory + content[place + len(directory) :]


def stated_size(content: bytes) -> tuple[int, int]:
    """The (width, height) that an image file's content states, (0, 0) where it states none; nothing is decoded."""
    try:
        if content.startswith(JPEG_START):
            return _jpeg_size(content)[0]
        bare = _bare_tiff(content, TIFF_TAGS) if content[:4] in TIFF_FORMS else content
        with warnings.catch_warnings(action="ignore"), _opened(bare) as image:
            return image.size
    except Exception:  # reading the image says why
        return 0, 0


def size_mismatch(pixels: np.ndarray, stated: Sequence[int]) -> str:
    """How the size of pixels (H, W, 3) contradicts the `stated` width and height; empty if it does not, or if none
    are stated (0, 0), as in MPII's files."""
    height, width = pixels.shape[:2]
    if tuple(stated) in ((width, height), (0, 0)):
        return ""
    turned = " (turned by its EXIF orientation?)" if (height, width) == tuple(stated) else ""
    return f"is {width} x {height}, not {stated[0]} x {stated[1]}{turned}"


def _refuse_size(width: int, height: int, where: str, max_pixels: int, limit: str) -> None:
    if width * height > max_pixels:
        raise UserError(
            f"{where}: refused before decoding: it is {width} x {height}, but {limit} allows {max_pixels:,} pixels"
        )


def _opened(content: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(content), formats=OTHER_FORMATS)


def _by_pillow(content: bytes, where: str, oriented: bool, max_pixels: int, limit: str) -> np.ndarray:
    """The pixels of an image that Pillow opens and then decodes, so that the size that is looked at is the one that is
    decoded. Raises UserError for whatever Pillow raises."""
    try:
        if content[:4] in TIFF_FORMS:
            content = _bare_tiff(content, TIFF_TAGS | ({ORIENTATION} if oriented else set()))
        with warnings.catch_warnings(action="ignore"), _opened(content) as image:
            _refuse_size(*image.size, where, max_pixels, limit)
            if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
                width, height = (image.tag_v2.get(tag, 0) for tag in TILE)
                _refuse_size(width, height, f"{where}, a tile", max_pixels, limit)
            elif oriented:
                image.load()
                turned = PIL.Image.Exif()
                turned[ORIENTATION] = _orientation(image.info.get("exif", b""))
                image.info["exif"] = turned.tobytes()  # in place of what Pillow would read whole
            return pixels_of(image, oriented)
    except (UserError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f"{where}: refused before decoding: {error}") from None
    except Exception as error:
        reason = root_cause(error)
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = f"neither JPEG nor {', '.join(OTHER_FORMATS)}: save it as one of them"
        raise UserError(f"{where}: not an image that can be decoded ({reason})") from None


def pixels_of(image: PIL.Image.Image, oriented: bool) -> np.ndarray:
    """The pixels (H, W, 3), uint8 BGR, of Pillow's image, without transparency; of 16 bits the upper 8.

    Raises ValueError for pixels of another kind, and what Pillow raises where its file is damaged.
    """
    if oriented:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in EIGHT_BIT:
        raise ValueError(f"pixels of mode {image.mode} are not 8-bit colours; convert it to RGB")
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)


def _exif_of_png(content: bytes) -> bytes:
    """The EXIF data of a PNG, which may stand after its pixels; of several the last, as for Pillow."""
    exif, place, kind = b"", len(PNG_START), b""
    while place + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"eXIf":
            exif = content[place + 8 : place + 8 + length]
        place += length + 12  # with its length, its name and its checksum
    return exif


def _jpeg_size(content: bytes) -> tuple[tuple[int, int], int]:
    """The (width, height) that a JPEG states last, (0, 0) if it states none, and where its last segment begins."""
    size, place = (0, 0), 0
    for marker, place, _ in _jpeg_segments(content):
        if marker in JPEG_FRAMES:
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            size = width, height
    return size, place


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers up to a JPEG's first scan, and where their segments begin and end, as libjpeg finds them.

    A segment states its length, so a thumbnail in one is passed over, and so are bytes between segments, which some
    cameras leave.
    """
    place = len(JPEG_START)
    while 0 <= (place := content.find(b"\xff", place)) <= len(content) - 4:
        marker, end = content[place + 1], place + 2
        if marker in (0, 0xFF):  # no marker; padding
            place += 1
            continue
        if marker not in JPEG_LONE:
            end += int.from_bytes(content[end : end + 2], "big")
        yield marker, place, end
        if marker == JPEG_SCAN:
            return
        place = end
