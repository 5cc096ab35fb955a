"""Pictures for a report: contact sheets with titles and legends, and a batch's crops and heatmaps.

All images are uint8 BGR, colours too; sizes are (width, height). B batch, K keypoints, H x W heatmap.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from . import draw, geometry
from .draw import COLOURS, LEFT, MIDDLE, RIGHT, Colour, DrawOptions
from .skeleton import Skeleton

SIDES = [
    ("left (its own)", COLOURS[LEFT]),
    ("right", COLOURS[RIGHT]),
    ("unpaired", COLOURS[MIDDLE]),
]  # entries of `legend`
PAPER, INK = (255, 255, 255), (64, 64, 64)
MARGIN = 6
LABEL_HEIGHT, LINE_HEIGHT = 16, 26
TITLE, LABEL = (draw.FONT, 0.5), (draw.FONT, 0.4)  # font, size
MAX_CROPS, MAX_HEATMAP_ROWS = 32, 8


def fit(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The BGR image (H, W, 3), scaled to fit into `size`, and the 2x3 map from its pixels to the scaled ones."""
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
    """A contact sheet, BGR: images (H, W, 3) of any sizes, each scaled to fit a cell, row by row.

    A row has at most `columns` cells; `labels` are below the images, cut to fit.
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
    """The sheet, BGR, below a text, which may have several lines."""
    words = [(f"{word} ", _text_width(f"{word} ", TITLE)) for word in text.split()]
    lines = _wrapped(words, sheet.shape[1] - 4 * MARGIN)
    head = np.full((MARGIN + LINE_HEIGHT * len(lines), sheet.shape[1], 3), PAPER, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(head, "".join(line), (2 * MARGIN, number * LINE_HEIGHT - 2), *TITLE, INK, 1, cv2.LINE_AA)
    return np.concatenate([head, sheet])


def legend(picture: np.ndarray, key: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """The image, BGR, above a legend of texts and their colours; without entries, unchanged."""
    if not key:
        return picture
    unit = max(1, draw.screen_pixel(picture))
    font, step, dot, margin = (TITLE[0], TITLE[1] * unit), round(LINE_HEIGHT * unit), 5 * unit, round(2 * MARGIN * unit)
    places = [_text_width(text, font) + round(7 * dot) for text, _ in key]
    width = max(picture.shape[1], max(places) + margin)
    foot: list[np.ndarray] = []
    for line in _wrapped(list(zip(key, places, strict=True)), width - margin):
        strip, left = np.full((step, width, 3), PAPER, np.uint8), margin
        for text, colour in line:
            center = np.array([left + dot, step / 2])
            draw.dot(strip, center, draw.OUTLINE, dot + unit)
            draw.dot(strip, center, colour, dot)
            place = round(left + 3 * dot), round(step / 2 + dot)
            cv2.putText(strip, text, place, *font, INK, round(unit), cv2.LINE_AA)
            left += _text_width(text, font) + round(7 * dot)
        foot.append(strip)
    beside = ((0, 0), (0, width - picture.shape[1]), (0, 0))
    return np.concatenate([np.pad(picture, beside, constant_values=PAPER[0]), *foot])


def _wrapped(items: Iterable[tuple[Any, int]], width: int) -> list[list[Any]]:
    """Items and their widths -> lines that fit into the width, with at least one item each."""
    lines: list[list[Any]] = [[]]
    used = 0
    for item, wide in items:
        if lines[-1] and used + wide > width:
            lines.append([])
            used = 0
        lines[-1].append(item)
        used += wide
    return lines


def _label(sheet: np.ndarray, text: str, corner: tuple[int, int], width: int) -> None:
    """Draw a line of text, centred in a strip of `width` x `LABEL_HEIGHT` pixels that starts at the corner."""
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
    drawn = [draw.persons(crop, points, seen, skeleton, DrawOptions(0.5)) for crop, points, seen in rows]
    return mosaic(drawn, columns=8, cell=(crops.shape[2], crops.shape[1]))


def heatmaps(crops: np.ndarray, maps: np.ndarray, keypoints: np.ndarray | None = None) -> np.ndarray:
    """A row for each of the first persons of a batch, BGR: the crop, then each of its K heatmaps over the crop.

    Crops (B, h, w, 3), maps (B, K, H, W) shown from 0 (dark) to 1 (bright), keypoints (B, K, 2) in input pixels,
    dotted if their map is not empty. At most `MAX_HEATMAP_ROWS` persons are shown, at half the crops' size.
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
                draw.dot(small, place, draw.OUTLINE, 2.5)
                for picture in (small, row[1 + joint]):
                    draw.dot(picture, place, COLOURS[LEFT], 1.5)
        pictures += row
    return mosaic(pictures, columns=1 + joints, cell=cell)


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat (H, W) from 0 to 1 in colours over a darkened, grey image of the same size."""
    heat = np.clip(heat, 0, 1)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = heat[..., None]
    return (0.45 * grey * (1 - weight) + colours * weight).astype(np.uint8)
