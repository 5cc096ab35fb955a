"""Draw persons on images: skeletons, boxes, names and scores.

All images are uint8 BGR (H, W, 3), colours too. N persons, K keypoints.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from .skeleton import Skeleton

Colour = tuple[int, int, int]
# Colour-blind readers can tell sky blue, orange and white apart (the first two are Okabe and Ito's).
LEFT, MIDDLE, RIGHT = -1, 0, 1
COLOURS = {LEFT: (233, 180, 86), MIDDLE: (255, 255, 255), RIGHT: (0, 140, 255)}
# Colours of persons, in turn: the other colours of Okabe and Ito.
PERSONS = [(0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (167, 121, 204), (0, 94, 213), (178, 114, 0)]
OUTLINE = (24, 24, 24)

PARTS = ("boxes", "scores", "ids", "names", "ellipses")  # what can be drawn beside the skeletons
COLOR_BY = ("side", "person", "keypoint")

SUBPIXEL_BITS = 4  # OpenCV takes coordinates as integers, here in 1/16 pixel
MAX_COORDINATE = 1e6  # pixels; OpenCV clips, but its integers must hold the coordinate
FONT = cv2.FONT_HERSHEY_SIMPLEX
MIN_TEXT = 6  # pixels: smaller names cannot be read, and would hide a small person
MIN_TAG = 7  # pixels: smaller ids and scores cannot be read
CAPITAL = 21  # pixels: the height of this font's capitals at size 1


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
            raise UserError(f"{unknown[0]!r} cannot be drawn; name some of {', '.join(PARTS)}, or none")
        if self.color_by not in (None, *COLOR_BY):
            raise UserError(f"persons are coloured by {', '.join(COLOR_BY)}, not by {self.color_by!r}")

    def colours(self, skeleton: Skeleton, person: int = 0) -> tuple[list[Colour], list[Colour]]:
        """The colours of the keypoints (K) and of the limbs of a person, given its index or id."""
        by = self._by(skeleton)
        if by == "person":
            own = PERSONS[person % len(PERSONS)]
            return [own] * skeleton.num_joints, [own] * len(skeleton.limbs)
        if by == "keypoint":
            spread = np.linspace(24, 232, skeleton.num_joints).astype(np.uint8)  # without the colour map's dark ends
            joints = cv2.applyColorMap(spread[:, None], cv2.COLORMAP_TURBO).reshape(-1, 3)
            return [(int(b), int(g), int(r)) for b, g, r in joints], [COLOURS[MIDDLE]] * len(skeleton.limbs)
        sides = np.zeros(skeleton.num_joints, int)
        for left, right in skeleton.pairs:
            sides[left], sides[right] = LEFT, RIGHT
        limbs = [COLOURS[int(np.sign(sides[a] + sides[b]))] for a, b in skeleton.limbs]
        return [COLOURS[side] for side in sides.tolist()], limbs

    def key(self, skeleton: Skeleton) -> list[tuple[str, Colour]]:
        """The keypoints' colours for `legend`; empty unless colours are by keypoint."""
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
    """A copy of the BGR image (H, W, 3) with persons: keypoints (N, K, 2) in its pixels and their scores (N, K); for
    one person (K, 2) and (K).

    If `options` name them, these are drawn too: boxes (N, 4: x, y, w, h), person scores (N), ids (N; default: the
    indices), and ellipses around the keypoints, the points p with (p - keypoint)^T M^-1 (p - keypoint) = 1 for matrices
    M (N, K, 2, 2). The line width depends on the sizes of the person and the image. Small persons are drawn last, over
    large ones.
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
        dot = 1.8 if options.key(skeleton) else 1.2  # large enough for its colour to be told
        _person(canvas, keypoints[i], shown[i], skeleton, extents[i], colours, dot)
        if ellipses is not None and "ellipses" in parts:
            _rings(canvas, keypoints[i][shown[i]], ellipses[i][shown[i]], 0.5 * _line_width(canvas, extents[i]))
    taken = list[np.ndarray]()
    for i in order:  # texts last, so that no line crosses them
        joints, _ = options.colours(skeleton, int(numbers[i]))
        if "names" in parts:
            height = min(0.75 * _text_height(canvas), extents[i] / 22)
            for k in np.flatnonzero(shown[i]) if height >= MIN_TEXT else ():
                _write(canvas, skeleton.names[k], keypoints[i, k], height, joints[k], taken)
        words = [f"#{numbers[i]}"] if "ids" in parts else []
        if person_scores is not None and "scores" in parts:
            words.append(f"{person_scores[i]:.2f}")
        if words and (boxes is not None or shown[i].any()):
            on_box = boxes is not None and ("boxes" in parts or not shown[i].any())
            side = extents[i] if boxes is None else max(boxes[i][2:])
            height = min(_text_height(canvas), max(side / 8, MIN_TAG))
            if boxes is not None and on_box:
                corner = boxes[i][:2]
            else:
                points = keypoints[i][shown[i]]
                corner = points[points[:, 1].argmin()] - (height, height)  # above the highest keypoint
            colour = joints[0] if options.color_by == "person" else COLOURS[MIDDLE]
            _tag(canvas, "  ".join(words), corner, height, colour)
    return canvas


def _extent(points: np.ndarray) -> float:
    """The longer side, in pixels, of the box around points (M, 2)."""
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def box(image: np.ndarray, box: np.ndarray, colour: Colour = COLOURS[MIDDLE]) -> np.ndarray:
    """A copy of the BGR image (H, W, 3) with a box: x, y, w, h in its pixels, drawn along its outermost pixels."""
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
    dot: float,
) -> None:
    """`dot` is the radius of a keypoint, in widths of its limbs."""
    line = _line_width(canvas, extent)
    widths = [line] * skeleton.num_joints
    limbs = []
    for (a, b), colour in zip(skeleton.limbs, colours[1], strict=True):
        if shown[a] and shown[b]:
            # Short limbs are thin: else those between eyes and ears would hide the face.
            width = min(line, max(line / 3, float(abs(keypoints[a] - keypoints[b]).max()) / 5))
            widths[a], widths[b] = min(widths[a], width), min(widths[b], width)
            limbs.append((keypoints[a], keypoints[b], colour, width))
    dots = [(keypoints[k], colours[0][k], dot * widths[k]) for k in np.flatnonzero(shown)]
    _paint(canvas, line, limbs, dots)


def _rings(canvas: np.ndarray, points: np.ndarray, matrices: np.ndarray, line: float) -> None:
    """Draw ellipses around points (M, 2), given by matrices (M, 2, 2) as in `persons`."""
    turns = np.linspace(0, 2 * np.pi, 33)
    circle = np.stack([np.cos(turns), np.sin(turns)])
    for point, half in zip(points, np.linalg.cholesky(matrices), strict=True):
        ring = point + (half @ circle).T
        _paint(canvas, line, [(*ends, COLOURS[MIDDLE], line) for ends in pairwise(ring)], [])


def screen_pixel(canvas: np.ndarray) -> float:
    """Image pixels per screen pixel, roughly, if a screen shows the whole image."""
    return max(canvas.shape[:2]) / 1000


def _line_width(canvas: np.ndarray, extent: float) -> float:
    """A line width in pixels for a person or box of this size: visible in the whole image, but not too thick."""
    unit = screen_pixel(canvas)
    return min(max(extent / 70, min(unit, extent / 25), 0.4), 7 * max(1, unit))


def _paint(canvas: np.ndarray, line: float, lines: list, dots: list) -> None:
    """Draw lines (from, to, colour, width) and dots (centre, colour, radius) with a common outline; `line` is the usual
    width. OpenCV's lines are whole pixels wide: finer ones are drawn on an enlarged copy of their surroundings.
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

    limbs = 2 * len(lines)  # points of the lines, then of the dots
    places = _fixed_points((points - first + 0.5) * zoom - 0.5)
    starts, ends, centers = (places[part] for part in (slice(0, limbs, 2), slice(1, limbs, 2), slice(limbs, None)))
    for around in (outline, 0):  # the outline comes first, so that it covers no limb
        for start, end, (_, _, colour, width) in zip(starts, ends, lines, strict=True):
            thickness = max(1, round((width + 2 * around) * zoom))
            cv2.line(large, start, end, OUTLINE if around else colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        for center, (_, colour, radius) in zip(centers, dots, strict=True):
            fixed_radius = round((radius + around) * zoom * (1 << SUBPIXEL_BITS))
            paint = OUTLINE if around else colour
            cv2.circle(large, center, fixed_radius, paint, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
    if zoom > 1:
        patch[:] = cv2.resize(large, patch.shape[1::-1], interpolation=cv2.INTER_AREA)


def _write(
    canvas: np.ndarray, text: str, point: np.ndarray, height: float, colour: Colour, taken: list[np.ndarray]
) -> None:
    """Draw text with an outline beside a point, inside the canvas and beside the texts whose boxes (left, top, right,
    bottom) are `taken`; its own is added to them. Text without room is left out."""
    thin = max(1, round(height / 9))
    width = cv2.getTextSize(text, FONT, height / CAPITAL, thin)[0][0]
    size, others = np.array(canvas.shape[1::-1]), np.reshape(taken, (-1, 4))
    for row, left in product((0, 1, -1, 2, -2, 3, -3), (height, -height - width)):
        x, y = point[0] + left, point[1] + height / 3 + 1.6 * height * row
        own = np.array([x, y - 1.2 * height, x + width, y + 0.4 * height])
        overlaps = ((own[:2] < others[:, 2:]) & (others[:, :2] < own[2:])).all(1)
        if (own[:2] >= 0).all() and (own[2:] <= size).all() and not overlaps.any():
            break
    else:
        return
    taken.append(own)
    place = np.rint([x, y]).astype(int)
    around = thin * np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
    for shift, paint in [(shift, OUTLINE) for shift in around] + [(np.zeros(2, int), colour)]:  # fonts have no outline
        cv2.putText(canvas, text, (place + shift).tolist(), FONT, height / CAPITAL, paint, thin, cv2.LINE_AA)


def _tag(canvas: np.ndarray, text: str, corner: np.ndarray, height: float, colour: Colour) -> None:
    """Draw text on a dark background above a corner, moved into the image if it does not fit."""
    scale, thick, pad = height / CAPITAL, max(1, round(height / 8)), round(height / 2)
    width = cv2.getTextSize(text, FONT, scale, thick)[0][0] + pad
    high = round(height) + pad
    room = np.maximum(np.array(canvas.shape[1::-1]) - (width, high), 0)
    left, top = np.clip(np.asarray(corner) - (0, high), 0, room).astype(int).tolist()
    cv2.rectangle(canvas, (left, top), (left + width, top + high), OUTLINE, cv2.FILLED)
    place = left + pad // 2, top + high - pad // 2
    cv2.putText(canvas, text, place, FONT, scale, colour, thick, cv2.LINE_AA)


def _text_height(canvas: np.ndarray) -> float:
    """The height of capital letters in pixels."""
    return 11 * max(1, screen_pixel(canvas))


def _fixed_points(points: np.ndarray) -> list[tuple[int, int]]:
    fixed = np.rint(np.clip(points, -MAX_COORDINATE, MAX_COORDINATE) * (1 << SUBPIXEL_BITS)).astype(int)
    return [(x, y) for x, y in fixed.tolist()]


def dot(canvas: np.ndarray, center: np.ndarray, colour: Colour, radius: float) -> None:
    (place,) = _fixed_points(center[None])
    fixed_radius = round(radius * (1 << SUBPIXEL_BITS))
    cv2.circle(canvas, place, fixed_radius, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def check_name(path: Path) -> None:
    """Raise UserError if the name's ending is not one of a picture format."""
    if not cv2.haveImageWriter(str(path)):
        raise UserError(f"{path}: no image format has this ending; choose a name that ends in .png")


def encode(image: np.ndarray, path: Path) -> bytes:
    """Write a BGR image in the format of the name's ending. Raises UserError if there is none."""
    check_name(path)
    return cv2.imencode(path.suffix, image)[1].tobytes()
