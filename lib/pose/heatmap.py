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
REACH = 2  # pixels around a peak that its refinement uses
# OpenCV's fixed kernels for sizes with a default sigma; from 11 up it computes a Gaussian.
SMALL_KERNELS = {
    1: (1.0,),
    3: (1, 2, 1),
    5: (1, 4, 6, 4, 1),
    7: (1, 3.5, 7, 9, 7, 3.5, 1),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}


def encode(keypoints: Tensor, visible: Tensor, size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Target heatmaps: exp(-((x - mx)^2 + (y - my)^2) / 2 sigma^2) over the whole map, the centre not rounded.

    Args:
        keypoints: (B, K, 2), in heatmap pixels.
        visible: (B, K), 0 or 1.
        size: Width and height of a heatmap.
        sigma: In heatmap pixels.

    Returns:
        Maps (B, K, H, W) and weights (B, K). Both are zero for an invisible joint and for one whose 3-sigma square lies
        outside the map.
    """
    width, height = size
    reach = 3 * sigma
    first, last = (keypoints - reach).trunc(), (keypoints + reach + 1).trunc()
    outside = (first[..., 0] >= width) | (first[..., 1] >= height) | (last < 0).any(-1)
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
    """Integer peaks (B, K, 2), int64 x, y, and their values (B, K); (0, 0) for a map without a positive value."""
    # By rows: several times as fast on a CPU as one argmax over the map, and also the first of equals.
    of_rows = heatmaps.amax(-1)
    scores, y = of_rows.amax(-1), of_rows.argmax(-1)
    x = heatmaps.gather(2, y[..., None, None].expand(-1, -1, 1, heatmaps.shape[-1]))[:, :, 0].argmax(-1)
    return torch.stack([x, y], -1) * (scores > 0)[..., None], scores


@torch.no_grad()
def decode(heatmaps: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """DARK: each map's peak, refined by -H^-1 g from central differences on the log of the map.

    The map is blurred first (zero padding, float64), rescaled to its old maximum and kept above a floor. Peaks closer
    than two pixels to the border and those with a singular Hessian stay integer.

    Args:
        heatmaps: (B, K, H, W).
        kernel_size: Of the blur, odd, in heatmap pixels.

    Returns:
        Keypoints (B, K, 2) in heatmap pixels and scores (B, K), the maps' maxima; float32, on the maps' device.
    """
    rows, columns = (blur_matrix(kernel_size, length, heatmaps.device) for length in heatmaps.shape[-2:])
    return decode_blurred_by(heatmaps, rows, columns)


def decode_blurred_by(heatmaps: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """`decode`, with the maps' `blur_matrix` for the height, rows (H, H), and for the width, columns (W, W).

    A fixed sequence of operations, which can be exported to other runtimes and does not wait for a GPU.
    """
    height, width = heatmaps.shape[-2:]
    peak, scores = peaks(heatmaps)
    peak, maps = peak.flatten(0, 1), heatmaps.flatten(0, 1).float()
    x, y = peak.unbind(1)
    near_x, near_y = x.clamp(REACH, width - 1 - REACH), y.clamp(REACH, height - 1 - REACH)
    inside = (near_x == x) & (near_y == y)

    # Rescaling only moves the floor, so that float32 is enough for it; the pixels around the peak are float64.
    blurred = rows.float() @ (maps @ columns.T.float())
    scale = maps.amax((1, 2)) / blurred.amax((1, 2))
    reach = torch.arange(-REACH, REACH + 1, device=maps.device)
    around = rows[near_y[:, None] + reach] @ maps.double() @ columns[near_x[:, None] + reach].mT
    step = _newton_step((around * scale[:, None, None]).clamp_min(LOG_FLOOR).log())
    # A nearly singular Hessian gives steps beyond float32's range.
    refined = (peak + step).float()
    fine = inside & refined.isfinite().all(1)
    refined = torch.where(fine[:, None], refined, peak.float())
    return refined.unflatten(0, (heatmaps.shape[0], -1)), scores.float()


def second_moments(heatmaps: Tensor, keypoints: Tensor) -> Tensor:
    """(B, K, 2, 2) in heatmap pixels squared: how widely maps (B, K, H, W) spread around keypoints (B, K, 2).

    E[(p - keypoint)(p - keypoint)^T] over places p, with a map's positive part as their density, constant within a
    pixel: hence 1/12 on the diagonal, which keeps every matrix positive definite. Without a positive value all places
    count the same. evaluation/calibration.py computes the covariance of the error from it.
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


@cache
def blur_matrix(kernel_size: int, length: int, device: torch.device) -> Tensor:
    """(length, length) float64: the matrix that blurs a column of that length, with zeros beyond its ends."""
    steps = torch.arange(length)
    padded = F.pad(blur_kernel(kernel_size), (length, length))
    return padded[steps - steps[:, None] + kernel_size // 2 + length].to(device)


def _newton_step(log: Tensor) -> Tensor:
    """DARK's Taylor step -H^-1 g (N, 2), x and y, by central differences in windows (N, 5, 5) around peaks.

    It is not finite for a singular Hessian.
    """
    at = log.permute(1, 2, 0)
    gx, gy = (at[2, 3] - at[2, 1]) / 2, (at[3, 2] - at[1, 2]) / 2
    hxx, hyy = (at[2, 4] - 2 * at[2, 2] + at[2, 0]) / 4, (at[4, 2] - 2 * at[2, 2] + at[0, 2]) / 4
    hxy = (at[3, 3] - at[3, 1] - at[1, 3] + at[1, 1]) / 4
    return torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / (hxx * hyy - hxy**2)[:, None]


def flip(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Mirror maps (B, K, H, W) and exchange left and right joints; flipping twice gives the maps back."""
    return heatmaps.flip(-1)[:, flip_order]
