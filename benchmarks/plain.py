"""Each stage in the plainest way that the protocol can be written: the baseline of the benchmarks.

Loops over joints, persons and pairs, one file at a time, one library call for each thing. It is what a first
implementation of the papers does and serves to compare, in speed and in every number; `lib` never imports it.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import json_tricks
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision import transforms

PAIRS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
UPPER_BODY = range(11)
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def decode(
    heatmaps: np.ndarray, kernel_size: int, kind: type[np.floating] = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """DARK, map by map: points (B, 17, 2) in heatmap pixels and scores (B, 17) of maps (B, 17, H, W).

    Blurred maps are kept as `kind`: float32 takes half the time, and errs where a Hessian is nearly singular.
    """
    batch, joints, height, width = heatmaps.shape
    border = kernel_size // 2
    points, scores = np.zeros((batch, joints, 2), np.float32), np.zeros((batch, joints), np.float32)
    for i in range(batch):
        for j in range(joints):
            raw = heatmaps[i, j]
            place = int(raw.argmax())
            scores[i, j] = raw.max()
            if scores[i, j] <= 0:
                continue
            x, y = place % width, place // width
            points[i, j] = x, y
            padded = np.zeros((height + 2 * border, width + 2 * border))
            padded[border : height + border, border : width + border] = raw
            blurred = cv2.GaussianBlur(padded, (kernel_size, kernel_size), 0)
            blurred = blurred[border : height + border, border : width + border].astype(kind)
            blurred *= raw.max() / blurred.max()
            log = np.log(np.maximum(blurred, kind(1e-10)))
            if 1 < x < width - 2 and 1 < y < height - 2:
                dx = 0.5 * (log[y, x + 1] - log[y, x - 1])
                dy = 0.5 * (log[y + 1, x] - log[y - 1, x])
                dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
                dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
                dxy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
                if dxx * dyy - dxy**2 != 0:
                    hessian = np.array([[dxx, dxy], [dxy, dyy]])
                    points[i, j] += -np.linalg.inv(hessian) @ np.array([dx, dy])
    return points, scores


def box_to_crop(box: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded scale of a box x, y, w, h."""
    x, y, w, h = box[:4]
    center = np.zeros(2, np.float32)
    center[0], center[1] = x + (w - 1) * 0.5, y + (h - 1) * 0.5
    if w > aspect * h:
        h = w / aspect
    elif w < aspect * h:
        w = h * aspect
    return center, np.array([w / 200, h / 200], np.float32) * np.float32(1.25)


def affine(center: np.ndarray, scale: np.ndarray, rotation: float, size: tuple[int, int]) -> np.ndarray:
    """The map from a crop to an output of `size`, from three points."""
    angle = np.pi * rotation / 180
    up = (scale[0] * 200 - 1) * -0.5
    source, target = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    source[0] = center
    source[1] = center + np.array([-up * np.sin(angle), up * np.cos(angle)])
    target[0] = (size[0] - 1) * 0.5, (size[1] - 1) * 0.5
    target[1] = target[0] + np.array([0, (size[0] - 1) * -0.5], np.float32)
    for points in (source, target):
        direction = points[0] - points[1]
        points[2] = points[1] + np.array([-direction[1], direction[0]], np.float32)
    return cv2.getAffineTransform(source, target)


def half_body(points: np.ndarray, visible: np.ndarray, aspect: float, upper: bool) -> tuple | None:
    """Centre and scale around the upper or the lower joints."""
    halves: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for joint in range(len(points)):
        if visible[joint] > 0:
            halves[joint in UPPER_BODY].append(points[joint])
    chosen = halves[True] if upper and len(halves[True]) > 2 else halves[False]
    if len(chosen) <= 2 and chosen is halves[False]:
        chosen = halves[True]
    if len(chosen) < 2:
        return None
    joints = np.array(chosen, np.float32)
    corner, end = np.amin(joints, axis=0), np.amax(joints, axis=0)
    w, h = end[0] - corner[0] + 1, end[1] - corner[1] + 1
    if w > aspect * h:
        h = w / aspect
    elif w < aspect * h:
        w = h * aspect
    return joints.mean(axis=0)[:2], np.array([w / 200, h / 200], np.float32) * 1.5


def target_maps(
    points: np.ndarray, visible: np.ndarray, size: tuple[int, int], sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians (17, H, W) around points (17, 2) in heatmap pixels, and weights (17, 1)."""
    weight = np.ones((len(points), 1), np.float32)
    weight[:, 0] = visible
    maps = np.zeros((len(points), size[1], size[0]), np.float32)
    for joint in range(len(points)):
        x, y = points[joint]
        first = int(x - 3 * sigma), int(y - 3 * sigma)
        last = int(x + 3 * sigma + 1), int(y + 3 * sigma + 1)
        if first[0] >= size[0] or first[1] >= size[1] or last[0] < 0 or last[1] < 0:
            weight[joint] = 0
            continue
        columns = np.arange(0, size[0], 1, np.float32)
        rows = np.arange(0, size[1], 1, np.float32)[:, np.newaxis]
        if weight[joint] > 0.5:
            maps[joint] = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return maps, weight


TO_TENSOR = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
)


def sample(
    path: Path,
    center: np.ndarray,
    scale: np.ndarray,
    points: np.ndarray,
    visible: np.ndarray,
    draw: np.random.Generator | None = None,
    *,
    size: tuple[int, int] = (192, 256),
    factors: tuple[float, float, float, int] = (0.35, 45, 0.3, 8),
    sigma: float = 2,
) -> tuple[np.ndarray, Tensor, np.ndarray, np.ndarray]:
    """The crop (h, w, 3) uint8, the same as the model reads it, target maps and weights of one person.

    `draw` makes it a training sample; `factors` are scale, rotation, and half body's probability and joints; `sigma` is
    that of the target maps, in heatmap pixels.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    points, visible, rotation = points.astype(np.float64), visible.copy(), 0.0
    if draw is not None:
        if np.sum(visible) > factors[3] and draw.random() < factors[2]:
            found = half_body(points, visible, size[0] / size[1], bool(draw.random() < 0.6914624612740131))
            center, scale = found if found is not None else (center, scale)
        scale = scale * np.clip(draw.standard_normal() * factors[0] + 1, 1 - factors[0], 1 + factors[0])
        if draw.random() <= 0.6:
            rotation = float(np.clip(draw.standard_normal() * factors[1], -factors[1] * 2, factors[1] * 2))
        if draw.random() <= 0.5:
            pixels = pixels[:, ::-1, :]
            points[:, 0] = pixels.shape[1] - points[:, 0] - 1
            for left, right in PAIRS:
                points[left, :], points[right, :] = points[right, :], points[left, :].copy()
                visible[left], visible[right] = visible[right], visible[left].copy()
            center = np.array([pixels.shape[1] - center[0] - 1, center[1]], center.dtype)
    crop = cv2.warpAffine(pixels, affine(center, scale, rotation, size), size, flags=cv2.INTER_LINEAR)
    tensor = TO_TENSOR(crop)
    small = size[0] // 4, size[1] // 4
    to_heatmap = affine(center, scale, rotation, small)
    for joint in range(len(points)):
        points[joint] = np.dot(to_heatmap, np.array([points[joint][0], points[joint][1], 1.0]))
    return crop, tensor, *target_maps(points.astype(np.float32), visible, small, sigma)


def training_index(path: Path, aspect: float) -> list[dict[str, Any]]:
    """The labelled persons of an annotation file, image by image, through pycocotools."""
    annotated = COCO(str(path))
    persons = []
    for image_id in annotated.getImgIds():
        image = annotated.loadImgs(image_id)[0]
        found = annotated.loadAnns(annotated.getAnnIds(imgIds=image_id, iscrowd=False))
        valid = []
        for annotation in found:
            x, y, w, h = annotation["bbox"]
            x1, y1 = max(0, x), max(0, y)
            x2 = min(image["width"] - 1, x1 + max(0, w - 1))
            y2 = min(image["height"] - 1, y1 + max(0, h - 1))
            if annotation["area"] > 0 and x2 >= x1 and y2 >= y1:
                annotation["clean_bbox"] = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
                valid.append(annotation)
        for annotation in valid:
            if annotation["category_id"] != 1 or max(annotation["keypoints"]) == 0:
                continue
            points, visible = np.zeros((17, 3)), np.zeros((17, 3))
            for joint in range(17):
                points[joint, 0] = annotation["keypoints"][joint * 3]
                points[joint, 1] = annotation["keypoints"][joint * 3 + 1]
                seen = min(annotation["keypoints"][joint * 3 + 2], 1)
                visible[joint, 0] = visible[joint, 1] = seen
            center, scale = box_to_crop(np.array(annotation["clean_bbox"]), aspect)
            persons.append(
                {
                    "image": image["file_name"],
                    "center": center,
                    "scale": scale,
                    "joints_3d": points,
                    "joints_3d_vis": visible,
                }
            )
    return persons


def detected_index(path: Path, names: dict[int, str], threshold: float, aspect: float) -> list[dict[str, Any]]:
    """A detector's persons in file order."""
    with path.open() as file:
        found = json.load(file)
    persons = []
    for item in found:
        if item["category_id"] != 1 or item["score"] < threshold:
            continue
        center, scale = box_to_crop(item["bbox"], aspect)
        persons.append(
            {
                "image": names[item["image_id"]],
                "box": item["bbox"],
                "center": center,
                "scale": scale,
                "score": item["score"],
                "joints_3d": np.zeros((17, 3), dtype=float),
                "joints_3d_vis": np.ones((17, 3), dtype=float),
            }
        )
    return persons


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
