"""YOLOX (Ge et al., arXiv 2107.08430), run with OpenCV's DNN module.

The networks are those of YOLOX's release 0.1.1rc0 (Apache-2.0): an image of S x S pixels -> (1, A, 5 + C). Each of the
A cells of three grids (strides 8, 16, 32) gives a box, as its centre relative to the cell's corner and the logarithms
of its sides, both in strides; the probability of an object; and those of C classes. N boxes: x, y, w, h in image
pixels.
"""

from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError

RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
FOLDER = "models/yolox"  # under the repository's root
SIZES = {"yolox_nano": 416, "yolox_tiny": 416, "yolox_s": 640}  # S of each network
STRIDES = (8, 16, 32)
GREY = 114  # grey padding, right of and below the image, as in training
NMS_OVERLAP = 0.65  # IoU above which the box with the lower score is dropped, as in YOLOX's own tests


class Yolox:
    """Finds the objects of one class, given by its index among the network's C, that are scored `threshold` or more.

    `path` is an ONNX file, and `size` its S. Raises UserError if it is not such a network.
    """

    def __init__(self, path: Path, size: int, place: int, threshold: float):
        self.size, self.place, self.threshold = size, place, threshold
        corners, strides = [], []
        for stride in STRIDES:
            side = np.arange(size // stride)
            corners.append(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
            strides.append(np.full((len(side) ** 2, 1), stride))
        self._corners = np.concatenate(corners).astype(np.float32)  # (A, 2): x and y of the cells, in strides
        self._strides = np.concatenate(strides).astype(np.float32)  # (A, 1)
        try:
            self.network = cv2.dnn.readNetFromONNX(str(path))
            shape = self._forward(np.zeros((size, size, 3), np.uint8)).shape
        except cv2.error as error:
            reason = " ".join(error.err.split())[:200]
            raise UserError(f"{path}: not an ONNX file that OpenCV can run at {size} x {size} ({reason})") from None
        if shape[:-1] != (1, len(self._corners)) or shape[-1] < 6 + place:
            wanted = f"(1, {len(self._corners)}, {6 + place} or more)"
            raise UserError(f"{path}: not a YOLOX for {size} x {size} pixels: it gives {shape}, not {wanted}")

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes (N, 4) found in an RGB image (H, W, 3), uint8, clipped to it, and their scores (N), best first."""
        height, width = image.shape[:2]
        scale = self.size / max(height, width)
        fitted = max(1, int(width * scale)), max(1, int(height * scale))
        canvas = np.full((self.size, self.size, 3), GREY, np.uint8)
        canvas[: fitted[1], : fitted[0]] = cv2.resize(image, fitted, interpolation=cv2.INTER_LINEAR)

        (cells,) = self._forward(canvas)
        scores = cells[:, 4] * cells[:, 5 + self.place]
        sure = scores >= self.threshold
        scores, cells, strides = scores[sure], cells[sure], self._strides[sure]
        centers, sides = (cells[:, :2] + self._corners[sure]) * strides, np.exp(cells[:, 2:4]) * strides
        first, last = ((centers + half) / scale for half in (-sides / 2, sides / 2))
        first, last = (np.clip(place, 0, (width, height)).astype(np.float64) for place in (first, last))
        boxes = np.concatenate([first, last - first], 1)
        boxes, scores = boxes[inside := (boxes[:, 2:] > 0).all(1)], scores[inside].astype(np.float64)
        kept = np.asarray(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0, NMS_OVERLAP), int).ravel()
        return boxes[kept], scores[kept]

    def _forward(self, canvas: np.ndarray) -> np.ndarray:
        self.network.setInput(cv2.dnn.blobFromImage(canvas, swapRB=True))  # BGR, 0 to 255
        return self.network.forward()
