"""The result for one image: its persons with their keypoints, and the formats to save it in.

N persons, K keypoints; boxes are x, y, w, h; coordinates are image pixels, of the rotated image if EXIF is applied.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from ..errors import UserError, needs
from ..pose import draw, sheets
from ..pose.draw import DrawOptions
from ..pose.skeleton import Skeleton
from ..runtime.files import csv_text, write_atomically
from .image import InputImage
from .uncertainty import Uncertainty

PIXELS, SCORE = 2, 4  # decimals of coordinates and of scores in files
# Columns of to_csv and to_dataframe: a row per keypoint. Frame, time and track may be empty.
CSV_COLUMNS = (
    *("image", "frame", "time", "person", "track", "box_x", "box_y", "box_w", "box_h", "box_score", "person_score"),
    *("keypoint", "x", "y", "score"),
)


def rounded(values: np.ndarray, decimals: int) -> np.ndarray:
    """Rounded in float64, whose text has no more digits than that."""
    return values.astype(np.float64).round(decimals)


def _options(threshold: float, parts: Iterable[str] | None, color_by: str | None) -> DrawOptions:
    parts = [parts] if isinstance(parts, str) else parts
    return DrawOptions(threshold, None if parts is None else tuple(parts), color_by)


class Keypoint(NamedTuple):
    """A keypoint in image pixels."""

    x: float
    y: float
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Pose:
    """A person of a result: keypoints (K, 2), their scores (K), score, box (4), box_score, and an id if tracked."""

    keypoints: np.ndarray
    scores: np.ndarray
    score: float
    box: np.ndarray
    box_score: float
    id: int | None
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Keypoint:
        """The keypoint of that name, rounded as in files. Raises UserError for an unknown name."""
        if not isinstance(name, str):
            raise UserError(f"a person's keypoints are named, as in ['{self.names[0]}'], not numbered ({name!r})")
        if name not in self.names:
            nearest = difflib.get_close_matches(name, self.names, n=1, cutoff=0)[0]
            raise UserError(f"there is no keypoint {name!r}; the nearest is {nearest!r}")
        place = self.names.index(name)
        x, y = rounded(self.keypoints[place], PIXELS).tolist()
        return Keypoint(x, y, round(float(self.scores[place]), SCORE))

    def __iter__(self) -> Iterator[str]:
        """The keypoints' names, so that dict(person) maps them to keypoints."""
        return iter(self.names)

    def keys(self) -> tuple[str, ...]:
        return self.names

    def __repr__(self) -> str:
        x, y, w, h = self.box
        number = "" if self.id is None else f"id {self.id}, "
        return (
            f"<Pose: {number}score {self.score:.2f}, box {x:.0f},{y:.0f},{w:.0f},{h:.0f}, {len(self.names)} keypoints>"
        )


@dataclass(frozen=True, eq=False, repr=False)
class PoseResult:
    """The persons of an image, in the order of their boxes.

    `keypoints` (N, K, 2) and `scores` (N, K) are float32; `person_scores` (N) are the box's score times the mean of the
    keypoint scores that count, as in COCO results; `boxes` (N, 4) and `box_scores` (N) are as given or detected; `size`
    is the image's width and height; `ids` (N) is None unless persons are tracked; `uncertainty` of the keypoints is
    None unless the network has a calibration (tools/calibrate.py).

    `result[0]` is the first person, a `Pose`, and `result[0]["left_wrist"]` its keypoint: x, y, score. A notebook shows
    the drawn image."""

    image: InputImage
    size: tuple[int, int]
    keypoints: np.ndarray
    scores: np.ndarray
    person_scores: np.ndarray
    boxes: np.ndarray
    box_scores: np.ndarray
    skeleton: Skeleton
    ids: np.ndarray | None = None
    uncertainty: Uncertainty | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    @overload
    def __getitem__(self, place: int) -> Pose: ...

    @overload
    def __getitem__(self, place: slice) -> list[Pose]: ...

    def __getitem__(self, place: int | slice) -> Pose | list[Pose]:
        """A person, or a list of them for a slice. Raises IndexError if there is no such person."""
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        return Pose(
            self.keypoints[place],
            self.scores[place],
            float(self.person_scores[place]),
            self.boxes[place],
            float(self.box_scores[place]),
            None if self.ids is None else int(self.ids[place]),
            self.names,
        )

    def __iter__(self) -> Iterator[Pose]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        name = Path(self.image.name).name
        return f"<PoseResult: {name}, {self.size[0]} x {self.size[1]} pixels, {len(self)} {self.skeleton.noun}(s)>"

    def _repr_jpeg_(self) -> bytes:
        return draw.encode(self.picture(DrawOptions()), Path("notebook.jpg"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the K keypoints."""
        return self.skeleton.names

    def draw(
        self, threshold: float = 0.2, parts: Iterable[str] | None = None, color_by: str | None = None
    ) -> np.ndarray:
        """A copy of the image (H, W, 3), uint8, with the persons drawn on it (`draw.DrawOptions`): keypoints scored
        `threshold` or more; `parts` may add "boxes", "scores", "ids", "names" and "ellipses"; colours are by "side",
        "person" or "keypoint". Colours by keypoint add a legend below the image, which makes the copy higher.

        Its channels are RGB, or BGR for an image of that `color`. Raises UserError for unknown parts and colours.
        """
        picture = self.picture(_options(threshold, parts, color_by))
        return picture if self.image.color == "BGR" else picture[..., ::-1].copy()

    def save(
        self,
        path: str | Path,
        threshold: float = 0.2,
        parts: Iterable[str] | None = None,
        color_by: str | None = None,
    ) -> None:
        """Save the image of `draw`, replacing an existing file. Raises UserError if it cannot be written."""
        self.write(Path(path), _options(threshold, parts, color_by))

    def write(self, path: Path, options: DrawOptions) -> None:
        """As `save`, with the options in one object."""
        content = draw.encode(self.picture(options), path)
        write_atomically(path, lambda file: file.write(content))

    def picture(self, options: DrawOptions) -> np.ndarray:
        """The image of `draw`, in BGR."""
        ellipses = self.uncertainty.ellipses() if self.uncertainty else None
        if ellipses is None and "ellipses" in (options.parts or ()):
            raise UserError(
                f"{self.image.label}: ellipses need a calibration with covariances, and the network has none; "
                "tools/calibrate.py makes one"
            )
        persons = {"boxes": self.boxes, "person_scores": self.person_scores, "ids": self.ids, "ellipses": ellipses}
        image = self.image.pixels()
        drawn = draw.persons(image, self.keypoints, self.scores, self.skeleton, options, **persons)
        return sheets.legend(drawn, options.key(self.skeleton))

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO keypoint results: one dict per person, each keypoint as x, y, score. Not rounded: AP stays exact."""
        points = np.concatenate([self.keypoints, self.scores[..., None]], 2, dtype=np.float64)
        return [
            {"image_id": image_id, "category_id": category_id, "keypoints": own.ravel().tolist(), "score": score}
            for own, score in zip(points, self.person_scores.tolist(), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values: those of `header` and of `found`."""
        return self.header() | self.found()

    def header(self) -> dict[str, Any]:
        """What all frames of a video share: name and size, the category, the keypoints' names and the limbs."""
        return {
            "image": self.image.frame.video if self.image.frame else self.image.name,
            "width": self.size[0],
            "height": self.size[1],
            "category": self.skeleton.category,
            "names": list(self.names),
            "limbs": [list(limb) for limb in self.skeleton.limbs],
        }

    def found(self) -> dict[str, Any]:
        """The persons; each keypoint is [x, y, score]. For a video, the frame's number and time come first."""
        keypoints, scores = rounded(self.keypoints, PIXELS), rounded(self.scores, SCORE)
        columns = {
            "box": rounded(self.boxes, PIXELS),
            "box_score": rounded(self.box_scores, SCORE),
            "score": rounded(self.person_scores, SCORE),
            "keypoints": np.concatenate([keypoints, scores[..., None]], 2),
        } | ({} if self.ids is None else {"id": self.ids})
        columns |= self.uncertainty.columns() if self.uncertainty else {}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        frame = self.image.frame
        place = {"frame": frame.number, "time": round(frame.time, 4)} if frame else {}
        return place | {f"{self.skeleton.noun}s": [dict(zip(columns, row, strict=True)) for row in rows]}

    def to_json(self) -> str:
        """`to_dict` as text; each keypoint is [x, y, score] in the order of `names`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def _rows(self) -> Iterator[tuple]:
        """The values of `CSV_COLUMNS` for each keypoint of each person."""
        told = self.found()
        image = (self.header()["image"], told.get("frame"), told.get("time"))
        for number, person in enumerate(told[f"{self.skeleton.noun}s"]):
            own = (number, person.get("id"), *person["box"], person["box_score"], person["score"])
            for name, point in zip(self.names, person["keypoints"], strict=True):
                yield (*image, *own, name, *point)

    def columns(self) -> list[str]:
        """`CSV_COLUMNS`, with "instance" for "person" if the network finds something else."""
        return [name.replace("person", self.skeleton.noun) for name in CSV_COLUMNS]

    def to_csv(self, header: bool = True) -> str:
        """`columns` as CSV: a line for each keypoint of each person; persons count from 0."""
        return csv_text([self.columns(), *self._rows()] if header else self._rows())

    def to_dataframe(self) -> Any:
        """The rows of `to_csv` as a `pandas.DataFrame`. Raises UserError if pandas is not installed."""
        return needs("pandas", extra="pandas").DataFrame(list(self._rows()), columns=self.columns())

    def to_supervision(self) -> Any:
        """`supervision.KeyPoints` (0.29 or newer). Raises UserError if supervision is not installed."""
        return needs("supervision", extra="supervision").KeyPoints(
            xy=self.keypoints,
            keypoint_confidence=self.scores,
            detection_confidence=self.person_scores.astype(np.float32),
        )
