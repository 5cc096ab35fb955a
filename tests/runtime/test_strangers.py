"""Files from strangers: what is in them is never executed and never leads elsewhere, and one sentence says so.

Each hostile file would leave a mark on the disk, or fill the memory, if it had its way.
"""

import io
import json
import os
import pickle
import runpy
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch
from helpers.goldens import ANNOTATIONS, IMAGES, ROOT

from transpose.build.model import build_model, check_start_weights, load_start_weights, load_trained
from transpose.config.default import defaults
from transpose.config.load import load_config
from transpose.dataset import coco, mpii
from transpose.dataset.image_cache import DecodedImages
from transpose.dataset.images import MAX_PIXELS, ImageReader
from transpose.errors import UserError
from transpose.pose import skeleton
from transpose.runtime import checkpoint

IMAGE = sorted(IMAGES.iterdir())[0]
MUCH = 120 * 2**20  # bytes


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "the code ran"


class Trap:
    """Unpickling it calls a function."""

    def __init__(self, call: Callable, *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def traps(mark: Path) -> dict[str, Trap]:
    return {
        "method": Trap(Path.touch, mark),
        "system": Trap(os.system, f"touch '{mark}'"),
        "eval": Trap(eval, f"open({str(mark)!r}, 'w')"),
    }


def refusal(read: Callable[[], Any]) -> str:
    """The message, after a check that the memory did not grow."""
    before = psutil.Process().memory_info().rss
    with pytest.raises(UserError) as caught:
        read()
    assert psutil.Process().memory_info().rss - before < MUCH
    said = str(caught.value)
    assert "\n" not in said and len(said) < 1500
    return said


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def write_tar(content: Any, path: Path) -> None:
    """As torch wrote before 2017."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            part = pickle.dumps(content, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(part)
            archive.addfile(entry, io.BytesIO(part))


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "tar": write_tar,
    **{
        f"pickle{number}": lambda content, path, number=number: path.write_bytes(pickle.dumps(content, number))
        for number in (0, 2, 4)
    },
}


@pytest.mark.parametrize("kind", ["method", "system", "eval"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, mark: Path, write: Callable, kind: str):
    trap, path = traps(mark)[kind], tmp_path / "weights.pth"
    pickle.loads(pickle.dumps(trap))
    assert mark.exists(), "the trap works"
    mark.unlink()
    write({"state_dict": {"conv1.weight": trap}}, path)
    assert not mark.exists()
    assert refusal(lambda: checkpoint.read(path)).startswith(f"{path}: refused, it contains more than tensors")
    assert not mark.exists()


def test_a_program_of_torch_is_not_loaded(tmp_path: Path):
    path = tmp_path / "program.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"program/{name}", pickle.dumps({}))
    assert refusal(lambda: checkpoint.read(path)).startswith(f"{path}: ")


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(2 * MUCH), compresslevel=1)
    assert path.stat().st_size < 2**21
    assert "refused, bomb/data/0 in it is compressed" in refusal(lambda: checkpoint.read(path))


def test_damaged_checkpoints_are_read_or_refused(tmp_path: Path):
    state = {f"layer{i}.weight": torch.randn(4, 5) for i in range(6)} | {"number": torch.tensor(3)}
    draw = np.random.default_rng(0)
    for ending in (".pth", ".safetensors"):
        path = tmp_path / f"weights{ending}"
        checkpoint.save(path, state)
        whole, refused = path.read_bytes(), 0
        for _ in range(400):
            content = bytearray(whole)
            for _ in range(draw.integers(1, 4)):
                content[draw.integers(len(content))] = draw.integers(256)
            path.write_bytes(content[: draw.integers(len(content)) if draw.random() < 0.3 else None])
            try:
                checkpoint.read(path)
            except UserError as error:
                assert str(error).startswith(f"{path}: ")
                refused += 1
        assert 100 < refused < 400


def header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


LYING_HEADERS = {
    "longer_than_memory": struct.pack("<Q", 2**62),
    "longer_than_the_file": struct.pack("<Q", 2**20) + b"{}",
    "no_json": struct.pack("<Q", 4) + b"{{{{",
    "far_end": header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "other_shape": header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 4]}}) + bytes(4),
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
    "unknown_type": header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "overlap": header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}) + bytes(4),
    "pickle": pickle.dumps({"a": 1}),
    "empty": b"",
}


@pytest.mark.parametrize("content", LYING_HEADERS.values(), ids=LYING_HEADERS.keys())
def test_lying_headers_of_safetensors(tmp_path: Path, content: bytes):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    said = refusal(lambda: checkpoint.read(path))
    assert said.startswith(f"{path}: the checkpoint is truncated or no .safetensors file")


# ---- yamls ----------------------------------------------------------------------------------------------------------

BOMB = "\n- &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"- &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)  # ten lines, a thousand million elements
HOSTILE_YAMLS = {
    "apply": "WORKERS: !!python/object/apply:os.system [\"touch '{mark}'\"]",
    "new": "!!python/object/new:subprocess.Popen [[touch, '{mark}']]",
    "name": "names: !!python/name:os.system",
    "module": "names: !!python/module:antigravity",
    "bomb": "WORKERS:" + BOMB,
    "bomb_as_base": "_BASE_:" + BOMB,
    "bomb_of_keypoints": "names: [a, b]\nlimbs:" + BOMB,
    "deep": "GPUS: " + "[" * 1200 + "]" * 1200,
    "without_end": "MODEL: &a {{MODEL: *a}}",
    "no_date": "SEED: 2001-13-45",
    "long_number": "SEED: " + "9" * 5000,
    "deep_text": "TRAIN: {{LR: '" + "-" * 100_000 + "1'}}",
}


@pytest.mark.parametrize("read", [load_config, skeleton.read], ids=["config", "skeleton"])
@pytest.mark.parametrize("text", HOSTILE_YAMLS.values(), ids=HOSTILE_YAMLS.keys())
def test_yamls(tmp_path: Path, mark: Path, read: Callable[[Path], Any], text: str):
    path = tmp_path / "stranger.yaml"
    path.write_text(text.format(mark=mark) + "\n")
    assert refusal(lambda: read(path)).startswith(f"{path}: ")
    assert not mark.exists()


# ---- images ----------------------------------------------------------------------------------------------------


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that states a size and holds what it likes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def claiming(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame states another size."""
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def riff(width: int, height: int) -> bytes:
    """A lossless WebP's header, which Pillow 12 reads too: 14 bits for each side less 1."""
    header = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(3)
    body = b"WEBPVP8L" + struct.pack("<I", len(header)) + header
    return b"RIFF" + struct.pack("<I", len(body)) + body


JPEG = IMAGE.read_bytes()
ABSURD = {
    "jpeg": (claiming(JPEG, 65_500, 65_500), "65500 x 65500"),
    "jpeg_with_bytes_between": (JPEG[:20] + b"\0" + claiming(JPEG[20:], 65_500, 65_500), "65500 x 65500"),
    "jpeg_with_a_lone_marker": (JPEG[:2] + b"\xff\xd0" + claiming(JPEG[2:], 65_500, 65_500), "65500 x 65500"),
    "png_wide": (png(12_000, 11_500), "12000 x 11500"),
    "png_bomb": (png(30_000, 30_000, zlib.compress(bytes(90_001 * 300), 9) * 90), "900000000 pixels"),
    "webp": (riff(16_000, 16_000), "256000000 pixels"),
    "ppm": (b"P6 100000 100000 255\n" + bytes(100), "10000000000 pixels"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("content", "says"), ABSURD.values(), ids=ABSURD.keys())
def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, content: bytes, says: str, zipped: bool):
    source = tmp_path
    (tmp_path / "absurd.jpg").write_bytes(content)
    if zipped:
        source = tmp_path / "images.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "absurd.jpg", "absurd.jpg")
    said = refusal(lambda: ImageReader(source).read("absurd.jpg", "person 5"))
    assert said.startswith(f"{source / 'absurd.jpg'} (person 5): refused before decoding") and says in said


def test_the_limit_is_the_users(tmp_path: Path):
    height, width = cv2.imread(str(IMAGE)).shape[:2]
    shutil.copy(IMAGE, tmp_path)
    for ending in (".png", ".bmp", ".tiff", ".webp"):
        cv2.imwrite(str(tmp_path / f"other{ending}"), cv2.imread(str(IMAGE)))
    for path in list(tmp_path.iterdir()):
        assert ImageReader(tmp_path, max_pixels=width * height).read(path.name, "x").shape == (height, width, 3)
        says = f"it is {width} x {height}, but DATASET.MAX_IMAGE_PIXELS allows {width * height - 1:,} pixels"
        assert says in refusal(lambda p=path: ImageReader(tmp_path, max_pixels=width * height - 1).read(p.name, "x"))
        with pytest.raises(UserError, match="MAX_IMAGE_PIXELS"):
            DecodedImages(ImageReader(tmp_path, max_pixels=9), tmp_path / "decoded").read(path.name, "x")
    assert defaults().DATASET.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path):
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(2**40)  # a hole
    assert "refused before reading: it has 1,099,511,627,776 bytes" in refusal(
        lambda: ImageReader(tmp_path).read("long.jpg", "x")
    )


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name, says in (
        ("pipe.jpg", "Not a regular file"),
        ("folder.jpg", "Is a directory"),
        ("device.jpg", "Not a regular file"),
    ):
        assert f"cannot read the image ({says})" in refusal(lambda n=name: ImageReader(tmp_path).read(n, "x"))
        assert f"{name}: cannot read the checkpoint ({says})" in refusal(lambda n=name: checkpoint.read(tmp_path / n))


# ---- zips -----------------------------------------------------------------------------------------------------------


def test_a_zip_leads_nowhere(tmp_path: Path, mark: Path):
    secret = tmp_path / "secret.jpg"
    shutil.copy(IMAGE, secret)
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "images.zip"
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../written.jpg", JPEG)
        archive.writestr(str(mark), JPEG)
        archive.writestr(link, str(secret))
    before = sorted(tmp_path.rglob("*"))
    for name, says in (
        ("../written.jpg", "leads out of the images' folder"),
        (str(mark), "leads out of the images' folder"),
        ("link.jpg", "not an image that can be decoded"),  # it is a text, the name of a file, and stays one
        ("../../secret.jpg", "leads out of the images' folder"),
    ):
        assert says in refusal(lambda n=name: ImageReader(path).read(n, "person 5"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(2 * MUCH), compresslevel=1)
    honest = path.read_bytes()
    assert len(honest) < 2**21
    said = refusal(lambda: ImageReader(path, max_pixels=10**7).read("bomb.jpg", "x"))
    assert said.startswith(f"{path / 'bomb.jpg'} (x): refused before reading: it has {2 * MUCH:,} bytes")
    path.write_bytes(honest.replace(struct.pack("<I", 2 * MUCH), struct.pack("<I", 5000)))
    assert "cannot read the zip (BadZipFile: Bad CRC-32" in refusal(lambda: ImageReader(path).read("bomb.jpg", "x"))


def test_an_encrypted_member(tmp_path: Path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", JPEG)
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(lambda: ImageReader(path).read("a.jpg", "x"))


# ---- names in annotations -------------------------------------------------------------------------------------------

NAMES = {"up": "../secret.jpg", "up_from_below": "a/../../secret.jpg", "absolute": "/etc/passwd"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    shutil.copy(IMAGE, tmp_path / "secret.jpg")
    reader = ImageReader(folder)
    assert f"the name {name!r} leads out of the images' folder" in refusal(lambda: reader.read(name, "x"))

    content = json.loads(ANNOTATIONS.read_bytes())
    content["images"][3]["file_name"] = name
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(content))
    wanted = f"{file}: 'file_name' of image with id {content['images'][3]['id']} leads out of the images' folder: "
    assert refusal(lambda: coco.read_annotations(file)) == wanted + repr(name)

    path = tmp_path / "mpii.json"
    path.write_text(json.dumps([{"image": name}]))
    assert refusal(lambda: mpii.read_annotations(path, 16)).startswith(f"{path}: 'image' of record number 1 leads out")


def test_names_in_folders_below_are_read(tmp_path: Path):
    (tmp_path / "a..b").mkdir()
    shutil.copy(IMAGE, tmp_path / "a..b" / "..c.jpg")
    assert ImageReader(tmp_path).read("a..b/..c.jpg", "x").ndim == 3


# ---- converting weights ---------------------------------------------------------------------------------------------


@pytest.fixture
def convert(tmp_path: Path, monkeypatch, capsys) -> Callable[[str, str], tuple[int, str, str]]:
    """tools/convert.py IN OUT: exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, target: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["convert.py", source, target])
        try:
            runpy.run_path(str(ROOT / "tools" / "convert.py"), run_name="__main__")
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    def bits(state: dict) -> dict:
        return {name: (t.dtype, t.shape, t.contiguous().numpy().tobytes()) for name, t in state.items()}

    return bits(one) == bits(other)


def test_weights_convert_bit_for_bit(tmp_path: Path, convert: Callable):
    weight = torch.randn(3, 4, 5).transpose(0, 2)
    weight[0, 0, :3] = torch.tensor([float("nan"), -0.0, float("-inf")])
    state = {"conv.weight": weight, "tied": weight, "bn.num_batches_tracked": torch.tensor(7), "e": torch.zeros(0, 3)}
    training = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}, "optimizer": {}}
    checkpoint.save(tmp_path / "run.pth", training)
    assert convert("run.pth", "a.safetensors") == (0, "a.safetensors: 4 tensors, 121 numbers\n", "")
    assert convert("a.safetensors", "b.pth") == (0, "b.pth: 4 tensors, 121 numbers\n", "")
    for name in ("a.safetensors", "b.pth"):
        assert same_bits(checkpoint.read(tmp_path / name), state)
    checkpoint.save(tmp_path / "more.pth", state | {"note": "x", "lr": 0.1})
    says = "c.safetensors: 4 tensors, 121 numbers; left out: 2 that are no named tensors\n"
    assert convert("more.pth", "c.safetensors") == (0, says, "")


def test_safetensors_serve_wherever_weights_are_named(tmp_path: Path):
    path, demo = tmp_path / "weights.safetensors", ROOT / "experiments/coco_sample/demo.yaml"
    trained = build_model(load_config(demo)).state_dict()
    checkpoint.save(path, trained)
    cfg = load_config(demo, ["TEST.MODEL_FILE", str(path), "MODEL.INIT_FROM", str(path)])
    tested, begun, backbone = (build_model(cfg) for _ in range(3))
    assert load_trained(cfg, tested, tmp_path) == path
    load_start_weights(cfg, begun, skeleton.COCO)
    assert same_bits(tested.state_dict(), trained) and same_bits(begun.state_dict(), trained)
    cfg = load_config(demo, ["MODEL.PRETRAINED", str(path), "MODEL.INIT_WEIGHTS", "True"])
    check_start_weights(cfg)
    load_start_weights(cfg, backbone, skeleton.COCO)
    assert torch.equal(backbone.conv1.weight, trained["conv1.weight"])


def test_what_convert_refuses(tmp_path: Path, mark: Path, convert: Callable):
    checkpoint.save(tmp_path / "good.pth", {"a": torch.zeros(2)})
    checkpoint.save(tmp_path / "none.pth", {"epoch": 3})
    torch.save({"a": Trap(Path.touch, mark)}, tmp_path / "trap.pth")
    for source, target, says in (
        ("good.pth", "none.pth", "none.pth: exists already"),
        ("good.pth", "a.onnx", "a.onnx: the name must end in .pth or .safetensors"),
        ("none.pth", "b.safetensors", "none.pth: the file contains no named tensors"),
        ("trap.pth", "b.safetensors", "trap.pth: refused"),
    ):
        code, out, error = convert(source, target)
        assert (code, out) == (2, "") and error.startswith(f"error: {says}") and error.count("\n") == 1
    assert not mark.exists() and [p.suffix for p in tmp_path.iterdir()] == [".pth"] * 3


# ---- the source -----------------------------------------------------------------------------------------------------

DANGEROUS = (
    "yaml.load(",
    "yaml.unsafe",
    "yaml.full_load",
    "pickle.load",
    "allow_pickle=True",
    "weights_only=False",
    "json_tricks.load",
    "shell=True",
    "os.system",
    "extractall",
    ".extract(",
)


def test_the_source_calls_nothing_that_executes_files():
    files = [path for folder in ("lib", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    for path in files:
        text = path.read_text()
        assert not [word for word in DANGEROUS if word in text], path
        programs = "torch.jit.load(" in text or "torch.export.load(" in text
        assert programs == (path == ROOT / "lib/predictor/export.py"), path
        assert text.count(" torch.load(") == text.count("weights_only=True"), path
