"""tools/predict.py and tools/detect.py: files in, files out; nothing is lost, and bad input is one sentence."""

import argparse
import contextlib
import csv
import io
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.goldens import ANNOTATIONS, IMAGES, sample_annotations
from helpers.people import Stub
from helpers.places import run_anew, sentence

from transpose import cli
from transpose.commands import detect, predict
from transpose.dataset import coco
from transpose.errors import UserError
from transpose.predictor import detector, inputs, video
from transpose.predictor.predictor import Predictor
from transpose.predictor.video import Recording, Video
from transpose.runtime import log

BOXES = {785: [[280.8, 44.7, 218.7, 346.7]], 388056: [[79.8, 68.6, 148.5, 244.7], [393.9, 94.8, 106.1, 206.7]]}
RATE, SIZE, FRAMES = 12.5, (96, 64), 7


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three photographs; there are boxes in two of them."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in (785, 388056, 21167):
        shutil.copy(IMAGES / f"{number:012}.jpg", folder)
    entries = [{"image_id": i, "category_id": 1, "bbox": b, "score": 0.9} for i, own in BOXES.items() for b in own]
    unsure = {"image_id": 785, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.4}
    (tmp_path / "boxes.json").write_text(json.dumps([*entries, unsure, unsure | {"category_id": 2, "score": 1.0}]))
    return folder


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
    assert film.rate == pytest.approx(RATE)
    return [float(frame[-4:, -4:].mean()) for frame in film.frames()]


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


# Photographs


def test_a_folder_in_every_form(photographs, run, command, tmp_path):
    arguments = [str(photographs), "--model", str(run), "--boxes", str(tmp_path / "boxes.json"), "--out", "out"]
    arguments += ["--device", "cpu", "--save", "image", "json", "csv", "coco"]
    outcome = run_anew("predict", arguments, tmp_path, {})
    assert outcome.returncode == 0 and outcome.stdout == "out: 3 person(s) on 3 photograph(s)\n", outcome
    out = tmp_path / "out"
    names = [f"{number:012}" for number in (785, 21167, 388056)]
    everything = [f"{name}{ending}" for name in names for ending in (".jpg", ".json")]
    assert sorted(path.name for path in out.iterdir()) == [
        *everything,
        "images.json",
        "keypoints.csv",
        "keypoints.json",
    ]

    files = [photographs / f"{name}.jpg" for name in names]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the command has: others add up in another order, which drawn weights magnify
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
    assert said.startswith("out/000000000785.jpg and 8 more: there already; --overwrite replaces")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "keypoints.csv").write_text("old")
    assert command(*arguments, "--overwrite").returncode == 0
    assert (out / "keypoints.csv").read_text().startswith("image,person")


def test_sources_of_one_name_do_not_clobber_each_other(photographs, run, command, tmp_path):
    same = []
    for name in ("a/x.jpg", "b/x.jpg", "b/X.png", "b/x-2.jpg", "b/keypoints.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = cv2.imread(str(photographs / "000000000785.jpg"))[: 100 + 10 * len(same)]
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
    assert inputs.numbering(files).ids == [388056, 785]
    assert inputs.numbering([*files, Path("other/785.png")]).ids == [1, 2, 3]
    assert inputs.numbering([*files, Path("me.jpg")]).ids == [1, 2, 3]
    assert inputs.numbering(files, ANNOTATIONS).ids == [388056, 785]
    with pytest.raises(UserError, match=r"me.jpg: .*person_keypoints_val2017.json lists no image of this name"):
        inputs.numbering([Path("me.jpg")], ANNOTATIONS)


def test_folders_patterns_and_cameras_each_once(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = written(tmp_path / "photographs" / "film.mp4")
    (photographs / "notes.txt").write_text("not looked at")
    found = inputs.expand(["photographs", "1", "1"])
    assert [path.name for path in found.photographs] == ["000000000785.jpg", "000000021167.jpg", "000000388056.jpg"]
    assert found.videos == [Path("photographs/film.mp4")] and found.cameras == [1] and film.exists()
    found = inputs.expand(["**/*5*.jpg", str(photographs)])
    assert [path.name for path in found.photographs] == ["000000000785.jpg", "000000388056.jpg", "000000021167.jpg"]


# Videos


def given(**options: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"threshold": 0.2, "track": False, "smooth": False} | options))


@pytest.fixture
def bright(run) -> Predictor:
    """Sees one person in a bright frame, and none in a dark one."""

    def detect(image):
        return ([[10, 10, 40, 50]], [1]) if image.mean() > 100 else ([], [])

    return Predictor.from_pretrained(run, device="cpu", detector=detect, batch_size=2)


def test_a_video_keeps_rate_size_length_and_its_empty_frames(bright, tmp_path):
    source = written(tmp_path / "film.mp4")
    predict.film(given(), bright, Video(source), tmp_path / "out" / "film", ["video", "json", "csv"], None)
    found = brightness(tmp_path / "out" / "film.mp4")
    assert found == pytest.approx(brightness(source), abs=4) and len(found) == FRAMES
    film = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert (film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)) == SIZE
    lines = [json.loads(line) for line in (tmp_path / "out" / "film.jsonl").read_text().splitlines()]
    assert [len(line["persons"]) for line in lines] == [0, 0, 0, 0, 1, 1, 1]
    assert [line["image"] for line in lines] == [f"{source} frame {i}" for i in range(FRAMES)]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "film.csv").read_text())))
    assert len(rows) == 3 * 17 and rows[0]["image"] == f"{source} frame 4"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.csv", "film.jsonl", "film.mp4"]


def test_a_video_by_the_command(run, command, tmp_path):
    source = written(tmp_path / "film.avi", codec="MJPG")
    how = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--threshold", "100"]
    outcome = command(source, *how)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == f"predictions: {FRAMES} person(s) on {FRAMES} frame(s) of {source}\n"
    assert brightness(tmp_path / "predictions" / "film.mp4") == pytest.approx(brightness(source), abs=4)


def test_a_tracked_video_has_ids(bright, tmp_path):
    source = written(tmp_path / "film.mp4")
    predict.film(given(track=True), bright, Video(source), tmp_path / "film", ["json", "csv"], None)
    lines = [json.loads(line) for line in (tmp_path / "film.jsonl").read_text().splitlines()]
    assert [[person["id"] for person in line["persons"]] for line in lines] == [[]] * 4 + [[1]] * 3
    assert {row["person"] for row in csv.DictReader(io.StringIO((tmp_path / "film.csv").read_text()))} == {"1"}


def test_a_video_that_is_cut_off_keeps_what_there_is_and_says_so(bright, tmp_path, monkeypatch):
    source = written(tmp_path / "film.mp4")
    whole = Video(source)
    monkeypatch.setattr(whole, "length", FRAMES + 3)
    said = []
    monkeypatch.setattr(log.logger, "warning", lambda text, *values: said.append(text % values))
    predict.film(given(), bright, whole, tmp_path / "film", ["json"], None)
    wanted = (
        f"{source}: {FRAMES} of the {FRAMES + 3} frames that it states could be read; what was found in them is saved"
    )
    assert said == [wanted]
    assert len((tmp_path / "film.jsonl").read_text().splitlines()) == FRAMES and brightness(source)


class Camera:
    """In place of cv2.VideoCapture: a few frames, then the user presses Ctrl-C."""

    def __init__(self, source: int):
        self.left = 4

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1.0}[key]

    def read(self) -> tuple[bool, np.ndarray]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return True, np.full((64, 96, 3), 200, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_is_recorded_until_the_user_ends_it(bright, tmp_path, monkeypatch):
    of_files = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Camera(source) if source == 0 else of_files(source))
    camera = Video(0)
    assert camera.rate == video.USUAL_RATE and camera.length is None
    seconds = iter([0.0, 0.1, 0.1, 0.5, 1.0])
    monkeypatch.setattr(predict.time, "monotonic", lambda: next(seconds))
    predict.film(given(), bright, camera, tmp_path / "camera0", ["video", "json"], None)
    monkeypatch.undo()
    assert len((tmp_path / "camera0.jsonl").read_text().splitlines()) == 4
    assert sum(1 for _ in Video(tmp_path / "camera0.mp4").frames()) == 30  # a second: it shows things at their time


def test_a_recording_is_whole_or_not_there(tmp_path, caplog):
    frame = np.zeros((10, 20, 3), np.uint8)
    (tmp_path / "film.mp4").write_bytes(b"what stood there")
    with contextlib.suppress(ZeroDivisionError), Recording(tmp_path / "film.mp4", 10) as recording:
        recording.add(frame)
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what stood there"]
    other_size = pytest.raises(UserError, match=r"frame 1 is \(10, 20\) in size, those before it are \(20, 10\)")
    with other_size, Recording(tmp_path / "other.mp4", 10) as recording:
        recording.add(frame)
        recording.add(frame.transpose(1, 0, 2).copy())
    with Recording(tmp_path / "nothing.mp4", 10):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    with Recording(tmp_path / "odd.mp4", 10) as recording:
        recording.add(np.zeros((11, 20, 3), np.uint8))
    assert "odd.mp4: its format has even sizes alone" in caplog.text
    (tmp_path / "file").write_text("")
    no_folder = pytest.raises(UserError, match=r"file/film.mp4: cannot write \((Not a directory|File exists)\)")
    with no_folder, Recording(tmp_path / "file" / "film.mp4", 10) as recording:
        recording.add(frame)


@pytest.mark.parametrize("missing", [1_000_000, 400, 100])  # most frames, some of the header, the last frame
def test_a_recording_that_the_disk_cuts_off_is_told_and_not_kept(missing, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), dtype=np.uint8)

    def record(name: str) -> None:
        with Recording(tmp_path / name, 10) as recording:
            for frame in noise:
                recording.add(frame)

    record("whole.mp4")
    (tmp_path / "film.mp4").write_bytes(b"what stood there")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (tmp_path / "whole.mp4").stat().st_size - missing
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))  # a file that grows further is refused by the system
    try:
        with pytest.raises(UserError, match=r"film.mp4: cannot write, not all of the 60 frames .* disk may be full"):
            record("film.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "whole.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"what stood there"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rate", [0.5, 23.976, 30_000 / 1001, 240])
@pytest.mark.parametrize("length", [1, 12, 13])
def test_a_whole_recording_is_kept_whatever_its_rate_and_length(rate, length, tmp_path):
    with Recording(tmp_path / "film.mp4", rate) as recording:
        for _ in range(length):
            recording.add(np.zeros((10, 20, 3), np.uint8))
    assert sum(1 for _ in Video(tmp_path / "film.mp4").frames()) == length


def test_a_recording_that_cannot_take_its_place_is_told(tmp_path):
    (tmp_path / "film.mp4").mkdir()
    with (
        pytest.raises(UserError, match=r"film.mp4: cannot write \(Is a directory\)"),
        Recording(tmp_path / "film.mp4", 9) as recording,
    ):
        recording.add(np.zeros((10, 20, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_a_camera_that_ends_before_its_first_frame_was_due_leaves_no_empty_video(tmp_path):
    with Recording(tmp_path / "camera0.mp4", 10) as recording:
        recording.add(np.zeros((10, 20, 3), np.uint8), until=0.01)
    assert not list(tmp_path.iterdir())


def test_frames_are_shown_until_q(monkeypatch):
    shown, keys = [], iter([255, ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: None)
    window = video.Window()
    for number in range(4):
        window.show(np.full((2, 2, 3), number))
    assert len(shown) == 2 and window.closed


# What cannot be used


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], ["nowhere: there is no such file or folder, and it is neither a pattern nor a camera's number"]),
        (["empty"], ["empty: no photograph or video there; known endings are .jpg"]),
        (["*.gif"], ["*.gif: no photograph or video there"]),
        (["notes.txt"], ["notes.txt: neither a photograph nor a video by its name"]),
        (["broken.jpg"], ["broken.jpg: not an image that can be decoded"]),
        (["broken.mp4"], ["broken.mp4: cannot be opened"]),
        (["film.mp4", "--save", "coco", "image"], ["--save coco image: of film.mp4 can be saved: video, json, csv"]),
        (["one.jpg", "--save", "video"], ["--save video: of one.jpg can be saved: image, json, csv, coco"]),
        (["film.mp4", "--boxes", "boxes.json"], ["--boxes is for photographs"]),
        (["one.jpg", "--boxes", "nowhere.json"], ["nowhere.json: cannot read the detection file (--boxes)"]),
        (["one.jpg", "--boxes", "boxes.json"], ["boxes.json: none of its 5 boxes is a person's in one of the 1"]),
        (["one.jpg", "--boxes", "far.json"], ["one.jpg: box 0", "lies outside of the image"]),
        (["one.jpg", "--boxes", "nan.json"], ["nan.json: the detection file (--boxes) is not valid JSON"]),
        (["one.jpg", "--boxes", "object.json"], ["object.json: the detection file (--boxes) has another format"]),
        (["one.jpg", "--show"], ["--show: there is no display here"]),
        (["one.jpg", "--out", "."], ["one.jpg: this is one of the sources; choose another folder with --out"]),
        (["one.jpg", "--out", "notes.txt"], ["notes.txt/one.jpg: cannot write"]),
        (
            ["one.jpg", "--model", "tp_x"],
            ["tp_x: there is no such file or folder, and the zoo has no model of this name"],
        ),
        (["one.jpg", "--device", "cuda:99"], ["device cuda:99: PyTorch cannot use it"]),
        (["one.jpg", "--max-pixels", "271999"], ["one.jpg: refused", "640 x 425 and --max-pixels"]),
        (["one.jpg", "--max-pixels", "0"], ["max_pixels must be 1 or more, not 0"]),
        (["one.jpg", "--kernel", "4"], ["kernel_size must be odd and positive, not 4"]),
        (["one.jpg", "--precision", "half"], ["there is no precision 'half'; there are float32"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(arguments, words, photographs, run, command, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "broken.jpg", "broken.mp4"):
        (tmp_path / name).write_text("these are no pixels " * 100)
    shutil.copy(photographs / "000000000785.jpg", tmp_path / "one.jpg")
    written(tmp_path / "film.mp4")
    for name, content in (
        ("far.json", '[{"image_id": 1, "category_id": 1, "bbox": [9000, 0, 9, 9], "score": 1}]'),
        ("nan.json", '[{"image_id": 1, "category_id": 1, "bbox": [NaN, 0, 9, 9], "score": 1}]'),
        ("object.json", "{}"),
    ):
        (tmp_path / name).write_text(content)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    said = sentence(command("--model", run, "--device", "cpu", "--detector", "whole-image", *arguments))
    assert said.startswith(words[0]) and all(word in said for word in words)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("options", ["--max-pixels 0", "--batch 0", "--kernel 4", "--precision half", "--box-score 2"])
def test_options_are_checked_before_a_detector_is_fetched(options, photographs, run, command, monkeypatch):
    monkeypatch.setattr(detector, "network", None)
    outcome = command(photographs / "000000000785.jpg", "--model", run, "--device", "cpu", *options.split())
    assert "must" in sentence(outcome) or "there is no precision" in sentence(outcome)


@pytest.mark.parametrize("tool", ["predict", "detect"])
def test_help_comes_without_torch(tool, tmp_path, without_torch):
    asked = run_anew(tool, ["--help"], tmp_path, without_torch)
    assert asked.returncode == 0 and "SOURCE" in asked.stdout


# Detections


def detected(monkeypatch, *arguments: Any) -> None:
    """`python tools/detect.py` with a stub for a network."""
    monkeypatch.setattr(detector, "network", lambda name, weights: Stub())
    monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, arguments), "--device", "cpu"])
    detect.main()


@pytest.mark.parametrize("option", ["--score 2", "--batch 0", "--max-pixels 0"])
def test_options_of_detect_are_checked_before_its_network_is_fetched(option, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "network", None)
    line = ["detect.py", str(photographs), "--out", str(tmp_path / "none.json"), "--device", "cpu", *option.split()]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(UserError, match="must"):
        detect.main()


def test_detections_are_ready_for_the_test_and_for_predict(photographs, tmp_path, monkeypatch):
    out = tmp_path / "new" / "boxes.json"
    detected(monkeypatch, photographs, "--out", out, "--batch", 2, "--score", 0.6)
    table = coco.detected_instances(out, sample_annotations(), 17, threshold=0)
    assert len(table) == 3 and table.boxes.tolist() == [[10, 20, 30, 60]] * 3
    assert table.scores.tolist() == pytest.approx([0.9] * 3)
    listed = coco.read_annotations(tmp_path / "new" / "boxes_images.json", image_info=True)
    assert listed.images.ids.tolist() == [785, 21167, 388056] and listed.images.sizes[2].tolist() == [500, 332]
    known = inputs.numbering(sorted(photographs.iterdir()))
    (boxes, scores), *_ = inputs.read_boxes(out, known, threshold=0.5)
    assert boxes.tolist() == [[10, 20, 30, 60]] and scores.tolist() == pytest.approx([0.9])

    with pytest.raises(UserError, match=r"boxes.json: there already; --overwrite replaces it"):
        detected(monkeypatch, photographs, "--out", out)
    detected(monkeypatch, photographs, "--out", out, "--overwrite", "--annotations", ANNOTATIONS)
    assert len(coco.detected_instances(out, sample_annotations(), 17, threshold=0)) == 9


def test_detections_of_large_photographs_are_refused(photographs, tmp_path, monkeypatch):
    one, out = photographs / "000000000785.jpg", tmp_path / "found.json"
    with pytest.raises(UserError, match=r"785.jpg: refused .* 640 x 425 and --max-pixels .* allows 271,999 pixels$"):
        detected(monkeypatch, one, "--out", out, "--max-pixels", 640 * 425 - 1)
    with pytest.raises(UserError, match="--max-pixels must be 1 or more, not 0"):
        detected(monkeypatch, one, "--out", out, "--max-pixels", 0)
    detected(monkeypatch, one, "--out", out, "--max-pixels", 640 * 425)
    assert len(json.loads(out.read_bytes())) == 3


def test_detections_of_no_photographs_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"film.mp4: boxes are found in photographs; predict.py reads videos"):
        detected(monkeypatch, written(tmp_path / "film.mp4"), "--out", tmp_path / "boxes.json")
    assert not (tmp_path / "boxes.json").exists()


@pytest.fixture
def mixed(photographs, tmp_path) -> Path:
    """A folder of five photographs, of which the fourth is cut off."""
    first = sorted(photographs.glob("*.jpg"))[0]
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in "abcde":
        shutil.copy(first, folder / f"{name}.jpg")
    (folder / "d.jpg").write_bytes(first.read_bytes()[:2000])
    return folder


@pytest.mark.parametrize("by", ["whole-image", "fasterrcnn"])  # one at a time, and four in one batch
def test_what_was_found_before_a_broken_photograph_is_saved(by, mixed, run, command, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "network", lambda name, weights: Stub())
    arguments = [str(mixed), "--model", str(run), "--detector", by, "--device", "cpu", "--out", "kept"]
    said = command(*arguments, "--save", "json", "csv", "coco").stderr
    assert "d.jpg" in said and "the 3 photograph(s) before it are saved, the rest is not looked at" in said
    kept = tmp_path / "kept"
    own = ["a.json", "b.json", "c.json"]
    assert sorted(path.name for path in kept.iterdir()) == [*own, "images.json", "keypoints.csv", "keypoints.json"]
    persons = 1 if by == "whole-image" else 2
    assert len(json.loads((kept / "keypoints.json").read_bytes())) == 3 * persons
    listed = json.loads((kept / "images.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == ["a.jpg", "b.jpg", "c.jpg"]


def test_nothing_is_written_if_the_first_photograph_is_broken(mixed, run, command, tmp_path, monkeypatch):
    arguments = ["--model", run, "--detector", "whole-image", "--device", "cpu", "--save", "csv", "coco"]
    said = sentence(command(mixed / "d.jpg", mixed / "a.jpg", *arguments))
    assert said.endswith("the JPEG is truncated") and not (tmp_path / "predictions").exists()
    with pytest.raises(UserError, match=r"d.jpg: the JPEG is truncated$"):
        detected(monkeypatch, mixed / "d.jpg", mixed / "a.jpg", "--out", tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_detections_before_a_broken_photograph_are_saved(batch, mixed, tmp_path, monkeypatch):
    out = tmp_path / "found.json"
    says = r"d.jpg: the JPEG is truncated; the 3 photograph\(s\) before it are saved, the rest is not looked at$"
    with pytest.raises(UserError, match=says):
        detected(monkeypatch, mixed, "--out", out, "--batch", batch)
    assert sorted({entry["image_id"] for entry in json.loads(out.read_bytes())}) == [1, 2, 3]
    listed = json.loads((tmp_path / "found_images.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == ["a.jpg", "b.jpg", "c.jpg"]


def crowd_at(frame: int) -> Callable:
    """A detector that sees one person, and in that frame two."""
    return lambda image: ([[9, 9, 40, 50]] * (1 + (round((image.mean() - 10) / 30) == frame)), None)


def test_frames_before_one_that_cannot_be_used_are_saved(run, tmp_path):
    source = written(tmp_path / "film.mp4")
    alone = Predictor.from_pretrained(run, device="cpu", detector=crowd_at(5), batch_size=3, most_persons=1)
    says = r"film.mp4 frame 5: 2 boxes, more .*; the 5 frame\(s\) before it are saved, the rest is not looked at$"
    with pytest.raises(UserError, match=says):
        predict.film(given(), alone, Video(source), tmp_path / "out" / "film", ["video", "json", "csv"], None)
    assert brightness(tmp_path / "out" / "film.mp4") == pytest.approx(brightness(source)[:5], abs=4)
    assert len((tmp_path / "out" / "film.jsonl").read_text().splitlines()) == 5
    assert len((tmp_path / "out" / "film.csv").read_text().splitlines()) == 1 + 5 * 17

    at_once = Predictor.from_pretrained(run, device="cpu", detector=crowd_at(0), most_persons=1)
    with pytest.raises(
        UserError, match=r"most_persons 1 \(--most-persons\); leave out the least sure ones, or allow more$"
    ):
        predict.film(given(), at_once, Video(source), tmp_path / "none" / "film", ["video", "json", "csv"], None)
    assert not (tmp_path / "none").exists()


class Silent:
    """In place of cv2.VideoWriter: writes nothing and says nothing, as that does on a full disk."""

    fourcc = cv2.VideoWriter.fourcc

    def __init__(self, path: str, *_: Any):
        Path(path).touch()

    def isOpened(self) -> bool:
        return True

    def write(self, image: np.ndarray) -> None:
        pass

    def release(self) -> None:
        pass


def test_a_video_that_cannot_be_written_does_not_take_the_other_forms_with_it(bright, tmp_path, monkeypatch):
    source = Video(written(tmp_path / "film.mp4"))
    monkeypatch.setattr(cv2, "VideoWriter", Silent)
    with pytest.raises(UserError, match=r"film.mp4: cannot write, not all of the 7 frames are there"):
        predict.film(given(), bright, source, tmp_path / "out" / "film", ["video", "json", "csv"], None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.csv", "film.jsonl"]
    assert len((tmp_path / "out" / "film.jsonl").read_text().splitlines()) == FRAMES
