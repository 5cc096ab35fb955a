"""From predictions to COCO's numbers: the original's, and what rescoring and OKS-NMS do."""

import copy
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.goldens import (
    ANNOTATIONS,
    HEATMAP,
    golden,
    sample_annotations,
    sample_crops,
    sample_detections,
    sample_instances,
)
from pycocotools.coco import COCO as PlainCOCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader

from benchmarks import synthetic
from transpose.core.predict import Predictions, TestOptions, predict
from transpose.dataset.coco import Annotations, annotated_instances, read_annotations
from transpose.dataset.samplers import EvalSampler
from transpose.evaluation import coco_eval, nms
from transpose.evaluation.coco_eval import METRICS, average_precision
from transpose.evaluation.evaluate import markdown_table, results
from transpose.evaluation.nms import rescore
from transpose.pose import geometry, heatmap
from transpose.pose.skeleton import COCO

SIGMAS = np.array(COCO.sigmas)


# The original's numbers


@pytest.mark.parametrize("name, people", [("evaluate_gt", sample_instances), ("evaluate_det", sample_detections)])
def test_persons_scores_and_metrics_are_the_originals(name, people):
    wanted, persons = golden(name), people()
    predicted = Predictions(
        index=np.arange(len(persons)),
        keypoints=wanted["predictions"][..., :2],
        scores=wanted["predictions"][..., 2],
        center=wanted["center"],
        scale=wanted["scale"],
    )
    np.testing.assert_allclose(geometry.crop_areas(predicted.scale), wanted["area"], rtol=1e-6)
    found = results(
        persons,
        predicted,
        category_id=1,
        sigmas=COCO.sigmas,
        score_threshold=float(wanted["in_visibility_threshold"]),
        oks_threshold=float(wanted["oks_threshold"]),
        soft_nms=bool(wanted["soft"]),
    )
    assert len(found) == wanted["kept"]
    ours = sorted((person["image_id"], person["score"]) for person in found)
    theirs = sorted(zip(wanted["kept_image"].tolist(), wanted["kept_score"].tolist(), strict=True))
    np.testing.assert_array_equal([image for image, _ in ours], [image for image, _ in theirs])
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in theirs], rtol=0, atol=1e-6)
    metrics = average_precision(found, sample_annotations(), COCO.sigmas)
    assert [key.lower() for key in metrics] == [key.lower() for key in wanted["metric_names"]]
    np.testing.assert_allclose(list(metrics.values()), wanted["metrics"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("flip_test", [False, True], ids=["plain", "flip test"])
def test_perfect_heatmaps_bring_every_person_back_into_the_image(flip_test):
    """From the image to the AP, with a model that gives the annotated keypoints."""
    crops = sample_crops()
    plan = EvalSampler(crops.instances.image, 32)
    flip_order = torch.from_numpy(COCO.flip_order)
    answers = []
    for batch in DataLoader(crops, batch_sampler=plan):
        maps, _ = heatmap.encode(batch["keypoints"], batch["visible"], HEATMAP, 2.0)
        answers += [maps, heatmap.flip(maps, flip_order)] if flip_test else [maps]
    answer = iter(answers)
    predicted = predict(
        lambda images: next(answer),
        DataLoader(crops, batch_sampler=plan),
        TestOptions(flip_test),
        flip_order,
    )
    people = crops.instances
    pixels_off = np.linalg.norm(predicted.keypoints - people.keypoints, axis=-1) / (crops.scale[:, :1] * 200 / 48)
    in_map = (people.visible > 0) & (predicted.scores > 0.93)
    assert in_map.sum() > 0.95 * people.visible.sum()
    assert np.median(pixels_off[in_map]) < 1e-3 and pixels_off[in_map].max() < 0.8  # at the border to the pixel
    options = {"category_id": 1, "sigmas": COCO.sigmas, "score_threshold": 0.2, "oks_threshold": 0.9}
    assert average_precision(results(people, predicted, **options), sample_annotations(), COCO.sigmas)["AP"] > 0.98


def test_parts_of_several_processes_are_put_back_in_order():
    def part(*index: int) -> Predictions:
        number = np.array(index, float)
        return Predictions(number.astype(int), *(number[:, None] + np.zeros(2) for _ in range(4)))

    merged = Predictions.merge([part(4, 5, 1), part(), part(0, 3, 2)])
    assert merged.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert merged.keypoints[:, 0].tolist() == merged.scale[:, 1].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_process_without_batches_predicts_no_persons():
    nobody = predict(lambda images: images, [], TestOptions(), torch.arange(17))
    assert len(nobody.index) == len(nobody.keypoints) == 0


# Average precision


def truth_as_detections(**changes) -> list[dict]:
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": [float(v) for v in a["keypoints"]], "score": 0.9}
        | changes
        for a in sample_annotations().as_dicts()
        if any(a["keypoints"])
    ]


def changed_annotations(folder: Path, change: Callable[[list[dict]], list[dict]]) -> Annotations:
    """The sample's, read from a file with other ones."""
    content = json.loads(ANNOTATIONS.read_bytes())
    path = folder / "changed.json"
    path.write_text(json.dumps(content | {"annotations": change(content["annotations"])}))
    return read_annotations(path)


def test_annotations_as_predictions_are_perfect():
    assert average_precision(truth_as_detections(), sample_annotations(), COCO.sigmas) == dict.fromkeys(METRICS, 1.0)


@pytest.mark.parametrize("at_once", [coco_eval.PAIRS_AT_ONCE, 50])
def test_similarities_are_pycocotools_own(monkeypatch, at_once):
    """Crowds and persons without keypoints included, whose box counts, and images of more detections than count."""
    monkeypatch.setattr(coco_eval, "PAIRS_AT_ONCE", at_once)
    truth = sample_annotations()
    draw = np.random.default_rng(3)
    found = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
        for a in truth.as_dicts()
        for points, score in zip(
            draw.normal(np.array(a["keypoints"]).reshape(-1, 3), 8.0, (3, 17, 3)),
            draw.random(3).round(1).tolist(),  # so that some are equal
            strict=True,
        )
    ]
    plain = COCOeval(iouType="keypoints")
    plain.cocoGt, plain.cocoDt = PlainCOCO(), PlainCOCO()
    for data, content in ((plain.cocoGt, truth.as_dicts()), (plain.cocoDt, found)):
        images = [{"id": int(image_id)} for image_id in truth.images.ids]
        content = [a | {"id": number, "area": a.get("area", 0)} for number, a in enumerate(content, 1)]
        data.dataset = {"images": images, "categories": [{"id": 1}], "annotations": content}
        data.createIndex()
    plain.params.imgIds, plain.params.catIds = truth.images.ids.tolist(), [1]
    plain._prepare()

    columns = (np.array([detection[key] for detection in found]) for key in ("image_id", "score", "keypoints"))
    image, scores, points = columns
    detections, persons = (
        coco_eval.Found.of(image, scores, points.reshape(-1, 17, 3)[..., :2]),
        coco_eval.Truth.of(truth),
    )
    pairs = coco_eval.Pairs.of(detections, persons)
    ours = coco_eval.similarities(detections, persons, pairs, SIGMAS)
    seen = []
    for image_id in truth.images.ids.tolist():
        theirs = np.asarray(plain.computeOks(image_id, 1)).reshape(-1)
        of_image = ours[detections.image[pairs.detection] == image_id]
        np.testing.assert_allclose(of_image, theirs, rtol=0, atol=1e-15)
        seen.append(len(of_image))
    assert sum(seen) == len(ours) > 500 and any(not any(a["keypoints"]) for a in truth.as_dicts())
    assert max(seen) > coco_eval.MAX_DETECTIONS


def test_numbers_are_plain_pycocotools_own(tmp_path):
    """Thousands of good, medium and bad predictions, in images of every kind."""
    path = tmp_path / "truth.json"
    synthetic.annotations(path, images=200, persons=600, empty_images=40, unlabelled=150)
    content = json.loads(path.read_bytes())
    for number, annotation in enumerate(content["annotations"]):
        annotation["iscrowd"] = int(number % 19 == 0)
    path.write_text(json.dumps(content))
    truth = read_annotations(path)
    people = annotated_instances(truth)
    center, scale = geometry.boxes_to_crops(people.boxes, 0.75)
    options = {"category_id": 1, "sigmas": COCO.sigmas, "score_threshold": 0.2, "oks_threshold": 0.9}
    found = [
        person
        for seed in range(5)
        for person in results(people, synthetic.predictions(people, center, scale, seed=seed), **options)
    ]
    # One more image with more persons than count, and two of the same score.
    found += [found[0] | {"score": 0.01 * (i // 2)} for i in range(30)]

    plain = PlainCOCO()
    plain.dataset = content
    plain.createIndex()
    evaluation = COCOeval(plain, plain.loadRes(copy.deepcopy(found)), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = list(average_precision(found, truth, COCO.sigmas).values())
    np.testing.assert_allclose(ours, evaluation.stats, rtol=0, atol=1e-12)
    assert 0.1 < ours[0] < 0.9


def test_a_person_whose_id_is_zero_can_be_found(tmp_path):
    def first_alone(annotations: list[dict]) -> list[dict]:
        return [a | {"id": 0} for a in annotations if any(a["keypoints"])][:1]

    truth = changed_annotations(tmp_path, first_alone)
    found = [d for d in truth_as_detections() if d["keypoints"] == truth.as_dicts()[0]["keypoints"]]
    assert len(found) == len(truth.as_dicts()) == 1
    assert average_precision(found, truth, COCO.sigmas)["AP"] == pytest.approx(1)


def test_without_detections_all_numbers_are_zero():
    assert average_precision([], sample_annotations(), COCO.sigmas) == dict.fromkeys(METRICS, 0.0)


def test_looser_sigmas_judge_more_kindly():
    shifted = truth_as_detections()
    for person in shifted:
        person["keypoints"] = [v + 6.0 if i % 3 < 2 else v for i, v in enumerate(person["keypoints"])]
    strict, loose = (average_precision(shifted, sample_annotations(), SIGMAS * factor)["AP"] for factor in (1, 3))
    assert strict < loose


def test_evaluation_leaves_the_detections_as_they_were_and_can_be_repeated():
    found, truth = truth_as_detections(), sample_annotations()
    before = copy.deepcopy(found)
    first = average_precision(found, truth, COCO.sigmas)
    assert average_precision(found, truth, COCO.sigmas) == first
    assert found == before


@pytest.mark.parametrize("field", ["iscrowd", "num_keypoints"])
def test_annotations_need_only_what_training_needs(tmp_path, field):
    """Other people's data sets leave out what can be counted."""

    def no_crowd(annotations: list[dict]) -> list[dict]:
        return [a for a in annotations if not a["iscrowd"]]

    def without_field(annotations: list[dict]) -> list[dict]:
        return [{key: a[key] for key in a if key != field} for a in no_crowd(annotations)]

    complete, less = (changed_annotations(tmp_path, change) for change in (no_crowd, without_field))
    both = [average_precision(truth_as_detections(), truth, COCO.sigmas) for truth in (complete, less)]
    assert both[0] == both[1]


def test_the_table_has_hrnets_columns_and_three_decimals():
    lines = markdown_table("tp", dict.fromkeys(METRICS, 0.12345)).splitlines()
    assert lines[0] == "| Arch | AP | AP .5 | AP .75 | AP (M) | AP (L) | AR | AR .5 | AR .75 | AR (M) | AR (L) |"
    assert lines[2] == "| tp |" + " 0.123 |" * 10


# Rescoring


@pytest.mark.parametrize(
    "scores, wanted",
    [([0.9, 0.5, 0.1], 0.8 * 0.7), ([0.9, 0.2, 0.2], 0.8 * 0.9), ([0.2, 0.1, -1.0], 0.0)],
    ids=["mean of those above", "the threshold itself does not count", "none above"],
)
def test_person_score_is_box_score_times_mean_joint_score_above_the_threshold(scores, wanted):
    assert rescore(np.array([0.8]), np.array([scores]), 0.2) == pytest.approx([wanted])


# OKS-NMS


def crowd(persons: int, seed: int = 0, spread: float = 12.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints, scores and areas of persons, many of which overlap."""
    draw = np.random.default_rng(seed)
    places = draw.uniform(0, 400, (max(persons // 4, 1), 17, 2))
    keypoints = places[draw.integers(len(places), size=persons)] + draw.normal(0, spread, (persons, 17, 2))
    return keypoints.astype(np.float32), draw.uniform(0, 1, persons), draw.uniform(5e3, 5e4, persons)


hard, soft = nms.suppress, partial(nms.suppress, soft=True)


def kept(suppress, keypoints, scores, areas, threshold) -> list[int]:
    """Which persons of an image are kept."""
    return suppress(np.zeros(len(scores), int), keypoints, scores, areas, threshold, SIGMAS).tolist()


def similarity(one: int, other: int, keypoints: np.ndarray, areas: np.ndarray) -> float:
    """OKS of two persons, joint by joint."""
    total = 0.0
    for joint, sigma in enumerate(COCO.sigmas):
        dx, dy = (float(a) - float(b) for a, b in zip(keypoints[one, joint], keypoints[other, joint], strict=True))
        total += math.exp(-(dx**2 + dy**2) / ((2 * sigma) ** 2 * 2 * (areas[one] + areas[other]) / 2))
    return total / 17


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_nms_keeps_what_a_plain_double_loop_keeps(seed, threshold):
    keypoints, scores, areas = crowd(40, seed, spread=4.0)
    wanted: list[int] = []
    for person in sorted(range(40), key=lambda i: -scores[i]):
        if all(similarity(person, better, keypoints, areas) <= threshold for better in wanted):
            wanted.append(person)
    assert kept(hard, keypoints, scores, areas, threshold) == wanted
    assert 1 < len(wanted) < 40


@pytest.mark.parametrize("threshold", [0.2, 0.9])
@pytest.mark.parametrize("seed", range(2))
def test_soft_nms_orders_as_a_plain_loop_does(seed, threshold):
    keypoints, scores, areas = crowd(30, seed, spread=4.0)
    current, wanted = dict(enumerate(scores)), []
    while current and len(wanted) < nms.MAX_AFTER_SOFT:
        best = max(current, key=current.__getitem__)
        wanted.append(best)
        del current[best]
        for other in current:
            current[other] *= math.exp(-(similarity(best, other, keypoints, areas) ** 2) / threshold)
    assert kept(soft, keypoints, scores, areas, threshold) == wanted
    assert len(wanted) == nms.MAX_AFTER_SOFT == 20
    assert wanted != sorted(range(30), key=lambda i: -scores[i])[:20]


def test_soft_nms_moves_a_double_back_without_dropping_it():
    keypoints, _, areas = crowd(3, spread=0.0)
    keypoints[2] += 200
    scores = np.array([0.9, 0.8, 0.7])
    assert kept(soft, keypoints, scores, areas, 0.9) == [0, 2, 1]
    assert kept(hard, keypoints, scores, areas, 0.9) == [0, 2]


@pytest.mark.parametrize("soft, kept", [(False, 2), (True, 3)])
def test_results_keep_the_scores_whichever_nms(soft, kept):
    """Two persons of one image, one of them twice; a third stands at the same place in another image."""
    people, chosen = sample_instances(), np.array([0, 1, 0])
    keypoints = np.stack([people.keypoints[0], people.keypoints[0] + 300, people.keypoints[0]])
    same_image = people.image[chosen]
    assert len(set(same_image)) == 1
    predicted = Predictions(chosen, keypoints, np.full((3, 17), 0.5), np.zeros((3, 2)), np.ones((3, 2)))
    options = {"category_id": 5, "sigmas": COCO.sigmas, "score_threshold": 0.0, "oks_threshold": 0.9, "soft_nms": soft}
    found = results(people, predicted, **options)
    assert [person["score"] for person in found] == [0.5] * kept
    assert {person["category_id"] for person in found} == {5}
    assert {person["image_id"] for person in found} == {int(people.images.ids[same_image[0]])}
    other_image = int(np.flatnonzero(people.image != people.image[0])[0])
    columns = (column[:2] for column in (predicted.scores, predicted.center, predicted.scale))
    elsewhere = Predictions(np.array([0, other_image]), keypoints[[0, 2]], *columns)
    assert len(results(people, elsewhere, **options)) == 2


@pytest.mark.parametrize("suppress", [hard, soft], ids=["hard", "soft"])
def test_nms_of_no_persons_gives_none(suppress):
    assert kept(suppress, np.zeros((0, 17, 2)), np.zeros(0), np.zeros(0), 0.5) == []


@pytest.mark.parametrize("suppress", [hard, soft], ids=["hard", "soft"])
def test_nms_looks_at_each_image_alone(suppress):
    """Images of one to sixty persons in mixed order."""
    draw = np.random.default_rng(1)
    counts = [1, 60, 3, 20, 2]
    image = draw.permutation(np.repeat([7, 3, 40, 5, 11], counts))
    keypoints, scores, areas = crowd(len(image), 2, spread=4.0)
    scores = scores.round(1)  # so that many are equal
    wanted = []
    for number in (3, 5, 7, 11, 40):
        own = np.flatnonzero(image == number)
        wanted += own[kept(suppress, keypoints[own], scores[own], areas[own], 0.5)].tolist()
    assert suppress(image, keypoints, scores, areas, 0.5, SIGMAS).tolist() == wanted
    assert len(wanted) < len(image)
