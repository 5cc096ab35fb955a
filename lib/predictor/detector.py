"""Where the persons of an image are: torchvision's detectors, trained on COCO.

N persons in an image. The predictor also takes any other function from an RGB image (H, W, 3), uint8, to boxes (N, 4:
x, y, w, h) and scores (N).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from ..config.paths import repository_root
from ..errors import UserError
from ..models.backends import usable_device
from ..runtime import checkpoint, download

FOLDER = "models/pytorch/torchvision"  # under the repository's root
PERSON = 1  # the category's number, in COCO and in these networks
# torchvision's names; all give 100 boxes an image at most, scored 0.05 or more.
DETECTORS = {"fasterrcnn": "fasterrcnn_resnet50_fpn_v2", "retinanet": "retinanet_resnet50_fpn_v2"}


def network(name: str = "fasterrcnn", weights: Path | None = None) -> nn.Module:
    """A detector of that name with trained weights: those of a file, else torchvision's, downloaded on first use to
    the user's cache (`download.cached_place`).

    Raises UserError for an unknown name, a file of another network, or if the download fails.
    """
    if name not in DETECTORS:
        raise UserError(f"there is no detector {name!r}; there are {', '.join(DETECTORS)}")
    if weights is None:
        url = get_model_weights(DETECTORS[name])["COCO_V1"].url
        try:
            weights = download.fetch(url, download.cached_place(repository_root() / FOLDER / url.rsplit("/", 1)[1]))
        except UserError as error:
            raise UserError(f"the weights of the detector {name}, which finds the persons: {error}") from None
    model = get_model(DETECTORS[name], weights=None, weights_backbone=None)
    try:
        model.load_state_dict(checkpoint.read(weights))
    except RuntimeError:
        raise UserError(f"{weights}: these are not the weights of torchvision's detector {name}") from None
    return model


class Detector:
    """Finds persons with one of torchvision's detection networks (any whose category 1 is the person).

    `model` is the network, or the name of one, and `weights` its file (see `network`). It returns the boxes scored
    `threshold` or more, and takes `batch_size` images at a time. `device` is by default the GPU if there is one.

    Raises UserError for a threshold or batch size out of range, before any weights are downloaded.
    """

    def __init__(
        self,
        model: nn.Module | str = "fasterrcnn",
        weights: Path | None = None,
        *,
        threshold: float = 0.5,
        batch_size: int = 4,
        device: str | torch.device | None = None,
    ):
        if not 0 <= threshold <= 1 or batch_size < 1:
            raise UserError(
                f"a detector's threshold must lie between 0 and 1 and its batch_size be 1 or more, not {threshold} and "
                f"{batch_size}"
            )
        self.device = usable_device(device)
        self.model = (network(model, weights) if isinstance(model, str) else model).to(self.device).eval()
        self.threshold, self.batch_size = threshold, batch_size

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The persons of an RGB image (H, W, 3), uint8: boxes (N, 4) in its pixels and scores (N), best first."""
        return self.batch([image])[0]

    @torch.inference_mode()
    def batch(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same for each of several images, which may differ in size."""
        found = []
        for start in range(0, len(images), self.batch_size):
            tensors = [torch.from_numpy(image).to(self.device) for image in images[start : start + self.batch_size]]
            found += self.model([tensor.permute(2, 0, 1).float() / 255 for tensor in tensors])
        return [self._persons(output) for output in found]

    def _persons(self, output: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores = output["boxes"].double(), output["scores"].double()
        sides = boxes[:, 2:] - boxes[:, :2]
        taken = (output["labels"] == PERSON) & (scores >= self.threshold) & (sides > 0).all(1)
        return torch.cat([boxes[:, :2], sides], 1)[taken].cpu().numpy(), scores[taken].cpu().numpy()


def whole_image(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In place of a detector where each image shows one person: the whole image is one box, of score 1."""
    return np.array([[0.0, 0.0, image.shape[1], image.shape[0]]]), np.ones(1)
