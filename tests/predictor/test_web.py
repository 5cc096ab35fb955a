"""What the web page says to a visitor, without a browser (tests/predictor/test_web_browser.py has one)."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.goldens import ANNOTATIONS, IMAGES, ROOT, sample_people
from helpers.people import BOXES, PHOTOGRAPH, Stub
from helpers.places import run_anew, sentence, surroundings

from transpose.errors import UserError, missing
from transpose.predictor import detector, web_session
from transpose.predictor.predictor import Predictor
from transpose.predictor.web_session import Sample, Scene, WebSession

CONTENT = PHOTOGRAPH.read_bytes()


@pytest.fixture(scope="module")
def ask(predictor) -> WebSession:
    return WebSession(predictor)


@pytest.fixture(scope="module")
def found(ask) -> Scene:
    return ask.find(web_session.uploaded(CONTENT), BOXES)


# Scenes


def test_people_are_the_predictors_and_the_explanation_is_of_the_chosen_one(ask, found, predictor):
    wanted = predictor(PHOTOGRAPH, BOXES)
    np.testing.assert_array_equal(found.result.keypoints, wanted.keypoints)
    second = ask.choose(found, 1)
    for scene, person in ((found, 0), (second, 1)):
        (own,) = predictor.explain(PHOTOGRAPH, [BOXES[person]])
        np.testing.assert_array_equal(scene.explanation.keypoints, own.keypoints)
        name, x, y, score = scene.table()[3]
        assert (name, len(scene.table())) == ("left_ear", 17)
        assert (x, y) == pytest.approx(wanted.keypoints[person, 3], abs=0.06)
        assert score == pytest.approx(wanted.scores[person, 3], abs=6e-4)
    assert (second.picture() != found.picture()).any()  # the box is another's
    assert found.picture().shape == (332, 500, 3)


def test_a_place_of_the_crops_picture_asks_its_cell(found):
    """The demo's crop is 64 x 96 pixels in cells of 8, shown sixfold."""
    assert found.crop().shape == (576, 384, 3)
    for place, token in (((0, 0), 0), ((47, 47), 0), ((48, 0), 1), ((0, 48), 8), ((383, 575), 95)):
        assert found.explanation.query(found.at(*place).place).token == token
    asked = found.at(100, 200)
    assert asked.question() == "the point (16, 33) of the crop"
    cell = np.argwhere((asked.crop() != found.at(300, 500).crop()).any(-1))
    assert (cell.min(0) >= (192 - 4, 96 - 4)).all() and (cell.max(0) <= (528 + 4, 336 + 4)).all()


def test_maps_follow_the_place_the_mode_and_the_threshold(found):
    def maps(scene: Scene, mode: str = "dependency", threshold: float = 0.0) -> np.ndarray:
        picture = scene.maps(mode, threshold)
        assert picture.dtype == np.uint8 and picture.shape[0] > web_session.MAP_HEIGHT
        return picture.astype(int)

    other = found.of_keypoint(9)
    assert other.question() == "left wrist"
    seen = [
        maps(found),
        maps(found.at(20, 500)),
        maps(found, "affect"),
        maps(found, "rollout"),
        maps(found, "gradient"),
    ]
    seen.append(maps(found, threshold=0.02))
    for i, one in enumerate(seen):
        assert all(np.abs(one - another).max() > 20 for another in seen[:i])
    with pytest.raises(UserError, match="gradient explains a keypoint"):
        found.at(20, 500).maps("gradient", 0)


def test_a_click_chooses_the_smallest_box_that_it_lies_in(ask):
    scene = ask.find(web_session.uploaded(CONTENT), [[0, 0, 400, 300], [50, 60, 100, 90], [300, 200, 200, 132]])
    assert [scene.person_at(*place) for place in ((10, 10), (50, 60), (149, 149), (150, 149), (350, 250))] == [
        *(0, 1, 1, 0, 2)
    ]
    with pytest.raises(UserError, match="there is no person's box at this place"):
        scene.person_at(450, 10)


def test_two_corners_in_any_order_make_a_box():
    corner = Scene(np.zeros((90, 80, 3), np.uint8), corner=(50, 40))
    assert corner.box_to(10, 70) == [10, 40, 41, 31]
    assert corner.box_to(79, 0) == [50, 0, 30, 41]
    with pytest.raises(UserError, match="too near to the first corner"):
        corner.box_to(52, 80)
    assert (corner.picture() != 0).any()


def test_samples_are_the_images_with_annotated_people_the_largest_first():
    samples = web_session.samples(ANNOTATIONS, IMAGES)
    people = sample_people()
    assert len(samples) == 29 and sum(len(sample.boxes) for sample in samples) == len(people) == 105
    for sample in samples:
        areas = sample.boxes[:, 2:].prod(1)
        assert sample.path.exists() and (np.diff(areas) <= 0).all()
    scene = samples[0].scene()
    assert scene.annotated is samples[0].boxes and scene.result is None


@pytest.mark.parametrize(
    "cells, largest, step, paper", [((32, 24), 0.03, 1e-4, 0.01), ((64, 48), 0.007, 1e-5, 0.00075)]
)
def test_the_thresholds_of_the_paper_can_be_chosen(ask, monkeypatch, cells, largest, step, paper):
    monkeypatch.setattr(ask, "grid", cells)
    assert ask.threshold_range == (largest, step)
    assert paper < largest and round(paper / step) * step == pytest.approx(paper)


@pytest.mark.parametrize(
    "boxes, wrong",
    [
        ([[600, 10, 20, 20]], r"box 0 .* lies outside of the image"),
        ([[1, 2, 3, 0]], "must have a positive width and height"),
        ([[0, 0, 9, 9]] * 101, "101 boxes, more than most_persons 100"),
    ],
)
def test_boxes_that_cannot_be_are_told_without_a_number_of_the_image(ask, boxes, wrong):
    with pytest.raises(UserError, match=wrong) as caught:
        ask.find(web_session.uploaded(CONTENT), boxes)
    assert str(caught.value).startswith("the image: ")


def test_nobody_found_is_said(run):
    blind = WebSession(Predictor.from_pretrained(run, device="cpu", detector=lambda image: ([], [])))
    with pytest.raises(UserError, match="the detector finds no person in this image; draw a box"):
        blind.find(web_session.uploaded(CONTENT))


def test_a_detector_that_cannot_be_had_is_said_without_the_machines_paths(run, monkeypatch, caplog):
    def unreachable(url, path):
        raise UserError(f"{url}: cannot be reached; put it at {path}")

    monkeypatch.setattr(detector.download, "fetch", unreachable)
    monkeypatch.setattr(detector, "FOLDER", "nowhere")
    monkeypatch.setenv("TRANSPOSE_HOME", "models/nowhere")
    offline = WebSession(Predictor.from_pretrained(run, device="cpu", detector=web_session.detector_on_demand("cpu")))
    with pytest.raises(UserError, match="there is no detector here") as caught:
        offline.find(web_session.uploaded(CONTENT))
    assert "/" not in str(caught.value)
    assert "models/nowhere" in caplog.text


def test_the_detector_is_loaded_once(run, monkeypatch):
    loaded = []

    def network(name, weights):
        loaded.append(Stub())
        return loaded[-1]

    monkeypatch.setattr(detector, "network", network)
    ask = WebSession(Predictor.from_pretrained(run, device="cpu", detector=web_session.detector_on_demand("cpu")))
    for _ in range(2):
        assert len(ask.find(web_session.uploaded(CONTENT)).result) == 2
    assert len(loaded) == 1 and len(loaded[0].batches) == 2


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "one,2,3,4", "1 2 3 4"])
def test_boxes_that_are_no_numbers(text):
    with pytest.raises(UserError, match="a box is four numbers, X,Y,W,H"):
        web_session.boxes_from(text)
    assert web_session.boxes_from("1,2,3,4.5\n\n 5, 6,7,8") == [[1, 2, 3, 4.5], [5, 6, 7, 8]]


def test_a_image_is_turned_and_too_large_a_one_refused():
    upright = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    exif = (
        b"\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06"
        + bytes(6)
    )
    assert web_session.uploaded(upright).pixels.shape == (20, 30, 3)
    assert web_session.uploaded(upright[:2] + exif + upright[2:]).pixels.shape == (30, 20, 3)
    with pytest.raises(UserError, match="this file: refused before decoding, it is 30 x 20 and this page allows 599"):
        web_session.uploaded(upright, 599)


# The page's answers


@dataclass
class Click:
    """As much of Gradio's event as the page reads."""

    index: Any


@pytest.fixture(scope="module")
def page(ask) -> Iterator:
    pytest.importorskip("gradio")
    from transpose.predictor import web

    with web.private_folder():
        yield web.Page(ask, [Sample(PHOTOGRAPH, np.array(BOXES))], "<b>weights</b>", max_pixels=200_000)


HOW = "dependency", 0.0


def test_answers_of_the_page_lead_from_a_image_to_maps(page):
    uploaded = page.on_upload(*HOW, CONTENT)
    scene = uploaded[page.scene]
    assert uploaded[page.maps] is None and uploaded[page.table] == []
    assert uploaded[page.boxes].value is None and "annotated" not in dict(uploaded[page.boxes].choices)
    corner = page.on_picture(Click([80, 69]), *HOW, scene, "drawn")
    drawn = page.on_picture(Click([227, 312]), *HOW, corner[page.scene], "drawn")
    assert drawn[page.scene].result.boxes.tolist() == [[80, 69, 148, 244]] and drawn[page.scene].corner is None
    typed = page.on_typed(*HOW, scene, "80,69,148,244")
    np.testing.assert_array_equal(drawn[page.maps], typed[page.maps])
    whole = page.on_boxes(*HOW, scene, "whole image")
    assert whole[page.scene].result.boxes.tolist() == [[0, 0, 500, 332]]

    sample = page.on_sample(Click(0), *HOW)
    assert dict(sample[page.boxes].choices)["annotated"] == sample[page.boxes].value == "annotated"
    other = page.on_picture(Click([450, 200]), *HOW, sample[page.scene], "annotated")
    assert other[page.scene].person == 1
    asked = page.on_keypoint(Click([9, 2]), *HOW, other[page.scene])
    assert asked[page.asked].startswith("**left wrist**")
    thresholded = page.on_settings("dependency", 0.05, asked[page.scene])
    assert (thresholded[page.maps] != asked[page.maps]).any()
    assert page.on_crop(Click([10, 10]), *HOW, asked[page.scene])[page.scene].place == pytest.approx((1.25, 1.25))


def test_mistakes_are_warnings_and_leave_the_page_as_it_is(page, monkeypatch):
    from transpose.predictor import web

    said = []
    monkeypatch.setattr(web.gr, "Warning", lambda message, **how: said.append(message))
    scene = page.on_upload(*HOW, CONTENT)[page.scene]
    for function, arguments in (
        (page.on_upload, (*HOW, b"nothing")),
        (page.on_typed, (*HOW, None, "1,2,3,4")),
        (page.on_typed, (*HOW, scene, "<script>")),
        (page.on_picture, (Click([1, 2]), *HOW, scene, "detector")),
        (page.on_crop, (Click([1, 2]), *HOW, scene)),
        (page.on_keypoint, (Click([1, 2]), *HOW, scene)),
    ):
        assert web._warning(function)(*arguments) == web.gr.skip()
    assert len(said) == 6 and all(said) and not any("<" in message for message in said)
    assert page.on_settings(*HOW, scene) == web.gr.skip()


def test_nothing_is_offered_to_other_programs_and_other_hosts(page):
    config = page.blocks.get_config_file()
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}
    assert page.blocks.analytics_enabled is False
    title = next(part for part in config["components"] if "weights" in str(part["props"].get("value")))
    assert "<b>" not in title["props"]["value"]


# The tool


def test_help_comes_without_importing_torch(tmp_path, without_torch):
    asked = run_anew("web_demo", ["--help"], tmp_path, without_torch)
    assert asked.returncode == 0 and "--host" in asked.stdout


@pytest.mark.parametrize(
    "arguments, wrong",
    [
        (["--port", "99999"], "--port is a number from 1 to 65535, not 99999"),
        (["--max-megabytes", "-1"], "--max-megabytes and --max-pixels must be positive"),
        (["--max-megabytes", "nan"], "--max-megabytes and --max-pixels must be positive"),
        (["--max-pixels", "0"], "--max-megabytes and --max-pixels must be positive"),
    ],
)
def test_options_that_cannot_be(arguments, wrong, tmp_path, without_torch):
    assert sentence(run_anew("web_demo", ["--model", "x", *arguments], tmp_path, without_torch)) == wrong


def test_without_gradio_the_tool_says_how_to_get_it(tmp_path, without_torch):
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(name='gradio')\n")
    path = f"{tmp_path}:{without_torch['PYTHONPATH']}"
    outcome = run_anew("web_demo", ["--model", "tp_r_a4"], tmp_path, {"PYTHONPATH": path})
    assert sentence(outcome) == str(missing("gradio", extra="web"))


def test_a_model_that_is_not_there(tmp_path):
    pytest.importorskip("gradio")
    outcome = run_anew("web_demo", ["--model", "nothing"], tmp_path, {})
    assert sentence(outcome).startswith("nothing: there is no such file or folder, and the zoo has no model")


def test_a_space_holds_all_that_its_page_imports(tmp_path):
    space = tmp_path / "space"
    subprocess.run(["make", "space", f"SPACE={space}"], cwd=ROOT, check=True, capture_output=True)
    assert (space / "requirements.txt").read_text().startswith((ROOT / "requirements.txt").read_text())
    assert web_session.samples(
        *(space / "data/coco_sample" / path for path in ("annotations/person_keypoints_val2017.json", "images"))
    )
    pytest.importorskip("gradio")
    environment = surroundings() | {"MODEL": "nothing", "PYTHONPATH": ""}
    outcome = subprocess.run([sys.executable, "app.py"], cwd=space, env=environment, capture_output=True, text=True)
    assert sentence(outcome).startswith("nothing: there is no such file or folder")


def test_a_port_that_is_taken(page):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"port {port} of 127.0.0.1 cannot be had; choose another with --port or --host"
        ):
            page.serve(port=port, forever=False)
