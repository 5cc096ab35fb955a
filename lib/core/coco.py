"""COCO's ten numbers by pycocotools: https://cocodataset.org/#keypoints-eval

D detections and G annotated persons of an image, K keypoints.
"""

import contextlib
import io
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transpose import collector
from transpose.dataset.people import Annotations

METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
ALMOST_ONE = 1 - 1e-10  # what pycocotools lets pass for a similarity of 1


class KeypointEval(COCOeval):
    """pycocotools' evaluation, bit for bit, with an image's similarities computed at once and hopeless ones skipped."""

    def _prepare(self) -> None:
        """Also leaves of each image's detections those that count, the best first."""
        super()._prepare()
        most = self.params.maxDets[-1]
        for place, found in self._dts.items():
            best = np.argsort([-detection["score"] for detection in found], kind="mergesort")
            self._dts[place] = [found[i] for i in best[:most]]

    def computeOks(self, imgId: int, catId: int) -> np.ndarray | list:
        params = self.params
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth or not found:
            return []
        points = np.stack([detection["points"] for detection in found])
        variances = (params.kpt_oks_sigmas * 2) ** 2
        similarity = np.zeros((len(found), len(truth)))
        for column, annotation in enumerate(truth):
            annotated = np.array(annotation["keypoints"]).reshape(-1, 3)
            labelled = annotated[:, 2] > 0
            if labelled.any():
                offset = points - annotated[:, :2]
            else:
                # An ignored person: the distance from its box, made twice as far on each side.
                corner, size = np.array(annotation["bbox"]).reshape(2, 2)
                outside = np.maximum(0, corner - size - points) + np.maximum(0, points - (corner + size * 2))
                offset, labelled = outside, np.ones_like(labelled)
            x, y = offset[..., 0], offset[..., 1]
            error = (x**2 + y**2) / variances / (annotation["area"] + np.spacing(1)) / 2
            # Contiguous, because numpy adds in another order otherwise.
            error = np.ascontiguousarray(error[:, labelled])
            similarity[:, column] = np.exp(-error).sum(1) / labelled.sum()
        return similarity

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
    """The free person (of G) that a detection resembles most, the last of equals; an ignored one, which stand at the
    end, only if no other reaches the threshold."""
    best = None
    for place, value in enumerate(similarity):
        if best is not None and ignored[place] and not ignored[best]:
            break
        if free[place] and value >= threshold:
            threshold, best = value, place
    return best


def average_precision(
    detections: list[dict[str, Any]], ground_truth: Annotations, sigmas: Sequence[float]
) -> dict[str, float]:
    """The ten numbers named in `METRICS` for COCO results; without any detection all are 0."""
    if not detections:
        return dict.fromkeys(METRICS, 0.0)
    head = {
        "info": {},
        "licenses": [],
        "images": [{"id": int(image_id)} for image_id in ground_truth.images.ids],
        "categories": [ground_truth.category],
    }
    # Numbered anew, because pycocotools takes a person whose id is 0 for one that was not found.
    annotated = [
        _complete(annotation, len(sigmas)) | {"id": i} for i, annotation in enumerate(ground_truth.annotations, 1)
    ]
    numbers = chain.from_iterable(detection["keypoints"] for detection in detections)
    points = np.fromiter(numbers, float, 3 * len(sigmas) * len(detections)).reshape(len(detections), -1, 3)[..., :2]
    areas = (points.max(1) - points.min(1)).prod(1).tolist()
    found = [
        {key: detection[key] for key in ("image_id", "category_id", "score")} | {"id": i, "points": own, "area": area}
        for i, (detection, own, area) in enumerate(zip(detections, points, areas, strict=True), 1)
    ]
    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()), collector.paused():
        evaluation = KeypointEval(_indexed(head, annotated), _indexed(head, found), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def _indexed(head: dict[str, Any], items: list[dict[str, Any]]) -> COCO:
    data = COCO()
    data.dataset = head | {"annotations": items}
    data.createIndex()
    return data


def _complete(annotation: dict[str, Any], num_joints: int) -> dict[str, Any]:
    """The annotation with what pycocotools reads and other tools leave out."""
    keypoints = annotation.get("keypoints") or [0] * (3 * num_joints)
    labelled = sum(v > 0 for v in keypoints[2::3])
    return {"iscrowd": 0, "num_keypoints": labelled} | annotation | {"keypoints": keypoints}
