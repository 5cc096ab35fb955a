"""A training run: epochs, validation, the best, and a folder from which the same run can go on."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from transpose import checkpoint, distributed, log
from transpose.core.evaluate import Evaluation, markdown_table
from transpose.core.train import train_epoch
from transpose.dataset.batches import TrainingBatches
from transpose.dataset.resident import ResidentCrops
from transpose.errors import UserError
from transpose.models import weights
from transpose.models.transpose import TransPose
from transpose.monitor import Monitor

logger = logging.getLogger(__name__)

CHECKPOINT, BEST, FINAL = "checkpoint.pth", "model_best.pth", "final_state.pth"


def saved_state(
    folder: Path, resume: bool, changes: Callable[[dict], list[str]], accept_changes: bool
) -> dict[str, Any] | None:
    """The training state that a run in this folder goes on from, None for a new run.

    `changes(config)` lists in what the configuration differs from the saved one. Raises UserError for a used folder
    that is not to be resumed, a file that is no training state, and changes that were not accepted.
    """
    path = folder / CHECKPOINT
    used = [name for name in (CHECKPOINT, BEST, FINAL) if (folder / name).exists()]
    if used and not resume:
        raise UserError(
            f"{folder} holds a run already ({', '.join(used)}): continue it with AUTO_RESUME True, "
            "choose another folder with --modelDir, or move it away"
        )
    if used and not path.exists():
        raise UserError(
            f"{folder} holds weights ({', '.join(used)}) but no {CHECKPOINT} to go on from: move them away, "
            "or choose another folder with --modelDir"
        )
    if not used:
        return None
    saved = checkpoint.read(path)
    if not {"config", "state_dict", "optimizer", "epoch", "step", "best"} <= saved.keys():
        raise UserError(f"{path}: not a training state of this program; move it away to start anew")
    changed = changes(saved["config"])
    if changed and not accept_changes:
        raise UserError(
            f"{path} was trained with another configuration ({'; '.join(changed)}): set it back, "
            "or go on all the same with TRAIN.RESUME_CHANGED True"
        )
    if changed:
        logger.info("resuming with a changed configuration: %s", "; ".join(changed))
    return saved


def in_words(best: dict[str, Any]) -> str:
    """A training state's `best` for the log."""
    (metric,) = best.keys() - {"epoch"}
    return f"best {metric} {best[metric]:.4f}"


def _kind(groups: list[dict[str, Any]]) -> list[tuple[bool, int]]:
    """What must agree for an optimizer's state to fit: Adam's family or not, and how many parameters."""
    return [("betas" in group, len(group["params"])) for group in groups]


@dataclass
class Training:
    """All that a run is made of; `config` (nested dicts) is saved with its state. Epochs count from 0."""

    name: str
    folder: Path
    config: dict[str, Any]
    model: TransPose
    loader: DataLoader | ResidentCrops
    plan: TrainingBatches
    optimizer: torch.optim.Optimizer
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor]
    targets: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]
    learning_rate: Callable[[int], float]
    evaluation: Evaluation
    monitor: Monitor | None  # of the first process
    device: torch.device
    epoch: int
    epochs: int
    validate_every: int
    report_every: int
    step: int = 0
    best: dict[str, Any] = field(init=False)  # the evaluation's main metric, by its name, and the epoch

    def __post_init__(self) -> None:
        self.best = {self.evaluation.main: -1.0, "epoch": -1}

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        path = self.folder / CHECKPOINT
        for remark in weights.load_weights(self.model, saved["state_dict"], source=str(path)):
            raise UserError(f"{path}: {remark}: a run keeps its MODEL.IMAGE_SIZE; train anew with another --modelDir")
        if (self.folder / FINAL).exists():
            logger.warning("%s is the shorter run's until this one is finished", self.folder / FINAL)
        groups = self.optimizer.state_dict()["param_groups"]
        if _kind(saved["optimizer"]["param_groups"]) != _kind(groups):
            raise UserError(
                f"{path}: its optimizer state does not fit this run's TRAIN.OPTIMIZER or the parameters that it trains "
                "(MODEL.POS_EMBEDDING): set them back, or train anew in another folder with --modelDir"
            )
        # The options, such as weight decay, are this run's.
        self.optimizer.load_state_dict(saved["optimizer"] | {"param_groups": groups})
        self.epoch, self.step, self.best = saved["epoch"], saved["step"], saved["best"]
        logger.info("resumed %s: %d epochs done, step %d, %s", path, self.epoch, self.step, in_words(self.best))

    def run(self) -> None:
        """Train the epochs that are left, then write the final weights."""
        wrapped: nn.Module = self.model
        if distributed.world() > 1:
            gpu = [self.device.index] if self.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self.model, gpu)
        logger.info("validation on %s", self.evaluation.describe())
        while self.epoch < self.epochs:
            self._train(wrapped)
            self.epoch += 1
            if self.epoch % self.validate_every == 0 or self.epoch == self.epochs:
                self._validate()
            self._save()
        if self.monitor is not None:
            self.monitor.close()
        logger.info("final weights: %s; %s", self.folder / FINAL, in_words(self.best))

    def _train(self, wrapped: nn.Module) -> None:
        rate = self.learning_rate(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.plan.epoch = self.epoch
        steps, began = self.plan.steps, time.perf_counter()
        title = f"epoch {self.epoch + 1}/{self.epochs}"
        with log.Progress(steps * self.plan.shares_here, title, hidden=distributed.rank() > 0) as progress:

            def report(
                step: int, numbers: dict[str, float], batch: dict[str, Tensor], output: Tensor, target: Tensor
            ) -> None:
                if not math.isfinite(numbers["loss"]):
                    raise UserError(
                        f"{title} step {step + 1}: the loss is {numbers['loss']}, the training has diverged: "
                        f"train anew with a smaller TRAIN.LR, here the rate is {rate:g}"
                    )
                done, left = step + 1, steps - step - 1 + steps * (self.epochs - self.epoch - 1)
                eta = timedelta(seconds=round((time.perf_counter() - began) / done * left))
                line = (
                    f"loss {numbers['loss']:.6f}  PCK {numbers['accuracy']:.3f}  "
                    f"{numbers['samples/s']:.1f} samples/s  data wait {numbers['data wait %']:.0f} %  ETA {eta}"
                )
                progress.show(line)
                log.progress.info("%s step %d/%d  lr %.3g  %s", title, done, steps, rate, line)
                if self.monitor is not None:
                    self.monitor.scalars("train", numbers | {"lr": rate}, self.step + step)
                    self.monitor.pictures("train", batch, output, target, self.step + step)

            train_epoch(
                wrapped,
                progress.follow(self.loader),
                self.plan,
                self.optimizer,
                self.criterion,
                self.targets,
                device=self.device,
                first_step=self.step,
                report_every=self.report_every,
                report=report,
            )
        self.step += steps

    def _validate(self) -> None:
        # Each process has its own batch norm statistics; the first one's are judged because they are saved.
        distributed.share(self.model.buffers())
        predictions = self.evaluation.predict(self.model, self._watch if self.monitor else None)
        if distributed.rank() > 0:
            return
        metrics = self.evaluation.judge(predictions, self.folder, weights=f"epoch {self.epoch} of this run")
        if metrics is None:
            return
        logger.info("epoch %d on %s\n%s", self.epoch, self.evaluation.name, markdown_table(self.name, metrics))
        if self.monitor is not None:
            self.monitor.scalars("valid", metrics, self.step)
        main = self.evaluation.main
        if metrics[main] > self.best[main]:
            self.best = {main: metrics[main], "epoch": self.epoch}
            checkpoint.save(self.folder / BEST, self.model.state_dict())

    def _watch(self, batch: dict[str, Tensor], heatmaps: Tensor, keypoints: Tensor) -> None:
        """Pictures of the first batch that is validated."""
        if self.monitor is not None and int(batch["index"][0]) == 0:
            self.monitor.pictures("valid", batch, heatmaps, self.targets(batch)[0], self.step)

    def _save(self) -> None:
        if distributed.rank() > 0:
            return
        # First, so that a run whose checkpoint says that it is finished has them.
        if self.epoch == self.epochs:
            checkpoint.save(self.folder / FINAL, self.model.state_dict())
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": self.config,
        }
        checkpoint.save(self.folder / CHECKPOINT, state)
