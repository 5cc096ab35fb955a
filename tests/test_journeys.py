"""From an installed package to a first drawn image, as a new user does it: commands in an empty folder.

Only what the package and the named extras depend on is there; a detector is a YOLOX with planted outputs in the cache.
"""

import csv
import json
import runpy
import shutil
import subprocess
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import yaml
from helpers.goldens import ROOT, SAMPLE
from helpers.planted import planted_yolox
from helpers.wheel import python

pytestmark = pytest.mark.slow

IMAGES = SAMPLE / "images/val2017"
SKIER = "000000000785.jpg"  # 640 x 425


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A cache with a detector that finds one person in the middle of every image."""
    folder = tmp_path / "cache"
    folder.mkdir()
    planted_yolox(folder / "yolox_nano.onnx", [((208, 138), (150, 220), 0.9, {0: 1.0})])
    return folder


@pytest.fixture
def user(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    """`transpose <arguments>` in the user's folder."""
    monkeypatch.setenv("TRANSPOSE_HOME", str(home))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # there is no network
    folder = tmp_path / "user"
    folder.mkdir()

    def go(path: str, *arguments: str) -> subprocess.CompletedProcess:
        return python("-m", "transpose", *arguments, folder=folder, path=path)

    go.folder = folder  # type: ignore[attr-defined]
    return go


def succeeded(outcome: subprocess.CompletedProcess) -> str:
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def test_one_photo(machine, user, run):
    shutil.copy(IMAGES / SKIER, user.folder / "me.jpg")
    said = succeeded(user(machine(), "predict", "me.jpg", "--model", str(run), "--draw", "boxes", "--threshold", "0"))
    assert said == "predictions: 1 person(s) in 1 image(s)\n"
    before, drawn = (cv2.imread(str(user.folder / name)) for name in ("me.jpg", "predictions/me.jpg"))
    assert drawn.shape == before.shape and np.abs(drawn.astype(int) - before).max() > 100


def test_a_folder(machine, user, run):
    for name in ("a/one.jpg", "a/two.jpg", "a/three.jpg"):
        (user.folder / "a").mkdir(exist_ok=True)
        shutil.copy(IMAGES / SKIER, user.folder / name)
    path = machine()
    assert succeeded(user(path, "detect", "a", "--out", "boxes.json")) == "boxes.json: 3 boxes in 3 images\n"
    succeeded(user(path, "predict", "a", "--model", str(run), "--boxes", "boxes.json", "--save", "csv", "json"))
    rows = list(csv.DictReader((user.folder / "predictions/keypoints.csv").open()))
    assert len(rows) == 3 * 17 and {Path(row["image"]).name for row in rows} == {"one.jpg", "two.jpg", "three.jpg"}
    found = json.loads((user.folder / "predictions/one.json").read_bytes())["persons"]
    assert found[0]["box"] == pytest.approx([640 / 416 * n for n in (133, 28, 150, 220)], abs=0.01)


def test_a_video(machine, user, run):
    with av.open(str(user.folder / "film.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25, width=128, height=96, pix_fmt="yuv420p")
        picture = cv2.resize(cv2.imread(str(IMAGES / SKIER)), (128, 96))
        for _ in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode())
    how = ("--model", str(run), "--track", "--detect-every", "3", "--save", "video", "csv")
    said = succeeded(user(machine("video"), "predict", "film.mp4", *how))
    assert " in 6 frame(s) of film.mp4, " in said and said.endswith(" frames/s\n")
    with av.open(str(user.folder / "predictions/film.mp4")) as file:
        assert file.streams.video[0].codec_context.name == "h264" and len(list(file.decode(video=0))) == 6
    rows = list(csv.DictReader((user.folder / "predictions/film.csv").open()))
    assert rows[0]["frame"] == "0" and rows[0]["track"] == "1" and rows[0]["time"] == "0.0"


def test_custom_keypoints_from_annotation_to_drawing(machine, user):
    make = runpy.run_path(str(ROOT / "docs/make_kites.py"))
    folder, path = user.folder, machine("train")
    sys_argv = ["make_kites.py", str(folder / "kites"), "--scenes", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", sys_argv)
        make["main"]()
    config = yaml.safe_load((ROOT / "experiments/kites/kites.yaml").read_text())
    for name in ("train", "val"):
        shutil.copy(folder / "kites/kites.json", folder / f"kites/{name}.json")
    config["DATASET"] |= {"ROOT": str(folder / "kites"), "SKELETON": ""}
    config["TRAIN"] |= {"END_EPOCH": 1, "WARMUP_EPOCHS": 0, "VALIDATE_EVERY": 1}
    (folder / "kites.yaml").write_text(yaml.safe_dump(config))
    said = succeeded(user(path, "train", "--cfg", "kites.yaml"))
    assert "instances" in said and "person" not in said
    kites = "output/kite/transpose_r/kites"
    assert (folder / kites / "final_state.pth").exists() and not (folder / "output/coco").exists()

    photo = str(sorted((folder / "kites/photos").iterdir())[0].relative_to(folder))
    told = user(path, "predict", photo, "--model", kites)
    assert told.returncode == 2 and told.stderr.startswith("error: the network finds 'kite', but the default detector")
    assert "--box x,y,w,h" in told.stderr and "person(s)" not in told.stderr
    said = succeeded(user(path, "predict", photo, "--model", kites, "--boxes", "kites/kites.json", "--threshold", "0"))
    assert "instance(s) in 1 image(s)" in said and len(list((folder / "predictions").glob("*.jpg"))) == 1


def test_without_released_or_detector_weights_the_remedy_is_named(machine, user, run, home):
    shutil.copy(IMAGES / SKIER, user.folder / "me.jpg")
    path = machine()
    outcome = user(path, "predict", "me.jpg", "--model", "tp_r_a4")
    assert outcome.returncode == 2 and len(outcome.stderr.splitlines()) == 1
    assert "tp_r_256x192_enc4_d256_h1024_mh8.pth" in outcome.stderr and "put it at" in outcome.stderr
    (home / "yolox_nano.onnx").unlink()
    outcome = user(path, "predict", "me.jpg", "--model", str(run))
    assert outcome.returncode == 2 and "put it at" in outcome.stderr and "--box x,y,w,h" in outcome.stderr
    succeeded(user(path, "predict", "me.jpg", "--model", str(run), "--box", "280,45,218,346"))
