"""The web page's answers to a visitor, without a browser (tests/predictor/test_web_browser.py uses one)."""

import http.client
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.goldens import ANNOTATIONS, IMAGES, ROOT, sample_instances
from helpers.persons import BOXES, IMAGE, Stub
from helpers.places import run_in_new_process, sentence, surroundings

from transpose.errors import UserError, missing
from transpose.predictor import detector, web_session
from transpose.predictor.predictor import Predictor
from transpose.predictor.web_session import Sample, Scene, WebSession

CONTENT = IMAGE.read_bytes()


@pytest.fixture(scope="module")
def ask(predictor) -> WebSession:
    return WebSession(predictor)


@pytest.fixture(scope="module")
def found(ask) -> Scene:
    return ask.find(web_session.uploaded(CONTENT), "drawn", BOXES)


# Scenes


def test_persons_equal_the_predictors_and_the_chosen_one_is_explained(ask, found, predictor):
    wanted = predictor(IMAGE, BOXES)
    np.testing.assert_array_equal(found.result.keypoints, wanted.keypoints)
    second = ask.choose(found, 1)
    for scene, person in ((found, 0), (second, 1)):
        (own,) = predictor.explain(IMAGE, [BOXES[person]])
        np.testing.assert_array_equal(scene.explanation.keypoints, own.keypoints)
        name, x, y, score = scene.table()[3]
        assert (name, len(scene.table())) == ("left_ear", 17)
        assert (x, y) == pytest.approx(wanted.keypoints[person, 3], abs=0.06)
        assert score == pytest.approx(wanted.scores[person, 3], abs=6e-4)
    assert (second.picture() != found.picture()).any()  # the box is another's
    assert found.picture().shape == (598, 900, 3)  # as large as the page shows it


def test_a_point_of_the_crop_queries_its_cell(found):
    """The demo's crop is 64 x 96 pixels in cells of 8, shown sixfold."""
    assert found.crop().shape == (576, 384, 3)
    for (x, y), token in (((0, 0), 0), ((47, 47), 0), ((48, 0), 1), ((0, 48), 8), ((384, 576), 95)):
        assert found.explanation.query(found.at(x / 384, y / 576).place).token == token
    asked = found.at(100.5 / 384, 200.5 / 576)
    assert asked.question() == "the point (16, 33) of the crop"
    cell = np.argwhere((asked.crop() != found.at(0.8, 0.9).crop()).any(-1))
    assert (cell.min(0) >= (192 - 4, 96 - 4)).all() and (cell.max(0) <= (528 + 4, 336 + 4)).all()


def test_maps_follow_the_place_the_mode_and_the_share(found):
    def maps(scene: Scene, **how) -> np.ndarray:
        picture = replace(scene, **how).maps()
        assert picture.dtype == np.uint8 and picture.shape[0] > web_session.MAP_HEIGHT
        return picture.astype(int)

    seen = [
        maps(found),
        maps(found.at(0.05, 0.9)),
        *(maps(found, mode=mode) for mode in ("affect", "rollout", "gradient")),
    ]
    seen.append(maps(found, share=0.6))
    for i, one in enumerate(seen):
        assert all(np.abs(one - another).max() > 20 for another in seen[:i])
    with pytest.raises(UserError, match="gradient explains a keypoint"):
        replace(found.at(0.05, 0.9), mode="gradient").maps()


def test_a_click_chooses_the_smallest_box_around_it(ask):
    scene = ask.find(
        web_session.uploaded(CONTENT), "drawn", [[0, 0, 400, 300], [50, 60, 100, 90], [300, 200, 200, 132]]
    )
    assert [scene.person_at(*place) for place in ((10, 10), (50, 60), (149, 149), (150, 149), (350, 250))] == [
        *(0, 1, 1, 0, 2)
    ]
    with pytest.raises(UserError, match="there is no box at this point"):
        scene.person_at(450, 10)


def test_two_corners_in_any_order_make_a_box():
    scene = Scene(np.zeros((90, 80, 3), np.uint8))
    assert scene.box_between(50, 40, 10, 70) == [10, 40, 41, 31]
    assert scene.box_between(50, 40, 79.9, 0.2) == [50, 0, 30, 41]
    with pytest.raises(UserError, match="this box is too small"):
        scene.box_between(50, 40, 52, 80)


def test_samples_are_the_images_with_annotated_persons_largest_first():
    samples = web_session.samples(ANNOTATIONS, IMAGES)
    people = sample_instances()
    assert len(samples) == 29 and sum(len(sample.boxes) for sample in samples) == len(people) == 105
    for sample in samples:
        areas = sample.boxes[:, 2:].prod(1)
        assert sample.path.exists() and (np.diff(areas) <= 0).all()
    scene = samples[0].scene()
    assert scene.annotated is samples[0].boxes and scene.result is None


@pytest.mark.parametrize(
    "boxes, wrong",
    [
        ([[600, 10, 20, 20]], r"box 0 .* lies outside of the image"),
        ([[1, 2, 3, 0]], "must have a positive width and height"),
        ([[0, 0, 9, 9]] * 101, "101 boxes, more than max_instances 100"),
    ],
)
def test_malformed_boxes_of_a_single_image_are_reported_without_a_number(ask, boxes, wrong):
    with pytest.raises(UserError, match=wrong) as caught:
        ask.find(web_session.uploaded(CONTENT), "drawn", boxes)
    assert str(caught.value).startswith("the image: ")


def test_without_detections_the_whole_image_is_used_and_the_page_says_so(run):
    blind = WebSession(Predictor.from_pretrained(run, device="cpu", detector=lambda image: ([], [])))
    scene = web_session.uploaded(CONTENT)
    with pytest.raises(UserError, match="the detector finds nothing in this image; drag a box"):
        blind.find(scene, "detector")
    opened = blind.open(scene)
    assert (opened.boxes, opened.typed()) == ("whole image", "0,0,500,332")
    assert opened.why == "The detector finds nothing in this image"


def test_an_unavailable_detector_is_reported_without_paths_of_the_machine(run, monkeypatch, caplog):
    def unreachable(url, path):
        raise UserError(f"{url}: cannot be reached; put it at {path}")

    monkeypatch.setattr(detector.download, "fetch", unreachable)
    monkeypatch.setattr(detector, "FOLDER", "nowhere")
    monkeypatch.setenv("TRANSPOSE_HOME", "models/nowhere")
    offline = WebSession(Predictor.from_pretrained(run, device="cpu", detector=web_session.detector_on_demand("cpu")))
    with pytest.raises(UserError, match="no detector is available") as caught:
        offline.find(web_session.uploaded(CONTENT), "detector")
    assert "/" not in str(caught.value)
    assert "models/nowhere" in caplog.text


def test_the_detector_is_loaded_once(run, monkeypatch):
    loaded = []

    def load(category, device):
        loaded.append(Stub())
        return detector.Detector(loaded[-1], device=device)

    monkeypatch.setattr(web_session, "detector_for", load)
    ask = WebSession(Predictor.from_pretrained(run, device="cpu", detector=web_session.detector_on_demand("cpu")))
    for _ in range(2):
        opened = ask.open(web_session.uploaded(CONTENT))
        assert len(opened.result) == 2 and opened.boxes == "detector"
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
    with pytest.raises(UserError, match="this file: refused before decoding: it is 30 x 20, but this page allows 599"):
        web_session.uploaded(upright, 599)


# The page's answers


@dataclass
class Event:
    """As much of Gradio's event as the page reads."""

    _data: dict[str, Any]


@pytest.fixture(scope="module")
def page(ask) -> Iterator:
    pytest.importorskip("gradio")
    from transpose.predictor import web
    from transpose.predictor.web_guard import Guard

    guard = Guard("127.0.0.1", [], 2_000_000, sessions=20, of_address=5, idle=1800)
    with web.private_folder():
        yield web.Page(ask, [Sample(IMAGE, np.array(BOXES))], "<b>weights</b>", guard, max_pixels=200_000)


class Visitor:
    """Answers events as Gradio does: what the page shows, by the names of its parts."""

    def __init__(self, page):
        from transpose.predictor import web

        self.page, self.scene, self.state = page, None, web.OPENING
        self.shown: dict[str, Any] = {"mode": "dependency", "share": 0}
        self.said: list[str] = []
        self.names = {part: name for name, part in page.parts.items()}

    def do(self, name: str, data: dict | None = None, *given: Any, **settings: Any) -> dict[str, Any]:
        """What an event changes on the page."""
        self.shown |= settings
        function = self.page._answering(getattr(self.page, f"on_{name}"))
        answer = function(Event(data or {}), self.scene, self.state, self.shown["mode"], self.shown["share"], *given)
        self.scene = answer.pop(self.page.scene, self.scene)
        self.state = answer.pop(self.page.shown, self.state)
        changed = {self.names[part]: value for part, value in answer.items() if part in self.names}
        self.shown |= changed
        if notice := changed.pop("notice"):
            self.said += re.findall("<p role=alert data-number=[0-9]+>(.*)</p>", notice)
        return changed


@pytest.fixture
def visitor(page) -> Visitor:
    return Visitor(page)


def place(x0: float, y0: float, x1: float | None = None, y1: float | None = None) -> dict[str, float]:
    return {"x0": x0, "y0": y0, "x1": x0 if x1 is None else x1, "y1": y0 if y1 is None else y1}


def test_the_page_opens_with_an_explained_sample_and_answers_events(page, visitor):
    assert page.opening.boxes == "annotated" and page.parts["maps"].value.startswith(
        '<img src="data:image/jpeg;base64,'
    )
    asked = visitor.do("keypoint", {"number": 9})
    assert asked["asked"].startswith("**left wrist**") and "picture" not in asked
    assert "class=asked><td>left_wrist" in asked["table"]
    other = visitor.do("picture", place(450 / 500, 200 / 332))
    assert visitor.scene.person == 1 and "picture" in other and other["typed"] == "393.9,94.8,106.1,206.7"
    visitor.do("crop", place(10 / 384, 10 / 576))
    assert visitor.scene.place == pytest.approx((10 / 6 - 0.5, 10 / 6 - 0.5))


def test_answers_of_the_page_lead_from_an_image_to_maps(page, visitor):
    ticket = page.guard._waiting["a"] = ("1.2.3.4", page.guard.clock(), CONTENT)
    assert ticket
    uploaded = visitor.do("upload", {"ticket": "a"})
    assert "a" not in page.guard._waiting
    assert "annotated" not in dict(uploaded["boxes"].choices) and uploaded["boxes"].value in ("detector", "whole image")
    drawn = visitor.do("picture", place(80.5 / 500, 69.5 / 332, 227.5 / 500, 312.5 / 332))
    assert visitor.scene.result.boxes.tolist() == [[80, 69, 148, 244]] and drawn["boxes"].value == "drawn"
    typed = visitor.do("typed", {}, "80,69,148,244")
    assert drawn["maps"] == typed["maps"]
    whole = visitor.do("boxes", {}, "whole image")
    assert whole["typed"] == "0,0,500,332" and whole["hint"] == web_hints()["whole image"]
    empty = visitor.do("boxes", {}, "drawn")
    assert (empty["maps"], empty["table"], empty["typed"]) == ("", "", "") and "class=drawing" in empty["picture"]
    assert empty["hint"] == web_hints()[None] and drawn["hint"] == web_hints()["drawn"]

    sample = visitor.do("sample", {"number": 0})
    assert dict(sample["boxes"].choices)["annotated"] == sample["boxes"].value == "annotated"
    less = visitor.do("settings", share=60)
    assert less["maps"] != sample["maps"] and less["share"] == 60
    assert visitor.do("settings", mode="rollout")["mode"] == "rollout"


def web_hints() -> dict[str | None, str]:
    from transpose.predictor import web

    return web.HINTS


def test_mistakes_give_a_message_and_controls_go_back(page, visitor):
    visitor.do("sample", {"number": 0})
    visitor.do("crop", place(0.5, 0.5))
    before = visitor.scene
    refused = visitor.do("settings", mode="gradient")
    assert refused["mode"] == "dependency" and refused["boxes"].value == "annotated"
    wrong: list[tuple] = [
        ("upload", {"ticket": "none"}),
        ("upload", {"wrong": "<b>too large</b>"}),
        ("typed", {}, "<script>"),
        ("typed", {}, "9000,2,30,40"),
        ("picture", place(0.99, 0.01)),
        ("picture", {"x0": "here"}),
        ("picture", place(0.1, 0.1, 0.9, 0.101)),
        ("sample", {"number": 7}),
        ("keypoint", {"number": 99}),
    ]
    for name, *rest in wrong:
        changed = visitor.do(name, *rest)
        assert set(changed) == {"boxes", "typed", "mode", "share"} and changed["typed"] == before.typed(), name
        assert visitor.scene is before
    assert len(visitor.said) == 1 + len(wrong) and all(visitor.said) and not any("<" in said for said in visitor.said)


def test_a_forgotten_image_is_reported_and_not_replaced_by_the_sample(visitor):
    visitor.do("sample", {"number": 0})
    visitor.scene = None
    assert visitor.do("keypoint", {"number": 1}) == {}
    assert "forgotten" in visitor.said[0]


def test_a_page_without_samples_opens_empty_and_asks_for_an_image(ask, page):
    from transpose.predictor import web

    empty = Visitor(web.Page(ask, [], "weights", page.guard))
    assert empty.page.opening is None and empty.page.parts["hint"].value == "Upload an image."
    assert empty.do("typed", {}, "1,2,3,4") == {} and "there is no image yet" in empty.said[0]


def test_nothing_is_offered_to_other_programs_and_other_hosts(page):
    config = page.blocks.get_config_file()
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}
    assert page.blocks.analytics_enabled is False
    title = next(part for part in config["components"] if "weights" in str(part["props"].get("value")))
    assert "<b>" not in title["props"]["value"]


def test_a_served_page_answers_events_and_fetches_nothing_that_a_payload_names(page):
    fetched: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_error(404)

        log_message = do_HEAD = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as recorder, socket.socket() as free:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        page.serve(port, forever=False)
        try:

            def ask(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
                request = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                request.request(method, path, body, {"Content-Type": "application/json"})
                answer = request.getresponse()
                return answer.status, answer.read()

            file = {"path": f"http://127.0.0.1:{recorder.server_port}/x", "meta": {"_type": "gradio.FileData"}}
            events = page.blocks.get_config_file()["dependencies"]
            for event in events:
                plain = [None, "opening", "dependency", 0, *[""] * (len(event["inputs"]) - 4)]
                for place in range(len(plain)):
                    for wrong in (file, [file], file | {"url": file["path"]}):
                        body = {"data": [*plain[:place], wrong, *plain[place + 1 :]], "fn_index": event["id"]}
                        assert (
                            ask("POST", "/gradio_api/queue/join", json.dumps(body | {"session_hash": "a"}).encode())[0]
                            == 400
                        )
            for path in ("/gradio_api/file=" + file["path"], "/gradio_api/run/predict", "/gradio_api/upload"):
                assert ask("GET", path)[0] == ask("POST", path, json.dumps({"data": [file]}).encode())[0] == 404

            status, said = ask("POST", "/upload", CONTENT)
            assert status == 200
            upload = next(event["id"] for event in events if event["targets"][0][1] == "upload")
            body = {"data": [None, "opening", "dependency", 0], "event_data": json.loads(said), "fn_index": upload}
            status, _ = ask("POST", "/gradio_api/queue/join", json.dumps(body | {"session_hash": "b"}).encode())
            assert status == 200
            stream = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            stream.request("GET", "/gradio_api/queue/data?session_hash=b")
            messages = (json.loads(line[5:]) for line in stream.getresponse() if line.startswith(b"data:"))
            done = next(message for message in messages if message["msg"] == "process_completed")
            assert done["success"] and "data:image/jpeg;base64," in json.dumps(done["output"])
            stream.close()
        finally:
            page.blocks.close(verbose=False)
            recorder.shutdown()
    assert fetched == []


# The tool


def test_help_comes_without_importing_torch(tmp_path, without_torch):
    asked = run_in_new_process("web_demo", ["--help"], tmp_path, without_torch)
    assert asked.returncode == 0 and "--host" in asked.stdout


@pytest.mark.parametrize(
    "arguments, wrong",
    [
        (["--port", "99999"], "--port must be a number from 1 to 65535, not 99999"),
        (["--max-megabytes", "-1"], "--max-megabytes, --max-pixels and --max-sessions must be positive"),
        (["--max-megabytes", "nan"], "--max-megabytes, --max-pixels and --max-sessions must be positive"),
        (["--max-pixels", "0"], "--max-megabytes, --max-pixels and --max-sessions must be positive"),
    ],
)
def test_options_that_cannot_be(arguments, wrong, tmp_path, without_torch):
    assert sentence(run_in_new_process("web_demo", ["--model", "x", *arguments], tmp_path, without_torch)) == wrong


def test_without_gradio_the_tool_says_how_to_get_it(tmp_path, without_torch):
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(name='gradio')\n")
    path = f"{tmp_path}:{without_torch['PYTHONPATH']}"
    outcome = run_in_new_process("web_demo", ["--model", "tp_r_a4"], tmp_path, {"PYTHONPATH": path})
    assert sentence(outcome) == str(missing("gradio", extra="web"))


def test_a_missing_model(tmp_path):
    pytest.importorskip("gradio")
    outcome = run_in_new_process("web_demo", ["--model", "nothing"], tmp_path, {})
    assert sentence(outcome).startswith("nothing: there is no such file or folder, and no released model")


def test_a_space_contains_all_imports_of_its_page(tmp_path):
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


def test_a_port_in_use(page):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot use port {port} of 127.0.0.1; choose another with --port or --host"
        ):
            page.serve(port, forever=False)
