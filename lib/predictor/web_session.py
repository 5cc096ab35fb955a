"""A visitor's session, independent of the page: an image, its persons, and the attention maps of one of them.

Boxes are x, y, w, h in image pixels. Points are given as fractions of the shown image or crop.
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
SHOWN = 900, 640  # pixels at most, of the shown image
MAP_HEIGHT = 360  # pixels, of each layer's map
MIN_SIDE = 4  # pixels, smallest side of a drawn box
CHOSEN = (66, 228, 240)  # yellow, BGR
ANNOTATED, DETECTOR, WHOLE, DRAWN = BOXES = ("annotated", "detector", "whole image", "drawn")


@dataclass(frozen=True, eq=False)
class Scene:
    """An image (H, W, 3), uint8 BGR, and all that a visitor has chosen for it. Immutable: each answer is a new one.

    `annotated` are the boxes that came with the image; `boxes`, one of BOXES, says where the boxes of `result` come
    from, and `why` explains why they are not the detector's; `explanation` is of `person`; `place` is the keypoint, or
    the point in crop pixels, whose maps of `mode` are shown, without weights below a `share` of a map's largest.
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
        """The image with skeletons and boxes, (h, w, 3) uint8 BGR, scaled for the page. The chosen person's box has
        the colour `CHOSEN`."""
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
        """The chosen person's crop with its skeleton and the query's cell, (h, w, 3) uint8 BGR."""
        explanation = self._explained()
        picture, attention = figures.with_skeleton(explanation)[..., ::-1], explanation.attention
        row, column = divmod(explanation.query(self.place).token, attention.grid[1])
        cell = attention.stride * explanation.factor
        return draw.box(picture, np.array([column * cell, row * cell, cell, cell]))

    def question(self) -> str:
        """The query in words."""
        if isinstance(self.place, str):
            return figures.words(self.place)
        return "the point ({:.0f}, {:.0f}) of the crop".format(*self.place)

    def maps(self) -> np.ndarray:
        """The maps of all layers in one image, (h, w, 3) uint8 BGR. Raises UserError as `Explanation.maps`."""
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
        """With another query: a point of the crop, as fractions of its width and height. Raises UserError if there is
        no crop yet."""
        width, height = self._explained().size
        x, y = (min(share * length, length - 1e-6) for share, length in ((x, width), (y, height)))
        return replace(self, place=(x - 0.5, y - 0.5))

    def of_keypoint(self, number: int) -> "Scene":
        """With another query: a keypoint, by its row in the table. Raises UserError if there is no table yet."""
        names = self._explained().names
        if not 0 <= number < len(names):
            raise UserError("there is no such keypoint")
        return replace(self, place=names[number])

    def _explained(self) -> Explanation:
        if self.explanation is None:
            raise UserError("there is no box yet; drag one")
        return self.explanation

    def table(self) -> list[list[Any]]:
        """Name, x, y (image pixels) and score of the chosen person's keypoints."""
        if self.result is None or not len(self.result):
            return []
        points, scores = self.result.keypoints[self.person], self.result.scores[self.person]
        rows = zip(self.result.names, points.tolist(), scores.tolist(), strict=True)
        return [[name, round(x, 1), round(y, 1), round(score, 3)] for name, (x, y), score in rows]

    def person_at(self, x: float, y: float) -> int:
        """The person whose box contains a point, the smallest box of several. Raises UserError if there is none."""
        if self.result is None:
            raise UserError("this image has no boxes yet; drag one")
        corners, sides = self.result.boxes[:, :2], self.result.boxes[:, 2:]
        inside = ((corners <= (x, y)) & ((x, y) < corners + sides)).all(1)
        if not inside.any():
            raise UserError("there is no box at this point; drag one")
        return int(np.where(inside, sides.prod(1), np.inf).argmin())

    def box_between(self, x0: float, y0: float, x1: float, y1: float) -> list[int]:
        """The box between two corners, in image pixels. Raises UserError if it is too small."""
        (left, right), (top, bottom) = sorted((int(x0), int(x1))), sorted((int(y0), int(y1)))
        if min(right - left, bottom - top) < MIN_SIDE:
            raise UserError("this box is too small; drag from one corner to the opposite one")
        return [left, top, right - left + 1, bottom - top + 1]

    def typed(self) -> str:
        """The chosen person's box as text that `boxes_from` reads."""
        if self.result is None or not len(self.result):
            return ""
        return ",".join(f"{round(number, 1):g}" for number in self.result.boxes[self.person].tolist())


def uploaded(content: bytes, max_pixels: int = MAX_PIXELS) -> Scene:
    """The image of a visitor's file, with EXIF rotation. Raises UserError if it is no image, or too large."""
    return Scene(decode_image(content, "this file", oriented=True, max_pixels=max_pixels, limit="this page"))


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample image, and the boxes of its persons, the largest first."""

    path: Path
    boxes: np.ndarray

    def scene(self) -> Scene:
        return Scene(decode_image(self.path.read_bytes(), self.path.name), annotated=self.boxes)


def samples(annotations: Path, images: Path) -> list[Sample]:
    """The images with annotated persons of a COCO annotation file. Raises UserError if it is malformed."""
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
        raise UserError("a box is four numbers, X,Y,W,H in image pixels; one box per line")
    return boxes


def detector_on_demand(device: str | None = None, category: str = PERSON) -> Detect:
    """The default detector, loaded on first use. If that fails, the reason is in the log only, not on the page."""
    load = cache(partial(detector_for, category, device=device))

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector`. Raises UserError if its weights cannot be loaded."""
        try:
            detector = load()
        except UserError as error:
            logger.warning("the detector: %s", error)
            raise UserError(
                "no detector is available (the server's log says why); drag a box, or use the whole image"
            ) from None
        return detector(image)

    return detect


class WebSession:
    """Answers a visitor's actions with a predictor: each answer is a new `Scene`.

    Raises UserError for an exported file, which gives no attention.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.grid = predictor, predictor.network.grid

    def find(self, scene: Scene, chosen: str, boxes: Any = None) -> Scene:
        """The scene with the persons in these boxes, or in those of a kind of BOXES. Raises UserError if none."""
        if boxes is None:
            boxes = {ANNOTATED: scene.annotated, WHOLE: whole_image(scene.pixels)[0]}.get(chosen)
        result = self.predictor(scene.pixels, boxes, color="BGR")
        assert isinstance(result, PoseResult)
        if not len(result):
            raise UserError("the detector finds nothing in this image; drag a box, or use the whole image")
        return self.choose(replace(scene, result=result, boxes=chosen, why=""), 0)

    def open(self, scene: Scene) -> Scene:
        """The scene with the persons in the annotated boxes, if any, else in the detected ones, else in the whole
        image."""
        if scene.annotated is not None:
            return self.find(scene, ANNOTATED)
        try:
            return self.find(scene, DETECTOR)
        except UserError as error:
            reason = str(error).split(";")[0]  # the rest of the message says what to do, which is done here
            return replace(self.find(scene, WHOLE), why=reason[0].upper() + reason[1:])

    def choose(self, scene: Scene, person: int) -> Scene:
        """Explain this person; the query is the keypoint with the highest score."""
        assert scene.result is not None
        explanation = next(self.predictor.explain(scene.pixels, scene.result.boxes[[person]], color="BGR"))
        surest = explanation.names[int(explanation.scores.argmax())]
        place = scene.place if isinstance(scene.place, str) and scene.place in explanation.found() else surest
        return replace(scene, person=person, explanation=explanation, place=place)
