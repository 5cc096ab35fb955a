"""Pictures of persons: skeletons on images, contact sheets, crops and heatmaps for debugging.

All images are uint8 BGR, colours too; sizes are (width, height). B batch, N persons, K keypoints, H x W heatmap.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from . import geometry
from .skeleton import Skeleton

# Sky blue, orange and white tell the sides apart for colour-blind eyes too (the first two are Okabe and Ito's).
LEFT, MIDDLE, RIGHT = -1, 0, 1
COLOURS = {LEFT: (233, 180, 86), MIDDLE: (255, 255, 255), RIGHT: (0, 140, 255)}
OUTLINE = (24, 24, 24)
PAPER, INK = (255, 255, 255), (64, 64, 64)

SUBPIXEL_BITS = 4  # OpenCV takes coordinates as integers, here in 1/16 pixel
MAX_COORDINATE = 1e6  # pixels; drawing clips anyway, but its integers must hold the coordinate
MARGIN = 6
LABEL_HEIGHT = 16
TITLE, LABEL = (cv2.FONT_HERSHEY_SIMPLEX, 0.5), (cv2.FONT_HERSHEY_SIMPLEX, 0.4)  # font, size
MAX_CROPS, MAX_HEATMAP_ROWS = 32, 8


def persons(
    image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, skeleton: Skeleton, threshold: float = 0.2
) -> np.ndarray:
    """A copy of the BGR image (H, W, 3) with persons: keypoints (N, K, 2) in its pixels scored `threshold` or more.

    Of one person keypoints and scores may be (K, 2) and (K).

    Small persons are drawn last, over the large ones, which stay readable where something covers them.
    """
    canvas = image.copy()
    keypoints, scores = keypoints.reshape(-1, *keypoints.shape[-2:]), np.atleast_2d(scores)
    shown = (scores >= threshold) & np.isfinite(keypoints).all(-1)
    extents = [_extent(points[seen]) for points, seen in zip(keypoints, shown, strict=True)]
    for i in np.argsort(extents, kind="stable")[::-1]:
        _person(canvas, keypoints[i], shown[i], skeleton, extents[i])
    return canvas


def _extent(points: np.ndarray) -> float:
    """The longer side in pixels of the box around points (M, 2)."""
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A copy of the BGR image (H, W, 3) with a box: x, y, w, h in its pixels, drawn along the outermost that it has."""
    canvas = image.copy()
    first, last = _fixed_point(box[:2]), _fixed_point(box[:2] + box[2:] - 1)
    width = _line_width(max(image.shape[:2]) / 250)
    for colour, line in ((OUTLINE, width + 2), (COLOURS[MIDDLE], width)):
        cv2.rectangle(canvas, first, last, colour, line, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _person(canvas: np.ndarray, keypoints: np.ndarray, shown: np.ndarray, skeleton: Skeleton, extent: float) -> None:
    sides = np.zeros(skeleton.num_joints, int)
    for left, right in skeleton.pairs:
        sides[left], sides[right] = LEFT, RIGHT
    widths = np.full(skeleton.num_joints, _line_width(extent / 70))
    limbs = []
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            # Short limbs are thin, or the limbs between eyes and ears would hide the face.
            width = min(_line_width(extent / 70), _line_width(_extent(keypoints[[a, b]]) / 5))
            widths[[a, b]] = np.minimum(widths[[a, b]], width)
            limbs.append((keypoints[a], keypoints[b], COLOURS[int(np.sign(sides[a] + sides[b]))], width))
    joints = [(keypoints[k], COLOURS[int(sides[k])], 0.75 * float(widths[k]) + 0.75) for k in np.flatnonzero(shown)]

    # First the outline of the whole person, so that none of it lies on a limb.
    for outline in (1, 0):
        for start, end, colour, width in limbs:
            places, paint = (_fixed_point(start), _fixed_point(end)), OUTLINE if outline else colour
            cv2.line(canvas, *places, paint, width + 2 * outline, cv2.LINE_AA, SUBPIXEL_BITS)
        for center, colour, radius in joints:
            _dot(canvas, center, OUTLINE if outline else colour, radius + outline)


def _line_width(pixels: float) -> int:
    return round(min(max(pixels, 1), 7))


def _fixed_point(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(np.clip(point, -MAX_COORDINATE, MAX_COORDINATE) * (1 << SUBPIXEL_BITS)).astype(int).tolist()
    return x, y


def _dot(canvas: np.ndarray, center: np.ndarray, colour: tuple[int, int, int], radius: float) -> None:
    fixed_radius = round(radius * (1 << SUBPIXEL_BITS))
    cv2.circle(canvas, _fixed_point(center), fixed_radius, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


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


def titled(sheet: np.ndarray, text: str, sides: bool = False) -> np.ndarray:
    """The sheet, BGR, beneath a text of as many lines as it takes; with `sides` a last line explains the colours."""
    step, dot, left = round(1.6 * LABEL_HEIGHT), round(LABEL_HEIGHT / 3), 2 * MARGIN
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and left + _text_width(longer, TITLE) > sheet.shape[1] - left:
            lines.append(word)
        else:
            lines[-1] = longer
    head = np.full((MARGIN + step * (len(lines) + sides), sheet.shape[1], 3), PAPER, np.uint8)

    def write(text: str, left: int, line: int) -> None:
        cv2.putText(head, text, (left, line * step - dot // 2), *TITLE, INK, 1, cv2.LINE_AA)

    for line, text in enumerate(lines, start=1):
        write(text, left, line)
    for name, side in (("left, its own", LEFT), ("right", RIGHT), ("of no pair", MIDDLE)) if sides else ():
        center = np.array([left + dot, (len(lines) + 1) * step - dot])
        _dot(head, center, OUTLINE, dot + 1)
        _dot(head, center, COLOURS[side], dot)
        write(name, left + 3 * dot, len(lines) + 1)
        left += _text_width(name, TITLE) + 7 * dot
    return np.concatenate([head, sheet])


def check_name(path: Path) -> None:
    """Raise UserError if the name's ending is not one of a picture format."""
    if not cv2.haveImageWriter(str(path)):
        raise UserError(f"{path}: no picture can be written under this name; let it end in .png")


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
    drawn = [persons(crop, points, seen, skeleton, threshold=0.5) for crop, points, seen in rows]
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
