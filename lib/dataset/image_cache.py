"""A cache of decoded images on the disk, for training that is limited by JPEG decoding."""

import hashlib
import os
from pathlib import Path

import numpy as np

from ..runtime.files import open_to_read, write_atomically
from .images import ImageReader


class DecodedImages:
    """Reads images as `reader` does, and keeps the decoded pixels in `folder`, about 0.9 MB for each of COCO's images.

    Each image has a file, whose name depends on the image's name, length and time of change (in a zip, its checksum). A
    file whose own checksum shows damage is written again.
    """

    def __init__(self, reader: ImageReader, folder: Path):
        self.reader, self.folder, self.source = reader, folder, reader.source

    def read(self, name: str, owner: str) -> np.ndarray:
        """Pixels (H, W, 3), BGR. Raises UserError as `reader` does, and if the folder cannot be written."""
        path = self._place(name)
        try:
            with open_to_read(path) as content, np.load(content, allow_pickle=False) as file:
                if any(part.compress_type for part in file.zip.infolist()):
                    raise ValueError("not written here, and may unpack to any size")
                pixels = file["pixels"]
            if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
                raise ValueError("not the pixels of an image")
            return pixels
        except Exception:  # missing, or damaged in any way
            pixels = self.reader.read(name, owner)
            write_atomically(path, lambda file: np.savez(file, pixels=pixels))
            return pixels

    def _place(self, name: str) -> Path:
        image = f"{self.source.absolute()}\n{name}\n{self.reader.version(name)}"
        digest = hashlib.sha256(os.fsencode(image)).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:34]}.npz"  # folders of a few hundred files
