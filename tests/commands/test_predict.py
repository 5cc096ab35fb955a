"""tools/predict.py and tools/detect.py: files in, files out; nothing is lost, and bad input is one sentence."""

import argparse
import contextlib
import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from helpers.goldens import ANNOTATIONS, IMAGES, sample_annotations
from helpers.persons import Stub
from helpers.places import run_in_new_process, sentence
from helpers.planted import planted_yolox

from transpose import cli
from transpose.commands import detect, predict, window
from transpose.dataset import coco
from transpose.dataset.detections import detected_instances
from transpose.errors import UserError, missing
from transpose.predictor import detector, inputs, video
from transpose.predictor.predictor import Predictor
from transpose.predictor.video import Camera, Recording, Video, carried, predict_video
from transpose.runtime import download, lock, log
from transpose.runtime.ahead import ahead

BOXES = {785: [[280.8, 44.7, 218.7, 346.7]], 388056: [[79.8, 68.6, 148.5, 244.7], [393.9, 94.8, 106.1, 206.7]]}
RATE, SIZE, FRAMES = 12.5, (96, 64), 7
PLACE = ("frame", "time")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images; there are boxes in two of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (785, 388056, 21167):
        shutil.copy(IMAGES / f"{number:012}.jpg", folder)
    entries = [{"image_id": i, "category_id": 1, "bbox": b, "score": 0.9} for i, own in BOXES.items() for b in own]
    unsure = {"image_id": 785, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.4}
    (tmp_path / "boxes.json").write_text(json.dumps([*entries, unsure, unsure | {"category_id": 2, "score": 1.0}]))
    return folder


IMAGE_7 = {"id": 7, "file_name": "7.jpg", "width": 640, "height": 425}
KITES = [{"id": 1, "name": "kite"}, {"id": 2, "name": "bird"}]


def written(path: Path, frames: int = FRAMES, codec: str = "mp4v") -> Path:
    """A video whose frames are told apart by their brightness."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), RATE, SIZE)
    for i in range(frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 30 * i + 10, np.uint8))
    writer.release()
    return path


def brightness(path: Path) -> list[float]:
    """Of each frame of a video in its lower right corner, where nothing is drawn."""
    film = Video(path)
    assert float(film.rate) == pytest.approx(RATE)
    return [float(frame[-4:, -4:].mean()) for frame, _ in film.frames()]


def times(path: Path) -> list[float]:
    """Of each frame of a video, in seconds."""
    return [seconds for _, seconds in Video(path).frames()]


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """The tools start the console's log, which other tests want to catch."""
    before = log.logger.handlers, log.logger.propagate, log.logger.level
    yield
    log.logger.handlers, log.logger.propagate, log.logger.level = before


@pytest.fixture
def command(tmp_path, monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess]:
    """`python tools/predict.py` from `tmp_path`, in this process, which has torch already."""

    def start(*arguments: Any) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        code = 0
        try:
            cli.run(predict.main)
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(sys.argv, code, *capfd.readouterr())

    return start


# Images


def test_a_folder_in_every_form(images, run, command, tmp_path):
    arguments = [str(images), "--model", str(run), "--boxes", str(tmp_path / "boxes.json"), "--out", "out"]
    arguments += ["--device", "cpu", "--save", "image", "json", "csv", "coco"]
    outcome = run_in_new_process("predict", arguments, tmp_path, {})
    counted = f"{tmp_path}/boxes.json: 3 boxes; left out: 1 of other categories, 1 scored below 0.5 (--box-score)\n"
    assert outcome.returncode == 0 and outcome.stdout == f"{counted}out: 3 person(s) in 3 image(s)\n", outcome
    out = tmp_path / "out"
    names = [f"{number:012}" for number in (785, 21167, 388056)]
    everything = [f"{name}{ending}" for name in names for ending in (".jpg", ".json")]
    assert sorted(path.name for path in out.iterdir()) == [
        *everything,
        "images.json",
        "keypoints.csv",
        "keypoints.json",
    ]

    files = [images / f"{name}.jpg" for name in names]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the command has: others add up in another order, which random weights magnify
    wanted = Predictor.from_pretrained(run, device="cpu")(
        files, [BOXES[785], [], BOXES[388056]], [[0.9], [], [0.9] * 2]
    )
    torch.set_num_threads(threads)
    coco = json.loads((out / "keypoints.json").read_bytes())
    assert [entry["image_id"] for entry in coco] == [785, 388056, 388056]
    expected = [entry for number, own in zip((785, 1, 388056), wanted, strict=True) for entry in own.to_coco(number)]
    for entry, other in zip(coco, expected, strict=True):
        assert entry["keypoints"] == pytest.approx(other["keypoints"], abs=1e-3)
        assert entry["score"] == pytest.approx(other["score"], rel=1e-4)
    listed = json.loads((out / "images.json").read_bytes())
    assert [image["id"] for image in listed["images"]] == [785, 21167, 388056]
    assert listed["images"][2] == {"id": 388056, "file_name": files[2].name, "width": 500, "height": 332}
    for file, own in zip(files, wanted, strict=True):
        told = json.loads((out / f"{file.stem}.json").read_bytes())
        assert told["image"] == str(file) and len(told["persons"]) == len(own)
        picture = cv2.imread(str(out / file.name))
        assert picture.shape[:2] == own.size[::-1]
        expected = cv2.imdecode(cv2.imencode(".jpg", own.draw()[..., ::-1])[1], cv2.IMREAD_COLOR)
        assert np.abs(picture.astype(int) - expected).mean() < 0.1
    rows = list(csv.DictReader(io.StringIO((out / "keypoints.csv").read_text())))
    assert len(rows) == 3 * 17 and {row["image"] for row in rows} == {str(files[0]), str(files[2])}

    before = {path: path.read_bytes() for path in out.iterdir()}
    said = sentence(command(*arguments))
    assert said.startswith("out/000000000785.jpg and 8 more: exists already; pass --overwrite")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "keypoints.csv").write_text("old")
    assert command(*arguments, "--overwrite").returncode == 0
    assert (out / "keypoints.csv").read_text().startswith("image,frame,time,person,track,box_x")


def test_sources_of_one_name_do_not_overwrite_each_other(images, run, command, tmp_path):
    same = []
    for name in ("a/x.jpg", "b/x.jpg", "b/X.png", "b/x-2.jpg", "b/keypoints.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = cv2.imread(str(images / "000000000785.jpg"))[: 100 + 10 * len(same)]
        cv2.imwrite(str(path), pixels)
        same.append(path)
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--save", "json", "coco"]
    assert command(*same, same[0], *how).returncode == 0
    out = tmp_path / "predictions"
    names = ["x.json", "x-2.json", "X-3.json", "x-2-2.json", "keypoints-2.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "images.json", "keypoints.json"])
    for path, name in zip(same, names, strict=True):
        assert json.loads((out / name).read_bytes())["image"] == str(path)
    assert [entry["image_id"] for entry in json.loads((out / "keypoints.json").read_bytes())] == [1, 2, 3, 4, 5]


def test_ids_are_the_annotations_or_the_numbers_of_the_names_or_running():
    files = [IMAGES / "000000388056.jpg", IMAGES / "000000000785.jpg"]
    assert numbered(*files).ids == [388056, 785]
    for other in (Path("other/785.png"), Path("me.jpg")):
        assert numbered(*files, other).ids == [1, 2, 3] and numbered(*files, other).places
    known = numbered(*files, annotations=ANNOTATIONS)
    assert known.ids == [388056, 785] and known.sizes == [(500, 332), (640, 425)] and not known.places
    with pytest.raises(UserError, match=r"me.jpg: .*person_keypoints_val2017.json lists no image me.jpg"):
        numbered(Path("me.jpg"), annotations=ANNOTATIONS)


def numbered(*files: Path, annotations: Path | None = None) -> inputs.Numbering:
    folders = [str(file.absolute().parent) for file in files]
    return inputs.numbering(inputs.Sources(list(files), folders, [], []), annotations)


def test_folders_patterns_and_cameras_each_once(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = written(tmp_path / "images" / "film.mp4")
    (images / "notes.txt").write_text("not looked at")
    found = inputs.expand(["images", "1", "1"])
    assert [path.name for path in found.images] == ["000000000785.jpg", "000000021167.jpg", "000000388056.jpg"]
    assert found.videos == [Path("images/film.mp4")] and found.cameras == [1] and film.exists()
    found = inputs.expand(["**/*5*.jpg", str(images)])
    assert [path.name for path in found.images] == ["000000000785.jpg", "000000388056.jpg", "000000021167.jpg"]


# Boxes that are given


def persons_of(path: Path) -> list[dict]:
    return json.loads(path.read_bytes())["persons"]


def test_boxes_on_the_command_line_are_those_of_every_source(images, run, command, tmp_path):
    how = ["--model", run, "--device", "cpu", "--save", "json", "--box", "10,20,80,90", "--box=-5,3.5,60,70"]
    assert command(*sorted(images.glob("*.jpg"))[:2], written(tmp_path / "film.mp4"), *how).returncode == 0
    out = tmp_path / "predictions"
    for name in ("000000000785", "000000021167"):
        found = persons_of(out / f"{name}.json")
        assert [person["box"] for person in found] == [[10, 20, 80, 90], [-5, 3.5, 60, 70]]
        assert [person["box_score"] for person in found] == [1, 1]
    _, *lines = (json.loads(line) for line in (out / "film.jsonl").read_text().splitlines())
    assert [[person["box"][0] for person in line["persons"]] for line in lines] == [[10, -5]] * FRAMES


def test_boxes_of_an_annotation_file_are_matched_by_path(images, run, command, tmp_path):
    (images / "a").mkdir()
    (images / "000000000785.jpg").rename(images / "a" / "x.jpg")
    (images / "000000021167.jpg").rename(images / "x.jpg")
    listed = [{"id": 5, "file_name": "a/x.jpg", "width": 640, "height": 425}]
    listed.append({"id": 6, "file_name": "x.jpg", "width": 500, "height": 375})
    size = cv2.imread(str(images / "x.jpg")).shape[:2]
    listed[1] |= {"width": size[1], "height": size[0]}
    boxes = [(5, [280.8, 44.7, 218.7, 346.7], 0), (6, [10, 20, 90, 80], 0), (6, [0, 0, 300, 300], 1)]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": 1, "iscrowd": crowd}
        for i, (image, box, crowd) in enumerate(boxes)
    ]
    content = {"images": listed, "categories": [{"id": 1, "name": "person"}], "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    how = ["--model", run, "--device", "cpu", "--save", "json", "--boxes", "truth.json"]
    assert command("images/a", "images/x.jpg", *how).returncode == 0
    assert persons_of(tmp_path / "predictions" / "x.json")[0]["box"] == boxes[0][1]
    assert [person["box"] for person in persons_of(tmp_path / "predictions" / "x-2.json")] == [boxes[1][1]]


def test_a_videos_boxes_are_given_by_frame(run, command, tmp_path):
    film = written(tmp_path / "film.mp4")
    entry = {"image_id": 2, "category_id": 1, "bbox": [10, 10, 40, 50], "score": 0.9}
    unsure = entry | {"bbox": [0, 0, 9, 9], "score": 0.2}
    (tmp_path / "by_frame.json").write_text(
        json.dumps([entry, unsure, entry | {"image_id": 5, "bbox": [1, 2, 30, 40]}])
    )
    images = [{"id": i, "file_name": f"film/take2_{i:06}.png", "width": 96, "height": 64} for i in range(1, FRAMES)]
    annotation = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [5, 5, 20, 30], "area": 9, "iscrowd": 0}
    content = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": [annotation]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    how = [film, "--model", run, "--device", "cpu", "--save", "json", "--overwrite", "--boxes"]
    for file, wanted in (
        ("by_frame.json", {2: [[10, 10, 40, 50]], 5: [[1, 2, 30, 40]]}),
        ("truth.json", {3: [[5, 5, 20, 30]]}),
    ):
        assert command(*how, file).returncode == 0
        _, *lines = (json.loads(line) for line in (tmp_path / "predictions" / "film.jsonl").read_text().splitlines())
        found = {line["frame"]: [person["box"] for person in line["persons"]] for line in lines if line["persons"]}
        assert found == wanted and len(lines) == FRAMES
    content["images"][1]["file_name"] = "take2.png"
    content["images"][0]["file_name"] = "retake2.png"
    (tmp_path / "truth.json").write_text(json.dumps(content))
    assert "the last number in each file_name must be the frame's number" in sentence(command(*how, "truth.json"))


def test_without_weights_and_network_the_ways_without_a_detector_are_named(images, run, command, monkeypatch, tmp_path):
    def transfer(url, file, path, known):
        raise UserError(f"{url}: the download failed (Name or service not known)")

    monkeypatch.setattr(download, "_transfer", transfer)
    monkeypatch.setattr(detector, "repository_root", lambda: tmp_path / "elsewhere")
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path / "cache"))
    said = sentence(command(images, "--model", run, "--device", "cpu"))
    assert said.startswith("the weights of the detector yolox_nano: https://") and "the download failed" in said
    assert all(way in said for way in ("--box x,y,w,h", "--boxes FILE", "--detector whole-image"))


@pytest.fixture
def kites(run, tmp_path) -> Path:
    """The folder of a run whose network finds kites."""
    folder = tmp_path / "kites"
    shutil.copytree(run, folder)
    skeleton = yaml.safe_load((folder / "skeleton.yaml").read_text())
    skeleton |= {"category": "kite", "names": [f"k{i}" for i in range(17)], "pairs": [], "limbs": []}
    (folder / "skeleton.yaml").write_text(yaml.safe_dump(skeleton | {"upper_body": [], "lower_body": []}))
    return folder


def test_a_network_of_something_else_never_fetches_a_detector_of_persons(kites, images, command, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        detector, "published", lambda name: asked.append(name) or planted_yolox(tmp_path / "n.onnx", [])
    )
    one = images / "000000000785.jpg"
    how = [one, "--model", kites, "--device", "cpu", "--save", "json", "csv", "coco"]
    for chosen in ([], ["--detector", "yolox_s"]):
        said = sentence(command(*how, *chosen))
        which = "detector yolox_s" if chosen else "default detector"
        assert said.startswith(f"the network finds 'kite', but the {which} finds persons: --box x,y,w,h, --boxes FILE")
        assert said.endswith("--detector-class kite detects COCO's class of this name") and not asked
    outcome = command(*how, "--box", "280,45,218,346")
    assert outcome.returncode == 0 and outcome.stdout == "predictions: 1 instance(s) in 1 image(s)\n"
    out = tmp_path / "predictions"
    assert "person" not in "".join(file.read_text() for file in out.iterdir())
    assert json.loads((out / "images.json").read_bytes())["categories"] == [{"id": 1, "name": "kite"}]
    assert command(*how, "--detector", "whole-image", "--overwrite").returncode == 0
    assert command(*how, "--detector-class", "kite", "--overwrite").returncode == 0 and asked == ["yolox_nano"]
    detections = [{"image_id": 785, "category_id": 7, "bbox": [280, 45, 218, 346], "score": 0.9}]
    (tmp_path / "found.json").write_text(json.dumps(detections))
    assert command(*how, "--boxes", "found.json", "--overwrite").returncode == 0
    assert len(json.loads((out / "keypoints.json").read_bytes())) == 1


# Videos


def given(**options: Any) -> argparse.Namespace:
    usual = {"threshold": 0.2, "draw": None, "color_by": None, "track": False, "smooth": False, "detect_every": 1}
    return argparse.Namespace(**(usual | options))


@pytest.fixture
def bright(run) -> Predictor:
    """Sees one person in a bright frame, and none in a dark one."""

    def detect(image):
        return ([[10, 10, 40, 50]], [1]) if image.mean() > 100 else ([], [])

    return Predictor.from_pretrained(run, device="cpu", detector=detect, batch_size=2)


def test_a_video_keeps_rate_size_length_and_its_empty_frames(bright, tmp_path):
    source = written(tmp_path / "film.mp4")
    predict.save_video(given(), bright, Video(source), tmp_path / "out" / "film", ["video", "json", "csv"], None)
    found = brightness(tmp_path / "out" / "film.mp4")
    assert found == pytest.approx(brightness(source), abs=4) and len(found) == FRAMES
    film = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert (film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)) == SIZE
    head, *lines = (json.loads(line) for line in (tmp_path / "out" / "film.jsonl").read_text().splitlines())
    assert (head["image"], head["width"], head["height"], len(head["names"])) == (str(source), *SIZE, 17)
    assert [len(line["persons"]) for line in lines] == [0, 0, 0, 0, 1, 1, 1] and lines[4].keys() == {*PLACE, "persons"}
    assert [(line["frame"], line["time"]) for line in lines] == [(i, i / RATE) for i in range(FRAMES)]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "film.csv").read_text())))
    assert len(rows) == 3 * 17
    told = {"image": str(source), "frame": "4", "time": "0.32", "person": "0", "track": "", "box_w": "40.0"}
    assert {name: rows[0][name] for name in told} == told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.csv", "film.jsonl", "film.mp4"]


def test_a_video_by_the_command(run, command, tmp_path):
    source = written(tmp_path / "film.avi", codec="MJPG")
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--threshold", "100"]
    outcome = command(source, *how)
    assert outcome.returncode == 0, outcome
    found = f"predictions: {FRAMES} person(s) in {FRAMES} frame(s) of {source}"
    assert re.fullmatch(rf"{re.escape(found)}, \d+\.\d frames/s\n", outcome.stdout)
    assert brightness(tmp_path / "predictions" / "film.mp4") == pytest.approx(brightness(source), abs=4)


def test_a_tracked_video_has_ids(bright, tmp_path):
    source = written(tmp_path / "film.mp4")
    predict.save_video(given(track=True), bright, Video(source), tmp_path / "film", ["json", "csv"], None)
    _, *lines = (json.loads(line) for line in (tmp_path / "film.jsonl").read_text().splitlines())
    assert [[person["id"] for person in line["persons"]] for line in lines] == [[]] * 4 + [[1]] * 3
    assert {row["track"] for row in csv.DictReader(io.StringIO((tmp_path / "film.csv").read_text()))} == {"1"}


@pytest.mark.parametrize("every, asked", [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_the_detector_runs_in_every_nth_frame_and_boxes_follow_the_pose_between(every, asked, run, tmp_path):
    seen = []

    def detect(image):
        seen.append(round((image.mean() - 10) / 30))
        return [[10, 10, 40, 50]], [0.9]

    source = written(tmp_path / "film.mp4")
    predictor = Predictor.from_pretrained(run, device="cpu", detector=detect)
    results = list(predict_video(predictor, Video(source), detect_every=every))
    assert sorted(seen) == asked and [result.image.frame.number for result in results] == list(range(FRAMES))
    for before, result in pairwise(results):
        boxes, scores = carried(before)
        if result.image.frame.number in asked:
            boxes, scores = [[10, 10, 40, 50]], [0.9]
        np.testing.assert_allclose(result.boxes, boxes)
        np.testing.assert_allclose(result.box_scores, scores)


@pytest.mark.parametrize("most, waiting", [(32, 2**27), (7, 7 * 3 * SIZE[0] * SIZE[1]), (4, 0)])
def test_few_large_frames_and_more_small_ones_wait_for_a_stage(most, waiting, bright, tmp_path, monkeypatch):
    def watched(items, most):
        seen.add(most)
        return ahead(items, most)

    seen = set()
    monkeypatch.setattr(video, "WAITING", waiting)
    monkeypatch.setattr(video, "ahead", watched)
    assert len(list(predict_video(bright, Video(written(tmp_path / "film.mp4"))))) == FRAMES
    assert seen == {most}


def test_a_carried_box_surrounds_the_keypoints_that_are_seen(predictor):
    pixels = np.zeros((200, 100, 3), np.uint8)
    result = predictor(pixels, [[0, 0, 50, 50]] * 3)
    keypoints, scores = np.full((3, 17, 2), -50, np.float32), np.ones((3, 17), np.float32)
    keypoints[0, :3] = [[20, 40], [60, 50], [30, 140]]
    keypoints[0, 5], scores[0, 5] = [90, 190], 0.1
    keypoints[1, :2] = [[20, 40], [60, 50]]  # two alone
    keypoints[2, :] = [30, 30]
    boxes, sure = carried(replace(result, keypoints=keypoints, scores=scores, box_scores=np.array([0.7, 1, 1])))
    np.testing.assert_allclose(boxes, [[20 - 3, 40 - 7.5, 46, 115]])
    assert sure.tolist() == [0.7]
    assert carried(predictor(pixels, []))[0].shape == (0, 4)


def test_an_address_is_read_as_a_video_and_names_no_file(bright, tmp_path):
    film = written(tmp_path / "film.mp4")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://user:secret@127.0.0.1:{server.server_port}"
        found = inputs.expand([f"{place}/film.mp4?take=1"])
        assert inputs.expand([f"HTTP{place[4:]}/film.mp4?take=1"]).videos == found.videos
        assert len(list(Video(f"HTTP{place[4:]}/film.mp4").frames())) == FRAMES
        assert found.videos == [f"{place}/film.mp4?take=1"] and inputs.result_names(found.videos) == ["film"]
        seen = Video(found.videos[0])
        assert seen.name == f"http://127.0.0.1:{server.server_port}/film.mp4?take=1" and not seen.live
        assert len(list(predict_video(bright, seen))) == FRAMES
        for name in ("list.m3u8", "nothing.mp4"):
            with pytest.raises(UserError, match=rf"^http://127.*/{name}: cannot be opened as a video \(") as caught:
                Video(f"{place}/{name}")
            assert "secret" not in str(caught.value)
        server.shutdown()
    with pytest.raises(UserError, match=r"^rtsp://127.0.0.1:9/x: cannot be opened as a video \(Connection refused\)"):
        Video("rtsp://127.0.0.1:9/x")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_truncated_video_keeps_its_results_with_a_warning(bright, tmp_path, monkeypatch):
    source = written(tmp_path / "film.mp4")
    whole = Video(source)
    monkeypatch.setattr(whole, "length", FRAMES + 3)
    said = []
    monkeypatch.setattr(log.logger, "warning", lambda text, *values: said.append(text % values))
    predict.save_video(given(), bright, whole, tmp_path / "film", ["json"], None)
    rest = "frames that the file announces could be read; their results are saved"
    wanted = f"{source}: only {FRAMES} of the {FRAMES + 3} {rest}"
    assert said == [wanted]
    assert len((tmp_path / "film.jsonl").read_text().splitlines()) == 1 + FRAMES and brightness(source)


class FakeCapture:
    """In place of cv2.VideoCapture: a few frames, then the user presses Ctrl-C."""

    def __init__(self, number: int):
        self.left = 4

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 0.0}[key]

    def read(self) -> tuple[bool, np.ndarray]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return True, np.full((64, 96, 3), 200, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_is_recorded_until_the_user_ends_it(bright, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    camera = Camera(0)
    assert camera.rate == video.USUAL_RATE and camera.length is None
    seconds = iter([7.0, 7.0, 7.1, 7.1, 8.0])
    monkeypatch.setattr(video, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    predict.save_video(given(), bright, camera, tmp_path / "camera0", ["video", "json"], None)
    assert len((tmp_path / "camera0.jsonl").read_text().splitlines()) == 1 + 4
    # Frames are shown at their times, and no two at one time.
    assert times(tmp_path / "camera0.mp4") == pytest.approx([0, 0.1, 0.101, 1])


def test_a_missing_camera_is_reported(monkeypatch):
    monkeypatch.setattr(FakeCapture, "isOpened", lambda _: False)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    with pytest.raises(UserError, match=r"^camera 3: cannot be opened; it does not exist, or another program uses it$"):
        Camera(3)


def record(path: Path, frames: Iterable[np.ndarray], rate: float = 10, **options: Any) -> Path:
    with Recording(path, Fraction(rate).limit_denominator(1001), **options) as recording:
        for number, frame in enumerate(frames):
            recording.add(frame, number / rate)
    return path


BLACK = np.zeros((10, 20, 3), np.uint8)


def test_a_recording_is_whole_or_not_there(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"what stood there")
    with contextlib.suppress(ZeroDivisionError), Recording(tmp_path / "film.mp4", Fraction(10)) as recording:
        recording.add(BLACK, 0)
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what stood there"]
    with pytest.raises(UserError, match=r"frame 1 has the size \(10, 20\), but the frames before it have \(20, 10\)"):
        record(tmp_path / "other.mp4", [BLACK, BLACK.transpose(1, 0, 2).copy()])
    record(tmp_path / "nothing.mp4", [])
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/film.mp4: cannot write \((Not a directory|File exists)\)"):
        record(tmp_path / "file" / "film.mp4", [BLACK])


@pytest.mark.parametrize("missing", [1_000_000, 400, 100])  # most frames, some of the index, the last frame
def test_a_recording_on_a_full_disk_is_reported_and_not_kept(missing, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), dtype=np.uint8)
    whole = record(tmp_path / "whole.mp4", noise)
    (tmp_path / "film.mp4").write_bytes(b"what stood there")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = whole.stat().st_size - missing
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))  # a file that grows further is refused by the system
    try:
        with pytest.raises(UserError, match=r"film.mp4: cannot write \(File too large\); an existing file is "):
            record(tmp_path / "film.mp4", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "whole.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"what stood there"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rate", [0.5, 23.976, 30_000 / 1001, 240])
@pytest.mark.parametrize("length", [1, 12, 13])
def test_a_whole_recording_is_kept_whatever_its_rate_and_length(rate, length, tmp_path):
    path = record(tmp_path / "film.mp4", [BLACK] * length, rate)
    assert times(path) == pytest.approx([number / rate for number in range(length)], abs=1e-4)
    assert Video(path).length == length


def test_a_recording_has_a_format_that_browsers_play(tmp_path):
    path = record(tmp_path / "film.mp4", [BLACK] * 3)
    with av.open(str(path)) as file:
        (stream,) = file.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")  # the index comes before the frames


def test_odd_sides_grow_by_a_pixel_and_nothing_is_lost(tmp_path):
    frame = np.zeros((11, 21, 3), np.uint8)
    frame[6:], frame[:, 14:] = 200, 200
    (found, _), *_ = Video(record(tmp_path / "film.mp4", [frame] * 2)).frames()
    assert found.shape == (12, 22, 3)
    wanted = cv2.copyMakeBorder(frame, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    assert np.abs(found.astype(int) - wanted).mean() < 8


def test_uneven_times_are_kept(bright, tmp_path):
    wanted = [0, 0.08, 0.1, 0.5, 0.51, 2, 2.2]
    with Recording(tmp_path / "uneven.mp4", Fraction(10), Fraction(1, 1000)) as recording:
        for seconds in wanted:
            recording.add(np.full((64, 96, 3), 200, np.uint8), seconds)
    assert times(tmp_path / "uneven.mp4") == pytest.approx(wanted)
    predict.save_video(given(), bright, Video(tmp_path / "uneven.mp4"), tmp_path / "film", ["video"], None)
    assert times(tmp_path / "film.mp4") == pytest.approx(wanted)


@pytest.mark.parametrize("degrees, matrix", [(90, (0, -1, 1, 0)), (180, (-1, 0, 0, -1)), (-90, (0, 1, -1, 0))])
def test_a_video_is_rotated_as_its_file_says(degrees, matrix, tmp_path):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32, :48], frame[32:, 48:] = 255, 100
    path = record(tmp_path / "film.mp4", [frame] * 2)
    (upright, _), *_ = Video(path).frames()
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 44  # the display matrix of the track's header
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (turned, _), *_ = Video(path).frames()
    np.testing.assert_array_equal(turned, np.rot90(upright, degrees // 90))


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile film.mp4\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration'
        '="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" minBufferTime="PT1S"><Period><AdaptationSet '
        'mimeType="video/mp4"><Representation id="0" bandwidth="9" codecs="avc1" width="20" height="10">'
        "<BaseURL>film.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["concat", "DASH"],  # not every build of FFmpeg has DASH
)
def test_a_playlist_in_disguise_opens_no_other_file(content, tmp_path):
    record(tmp_path / "film.mp4", [BLACK] * 3)
    (tmp_path / "list.mp4").write_text(content)
    with pytest.raises(UserError, match=r"list.mp4: cannot be opened as a video \(.+\)$"):
        Video(tmp_path / "list.mp4")


def test_a_name_is_no_address(tmp_path, monkeypatch):
    record(tmp_path / "film.mp4", [BLACK] * 3)
    monkeypatch.chdir(tmp_path)
    name = Path("concat:film.mp4")
    with pytest.raises(UserError, match=r"^concat:film.mp4: cannot be opened as a video \(No such file"):
        Video(name)
    assert times(record(name.with_suffix(".mov.mp4"), [BLACK] * 2)) == pytest.approx([0, 0.1])


def test_a_video_file_without_frames_is_reported(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(UserError, match=r"sound.mp4: cannot be opened as a video \(it has only sound or text\)"):
        Video(tmp_path / "sound.mp4")


def test_damaged_frames_are_left_out_and_reported(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    whole = record(tmp_path / "whole.mp4", noise).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    cut = Video(tmp_path / "cut.mp4")
    assert 5 < sum(1 for _ in cut.frames()) < 30 == cut.length
    assert "cut.mp4: what 1 damaged packet(s) hold is left out" in caplog.text


def test_without_pyav_one_sentence_says_how_to_get_it_and_images_need_none(images, run, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu"]
    assert sentence(command(written(images / "film.mp4"), *how)) == str(missing("av", extra="video"))
    assert command(*images.glob("*.jpg"), *how).returncode == 0


def test_a_recording_that_cannot_replace_a_file_is_reported(tmp_path):
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(UserError, match=r"film.mp4: cannot write \(Is a directory\)"):
        record(tmp_path / "film.mp4", [BLACK])
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_frames_are_shown_until_q(monkeypatch):
    shown, keys = [], iter([255, ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: None)
    shows = window.Window()
    for number in range(4):
        shows.show(np.full((2, 2, 3), number))
    assert len(shown) == 2 and shows.closed


# What cannot be used


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], ["nowhere: there is no such file or folder, and it is not a pattern or a camera number"]),
        (["empty"], ["empty: no image or video is there; known endings are .jpg"]),
        (["*.gif"], ["*.gif: no image or video is there"]),
        (["notes.txt"], ["notes.txt: the name does not end like an image or a video"]),
        (["broken.jpg"], ["broken.jpg: not an image that can be decoded"]),
        (["broken.mp4"], ["broken.mp4: cannot be opened"]),
        (["film.mp4", "--save", "coco", "image"], ["--save coco image: the formats for film.mp4 are video, json, csv"]),
        (["one.jpg", "--save", "video"], ["--save video: the formats for one.jpg are image, json, csv, coco"]),
        (["film.mp4", "one.jpg", "--boxes", "boxes.json"], ["--boxes belongs to images or to the frames of one video"]),
        (
            ["one.jpg", "--box", "1,2,3", "--model", "no"],
            ["--box must be X,Y,W,H, four numbers in pixels, not '1,2,3'"],
        ),
        (["one.jpg", "--box", "1,2,3,4", "--boxes", "far.json"], ["--box and --boxes cannot be used together"]),
        (["one.jpg", "--box", "9000,0,9,9"], ["one.jpg: box 0", "lies outside of the image"]),
        (
            ["one.jpg", "--box", "1,2,3,4", "--detector", "yolox_s"],
            ["--detector: no detector runs, because --box gives the boxes"],
        ),
        (
            ["7.jpg", "--boxes", "small.json", "--detector-class", "kite"],
            ["--detector-class: no detector runs, because --boxes gives"],
        ),
        (
            ["film.mp4", "--box", "1,2,3,4", "--detect-every", "2"],
            ["--detect-every: no detector runs, because --box gives the boxes"],
        ),
        (["film.mp4", "--detect-every", "0"], ["--detect-every must be 1 or more, not 0"]),
        (["one.jpg", "--detect-every", "3"], ["--detect-every is for videos, and one.jpg is an image; leave it out"]),
        (["one.jpg", "--track"], ["--track is for videos, and one.jpg is an image; leave it out"]),
        (["one.jpg", "--box-score", "2"], ["--box-score must be between 0 and 1, not 2"]),
        (["7.jpg", "--boxes", "."], [".: cannot read the detection file (--boxes) (Is a directory)"]),
        (["7.jpg", "--annotations", "gone.json"], ["gone.json: cannot read the annotation file (No such file"]),
        (
            ["7.jpg", "--boxes", "kites.json"],
            ["kites.json: its categories are", "; give a file that has the category person"],
        ),
        (["one.jpg", "--threshold", "nan"], ["the threshold of drawn keypoints must be a number, not nan"]),
        (["one.jpg", "--draw", "hats"], ["'hats' cannot be drawn; name some of boxes, scores"]),
        (["one.jpg", "--save", "image", "video"], ["--save video: the formats for one.jpg are image, json, csv, coco"]),
        (
            ["one.jpg", "film.mp4", "--save", "json", "coco"],
            ["--save coco: the formats for film.mp4 are video, json, csv"],
        ),
        (["one.jpg", "--boxes", "nowhere.json"], ["nowhere.json: cannot read the detection file (--boxes)"]),
        (["one.jpg", "--boxes", "boxes.json"], ["boxes.json: it is unknown which images its image_ids mean"]),
        (["7.jpg", "--boxes", "boxes.json"], ["boxes.json: none of its 3 boxes of category 1 belongs to one of the 1"]),
        (["7.jpg", "--boxes", "small.json"], ["small.json: the boxes of 1 of 1 lie within one pixel, like fractions"]),
        (["7.jpg", "--boxes", "text.json"], ["text.json: 'category_id' of detection number 1 must be a number"]),
        (["one.jpg", "--boxes", "nan.json"], ["nan.json: the detection file (--boxes) holds NaN", "[NaN"]),
        (["one.jpg", "--boxes", "object.json"], ["object.json: not a COCO annotation file: it has no list 'images'"]),
        (["one.jpg", "--show"], ["--show needs a display"]),
        (
            ["one.jpg", "--out", "."],
            ["one.jpg: the result would replace one of the sources; choose another folder with --out"],
        ),
        (
            ["ONE.JPG", "--out", ".", "--overwrite"],
            ["ONE.jpg: the result would replace one of the sources; choose another folder with --out"],
        ),
        (["one.jpg", "--out", "notes.txt"], ["notes.txt: cannot make this folder"]),
        (
            ["one.jpg", "--model", "tp_x"],
            ["tp_x: there is no such file or folder, and no released model of this name"],
        ),
        (["one.jpg", "--device", "cuda:99"], ["device cuda:99: PyTorch cannot use it"]),
        (["one.jpg", "--max-pixels", "271999"], ["one.jpg: refused", "640 x 425, but --max-pixels"]),
        (["one.jpg", "--max-pixels", "0"], ["max_pixels must be 1 or more, not 0"]),
        (["one.jpg", "--kernel", "4"], ["kernel_size must be odd and positive, not 4"]),
        (["one.jpg", "--precision", "half"], ["there is no precision 'half'; choose from float32"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(arguments, words, images, run, command, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "broken.jpg", "broken.mp4"):
        (tmp_path / name).write_text("these are no pixels " * 100)
    for name in ("one.jpg", "7.jpg"):
        shutil.copy(images / "000000000785.jpg", tmp_path / name)
    for name in ("ONE.JPG", "ONE.jpg"):  # as where case does not count: one file of two names
        os.link(tmp_path / "one.jpg", tmp_path / name)
    written(tmp_path / "film.mp4")
    for name, content in (
        ("small.json", '[{"image_id": 7, "category_id": 1, "bbox": [0.4, 0.1, 0.3, 0.8], "score": 1}]'),
        ("text.json", '[{"image_id": 7, "category_id": "1", "bbox": [9, 0, 9, 9], "score": 1}]'),
        ("nan.json", '[{"image_id": 1, "category_id": 1, "bbox": [NaN, 0, 9, 9], "score": 1}]'),
        ("object.json", "{}"),
        ("kites.json", json.dumps({"images": [IMAGE_7], "annotations": [], "categories": KITES})),
    ):
        (tmp_path / name).write_text(content)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    finds = [] if {"--box", "--boxes"} & set(arguments) else ["--detector", "whole-image"]
    said = sentence(command("--model", run, "--device", "cpu", *finds, *arguments))
    assert said.startswith(words[0]) and all(word in said for word in words)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("options", ["--max-pixels 0", "--batch 0", "--kernel 4", "--precision half", "--box-score 2"])
def test_options_are_checked_before_a_detector_is_fetched(options, images, run, command, monkeypatch):
    monkeypatch.setattr(detector, "published", None)
    outcome = command(images / "000000000785.jpg", "--model", run, "--device", "cpu", *options.split())
    assert "must" in sentence(outcome) or "there is no precision" in sentence(outcome)


@pytest.mark.parametrize("tool", ["predict", "detect"])
def test_help_comes_without_torch(tool, tmp_path, without_torch):
    asked = run_in_new_process(tool, ["--help"], tmp_path, without_torch)
    assert asked.returncode == 0 and "SOURCE" in asked.stdout


# Detections


def stub(monkeypatch) -> None:
    """In place of torchvision's networks."""
    monkeypatch.setattr(detector, "published", lambda name: Path("none"))
    monkeypatch.setattr(detector, "network", lambda name, weights: Stub())


def detected(monkeypatch, *arguments: Any) -> None:
    """`python tools/detect.py` with a stub for a network."""
    stub(monkeypatch)
    line = ["detect.py", *map(str, arguments), "--detector", "fasterrcnn", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", line)
    detect.main()


@pytest.mark.parametrize("option", ["--score 2", "--batch 0", "--max-pixels 0"])
def test_options_of_detect_are_checked_before_its_network_is_fetched(option, images, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "published", None)
    line = ["detect.py", str(images), "--out", str(tmp_path / "none.json"), "--device", "cpu", *option.split()]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(UserError, match="must"):
        detect.main()


def test_detections_are_ready_for_the_test_and_for_predict(images, tmp_path, monkeypatch):
    out = tmp_path / "new" / "boxes.json"
    detected(monkeypatch, images, "--out", out, "--batch", 2, "--score", 0.6)
    table = detected_instances(out, sample_annotations(), 17, threshold=0)
    assert len(table) == 3 and table.boxes.tolist() == [[10, 20, 30, 60]] * 3
    assert table.scores.tolist() == pytest.approx([0.9] * 3)
    listed = coco.read_annotations(tmp_path / "new" / "boxes_images.json", image_info=True)
    assert listed.images.ids.tolist() == [785, 21167, 388056] and listed.images.sizes[2].tolist() == [500, 332]
    known = numbered(*sorted(images.iterdir()))
    (boxes, scores), *_ = inputs.read_boxes(out, known, threshold=0.5)
    assert boxes.tolist() == [[10, 20, 30, 60]] and scores.tolist() == pytest.approx([0.9])

    with pytest.raises(UserError, match=r"boxes.json: exists already; pass --overwrite to replace it"):
        detected(monkeypatch, images, "--out", out)
    detected(monkeypatch, images, "--out", out, "--overwrite", "--annotations", ANNOTATIONS)
    assert len(detected_instances(out, sample_annotations(), 17, threshold=0)) == 9


def test_detections_of_large_images_are_refused(images, tmp_path, monkeypatch):
    one, out = images / "000000000785.jpg", tmp_path / "found.json"
    with pytest.raises(UserError, match=r"785.jpg: refused .* 640 x 425, but --max-pixels .* allows 271,999 pixels$"):
        detected(monkeypatch, one, "--out", out, "--max-pixels", 640 * 425 - 1)
    with pytest.raises(UserError, match="--max-pixels must be 1 or more, not 0"):
        detected(monkeypatch, one, "--out", out, "--max-pixels", 0)
    detected(monkeypatch, one, "--out", out, "--max-pixels", 640 * 425)
    assert len(json.loads(out.read_bytes())) == 3


def test_detections_of_no_images_are_refused(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"film.mp4: this command reads images only; tools/predict.py also reads videos"
    ):
        detected(monkeypatch, written(tmp_path / "film.mp4"), "--out", tmp_path / "boxes.json")
    assert not (tmp_path / "boxes.json").exists()


@pytest.fixture
def mixed(images, tmp_path) -> Path:
    """A folder of five images, of which the fourth is cut off."""
    first = sorted(images.glob("*.jpg"))[0]
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in "abcde":
        shutil.copy(first, folder / f"{name}.jpg")
    (folder / "d.jpg").write_bytes(first.read_bytes()[:2000])
    return folder


LEFT = ["a.jpg", "b.jpg", "c.jpg", "e.jpg"]  # of `mixed`
TOLD = "d.jpg: the JPEG is truncated\n1 could not be used or written, the others are done\n"


@pytest.mark.parametrize("by", ["whole-image", "fasterrcnn"])  # one at a time, and four in one batch
def test_a_broken_image_does_not_end_a_folder(by, mixed, run, command, tmp_path, monkeypatch):
    stub(monkeypatch)
    arguments = [str(mixed), "--model", str(run), "--detector", by, "--device", "cpu", "--out", "kept"]
    outcome = command(*arguments, "--save", "json", "csv", "coco")
    assert outcome.returncode == 1 and outcome.stderr == f"error: {mixed}/{TOLD}"
    kept = tmp_path / "kept"
    own = [f"{name[0]}.json" for name in LEFT]
    assert sorted(path.name for path in kept.iterdir()) == [*own, "images.json", "keypoints.csv", "keypoints.json"]
    persons = 1 if by == "whole-image" else 2
    entries = json.loads((kept / "keypoints.json").read_bytes())
    assert [entry["image_id"] for entry in entries] == [number for number in (1, 2, 3, 5) for _ in range(persons)]
    listed = json.loads((kept / "images.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == LEFT


def test_a_source_that_names_nothing_does_not_end_the_rest(mixed, run, command, tmp_path, monkeypatch, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    nothing = ["gone.jpg", "empty", "notes.txt", "*.webp", "9" * 5000]
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--save", "json"]
    outcome = command(*nothing, mixed / "a.jpg", *how)
    assert outcome.returncode == 1 and (tmp_path / "predictions" / "a.json").exists()
    assert outcome.stderr.startswith("error: gone.jpg: there is no such file or folder")
    assert outcome.stderr.endswith("\n5 could not be used or written, the others are done\n")
    assert sentence(command(*nothing, *how)).startswith("gone.jpg: there is no such file")

    film = written(tmp_path / "film.mp4")
    with pytest.raises(SystemExit, match="1"):
        detected(monkeypatch, "gone.jpg", mixed / "a.jpg", film, "--out", tmp_path / "found.json")
    said = capfd.readouterr().err
    assert "error: gone.jpg: there is no such" in said and f"error: {film}: this command reads images only" in said
    assert len(json.loads((tmp_path / "found.json").read_bytes())) == 3


def test_an_image_that_the_list_does_not_have_does_not_end_the_rest(mixed, run, command, tmp_path, monkeypatch):
    """Such as the one that detect.py could not read."""
    with pytest.raises(SystemExit, match="1"):
        detected(monkeypatch, mixed, "--out", tmp_path / "found.json")
    shutil.copy(mixed / "a.jpg", mixed / "d.jpg")
    how = ["--model", run, "--device", "cpu", "--save", "json", "--boxes", "found.json"]
    outcome = command(mixed, *how)
    says = f"{mixed}/d.jpg: found_images.json lists no image d.jpg"
    assert outcome.returncode == 1 and f"error: {says}\n" in outcome.stderr
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [f"{name[0]}.json" for name in LEFT]
    assert sentence(command(mixed / "d.jpg", *how, "--out", "other")) == says


def test_images_of_endings_that_are_not_read_are_told(images, caplog):
    (images / "phone.HEIC").touch()
    (images / "boxes.json").touch()
    assert len(inputs.expand([str(images)]).images) == 3
    assert f"{images}: passed over: 1 file, such as {images}/phone.HEIC; known endings are .jpg" in caplog.text


def test_an_output_that_cannot_be_written_does_not_end_a_folder(mixed, run, command, tmp_path):
    """And the same command writes it later."""
    blocked = tmp_path / "out" / "b.jpg"
    blocked.mkdir(parents=True)
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--overwrite", "--out", "out"]
    arguments = [mixed, *how, "--save", "image", "coco"]
    outcome = command(*arguments)
    assert outcome.returncode == 1 and "error: out/b.jpg: cannot write (Is a directory)" in outcome.stderr
    assert outcome.stderr.endswith("\n2 could not be used or written, the others are done\n")
    left = [path.name for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert sorted(left) == ["a.jpg", "c.jpg", "e.jpg", "images.json", "keypoints.json"]

    blocked.rmdir()
    lock._held.clear()  # as the end of the process does
    outcome = command(*arguments)
    assert outcome.returncode == 1 and outcome.stderr == f"error: {mixed}/{TOLD}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*LEFT, "images.json", "keypoints.json"]


def test_a_broken_video_does_not_end_the_rest(mixed, run, command, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 99)
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--save", "json", "--out", "out"]
    outcome = command(tmp_path / "a.mp4", written(tmp_path / "film.mp4"), mixed / "a.jpg", *how)
    assert outcome.returncode == 1 and "a.mp4: cannot be opened" in outcome.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "film.jsonl"]


def test_nothing_is_written_if_no_image_can_be_used(mixed, run, command, tmp_path, monkeypatch):
    arguments = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--save", "csv", "coco"]
    said = sentence(command(mixed / "d.jpg", *arguments))
    assert said.endswith("the JPEG is truncated") and not (tmp_path / "predictions").exists()
    with pytest.raises(UserError, match=r"d.jpg: the JPEG is truncated$"):
        detected(monkeypatch, mixed / "d.jpg", "--out", tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_broken_image_does_not_end_the_detection(batch, mixed, tmp_path, monkeypatch, capfd):
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit, match="1"):
        detected(monkeypatch, mixed, "--out", out, "--batch", batch)
    assert capfd.readouterr().err == f"error: {mixed}/{TOLD}"
    assert sorted({entry["image_id"] for entry in json.loads(out.read_bytes())}) == [1, 2, 3, 5]
    listed = json.loads((tmp_path / "found_images.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == LEFT


# Whose boxes they are


def in_two_folders(tmp_path: Path) -> Path:
    """photos/camA/0001.jpg, 640 x 425, and photos/camB/0001.jpg, 500 x 332."""
    for camera, number in (("camA", 785), ("camB", 388056)):
        (tmp_path / "photos" / camera).mkdir(parents=True)
        shutil.copy(IMAGES / f"{number:012}.jpg", tmp_path / "photos" / camera / "0001.jpg")
    return tmp_path / "photos"


def list_of(path: Path, *names: str) -> Path:
    images = [{"id": 11 * i, "file_name": name, "width": 640, "height": 425} for i, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "person"}]}))
    return path


@pytest.mark.parametrize(
    "names, sources, ids",
    [
        (["camA/0001.jpg", "camB/0001.jpg"], ["camB", "camA"], [22, 11]),
        (["camA/0001.jpg", "camB/0001.jpg"], ["**/*.jpg"], [11, 22]),
        (["camA/0001.jpg", "camB/0001.jpg"], ["camB/0001.jpg"], [22]),
        (["photos\\camA\\0001.jpg", "photos/camB/0001.jpg"], ["camB"], [22]),
        (["./camA/0001.jpg", "0001.jpg"], ["camA", "camB"], [11, 22]),
        (["0001.jpg", "0001.jpg"], ["camA"], "in .* it could be image 11 and 22"),
        (["0001.jpg"], ["camA", "camB"], "camB/0001.jpg: .*camA/0001.jpg fits '0001.jpg' in .* too"),
        (["0001.jpg"], ["**/*.jpg"], "lists no image camA/0001.jpg"),
        (["camC/0001.jpg"], ["camA"], "lists no image 0001.jpg"),
    ],
)
def test_images_are_known_by_their_path(names, sources, ids, tmp_path):
    photos = in_two_folders(tmp_path)
    found = inputs.expand([str(photos / source) for source in sources])
    listed = list_of(tmp_path / "list.json", *names)
    if isinstance(ids, list):
        assert inputs.numbering(found, listed).ids == ids
    else:
        with pytest.raises(UserError, match=ids):
            inputs.numbering(found, listed)


def test_boxes_go_by_the_list_beside_them(run, command, tmp_path, monkeypatch):
    """detect.py lists paths, by which predict.py knows one of the images again."""
    photos, how = in_two_folders(tmp_path), ["--model", run, "--device", "cpu", "--save", "json"]
    detected(monkeypatch, photos / "camA", photos / "camB", "--out", tmp_path / "boxes.json")
    listed = json.loads((tmp_path / "boxes_images.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == ["camA/0001.jpg", "camB/0001.jpg"]
    boxes = json.loads((tmp_path / "boxes.json").read_bytes())
    boxes = [box | {"bbox": [100 * box["image_id"], 9, 50, 90]} for box in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert command(photos / "camB", *how, "--boxes", "boxes.json").returncode == 0
    told = json.loads((tmp_path / "predictions" / "0001.json").read_bytes())
    assert {person["box"][0] for person in told["persons"]} == {200}

    (tmp_path / "boxes_images.json").unlink()
    (photos / "camB" / "0001.jpg").rename(photos / "camB" / "one.jpg")
    said = sentence(command(photos / "camB", *how, "--boxes", "boxes.json"))
    assert said.startswith("boxes.json: it is unknown which images its image_ids mean")


def test_every_tool_rotates_images_as_exif_says(images, run, command, tmp_path, monkeypatch):
    """What detect.py finds in a folder is where predict.py looks for it, whatever the default; else it is refused."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    upright = PIL.Image.open(images / "000000000785.jpg")
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "lying.jpg", exif=exif)
    detected(monkeypatch, tmp_path / "lying.jpg", "--out", tmp_path / "upright.json")
    (listed,) = json.loads((tmp_path / "upright_images.json").read_bytes())["images"]
    assert (listed["width"], listed["height"]) == upright.size
    how = ["lying.jpg", "--model", run, "--device", "cpu", "--save", "json"]
    assert command(*how, "--boxes", "upright.json").returncode == 0
    said = sentence(command(*how, "--boxes", "upright.json", "--ignore-exif", "--overwrite"))
    assert (
        said
        == "the list of images was written for images rotated as EXIF says: leave out --ignore-exif, or write it again"
    )
    detected(monkeypatch, tmp_path / "lying.jpg", "--out", tmp_path / "stored.json", "--ignore-exif")
    said = sentence(command(*how, "--boxes", "stored.json", "--out", "other"))
    assert said == "the list of images was written for images as stored: pass --ignore-exif, or write it again"
    listed = json.loads((tmp_path / "stored_images.json").read_bytes())
    del listed["turned_as_exif_says"]  # as files of before
    (tmp_path / "stored_images.json").write_text(json.dumps(listed))
    said = sentence(command(*how, "--boxes", "stored.json", "--out", "other"))
    assert said.startswith("lying.jpg: is 640 x 425, not 425 x 640") and "--ignore-exif reads it as stored" in said


@pytest.mark.parametrize(("tag", "doubted"), [(1, False), (3, True), (6, False)])
def test_a_half_turn_that_a_list_does_not_tell_of_is_doubted(tag, doubted, images, tmp_path, caplog):
    """The size is the same, so that nothing else says for which pixels the boxes are."""
    file, exif = images / "000000000785.jpg", PIL.Image.Exif()
    exif[0x0112] = tag
    PIL.Image.open(file).save(file, exif=exif)
    known = inputs.numbering(inputs.expand([str(images)]), ANNOTATIONS)
    known.refuse_otherwise_turned(False)
    assert not caplog.text
    known.refuse_otherwise_turned(True)
    assert (f"{file}: is rotated as its EXIF orientation says, and the list" in caplog.text) == doubted


@pytest.mark.parametrize("second", [[10, 10, 0, 0], [640, 10, 5, 30], [-20, 5, 20, 30], [1e15, 9, 9, 9]])
def test_boxes_that_show_nothing_are_left_out_and_counted(second, images, run, command, tmp_path):
    boxes = [{"image_id": 785, "category_id": 1, "bbox": box, "score": 0.9} for box in (BOXES[785][0], second)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    how = ["--model", run, "--device", "cpu", "--boxes", "boxes.json", "--save", "json"]
    outcome = command(images / "000000000785.jpg", *how)
    assert (
        outcome.returncode == 0
        and "785.jpg: 1 of 2 boxes are empty or outside the image, and are left out\n" in outcome.stdout
    )
    assert "1 person(s) in 1 image(s)" in outcome.stdout


def test_hidden_files_are_passed_over(images, tmp_path):
    (images / "._000000000785.jpg").write_bytes(b"Mac OS X")
    assert len(inputs.expand([str(images)]).images) == 3 == len(inputs.expand([f"{images}/*"]).images)


def crowd_at(frame: int) -> Callable:
    """A detector that sees one person, and in that frame two."""
    return lambda image: ([[9, 9, 40, 50]] * (1 + (round((image.mean() - 10) / 30) == frame)), None)


def test_frames_before_one_that_cannot_be_used_are_saved(run, tmp_path):
    source = written(tmp_path / "film.mp4")
    alone = Predictor.from_pretrained(run, device="cpu", detector=crowd_at(5), batch_size=3, max_instances=1)
    says = (
        r"film.mp4 frame 5: 2 boxes, more .*; the results of the 5 frame\(s\) before it are saved, the rest is skipped$"
    )
    with pytest.raises(UserError, match=says):
        predict.save_video(given(), alone, Video(source), tmp_path / "out" / "film", ["video", "json", "csv"], None)
    assert brightness(tmp_path / "out" / "film.mp4") == pytest.approx(brightness(source)[:5], abs=4)
    assert len((tmp_path / "out" / "film.jsonl").read_text().splitlines()) == 1 + 5
    assert len((tmp_path / "out" / "film.csv").read_text().splitlines()) == 1 + 5 * 17

    at_once = Predictor.from_pretrained(run, device="cpu", detector=crowd_at(0), max_instances=1)
    with pytest.raises(
        UserError, match=r"max_instances 1 \(--max-instances\); leave out those with low scores, or allow more$"
    ):
        predict.save_video(given(), at_once, Video(source), tmp_path / "none" / "film", ["video", "json", "csv"], None)
    assert not (tmp_path / "none").exists()


def test_an_unwritable_video_still_leaves_its_other_formats(bright, tmp_path, monkeypatch):
    source, out, forms = written(tmp_path / "film.mp4"), tmp_path / "out", ["video", "json", "csv"]
    (out / "film.mp4").mkdir(parents=True)
    says = r"film.mp4: cannot write \(Is a directory\); .* unchanged; saved: .*/film.jsonl .*/film.csv$"
    with pytest.raises(UserError, match=says):
        predict.save_video(given(), bright, Video(source), out / "film", forms, None)
    assert sorted(path.name for path in out.iterdir()) == ["film.csv", "film.jsonl", "film.mp4"]
    assert len((out / "film.jsonl").read_text().splitlines()) == 1 + FRAMES

    def fails_at_4(recording: Recording, *frame: Any) -> None:
        if recording.length == 4:
            raise UserError("the disk is full")
        add(recording, *frame)

    add = Recording.add
    monkeypatch.setattr(Recording, "add", fails_at_4)
    with pytest.raises(UserError, match=r"^the disk is full; saved: .*/short.jsonl .*/short.csv$"):
        predict.save_video(given(), bright, Video(source), out / "short", forms, None)
    assert sorted(path.name for path in out.glob("short*")) == ["short.csv", "short.jsonl"]
    assert len((out / "short.jsonl").read_text().splitlines()) == 1 + 4


def test_every_file_of_a_video_that_cannot_be_written_is_told(bright, tmp_path):
    (tmp_path / "out/film.csv").mkdir(parents=True)
    (tmp_path / "out/film.mp4").mkdir()
    with pytest.raises(UserError, match=r"film.mp4: cannot write .*film.csv: cannot write .*; saved: .*/film.jsonl$"):
        source = Video(written(tmp_path / "film.mp4"))
        predict.save_video(given(), bright, source, tmp_path / "out/film", ["video", "json", "csv"], None)


def test_dots_in_a_videos_name_are_kept_and_no_other_file_is_replaced(run, command, tmp_path):
    for name in ("walk.v2.avi", "walk.v3.avi"):
        written(tmp_path / name, codec="MJPG")
    (tmp_path / "walk.mp4").write_bytes(b"a video of the user's")
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--out", "."]
    outcome = command("walk.v2.avi", "walk.v3.avi", *how, "--save", "video", "json", "csv")
    assert outcome.returncode == 0, outcome
    made = {f"walk.v{n}.{ending}" for n in (2, 3) for ending in ("mp4", "jsonl", "csv")}
    assert {path.name for path in tmp_path.glob("walk.v*")} == made | {"walk.v2.avi", "walk.v3.avi"}
    assert (tmp_path / "walk.mp4").read_bytes() == b"a video of the user's"


def test_boxes_of_frames_that_the_video_lacks_are_told(run, command, tmp_path):
    written(tmp_path / "film.mp4")
    entry = {"category_id": 1, "bbox": [10, 10, 40, 50], "score": 0.9}
    how = ["film.mp4", "--model", run, "--device", "cpu", "--save", "json", "--boxes", "boxes.json", "--overwrite"]
    (tmp_path / "boxes.json").write_text(json.dumps([entry | {"image_id": number} for number in (1, 7, 9)]))
    outcome = command(*how)
    says = "2 of the 3 frames with boxes are not in the video, whose frames are 0 to 6; the first is 7"
    assert outcome.returncode == 0 and says in outcome.stdout, outcome
    (tmp_path / "boxes.json").write_text(json.dumps([entry | {"image_id": 5000}]))
    says = r"1 of the 1 frames with boxes are not in the video.*; saved: predictions/film.jsonl$"
    assert re.search(says, sentence(command(*how)))


class TwoFrames:
    """A camera that sees two frames; then the user presses Ctrl-C."""

    live, length, rate, time_base, name = True, None, Fraction(10), Fraction(1, 1000), "camera"

    def frames(self):
        yield np.zeros((64, 96, 3), np.uint8), 0.0
        yield np.zeros((64, 96, 3), np.uint8), 0.1
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def test_each_interruption_ends_one_camera_whose_recording_is_kept(bright, tmp_path):
    def both():
        boxes = inputs.ListedBoxes(tmp_path / "boxes.json", {7: inputs.NO_BOXES})  # of frames that did not come
        for name in ("first", "second"):
            predict.save_video(given(), bright, TwoFrames(), tmp_path / name, ["video", "json"], None, boxes)

    before = signal.getsignal(signal.SIGINT)
    try:
        cli.run(both)
    finally:
        signal.signal(signal.SIGINT, before)
    for name in ("first", "second"):
        assert len(list(Video(tmp_path / f"{name}.mp4").frames())) == 2
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == 1 + 2


def test_a_frame_much_larger_than_stated_is_refused(tmp_path, monkeypatch):
    film = Video(written(tmp_path / "film.mp4"))
    monkeypatch.setattr(video, "WAITING", 0)
    film.frame_bytes = 3 * SIZE[0] * SIZE[1] // 4
    assert len(list(film.frames())) == FRAMES
    film = Video(tmp_path / "film.mp4")
    film.frame_bytes = 3 * SIZE[0] * SIZE[1] // 4 - 1
    says = r"film.mp4: frame 0 is 96 x 64, more than 4 times the size that the file states$"
    with pytest.raises(UserError, match=says):
        next(film.frames())


def test_a_videos_path_may_be_text(tmp_path):
    assert len(list(Video(str(written(tmp_path / "film.mp4"))).frames())) == FRAMES


def test_the_commands_offer_every_detector():
    assert (predict.DETECTORS, predict.WHOLE_IMAGE) == (detector.DETECTORS, detector.WHOLE_IMAGE)
