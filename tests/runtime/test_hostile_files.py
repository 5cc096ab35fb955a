"""Small files that would take much memory: each gives one message, within 64 MB plus eight times its size."""

import io
import os
import random
import re
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from helpers.goldens import IMAGES, ROOT
from helpers.hostile import STATES, png_with, read_within_bounds, tiff, tiff_with_two_sizes

from transpose.config.load import load_config
from transpose.dataset.image_cache import DecodedImages
from transpose.dataset.images import ImageReader, content_of, decode_image, opened_zip, orientation, stated_size
from transpose.dataset.json_fields import read_json
from transpose.engine.resume import saved_state
from transpose.errors import UserError
from transpose.evaluation import calibration, matlab_file
from transpose.models.weights import load_weights
from transpose.predictor import video
from transpose.predictor.export import Card
from transpose.predictor.inputs import is_annotation_file
from transpose.predictor.video import Video
from transpose.runtime import checkpoint, lock, log
from transpose.runtime.files import remove_leftovers, write_atomically, write_text

# ---- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATES)
def test_a_small_state_with_a_large_content_is_refused(tmp_path: Path, name: str):
    content, says = STATES[name]
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    if says == "read":
        checkpoint.read(path)
        return
    with pytest.raises(UserError, match=says) as caught:
        checkpoint.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_safetensors_of_empty_tensors_is_refused(tmp_path: Path):
    empty = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(b'"%d":%s' % (i, empty) for i in range(60_000)) + b"}"
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"w\.safetensors: refused, it has more than 50,000 parts"):
        checkpoint.read(tmp_path / "w.safetensors")


def test_small_states_take_little_memory(tmp_path: Path):
    for name, (content, _) in STATES.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
    read_within_bounds("from transpose.runtime import checkpoint", "checkpoint.read(path)", tmp_path.iterdir())


PLAIN = {
    "tensors": {"w": torch.randn(3, 4).t(), "part": torch.arange(10.0)[2:5], "e": torch.empty(0)},
    "types": {str(dtype): torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.bool, torch.int8)},
    "parameter": {"w": torch.nn.Parameter(torch.randn(2))},
    "batch norm": torch.nn.BatchNorm2d(3).state_dict(),
    "values": {"none": None, "big": 1 << 70, "pair": (1, (2, 3.5)), "list": [True, "ä"], "bytes": b"\xff"},
    "numpy": {kind.__name__: kind(1) for kind in (np.float64, np.float16, np.int8, np.uint64, np.bool_, np.complex64)},
    "numpy's own": {"long": np.longdouble(1.5), "text": np.str_("hä"), "bytes": np.bytes_(b"a\xff"), "e": np.str_("")},
    "others": {"counts": Counter("aab"), "order": OrderedDict(a=1), "type": torch.float16, "size": torch.Size([1, 2])},
}  # fmt: skip


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return one == other and not isinstance(other, np.generic)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_tensors_and_plain_values_come_back(tmp_path: Path, name: str, options: dict):
    path = tmp_path / "w.pth"
    torch.save(PLAIN[name], path, **options)
    assert equal(PLAIN[name], checkpoint.read(path))


def test_dates_of_numpy_come_back(tmp_path: Path):
    torch.save({"day": np.datetime64("2020-01-31"), "span": np.timedelta64(3, "s")}, tmp_path / "w.pth")
    assert checkpoint.read(tmp_path / "w.pth")["day"] == np.datetime64("2020-01-31").item()


def mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.1 else changed)


@pytest.mark.parametrize("number", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_pickles_are_read_or_refused(tmp_path: Path, number: int):
    """SEED=… repeats others. The pickle alone is mutated, so that its sum does not give it away."""
    seed, path = int(os.environ.get("SEED", 0)), tmp_path / "w.pth"
    draw, ends = random.Random(seed), Counter()
    torch.save({**PLAIN["tensors"], **PLAIN["numpy's own"], "optimizer": {"state": {0: {"step": 1}}}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    for _ in range(number):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, mutated(part, draw) if name == pickled else part)
        try:
            checkpoint.read(path)
            ends["read"] += 1
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
            ends["refused"] += 1
    assert ends["refused"] > number / 4, ends


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "spoil", "says"),
    [
        ("final_layer.weight", lambda w: w * float("nan"), "NaN or infinite"),
        ("final_layer.bias", lambda w: w + float("inf"), "NaN or infinite"),
        ("bn1.running_var", lambda w: w - 5, "negative variance"),
        ("conv1.weight", lambda w: w.int(), "torch.int32 where the model has torch.float32"),
        ("conv1.weight", lambda w: w.to(torch.complex64), "torch.complex64"),
        ("conv1.weight", lambda w: w.to("meta"), "not a dense tensor"),
        ("conv1.weight", lambda w: w.to_sparse(), "not a dense tensor"),
    ],
)
def test_weights_that_no_network_computes_with_are_refused_by_key(key: str, spoil, says: str):
    from transpose.build.model import build_model

    model = build_model(load_config(ROOT / "experiments/coco_sample/demo.yaml"))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state[key] = spoil(state[key])
    with pytest.raises(UserError, match=f"^here: {key} .*{says}"):
        load_weights(model, state, source="here")


# ---- yamls ----------------------------------------------------------------------------------------------------------

MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{i + 1}: &m{i + 1}\n  <<: [{', '.join([f'*m{i}'] * 9)}]\n" for i in range(9)
)
YAMLS = {
    "merges": (MERGES, "more than 20,000 values"),
    "many": ("GPUS:\n" + "- 1\n" * 100_000, "more than 20,000 values"),
    "section_twice": ("TRAIN:\n  LR: 1\nDATASET:\n  FLIP: true\nTRAIN:\n  EMA: 0\n", "line 5.*TRAIN' is in line 1"),
    "key_twice": ("TRAIN:\n  LR: 1\n  EMA: 0\n  LR: 2\n", "line 4, .*'LR' is in line 2"),
    "infinite": ("TRAIN: {LR: 1e309}\n", "TRAIN.LR must be a number, not inf"),
    "digits": ("SEED: " + "9" * 5000, "line 1, .*a value of 5,000 characters that is no text"),
    "digits_in_hexadecimal": ("TRAIN: {LR: 0x" + "f" * 5000 + "}", "a value of 5,002 characters"),
    "base_60": ("SEED: 1" + ":1" * 300_000, "a value of 600,001 characters that is no text"),
    "deep": ("A: " + "[" * 5000, "lists lie in lists too deep"),
    "nul": ('MODEL: {PRETRAINED: "a\\0b"}', "text without a NUL"),
    "control": ('"a\\e[31mb": 1', r"a\\x1b\[31mb is not a configuration key"),
    "long": ("MODEL: {IMAGE_SIZE: " + "a" * 100_000 + "}", "MODEL.IMAGE_SIZE must be a list"),
    "up": ("DATASET: {TEST_SET: ../../x}", "must be a name, without / and .."),
    "up_again": ("DATASET: {HYBRID_JOINTS_TYPE: '..'}", "must be a name, without / and .."),
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_a_small_yaml_with_a_large_content_is_refused(tmp_path: Path, name: str):
    content, says = YAMLS[name]
    path = tmp_path / "small.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        load_config(path)
    said = str(caught.value)
    assert len(said) < 1600 and said.isprintable()


def test_small_yamls_take_little_memory(tmp_path: Path):
    for name, (content, _) in YAMLS.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    read_within_bounds("from transpose.config.load import load_config", "load_config(path)", tmp_path.iterdir())


def test_a_base_and_the_file_that_overrides_it_may_set_the_same_key(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("TRAIN: {LR: 0.5}\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nTRAIN: {LR: 0.25}\n")
    assert load_config(tmp_path / "own.yaml").TRAIN.LR == 0.25


def test_an_anchor_and_its_alias_are_read(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("MODEL: {IMAGE_SIZE: &size [64, 64]}\nGPUS: [0]\nTRAIN: {LR_STEP: *size}\n")
    assert load_config(tmp_path / "own.yaml", ["MODEL.HEATMAP_SIZE", "[16,16]"]).TRAIN.LR_STEP == [64, 64]


# ---- images ---------------------------------------------------------------------------------------------------------


def by_pillow(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    with PIL.Image.open(sorted(IMAGES.iterdir())[0]) as image:
        image.resize((60, 40)).save(file, kind, **options)
    return file.getvalue()


def test_images_with_a_false_header_are_refused_in_little_memory(tmp_path: Path):
    (tmp_path / "twice.tif").write_bytes(tiff_with_two_sizes())
    (tmp_path / "a.avif").write_bytes(by_pillow("AVIF"))
    (tmp_path / "a.dds").write_bytes(by_pillow("DDS"))
    (tmp_path / "spider").write_bytes(struct.pack(">27f", *[1.0] * 27) * 10)
    twice = by_pillow("PNG")
    (tmp_path / "twice.png").write_bytes(
        twice[:8] + twice[8:33].replace(twice[16:24], struct.pack(">II", 9, 9)) + twice[8:]
    )
    for path in tmp_path.iterdir():
        says = "refused before decoding" if path.name == "twice.tif" else "not an image that can be decoded"
        with pytest.raises(UserError, match=says):
            decode_image(path.read_bytes(), path.name)
    code = "decode_image(path.read_bytes(), path.name)"
    read_within_bounds("from transpose.dataset.images import decode_image", code, tmp_path.iterdir())


def test_what_is_no_pixel_in_an_image_takes_little_memory(tmp_path: Path):
    """Tags that all point at the same 300 kB, texts that unpack, tiles and strips of more than the image."""
    tags = tiff([(tag, 7, 300_000, 8) for tag in range(50_000, 50_700)], bytes(300_000))
    text = b"k\0\1\0\0\0" + zlib.compress(("a" * 900_000 + "\U0001f600").encode())
    images = {
        "tags.tif": tags,
        "exif.webp": by_pillow("WEBP", exif=b"Exif\0\0" + tags),
        "exif.png": png_with(by_pillow("PNG"), b"eXIf", tags),
        "profile.png": png_with(
            by_pillow("PNG"), b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\n" + tags.hex().encode())
        ),
        "texts.png": png_with(by_pillow("PNG"), b"iTXt", *[text] * 40),
        "tile.tif": tiff([(259, 4, 1, 8), (322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8), (325, 4, 1, 100)]),
        "strips.tif": tiff([(273, 4, 500_000, 8), (278, 4, 1, 1), (279, 4, 500_000, 8)], bytes(2_000_000)),
    }
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    assert decode_image(tags, "x").shape == decode_image(tags, "x", oriented=True).shape == (10, 10, 3)
    for name, says in (("texts.png", "text"), ("tile.tif", "a tile: refused"), ("strips.tif", "values of tag 273")):
        with pytest.raises(UserError, match=says):
            decode_image(images[name], "x")
    read_within_bounds(
        "from transpose.dataset.images import decode_image, orientation",
        "orientation(path.read_bytes()), decode_image(path.read_bytes(), path.name, oriented=True)",
        tmp_path.iterdir(),
    )


def test_a_jpeg_with_bytes_between_its_segments_is_read_and_its_size_is_seen():
    jpeg = by_pillow("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    odd = jpeg[:frame] + b"ab\xff\x01\xff\0\xff" + jpeg[frame:]
    assert (decode_image(odd, "x") == decode_image(jpeg, "x")).all()
    with pytest.raises(UserError, match=r"60 x 40, but DATASET\.MAX_IMAGE_PIXELS"):
        decode_image(odd, "x", max_pixels=2399)


def test_a_name_in_other_letters_is_told_where_a_file_is_missing(tmp_path: Path):
    (tmp_path / "Photo.JPG").write_bytes(by_pillow("JPEG"))
    with pytest.raises(
        UserError, match=r"photo\.jpg .*No such file.*; there is Photo\.JPG: upper and lower case count"
    ):
        ImageReader(tmp_path).read("photo.jpg", "x")


def test_an_image_in_a_format_that_is_not_read_says_what_to_do():
    with pytest.raises(UserError, match=r"neither JPEG nor PNG, .*: save it as one of them"):
        decode_image(by_pillow("AVIF"), "x")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_as_stored_means_as_stored_in_every_format(kind: str):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    content = by_pillow(kind, exif=exif)
    assert decode_image(content, "x").shape == (40, 60, 3)
    assert decode_image(content, "x", oriented=True).shape == (60, 40, 3)
    assert orientation(content) == 6


def test_the_size_and_the_orientation_of_an_image_are_told_without_decoding_it():
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    for kind in ("PNG", "WEBP", "TIFF", "JPEG", "GIF", "BMP"):
        assert stated_size(by_pillow(kind)) == (60, 40)
    assert stated_size(b"") == (0, 0)
    start = by_pillow("PNG")[:33]
    header = start[12:16] + struct.pack(">II", 12_500, 12_000) + start[24:29]
    start = start[:12] + header + struct.pack(">I", zlib.crc32(header))
    broken = png_with(png_with(start, b"eXIf", exif.tobytes()), b"IDAT", b"no pixels")  # the pixels come first
    assert stated_size(broken) == (12_500, 12_000) and orientation(broken) == 3


def test_zips_are_refused_by_sentences_whatever_is_wrong_with_them(tmp_path: Path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ä.jpg", b"x" * 50)
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    for place, value in ((central + 46, 0xFF), (central + 6, 99), (central + 10, 99), (5, 99), (len(whole) - 6, 0xFF)):
        content = bytearray(whole)
        content[place] = value
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"images\.zip"):
            ImageReader(path).read("ä.jpg", "x")


def test_a_video_of_frames_past_the_limit_is_refused_before_decoding(tmp_path: Path, monkeypatch):
    pytest.importorskip("av")
    with video.Recording(tmp_path / "v.mp4", Fraction(5)) as recording:
        recording.add(np.zeros((64, 80, 3), np.uint8), 0.0)
    assert len(list(Video(tmp_path / "v.mp4").frames())) == 1
    monkeypatch.setattr(video, "MAX_PIXELS", 5119)
    with pytest.raises(UserError, match="refused before decoding, its frames are 80 x 64, and 5,119 pixels"):
        Video(tmp_path / "v.mp4")


# ---- ground truth, cards, states of runs ----------------------------------------------------------------------------


def test_a_mat_file_is_read_in_a_separate_process(tmp_path: Path):
    io_ = pytest.importorskip("scipy.io")
    path, draw = tmp_path / "gt.mat", random.Random(0)
    names = np.array(["head", "lsho"], object)
    io_.savemat(path, {"names": names, "numbers": np.eye(3)}, do_compression=True)
    found = matlab_file.read(path, ["names", "numbers", "more"])
    assert found.keys() == {"names", "numbers"} and found["names"].ravel().tolist() == ["head", "lsho"]
    np.testing.assert_array_equal(found["numbers"], np.eye(3))
    io_.savemat(path, {"numbers": np.zeros((6000, 6000))}, do_compression=True)  # 288 MB in 280 kB
    with pytest.raises(matlab_file.Unreadable, match=r"MemoryError|llocat"):
        matlab_file.read(path, ["numbers"])
    path.write_bytes(draw.randbytes(1000))
    with pytest.raises(matlab_file.Unreadable):
        matlab_file.read(path, ["numbers"])


CARD = {"image_size": (64, 64), "heatmap_size": (16, 16), "kernel_size": 11}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 10**9 + 1},
        {"kernel_size": 4},
        {"image_size": (10**6, 64)},
        {"heatmap_size": (17, 16)},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (1.0,)},
        {"padding": float("nan")},
    ],
    ids=str,
)
def test_a_card_with_impossible_numbers_is_refused(wrong: dict):
    flags = dict.fromkeys(("decodes", "half", "any_batch", "rgb", "flip_test"), False)
    values = {**flags, "score_threshold": 0.0, "skeleton": {"names": ["a"]}, "weights": "w", **CARD}
    Card(**values)
    with pytest.raises(ValueError):
        Card(**values | wrong)


WHOLE = {
    "config": {},
    "state_dict": {"w": torch.zeros(2)},
    "optimizer": {"state": {}, "param_groups": []},
    "epoch": 1,
    "step": 2,
    "best": {"AP": 0.5, "epoch": 1},
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "3"},
        {"epoch": -1},
        {"step": 1.5},
        {"best": {}},
        {"best": {"AP": "high", "epoch": 1}},
        {"state_dict": {"w": 1}},
        {"state_dict": []},
        {"optimizer": {"state": []}},
        {"config": 1},
        {"config": {"GPUS": 3}},
        {"averaged": 3},
    ],
    ids=str,
)
def test_a_planted_state_is_a_sentence(tmp_path: Path, wrong: dict):
    checkpoint.save(tmp_path / "checkpoint.pth", WHOLE | wrong)
    with pytest.raises(UserError, match=r"checkpoint\.pth: not a training state of this program \("):
        saved_state(tmp_path, True, lambda config: [str(len(config.get("GPUS", [])))][:0], False)


def test_a_training_state_without_its_checksum_is_refused(tmp_path: Path):
    torch.save(WHOLE, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="checksum is missing or does not match"):
        saved_state(tmp_path, True, lambda config: [], False)


# ---- files of ours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_where_a_rename_fails_all_files_are_as_before(tmp_path: Path, monkeypatch, failing: int):
    path, keep = tmp_path / "state", tmp_path / "before"
    path.write_text("new"), keep.write_text("old")
    replace, calls = os.replace, []

    def fail(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing + 1:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error"):
        write_atomically(path, lambda file: file.write(b"newest"), keep)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"state": "new", "before": "old"}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine"), folder.mkdir()
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot write"):
        lock.claim(folder, False)
    assert victim.read_text() == "mine"


READERS = {
    "checkpoint": checkpoint.read,
    "yaml": load_config,
    "json": lambda path: read_json(path, "list", list),
    "kind_of_json": is_annotation_file,
    "image": lambda path: content_of(path, str(path)),
    "zip": opened_zip,
    "video": Video,
    "calibration": lambda path: calibration.read(path.with_name("w.pth")),
    "log": log.to_file,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str):
    pytest.importorskip("av") if name == "video" else None
    path, said = tmp_path / "w_calibration.json", list[str]()
    os.mkfifo(path)

    def read() -> None:
        try:
            said.append(str(READERS[name](path)))
        except UserError as error:
            said.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert said and re.search("^False|Not a regular file|No such device", said[0]), said


def test_a_file_name_of_other_bytes_than_utf8_can_be_written_about(tmp_path: Path):
    name = os.fsdecode(b"\xff.jpg")
    write_text(tmp_path / "table.csv", f"{name},1\n")
    assert (tmp_path / "table.csv").read_text() == "\\udcff.jpg,1\n"
    (tmp_path / name).write_bytes(by_pillow("PNG"))
    for _ in range(2):
        assert DecodedImages(ImageReader(tmp_path), tmp_path / "decoded").read(name, "x").shape == (40, 60, 3)


def test_leftovers_are_removed_once_no_process_can_be_writing_them(tmp_path: Path):
    old, new, own = tmp_path / "ab/.x.npz.q1.part", tmp_path / "ab/.y.npz.q2.part", tmp_path / "ab/z.part"
    old.parent.mkdir()
    for path in (old, new, own):
        path.touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path, min_age=60)
    assert not old.exists() and new.exists() and own.exists()
    remove_leftovers(tmp_path)
    assert not new.exists() and own.exists()


# ---- privacy --------------------------------------------------------------------------------------------------------

RECORDS = """
import socket, sys; sys.path.insert(0, {tools!r})
asked = []
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, lambda *a, **k: asked.append(a) or (_ for _ in ()).throw(OSError("no network")))
import torch
from transpose.models import backends
network = torch.nn.Conv2d(3, 4, 1).eval()
backends.openvino_compiled(backends.openvino_model(backends.exported(network, torch.zeros(1, 3, 8, 8))))
print(asked, sorted(name for name in sys.modules if "telemetry" in name and sys.modules[name] and "ovc" not in name))
"""


def test_openvino_asks_for_no_host(tmp_path: Path):
    pytest.importorskip("openvino")
    code = RECORDS.format(tools=str(ROOT / "tools"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert ended.stdout.splitlines()[-1:] == ["[] []"], ended.stdout + ended.stderr


def test_the_yaml_that_a_run_writes_is_read_again(tmp_path: Path):
    config = load_config(ROOT / "experiments/coco_sample/demo.yaml")
    (tmp_path / "config.yaml").write_text(config.dump())
    assert load_config(tmp_path / "config.yaml") == config and yaml.safe_load(config.dump())
