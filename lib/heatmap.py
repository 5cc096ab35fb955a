"""The codec: keypoints -> Gaussian heatmaps -> keypoints, and the flip of heatmaps.

B batch, K keypoints, H and W the heatmap's size. Coordinates are heatmap pixels, x then y.
Encoding keeps the sub-pixel centre and decoding is DARK's second-order Taylor step on the logarithm of the blurred
map (CVPR 2020, arXiv 1910.06278).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = 1e-10
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
    scores, places = heatmaps.flatten(2).max(-1)
    xy = torch.stack([places % width, places // width], -1)
    return xy * (scores > 0)[..., None], scores


def decode(heatmaps: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in heatmap pixels and scores (B, K), float32, of maps (B, K, H, W), on the maps' device.

    The score is the raw maximum. The peak is refined by -H^-1 g from central differences on the log of the map that
    was blurred (zero padding, float64) and rescaled to its old maximum; peaks closer than two pixels to the border
    and those with a singular Hessian stay integer.
    """
    height, width = heatmaps.shape[-2:]
    maps = heatmaps.flatten(0, 1).double()
    xy, scores = peaks(heatmaps)

    kernel = blur_kernel(kernel_size).to(maps)
    blurred = F.conv2d(maps[:, None], kernel[None, None, :, None], padding=(kernel_size // 2, 0))
    blurred = F.conv2d(blurred, kernel[None, None, None, :], padding=(0, kernel_size // 2))[:, 0]
    blurred = blurred * (maps.amax((1, 2)) / blurred.amax((1, 2)))[:, None, None]
    log = blurred.clamp_min(LOG_FLOOR).log()

    x, y = xy.flatten(0, 1).unbind(-1)
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    # Peaks that are not refined read somewhere legal; their step is discarded below.
    cx, cy = torch.where(inside, x, 2), torch.where(inside, y, 2)
    row = torch.arange(len(maps), device=maps.device)

    def at(dx: int, dy: int) -> Tensor:
        return log[row, cy + dy, cx + dx]

    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    hxx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    hyy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    hxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    determinant = hxx * hyy - hxy**2
    regular = inside & (determinant != 0)
    divisor = torch.where(regular, determinant, 1)
    step = torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / divisor[:, None]
    refined = xy.flatten(0, 1) + torch.where(regular[:, None], step, 0)
    return refined.float().view(xy.shape), scores.float()


def flip(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Mirror maps (B, K, H, W) and exchange left and right joints; flipping twice gives the maps back."""
    return heatmaps.flip(-1)[:, flip_order]
