"""The plain forms of the jobs find what ours find: the same keypoints, results and AP."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.goldens import ANNOTATIONS, SAMPLE, sample_annotations
from helpers.planted_errors import plant
from PIL import Image

from benchmarks import jobs, plain_jobs, report, scale, video, watch
from benchmarks.forward import DEMO, RECIPES
from transpose.analysis.report import analyse
from transpose.build.data import build_training_data
from transpose.build.model import build_model
from transpose.config.load import load_config
from transpose.core.predict import normalise
from transpose.evaluation.results import read_results
from transpose.pose import heatmap
from transpose.pose.skeleton import COCO
from transpose.predictor.video import Video

pytestmark = pytest.mark.slow
RECIPE = str(RECIPES["tp_r_a4"])
GREY_LEVEL = 1.01 / 255 / 0.224  # in normalised pixels, by which a few pixels of a warp may differ


def sorted_results(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids (N), scores (N) and keypoints with scores (N, 17, 3), in an order that both forms share."""
    found: list[dict[str, Any]] = json.loads(path.read_bytes())
    found.sort(key=lambda item: (item["image_id"], round(item["score"], 4), item["keypoints"][0]))
    keypoints = np.array([item["keypoints"] for item in found]).reshape(-1, 17, 3)
    return np.array([item["image_id"] for item in found]), np.array([item["score"] for item in found]), keypoints


def assert_same(ours: tuple[np.ndarray, ...], plain: tuple[np.ndarray, ...], peaked: bool = False) -> None:
    """All scores and, of maps that are `peaked`, all places. Maps of random weights have some places where DARK's
    Hessian is nearly singular, which makes the last bit of a map count."""
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[2][..., 2], plain[2][..., 2], rtol=1e-4, atol=1e-6)
    apart = np.abs(ours[2] - plain[2])[..., :2].max(-1)
    assert np.median(apart) < 1e-3 and (apart < 0.05).mean() >= (1 if peaked else 0.95)


def both_forms(root: Path, forward: str, flip: bool = False) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ours, in a process of its own, and plain."""
    watch.run(jobs.part("test", root, forward, "WORKERS", 0, "TEST.FLIP_TEST", flip))
    plain_jobs.test(str(root), RECIPE, "0", forward, "flip" if flip else "")
    (ours,) = (root / "output").rglob("keypoints_val2017_results_0.json")
    return [sorted_results(path) for path in (ours, root / "plain_results.json")]


def test_a_test_without_predicting_gives_the_same_results(tmp_path: Path):
    scale.make(tmp_path, 0.002)
    jobs.save_weights(tmp_path)
    ours, plain = both_forms(tmp_path, "")
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(ours[0]) < round(scale.VAL_BOXES * 0.002)  # OKS-NMS left some out


@pytest.mark.parametrize("forward, flip", [("0", False), ("network", False), ("network", True)])
def test_a_test_with_crops_finds_the_same_keypoints(tmp_path: Path, forward: str, flip: bool):
    """Without OKS-NMS removing any, as random weights find the same in two boxes: each box has an image of its own."""
    torch.manual_seed(0)
    jobs.make_boxes(tmp_path, 0.004)
    boxes = json.loads((tmp_path / "boxes.json").read_bytes())
    each = list({box["image_id"]: box for box in boxes}.values())
    (tmp_path / "boxes.json").write_text(json.dumps(each))
    ours, plain = both_forms(tmp_path, forward, flip)
    assert len(ours[0]) > 10
    assert_same(ours, plain, peaked=forward == "0")


def test_predicting_finds_the_same_keypoints(tmp_path: Path):
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(build_model(load_config(DEMO)).state_dict(), weights)
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in sorted(report.IMAGES.iterdir())[:4]:
        (folder / file.name).symlink_to(file)
    boxes = SAMPLE / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    how = ["--model", weights, "--cfg", DEMO, "--boxes", boxes, "--annotations", ANNOTATIONS, "--box-score", 0]
    watch.run(jobs.part("predict", 4, folder, *how, "--save", "coco", "--out", tmp_path / "ours"))
    plain_jobs.predict("4", str(folder), str(DEMO), str(weights), str(tmp_path / "plain"), str(boxes), str(ANNOTATIONS))
    ours, plain = sorted_results(tmp_path / "ours/keypoints.json"), sorted_results(tmp_path / "plain/keypoints.json")
    assert_same(ours, plain)

    plain_jobs.predict("4", str(folder), str(DEMO), str(weights), str(tmp_path / "drawn"))
    for file in folder.iterdir():
        assert Image.open(tmp_path / "drawn" / file.name).size == Image.open(file).size

    film = tmp_path / "film.mp4"
    video.make(film, sorted(folder.iterdir()), 12)
    plain_jobs.predict("12", str(film), str(DEMO), str(weights), str(tmp_path / "film"))
    assert len(list(Video(tmp_path / "film/film.mp4").frames())) == 12


def test_analysing_gives_the_same_aps_with_the_same_resamples(tmp_path: Path):
    annotations = sample_annotations()
    results = tmp_path / "results.json"
    rates = {"jitter": 0.1, "swap": 0.1, "not found": 0.1, "misranked": 0.1}
    draw = np.random.default_rng(1)  # no two scores are equal, or the order of the images would count
    results.write_text(json.dumps([found | {"score": draw.random()} for found in plant(annotations, rates).results]))
    plain_jobs.analyse(str(ANNOTATIONS), str(results), "5")
    rows = json.loads((tmp_path / "plain_analysis.json").read_bytes())
    analysis = analyse(results, read_results(results, annotations, COCO.num_joints), annotations, COCO)
    count = len(analysis.images)
    places = np.random.default_rng(0).integers(0, count, (5, count))
    weights = np.stack([np.ones(count), *(np.bincount(drawn, minlength=count) for drawn in places)])
    for section, name, row in [("all", "", "null"), *(("keypoint", COCO.names[k], str(k)) for k in range(17))]:
        ours = analysis.estimates[f"AP of {section}", name](weights)[:, 0]
        np.testing.assert_allclose(ours, rows[row], rtol=0, atol=1e-9)
    assert 0.5 < rows["null"][0] < 0.95


def test_a_training_set_gives_the_same_samples():
    """Of the demo, whose recipe does not augment; the stages compare augmented samples."""
    cfg = load_config(DEMO)
    ours = build_training_data(cfg)[0].dataset
    theirs = plain_jobs.training_set(SAMPLE, "val2017", cfg, augmented=False)
    assert len(ours) == len(theirs) == 105
    for i in range(0, 105, 10):
        sample, (_, pixels, maps, weight) = ours[0, i], theirs[i]
        apart = (normalise(torch.as_tensor(sample["image"])[None], torch.device("cpu"))[0] - pixels).abs()
        assert apart.max() < GREY_LEVEL and (apart > 1e-4).float().mean() < 1e-3
        keypoints, visible = (torch.as_tensor(sample[name])[None] for name in ("keypoints", "visible"))
        own_maps, own_weight = heatmap.encode(keypoints, visible, tuple(cfg.MODEL.HEATMAP_SIZE), cfg.MODEL.SIGMA)
        np.testing.assert_allclose(own_maps[0], maps, atol=1e-5)
        np.testing.assert_array_equal(own_weight[0], weight[:, 0])


def test_plain_training_steps_lower_the_loss(capsys: pytest.CaptureFixture):
    torch.manual_seed(0)
    figures = plain_jobs.train(str(DEMO), str(SAMPLE), "val2017", "0", "4", "12")
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 13 and np.mean(losses[-3:]) < np.mean(losses[:3])
    assert figures["crops/s"] == pytest.approx(4 * figures["steps/s"])
