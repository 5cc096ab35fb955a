"""The error report finds planted errors, and its APs equal those of pycocotools."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.goldens import ANNOTATIONS, sample_annotations
from helpers.planted_errors import KEYPOINT_ERRORS, Planted, plant
from pycocotools.coco import COCO as PlainCOCO
from pycocotools.cocoeval import COCOeval

from transpose.analysis import report, slices
from transpose.analysis.estimates import Ratios, resamples
from transpose.analysis.report import AP_NAMES, Analysis
from transpose.analysis.tables import markdown, tables
from transpose.dataset.coco import Annotations, read_annotations
from transpose.evaluation.calibration import Calibration
from transpose.evaluation.coco_eval import Truth
from transpose.evaluation.results import read_results
from transpose.pose import skeleton as skeletons
from transpose.pose.skeleton import COCO, Skeleton

DETECTION_ERRORS = ("misranked", "background", "not found")
MIXED = dict.fromkeys((*KEYPOINT_ERRORS, *DETECTION_ERRORS), 0.06)
HEAD = Skeleton(
    names=COCO.names[:5],
    pairs=((1, 2), (3, 4)),
    limbs=(),
    upper_body=(),
    lower_body=(),
    sigmas=(0.05,) * 5,
    joint_weights=(1,) * 5,
)
STEP_OF = {"misranked": "score", "background": "false positive", "not found": "false negative"}


def analysis_of(results: list[dict], folder: Path, annotations: Annotations, skeleton: Skeleton = COCO) -> Analysis:
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    return report.analyse(path, read_results(path, annotations, skeleton.num_joints), annotations, skeleton)


def measured(analysis: Analysis, number: int = 200) -> dict:
    return report.measure(analysis, report.draws_of(analysis, resamples(len(analysis.images), number)))


def recovered(planted: Planted, content: dict, rates: dict[str, float] | None = None) -> dict[str, bool]:
    """Whether the share of planted errors, or their rate, lies within the interval of each kind."""
    inside = {}
    for kind in (*KEYPOINT_ERRORS, *DETECTION_ERRORS):
        of_all = content["labelled"] if kind in KEYPOINT_ERRORS else content["instances"]
        estimate = content["shares" if kind in KEYPOINT_ERRORS else "detection_errors"][kind]
        number = planted.counts[kind] if rates is None else rates[kind] * planted.possible[kind]
        inside[kind] = estimate["low"] <= number / of_all <= estimate["high"]
    return inside


# Planted errors


@pytest.mark.parametrize("kind", MIXED)
def test_errors_of_one_kind_are_found_again_and_their_correction_gives_the_whole_ap(tmp_path, kind):
    annotations = sample_annotations()
    planted = plant(annotations, {kind: 0.15}, seed=2)
    assert planted.counts[kind] > 5
    content = measured(analysis_of(planted.results, tmp_path, annotations))
    counts = content["counts"] | content["counts"]["keypoints"]
    assert {name: counts[name] for name in MIXED if counts[name]} == {kind: planted.counts[kind]}
    ap, gains = content["metrics"]["AP"]["value"], {s["corrected"]: s["gain"]["value"] for s in content["steps"]}
    assert ap < 0.97
    own = STEP_OF.get(kind, kind)
    # Correcting a score leaves the second detection, which is then removed.
    gain = gains.pop(own) + (gains.pop("false positive") if kind == "misranked" else 0)
    assert gain == pytest.approx(1 - ap, abs=1e-9) and max(map(abs, gains.values())) < 1e-9


def test_errors_of_all_kinds_together_are_found_again(tmp_path):
    annotations = sample_annotations()
    planted = plant(annotations, MIXED, seed=1)
    content = measured(analysis_of(planted.results, tmp_path, annotations))
    assert all(recovered(planted, content).values())
    aps = [content["metrics"]["AP"]["value"], *(step["AP"]["value"] for step in content["steps"])]
    assert aps[0] < 0.6 and aps[-1] > 0.98 and (np.diff(aps) > -0.005).all()


def test_the_rates_of_planted_errors_lie_within_their_intervals_as_often_as_they_should(tmp_path):
    annotations = sample_annotations()
    inside = []
    for seed in range(8):
        planted = plant(annotations, MIXED, seed)
        analysis = analysis_of(planted.results, tmp_path, annotations)
        shares = {name: e for name, e in analysis.estimates.items() if isinstance(e, Ratios)}
        draws = report.draws_of(dataclasses.replace(analysis, estimates=shares), resamples(len(analysis.images), 200))
        none = {name: np.zeros((0, 6)) for name in analysis.estimates}
        content = report.measure(analysis, none | draws)
        inside += recovered(planted, content, MIXED).values()
    assert np.mean(inside) > 0.88


def test_another_skeleton_is_analysed_by_its_own_pairs_and_sigmas(tmp_path):
    content = json.loads(ANNOTATIONS.read_bytes())
    for annotation in content["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][:15]
        annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    content["categories"] = [{"id": 1, "name": "head", "keypoints": list(HEAD.names)}]
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(content))
    annotations = read_annotations(path, 5)
    planted = plant(annotations, {"inversion": 0.3, "miss": 0.1}, skeleton=HEAD)
    assert planted.counts["inversion"] > 5
    found = measured(analysis_of(planted.results, tmp_path, annotations, HEAD))
    assert all(recovered(planted, found).values())
    assert found["counts"]["keypoints"]["inversion"] == planted.counts["inversion"]
    assert [k["name"] for k in found["keypoints"]] == list(HEAD.names)
    assert found["keypoints"][0]["shares"]["inversion"]["value"] == 0  # the nose has no other side
    labels = [s["label"] for s in found["slices"] if s["group"] == "labelled keypoints"]
    assert set(labels) <= {"0", "1–2", "3", "4", "5"} and len(labels) > 2
    alone = dataclasses.replace(HEAD, pairs=())
    assert (
        measured(analysis_of(planted.results, tmp_path, annotations, alone), 0)["counts"]["keypoints"]["inversion"] == 0
    )


def test_perfect_results_cost_nothing_anywhere(tmp_path):
    annotations = sample_annotations()
    copies = [
        {key: a[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
        for a in annotations.as_dicts()
        if any(a["keypoints"])
    ]
    content = measured(analysis_of(copies, tmp_path, annotations), 20)
    one = pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert all(value == one for value in content["metrics"].values())
    assert all(step["AP"] == one and step["gain"]["value"] == 0 for step in content["steps"])
    for row in (*content["slices"], *content["keypoints"]):
        assert row["AP"] == one and row["AR"] == one and row["shares"]["good"] == one, row
    assert content["pixels"]["90 %"] == 0 and set(content["PCK"]["all"]) == {1.0}
    assert {value["value"] for value in content["detection_errors"].values()} == {0.0}
    assert len(list(tables(content))) == 7


def test_underconfident_scores_have_a_calibration_error_that_calibration_removes(tmp_path):
    """Every keypoint is at its place and scores .6; of every second instance one is moved away and scores .2."""
    annotations = sample_annotations()
    copies, moved, labelled = [], 0, 0
    for number, a in enumerate(a for a in annotations.as_dicts() if sum(v > 0 for v in a["keypoints"][2::3]) >= 8):
        points = np.array(a["keypoints"], float).reshape(-1, 3)
        seen = points[:, 2] > 0
        points[:, 2] = 0.6
        if number % 2:
            points[np.flatnonzero(seen)[0]] = (-5000, -5000, 0.2)
            moved += 1
        labelled += seen.sum()
        copies.append(
            {key: a[key] for key in ("image_id", "category_id")} | {"score": 0.9, "keypoints": points.ravel().tolist()}
        )
    analysis = analysis_of(copies, tmp_path, annotations)
    draws = report.draws_of(analysis, resamples(len(analysis.images), 0))
    plain = report.measure(analysis, draws)["reliability"]
    assert plain["keypoints"] == labelled and plain["similarity"] == 0.5
    assert plain["calibration_error"] == {
        "raw score": pytest.approx((0.4 * (labelled - moved) + 0.2 * moved) / labelled)
    }
    sure = Calibration(0.5, (0.2, 0.6), (0.0, 1.0), (0, 0, 0), (1, 2), 500, "", True, 11)
    assert report.measure(analysis, draws, sure)["reliability"]["calibration_error"]["confidence"] == 0


# pycocotools


def plain(content: dict, results: list[dict], images: list[int] | None = None) -> COCOeval:
    """Plain pycocotools, evaluated but not accumulated."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = PlainCOCO()
        truth.dataset = content
        truth.createIndex()
        found = truth.loadRes([dict(result) for result in results])
        evaluation = COCOeval(truth, found, "keypoints")
        if images is not None:
            evaluation.params.imgIds = images
        evaluation.evaluate()
    return evaluation


def numbers_of(evaluation: COCOeval) -> np.ndarray:
    """AP, AP .5, AP .75, AR, AR .5, AR .75 of all sizes."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][:, :, 0, 0, 0], evaluation.eval["recall"][:, 0, 0, 0]
    return np.array([f(v) for v in (precision.mean(1), recall) for f in (np.mean, lambda v: v[0], lambda v: v[5])])


@pytest.fixture(scope="module")
def erring(tmp_path_factory) -> tuple[dict, list[dict], Analysis]:
    """The sample's content, results with errors of all kinds and different scores, and their analysis."""
    annotations = sample_annotations()
    draw = np.random.default_rng(5)
    planted = plant(annotations, dict.fromkeys(MIXED, 0.12), seed=3).results
    results = [r | {"score": float(draw.random())} for r in planted]
    results += [
        r | {"score": float(draw.random()), "keypoints": (np.array(r["keypoints"]) + 3).tolist()} for r in planted[::3]
    ]
    content = json.loads(ANNOTATIONS.read_bytes())
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    return content, results, analysis_of(results, tmp_path_factory.mktemp("erring"), annotations)


def own(analysis: Analysis, section: str, row: str = "") -> np.ndarray:
    return analysis.estimates[f"AP of {section}", row](np.ones((1, len(analysis.images))))[0]


def test_ap_and_those_of_sizes_are_pycocotools(erring):
    content, results, analysis = erring
    evaluation = plain(content, results)
    np.testing.assert_allclose(own(analysis, "all"), numbers_of(evaluation), rtol=0, atol=1e-9)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    np.testing.assert_allclose(list(analysis.metrics.values()), evaluation.stats, rtol=0, atol=1e-9)
    for size, ap, ar in (("medium", 3, 8), ("large", 4, 9)):
        wanted = evaluation.stats[[ap, ar]]
        np.testing.assert_allclose(own(analysis, "size", size)[[0, 3]], wanted, rtol=0, atol=1e-9)
    assert 0.05 < evaluation.stats[0] < 0.8


@pytest.mark.parametrize("k", [0, 1, 9, 16])
def test_the_ap_of_a_keypoint_is_pycocotools_with_nothing_else_annotated(erring, k):
    content, results, analysis = erring
    annotations = []
    for annotation in content["annotations"]:
        keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
        keypoints[np.arange(17) != k, 2] = 0
        annotations.append(
            annotation | {"keypoints": keypoints.ravel().tolist(), "num_keypoints": int(keypoints[k, 2] > 0)}
        )
    wanted = numbers_of(plain(content | {"annotations": annotations}, results))
    np.testing.assert_allclose(own(analysis, "keypoint", COCO.names[k]), wanted, rtol=0, atol=1e-9)
    assert wanted[0] < 0.9


def test_the_ap_of_a_slice_is_pycocotools_own_matches_with_others_ignored(erring):
    content, results, analysis = erring
    truth = analysis.truth
    checked = 0
    for part in slices.slices(truth, analysis.found, analysis.annotations.sizes[truth.place]):
        if part.group == "size":
            continue
        counted = part.inside & ~truth.ignored
        evaluation = plain(content, results)
        ids = {int(i): bool(c) for i, c in zip(analysis.annotations.table["id"][truth.place], counted, strict=True)}
        images = set(truth.image[counted].tolist())
        for one in filter(None, evaluation.evalImgs):
            one["gtIgnore"] = np.array([not ids[i] for i in one["gtIds"]], int)
            others = np.array([[m and not ids[int(m)] for m in row] for row in one["dtMatches"]], bool)
            one["dtIgnore"] = others.reshape(one["dtMatches"].shape) | (one["image_id"] not in images)
        wanted = numbers_of(evaluation)
        np.testing.assert_allclose(own(analysis, part.group, part.label), wanted, rtol=0, atol=1e-9)
        checked += 1
    assert checked >= 10


# Parts


def test_slices_of_a_group_hold_everybody_once():
    truth = Truth.of(sample_annotations())
    groups = slices._groups(truth, sample_annotations().sizes[truth.place])
    for group, parts in groups.items():
        assert (np.sum(list(parts.values()), axis=0) == 1).all(), group


def test_crowding_counts_other_boxes_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [100, 0, 10, 10], [0, 0, 10, 10]], float)
    image = np.array([1, 1, 1, 2])
    none = np.zeros(4, bool)
    truth = Truth(image, np.arange(4), np.ones((4, 2, 3)), boxes, np.full(4, 50.0), none, none)
    assert slices.overlapping(truth).tolist() == [1, 1, 0, 0]
    crowd = dataclasses.replace(truth, crowd=np.array([False, True, False, False]))
    assert slices.overlapping(crowd).tolist() == [0, 1, 0, 0]


def test_errors_in_pixels_and_pck(tmp_path):
    annotations = sample_annotations()
    moved = plant(annotations, {}).results
    for result in moved:
        points = np.array(result["keypoints"]).reshape(-1, 3)
        points[:, 0] += 3
        points[:, 1] += 4
        result["keypoints"] = points.ravel().tolist()
    analysis = analysis_of(moved, tmp_path, annotations)
    content = measured(analysis, 0)
    assert content["pixels"] == pytest.approx({"mean": 5, "median": 5, "90 %": 5})
    sides = analysis.truth.boxes[:, 2:].max(1)[analysis.counted]
    labelled = analysis.truth.labelled[analysis.counted]
    wanted = (labelled * (5 / sides <= 0.02)[:, None]).sum() / labelled.sum()
    assert content["PCK"]["all"][4] == pytest.approx(wanted) and 0.1 < wanted < 0.9
    assert content["metrics"]["AP"]["low"] is None


# Two files


def test_the_difference_of_two_results_is_paired_and_names_the_images_that_moved(tmp_path):
    annotations = sample_annotations()
    better = plant(annotations, {"jitter": 0.2}, seed=1).results
    worst = better[0]["image_id"]
    worse = [
        r | {"keypoints": (np.array(r["keypoints"]) + 8).tolist()} if r["image_id"] == worst else r for r in better
    ]
    first, second = (analysis_of(results, tmp_path, annotations) for results in (better, worse))
    weights = resamples(len(first.images), 200)
    draws = report.draws_of(first, weights), report.draws_of(second, weights)
    change = report.compare(first, second, draws, 10)
    ap = change["metrics"]["AP"]
    whole = measured(first)["metrics"]["AP"]
    assert ap["value"] == pytest.approx(second.metrics["AP"] - first.metrics["AP"], abs=1e-9) and ap["value"] < 0
    assert ap["high"] <= 0.001 and ap["high"] - ap["low"] < whole["high"] - whole["low"]  # narrower than unpaired ones
    assert [moved["image_id"] for moved in change["moved"]] == [worst] and change["moved"][0]["OKS"] < 0
    same = report.compare(first, first, (draws[0], draws[0]), 10)
    assert same["metrics"]["AP"] == {"value": 0, "low": 0, "high": 0, "better": 0.5} and same["moved"] == []
    text = markdown(measured(first) | {"comparison": change})
    assert f"| {worst} | " in text and text.count("## ") == 9


def test_names_of_the_numbers_are_those_of_the_ten(tmp_path):
    analysis = analysis_of(plant(sample_annotations(), {}).results, tmp_path, sample_annotations())
    assert (
        set(AP_NAMES) | {"AP (M)", "AP (L)", "AR (M)", "AR (L)"}
        == set(analysis.metrics)
        == set(measured(analysis, 0)["metrics"])
    )
    assert skeletons.COCO is analysis.skeleton
