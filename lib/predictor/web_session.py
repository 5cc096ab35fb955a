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
from ..pose import draw
from .detector import Detector
from .predictor import Detect, Predictor
from .result import PoseResult

logger = logging.getLogger(__name__)

MAX_PIXELS = 25_000_000  # of a visitor's image
MAX_PERSONS = 30
MAP_HEIGHT = 360  # pixels, of each layer's
MIN_SIDE = 4  # pixels, of a drawn box: two clicks on one place are no box


@dataclass(frozen=True, eq=False)
class Scene:
    """An image (H, W, 3), uint8 BGR, and how far a visitor has come with it; never changed, but replaced.

    `annotated` are the boxes that came with the image; `corner` is the first of a box that is being drawn;
    `explanation` is of `person`, and `place`, a keypoint or a point in crop pixels, what of it is asked.
    """

    pixels: np.ndarray
    annotated: np.ndarray | None = None
    corner: tuple[int, int] | None = None
    result: PoseResult | None = None
    person: int = 0
    explanation: Explanation | None = None
    place: Place = ""

    def picture(self) -> np.ndarray:
        """The image with skeletons and the chosen person's box, (H, W, 3) uint8 RGB."""
        shown = self.pixels
        if self.result is not None and len(self.result):
            shown = draw.persons(shown, self.result.keypoints, self.result.scores, self.result.skeleton)
            shown = draw.box(shown, self.result.boxes[self.person])
        if self.corner:
            side = max(self.pixels.shape[:2]) // 100 + MIN_SIDE
            shown = draw.box(shown, np.array([*np.subtract(self.corner, side // 2), side, side]))
        return shown[..., ::-1].copy()

    def crop(self) -> np.ndarray:
        """The chosen person's crop with its skeleton and the cell that is asked, (h, w, 3) uint8 RGB."""
        explanation = self._explained()
        picture, attention = figures.with_skeleton(explanation), explanation.attention
        row, column = divmod(explanation.query(self.place).token, attention.grid[1])
        cell = attention.stride * explanation.factor
        return draw.box(picture, np.array([column * cell, row * cell, cell, cell]))

    def question(self) -> str:
        """What is asked, in words."""
        if isinstance(self.place, str):
            return figures.words(self.place)
        return "the point ({:.0f}, {:.0f}) of the crop".format(*self.place)

    def maps(self, mode: str, threshold: float) -> np.ndarray:
        """The answer of each layer on one sheet, (h, w, 3) uint8 RGB. Raises UserError as `Explanation.maps`."""
        explanation = self._explained()
        maps = explanation.maps([self.place], mode)
        (query,) = maps.queries
        pictures, labels = [], []
        for label, (weights,) in zip(maps.rows, maps.values, strict=True):
            pictures.append(figures.rendered(figures.single(explanation, weights, query, threshold))[..., ::-1])
            labels.append(f"{label}, largest {figures.in_words(weights.max(), mode)}".replace("–", "-"))
        height, width = pictures[0].shape[:2]
        cell = MAP_HEIGHT * width // height, MAP_HEIGHT
        return draw.mosaic(pictures, math.ceil(math.sqrt(len(pictures))), cell, labels)[..., ::-1].copy()

    def at(self, x: float, y: float) -> "Scene":
        """Asked for a pixel of the crop's picture. Raises UserError if there is no crop yet."""
        factor = self._explained().factor
        return replace(self, place=((x + 0.5) / factor - 0.5, (y + 0.5) / factor - 0.5))

    def of_keypoint(self, number: int) -> "Scene":
        """Asked for a keypoint by its place in the table. Raises UserError if there is no table yet."""
        return replace(self, place=self._explained().names[number])

    def _explained(self) -> Explanation:
        if self.explanation is None:
            raise UserError("no person was chosen yet; choose first where the boxes come from")
        return self.explanation

    def table(self) -> list[list[Any]]:
        """Name, x, y and score of the chosen person's keypoints, in pixels of the image."""
        if self.result is None or not len(self.result):
            return []
        points, scores = self.result.keypoints[self.person], self.result.scores[self.person]
        rows = zip(self.result.names, points.tolist(), scores.tolist(), strict=True)
        return [[name, round(x, 1), round(y, 1), round(score, 3)] for name, (x, y), score in rows]

    def person_at(self, x: float, y: float) -> int:
        """Whose box a place on the picture lies in, the smallest of several. Raises UserError if in nobody's."""
        if self.result is None:
            raise UserError("this image has no persons yet; choose first where the boxes come from")
        corners, sides = self.result.boxes[:, :2], self.result.boxes[:, 2:]
        inside = ((corners <= (x, y)) & ((x, y) < corners + sides)).all(1)
        if not inside.any():
            raise UserError("there is no person's box at this place")
        return int(np.where(inside, sides.prod(1), np.inf).argmin())

    def box_to(self, x: int, y: int) -> list[float]:
        """The box from `corner` to this place. Raises UserError if it is too small for one."""
        assert self.corner is not None
        left, right = sorted((self.corner[0], x))
        top, bottom = sorted((self.corner[1], y))
        if min(right - left, bottom - top) < MIN_SIDE:
            raise UserError("this is too near to the first corner for a box; click the opposite corner")
        return [left, top, right - left + 1, bottom - top + 1]


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


def detector_on_demand(device: str | None = None) -> Detect:
    """torchvision's detector, loaded when first asked. If that fails, only the log says why, not the page."""
    load = cache(partial(Detector, device=device))

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Detector`. Raises UserError if its weights cannot be loaded."""
        try:
            detector = load()
        except UserError as error:
            logger.warning("the detector: %s", error)
            raise UserError(
                "there is no detector here, as its weights could not be loaded; draw a box, or take the whole image"
            ) from None
        return detector(image)

    return detect


class WebSession:
    """A predictor that answers a visitor's questions: each answer is a new `Scene`.

    Raises UserError for an exported file, which does not show its attention.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.grid = predictor, predictor.network.grid

    def find(self, scene: Scene, boxes: Any = None) -> Scene:
        """The persons in these boxes, else in the detector's. Raises UserError if there are none."""
        result = self.predictor(scene.pixels, boxes, color="BGR")
        assert isinstance(result, PoseResult)
        if not len(result):
            raise UserError("the detector finds no person in this image; draw a box, or take the whole image")
        return self.choose(replace(scene, result=result, corner=None), 0)

    def choose(self, scene: Scene, person: int) -> Scene:
        """Look into the network on this person; its surest keypoint is asked for first."""
        assert scene.result is not None
        explanation = next(self.predictor.explain(scene.pixels, scene.result.boxes[[person]], color="BGR"))
        surest = explanation.names[int(explanation.scores.argmax())]
        place = scene.place if isinstance(scene.place, str) and scene.place in explanation.found() else surest
        return replace(scene, person=person, explanation=explanation, place=place)

    @property
    def threshold_range(self) -> tuple[float, float]:
        """The largest threshold that is of use, about 20 times what even attention gives a place, and a step."""
        largest = 20 / math.prod(self.grid)
        power = 10.0 ** math.floor(math.log10(largest))
        return round(math.ceil(largest / power) * power, 9), round(power / 100, 9)
