"""Attention maps of one person: the locations in the crop that a keypoint, or any point, attends to.

K keypoints, H x W the encoder's grid, Q queries, R rows of maps (a layer, or one of its heads). Points are x, y in crop
pixels unless said otherwise. Crop pixels are those of the network's input, at whatever size the crop is shown.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..core.predict import TestOptions, normalise
from ..dataset.topdown import TopDownDataset, crop_instance
from ..errors import UserError
from ..models.backends import input_size
from ..models.transpose import TransPose
from ..pose import geometry, heatmap
from ..pose.skeleton import Skeleton
from .attention import Attention

SHOWN_HEIGHT = 512  # smallest height in pixels of a crop's picture
Place = str | tuple[float, float]  # a keypoint's name, or a point in crop pixels

# mode -> the meaning of its maps
MODES = {
    "dependency": "attention that the starred location pays to others",
    "affect": "attention that others pay to the starred location",
    "rollout": "attention rollout from the starred location",
    "gradient": "relevance of others for the starred keypoint",
}
OVER_LAYERS = ("rollout", "gradient")  # these combine all heads, and the layers up to one


@dataclass(frozen=True)
class Query:
    """A location to explain: `token` is the index of its cell in the encoder's grid, row by row.

    `label` is a keypoint's name, or a point's coordinates in image pixels.
    """

    label: str
    point: tuple[float, float]
    token: int
    keypoint: int | None = None


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps (R, Q, H, W), float64, one for each row and query."""

    values: np.ndarray
    rows: tuple[str, ...]
    queries: tuple[Query, ...]
    mode: str


def kept(weights: np.ndarray, threshold: float = 0.0, share: float = 0.0) -> np.ndarray:
    """A map's weights (H, W), with 0 for those below `threshold`, or below `share` of the map's largest."""
    return np.where(weights >= max(threshold, share * weights.max()), weights, 0)


@dataclass(frozen=True, eq=False)
class Explanation:
    """The attention of a network on one person of an image, without flip test.

    `picture` (h, w, 3), uint8 RGB, shows the crop, in more pixels than the network's `size` (width, height) has;
    `keypoints` (K, 2) in crop pixels and their `scores` (K) are decoded as in testing, `peaks` (K, 2) are the maxima
    of the heatmaps and `tokens` (K) the cells that they come from; `to_crop` (2, 3) maps image pixels to crop pixels;
    `box` is x, y, w, h in image pixels.
    """

    picture: np.ndarray
    size: tuple[int, int]
    keypoints: np.ndarray
    scores: np.ndarray
    peaks: np.ndarray
    tokens: np.ndarray
    to_crop: np.ndarray
    box: np.ndarray
    skeleton: Skeleton
    attention: Attention

    @property
    def names(self) -> tuple[str, ...]:
        return self.skeleton.names

    @property
    def factor(self) -> int:
        """Picture pixels per crop pixel, in width and height."""
        return self.picture.shape[0] // self.size[1]

    @property
    def num_layers(self) -> int:
        return self.attention.num_layers

    @property
    def num_heads(self) -> int:
        return self.attention.heads

    def in_crop(self, point: Sequence[float]) -> tuple[float, float]:
        """A point in image pixels -> crop pixels. Raises UserError for one outside the crop."""
        x, y = geometry.apply(self.to_crop, np.asarray(point)).tolist()
        width, height = self.size
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            (left, top), (right, bottom) = self.in_image((-0.5, -0.5)), self.in_image((width - 0.5, height - 0.5))
            raise UserError(
                f"the point ({point[0]:g}, {point[1]:g}) is outside the person's crop, which shows the image's "
                f"x {left:.0f} to {right:.0f} and y {top:.0f} to {bottom:.0f}"
            )
        return x, y

    def in_image(self, point: Sequence[float]) -> tuple[float, float]:
        """A point in crop pixels -> image pixels."""
        x, y = np.linalg.solve(self.to_crop[:, :2], np.asarray(point) - self.to_crop[:, 2]).tolist()
        return x, y

    def in_box(self) -> np.ndarray:
        """The cells (H, W, bool) whose centre is inside the person's box."""
        corners = geometry.apply(self.to_crop, np.stack([self.box[:2] - 0.5, self.box[:2] + self.box[2:] - 0.5]))
        centers = cell_centers(self.attention.grid, self.attention.stride)
        return ((centers >= corners[0]) & (centers <= corners[1])).all(-1)

    def query(self, place: Place) -> Query:
        """The query of a keypoint (at its heatmap's maximum) or of a point. Raises UserError if there is none."""
        if isinstance(place, str):
            keypoint = keypoint_index(place, self.skeleton)
            if self.scores[keypoint] <= 0:
                raise UserError(f"the heatmap of {place} is not positive anywhere on this person, so it has no maximum")
            x, y = self.peaks[keypoint].tolist()
            return Query(place, (x, y), int(self.tokens[keypoint]), keypoint)
        x, y = place
        token = token_at(x, y, self.attention.grid, self.attention.stride)
        label = ", ".join(f"{round(value, 1) + 0.0:g}" for value in self.in_image(place))  # no -0
        return Query(f"({label})", (x, y), token)

    def found(self, threshold: float = 0.2) -> list[str]:
        """The names of the keypoints scored `threshold` or more."""
        return [name for name, score in zip(self.names, self.scores, strict=True) if score >= max(threshold, 1e-9)]

    def maps(
        self,
        places: Sequence[Place] | None = None,
        mode: str = "dependency",
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> Maps:
        """The maps of `places` (default: every keypoint `found`) in `layers` (all), for each of `heads`, or their mean.

        `mode` is a key of MODES; layers and heads count from 0. Rollout and gradient combine all heads, and the layers
        from the first to the named one; gradient is for keypoints only. Raises UserError for unknown names and numbers.
        """
        if mode not in MODES:
            raise UserError(f"there is no mode {mode!r}; choose from {', '.join(MODES)}")
        if mode in OVER_LAYERS and heads is not None:
            raise UserError(f"{mode} combines all heads: leave out the heads, or choose dependency or affect")
        layers = _counted("layer", layers, self.num_layers)
        queries = tuple(self.query(place) for place in (self.found() if places is None else places))
        if not queries:
            raise UserError("no keypoint was found on this person; name the keypoints or points to explain")
        tokens = torch.tensor([[query.token for query in queries]], device=self.attention.heatmaps.device)
        if mode == "gradient":
            values = self.attention.gradient(tokens, [_keypoint_of(query) for query in queries])[layers, 0]
        else:
            values = getattr(self.attention, mode)(tokens)[layers, 0]
        if mode in OVER_LAYERS:
            rows = [f"layers 0–{layer}" if layer else "layer 0" for layer in layers]
        elif heads is None:
            values, rows = values.mean(1), [f"layer {layer}" for layer in layers]
        else:
            heads = _counted("head", heads, self.attention.heads)
            values = values[:, heads].flatten(0, 1)
            rows = [f"layer {layer}\nhead {head}" for layer in layers for head in heads]
        return Maps(values.numpy(force=True), tuple(rows), queries, mode)


def explain(
    network: TransPose, pixels: np.ndarray, box: np.ndarray, skeleton: Skeleton, options: TestOptions
) -> Explanation:
    """Explain the person in a box (4: x, y, w, h) of an image (H, W, 3), uint8 BGR.

    Computed on the device of the network, which must be in eval mode. Raises UserError if a heatmap is not finite.
    """
    width, height = size = input_size(network)
    heatmap_size = width // 4, height // 4
    centers, scales = geometry.boxes_to_crops(box, width / height)
    sample = crop_instance(pixels, centers[0], scales[0], input_size=size, heatmap_size=heatmap_size, rgb=options.rgb)
    device = next(network.parameters()).device
    attention = Attention(network, normalise(torch.from_numpy(sample["image"])[None], device))
    if not attention.heatmaps.isfinite().all():
        raise UserError("the heatmaps are NaN or infinite: the weights are broken")
    keypoints, scores = heatmap.decode(attention.heatmaps, options.blur_kernel)
    peaks = heatmap.peaks(attention.heatmaps)[0][0].numpy(force=True)
    to_crop = geometry.crop_to_output(centers[0], scales[0], 0, size)
    return Explanation(
        picture=_picture(pixels, to_crop, size),
        size=size,
        keypoints=geometry.heatmap_to_input(keypoints[0].numpy(force=True), heatmap_size, size),
        scores=scores[0].numpy(force=True),
        peaks=geometry.heatmap_to_input(peaks, heatmap_size, size),
        tokens=tokens_of_peaks(peaks, heatmap_size, attention.grid),
        to_crop=to_crop,
        box=box,
        skeleton=skeleton,
        attention=attention,
    )


def explain_sample(network: TransPose, crops: TopDownDataset, index: int, options: TestOptions) -> Explanation:
    """Explain instance `index` of a data set."""
    return explain(network, crops.image(index), crops.instances.boxes[index], crops.skeleton, options)


def _picture(image: np.ndarray, to_crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The crop (RGB), cut from the image (BGR), with a whole number of picture pixels per crop pixel."""
    factor = -(-SHOWN_HEIGHT // size[1])
    # A crop pixel becomes factor x factor pixels, so that its centre moves.
    to_picture = factor * to_crop + np.array([[0, 0, (factor - 1) / 2]])
    shown = factor * size[0], factor * size[1]
    return cv2.cvtColor(cv2.warpAffine(image, to_picture, shown, flags=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB)


def cell_centers(grid: tuple[int, int], stride: int) -> np.ndarray:
    """(H, W, 2): x, y in crop pixels of each cell's centre; a cell is `stride` pixels wide and high."""
    y, x = np.indices(grid)
    return np.stack([x, y], -1) * stride + (stride - 1) / 2


def token_at(x: float, y: float, grid: tuple[int, int], stride: int) -> int:
    """The token, counted row by row, whose cell a point in crop pixels lies in: pixel x is in cell x // stride.

    Raises UserError for a point outside the crop.
    """
    height, width = grid
    column, row = ((value + 0.5) // stride for value in (x, y))  # a pixel extends half a pixel beyond its centre
    if not (0 <= column < width and 0 <= row < height):
        raise UserError(
            f"the point ({x:.1f}, {y:.1f}) is outside the crop, which is {width * stride} x {height * stride} "
            "pixels of the network's input"
        )
    return int(row * width + column)


def tokens_of_peaks(peaks: np.ndarray, heatmap_size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The tokens (K) that heatmap pixels (K, 2) come from: (u, v) from the cell in its place.

    TransPose-H has a cell for each heatmap pixel. TransPose-R's head doubles the grid, so (u, v) is of cell
    (u // 2, v // 2), whose centre is the nearest to it and has the greatest part in it.
    """
    cells = peaks * np.array(grid[::-1]) // np.array(heatmap_size)
    return cells[:, 1] * grid[1] + cells[:, 0]


def keypoint_index(name: str, skeleton: Skeleton) -> int:
    """The index of a keypoint. Raises UserError that names the nearest one if there is none of this name."""
    if name not in skeleton.names:
        nearest = difflib.get_close_matches(name, skeleton.names, n=1, cutoff=0)[0]
        raise UserError(f"there is no keypoint {name!r}; the nearest is {nearest!r}")
    return skeleton.names.index(name)


def _keypoint_of(query: Query) -> int:
    if query.keypoint is None:
        raise UserError(f"gradient explains a keypoint's heatmap, but {query.label} is a point; choose another mode")
    return query.keypoint


def _counted(what: str, chosen: Sequence[int] | None, number: int) -> list[int]:
    """The chosen numbers, by default all. Raises UserError if one does not exist."""
    for i in chosen or ():
        if not 0 <= i < number:
            raise UserError(f"there is no {what} {i}: this network has {number}, counted from 0")
    return list(range(number)) if chosen is None else list(chosen)
