"""The dataset: read a photograph, draw the augmentation, warp the crop.

It hands out uint8 pixels and keypoints; normalisation and target maps are made batched on the device.
K keypoints; sizes are (width, height); coordinates are image pixels unless named otherwise.
"""

import io
import lzma
import os
import stat
import warnings
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import PIL.Image
from torch.utils.data import Dataset

from transpose import geometry
from transpose.dataset.people import People
from transpose.dataset.records import leads_out
from transpose.errors import UserError
from transpose.skeleton import Skeleton

# OpenCV's threads do not survive the fork that makes a loading process, which would then wait for them for ever.
cv2.setNumThreads(0)

ROTATION_PROBABILITY = 0.6
HALF_BODY_PADDING = 1.5
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", 0xDA, b"\xff\xd9"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers whose segment states the size
JPEG_LONE = {0x01, *range(0xD0, 0xDA), 0xFF}  # markers without a segment, and padding
MAX_PIXELS = 2**27  # of an image; 400 MB decoded
LIMIT = "DATASET.MAX_IMAGE_PIXELS"  # what an error calls the limit that a reader is given
MOST_BYTES = 8  # of a file for each pixel it may have: uncompressed, 16 bits of red, green, blue and alpha


@dataclass(frozen=True)
class Augmentation:
    """What training draws for each sample; `rotation` in degrees, the rest factors and probabilities."""

    flip: bool = True
    scale: float = 0.35
    rotation: float = 45.0
    half_body: float = 0.3
    half_body_joints: int = 8
    upper_body: float = 0.6914624612740131


class Reader(Protocol):
    """Where a photograph's pixels come from: a folder or a file."""

    source: Path

    def read(self, name: str, owner: str) -> np.ndarray:
        """Pixels (H, W, 3), BGR. `owner` says in an error whose image it is. Raises UserError if it cannot be read."""


class ImageReader:
    """Decodes images of a folder, or of a zip with members at its root, as uint8 BGR, EXIF orientation ignored.

    The images read last stay in memory up to `cache_bytes`, the very last always. One of more than `max_pixels` is
    refused before it is decoded, and so is a name that leads out of the folder.
    """

    def __init__(self, source: Path, cache_bytes: int = 0, max_pixels: int = MAX_PIXELS):
        self.source = source
        self.cache_bytes = cache_bytes
        self.max_pixels = max_pixels
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._zip: zipfile.ZipFile | None = None
        self._opened_by = 0  # process that opened the zip: another one would share its file position

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
        where = f"{self.source / name} ({owner})"
        if leads_out(name):
            raise UserError(f"{where}: the name {name!r} leads out of the images' folder; nothing is read there")
        return decode(self._bytes(name, where), where, max_pixels=self.max_pixels)

    def missing(self, names: list[str]) -> np.ndarray:
        """Which (N, bool) of the named images are not there; what a listing does not show is looked for."""
        try:
            if self.source.suffix != ".zip":
                there = set(os.listdir(self.source))
                return np.array([n not in there and not os.path.isfile(self.source / n) for n in names], bool)
            there = set(self._archive().namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.source}: cannot list the images ({error})") from None
        return np.array([name not in there for name in names], bool)

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._opened_by != os.getpid():
            self._zip, self._opened_by = zipfile.ZipFile(self.source), os.getpid()
        return self._zip

    def _bytes(self, name: str, where: str) -> bytes:
        if self.source.suffix != ".zip":
            return content_of(self.source / name, where, self.max_pixels)
        try:
            member = self._archive().getinfo(name)
            _refuse_bytes(member.file_size, where, self.max_pixels)
            with self._archive().open(member) as file:
                # No more than stated: without a number all that it unpacks to would be unpacked.
                return file.read(member.file_size)
        except OSError as error:
            raise UserError(f"{where}: cannot read the image ({error.strerror or error})") from None
        except KeyError:
            raise UserError(
                f"{where}: the zip has no such member at its root; zip the images without a folder"
            ) from None
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise UserError(f"{where}: cannot read the zip ({error})") from None


def content_of(path: Path, where: str, max_pixels: int = MAX_PIXELS, limit: str = LIMIT) -> bytes:
    """The bytes of an image file; `where` is what an error calls it, and `limit` what sets `max_pixels`.

    Raises UserError for what is no file (a pipe would keep its reader waiting), and for one larger than any image of
    `max_pixels`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{where}: cannot read the image ({'Is a directory' if path.is_dir() else 'Is no file'})")
        _refuse_bytes(status.st_size, where, max_pixels, limit)
        return path.read_bytes()
    except UserError:
        raise
    except (OSError, ValueError) as error:  # of a name with a zero byte
        raise UserError(f"{where}: cannot read the image ({getattr(error, 'strerror', None) or error})") from None


def _refuse_bytes(count: int, where: str, max_pixels: int, limit: str = LIMIT) -> None:
    if count > MOST_BYTES * max_pixels:
        raise UserError(
            f"{where}: refused before reading, it has {count:,} bytes, more than any image of the {max_pixels:,} "
            f"pixels that {limit} allows"
        )


def decode(
    content: bytes,
    where: str,
    oriented: bool = False,
    max_pixels: int = MAX_PIXELS,
    limit: str = LIMIT,
) -> np.ndarray:
    """The pixels (H, W, 3), uint8 BGR, of an image file's content; `oriented` turns them as EXIF says.

    `where` is what an error calls the file, and `limit` what sets `max_pixels`. Raises UserError if it is empty, cut
    off, no image, or larger than `max_pixels`, which its header tells before anything is decoded.
    """
    if not content:
        raise UserError(f"{where}: the image file is empty")
    size = None
    if content.startswith(JPEG_START):
        place, size = _jpeg_header(content)
        if content.rfind(JPEG_END, place) < 0:  # it is most often the last thing
            raise UserError(f"{where}: the JPEG is truncated")  # OpenCV fills what is missing with grey
    width, height = size or _size(content, where)
    if width * height > max_pixels:
        raise UserError(
            f"{where}: refused before decoding, it is {width} x {height} and {limit} allows {max_pixels:,} pixels"
        )
    flags = cv2.IMREAD_COLOR | (0 if oriented else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{where}: not an image that can be decoded")
    return image


def _jpeg_header(content: bytes) -> tuple[int, tuple[int, int] | None]:
    """Where a JPEG's first scan begins, and the (width, height) that is stated before it.

    Segments before the scan state their lengths, so thumbnails inside them are passed over. Bytes between segments,
    which some cameras leave and decoders skip, end the walk, and the size is None.
    """
    place, size = len(JPEG_START), None
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == JPEG_SCAN:
            return place, size
        if marker in JPEG_LONE:
            break
        if marker in JPEG_FRAMES:
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            size = width, height
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return place, None


def _size(content: bytes, where: str) -> tuple[int, int]:
    """Width and height as an image's header states them. Raises UserError if it has none."""
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(io.BytesIO(content)) as image:
            return image.size
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f"{where}: refused before decoding: {error}") from None
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{where}: not an image that can be decoded") from None


def refuse_what_has_no_crop(people: People, center: np.ndarray, scale: np.ndarray) -> None:
    """Raise UserError for a box so small, or so far away, that float32 cannot tell its crop's corners apart."""
    half_width = np.abs(scale[:, 0] * geometry.PIXEL_STD - 1) / 2
    for index in np.flatnonzero(half_width <= np.spacing(np.abs(center).max(1)))[:1].tolist():
        name, box = people.images.names[people.image[index]], people.boxes[index].tolist()
        raise UserError(
            f"{name}: the box {box} of person {people.ids[index]} is too small or too far from the image to be cropped"
        )


class Crops(Dataset):
    """One crop per person.

    Indexed by a sample number, or by (epoch, sample number) in training: every draw comes from (seed, epoch, sample),
    whatever process makes it. A sample is a dict of arrays:
    image (h, w, 3) uint8; keypoints (K, 2) float32 in heatmap pixels; visible (K) float32;
    to_image (2, 3) float64, heatmap pixels -> image pixels; center (2), scale (2); index.
    """

    def __init__(
        self,
        people: People,
        reader: Reader,
        skeleton: Skeleton,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        *,
        rgb: bool = True,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.people, self.reader, self.skeleton = people, reader, skeleton
        self.input_size, self.heatmap_size = input_size, heatmap_size
        self.rgb, self.augmentation, self.seed = rgb, augmentation, seed
        self.aspect = input_size[0] / input_size[1]
        self.center, self.scale = geometry.boxes_to_crops(people.boxes, self.aspect)
        refuse_what_has_no_crop(people, self.center, self.scale)

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self._sample(index, *self.drawn(epoch, index))

    def mirrored(self, index: int) -> dict[str, np.ndarray]:
        """The sample flipped, and not augmented otherwise."""
        return self._sample(index, self.center[index], self.scale[index], 0.0, flip=True)

    def drawn(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """A sample's centre, scale, rotation in degrees and flip."""
        center, scale = self.center[index], self.scale[index]
        if self.augmentation is None:
            return center, scale, 0.0, False
        # Zero is the epoch's permutation (dataset/batches.py).
        draw = np.random.default_rng((self.seed, epoch, 1 + index))
        keypoints, visible = self.people.keypoints[index], self.people.visible[index]
        return self._augment(draw, self.augmentation, center, scale, keypoints, visible)

    def _sample(
        self, index: int, center: np.ndarray, scale: np.ndarray, rotation: float, flip: bool
    ) -> dict[str, np.ndarray]:
        image = self.image(index)
        to_input, sample = self.placed(index, center, scale, rotation, flip, image.shape[1])
        if flip:
            image = mirror_image(image, sample["center"], geometry.half_extent(to_input, self.input_size))
        crop = cv2.warpAffine(image, to_input, self.input_size, flags=cv2.INTER_LINEAR)
        if self.rgb:
            cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
        return {"image": crop, **sample}

    def placed(
        self, index: int, center: np.ndarray, scale: np.ndarray, rotation: float, flip: bool, width: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The map (2, 3) from a photograph `width` pixels wide, mirrored with `flip`, to the crop; the sample but for
        its pixels."""
        keypoints, visible = self.people.keypoints[index], self.people.visible[index]
        if flip:
            order = self.skeleton.flip_order
            keypoints, visible = geometry.flip_points(keypoints, width)[order], visible[order]
            center = geometry.flip_points(center, width).astype(center.dtype)
        to_heatmap = geometry.crop_to_output(center, scale, rotation, self.heatmap_size)
        return geometry.crop_to_output(center, scale, rotation, self.input_size), {
            "keypoints": geometry.apply(to_heatmap, keypoints).astype(np.float32),
            "visible": visible,
            "to_image": geometry.crop_to_output(center, scale, rotation, self.heatmap_size, inverse=True),
            "center": center,
            "scale": scale,
            "index": np.int64(index),
        }

    def image(self, index: int) -> np.ndarray:
        """The whole photograph (H, W, 3), BGR, of a person."""
        name = str(self.people.images.names[self.people.image[index]])
        return self.reader.read(name, owner=f"person {self.people.ids[index]}")

    def _augment(
        self,
        draw: np.random.Generator,
        chosen: Augmentation,
        center: np.ndarray,
        scale: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """Centre, scale, rotation in degrees and flip, drawn in the published order."""
        if visible.sum() > chosen.half_body_joints and draw.random() < chosen.half_body:
            prefer_upper = draw.random() < chosen.upper_body
            half = half_body_crop(keypoints, visible, self.skeleton, self.aspect, prefer_upper)
            center, scale = half or (center, scale)
        factor = min(max(1 + chosen.scale * draw.standard_normal(), 1 - chosen.scale), 1 + chosen.scale)
        scale = scale * np.float64(factor)  # the product is float64, as published
        rotation = 0.0
        if draw.random() <= ROTATION_PROBABILITY:
            bound = 2 * chosen.rotation
            rotation = min(max(chosen.rotation * draw.standard_normal(), -bound), bound)
        return center, scale, rotation, chosen.flip and draw.random() <= 0.5


def mirror_image(image: np.ndarray, center: np.ndarray, half_extent: np.ndarray) -> np.ndarray:
    """The mirror image (H, W, 3) of an image, undefined farther from `center` (2, in the mirror image) than a crop
    around it reaches: most of the pixels are not looked at, and a mirrored view OpenCV would copy slowly."""
    height, width = image.shape[:2]
    # Two pixels more than what interpolation between pixel centres asks for.
    left, top = np.maximum(np.floor(center - half_extent) - 2, 0).astype(int)
    right, bottom = np.minimum(np.ceil(center + half_extent) + 3, (width, height)).astype(int)
    mirror = np.empty_like(image)
    if left < right and top < bottom:
        cv2.flip(image[top:bottom, width - right : width - left], 1, dst=mirror[top:bottom, left:right])
    return mirror


def half_body_crop(
    keypoints: np.ndarray, visible: np.ndarray, skeleton: Skeleton, aspect: float, prefer_upper: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre (2) and scale (2) of a crop around the visible joints of one half of the body, None for a lone joint.

    The preferred half needs more than two joints; else the lower is taken if it has more than two, else the upper.
    """
    halves = (skeleton.upper_body, skeleton.lower_body)
    upper, lower = (keypoints[[joint for joint in half if visible[joint] > 0]] for half in halves)
    if prefer_upper and len(upper) > 2:
        chosen = upper
    else:
        chosen = lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    width, height = chosen.max(0) - chosen.min(0) + 1
    scale = geometry.fit_aspect(width, height, aspect) / geometry.PIXEL_STD * HALF_BODY_PADDING
    return chosen.mean(0), scale.astype(np.float32)
