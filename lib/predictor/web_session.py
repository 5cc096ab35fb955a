"""A visitor's session, without the page: an image, its persons, and what the network attends to on one of them.

Boxes are x, y, w, h in pixels of the image; places on its picture are its pixels; a crop's picture has its own.
"""

import logging
import math
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.coco import annotated_instances, read_annotations
from ..dataset.images import decode_image
from ..errors import UserError
from ..explain import figures
from ..explain.maps import Explanation, Place
from ..pose import draw, geometry, sheets
from ..pose.skeleton import PERSON
from .detector import Detect, detector_for, whole_image
from .predictor import Predictor
from .result import PoseResult

logger = logging.getLogger(__name__)

MAX_PIXELS = 25_000_000  # of a visitor's image
MAX_PERSONS = 30
SHOWN = 900, 640  # pixels at most, of the image's picture
MAP_HEIGHT = 360  # pixels, of each layer's
MIN_SIDE = 4  # pixels, of a drawn box
CHOSEN = (66, 228, 240)  # yellow, BGR
ANNOTATED, DETECTOR, WHOLE, DRAWN = BOXES = ("annotated", "detector", "whole image", "drawn")


@dataclass(frozen=True, eq=False)
class Scene:
    """An image (H, W, 3), uint8 BGR, and how far a visitor has come with it; never changed, but replaced.

    `annotated` are the boxes that came with the image; `boxes` is one of BOXES, where the boxes of `result` come from,
    and `why` says why they are not the detector's; `explanation` is of `person`, and `place`, a keypoint or a point in
    crop pixels, what of it is asked: by a map of `mode` that leaves out what is below a `share` of its largest weight.
    """

    pixels: np.ndarray
    annotated: np.ndarray | None = None
    boxes: str | None = None
    why: str = ""
    result: PoseResult | None = None
    person: int = 0
    explanation: Explanation | None = None
    place: Place = ""
    mode: str = "dependency"
    share: float = 0.0

    def picture(self) -> np.ndarray:
        """The image with skeletons and boxes, the chosen person's in `CHOSEN`, (h, w, 3) uint8 BGR, in the size of the
        page."""
        shown, to_shown = sheets.fit(self.pixels, SHOWN)
        if self.result is not None and len(self.result):
            result, keypoints = self.result, geometry.apply(to_shown, self.result.keypoints)
            first = geometry.apply(to_shown, result.boxes[:, :2] - 0.5)
            last = geometry.apply(to_shown, result.boxes[:, :2] + result.boxes[:, 2:] - 0.5)
            boxes, options = np.concatenate([first + 0.5, last - first], 1), draw.DrawOptions(parts=("boxes",))
            shown = draw.persons(shown, keypoints, result.scores, result.skeleton, options, boxes=boxes)
            shown = draw.box(shown, boxes[self.person], CHOSEN)
        return shown

    def crop(self) -> np.ndarray:
        """The chosen person's crop with its skeleton and the cell that is asked, (h, w, 3) uint8 BGR."""
        explanation = self._explained()
        picture, attention = figures.with_skeleton(explanation)[..., ::-1], explanation.attention
        row, column = divmod(explanation.query(self.place).token, attention.grid[1])
        cell = attention.stride * explanation.factor
        return draw.box(picture, np.array([column * cell, row * cell, cell, cell]))

    def question(self) -> str:
        """What is asked, in words."""
        if isinstance(self.place, str):
            return figures.words(self.place)
        return "the point ({:.0f}, {:.0f}) of the crop".format(*self.place)

    def maps(self) -> np.ndarray:
        """The answer of each layer on one sheet, (h, w, 3) uint8 BGR. Raises UserError as `Explanation.maps`."""
        explanation = self._explained()
        maps = explanation.maps([self.place], self.mode)
        (query,) = maps.queries
        pictures, labels = [], []
        for label, (weights,) in zip(maps.rows, maps.values, strict=True):
            figure = figures.single(explanation, weights, query, share=self.share)
            pictures.append(figures.rendered(figure)[..., ::-1])
            largest = f"largest {figures.in_words(weights.max(), self.mode)}" if weights.any() else "nothing anywhere"
            labels.append(f"{label}, {largest}".replace("–", "-"))
        height, width = pictures[0].shape[:2]
        cell = MAP_HEIGHT * width // height, MAP_HEIGHT
        return sheets.mosaic(pictures, math.ceil(math.sqrt(len(pictures))), cell, labels)

    def at(self, x: float, y: float) -> "Scene":
        """Asked for a place of the crop, by its share of the width and of the height. Raises UserError if there is no
        crop yet."""
        width, height = self._explained().size
        x, y = (min(share * length, length - 1e-6) for share, length in ((x, width), (y, height)))
        return replace(self, place=(x - 0.5, y - 0.5))

    def of_keypoint(self, number: int) -> "Scene":
        """Asked for a keypoint by its place in the table. Raises UserError if there is no table yet."""
        names = self._explained().names
        if not 0 <= number < len(names):
            raise UserError("there is no such keypoint")
        return replace(self, place=names[number])

    def _explained(self) -> Explanation:
        if self.explanation is None:
            raise UserError("there is no box yet; drag one")
        return self.explanation

    def table(self) -> list[list[Any]]:
        """Name, x, y and score of the chosen person's keypoints, in pixels of the image."""
        if self.result is None or not len(self.result):
            return []
        points, scores = self.result.keypoints[self.person], self.result.scores[self.person]
        rows = zip(self.result.names, points.tolist(), scores.tolist(), strict=True)
        return [[name, round(x, 1), round(y, 1), round(score, 3)] for name, (x, y), score in rows]

    def person_at(self, x: float, y: float) -> int:
        """Whose box a place of the image lies in, the smallest of several. Raises UserError if in nobody's."""
        if self.result is None:
            raise UserError("this image has no boxes yet; drag one")
        corners, sides = self.result.boxes[:, :2], self.result.boxes[:, 2:]
        inside = ((corners <= (x, y)) & ((x, y) < corners + sides)).all(1)
        if not inside.any():
            raise UserError("there is no box at this place; drag one")
        return int(np.where(inside, sides.prod(1), np.inf).argmin())

    def box_between(self, x0: float, y0: float, x1: float, y1: float) -> list[int]:
        """The box from one corner to the other, in pixels of the image. Raises UserError if it is too small for one."""
        (left, right), (top, bottom) = sorted((int(x0), int(x1))), sorted((int(y0), int(y1)))
        if min(right - left, bottom - top) < MIN_SIDE:
            raise UserError("this box is too small; drag from one corner to the opposite one")
        return [left, top, right - left + 1, bottom - top + 1]

    def typed(self) -> str:
        """The chosen person's box, as `boxes_from` reads it."""
        if self.result is None or not len(self.result):
            return ""
        return ",".join(f"{round(number, 1):g}" for number in self.result.boxes[self.person].tolist())


def uploaded(content: bytes, max_pixels: int = MAX_PIXELS) -> Scene:
    """A visitor's file, turned as its EXIF says. Raises UserError for what is no image, or too large."""
    return Scene(decode_image(content, "this file", oriented=True, max_pixels=max_pixels, limit="this page"))


@dataclass(frozen=True, eq=False)
class Sample:
    """An image to begin with, and the boxes of its persons, the largest first."""

    path: Path
    boxes: np.ndarray

    def scene(self) -> Scene:
        return Scene(decode_image(self.path.read_bytes(), self.path.name), annotated=self.boxes)


def samples(annotations: Path, images: Path) -> list[Sample]:
    """The images of a COCO annotation file that show annotated persons. Raises UserError if it is broken."""
    instances = annotated_instances(read_annotations(annotations))
    largest_first = np.argsort(-instances.boxes[:, 2:].prod(1), kind="stable")
    boxes, image = instances.boxes[largest_first], instances.image[largest_first]
    names = enumerate(instances.images.names)
    return [Sample(images / name, boxes[image == i]) for i, name in names if (image == i).any()]


def boxes_from(text: str) -> list[list[float]]:
    """Boxes typed as X,Y,W,H, one a line. Raises UserError for anything else."""
    try:
        boxes = [[float(number) for number in line.split(",")] for line in text.splitlines() if line.strip()]
    except ValueError:
        boxes = []
    if not boxes or any(len(box) != 4 for box in boxes):
        raise UserError("a box is four numbers, X,Y,W,H in pixels of the image; one box a line")
    return boxes


def detector_on_demand(device: str | None = None, category: str = PERSON) -> Detect:
    """The default detector, loaded when first asked. If that fails, only the log says why, not the page."""
    load = cache(partial(detector_for, category, device=device))

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector`. Raises UserError if its weights cannot be loaded."""
        try:
            detector = load()
        except UserError as error:
            logger.warning("the detector: %s", error)
            raise UserError(
                "no detector can be used here (the server's log says why); drag a box, or take the whole image"
            ) from None
        return detector(image)

    return detect


class WebSession:
    """A predictor that answers a visitor's questions: each answer is a new `Scene`.

    Raises UserError for an exported file, which does not show its attention.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.grid = predictor, predictor.network.grid

    def find(self, scene: Scene, chosen: str, boxes: Any = None) -> Scene:
        """The persons in these boxes, or in those of a kind of BOXES. Raises UserError if there are none."""
        if boxes is None:
            boxes = {ANNOTATED: scene.annotated, WHOLE: whole_image(scene.pixels)[0]}.get(chosen)
        result = self.predictor(scene.pixels, boxes, color="BGR")
        assert isinstance(result, PoseResult)
        if not len(result):
            raise UserError("the detector finds nothing in this image; drag a box, or take the whole image")
        return self.choose(replace(scene, result=result, boxes=chosen, why=""), 0)

    def open(self, scene: Scene) -> Scene:
        """The persons in the annotated boxes if there are any, else in the detector's; if it has none, the whole image
        is taken for one."""
        if scene.annotated is not None:
            return self.find(scene, ANNOTATED)
        try:
            return self.find(scene, DETECTOR)
        except UserError as error:
            reason = str(error).split(";")[0]  # what follows says what to do, which is done here
            return replace(self.find(scene, WHOLE), why=reason[0].upper() + reason[1:])

    def choose(self, scene: Scene, person: int) -> Scene:
        """Look into the network on this person; its surest keypoint is asked for first."""
        assert scene.result is not None
        explanation = next(self.predictor.explain(scene.pixels, scene.result.boxes[[person]], color="BGR"))
        surest = explanation.names[int(explanation.scores.argmax())]
        place = scene.place if isinstance(scene.place, str) and scene.place in explanation.found() else surest
        return replace(scene, person=person, explanation=explanation, place=place)
