"""Coordinates: box -> crop (centre, scale) -> affine maps to the network's input and to the heatmap, and back.

The conventions are DARK's (CVPR 2020, arXiv 1910.06278), not HRNet's: a crop of width w spans w - 1 pixel steps,
so size - 1 goes to size - 1 and nothing is shifted by a half or a quarter of a pixel.

N boxes or crops, K points. Boxes are COCO's x, y, w, h and all coordinates are pixel centres, x to the right and
y down. `scale` is HRNet's: the crop's width and height in units of `PIXEL_STD` image pixels.
"""

import ctypes
import math

import numpy as np

PIXEL_STD = 200.0  # image pixels per unit of `scale`; HRNet's constant, from the MPII annotations
PADDING = 1.25  # a crop shows this many times the box


def clean_boxes(boxes: np.ndarray, image_sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip annotated boxes (N, 4) to images of `image_sizes` (N, 2: width, height).

    A box that begins left of or above its image is moved to its edge, width and height kept, as published. Returns the
    clean boxes (N, 4) and which of them (N, bool) are boxes that show some of the image.
    """
    x1, y1 = np.maximum(boxes[:, 0], 0), np.maximum(boxes[:, 1], 0)
    x2 = np.minimum(image_sizes[:, 0] - 1, x1 + np.maximum(boxes[:, 2] - 1, 0))
    y2 = np.minimum(image_sizes[:, 1] - 1, y1 + np.maximum(boxes[:, 3] - 1, 0))
    begins_or_ends_in = ((boxes[:, :2] >= 0) | (boxes[:, :2] + boxes[:, 2:] > 0)).all(1)
    sides = boxes[:, 2:]
    shown = (x2 >= x1) & (y2 >= y1) & (sides >= 0).all(1) & (sides > 0).any(1) & begins_or_ends_in
    return np.stack([x1, y1, x2 - x1 + 1, y2 - y1 + 1], axis=1), shown


def in_image(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) are not empty and overlap their images (N, 2 or 2: width, height)."""
    start, extent = boxes[:, :2], boxes[:, 2:]
    return ((extent > 0) & (start < image_sizes) & (start + extent > 0)).all(1)


def fit_aspect(width: np.ndarray, height: np.ndarray, aspect: float) -> np.ndarray:
    """Grow the shorter side until width / height is `aspect`; returns (..., 2) in the same units."""
    return np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=-1)


def boxes_to_crops(boxes: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """The crops of boxes: the box, grown to the input's shape about its centre and then by `PADDING`.

    Args:
        boxes: (N, 4), x, y, w, h in image pixels.
        aspect: Width / height of the network's input.

    Returns:
        Centres (N, 2) in image pixels and scales (N, 2), float32.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    center = (boxes[:, :2] + (boxes[:, 2:] - 1) * 0.5).astype(np.float32)
    scale = (fit_aspect(boxes[:, 2], boxes[:, 3], aspect) / PIXEL_STD).astype(np.float32)
    return center, scale * np.float32(PADDING)


def has_crop(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which crops (N, bool) have distinct corners in float32; tiny and very distant ones do not."""
    half_width = np.abs(scale[:, 0] * PIXEL_STD - 1) / 2
    return half_width > np.spacing(np.abs(center).max(1))


def crop_areas(scale: np.ndarray) -> np.ndarray:
    """Area (N) in square image pixels of crops with `scale` (N, 2): OKS-NMS uses it as the person's."""
    return np.prod(scale * PIXEL_STD, axis=-1)


def _single(value: float) -> float:
    """Round to float32; NumPy takes three times as long."""
    return ctypes.c_float(value).value


def _triangle(x: float, y: float, up_x: float, up_y: float) -> tuple[float, ...]:
    """Six coordinates, float32: a point, a second one, and the corner that completes a right angle at the second."""
    return x, y, up_x, up_y, _single(up_x - _single(y - up_y)), _single(up_y + _single(x - up_x))


def crop_to_output(
    center: np.ndarray, scale: np.ndarray, rotation: float, size: tuple[int, int], inverse: bool = False
) -> np.ndarray:
    """The affine map from image pixels to the pixels of a crop's input or heatmap.

    It is the solution for three corresponding points (centre, half the crop's width above it, and their perpendicular)
    that are rounded to float32 first, as in the published system: a closed form differs by up to 1.7e-3 input pixels.

    Args:
        center: (2), in image pixels.
        scale: (2), as `boxes_to_crops` gives it.
        rotation: Degrees by which the content turns counter-clockwise.
        size: Width and height of the output in pixels.
        inverse: Give the map from the output to the image instead.

    Returns:
        (2, 3), float64.
    """
    # Plain numbers: arrays of three points would take several times as long.
    up = float((scale[0] * PIXEL_STD - 1) * -0.5)  # y points down
    angle = math.radians(rotation)
    x, y = _single(center[0]), _single(center[1])
    source = _triangle(x, y, _single(x - up * math.sin(angle)), _single(y + up * math.cos(angle)))
    x, y = (size[0] - 1) * 0.5, (size[1] - 1) * 0.5
    target = _triangle(x, y, x, _single(y - x))
    return _affine(target, source) if inverse else _affine(source, target)


def _affine(source: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    """The 2x3 map that takes three points to three others."""
    x, y, x1, y1, x2, y2 = source
    u, v, u1, v1, u2, v2 = target
    x1, y1, x2, y2 = x1 - x, y1 - y, x2 - x, y2 - y
    u1, v1, u2, v2 = u1 - u, v1 - v, u2 - u, v2 - v
    area = x1 * y2 - x2 * y1
    a, b = (u1 * y2 - u2 * y1) / area, (u2 * x1 - u1 * x2) / area
    c, d = (v1 * y2 - v2 * y1) / area, (v2 * x1 - v1 * x2) / area
    return np.array([[a, b, u - a * x - b * y], [c, d, v - c * x - d * y]])


def half_extent(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half the width and height (2), in image pixels, of the part that an output of `size` shows; `matrix` (2, 3)."""
    cosine, sine = np.abs(matrix[0, :2])
    across, down = size
    return np.array([cosine * across + sine * down, sine * across + cosine * down]) / (cosine**2 + sine**2) / 2


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 2) by a 2x3 matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def heatmap_to_input(points: np.ndarray, heatmap_size: tuple[int, int], input_size: tuple[int, int]) -> np.ndarray:
    """Heatmap pixels to input pixels of the same crop, points (..., 2), sizes (width, height).

    Both show the crop around their own centre with size - 1 steps across its width, so this is not just the stride.
    """
    stride = (input_size[0] - 1) / (heatmap_size[0] - 1)
    return (points - (np.array(heatmap_size) - 1) / 2) * stride + (np.array(input_size) - 1) / 2


def flip_points(points: np.ndarray, width: int) -> np.ndarray:
    """Mirror points (..., 2) in an image `width` pixels wide; exchanging left and right joints is the caller's."""
    return points * np.array([-1, 1]) + np.array([width - 1, 0])
