"""TensorBoard scalars and, on request, pictures of crops and heatmaps."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory
from torch import Tensor

from ..core.predict import TestOptions
from ..dataset.topdown import TopDownDataset
from ..errors import UserError
from ..explain import figures
from ..explain.maps import explain_sample
from ..models.transpose import TransPose
from ..pose import geometry, heatmap, sheets
from ..pose.skeleton import Skeleton
from ..runtime.files import root_cause, write_atomically

logger = logging.getLogger(__name__)


class EventFile:
    """What TensorBoard's thread writes to, until it cannot be written: an error would end the thread with a traceback,
    and the run would then wait for it."""

    NAME = "until-full"  # begins the paths of such files

    def __init__(self, path: str):
        self.path = path.removeprefix(f"{self.NAME}:")
        self.file: Any = open(self.path, "wb")  # noqa: SIM115  closed by TensorBoard

    @classmethod
    def open(cls, path: str) -> "EventFile":
        return cls(path)

    @classmethod
    def directory_check(cls, path: str) -> None:
        Path(path.removeprefix(f"{cls.NAME}:")).mkdir(parents=True, exist_ok=True)

    def write(self, content: bytes) -> None:
        self._try("write", content)

    def flush(self) -> None:
        self._try("flush")

    def close(self) -> None:
        self._try("close")

    def _try(self, what: str, *given: bytes) -> None:
        if self.file is not None:
            try:
                getattr(self.file, what)(*given)
            except OSError as error:
                self.file = None
                logger.warning("%s: TensorBoard's file can no longer be written (%s)", self.path, error.strerror)


register_writer_factory(EventFile.NAME, EventFile)


@dataclass(frozen=True)
class Pictures:
    """Which pictures to save, of annotations (`gt`) and predictions (`pred`); none by default."""

    images_gt: bool = False
    images_pred: bool = False
    heatmaps_gt: bool = False
    heatmaps_pred: bool = False
    attention: int = 0  # number of persons


class Monitor:
    """Writes scalars to TensorBoard, and pictures both there and as JPEG files; without a `log_dir`, nothing."""

    def __init__(self, log_dir: Path | None, picture_dir: Path, wanted: Pictures, skeleton: Skeleton, rgb: bool):
        try:
            self.writer: Any = SummaryWriter(f"{EventFile.NAME}:{log_dir}") if log_dir else None
        except Exception as error:
            raise UserError(f"{log_dir}: cannot write TensorBoard's files ({root_cause(error)})") from None
        self.picture_dir, self.wanted, self.skeleton, self.rgb = picture_dir, wanted, skeleton, rgb

    def scalars(self, prefix: str, numbers: dict[str, float], step: int) -> None:
        if self.writer is None:
            return
        for name, value in numbers.items():
            # TensorBoard would replace other characters by underscores.
            tag = re.sub(r"[^0-9A-Za-z.]+", "_", name).strip("_")
            self.writer.add_scalar(f"{prefix}/{tag}", value, step)

    def pictures(self, prefix: str, batch: dict[str, Tensor], output: Tensor, target: Tensor, step: int) -> None:
        """Crops with keypoints and heatmaps of a batch: output and target (B, K, H, W)."""
        if self.writer is None:
            return
        crops = batch["image"].numpy()
        if self.rgb:
            crops = crops[..., ::-1]
        visible = batch["visible"].numpy()
        found, scores = heatmap.peaks(output.float().cpu())
        sizes = (output.shape[3], output.shape[2]), (crops.shape[2], crops.shape[1])
        truth, guess = (geometry.heatmap_to_input(p.numpy(), *sizes) for p in (batch["keypoints"], found))
        if self.wanted.images_gt:
            self._picture(f"{prefix}_gt", sheets.crops_with_keypoints(crops, truth, visible, self.skeleton), step)
        if self.wanted.images_pred:
            seen = (scores > 0).float().numpy()
            self._picture(f"{prefix}_pred", sheets.crops_with_keypoints(crops, guess, seen, self.skeleton), step)
        if self.wanted.heatmaps_gt:
            self._picture(f"{prefix}_hm_gt", sheets.heatmaps(crops, target.float().cpu().numpy(), truth), step)
        if self.wanted.heatmaps_pred:
            self._picture(f"{prefix}_hm_pred", sheets.heatmaps(crops, output.float().cpu().numpy(), guess), step)

    def attention(self, network: TransPose, crops: TopDownDataset, options: TestOptions, step: int) -> None:
        """The dependency areas of some persons of the test set: evenly spread, and the same each time."""
        if not self.wanted.attention or self.writer is None:
            return
        training = network.training
        network.eval()
        for i in np.linspace(0, len(crops) - 1, min(self.wanted.attention, len(crops))).round().astype(int).tolist():
            person = explain_sample(network, crops, i, options)
            if found := person.found(threshold=0):
                grid = figures.rendered(figures.grid(person, person.maps(found)))
                self._picture(f"valid_attention_{i}", grid[..., ::-1], step)
        network.train(training)

    def _picture(self, name: str, image: np.ndarray, step: int) -> None:
        _, content = cv2.imencode(".jpg", image)
        write_atomically(self.picture_dir / f"{name}_{step}.jpg", lambda file: file.write(content.tobytes()))
        self.writer.add_image(name, image[..., ::-1], step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
