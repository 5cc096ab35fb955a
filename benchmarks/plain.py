"""Each stage in the plainest way that the protocol can be written: the baseline of the benchmarks.

Loops over joints, persons and pairs, one file at a time, one library call for each thing. It is what a first
implementation of the papers does and serves to compare, in speed and in every number; `lib` never imports it.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import json_tricks
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def oks_of_pair(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Similarity of two persons."""
    variances = (SIGMAS * 2) ** 2
    dx = other["keypoints"][:, 0] - one["keypoints"][:, 0]
    dy = other["keypoints"][:, 1] - one["keypoints"][:, 1]
    error = (dx**2 + dy**2) / variances / ((one["area"] + other["area"]) / 2 + np.spacing(1)) / 2
    return np.sum(np.exp(-error)) / error.shape[0] if error.shape[0] != 0 else 0.0


def oks_nms(persons: list[dict[str, Any]], threshold: float) -> list[int]:
    """Persons of one image that stay."""
    order = np.array([person["score"] for person in persons]).argsort(kind="stable")[::-1]
    kept = []
    while order.size > 0:
        best = order[0]
        kept.append(best)
        overlap = np.array([oks_of_pair(persons[best], persons[other]) for other in order[1:]])
        order = order[1:][overlap <= threshold]
    return kept


def soft_oks_nms(persons: list[dict[str, Any]], threshold: float, most: int = 20) -> list[int]:
    """The same, but similar ones only move back."""
    scores = np.array([person["score"] for person in persons])
    order = scores.argsort(kind="stable")[::-1]
    scores = scores[order]
    kept: list[int] = []
    while order.size > 0 and len(kept) < most:
        best = order[0]
        kept.append(best)
        overlap = np.array([oks_of_pair(persons[best], persons[other]) for other in order[1:]])
        order, scores = order[1:], scores[1:] * np.exp(-(overlap**2) / threshold)
        again = scores.argsort(kind="stable")[::-1]
        order, scores = order[again], scores[again]
    return kept


def evaluate(
    predictions: np.ndarray,
    centers: np.ndarray,
    scales: np.ndarray,
    box_scores: np.ndarray,
    image_ids: np.ndarray,
    truth: Path,
    results_file: Path,
    *,
    score_threshold: float,
    oks_threshold: float,
    soft: bool = False,
) -> list[float]:
    """From predictions (N, 17, 3) to the results file and COCO's ten numbers."""
    persons = defaultdict(list)
    for i in range(len(predictions)):
        persons[int(image_ids[i])].append(
            {
                "keypoints": predictions[i],
                "center": centers[i],
                "scale": scales[i],
                "area": np.prod(scales[i] * 200),
                "score": box_scores[i],
                "image": int(image_ids[i]),
            }
        )
    kept = []
    for image in persons:
        for person in persons[image]:
            total, count = 0.0, 0
            for joint in range(len(SIGMAS)):
                value = person["keypoints"][joint][2]
                if value > score_threshold:
                    total, count = total + value, count + 1
            person["score"] *= total / count if count else 0
        stay = (soft_oks_nms if soft else oks_nms)(persons[image], oks_threshold)
        kept.append([persons[image][i] for i in stay] if len(stay) else persons[image])
    results = []
    for group in kept:
        if len(group) == 0:
            continue
        points = np.array([person["keypoints"] for person in group])
        flat = np.zeros((points.shape[0], len(SIGMAS) * 3))
        for joint in range(len(SIGMAS)):
            flat[:, joint * 3] = points[:, joint, 0]
            flat[:, joint * 3 + 1] = points[:, joint, 1]
            flat[:, joint * 3 + 2] = points[:, joint, 2]
        results += [
            {
                "image_id": person["image"],
                "category_id": 1,
                "keypoints": flat[i].tolist(),
                "score": float(person["score"]),
                "center": person["center"].tolist(),
                "scale": person["scale"].tolist(),
            }
            for i, person in enumerate(group)
        ]
    with results_file.open("w") as file:
        json_tricks.dump(results, file, sort_keys=True, indent=4)
    annotated = COCO(str(truth))
    evaluation = COCOeval(annotated, annotated.loadRes(str(results_file)), "keypoints")
    evaluation.params.useSegm = None
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()
