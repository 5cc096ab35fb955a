"""Weighted AP and shares, and their intervals over images."""

import json

import numpy as np
import pytest
from helpers.goldens import ANNOTATIONS, sample_annotations
from helpers.planted_errors import plant

from transpose.analysis.estimates import Ranking, Ratios, drawn, interval, resamples
from transpose.dataset.coco import Annotations, read_annotations
from transpose.evaluation.coco_eval import Found, Pairs, Truth, average_precision, match, similarities
from transpose.pose.skeleton import COCO

SIGMAS = np.array(COCO.sigmas)
ERRORS = {"jitter": 0.3, "swap": 0.1, "miss": 0.1, "background": 0.3, "misranked": 0.2, "not found": 0.1}


def results_of(annotations: Annotations) -> list[dict]:
    draw = np.random.default_rng(0)
    return [result | {"score": float(draw.random())} for result in plant(annotations, ERRORS).results]


def ranking_of(results: list[dict], annotations: Annotations) -> Ranking:
    image, score, points = (np.array([r[key] for r in results]) for key in ("image_id", "score", "keypoints"))
    found, truth = Found.of(image, score, points.reshape(len(points), -1, 3)[..., :2]), Truth.of(annotations)
    pairs = Pairs.of(found, truth)
    matches = match(found, truth, pairs, similarities(found, truth, pairs, SIGMAS))
    return Ranking.of(found, truth, matches, np.unique(annotations.images.ids))


def test_a_weighted_image_counts_like_a_repeated_one(tmp_path):
    annotations = sample_annotations()
    results, content = results_of(annotations), json.loads(ANNOTATIONS.read_bytes())
    weights = np.random.default_rng(1).integers(0, 4, len(annotations.images.ids)).astype(float)
    times = dict(zip(sorted(annotations.images.ids.tolist()), weights.astype(int).tolist(), strict=True))

    def repeated(items: list[dict], key: str) -> list[dict]:
        return [item | {key: item[key] + 10**7 * n} for item in items for n in range(times[item[key]])]

    more = [a | {"id": i} for i, a in enumerate(repeated(content["annotations"], "image_id"), 1)]
    path = tmp_path / "repeated.json"
    path.write_text(json.dumps(content | {"images": repeated(content["images"], "id"), "annotations": more}))
    wanted = average_precision(repeated(results, "image_id"), read_annotations(path), COCO.sigmas)
    found = ranking_of(results, annotations)(np.stack([weights, np.ones(len(weights))]))
    names = ("AP", "AP .5", "AP .75", "AR", "AR .5", "AR .75")
    np.testing.assert_allclose(found[0], [wanted[name] for name in names], rtol=0, atol=1e-9)
    plain = average_precision(results, annotations, COCO.sigmas)
    np.testing.assert_allclose(found[1], [plain[name] for name in names], rtol=0, atol=1e-9)
    assert 0.1 < plain["AP"] < 0.9 and abs(wanted["AP"] - plain["AP"]) > 0.01


def test_resamples_draw_as_many_images_as_there_are_and_are_the_same_each_time():
    weights = resamples(50, 20)
    assert weights.shape == (20, 50) and (weights.sum(1) == 50).all() and 0 in weights and weights.max() > 2
    assert (weights == resamples(50, 20)).all() and (weights != resamples(50, 20, seed=1)).any()


def test_an_interval_of_a_share_is_as_wide_as_the_binomial_one():
    hits = np.random.default_rng(0).random(1000) < 0.3
    share = Ratios(hits[:, None].astype(float), np.ones((1000, 1)))
    low, high = interval(drawn(share, resamples(1000, 2000)))
    wanted = 2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert low[0] < hits.mean() < high[0] and high[0] - low[0] == pytest.approx(wanted, rel=0.1)


def test_unannotated_columns_have_no_number():
    annotations = sample_annotations()
    ranking = ranking_of(results_of(annotations), annotations)
    empty = np.zeros((2, len(annotations.images.ids)))
    assert np.isnan(ranking(empty)).all()
    low, high = interval(ranking(empty))
    assert np.isnan(low).all() and np.isnan(high).all()
    assert drawn(ranking, empty[:0]).shape == (0, 6) and np.isnan(interval(np.zeros((0, 6)))[0]).all()
