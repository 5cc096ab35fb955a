"""verify-coco with stub tables and networks on the sample: pass, each failure, and continuing after an interruption."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.goldens import ROOT
from helpers.networks import small_r
from helpers.places import Place

from transpose.analysis import verify
from transpose.analysis.verify import Input, Test
from transpose.commands import verify_coco as command
from transpose.errors import UserError
from transpose.evaluation.coco_eval import METRICS
from transpose.models import zoo
from transpose.runtime import log

TEN = tuple(0.7 + 0.01 * number for number in range(10))
TESTS = [Test("tp_a", "ground truth", (0.75,)), Test("tp_a", "detector", TEN)]


class Runs:
    """What `verify` calls for a test: APs that are `off` from the published ones, and a record of the calls."""

    def __init__(self, off: float = 0.0, stop_at: int = 99):
        self.off, self.stop_at, self.done = off, stop_at, list[str]()

    def __call__(self, test: Test) -> tuple[str, dict[str, float]]:
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt
        self.done.append(test.name)
        values = test.published if len(test.published) == 10 else test.published * 10
        return f"flip test: on; {test.boxes}", {name: v + self.off for name, v in zip(METRICS, values, strict=True)}


@pytest.fixture
def inputs(tmp_path) -> list[Input]:
    (tmp_path / "images").mkdir()
    for name in ("b", "a"):
        (tmp_path / "images" / name).write_text(name)
    (tmp_path / "weights.pth").write_text("weights")
    return [
        Input(tmp_path / "images", "http://images"),
        Input(tmp_path / "weights.pth", "http://weights", "md5:c30e4fb1b51ff3df2b0a3d2a46b0b1b0"),
    ]


def quiet(_: str) -> None: ...


@pytest.mark.parametrize(
    ("off", "passes"), [(0.0, True), (0.00099, True), (-0.00099, True), (0.0011, False), (-0.0011, False)]
)
def test_an_ap_passes_within_a_tenth_of_a_point(off, passes, inputs, tmp_path):
    text, passed = verify.verify(TESTS, inputs[:1], tmp_path / "out", Runs(off), quiet)
    assert passed == passes and text == (tmp_path / "out/report.md").read_text()
    assert f"{2 if passes else 0} of 2 APs within ±0.1" in text
    row = (
        f"| tp_a | ground truth | 75.0 | {75 + 100 * off:.2f} | {100 * off:+.2f} | {'pass' if passes else '**fail**'} |"
    )
    assert row in text
    assert "| published | 0.700 | 0.710 |" in text and "- tp_a, detector: flip test: on; detector" in text


def test_one_fail_of_two_fails(inputs, tmp_path):
    wrong = [TESTS[0], replace(TESTS[1], published=(0.9, *TEN[1:]))]
    runs = Runs()

    def run(test: Test) -> tuple[str, dict[str, float]]:
        return runs(TESTS[wrong.index(test)])

    text, passed = verify.verify(wrong, inputs[:1], tmp_path / "out", run, quiet)
    assert not passed and "1 of 2 APs" in text and "-20.00 | **fail**" in text


def test_a_folders_sum_is_that_of_sha256sum(inputs):
    """sha256sum * | sha256sum"""
    found = verify.checksums(inputs[0])
    assert (found["files"], found["bytes"], found["agrees"]) == (2, 2, None)
    assert found["sha256"] == "cb13f400dcb618e400d0f7d54f7cdb330d37a07272cb99a1016cda5830a10556"


def test_a_checksum_that_differs_from_the_published_one_fails(inputs, tmp_path):
    said: list[str] = []
    text, passed = verify.verify(TESTS, inputs, tmp_path / "out", Runs(), said.append)
    assert not passed and "**differs**: md5:c30e" in text and "2 of 2 APs" in text
    assert any("its checksum is not the published one, md5:c30e" in line for line in said)
    right = replace(inputs[1], published="md5:63f4f1e9b725370f459720575cd5f953")
    assert verify.checksums(right)["agrees"] is True


def test_it_goes_on_where_it_was_interrupted(inputs, tmp_path):
    first, second = Runs(stop_at=1), Runs()
    with pytest.raises(KeyboardInterrupt):
        verify.verify(TESTS, inputs[:1], tmp_path / "out", first, quiet)
    assert not (tmp_path / "out/report.md").exists()
    text, passed = verify.verify(TESTS, inputs[:1], tmp_path / "out", second, quiet)
    assert (first.done, second.done) == (["tp_a, ground truth"], ["tp_a, detector"]) and passed
    assert text == verify.verify(TESTS, inputs[:1], tmp_path / "other", Runs(), quiet)[0]


def test_results_of_other_inputs_are_not_continued(inputs, tmp_path):
    verify.verify(TESTS, inputs[:1], tmp_path / "out", Runs(), quiet)
    (inputs[0].path / "a").write_text("another")
    with pytest.raises(UserError, match=r"images: not what the results in .*out were made with"):
        verify.verify(TESTS, inputs[:1], tmp_path / "out", Runs(), quiet)


@pytest.mark.parametrize("text", ["", "[]", '{"tests": {}}', '{"inputs": {}, "tests": {"a": {"metrics": {}}}}'])
def test_a_damaged_state_is_refused(text, inputs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / verify.STATE).write_text(text)
    with pytest.raises(UserError, match=r"verification\.json: damaged, or not a file of verify-coco; pass --overwrite"):
        verify.verify(TESTS, inputs[:1], tmp_path / "out", Runs(), quiet)


def test_all_missing_inputs_are_named_with_their_sources_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "start", lambda **_: None)
    monkeypatch.setattr(zoo, "place", lambda folder, place, file: tmp_path / file)
    with pytest.raises(UserError) as refused:
        command.main(["--data", str(tmp_path / "coco"), "--out", str(tmp_path / "out")])
    said = str(refused.value)
    assert said.startswith("8 of the 8 inputs are missing: ") and "\n" not in said
    for name in ("annotations_trainval2017.zip", "zips/val2017.zip", "drive.google.com", *zoo.RELEASED):
        assert name in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="there is no released model 'tp_r_a5'"):
        command.main(["--models", "tp_r_a3,tp_r_a5"])


def test_every_model_has_its_table():
    assert zoo.PUBLISHED.keys() == zoo.RELEASED.keys()
    for name, entry in zoo.RELEASED.items():
        assert zoo.PUBLISHED[name][0] == entry.published_ap and len(zoo.PUBLISHED[name]) == len(METRICS)


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    """COCO's folder with two images of the sample; a zoo of one small network, and its table: an AP of 0."""
    network = small_r(num_joints=17, image_size=zoo.IMAGE_SIZE)
    torch.save(network.state_dict(), tmp_path / "stub.pth")
    entry = replace(zoo.RELEASED["tp_r_a3"], network=lambda variants: small_r(num_joints=17, image_size=zoo.IMAGE_SIZE))
    monkeypatch.setattr(log, "start", lambda **_: None)
    monkeypatch.setattr(zoo, "RELEASED", {"tp_r_a3": replace(entry, published_ap_gt=0.0)})
    monkeypatch.setattr(zoo, "PUBLISHED", {"tp_r_a3": (0.0,) * 10})
    monkeypatch.setattr(zoo, "place", lambda folder, place, file: tmp_path / "stub.pth")
    monkeypatch.setattr(zoo, "weights", lambda name: tmp_path / "stub.pth")
    place = Place(tmp_path)
    (tmp_path / "data/person_detection_results").mkdir()
    place.detections.rename(tmp_path / "data/person_detection_results" / command.BOXES)
    return tmp_path


def test_the_command_on_the_sample(stub, capsys):
    arguments = ["--data", str(stub / "data"), "--out", str(stub / "out"), "WORKERS", "0", "TEST.IMAGE_THRE", "0.5"]
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert "2 of 2 APs within" in out and "4 persons in 2 of 2 images; boxes: ground truth; flip test: on" in out
    assert "boxes: COCO_val2017_detections_AP_H_56_person.json, score >= 0.5" in out and "torch " in out
    for boxes in ("annotated", "detected"):
        assert (stub / "out/tp_r_a3" / boxes / "results/metrics_val2017_0.json").exists()
    state = json.loads((stub / "out" / verify.STATE).read_bytes())
    assert state["inputs"]["val2017"]["files"] == 2
    zoo.PUBLISHED["tp_r_a3"] = (0.5,) * 10  # nothing runs again, and the new table decides
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 1 and "1 of 2 APs within" in capsys.readouterr().out


def test_a_detection_file_that_does_not_belong_stops_with_its_sentence(stub):
    (stub / "data/person_detection_results" / command.BOXES).write_text("[]")
    arguments = ["--data", str(stub / "data"), "--out", str(stub / "out"), "WORKERS", "0"]
    with pytest.raises(UserError, match="it lists no box"):
        command.main(arguments)
    assert list(json.loads((stub / "out" / verify.STATE).read_bytes())["tests"]) == ["tp_r_a3, ground truth"]


def test_the_recipes_base_is_the_protocol_that_was_published():
    text = (ROOT / "experiments/coco/base.yaml").read_text()
    for line in ("FLIP_TEST: true", "BLUR_KERNEL: 11", "OKS_THRE: 0.9", "IN_VIS_THRE: 0.2", "IMAGE_THRE: 0.0"):
        assert line in text
