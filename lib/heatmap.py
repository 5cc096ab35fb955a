"""The codec: keypoints -> Gaussian heatmaps -> keypoints, and the flip of heatmaps.

B batch, K keypoints, H and W the heatmap's size. Coordinates are heatmap pixels, x then y.
Encoding keeps the sub-pixel centre and decoding is DARK's second-order Taylor step on the logarithm of the blurred
map (CVPR 2020, arXiv 1910.06278).
"""

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


def decode(heatmaps: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in heatmap pixels and scores (B, K), float32, of maps (B, K, H, W), on the maps' device.

    The score is the raw maximum. The peak is refined by -H^-1 g from central differences on the log of the map that
    was blurred (zero padding, float64), rescaled to its old maximum and kept above a floor; peaks closer than two
    pixels to the border and those with a singular Hessian stay integer.
    """
    height, width = heatmaps.shape[-2:]
    xy, scores = peaks(heatmaps)
    maps, (x, y) = heatmaps.flatten(0, 1), xy.flatten(0, 1).unbind(-1)
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    kernel = blur_kernel(kernel_size).to(maps.device)

    # Rescaling adds a constant to the logarithm and raises what is positive: where the floor is far it changes nothing.
    around = _blurred_around(maps, x.clamp(REACH, width - 1 - REACH), y.clamp(REACH, height - 1 - REACH), kernel)
    step = _newton_step(around.log())
    sure = (around > LOG_FLOOR).all(-1).all(-1) & (step.abs() <= SURE_STEP).all(-1)
    doubtful = (inside & ~sure).nonzero()[:, 0]
    if len(doubtful):
        exact = _rescaled_around(maps[doubtful], x[doubtful], y[doubtful], kernel)
        step[doubtful] = _newton_step(exact.clamp_min(LOG_FLOOR).log())
    refined = xy.flatten(0, 1) + torch.where((inside & step.isfinite().all(-1))[:, None], step, 0)
    return refined.float().view(xy.shape), scores.float()


def _blur_matrix(kernel: Tensor, length: int) -> Tensor:
    """(length, length): what blurs a column of that length, which is zero beyond its ends."""
    steps = torch.arange(length, device=kernel.device)
    padded = F.pad(kernel, (length, length))
    return padded[steps - steps[:, None] + len(kernel) // 2 + length]


def _blurred_around(maps: Tensor, x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """The blurred maps' values (N, 5, 5) around places x, y (N) of maps (N, H, W), from the pixels they depend on."""
    wanted = 2 * (REACH + len(kernel) // 2) + 1

    def cut(center: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Where (N) the pixels begin, and what makes five blurred ones of them (N, 5, pixels)."""
        count = min(wanted, length)
        begin = (center - wanted // 2).clamp(0, length - count)
        five = _blur_matrix(kernel, count).unfold(0, 2 * REACH + 1, 1).transpose(1, 2)
        return begin, five[center - begin - REACH]

    (top, down), (left, across) = cut(y, maps.shape[1]), cut(x, maps.shape[2])
    windows = maps.unfold(1, down.shape[2], 1).unfold(2, across.shape[2], 1)
    patches = windows[torch.arange(len(maps), device=maps.device), top, left]
    return down @ (patches.double() @ across.transpose(1, 2))


def _rescaled_around(maps: Tensor, x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """Values (N, 5, 5) as `_blurred_around`, of maps that were rescaled to their old maximum after the blur."""
    maps = maps.double()
    blurred = _blur_matrix(kernel, maps.shape[1]) @ maps @ _blur_matrix(kernel, maps.shape[2])
    blurred *= (maps.amax((1, 2)) / blurred.amax((1, 2)))[:, None, None]
    windows = blurred.unfold(1, 2 * REACH + 1, 1).unfold(2, 2 * REACH + 1, 1)
    return windows[torch.arange(len(maps), device=maps.device), y - REACH, x - REACH]


def _newton_step(log: Tensor) -> Tensor:
    """-H^-1 g (N, 2) by central differences on values (N, 5, 5) around a peak; not finite for a singular Hessian."""

    def at(dx: int, dy: int) -> Tensor:
        return log[:, REACH + dy, REACH + dx]

    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    hxx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    hyy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    hxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    return torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / (hxx * hyy - hxy**2)[:, None]


def flip(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Mirror maps (B, K, H, W) and exchange left and right joints; flipping twice gives the maps back."""
    return heatmaps.flip(-1)[:, flip_order]
