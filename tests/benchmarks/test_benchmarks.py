"""The benchmarks run, at the smallest size, and find equal results; nothing here is timed."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.goldens import SAMPLE, sample_crops

from benchmarks import plain, protocol, report, scale, soak, synthetic
from transpose.build.data import build_training_data
from transpose.commands import benchmark, model_speed
from transpose.errors import UserError
from transpose.models.backends import Backend

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "overrides",
    [
        ["TEST.USE_GT_BBOX", "True"],
        ["TEST.USE_GT_BBOX", "False"],
        ["TEST.USE_GT_BBOX", "False", "TEST.IMAGE_THRE", "0.3"],
        ["TEST.USE_GT_BBOX", "False", "TEST.SOFT_NMS", "True"],
    ],
    ids=["annotated", "detected", "image threshold", "soft"],
)
def test_the_evaluation_gives_the_plain_ones_numbers(tmp_path: Path, overrides: list[str]):
    ours, theirs = protocol.compare(SAMPLE, overrides, tmp_path)
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=0, atol=1e-12)
    assert 0.05 < theirs[0] < 0.95


@pytest.fixture(scope="module")
def small_coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    scale.make(root, 0.002)
    return root


def test_every_part_of_the_scale_benchmark(small_coco: Path):
    first = scale.first_training_sample(small_coco)
    assert 0 < first["arrays_mb"] < 1 and first["seconds"] > 0
    assert scale.first_test_sample(small_coco)["arrays_mb"] > 0
    workers = scale.growth_of_workers(small_coco, 20)
    assert len(workers["growth_mb"]) == scale.WORKERS and workers["samples"] >= 20
    threads = torch.get_num_threads()
    try:
        stage = scale.evaluation_stage(small_coco)
    finally:
        torch.set_num_threads(threads)
    assert stage["persons"] == round(scale.VAL_BOXES * 0.002) and len(stage) == 6


def test_generated_set_has_what_was_asked_for(small_coco: Path):
    loader, _ = build_training_data(scale.settings(small_coco))
    assert len(loader.dataset) == round(scale.TRAIN["persons"] * 0.002)


@pytest.mark.parametrize("line", ["--models --stage decode", "--models --profile", "--stages --model tp_r_a4"])
def test_options_of_the_other_kind_are_refused(line):
    with pytest.raises(UserError, match=r"^--(stage|profile|model) cannot be used with --(models|stages)$"):
        benchmark.main(line.split())


def test_a_section_is_put_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n")
    monkeypatch.setattr(report, "PAGE", page)
    report.write_section("x", "new")
    assert page.read_text() == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"


def test_made_up_predictions_are_the_same_every_time_and_hold_doubles():
    crops = sample_crops()
    one, two = (synthetic.predictions(crops.instances, crops.center, crops.scale) for _ in range(2))
    np.testing.assert_array_equal(one.keypoints, two.keypoints)
    pair = [{"keypoints": one.keypoints[i], "area": 1e4} for i in (4, 5)]
    assert plain.oks_of_pair(*pair) > 0.9


def test_the_models_table_at_the_smallest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(model_speed, "ways", lambda device: {"plain": Backend(), "other": Backend()})
    asked = argparse.Namespace(model=["tpr_a3_256x192"], smallest=True, write=False, json=tmp_path / "models.json")
    model_speed.main(asked)
    text = capsys.readouterr().out
    assert "| TransPose-R-A3 | 5,195,345 | 10.83 | 5.41 | 8.0 |" in text and "FPS, batch 1" in text
    assert "PyTorch thread(s)" in text and "| TransPose-R-A3 | other |" in text
    written = json.loads(asked.json.read_text())
    assert [found["way"] for found in written["models"]] == ["plain", "other"]
    assert all(speed > 0 for found in written["models"] for speed in found["per_second"].values())
    asked.write = True
    with pytest.raises(UserError, match="leave out --model and --smallest"):
        model_speed.main(asked)
    with pytest.raises(UserError, match="there is no released model 'tp_r'"):
        model_speed.main(argparse.Namespace(model=["tp_r"], smallest=True, write=False, json=None))


def test_the_first_backend_is_plain_pytorch():
    found = model_speed.ways(torch.device("cpu"))
    assert next(iter(found)) == "pytorch, float32"
    assert ("openvino, float32" in found) == model_speed.installed("openvino")


@pytest.mark.parametrize(
    ("name", "rise", "flat"), [("memory, MB", 0, True), ("memory, MB", 20, False), ("files", 6, False)]
)
def test_a_soak_separates_growth_from_fluctuation(name: str, rise: float, flat: bool):
    seconds = np.linspace(1, 600, 600)
    draw = np.random.default_rng(0)
    level, noise = (400, 20) if "memory" in name else (30, 5)
    values = level + rise * seconds / 600 * 1.25 + draw.normal(0, noise, 600)
    values[draw.random(600) < 0.1] = np.nan  # no loading process was there
    values[:100] *= 0.5  # before it has warmed up
    rows, holds = soak.judge(seconds, {name: values})
    assert holds == flat and rows[0][-1] == ("flat" if flat else "GROWS")
