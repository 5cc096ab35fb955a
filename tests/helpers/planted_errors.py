"""Turn ground truth into results with known errors, for tests that find them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transpose.dataset.coco import Annotations
from transpose.pose.skeleton import COCO, Skeleton

FAR = -10_000.0  # pixels: near no instance
# Of a jitter, and of a keypoint that is not quite as good; no thresholds of OKS.
JITTERED, SLIGHTLY = 0.67, 0.92
GOOD = 0.4  # of an instance's keypoints that stay good at least, so that it is found
KEYPOINT_ERRORS = ("jitter", "inversion", "swap", "miss")


@dataclass
class Planted:
    """Results, how many errors of each kind they hold, and in how many places each could have been planted."""

    results: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    possible: Counter = field(default_factory=Counter)


@dataclass
class Scene:
    """One instance among the others of its image: keypoints (K, 3) and area of each, its own first."""

    keypoints: list[np.ndarray]
    areas: list[float]
    skeleton: Skeleton
    draw: np.random.Generator

    @property
    def own(self) -> np.ndarray:
        return self.keypoints[0]

    def similarity(self, place: np.ndarray, k: int, to: int, person: int = 0) -> float:
        """Of a place for keypoint k to keypoint `to` of an instance; -1 where that is not labelled."""
        x, y, visible = self.keypoints[person][to]
        squared = float(((place - (x, y)) ** 2).sum())
        return (
            float(np.exp(-squared / (2 * self.areas[person] * (2 * self.skeleton.sigmas[k]) ** 2))) if visible else -1.0
        )

    def partner(self, place: np.ndarray, k: int) -> float:
        mirrored = int(self.skeleton.flip_order[k])
        return self.similarity(place, k, mirrored) if mirrored != k else -1.0

    def others(self, place: np.ndarray, k: int) -> float:
        ends = {k, int(self.skeleton.flip_order[k])}
        return max((self.similarity(place, k, end, p) for p in range(1, len(self.areas)) for end in ends), default=-1.0)

    def beside(self, k: int, similarity: float) -> np.ndarray | None:
        """A place of that similarity to keypoint k and a lower one to anything else, if one is found."""
        away = 2 * self.skeleton.sigmas[k] * np.sqrt(-2 * np.log(similarity) * self.areas[0])
        for angle in self.draw.uniform(0, 2 * np.pi, 8):
            place = self.own[k, :2] + away * np.array([np.cos(angle), np.sin(angle)])
            if max(self.partner(place, k), self.others(place, k)) < similarity - 0.01:
                return place
        return None

    def wrong_places(self, k: int) -> dict[str, np.ndarray]:
        """Where each kind of error can put keypoint k."""
        places = {"miss": np.full(2, FAR)}
        jittered = self.beside(k, JITTERED)
        if jittered is not None:
            places["jitter"] = jittered
        mirrored = int(self.skeleton.flip_order[k])
        end = self.own[mirrored, :2]
        if self.partner(end, k) == 1 and self.others(end, k) < 1 and self.similarity(end, k, k) < 0.5:
            places["inversion"] = end
        for other in self.keypoints[1:]:
            end = other[k, :2]
            if other[k, 2] and max(self.similarity(end, k, k), self.partner(end, k)) < 0.5:
                places["swap"] = end
        return places


def plant(annotations: Annotations, rates: dict[str, float], seed: int = 0, skeleton: Skeleton = COCO) -> Planted:
    """Results that find every instance with labelled keypoints, but for errors at these rates.

    KEYPOINT_ERRORS: of the keypoints in which they are possible; misranked, background, "not found": of the instances.
    """
    draw, planted = np.random.default_rng(seed), Planted()
    everybody = annotations.as_dicts()
    people = [a for a in everybody if any(a["keypoints"]) and not a["iscrowd"]]
    # Where somebody is ignored, a second detection may be ignored too.
    ignoring = {a["image_id"] for a in everybody if a not in people}
    for own in people:
        image = [own, *(other for other in people if other is not own and other["image_id"] == own["image_id"])]
        keypoints = [np.array(a["keypoints"], float).reshape(-1, 3) for a in image]
        scene = Scene(keypoints, [a["area"] for a in image], skeleton, draw)
        errors, possible = Counter(), Counter()
        points = _keypoints_with_errors(scene, own["bbox"], rates, errors, possible)
        planted.possible.update(("background", "not found"))
        found = []
        if draw.random() < rates.get("not found", 0):
            planted.counts["not found"] += 1
        else:
            found.append((points, 0.9))
            planted.counts += errors
            planted.possible += possible
            worse = _slightly_worse(scene, points)
            if own["image_id"] not in ignoring and (worse != points).any():
                planted.possible["misranked"] += 1
                if draw.random() < rates.get("misranked", 0):
                    found.append((worse, 0.95))
                    planted.counts["misranked"] += 1
        if draw.random() < rates.get("background", 0):
            found.append((points + np.array([2 * FAR, 2 * FAR, 0]), 0.92))
            planted.counts["background"] += 1
        planted.results += [
            {
                "image_id": own["image_id"],
                "category_id": own["category_id"],
                "keypoints": p.ravel().tolist(),
                "score": s,
            }
            for p, s in found
        ]
    return planted


def _keypoints_with_errors(
    scene: Scene, box: list[float], rates: dict[str, float], counts: Counter, possible: Counter
) -> np.ndarray:
    labelled = np.flatnonzero(scene.own[:, 2] > 0).tolist()
    points, good = scene.own.copy(), len(labelled)
    points[points[:, 2] == 0, :2] = np.array(box[:2]) + np.array(box[2:]) / 2
    points[:, 2] = 0.8
    for k in labelled:
        places = scene.wrong_places(k)
        enough = good - 1 >= GOOD * len(labelled)
        kinds = [kind for kind in KEYPOINT_ERRORS if kind in places and (enough or kind == "jitter")]
        possible.update(kinds)
        drawn = scene.draw.random() - np.cumsum([rates.get(kind, 0) for kind in kinds])
        kind = next((kind for kind, left in zip(kinds, drawn, strict=True) if left < 0), None)
        if kind:
            points[k, :2] = places[kind]
            counts[kind] += 1
            good -= kind != "jitter"
    return points


def _slightly_worse(scene: Scene, points: np.ndarray) -> np.ndarray:
    """A copy whose good keypoints are slightly off."""
    worse = points.copy()
    for k in np.flatnonzero((points[:, :2] == scene.own[:, :2]).all(1) & (scene.own[:, 2] > 0)).tolist():
        place = scene.beside(k, SLIGHTLY)
        if place is not None:
            worse[k, :2] = place
    return worse
