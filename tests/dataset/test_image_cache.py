"""Photographs decoded once: equal to what OpenCV decodes and warps, made anew when they change."""

import os
import pickle
import shutil
import socket
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.goldens import IMAGES, INPUT, sample_crops, sample_people
from helpers.places import Place
from torch.utils.data import DataLoader

from transpose.dataset import image_cache, on_device
from transpose.dataset.images import ImageReader
from transpose.dataset.samplers import TrainSampler
from transpose.dataset.topdown import Augmentation
from transpose.errors import UserError
from transpose.pose import geometry
from transpose.runtime import checkpoint


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(IMAGES.iterdir())[:4]:
        shutil.copy(path, folder)
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def as_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names_in(folder):
            archive.write(folder / name, name)
    return path


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_pixels_are_the_decoders(tmp_path, photographs, zipped):
    names = names_in(photographs)
    reader = ImageReader(as_zip(photographs) if zipped else photographs)
    opened = image_cache.opened(tmp_path / "pixels.bin", reader, names)
    for other in (opened, pickle.loads(pickle.dumps(opened))):
        for name in names:
            np.testing.assert_array_equal(other.read(name, "x"), reader.read(name, "x"))
    assert len(pickle.dumps(opened)) < 10_000


def test_made_once_and_watched(tmp_path, photographs):
    seen = []

    def follow(names):
        seen.append(len(names))
        return names

    for _ in range(2):
        image_cache.opened(tmp_path / "pixels.bin", ImageReader(photographs), names_in(photographs), follow)
    assert seen == [4]


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_changed_photograph_is_noticed(tmp_path, photographs, zipped):
    names = names_in(photographs)
    path = tmp_path / "pixels.bin"
    image_cache.opened(path, ImageReader(as_zip(photographs) if zipped else photographs), names)
    image = cv2.imread(str(photographs / names[1]))
    cv2.imwrite(str(photographs / names[1]), 255 - image)
    reader = ImageReader(as_zip(photographs) if zipped else photographs)
    again = image_cache.opened(path, reader, names)
    np.testing.assert_array_equal(again.read(names[1], "x"), reader.read(names[1], "x"))


@pytest.mark.parametrize("harm", ["truncated", "no index", "index damaged", "other photographs"])
def test_damaged_or_unfit_store_is_made_anew(tmp_path, photographs, harm, caplog):
    names, path = names_in(photographs), tmp_path / "pixels.bin"
    reader = ImageReader(photographs)
    image_cache.opened(path, reader, names[:2] if harm == "other photographs" else names)
    if harm == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    elif harm == "no index":
        path.with_suffix(".npz").unlink()
    elif harm == "index damaged":
        path.with_suffix(".npz").write_bytes(b"nothing")
    again = image_cache.opened(path, reader, names)
    np.testing.assert_array_equal(again.read(names[3], "x"), reader.read(names[3], "x"))


def test_photograph_that_cannot_be_read_is_named_and_nothing_is_left(tmp_path, photographs):
    names = names_in(photographs)
    (photographs / names[2]).write_bytes(b"no image")
    with pytest.raises(UserError, match=names[2]):
        image_cache.opened(tmp_path / "pixels.bin", ImageReader(photographs), names)
    assert not list(tmp_path.glob("*pixels*"))
    with pytest.raises(UserError, match=r"missing\.jpg: cannot read"):
        image_cache.opened(tmp_path / "pixels.bin", ImageReader(photographs), [*names, "missing.jpg"])


@pytest.mark.parametrize("rotation", [0.0, 37.5, -80.0])
def test_crops_on_the_device_are_opencvs(tmp_path, rotation):
    """Within two grey levels for 99.9 % of the values, also across the photograph's border."""
    people = sample_people()
    names = sorted(set(people.images.names.tolist()))
    opened = image_cache.opened(tmp_path / "pixels.bin", ImageReader(IMAGES), names)
    center, scale = geometry.boxes_to_crops(people.boxes, INPUT[0] / INPUT[1])
    scale = scale * np.float32(1.3)
    wanted, matrices, places = [], [], []
    for i in range(0, len(people), 5):
        name = str(people.images.names[people.image[i]])
        to_input = geometry.crop_to_output(center[i], scale[i], rotation, INPUT)
        wanted.append(cv2.warpAffine(opened.read(name, "x"), to_input, INPUT, flags=cv2.INTER_LINEAR))
        matrices.append(cv2.invertAffineTransform(to_input))
        places.append(opened.place(name))
    found = on_device.cut_crops(
        torch.from_numpy(np.array(opened.pixels)),
        torch.from_numpy(opened.offsets[places]),
        torch.from_numpy(opened.sizes[places]),
        torch.from_numpy(np.stack(matrices)),
        INPUT,
    )
    assert found.shape == (len(wanted), INPUT[1], INPUT[0], 3) and found.dtype == torch.uint8
    off = np.abs(found.numpy().astype(int) - np.stack(wanted).astype(int))
    assert (off <= 2).mean() >= 0.999
    assert (np.stack(wanted) == 0).all(-1).mean() > 0.02  # some lie outside


def test_batches_cut_on_the_device_are_the_loaders(tmp_path):
    """Flipped, turned, scaled and half bodies: every array equal, pixels within two grey levels for 99.9 %."""
    augmentation = Augmentation(half_body=0.5)
    crops = sample_crops(augmentation=augmentation, seed=5)
    people = crops.instances
    names = np.unique(people.images.names[people.image]).tolist()
    opened = image_cache.opened(tmp_path / "pixels.bin", ImageReader(IMAGES), names)
    plan = TrainSampler(len(crops), 10, 2, 5)
    cut = on_device.OnDeviceLoader(
        DataLoader(on_device.CropGeometries(crops, opened), batch_sampler=plan),
        on_device.on_device(opened, torch.device("cpu"))[0],
        micro_batch=10,
    )
    off = []
    for ours, wanted in zip(cut, DataLoader(crops, batch_sampler=plan), strict=True):
        assert ours.keys() == wanted.keys()
        for name in wanted.keys() - {"image"}:
            assert torch.equal(ours[name], wanted[name]), name
        assert ours["image"].shape == wanted["image"].shape
        off.append((ours["image"].int() - wanted["image"].int()).abs().flatten())
    assert (torch.cat(off) <= 2).double().mean() >= 0.999 and len(cut) == len(off)


def cut_apart(rank: int, folder: str, ports: int) -> None:
    """One of two processes: writes its batches, which come from photographs that both hold a share of."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports)}
    torch.distributed.init_process_group("gloo")
    crops = sample_crops(augmentation=Augmentation(half_body=0.5), seed=5)
    opened = image_cache.DecodedImages(Path(folder) / "pixels.bin")
    plan = TrainSampler(len(crops), 10, 2, 5, rank=rank, world=2)
    pixels, first = on_device.on_device(opened, torch.device("cpu"))
    loader = DataLoader(on_device.CropGeometries(crops, opened), batch_sampler=plan)
    images = [batch["image"] for batch in on_device.OnDeviceLoader(loader, pixels, 10, first)]
    torch.save({"images": images, "bytes": len(pixels)}, Path(folder) / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_that_hold_half_the_photographs_each_cut_the_same_batches(tmp_path):
    crops = sample_crops(augmentation=Augmentation(half_body=0.5), seed=5)
    names = np.unique(crops.instances.images.names[crops.instances.image]).tolist()
    opened = image_cache.opened(tmp_path / "pixels.bin", ImageReader(IMAGES), names)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(cut_apart, (str(tmp_path), port), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    assert sum(part["bytes"] for part in parts) == len(opened.pixels)
    assert all(0.3 < part["bytes"] / len(opened.pixels) < 0.7 for part in parts)
    plan = TrainSampler(len(crops), 10, 2, 5)
    loader = DataLoader(on_device.CropGeometries(crops, opened), batch_sampler=plan)
    pixels, _ = on_device.on_device(opened, torch.device("cpu"))
    alone = [batch["image"] for batch in on_device.OnDeviceLoader(loader, pixels, 10)]
    assert len(alone) == len(parts[0]["images"]) + len(parts[1]["images"]) and len(alone[-1]) < 10
    for number, images in enumerate(alone):
        assert torch.equal(images, parts[number % 2]["images"][number // 2])


@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_trains_from_decoded_photographs(tmp_path, on_device):
    place = Place(tmp_path)
    folder = tmp_path / "decoded"
    place.options = ["DATASET.DECODED_DIR", str(folder), "DATASET.ON_DEVICE", str(on_device)]
    outcome = place.run("train")
    assert outcome.returncode == 0, outcome.stderr
    assert "decoding 2 images" in outcome.stdout and len(list(folder.glob("*.bin"))) == 1
    if not on_device:
        # Equal pixels, so equal weights.
        plain = Place(tmp_path / "plain")
        assert plain.run("train").returncode == 0
        weights = [checkpoint.read(p.run_folder / "final_state.pth") for p in (place, plain)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
