"""An image with boxes of its persons, and a detector that finds the same in every image."""

import torch
from torch import nn

from helpers.goldens import IMAGES, ROOT

DEMO = ROOT / "experiments/coco_sample/demo.yaml"


IMAGE = IMAGES / "000000388056.jpg"  # 500 x 332


BOXES = [[79.83, 68.64, 148.47, 244.71], [393.92, 94.75, 106.08, 206.66], [300.0, -5.0, 67.14, 88.03]]


class Stub(nn.Module):
    """A detector that finds the same in every image, and remembers its inputs."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(images)
        boxes = [[10, 20, 40, 80], [0, 0, 5, 5], [1, 2, 3, 4], [7, 7, 7, 9], [2.5, 3, 9, 9.5]]
        found = {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor([1, 2, 1, 1, 1]),  # the second is a bicycle
            "scores": torch.tensor([0.9, 0.99, 0.49, 0.8, 0.5]),
        }
        return [found for _ in images]
