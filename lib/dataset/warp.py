"""The crops of a batch at once, on the device that holds the photographs: what `cv2.warpAffine` does for one.

B batch, h x w crop. Photographs lie one after the other in a flat tensor of uint8, as in an `ImageStore`.
"""

import torch
from torch import Tensor


def crops(pixels: Tensor, offsets: Tensor, sizes: Tensor, to_image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear crops (B, h, w, 3) uint8, 0 outside of the photograph, in its channels' order.

    Each sample's photograph starts at `offsets` (B) of `pixels` (P) and is `sizes` (B, 2: width, height) large;
    `to_image` (B, 2, 3) takes pixels of the crop to pixels of the photograph; `size` is the crop's (width, height).
    """
    width, height = size
    x = torch.arange(width, device=pixels.device, dtype=torch.float64)
    y = torch.arange(height, device=pixels.device, dtype=torch.float64)[:, None]
    matrix = to_image.to(pixels.device, torch.float64)[:, :, :, None, None]
    place = matrix[:, :, 0] * x + matrix[:, :, 1] * y + matrix[:, :, 2]
    corner = place.floor()
    right, below = (place - corner).float().unbind(1)
    left, top = corner.long().unbind(1)
    image_width, image_height = sizes.to(pixels.device)[:, :, None, None].unbind(1)
    start = offsets.to(pixels.device)[:, None, None]
    channels = torch.arange(3, device=pixels.device)

    total = torch.zeros(*left.shape, 3, device=pixels.device)
    for dy, row_weight in ((0, 1 - below), (1, below)):
        for dx, weight in ((0, 1 - right), (1, right)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < image_width) & (row >= 0) & (row < image_height)
            index = torch.where(inside, start + 3 * (row * image_width + column), start)
            values = pixels[index[..., None] + channels].float()
            total += values * (row_weight * weight * inside)[..., None]
    return total.round().to(torch.uint8)
