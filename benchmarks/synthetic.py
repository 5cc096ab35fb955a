"""COCO files of any size with random content, for benchmarks and tests: annotations, detector boxes, predictions.

Lengths are modelled on COCO's: polygons of some sixty corners, 640 x 480 images, six in ten persons with labelled
joints in about half of the images. The same arguments give the same bytes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from transpose.core.predict import Predictions
from transpose.dataset.coco import Instances
from transpose.pose.skeleton import COCO, to_mapping

WIDTH, HEIGHT = 640, 480
CORNERS = 60  # of a segmentation polygon


def image_name(image_id: int) -> str:
    """As COCO names its files."""
    return f"{image_id:012}.jpg"


def annotations(
    path: Path, *, images: int, persons: int, empty_images: int = 0, unlabelled: int = 0, seed: int = 0
) -> None:
    """Write an annotation file: `persons` with keypoints spread over `images`, and beside them what training skips.

    `empty_images` hold no labelled person; `unlabelled` persons, in any image, have a box and a polygon only.
    """
    draw = np.random.default_rng(seed)
    ids = np.sort(draw.choice(10 * (images + empty_images), images + empty_images, replace=False)) + 1
    labelled = draw.permutation(ids)[:images]
    # Each of these images has one person at least.
    owner = np.concatenate([labelled, draw.choice(labelled, persons - images), draw.choice(ids, unlabelled)])
    count = persons + unlabelled
    size = draw.uniform(20, 300, (count, 2)).round(2)
    corner = (draw.random((count, 2)) * ((WIDTH, HEIGHT) - size)).round(2)
    polygons = (corner[:, None] + draw.random((count, CORNERS, 2)) * size[:, None]).round(2)
    keypoints = np.zeros((count, COCO.num_joints, 3), int)
    keypoints[:persons, :, :2] = (
        corner[:persons, None] + draw.random((persons, COCO.num_joints, 2)) * size[:persons, None]
    )
    keypoints[:persons, :, 2] = draw.integers(1, 3, (persons, COCO.num_joints))
    unseen = draw.random((count, COCO.num_joints)) < 0.3
    unseen[:, 0] = False
    keypoints[unseen] = 0

    people = [
        {
            "segmentation": [polygon],
            "num_keypoints": seen,
            "area": area,
            "iscrowd": 0,
            "keypoints": points,
            "image_id": image_id,
            "bbox": box,
            "category_id": 1,
            "id": place + 1,
        }
        for place, (polygon, seen, area, points, image_id, box) in enumerate(
            zip(
                polygons.reshape(count, -1).tolist(),
                (keypoints[..., 2] > 0).sum(1).tolist(),
                (0.6 * size.prod(1)).round(4).tolist(),
                keypoints.reshape(count, -1).tolist(),
                owner.tolist(),
                np.concatenate([corner, size], 1).round(2).tolist(),
                strict=True,
            )
        )
    ]
    _write(path, {"images": _images(ids), "annotations": people, "categories": [_category()]})


def image_info(path: Path, *, images: int, seed: int = 0) -> None:
    """Write the file of a set without ground truth, such as test-dev."""
    ids = np.sort(np.random.default_rng(seed).choice(10 * images, images, replace=False)) + 1
    _write(path, {"images": _images(ids), "categories": [_category()]})


def detections(path: Path, image_ids: np.ndarray, *, boxes: int, seed: int = 0) -> None:
    """Write a detector's `boxes` in the images."""
    draw = np.random.default_rng(seed)
    owner = np.sort(draw.choice(image_ids, boxes))
    size = draw.uniform(20, 300, (boxes, 2))
    corner = draw.random((boxes, 2)) * ((WIDTH, HEIGHT) - size)
    columns = owner.tolist(), np.concatenate([corner, size], 1).tolist(), draw.random(boxes).tolist()
    found = [
        {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
        for image_id, box, score in zip(*columns, strict=True)
    ]
    _write(path, found)


def predictions(people: Instances, center: np.ndarray, scale: np.ndarray, *, seed: int = 0) -> Predictions:
    """What a model might predict for `people`, whose crops have this center and scale."""
    return predictions_in(people.boxes, people.keypoints, center, scale, seed=seed)


def predictions_in(
    boxes: np.ndarray, keypoints: np.ndarray, center: np.ndarray, scale: np.ndarray, *, seed: int = 0
) -> Predictions:
    """The same for boxes (N, 4) and annotated keypoints (N, K, 2), all 0 where none are known.

    Joints lie around the keypoints of those who have any, well scored, else anywhere in the box; every fifth person
    repeats the one before it, moved by little, so that OKS-NMS has something to drop.
    """
    draw = np.random.default_rng(seed)
    count, joints, _ = keypoints.shape
    known = keypoints.any((1, 2))
    truth = np.where(known[:, None, None], keypoints, _within(boxes, joints, draw))
    extent = np.sqrt(boxes[:, 2:].prod(1))[:, None, None]
    keypoints = truth + draw.normal(size=truth.shape) * extent * draw.choice((0.01, 0.04, 0.15), (count, 1, 1))
    again = np.arange(5, count, 5)
    keypoints[again] = keypoints[again - 1] + 0.002 * extent[again]
    return Predictions(
        index=np.arange(count),
        keypoints=keypoints.astype(np.float32),
        scores=0.5 * draw.random((count, joints), np.float32) + 0.5 * known[:, None].astype(np.float32),
        center=center,
        scale=scale,
    )


def with_keypoints(detected: Instances, annotated: Instances) -> Instances:
    """Detections with the keypoints of the annotated person of their image whose box they overlap most, by half or
    more."""
    keypoints = detected.keypoints.copy()
    for image in np.unique(annotated.image):
        here, truth = np.flatnonzero(detected.image == image), np.flatnonzero(annotated.image == image)
        if len(here):
            overlap = _iou(detected.boxes[here, None], annotated.boxes[None, truth])
            near = overlap.max(1) >= 0.5
            keypoints[here[near]] = annotated.keypoints[truth[overlap.argmax(1)[near]]]
    return dataclasses.replace(detected, keypoints=keypoints)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union (...) of boxes (..., 4)."""
    corner = np.maximum(one[..., :2], other[..., :2])
    end = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    common = np.maximum(0, end - corner).prod(-1)
    return common / (one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - common)


def _within(boxes: np.ndarray, joints: int, draw: np.random.Generator) -> np.ndarray:
    return boxes[:, None, :2] + draw.random((len(boxes), joints, 2)) * boxes[:, None, 2:]


def _images(ids: np.ndarray) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": image_name(i), "width": WIDTH, "height": HEIGHT} for i in ids.tolist()]


def _category() -> dict[str, Any]:
    limbs = [[a + 1, b + 1] for a, b in COCO.limbs]
    return {"id": 1, "name": "person", "keypoints": to_mapping(COCO)["names"], "skeleton": limbs}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(content))
