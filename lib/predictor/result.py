"""The result for one image: persons with keypoints, and the formats it is written in.

N persons, K keypoints; boxes are x, y, w, h; coordinates are pixels of the image, turned as its EXIF says if asked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import needs
from ..pose import draw
from ..pose.skeleton import Skeleton
from ..runtime.files import csv_text, write_atomically
from .image import InputImage

COLUMNS = ("image", "person", "person_score", "keypoint", "x", "y", "score")


@dataclass(frozen=True, eq=False)
class PoseResult:
    """The persons of an image, in the order of their boxes: keypoints (N, K, 2) and their scores (N, K), float32;
    person_scores (N), the box's score times the mean of the keypoint scores that count, as in COCO results;
    boxes (N, 4) and box_scores (N) as they were given or detected; size the image's width and height;
    ids (N) if they were tracked, else None."""

    image: InputImage
    size: tuple[int, int]
    keypoints: np.ndarray
    scores: np.ndarray
    person_scores: np.ndarray
    boxes: np.ndarray
    box_scores: np.ndarray
    skeleton: Skeleton
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def names(self) -> tuple[str, ...]:
        """What the K keypoints are called."""
        return self.skeleton.names

    def draw(self, threshold: float = 0.2) -> np.ndarray:
        """A copy of the image (H, W, 3), uint8, with the keypoints scored `threshold` or more.

        Its channels are RGB, or BGR for an image of that `color`.
        """
        picture = self._drawn(threshold)
        return picture if self.image.color == "BGR" else picture[..., ::-1].copy()

    def save(self, path: str | Path, threshold: float = 0.2) -> None:
        """Write `draw`'s picture; an existing file is replaced. Raises UserError if it cannot be written."""
        content = draw.encode(self._drawn(threshold), Path(path))
        write_atomically(Path(path), lambda file: file.write(content))

    def _drawn(self, threshold: float) -> np.ndarray:
        return draw.persons(
            self.image.pixels(), self.keypoints, self.scores, self.skeleton, draw.DrawOptions(threshold)
        )

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO keypoint results, one dict a person, each keypoint as x, y, score."""
        return [
            {"image_id": image_id, "category_id": category_id, "keypoints": points.ravel().tolist(), "score": score}
            for points, score in zip(self._points(), self.person_scores.tolist(), strict=True)
        ]

    def _points(self) -> np.ndarray:
        """(N, K, 3), float64: x, y and score."""
        return np.concatenate([self.keypoints, self.scores[..., None]], 2, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the image and its size, the keypoints' names and limbs, and the persons."""
        columns = {
            "box": self.boxes,
            "box_score": self.box_scores,
            "score": self.person_scores,
            "keypoints": self._points(),
        } | ({} if self.ids is None else {"id": self.ids})
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {
            "image": self.image.name,
            "width": self.size[0],
            "height": self.size[1],
            "names": list(self.names),
            "limbs": [list(limb) for limb in self.skeleton.limbs],
            "persons": [dict(zip(columns, row, strict=True)) for row in rows],
        }

    def to_json(self) -> str:
        """`to_dict` as text; each keypoint is [x, y, score] in the order of `names`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_csv(self, header: bool = True) -> str:
        """A line for each keypoint of each person: `COLUMNS`; the persons count from 0, or have the ids of tracking."""
        ids = range(len(self)) if self.ids is None else self.ids.tolist()
        rows = [
            (self.image.name, person, f"{total:.4f}", name, f"{x:.3f}", f"{y:.3f}", f"{score:.4f}")
            for person, total, points in zip(ids, self.person_scores, self._points(), strict=True)
            for name, (x, y, score) in zip(self.names, points, strict=True)
        ]
        return csv_text([COLUMNS, *rows] if header else rows)

    def to_supervision(self) -> Any:
        """`supervision.KeyPoints` (0.29 or newer). Raises UserError where that package is not installed."""
        return needs("supervision", extra="supervision").KeyPoints(
            xy=self.keypoints,
            keypoint_confidence=self.scores,
            detection_confidence=self.person_scores.astype(np.float32),
        )
