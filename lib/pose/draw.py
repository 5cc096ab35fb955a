"""Pictures of persons: skeletons on images, contact sheets, crops and heatmaps for debugging.

All images are uint8 BGR, colours too; sizes are (width, height). B batch, N persons, K keypoints, H x W heatmap.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError
from . import geometry
from .skeleton import Skeleton

Colour = tuple[int, int, int]
# Sky blue, orange and white tell the sides apart for colour-blind eyes too (the first two are Okabe and Ito's).
LEFT, MIDDLE, RIGHT = -1, 0, 1
COLOURS = {LEFT: (233, 180, 86), MIDDLE: (255, 255, 255), RIGHT: (0, 140, 255)}
SIDES = [("left, its own", COLOURS[LEFT]), ("right", COLOURS[RIGHT]), ("of no pair", COLOURS[MIDDLE])]
# Of persons, one after the other: the rest of Okabe and Ito's.
PERSONS = [(0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (167, 121, 204), (0, 94, 213), (178, 114, 0)]
OUTLINE = (24, 24, 24)
PAPER, INK = (255, 255, 255), (64, 64, 64)

PARTS = ("boxes", "scores", "ids", "names", "ellipses")  # what may be drawn beside the skeletons
COLOR_BY = ("side", "person", "keypoint")

SUBPIXEL_BITS = 4  # OpenCV takes coordinates as integers, here in 1/16 pixel
MAX_COORDINATE = 1e6  # pixels; drawing clips anyway, but its integers must hold the coordinate
MARGIN = 6
LABEL_HEIGHT, LINE_HEIGHT = 16, 26
TITLE, LABEL = (cv2.FONT_HERSHEY_SIMPLEX, 0.5), (cv2.FONT_HERSHEY_SIMPLEX, 0.4)  # font, size
MIN_TEXT = 6  # pixels: names lower than that cannot be read, and would hide a small person
CAPITAL = 21  # pixels: the height of this font's capitals at size 1
MAX_CROPS, MAX_HEATMAP_ROWS = 32, 8


@dataclass(frozen=True)
class DrawOptions:
    """How persons are drawn: keypoints scored `threshold` or more; with some of `PARTS`, by default the ids of tracked
    persons; coloured by one of `COLOR_BY`, by default by side, or by keypoint if the skeleton has no left/right pairs.

    Scores are the persons', names the keypoints', ellipses the keypoints' uncertainty.
    Raises UserError for other values.
    """

    threshold: float = 0.2
    parts: tuple[str, ...] | None = None
    color_by: str | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise UserError("the threshold of drawn keypoints must be a number, not nan")
        if unknown := [part for part in self.parts or () if part not in PARTS]:
            raise UserError(f"{unknown[0]!r} cannot be drawn; name some of {', '.join(PARTS)}")
        if self.color_by not in (None, *COLOR_BY):
            raise UserError(f"persons are coloured by {', '.join(COLOR_BY)}, not by {self.color_by!r}")

    def colours(self, skeleton: Skeleton, person: int = 0) -> tuple[list[Colour], list[Colour]]:
        """Of the keypoints (K) and of the limbs of a person, by its place or id."""
        by = self._by(skeleton)
        if by == "person":
            own = PERSONS[person % len(PERSONS)]
            return [own] * skeleton.num_joints, [own] * len(skeleton.limbs)
        if by == "keypoint":
            spread = np.linspace(24, 232, skeleton.num_joints).astype(np.uint8)  # without the map's dark ends
            joints = cv2.applyColorMap(spread[:, None], cv2.COLORMAP_TURBO).reshape(-1, 3)
            return [(int(b), int(g), int(r)) for b, g, r in joints], [COLOURS[MIDDLE]] * len(skeleton.limbs)
        sides = np.zeros(skeleton.num_joints, int)
        for left, right in skeleton.pairs:
            sides[left], sides[right] = LEFT, RIGHT
        limbs = [COLOURS[int(np.sign(sides[a] + sides[b]))] for a, b in skeleton.limbs]
        return [COLOURS[side] for side in sides.tolist()], limbs

    def key(self, skeleton: Skeleton) -> list[tuple[str, Colour]]:
        """What the colours of single keypoints mean, for `legend`; nothing where they are coloured otherwise."""
        return (
            list(zip(skeleton.names, self.colours(skeleton)[0], strict=True))
            if self._by(skeleton) == "keypoint"
            else []
        )

    def _by(self, skeleton: Skeleton) -> str:
        return self.color_by or ("side" if skeleton.pairs else "keypoint")


def persons(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    skeleton: Skeleton,
    options: DrawOptions = DrawOptions(),
    *,
    boxes: np.ndarray | None = None,
    person_scores: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    ellipses: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of the BGR image (H, W, 3) with persons: keypoints (N, K, 2) in its pixels and their scores (N, K), of one
    person (K, 2) and (K).

    Boxes (N, 4: x, y, w, h), person scores (N), ids (N), else the persons' places, and ellipses around the keypoints,
    the points p with (p - keypoint)^T M^-1 (p - keypoint) = 1 of matrices M (N, K, 2, 2), are drawn if `options` name
    them.
    Lines are as wide as fits the person and the image. Small persons are drawn last, over the large ones, which stay
    readable where something covers them.
    """
    canvas = image.copy()
    keypoints, scores = keypoints.reshape(-1, *keypoints.shape[-2:]), np.atleast_2d(scores)
    shown = (scores >= options.threshold) & np.isfinite(keypoints).all(-1)
    parts = ({"ids"} if ids is not None else ()) if options.parts is None else options.parts
    numbers = np.arange(len(keypoints)) if ids is None else ids
    extents = [_extent(points[seen]) for points, seen in zip(keypoints, shown, strict=True)]
    order = np.argsort(extents, kind="stable")[::-1]
    for i in order:
        colours = options.colours(skeleton, int(numbers[i]))
        if boxes is not None and "boxes" in parts:
            _frame(canvas, boxes[i], colours[0][0] if options.color_by == "person" else COLOURS[MIDDLE])
        _person(canvas, keypoints[i], shown[i], skeleton, extents[i], colours)
        if ellipses is not None and "ellipses" in parts:
            _rings(canvas, keypoints[i][shown[i]], ellipses[i][shown[i]], 0.5 * _line_width(canvas, extents[i]))
    for i in order:  # texts last, as no line may cross them
        joints, _ = options.colours(skeleton, int(numbers[i]))
        if "names" in parts:
            height = min(0.75 * _text_height(canvas), extents[i] / 22)
            for k in np.flatnonzero(shown[i]) if height >= MIN_TEXT else ():
                _write(canvas, skeleton.names[k], keypoints[i, k], height, joints[k])
        words = [f"#{numbers[i]}"] if "ids" in parts else []
        if person_scores is not None and "scores" in parts:
            words.append(f"{person_scores[i]:.2f}")
        if words and (boxes is not None or shown[i].any()):
            corner = keypoints[i][shown[i]].min(0) if boxes is None else boxes[i][:2]
            _tag(canvas, " ".join(words), corner, joints[0] if options.color_by == "person" else COLOURS[MIDDLE])
    return canvas


def _extent(points: np.ndarray) -> float:
    """The longer side in pixels of the box around points (M, 2)."""
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def box(image: np.ndarray, box: np.ndarray, colour: Colour = COLOURS[MIDDLE]) -> np.ndarray:
    """A copy of the BGR image (H, W, 3) with a box: x, y, w, h in its pixels, drawn along the outermost that it has."""
    canvas = image.copy()
    _frame(canvas, box, colour)
    return canvas


def _frame(canvas: np.ndarray, box: np.ndarray, colour: Colour) -> None:
    (left, top), (right, bottom) = box[:2], box[:2] + box[2:] - 1
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    line = 0.6 * _line_width(canvas, float(max(box[2:])))
    _paint(canvas, line, [(corners[i - 1], corners[i], colour, line) for i in range(4)], [])


def _person(
    canvas: np.ndarray,
    keypoints: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    extent: float,
    colours: tuple[list[Colour], list[Colour]],
) -> None:
    line = _line_width(canvas, extent)
    widths = np.full(skeleton.num_joints, line)
    limbs = []
    for (a, b), colour in zip(skeleton.limbs, colours[1], strict=True):
        if shown[a] and shown[b]:
            # Short limbs are thin, or the limbs between eyes and ears would hide the face.
            width = min(line, max(line / 3, _extent(keypoints[[a, b]]) / 5))
            widths[[a, b]] = np.minimum(widths[[a, b]], width)
            limbs.append((keypoints[a], keypoints[b], colour, width))
    dots = [(keypoints[k], colours[0][k], 1.2 * float(widths[k])) for k in np.flatnonzero(shown)]
    _paint(canvas, line, limbs, dots)


def _rings(canvas: np.ndarray, points: np.ndarray, matrices: np.ndarray, line: float) -> None:
    """Ellipses around points (M, 2), as `persons` says of matrices (M, 2, 2)."""
    turns = np.linspace(0, 2 * np.pi, 33)
    circle = np.stack([np.cos(turns), np.sin(turns)])
    for point, half in zip(points, np.linalg.cholesky(matrices), strict=True):
        ring = point + (half @ circle).T
        _paint(canvas, line, [(*ends, COLOURS[MIDDLE], line) for ends in pairwise(ring)], [])


def _unit(canvas: np.ndarray) -> float:
    """Pixels of the image for about one of a screen that shows the whole."""
    return max(canvas.shape[:2]) / 1000


def _line_width(canvas: np.ndarray, extent: float) -> float:
    """In pixels, for a person or a box so large: seen in the whole image, and no blot on a small person."""
    unit = _unit(canvas)
    return min(max(extent / 70, min(unit, extent / 25), 0.4), 7 * max(1, unit))


def _paint(canvas: np.ndarray, line: float, lines: list, dots: list) -> None:
    """Lines (from, to, colour, width) and dots (centre, colour, radius), all outlined together; `line` is the usual
    width. OpenCV's lines are whole pixels wide: finer ones are painted on an enlarged copy of what is around them.
    """
    outline = 0.25 + 0.2 * line
    points = np.array([*(point for a, b, _, _ in lines for point in (a, b)), *(center for center, _, _ in dots)])
    if not len(points):
        return
    reach, size = 3 * line + outline + 2, canvas.shape[1::-1]
    first = np.clip(np.floor(points.min(0) - reach), 0, size).astype(int)
    last = np.clip(np.ceil(points.max(0) + reach) + 1, 0, size).astype(int)
    if (first >= last).any():
        return
    zoom = math.ceil(3 / line)
    patch = canvas[first[1] : last[1], first[0] : last[0]]
    large = patch if zoom == 1 else cv2.resize(patch, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)

    limbs = 2 * len(lines)  # points of lines, before those of dots
    places = _fixed_points((points - first + 0.5) * zoom - 0.5)
    starts, ends, centers = (places[part] for part in (slice(0, limbs, 2), slice(1, limbs, 2), slice(limbs, None)))
    for around in (outline, 0):  # first of all, so that none of it lies on a limb
        for start, end, (_, _, colour, width) in zip(starts, ends, lines, strict=True):
            thickness = max(1, round((width + 2 * around) * zoom))
            cv2.line(large, start, end, OUTLINE if around else colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        for center, (_, colour, radius) in zip(centers, dots, strict=True):
            fixed_radius = round((radius + around) * zoom * (1 << SUBPIXEL_BITS))
            paint = OUTLINE if around else colour
            cv2.circle(large, center, fixed_radius, paint, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
    if zoom > 1:
        patch[:] = cv2.resize(large, patch.shape[1::-1], interpolation=cv2.INTER_AREA)


def _write(canvas: np.ndarray, text: str, point: np.ndarray, height: float, colour: Colour) -> None:
    """Text with an outline, beside a point."""
    beside = np.clip(point + np.array([height, height / 3]), -MAX_COORDINATE, MAX_COORDINATE)
    place = np.rint(beside).astype(int).tolist()
    thin = max(1, round(height / 9))
    for paint, thickness in ((OUTLINE, 3 * thin), (colour, thin)):
        cv2.putText(canvas, text, place, TITLE[0], height / CAPITAL, paint, thickness, cv2.LINE_AA)


def _tag(canvas: np.ndarray, text: str, corner: np.ndarray, colour: Colour) -> None:
    """Text on a dark ground above a corner, moved into the image where it does not fit there."""
    height = _text_height(canvas)
    scale, thick, pad = height / CAPITAL, max(1, round(height / 8)), round(height / 2)
    width = cv2.getTextSize(text, TITLE[0], scale, thick)[0][0] + pad
    high = round(height) + pad
    room = np.maximum(np.array(canvas.shape[1::-1]) - (width, high), 0)
    left, top = np.clip(np.asarray(corner) - (0, high), 0, room).astype(int).tolist()
    cv2.rectangle(canvas, (left, top), (left + width, top + high), OUTLINE, cv2.FILLED)
    place = left + pad // 2, top + high - pad // 2
    cv2.putText(canvas, text, place, TITLE[0], scale, colour, thick, cv2.LINE_AA)


def _text_height(canvas: np.ndarray) -> float:
    """Of capitals, in pixels."""
    return 11 * max(1, _unit(canvas))


def _fixed_points(points: np.ndarray) -> list[tuple[int, int]]:
    fixed = np.rint(np.clip(points, -MAX_COORDINATE, MAX_COORDINATE) * (1 << SUBPIXEL_BITS)).astype(int)
    return [(x, y) for x, y in fixed.tolist()]


def _dot(canvas: np.ndarray, center: np.ndarray, colour: Colour, radius: float) -> None:
    (place,) = _fixed_points(center[None])
    fixed_radius = round(radius * (1 << SUBPIXEL_BITS))
    cv2.circle(canvas, place, fixed_radius, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def fit(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The BGR image (H, W, 3) scaled to the largest that fits into `size`, and the 2x3 map of its pixels to there."""
    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    stride = np.array(fitted) / (width, height)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, fitted, interpolation=interpolation), np.column_stack([np.diag(stride), (stride - 1) / 2])


def mosaic(
    images: Sequence[np.ndarray],
    columns: int,
    cell: tuple[int, int],
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """A contact sheet, BGR: images (H, W, 3) of any sizes, each fitted into a cell, row by row.

    A row has `columns` cells, fewer if there are fewer images; `labels` stand beneath the images, cut to fit.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step_x, step_y = cell[0] + MARGIN, cell[1] + MARGIN + (LABEL_HEIGHT if labels else 0)
    sheet = np.full((rows * step_y + MARGIN, columns * step_x + MARGIN, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        fitted, _ = fit(image, cell)
        height, width = fitted.shape[:2]
        left = MARGIN + column * step_x + (cell[0] - width) // 2
        top = MARGIN + row * step_y + (cell[1] - height) // 2
        sheet[top : top + height, left : left + width] = fitted
        if labels:
            _label(sheet, labels[i], (MARGIN + column * step_x, MARGIN + row * step_y + cell[1]), cell[0])
    return sheet


def titled(sheet: np.ndarray, text: str) -> np.ndarray:
    """The sheet, BGR, beneath a text of as many lines as it takes."""
    words = [(f"{word} ", _text_width(f"{word} ", TITLE)) for word in text.split()]
    lines = _wrapped(words, sheet.shape[1] - 4 * MARGIN)
    head = np.full((MARGIN + LINE_HEIGHT * len(lines), sheet.shape[1], 3), PAPER, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(head, "".join(line), (2 * MARGIN, number * LINE_HEIGHT - 2), *TITLE, INK, 1, cv2.LINE_AA)
    return np.concatenate([head, sheet])


def legend(picture: np.ndarray, key: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """The picture, BGR, above lines that say what its colours mean: texts and colours. Without any, as it is."""
    if not key:
        return picture
    unit = max(1, _unit(picture))
    font, step, dot, margin = (TITLE[0], TITLE[1] * unit), round(LINE_HEIGHT * unit), 5 * unit, round(2 * MARGIN * unit)
    places = [_text_width(text, font) + round(7 * dot) for text, _ in key]
    width = max(picture.shape[1], max(places) + margin)
    foot: list[np.ndarray] = []
    for line in _wrapped(list(zip(key, places, strict=True)), width - margin):
        strip, left = np.full((step, width, 3), PAPER, np.uint8), margin
        for text, colour in line:
            center = np.array([left + dot, step / 2])
            _dot(strip, center, OUTLINE, dot + unit)
            _dot(strip, center, colour, dot)
            place = round(left + 3 * dot), round(step / 2 + dot)
            cv2.putText(strip, text, place, *font, INK, round(unit), cv2.LINE_AA)
            left += _text_width(text, font) + round(7 * dot)
        foot.append(strip)
    beside = ((0, 0), (0, width - picture.shape[1]), (0, 0))
    return np.concatenate([np.pad(picture, beside, constant_values=PAPER[0]), *foot])


def _wrapped(items: Iterable[tuple[Any, int]], width: int) -> list[list[Any]]:
    """Items and how wide they are -> as many in a line as fit into the width, one at least."""
    lines: list[list[Any]] = [[]]
    used = 0
    for item, wide in items:
        if lines[-1] and used + wide > width:
            lines.append([])
            used = 0
        lines[-1].append(item)
        used += wide
    return lines


def check_name(path: Path) -> None:
    """Raise UserError if the name's ending is not one of a picture format."""
    if not cv2.haveImageWriter(str(path)):
        raise UserError(f"{path}: no picture can be written under this name; end it in .png")


def encode(image: np.ndarray, path: Path) -> bytes:
    """A BGR picture in the format that the file's name ends with. Raises UserError if there is none."""
    check_name(path)
    return cv2.imencode(path.suffix, image)[1].tobytes()


def _label(sheet: np.ndarray, text: str, corner: tuple[int, int], width: int) -> None:
    """One line of text in the middle of a strip `width` wide and `LABEL_HEIGHT` high that starts at the corner."""
    if _text_width(text, LABEL) > width:
        while text and _text_width(text + "...", LABEL) > width:
            text = text[:-1]
        text += "..."
    place = corner[0] + (width - _text_width(text, LABEL)) // 2, corner[1] + LABEL_HEIGHT - 4
    cv2.putText(sheet, text, place, *LABEL, INK, 1, cv2.LINE_AA)


def _text_width(text: str, font: tuple[int, float]) -> int:
    return cv2.getTextSize(text, *font, 1)[0][0]


def crops_with_keypoints(
    crops: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """A grid, BGR, of the first crops of a batch (B, h, w, 3) with their visible keypoints.

    Keypoints (B, K, 2) are in input pixels, visible (B, K) 0 or 1. At most `MAX_CROPS` are shown.
    """
    rows = zip(crops[:MAX_CROPS], keypoints, visible, strict=False)
    drawn = [persons(crop, points, seen, skeleton, DrawOptions(0.5)) for crop, points, seen in rows]
    return mosaic(drawn, columns=8, cell=(crops.shape[2], crops.shape[1]))


def heatmaps(crops: np.ndarray, maps: np.ndarray, keypoints: np.ndarray | None = None) -> np.ndarray:
    """A row for each of the first persons of a batch, BGR: the crop, then each of its K heatmaps over the crop.

    Crops (B, h, w, 3), maps (B, K, H, W) shown from 0 (dark) to 1 (bright), keypoints (B, K, 2) in input pixels,
    dotted where their map is not empty. At most `MAX_HEATMAP_ROWS` persons are shown, at half the crops' size.
    """
    joints, map_height, map_width = maps.shape[1:]
    input_size = crops.shape[2], crops.shape[1]
    origin, one = (geometry.heatmap_to_input(np.full(2, i), (map_width, map_height), input_size) for i in (0, 1))
    to_input = np.column_stack([np.diag(one - origin), origin])
    cell = input_size[0] // 2, input_size[1] // 2

    pictures = []
    for person, crop in enumerate(crops[:MAX_HEATMAP_ROWS]):
        small, to_cell = fit(crop.copy(), cell)
        row = [small]
        for heatmap in maps[person]:
            heat = cv2.warpAffine(heatmap.astype(np.float32), to_input, input_size, flags=cv2.INTER_LINEAR)
            row.append(_overlay(small, fit(heat, cell)[0]))
        if keypoints is not None:
            for joint in np.flatnonzero((maps[person] > 0).any((1, 2)) & np.isfinite(keypoints[person]).all(-1)):
                place = geometry.apply(to_cell, keypoints[person, joint])
                _dot(small, place, OUTLINE, 2.5)
                for picture in (small, row[1 + joint]):
                    _dot(picture, place, COLOURS[LEFT], 1.5)
        pictures += row
    return mosaic(pictures, columns=1 + joints, cell=cell)


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat (H, W) from 0 to 1 in colours over a darkened, grey image of the same size."""
    heat = np.clip(heat, 0, 1)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = heat[..., None]
    return (0.45 * grey * (1 - weight) + colours * weight).astype(np.uint8)
