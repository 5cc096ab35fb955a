"""An image in any form -> its pixels: a file, a NumPy array, a PIL image or a PyTorch tensor.

Internally, pixels are uint8 BGR (H, W, 3), as in OpenCV. The channel order of a user's array is given by the user.
"""

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..dataset.images import (
    MAX_PIXELS,
    content_of,
    content_of_member,
    decode_image,
    opened_zip,
    pixels_of,
    size_mismatch,
)
from ..errors import UserError
from ..runtime.files import root_cause

Source = str | PathLike | np.ndarray | PIL.Image.Image | Tensor
COLORS = ("RGB", "BGR")
LIMIT_OPTION = "--max-pixels (in Python max_pixels)"


def archive_of(path: Path) -> Path | None:
    """The zip that a path leads into, as images.zip/a/1.jpg does."""
    return next((folder for folder in path.parents if folder.suffix.lower() == ".zip" and folder.is_file()), None)


@lru_cache(maxsize=1)  # the directory of a large zip takes as long as many images
def _opened(archive: Path, modified: int) -> tuple[zipfile.ZipFile, dict[str, str]]:
    """A zip, and its members' names by their paths: that of a/1.jpg may be ./a//1.jpg."""
    opened = opened_zip(archive)
    return opened, {Path(name).as_posix(): name for name in opened.namelist()}


def content(path: Path, label: str, *limits: Any) -> bytes:
    """The bytes of an image file, which may lie in a zip. Raises UserError as `content_of`."""
    archive = archive_of(path)
    if archive is None:
        return content_of(path, label, *limits)
    opened, names = _opened(archive, archive.stat().st_mtime_ns)
    if (name := names.get(path.relative_to(archive).as_posix())) is None:
        raise UserError(f"{label}: the zip has no such member")
    return content_of_member(opened, name, label, *limits)


class Frame(NamedTuple):
    """The video's name, the frame's number (from 0), and its time in seconds."""

    video: str
    number: int
    time: float


@dataclass(frozen=True, eq=False)
class InputImage:
    """One image in any form. A file is read each time its pixels are needed, and not kept in memory.

    Raises UserError for an unknown `color`.
    """

    source: Source
    label: str  # its name in errors
    color: str = "RGB"  # channel order of an array or a tensor; files and PIL images know theirs
    oriented: bool = True  # rotated as EXIF says; COCO's annotations refer to images as stored
    max_pixels: int | None = None  # a file with more is refused before it is decoded; None: the reader's limit
    size: tuple[int, int] | None = None  # width and height given beside its boxes; any other size is refused
    frame: Frame | None = None  # of a video

    def __post_init__(self) -> None:
        if self.color not in COLORS:
            raise UserError(
                f"color must be {' or '.join(COLORS)}, the order of an array's channels, not {self.color!r}"
            )

    @property
    def name(self) -> str:
        """The path of a file, else the label."""
        return str(self.source) if isinstance(self.source, str | PathLike) else self.label

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, BGR. Raises UserError if it is no image, or of another `size`."""
        pixels = self._pixels()
        if contradiction := self.size and size_mismatch(pixels, self.size):
            hint = "--ignore-exif reads it as stored, or " if self.oriented else "leave out --ignore-exif, or "
            hint = hint if "EXIF" in contradiction else ""
            raise UserError(f"{self.label}: {contradiction}, as the list of images says; {hint}write the list again")
        return pixels

    def _pixels(self) -> np.ndarray:
        source = self.source
        if isinstance(source, str | PathLike):
            most = self.max_pixels or MAX_PIXELS
            encoded = content(Path(source), self.label, most, LIMIT_OPTION)
            return decode_image(encoded, self.label, self.oriented, most, LIMIT_OPTION)
        if isinstance(source, PIL.Image.Image):
            return self._of_pil(source)
        if isinstance(source, Tensor | np.ndarray):
            array = self._of_tensor(source) if isinstance(source, Tensor) else self._of_array(source)
            return np.ascontiguousarray(array if self.color == "BGR" else array[..., ::-1])  # as OpenCV needs it
        raise UserError(
            f"{self.label}: an image is a path, a NumPy array, a PIL image or a tensor, not a {type(source).__name__}"
        )

    def _of_pil(self, image: PIL.Image.Image) -> np.ndarray:
        try:
            return pixels_of(image, self.oriented)
        except MemoryError:
            raise
        except Exception as error:  # Pillow reads its files late
            raise UserError(f"{self.label}: not an image that can be decoded ({root_cause(error)})") from None

    def _of_tensor(self, tensor: Tensor) -> np.ndarray:
        if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
            raise UserError(
                f"{self.label}: a tensor must be uint8 (3, H, W), 0 to 255, not {str(tensor.dtype).split('.')[-1]} "
                f"{tuple(tensor.shape)}"
            )
        return tensor.permute(1, 2, 0).numpy(force=True)

    def _of_array(self, array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8:
            from_floats = "; of values from 0 to 1 make (array * 255).round().astype('uint8')"
            hint = from_floats if array.dtype.kind == "f" else ""
            raise UserError(f"{self.label}: an array must be uint8, 0 to 255, not {array.dtype}{hint}")
        if array.ndim == 2 and array.size:
            return np.repeat(array[..., None], 3, axis=2)
        if array.ndim != 3 or array.shape[2] != 3 or not array.size:
            hint = ""
            if array.ndim == 3 and array.shape[0] == 3:
                hint = "; array.transpose(1, 2, 0) puts the channels last"
            elif array.ndim == 3 and array.shape[2] == 4:
                hint = "; array[..., :3] leaves out the transparency"
            elif array.ndim == 4:
                hint = "; several images are a list"
            raise UserError(f"{self.label}: an array must be (H, W, 3), or (H, W) in grey, not {array.shape}{hint}")
        return array
