"""The codec: keypoints -> Gaussian heatmaps -> keypoints, and the flip of heatmaps.

B batch, K keypoints, H and W the heatmap's size. Coordinates are heatmap pixels, x then y.
Encoding keeps the sub-pixel centre and decoding is DARK's second-order Taylor step on the logarithm of the blurred
map (CVPR 2020, arXiv 1910.06278).
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = 1e-10
REACH = 2  # pixels from a peak to the farthest that its refinement looks at
# What it looks at, as row and column from the peak.
STENCIL = (
    *((-2, 0), (-1, -1), (-1, 0), (-1, 1)),
    *((0, -2), (0, -1), (0, 0), (0, 1), (0, 2)),
    *((1, -1), (1, 0), (1, 1), (2, 0)),
)
# Its central differences: the gradient's x and y, the Hessian's xx, yy and xy.
DIFFERENCES = torch.tensor(
    [
        [0, 0, 0, 0, 0, -2, 0, 2, 0, 0, 0, 0, 0],
        [0, 0, -2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0],
        [0, 0, 0, 0, 1, 0, -2, 0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, -2, 0, 0, 0, 0, 0, 1],
        [0, 1, 0, -1, 0, 0, 0, 0, 0, -1, 0, 1, 0],
    ]
).div(4)
SURE_STEP = 2  # pixels; a longer step comes from a Hessian so near singular that rounding matters
# OpenCV's fixed kernels for sizes with a default sigma; from 11 up it computes a Gaussian.
SMALL_KERNELS = {
    1: (1.0,),
    3: (1, 2, 1),
    5: (1, 4, 6, 4, 1),
    7: (1, 3.5, 7, 9, 7, 3.5, 1),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}


def encode(keypoints: Tensor, visible: Tensor, size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Target maps (B, K, H, W) and weights (B, K) for keypoints (B, K, 2) in heatmap pixels, visible (B, K).

    A map is exp(-((x - mx)^2 + (y - my)^2) / 2 sigma^2) over its whole area, its centre not rounded. Weight and map are
    zero for an invisible joint and for one whose 3-sigma square lies outside the map of `size` (width, height).
    """
    width, height = size
    reach = 3 * sigma
    first, last = (keypoints - reach).trunc(), (keypoints + reach + 1).trunc()
    outside = (first >= keypoints.new_tensor([width, height])).any(-1) | (last < 0).any(-1)
    weight = visible.masked_fill(outside, 0)

    def profile(center: Tensor, length: int) -> Tensor:
        steps = torch.arange(length, device=center.device, dtype=center.dtype)
        return torch.exp(-((steps - center[..., None]) ** 2) / (2 * sigma**2))

    rows = profile(keypoints[..., 1], height) * (weight > 0)[..., None]
    return rows[..., :, None] * profile(keypoints[..., 0], width)[..., None, :], weight


def blur_kernel(size: int) -> Tensor:
    """(size) float64: the 1-D kernel of OpenCV's GaussianBlur for that odd size with sigma left to it."""
    if size in SMALL_KERNELS:
        kernel = torch.tensor(SMALL_KERNELS[size], dtype=torch.float64)
    else:
        sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
        offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Integer peaks (B, K, 2) as int64 x, y and their values (B, K); a map without a positive value peaks at (0, 0)."""
    places, scores = _highest(heatmaps)
    width = heatmaps.shape[-1]
    return torch.stack([places % width, places // width], -1), scores


def _highest(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The peaks as places (B, K) counted row by row, and their values (B, K)."""
    maps = heatmaps.flatten(2)
    if maps.device.type == "cpu" and maps.dtype != torch.bfloat16:  # which numpy lacks
        # Several times as fast as PyTorch's; both give the first of equals.
        places = torch.from_numpy(maps.numpy(force=True).argmax(-1))
    else:
        places = maps.argmax(-1)
    scores = maps.gather(-1, places[..., None])[..., 0]
    return places * (scores > 0), scores


@torch.no_grad()
def decode(heatmaps: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in heatmap pixels and scores (B, K), float32, of maps (B, K, H, W), on the maps' device.

    The score is the raw maximum. The peak is refined by -H^-1 g from central differences on the log of the map that
    was blurred (zero padding, float64), rescaled to its old maximum and kept above a floor; peaks closer than two
    pixels to the border and those with a singular Hessian stay integer.
    """
    height, width = heatmaps.shape[-2:]
    highest, scores = _highest(heatmaps)
    maps, places = heatmaps.flatten(0, 1), highest.flatten()
    windows = _windows(kernel_size, width, height, maps.device)
    xy, refinable = windows.xy[places], windows.refinable[places]

    # Rescaling adds a constant to the logarithm and raises what is positive: where the floor is far it changes nothing.
    around = _blurred_around(maps, places, windows)
    step = _newton_step(around.log())
    sure = (around.amin(0) > LOG_FLOOR) & (step.abs().amax(1) <= SURE_STEP)
    doubtful = (refinable & ~sure).nonzero()[:, 0]
    if len(doubtful):
        rows, columns = (blur_matrix(kernel_size, length, maps.device) for length in (height, width))
        x, y = xy[doubtful].unbind(1)
        exact = _rescaled_around(maps[doubtful].double(), x, y, rows, columns)
        step[doubtful] = _newton_step(exact.clamp_min(LOG_FLOOR).log())
    refined = (xy + step).float()  # a nearly singular Hessian gives steps beyond float32's range
    refined = torch.where((refinable & refined.isfinite().all(1))[:, None], refined, xy.float())
    return refined.view(*scores.shape, 2), scores.float()


def second_moments(heatmaps: Tensor, keypoints: Tensor) -> Tensor:
    """(B, K, 2, 2) in heatmap pixels squared: how widely maps (B, K, H, W) spread around keypoints (B, K, 2).

    E[(p - keypoint)(p - keypoint)^T] over places p, with a map's positive part as their density, constant within a
    pixel: hence 1/12 on the diagonal, which keeps every matrix positive definite. Without a positive value all places
    count the same. evaluation/calibration.py makes the covariance of an error of it.
    """
    density = heatmaps.float().clamp_min(0)
    density = torch.where((density > 0).any(-1).any(-1)[..., None, None], density, 1)
    density = density / density.sum((-2, -1), keepdim=True)
    height, width = heatmaps.shape[-2:]
    across = torch.arange(width, device=keypoints.device) - keypoints[..., :1]
    down = torch.arange(height, device=keypoints.device) - keypoints[..., 1:]
    xx = torch.einsum("bkhw,bkw->bk", density, across**2)
    yy = torch.einsum("bkhw,bkh->bk", density, down**2)
    xy = torch.einsum("bkhw,bkw,bkh->bk", density, across, down)
    return torch.stack([xx + 1 / 12, xy, xy, yy + 1 / 12], -1).unflatten(-1, (2, 2))


def decode_without_branches(heatmaps: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """`decode` as one fixed sequence of operations in the maps' own type, for graphs that other runtimes execute.

    Every map is blurred and rescaled whole, by the matrices `rows` (H, H) and `columns` (W, W) of `blur_matrix`. Equal
    to `decode` but for rounding, which a nearly singular Hessian magnifies: it is `decode`'s in float64.
    """
    batch, _, height, width = heatmaps.shape
    maps = heatmaps.flatten(0, 1)
    scores, places = maps.flatten(1).amax(1), maps.flatten(1).argmax(1)
    places = torch.where(scores > 0, places, 0)
    x, y = places % width, places // width
    near_x, near_y = x.clamp(REACH, width - 1 - REACH), y.clamp(REACH, height - 1 - REACH)
    inside = (near_x == x) & (near_y == y)
    around = _rescaled_around(maps, near_x, near_y, rows, columns)
    step = _newton_step(around.clamp_min(LOG_FLOOR).log())
    fine = inside & (step.abs().amax(1) < torch.inf)
    refined = torch.stack([x, y], 1) + torch.where(fine[:, None], step, 0)
    return refined.float().unflatten(0, (batch, -1)), scores.float().unflatten(0, (batch, -1))


@cache
def blur_matrix(kernel_size: int, length: int, device: torch.device) -> Tensor:
    """(length, length) float64: what blurs a column of that length, which is zero beyond its ends."""
    steps = torch.arange(length)
    padded = F.pad(blur_kernel(kernel_size), (length, length))
    return padded[steps - steps[:, None] + kernel_size // 2 + length].to(device)


class Windows(NamedTuple):
    """For each place P = H * W of a map, counted row by row: what its refinement needs, and whether it has one.

    A window is the L * L pixels that the blurred stencil depends on: around the place, or around the next one that is
    two pixels away from every border.
    """

    xy: Tensor  # (P, 2) int64
    refinable: Tensor  # (P) bool: the window is the place's own
    begin: Tensor  # (P, L) int64: where the window's rows begin, from the map's first pixel; this may lie outside
    inside: Tensor  # (P, L * L) float32: 1 for a pixel that lies in the map, else 0
    blur: Tensor  # (13, L * L) float64: what makes the blurred stencil of a window's pixels


@cache
def _windows(kernel_size: int, width: int, height: int, device: torch.device) -> Windows:
    reach = min(REACH + kernel_size // 2, max(height, width))
    length = 2 * reach + 1
    size = torch.tensor([width, height])
    places = torch.arange(height * width)
    xy = torch.stack([places % width, places // width], 1)
    near = xy.clamp_min(REACH).minimum(size - 1 - REACH)
    spots = near[:, :, None] + torch.arange(-reach, reach + 1)
    columns_in, rows_in = ((spots >= 0) & (spots < size[:, None])).unbind(1)
    inside = (rows_in[:, :, None] & columns_in[:, None]).flatten(1)
    begin = spots[:, 0, :1] + spots[:, 1] * width
    rows = blur_matrix(kernel_size, length, torch.device("cpu"))
    blur = torch.stack([torch.outer(rows[reach + y], rows[reach + x]).flatten() for y, x in STENCIL])
    return Windows(*(t.to(device) for t in (xy, (near == xy).all(1), begin, inside.float(), blur)))


def _blurred_around(maps: Tensor, places: Tensor, windows: Windows) -> Tensor:
    """The blurred maps' values (13, N) on the stencil around places (N) of maps (N, H, W)."""
    count, area = len(maps), maps[0].numel()
    length = windows.begin.shape[1]
    wanted = windows.begin[places] + torch.arange(0, maps.numel(), area, device=maps.device)[:, None]
    begin = wanted.clamp(0, maps.numel() - length)
    pixels = maps.flatten().unfold(0, length, 1).index_select(0, begin.flatten())
    patches = pixels.view(count, length, length)
    # Rows that begin before the first map or end after the last were read farther in: shift them back.
    ends = slice(None, None, max(count - 1, 1))
    back = torch.arange(length, device=maps.device) + (wanted[ends] - begin[ends])[:, :, None]
    patches[ends] = patches[ends].gather(2, back.clamp(0, length - 1))
    # `inside` removes the neighbouring maps' pixels that a row read beyond its own map.
    return windows.blur @ (patches.view(count, -1) * windows.inside[places]).T.double()


def _rescaled_around(maps: Tensor, x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values (13, N) as `_blurred_around`, of maps that were rescaled to their old maximum after the blur.

    `rows` (H, H) and `columns` (W, W) are the `blur_matrix` of both lengths, in the maps' type.
    """
    blurred = rows @ maps @ columns.T
    scale = maps.amax((1, 2)) / blurred.amax((1, 2))
    down, right = torch.tensor(STENCIL, device=maps.device).T[:, :, None]
    places = (y + down) * maps.shape[2] + x + right
    return blurred.flatten(1).gather(1, places.T).T * scale


def _newton_step(log: Tensor) -> Tensor:
    """DARK's Taylor step -H^-1 g (N, 2), by central differences on the stencil (13, N) of a peak.

    It is not finite for a singular Hessian.
    """
    gx, gy, hxx, hyy, hxy = DIFFERENCES.to(log) @ log
    return torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / (hxx * hyy - hxy**2)[:, None]


def flip(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Mirror maps (B, K, H, W) and exchange left and right joints; flipping twice gives the maps back."""
    return heatmaps.flip(-1)[:, flip_order]
