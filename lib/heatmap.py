"""The codec: keypoints -> Gaussian heatmaps -> keypoints, and the flip of heatmaps.

B batch, K keypoints, H and W the heatmap's size. Coordinates are heatmap pixels, x then y.
Encoding keeps the sub-pixel centre and decoding is DARK's second-order Taylor step on the logarithm of the blurred
map (CVPR 2020, arXiv 1910.06278).
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = 1e-10
REACH = 2  # pixels from a peak to the farthest that its refinement looks at
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
    width = heatmaps.shape[-1]
    maps = heatmaps.flatten(2)
    if maps.device.type == "cpu" and maps.dtype != torch.bfloat16:  # which numpy has not
        # Several times as fast as PyTorch's; both give the first of equals.
        places = torch.from_numpy(maps.numpy(force=True).argmax(-1))
    else:
        places = maps.argmax(-1)
    scores = maps.gather(-1, places[..., None])[..., 0]
    xy = torch.stack([places % width, places // width], -1)
    return xy * (scores > 0)[..., None], scores


@torch.no_grad()
def decode(heatmaps: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in heatmap pixels and scores (B, K), float32, of maps (B, K, H, W), on the maps' device.

    The score is the raw maximum. The peak is refined by -H^-1 g from central differences on the log of the map that
    was blurred (zero padding, float64), rescaled to its old maximum and kept above a floor; peaks closer than two
    pixels to the border and those with a singular Hessian stay integer.
    """
    height, width = heatmaps.shape[-2:]
    xy, scores = peaks(heatmaps)
    maps, (x, y) = heatmaps.flatten(0, 1), xy.flatten(0, 1).unbind(-1)
    near_x, near_y = x.clamp(REACH, width - 1 - REACH), y.clamp(REACH, height - 1 - REACH)
    inside = (near_x == x) & (near_y == y)

    # Rescaling adds a constant to the logarithm and raises what is positive: where the floor is far it changes nothing.
    around = _blurred_around(maps, near_x, near_y, kernel_size)
    step = _newton_step(around.log())
    sure = (around.amin((1, 2)) > LOG_FLOOR) & (step.abs().amax(1) <= SURE_STEP)
    doubtful = (inside & ~sure).nonzero()[:, 0]
    if len(doubtful):
        exact = _rescaled_around(maps[doubtful], x[doubtful], y[doubtful], kernel_size)
        step[doubtful] = _newton_step(exact.clamp_min(LOG_FLOOR).log())
    whole = xy.flatten(0, 1)
    refined = (whole + step).float()  # a Hessian next to singular leads farther than float32 goes
    refined = torch.where((inside & refined.isfinite().all(1))[:, None], refined, whole.float())
    return refined.view(xy.shape), scores.float()


@cache
def _blur_matrix(kernel_size: int, length: int, device: torch.device) -> Tensor:
    """(length, length) float64: what blurs a column of that length, which is zero beyond its ends."""
    steps = torch.arange(length)
    padded = F.pad(blur_kernel(kernel_size), (length, length))
    return padded[steps - steps[:, None] + kernel_size // 2 + length].to(device)


@cache
def _five_rows(kernel_size: int, length: int, device: torch.device) -> Tensor:
    """(length - 4, 5, length): of `_blur_matrix`, the rows around each place that has two on both sides."""
    return _blur_matrix(kernel_size, length, device).unfold(0, 2 * REACH + 1, 1).transpose(1, 2).contiguous()


def _blurred_around(maps: Tensor, x: Tensor, y: Tensor, kernel_size: int) -> Tensor:
    """The blurred maps' values (N, 5, 5) around places x, y (N) of maps (N, H, W), from the pixels they depend on."""
    _, height, width = maps.shape
    reach = REACH + kernel_size // 2

    def cut(center: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Where (N) the pixels begin, and what makes five blurred ones of them (N, 5, pixels)."""
        count = min(2 * reach + 1, length)
        begin = (center - reach).clamp(0, length - count)
        return begin, _five_rows(kernel_size, count, maps.device)[center - begin - REACH]

    (top, down), (left, across) = cut(y, height), cut(x, width)
    row = torch.arange(down.shape[2], device=maps.device)
    first = torch.arange(0, maps.numel(), height * width, device=maps.device) + top * width + left
    places = first[:, None] + row * width
    patches = maps.flatten().unfold(0, across.shape[2], 1).index_select(0, places.flatten())
    return down @ (patches.view(len(maps), len(row), -1).double() @ across.mT)


def _rescaled_around(maps: Tensor, x: Tensor, y: Tensor, kernel_size: int) -> Tensor:
    """Values (N, 5, 5) as `_blurred_around`, of maps that were rescaled to their old maximum after the blur."""
    rows, columns = (_blur_matrix(kernel_size, length, maps.device) for length in maps.shape[1:])
    blurred = rows @ maps.double() @ columns.T
    blurred *= (maps.amax((1, 2)) / blurred.amax((1, 2)))[:, None, None]
    windows = blurred.unfold(1, 2 * REACH + 1, 1).unfold(2, 2 * REACH + 1, 1)
    return windows[torch.arange(len(maps), device=maps.device), y - REACH, x - REACH]


def _newton_step(log: Tensor) -> Tensor:
    """-H^-1 g (N, 2) by central differences on values (N, 5, 5) around a peak; not finite for a singular Hessian."""
    rows = log.permute(1, 2, 0).contiguous().unbind()
    (_, _, up2, _, _), (_, up_left, up, up_right, _) = (row.unbind() for row in rows[:2])
    left2, left, center, right, right2 = rows[2].unbind()
    (_, down_left, down, down_right, _), (_, _, down2, _, _) = (row.unbind() for row in rows[3:])
    gx, gy = (right - left) / 2, (down - up) / 2
    hxx, hyy = (right2 - 2 * center + left2) / 4, (down2 - 2 * center + up2) / 4
    hxy = (down_right - down_left - up_right + up_left) / 4
    return torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / (hxx * hyy - hxy**2)[:, None]


def flip(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Mirror maps (B, K, H, W) and exchange left and right joints; flipping twice gives the maps back."""
    return heatmaps.flip(-1)[:, flip_order]
