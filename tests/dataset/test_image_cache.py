"""Images decoded once: the decoder's pixels, decoded again when the image changes or the copy is damaged."""

import pickle
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.goldens import IMAGES
from helpers.places import Place

from transpose.dataset.image_cache import DecodedImages
from transpose.dataset.images import ImageReader
from transpose.errors import UserError
from transpose.runtime import checkpoint


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(IMAGES.iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reader_of(folder: Path, zipped: bool) -> ImageReader:
    if not zipped:
        return ImageReader(folder)
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names_in(folder):
            archive.write(folder / name, name)
    return ImageReader(path)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*given: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(ImageReader, "read", decode)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_pixels_are_the_decoders_and_are_decoded_once(tmp_path, images, zipped, monkeypatch):
    reader = reader_of(images, zipped)
    names = names_in(images)
    wanted = [reader.read(name, "x") for name in names]
    decoded = DecodedImages(reader, tmp_path / "decoded")
    for name in names:
        decoded.read(name, "x")
    forbid_decoding(monkeypatch)
    for other in (decoded, pickle.loads(pickle.dumps(decoded))):
        for name, pixels in zip(names, wanted, strict=True):
            np.testing.assert_array_equal(other.read(name, "x"), pixels)
    assert len(list((tmp_path / "decoded").glob("*/*.npz"))) == len(names)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_changed_image_is_noticed(tmp_path, images, zipped):
    name = names_in(images)[1]
    before = DecodedImages(reader_of(images, zipped), tmp_path / "decoded").read(name, "x")
    cv2.imwrite(str(images / name), 255 - before)
    reader = reader_of(images, zipped)
    after = DecodedImages(reader, tmp_path / "decoded").read(name, "x")
    np.testing.assert_array_equal(after, reader.read(name, "x"))
    assert (after != before).mean() > 0.9


@pytest.mark.parametrize(
    "harm", ["truncated", "a flipped bit", "other content", "empty", "compressed", "other numbers"]
)
def test_a_damaged_copy_is_written_again(tmp_path, images, harm):
    name, reader = names_in(images)[0], ImageReader(images)
    decoded = DecodedImages(reader, tmp_path / "decoded")
    decoded.read(name, "x")
    (copy,) = (tmp_path / "decoded").glob("*/*.npz")
    content = bytearray(copy.read_bytes())
    if harm == "truncated":
        del content[-100:]
    elif harm == "a flipped bit":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"nothing" if harm == "other content" else b"")
    copy.write_bytes(content)
    if harm == "compressed":
        np.savez_compressed(copy, pixels=np.zeros((2000, 2000, 3), np.uint8))
    elif harm == "other numbers":
        np.savez(copy, pixels=np.zeros((9, 9)))
    for _ in range(2):
        np.testing.assert_array_equal(decoded.read(name, "x"), reader.read(name, "x"))
    assert copy.stat().st_size > 100_000


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_an_image_that_cannot_be_read_is_named_and_nothing_is_left(tmp_path, images, zipped):
    name = names_in(images)[2]
    (images / name).write_bytes(b"no image")
    decoded = DecodedImages(reader_of(images, zipped), tmp_path / "decoded")
    for bad in (name, "missing.jpg"):
        with pytest.raises(UserError, match=bad):
            decoded.read(bad, "x")
    assert not (tmp_path / "decoded").exists()


def test_a_run_trains_from_decoded_images(tmp_path, run_preloaded):
    place, plain = Place(tmp_path), Place(tmp_path / "plain")
    folder = tmp_path / "decoded"
    place.options = ["DATASET.DECODED_DIR", str(folder)]
    assert place.run("train", run_preloaded).returncode == 0
    assert len(list(folder.glob("*/*.npz"))) == 2
    assert plain.run("train", run_preloaded).returncode == 0
    weights = [checkpoint.read(p.run_folder / "final_state.pth") for p in (place, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
