"""A training run: epochs, validation, the best weights, and the state from which the same run can go on."""

import json
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from ..core.train import Meter, Step, train_epoch
from ..dataset.on_device import OnDeviceLoader
from ..dataset.samplers import TrainSampler
from ..dataset.topdown import TopDownDataset
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, markdown_table
from ..models import weights
from ..models.transpose import TransPose
from ..runtime import checkpoint, distributed, generators, log
from ..runtime.signals import Interrupted, SignalHandler
from .monitor import Monitor
from .resume import BEST, CHECKPOINT, FINAL, PREVIOUS, in_words

logger = logging.getLogger(__name__)


BROKEN_STEPS = "broken_steps.jsonl"


def _kind(groups: list[dict[str, Any]]) -> list[tuple[bool, int]]:
    """What must agree for an optimizer's state to fit: Adam's family or not, and how many parameters."""
    return [("betas" in group, len(group["params"])) for group in groups]


@dataclass
class Trainer:
    """All that a run is made of; `config` (nested dicts) is saved with its state. Epochs count from 0."""

    name: str
    folder: Path
    config: dict[str, Any]
    model: TransPose
    loader: DataLoader | OnDeviceLoader
    plan: TrainSampler
    optimizer: torch.optim.Optimizer
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor]
    targets: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]
    learning_rate: Callable[[int], float]
    evaluation: Evaluation
    monitor: Monitor | None  # of the first process
    device: torch.device
    precision: torch.dtype
    epoch: int
    epochs: int
    validate_every: int
    report_every: int
    checkpoint_every: int  # optimiser steps between two saved states within an epoch; 0 for none
    clip: float  # bound of the gradient's norm, 0 for none
    skip_broken: bool
    ema: float  # decay of the weights' moving average, 0 for none
    step: int = 0  # optimiser steps done in the whole run, and in this epoch
    epoch_step: int = 0
    skipped: int = 0
    scaler: torch.amp.GradScaler = field(init=False)
    averaged: AveragedModel | None = field(init=False)
    best: dict[str, Any] = field(init=False)  # the evaluation's main metric, by its name, and the epoch
    interruption: SignalHandler = field(default_factory=SignalHandler)
    stop: distributed.Poll = field(default_factory=distributed.Poll)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.averaged = None
        if self.ema:
            self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.ema), use_buffers=True)
        self.best = {self.evaluation.main: -1.0, "epoch": -1}

    @property
    def result(self) -> TransPose:
        """The network that is validated and kept: the moving average if there is one."""
        if self.averaged is None:
            return self.model
        assert isinstance(self.averaged.module, TransPose)
        return self.averaged.module

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
        if self.scaler.is_enabled() and saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(self.model.state_dict())
            self.averaged.load_state_dict(saved.get("averaged", self.averaged.state_dict()))
        self.epoch, self.step, self.best = saved["epoch"], saved["step"], saved["best"]
        # What follows is missing in a state of version 0.1.
        self.epoch_step, self.skipped = saved.get("epoch_step", 0), saved.get("skipped", 0)
        if self.epoch_step and saved["epoch_steps"] != self.plan.steps:
            logger.warning("an epoch has another number of steps now: epoch %d starts anew", self.epoch + 1)
            self.step, self.epoch_step = self.step - self.epoch_step, 0
        if distributed.rank() < len(saved.get("generators", [])):
            generators.restore(saved["generators"][distributed.rank()])
        logger.info(
            "resumed %s: %d epochs and %d steps done, step %d, %s",
            *(path, self.epoch, self.epoch_step, self.step, in_words(self.best)),
        )

    def run(self) -> int | None:
        """Train the epochs that are left, then write the final weights; returns the signal that ended the run before.

        Raises UserError for losses and gradients that are no numbers, and for files that cannot be written.
        """
        try:
            with self.interruption:
                self._run()
            return None
        except (Interrupted, RuntimeError) as error:
            # A process that a signal has ended leaves another, which got it too, without a partner.
            deserted = distributed.world() > 1 and self.interruption.signal is not None
            if isinstance(error, RuntimeError) and not deserted:
                raise
            came = signal.Signals(self.interruption.signal or signal.SIGTERM)
            logger.info(
                "stopped by %s, saved after %d epochs and %d steps; it goes on from there with AUTO_RESUME True",
                *(came.name, self.epoch, self.epoch_step),
            )
            return came
        finally:
            if self.monitor is not None:
                self.monitor.close()

    def _run(self) -> None:
        wrapped: nn.Module = self.model
        if distributed.world() > 1:
            gpu = [self.device.index] if self.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self.model, gpu)
        logger.info("validation on %s", self.evaluation.describe())
        while self.epoch < self.epochs:
            validate = (self.epoch + 1) % self.validate_every == 0 or self.epoch + 1 == self.epochs
            if self.epoch_step < self.plan.steps:
                self._train(wrapped)
                if validate:
                    self._save()  # whatever ends the validation, the epoch is not lost
            if validate:
                # All leave or none: one that stays would wait for the others.
                if any(distributed.gather(self.interruption.signal is not None)):
                    raise Interrupted
                with self.interruption.at_once():
                    self._validate()
            self.epoch, self.epoch_step = self.epoch + 1, 0
            self._save()
        logger.info("final weights: %s; %s", self.folder / FINAL, in_words(self.best))

    def _train(self, wrapped: nn.Module) -> None:
        rate = self.learning_rate(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.plan.epoch, self.plan.first = self.epoch, self.epoch_step
        title, began = f"epoch {self.epoch + 1}/{self.epochs}", time.perf_counter()
        start, meter, taken = self.epoch_step, Meter(), list[Step]()
        with log.Progress(len(self.plan), title, hidden=distributed.rank() > 0) as progress:
            for step, batch, output, target in train_epoch(
                wrapped,
                progress.follow(self.loader),
                self.plan,
                self.optimizer,
                self.criterion,
                self.targets,
                meter,
                device=self.device,
                first_step=self.step - self.epoch_step,
                precision=self.precision,
                scaler=self.scaler,
                clip=self.clip,
                skip_broken=self.skip_broken,
            ):
                self.step, self.epoch_step = self.step + 1, self.epoch_step + 1
                if step.skipped:
                    self.skipped += 1
                    logger.warning("%s: left out, %d so far", self._write_down(step, title), self.skipped)
                else:
                    taken.append(step)
                    if self.averaged is not None:
                        self.averaged.update_parameters(self.model)
                last = self.epoch_step == self.plan.steps
                reports = last or self.epoch_step % self.report_every == 0
                stops = self.stop(self.interruption.signal is not None)
                saves = stops or (self.checkpoint_every and self.step % self.checkpoint_every == 0 and not last)
                if taken and (reports or saves):
                    self._refuse_broken(taken, title, rate)
                    taken.clear()
                if (reports or saves) and self.scaler.get_scale() < 1:
                    raise UserError(
                        f"{title} step {step.number + 1}: float16 finds no scale at which the gradients are finite: "
                        "the training has diverged; train with TRAIN.PRECISION bfloat16 or a smaller TRAIN.LR"
                    )
                if reports and meter.samples:
                    each = (time.perf_counter() - began) / (self.epoch_step - start)
                    left = self.plan.steps * (self.epochs - self.epoch) - self.epoch_step
                    numbers = meter.read()
                    line = (
                        f"loss {numbers['loss']:.6f}  PCK {numbers['accuracy']:.3f}  "
                        f"{numbers['samples/s']:.1f} samples/s  data wait {numbers['data wait %']:.0f} %  "
                        f"ETA {timedelta(seconds=round(each * left))}"
                    )
                    progress.show(line)
                    log.progress.info("%s step %d/%d  lr %.3g  %s", title, self.epoch_step, self.plan.steps, rate, line)
                    if self.monitor is not None:
                        self.monitor.scalars("train", numbers | {"lr": rate}, self.step - 1)
                        self.monitor.pictures("train", batch, output, target, self.step - 1)
                if saves:
                    self._save()
                if stops:
                    raise Interrupted

    def _refuse_broken(self, steps: list[Step], title: str, rate: float) -> None:
        """Raise UserError if one of the steps that were taken was broken in any process."""
        broken = distributed.total(torch.stack([step.broken for step in steps])).tolist()
        for step in (step for step, is_broken in zip(steps, broken, strict=True) if is_broken):
            raise UserError(
                f"{self._write_down(step, title)}: the training has diverged; train anew, or go on from the last state "
                f"with TRAIN.RESUME_CHANGED True, with a smaller TRAIN.LR, here the rate is {rate:g}, with "
                "TRAIN.CLIP_GRAD, or with TRAIN.SKIP_NONFINITE True"
            )

    def _write_down(self, step: Step, title: str) -> str:
        """Add a broken step's samples to the list in the run's folder; returns what is broken and where the list is."""
        parts = distributed.gather(
            [(float(loss), samples.tolist()) for loss, samples in zip(step.losses, step.samples, strict=True)]
        )
        batches = [batch for part in parts for batch in part]
        path, norm = self.folder / BROKEN_STEPS, float(step.norm)
        if distributed.rank() == 0:
            assert isinstance(self.loader.dataset, TopDownDataset)
            people = self.loader.dataset.instances
            names = people.images.names[people.image]
            described = [
                {
                    "loss": str(loss),
                    "samples": [{"annotation": int(people.ids[i]), "image": str(names[i])} for i in samples],
                }
                for loss, samples in batches
            ]
            record = {
                "epoch": self.epoch + 1,
                "step": step.number + 1,
                "gradient norm": str(norm),
                "micro-batches": described,
            }
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                logger.warning("%s: cannot write (%s): %s", path, error.strerror, json.dumps(record))
        wrong = next((f"the loss is {loss}" for loss, _ in batches if not math.isfinite(loss)), None)
        return f"{title} step {step.number + 1}: {wrong or f'the gradient is {norm}'} (its samples: {path})"

    def _validate(self) -> None:
        # Each process has its own batch norm statistics; the first one's are judged because they are saved.
        distributed.share(self.model.buffers())
        distributed.share(self.averaged.module.buffers() if self.averaged is not None else [])
        predictions = self.evaluation.predict(self.result, self._watch if self.monitor else None)
        if distributed.rank() > 0:
            return
        epoch = self.epoch + 1
        metrics = self.evaluation.judge(predictions, self.folder, weights=f"epoch {epoch} of this run")
        if metrics is None:
            return
        logger.info("epoch %d on %s\n%s", epoch, self.evaluation.name, markdown_table(self.name, metrics))
        if self.monitor is not None:
            self.monitor.scalars("valid", metrics, self.step)
            self.monitor.attention(self.result, self.evaluation.crops, self.evaluation.options, self.step)
        main = self.evaluation.main
        if metrics[main] > self.best[main]:
            self.best = {main: metrics[main], "epoch": epoch}
            checkpoint.save(self.folder / BEST, self.result.state_dict())

    def _watch(self, batch: dict[str, Tensor], heatmaps: Tensor, keypoints: Tensor) -> None:
        """Pictures of the first batch that is validated."""
        if self.monitor is not None and bool((batch["index"] == 0).any()):
            self.monitor.pictures("valid", batch, heatmaps, self.targets(batch)[0], self.step)

    def _save(self) -> None:
        states = distributed.gather(generators.states())
        if distributed.rank() > 0:
            return
        # First, so that a run whose checkpoint says that it is finished has them.
        if self.epoch == self.epochs:
            checkpoint.save(self.folder / FINAL, self.result.state_dict())
        state = {
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "epoch_steps": self.plan.steps,
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({} if self.averaged is None else {"averaged": self.averaged.state_dict()}),
            "generators": states,
            "config": self.config,
        }
        checkpoint.save(self.folder / CHECKPOINT, state, keep=self.folder / PREVIOUS)
