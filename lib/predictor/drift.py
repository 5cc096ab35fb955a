"""The check of an exported file: how much its results may differ from PyTorch's, and how much they do."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..build.model import TrainedModel
from ..core.predict import Predictions, predict_batch
from ..models.backends import Backend

if TYPE_CHECKING:
    from ..evaluation.evaluate import CocoEvaluation
    from .export import Exported

MAX_HEATMAPS, MAX_DISTANCE = 1e-3, 0.02  # in float32: a fraction of the largest value; heatmap pixels
MAX_P95 = 0.1  # in half precision, heatmap pixels
MAX_AP = 0.002


@dataclass(frozen=True)
class Drift:
    """The differences between a file's results and PyTorch's on the sample's crops.

    `heatmaps` is the largest difference, as a fraction of the largest value (None: the file gives no heatmaps); `most`,
    `p95` and `median` are distances of keypoints in heatmap pixels; the APs are None if the keypoints are not COCO's.
    """

    crops: int
    half: bool
    heatmaps: float | None
    most: float
    p95: float
    median: float
    ap_pytorch: float | None
    ap: float | None

    def faults(self) -> list[str]:
        """The differences that are larger than allowed, in words."""
        bounds = [("heatmaps", self.heatmaps or 0.0, MAX_HEATMAPS), ("keypoints", self.most, MAX_DISTANCE)]
        if self.half:
            bounds = [("keypoints' 95th percentile", self.p95, MAX_P95)]
        if self.ap is not None and self.ap_pytorch is not None:
            bounds.append(("AP", abs(self.ap - self.ap_pytorch), MAX_AP))
        return [
            f"{what} {value:.2g}, but at most {bound:g} is allowed"
            for what, value, bound in bounds
            if not value <= bound
        ]

    def describe(self) -> str:
        """Lines for the console."""
        lines = [
            f"against PyTorch on {self.crops} crops:",
            f"  keypoints, heatmap pixels: median {self.median:.2g}, 95th percentile {self.p95:.2g}, "
            f"maximum {self.most:.2g}",
        ]
        if self.heatmaps is not None:
            lines.insert(1, f"  heatmaps: largest difference {self.heatmaps:.2g} of the largest value")
        if self.ap is not None:
            lines.append(f"  AP {self.ap:.4f}, PyTorch {self.ap_pytorch:.4f}")
        return "\n".join(lines)


@torch.inference_mode()
def measure(file: "Exported", trained: TrainedModel, sample: "CocoEvaluation") -> Drift:
    """Run a file and PyTorch on the crops of a sample and compare them."""
    order = torch.from_numpy(trained.skeleton.flip_order)
    ways = partial(predict_batch, Backend()(trained.network)), file.predict
    seen: list[tuple[Tensor, Tensor]] = []  # heatmaps and keypoints of each batch: PyTorch's, then the file's

    def watch(batch: dict[str, Tensor], maps: Tensor, keypoints: Tensor) -> None:
        seen.append((maps, keypoints))

    parts = [[find(batch, trained.options, order, watch=watch) for find in ways] for batch in sample.loader]
    (maps, wanted), (own_maps, found) = (map(torch.cat, zip(*seen[i::2], strict=True)) for i in range(2))
    aps: list[float | None] = [None, None]
    if trained.skeleton.names == sample.crops.skeleton.names:
        predictions = [Predictions.merge([*part]) for part in zip(*parts, strict=True)]
        aps = [sample.metrics(sample.detections(part))["AP"] for part in predictions]
    moved = (wanted - found).norm(dim=-1).numpy()
    return Drift(
        crops=len(wanted),
        half=file.card.half,
        heatmaps=None if file.card.decodes else float((own_maps - maps).abs().max() / maps.abs().max()),
        most=float(moved.max()),
        p95=float(np.percentile(moved, 95)),
        median=float(np.median(moved)),
        ap_pytorch=aps[0],
        ap=aps[1],
    )
