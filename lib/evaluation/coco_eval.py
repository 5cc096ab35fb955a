"""COCO's ten numbers: https://cocodataset.org/#keypoints-eval

N detections, G annotated persons, K keypoints, P pairs of a detection and an annotated person of the same image.
"""

import contextlib
import io
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..dataset.coco import Annotations

METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
MAX_DETECTIONS = 20  # detections of an image that count
ALMOST_ONE = 1 - 1e-10  # pycocotools treats it as a similarity of 1
PAIRS_AT_ONCE = 1 << 16  # limits the memory


def average_precision(
    detections: list[dict[str, Any]], ground_truth: Annotations, sigmas: Sequence[float]
) -> dict[str, float]:
    """COCO's ten numbers.

    Args:
        detections: COCO results, each a dict of image_id, category_id, keypoints (x, y, score of each) and score.
        ground_truth: From `coco.read_annotations`.
        sigmas: (K), OKS's.

    Returns:
        AP to AR (L) by the names in `METRICS`; all 0 without a detection, -1 where no person counts.
    """
    if not detections:
        return dict.fromkeys(METRICS, 0.0)
    head = {
        "info": {},
        "licenses": [],
        "images": [{"id": int(image_id)} for image_id in ground_truth.images.ids],
        "categories": [ground_truth.category],
    }
    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        # Renumbered from 1, because pycocotools treats a person with id 0 as not found.
        truth = [a | {"id": i} for i, a in enumerate(ground_truth.as_dicts(), 1)]
        joints = len(sigmas)
        numbers = chain.from_iterable(detection["keypoints"] for detection in detections)
        points = np.fromiter(numbers, float, 3 * joints * len(detections)).reshape(-1, joints, 3)[..., :2]
        areas = (points.max(1) - points.min(1)).prod(1).tolist()
        found = [
            {key: detection[key] for key in ("image_id", "category_id", "score")} | {"id": i, "area": area}
            for i, (detection, area) in enumerate(zip(detections, areas, strict=True), 1)
        ]
        evaluation = KeypointEval(_indexed(head, truth), _indexed(head, found), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.similarities = similarities(truth, found, points, np.asarray(sigmas))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def _indexed(head: dict[str, Any], items: list[dict[str, Any]]) -> COCO:
    data = COCO()
    data.dataset = head | {"annotations": items}
    data.createIndex()
    return data


def similarities(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], points: np.ndarray, sigmas: np.ndarray
) -> dict[int, np.ndarray]:
    """OKS of each image's `MAX_DETECTIONS` best detections, the best first, with its annotated persons in their order.

    `points` (N, K, 2) are the detections' keypoints. For an annotated person without labelled keypoints, who is
    ignored, distances are measured to the person's box extended by its own width and height on each side.
    """
    owner = np.array([annotation["image_id"] for annotation in truth])
    by_image = owner.argsort(kind="stable")
    owner, truth = owner[by_image], [truth[i] for i in by_image]
    annotated: np.ndarray = np.array([annotation["keypoints"] for annotation in truth], float).reshape(
        len(truth), -1, 3
    )
    labelled: np.ndarray = annotated[..., 2] > 0
    ignored = labelled.sum(1) == 0
    boxes: np.ndarray = np.array([a["bbox"] if i else (0, 0, 0, 0) for a, i in zip(truth, ignored, strict=True)], float)
    low, high = boxes[:, None, :2] - boxes[:, None, 2:], boxes[:, None, :2] + boxes[:, None, 2:] * 2
    variances = (sigmas * 2) ** 2
    areas: np.ndarray = np.array([annotation["area"] for annotation in truth]) + np.spacing(1)

    image = np.array([detection["image_id"] for detection in found])
    best_first = np.lexsort((-np.array([detection["score"] for detection in found]), image))
    image = image[best_first]
    counted = np.arange(len(image)) - image.searchsorted(image) < MAX_DETECTIONS
    best_first, image = best_first[counted], image[counted]
    persons = owner.searchsorted(image, side="right") - owner.searchsorted(image)
    detection = np.repeat(np.arange(len(image)), persons)
    person = np.arange(len(detection)) - np.repeat(persons.cumsum() - persons, persons)
    person += np.repeat(owner.searchsorted(image), persons)

    similarity = np.empty(len(detection))
    for start in range(0, len(detection), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        one, other = points[best_first[detection[part]]], person[part]
        offset = one - annotated[other, :, :2]
        alone = ignored[other]
        at, there = one[alone], other[alone]
        offset[alone] = np.maximum(0, low[there] - at) + np.maximum(0, at - high[there])
        error = (offset**2).sum(-1) / variances / areas[other, None] / 2
        counts = labelled[other] | alone[:, None]
        similarity[part] = np.where(counts, np.exp(-error), 0).sum(1) / counts.sum(1)

    images, first = np.unique(image, return_index=True)
    blocks = np.split(similarity, (persons.cumsum() - persons)[first][1:])
    return {
        int(i): block.reshape(-1, persons[f]) for i, block, f in zip(images, blocks, first, strict=True) if len(block)
    }


class KeypointEval(COCOeval):
    """pycocotools' evaluation with `similarities` computed beforehand, and without trying what cannot match."""

    similarities: dict[int, np.ndarray]

    def _prepare(self) -> None:
        """Also keeps only the detections of each image that count, the best first."""
        super()._prepare()
        for place, found in self._dts.items():
            best = np.argsort([-detection["score"] for detection in found], kind="mergesort")
            self._dts[place] = [found[i] for i in best[:MAX_DETECTIONS]]

    def computeOks(self, imgId: int, catId: int) -> np.ndarray | list:
        return self.similarities.get(imgId, [])

    def evaluateImg(self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int) -> dict[str, Any] | None:
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth and not found:
            return None
        areas = np.array([detection["area"] for detection in found])
        ignored = np.array([a["ignore"] or not aRng[0] <= a["area"] <= aRng[1] for a in truth], int)
        order = ignored.argsort(kind="mergesort")
        ignored = ignored[order]
        thresholds = self.params.iouThrs
        matches = np.zeros((len(thresholds), len(found)))
        matched_ignored = np.zeros((len(thresholds), len(found)), bool)
        if truth and found:
            similarity = self.ious[imgId, catId][:, order]
            rows, tops, last = similarity.tolist(), similarity.max(1).tolist(), ignored.tolist()
            crowd = [truth[i]["iscrowd"] for i in order]
            for number, threshold in enumerate(np.minimum(thresholds, ALMOST_ONE).tolist()):
                free = [True] * len(truth)
                for place, top in enumerate(tops):
                    if top < threshold:
                        continue
                    best = _best_match(rows[place], threshold, free, last)
                    if best is not None:
                        free[best] = crowd[best]
                        matches[number, place] = truth[order[best]]["id"]
                        matched_ignored[number, place] = last[best]
        outside = (areas < aRng[0]) | (areas > aRng[1])
        return {
            "dtScores": np.array([detection["score"] for detection in found]),
            "dtMatches": matches,
            "dtIgnore": matched_ignored | ((matches == 0) & outside),
            "gtIgnore": ignored,
        }


def _best_match(similarity: list[float], threshold: float, free: list[bool], ignored: list[int]) -> int | None:
    """The unmatched person (of G) most similar to a detection, the last of equals; an ignored one (they come last) only
    if no other reaches the threshold."""
    best = None
    for place, value in enumerate(similarity):
        if best is not None and ignored[place] and not ignored[best]:
            break
        if free[place] and value >= threshold:
            threshold, best = value, place
    return best
