"""The worst cases of each kind of error, drawn with their ground truth and the network's attention.

K keypoints; points and boxes are in image pixels, pictures uint8 BGR.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ..build.model import TrainedModel
from ..errors import UserError
from ..evaluation.oks import keypoint_similarities
from ..explain import figures
from ..explain.maps import cell_centers, explain
from ..pose import draw, geometry, sheets
from .report import Analysis
from .sigmas import tolerance
from .taxonomy import INVERSION, JITTER, KINDS, MISS, NEAR, SWAP

PANEL = 300, 360  # largest width, height of each half
MARK = (180, 60, 255)  # pink: differs from the skeleton's blue and orange
AROUND = 0.2  # margin around the instance, relative to its longer side
EVERY = draw.DrawOptions(threshold=0.05)  # all keypoints that are labelled or found


@dataclass(frozen=True, eq=False)
class Case:
    """One error: its instance and detection (-1: none), and the keypoints that are wrong."""

    kind: str
    image_id: int
    instance: int
    detection: int
    keypoints: tuple[int, ...] = ()
    loss: float = 0.0  # of OKS


@dataclass(frozen=True, eq=False)
class Attended:
    """What the place of a wrong keypoint attends to in the last layer, as a picture; the shares of this attention near
    the place itself and near the annotated one, and both shares for evenly spread attention."""

    keypoint: int
    picture: np.ndarray
    wrong: float
    right: float
    even: tuple[float, float]


def worst(analysis: Analysis, number: int) -> Iterator[Case]:
    """At most `number` cases of each kind of error, the worst first."""
    truth, found, diagnosis = analysis.truth, analysis.found, analysis.diagnosis
    near = keypoint_similarities(analysis.errors**2, truth.areas, np.asarray(analysis.skeleton.sigmas))
    for kind in (INVERSION, SWAP, MISS, JITTER):
        wrong = (diagnosis.kind == kind) & analysis.counted[:, None]
        loss = np.where(wrong, 1 - near, 0).sum(1) / np.maximum(truth.labelled.sum(1), 1)
        for i in np.argsort(-loss, kind="stable")[:number].tolist():
            if loss[i] > 0:
                joints = tuple(np.flatnonzero(wrong[i]).tolist())
                yield Case(KINDS[kind], int(truth.image[i]), i, int(diagnosis.detection[i]), joints, float(loss[i]))
    for kind_name, which, order in (
        ("misranked", diagnosis.misranked, diagnosis.best),
        ("background", diagnosis.false & ~diagnosis.duplicate, found.scores),
    ):
        places = np.flatnonzero(which)
        for i in places[np.argsort(-order[places], kind="stable")][:number].tolist():
            instance = int(diagnosis.nearest[i]) if kind_name == "misranked" else -1
            yield Case(kind_name, int(found.image[i]), instance, i)
    lost = np.flatnonzero(analysis.counted & (diagnosis.detection < 0))
    for i in lost[np.argsort(-truth.areas[lost], kind="stable")][:number].tolist():
        yield Case("not found", int(truth.image[i]), i, -1)


def picture(case: Case, analysis: Analysis, image: np.ndarray) -> np.ndarray:
    """Two halves: left, the annotation in the image (H, W, 3); right, the detection. A pink line connects a wrong
    keypoint with its annotated place."""
    truth, found = analysis.truth, analysis.found
    points = found.points[found.image == case.image_id] if case.detection < 0 else found.points[[case.detection]]
    annotated = truth.keypoints[truth.image == case.image_id]
    ends = []
    if case.instance >= 0:
        box = truth.boxes[case.instance]
        ends += [box[:2], box[:2] + box[2:], *truth.keypoints[case.instance, truth.labelled[case.instance], :2]]
    if case.detection >= 0:
        ends += [*found.points[case.detection, list(case.keypoints) or slice(None)]]
    cut, left_top = _cut(image, np.array(ends))
    panels = []
    for keypoints, seen in ((annotated[..., :2], annotated[..., 2]), (points, np.ones(points.shape[:2]))):
        panel, to_panel = sheets.fit(cut, PANEL)
        placed = geometry.apply(to_panel, keypoints - left_top)
        panel = draw.persons(panel, placed, seen, analysis.skeleton, EVERY)
        panels.append((panel, to_panel))
    right, to_panel = panels[1]
    for k in case.keypoints:
        pair = np.stack([found.points[case.detection, k], truth.keypoints[case.instance, k, :2]])
        start, end = np.rint(geometry.apply(to_panel, pair - left_top)).astype(int).tolist()
        cv2.line(right, start, end, MARK, 2, cv2.LINE_AA)
        cv2.circle(right, start, 6, MARK, 2, cv2.LINE_AA)
    gap = np.full((right.shape[0], 6, 3), sheets.PAPER, np.uint8)
    return np.concatenate([panels[0][0], gap, right], axis=1)


def side_by_side(first: Analysis, second: Analysis, image_id: int, image: np.ndarray) -> np.ndarray:
    """The detections of two results that found an instance of an image (H, W, 3): left the first, right the second."""
    panels = []
    for analysis in (first, second):
        panel, to_panel = sheets.fit(image, PANEL)
        shown = (analysis.found.image == image_id) & ~analysis.diagnosis.false
        points = geometry.apply(to_panel, analysis.found.points[shown])
        panels.append(draw.persons(panel, points, np.ones(points.shape[:2]), analysis.skeleton, EVERY))
    gap = np.full((panels[0].shape[0], 6, 3), sheets.PAPER, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _cut(image: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image around those points that are in or near it, and its upper left corner."""
    size = np.array(image.shape[1::-1])
    ends = np.clip(ends, 0, size)
    low, high = ends.min(0), ends.max(0)
    middle, half = (
        (low + high) / 2,
        np.maximum(high - low, 0.6 * (high - low).max()) / 2 + AROUND * (high - low).max() + 8,
    )
    start, end = (
        np.floor(np.clip(middle - half, 0, size - 1)).astype(int),
        np.ceil(np.minimum(middle + half, size)).astype(int),
    )
    return image[start[1] : end[1], start[0] : end[0]], start


def attended(case: Case, analysis: Analysis, image: np.ndarray, trained: TrainedModel) -> list[Attended]:
    """The attention of each wrong keypoint of an inversion or a swap that lies in the instance's crop.

    Cells are near a place if a keypoint there has a similarity of .5 or more; the nearest cell always is.
    """
    truth = analysis.truth
    reach = tolerance(analysis.skeleton.sigmas, NEAR) * np.sqrt(truth.areas[case.instance])  # image pixels
    box, _ = geometry.clean_boxes(truth.boxes[[case.instance]], np.array([image.shape[1::-1]]))
    explanation = explain(trained.network, image, box[0], analysis.skeleton, trained.options)
    centers = cell_centers(explanation.attention.grid, explanation.attention.stride)
    stretch = float(np.linalg.norm(explanation.to_crop[0, :2]))  # crop pixels per image pixel
    results = []
    for k in case.keypoints:
        wrong, right = analysis.found.points[case.detection, k], truth.keypoints[case.instance, k, :2]
        try:
            place = explanation.in_crop(wrong)
        except UserError:  # a swap with an instance outside this crop
            continue
        maps = explanation.maps([place], layers=[explanation.num_layers - 1])
        weights = maps.values[0, 0]
        radius = stretch * reach[k]
        places = np.asarray(place), geometry.apply(explanation.to_crop, right)
        near = []
        for point in places:
            distance = np.linalg.norm(centers - point, axis=-1)
            near.append((distance <= radius) | (distance == distance.min()))
        shown = _marked(figures.overlay(explanation, weights), explanation.factor, *places)
        own, annotated = (float(weights[cells].sum()) for cells in near)
        results.append(Attended(k, shown, own, annotated, (float(near[0].mean()), float(near[1].mean()))))
    return results


def _marked(overlay: np.ndarray, factor: int, wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The RGB overlay, scaled to a panel, as BGR: a pink ring at the wrong place, a white one at the annotated."""
    canvas = overlay[..., ::-1].copy()
    for point, colour in ((right, draw.COLOURS[draw.MIDDLE]), (wrong, MARK)):
        center = np.rint(factor * np.asarray(point) + (factor - 1) / 2).astype(int).tolist()
        cv2.circle(canvas, center, 12, draw.OUTLINE, 6, cv2.LINE_AA)
        cv2.circle(canvas, center, 12, colour, 3, cv2.LINE_AA)
    return sheets.fit(canvas, PANEL)[0]
