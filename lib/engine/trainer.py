"""A training run: epochs, validation, the best weights, and the state from which the run can be resumed."""

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

from ..core.train import Meter, Step, TrainOptions, train_epoch
from ..dataset.samplers import TrainSampler
from ..dataset.topdown import TopDownDataset
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, markdown_table
from ..models import weights
from ..models.transpose import TransPose
from ..runtime import checkpoint, distributed, log
from ..runtime.files import open_to_append, root_cause
from ..runtime.signals import Interrupted, SignalHandler
from .monitor import Monitor
from .resume import BEST, CHECKPOINT, FINAL, PREVIOUS, describe_best

logger = logging.getLogger(__name__)

BROKEN_STEPS = "broken_steps.jsonl"


def _signature(groups: list[dict[str, Any]]) -> list[tuple[bool, int]]:
    """The properties that an optimiser's state must share to fit: Adam's family or not, and the parameter count."""
    return [("betas" in group, len(group["params"])) for group in groups]


@dataclass
class Trainer:
    """A training run; `config` (nested dicts) is saved with its state. Epochs count from 0."""

    name: str
    folder: Path
    config: dict[str, Any]
    model: TransPose
    loader: DataLoader
    plan: TrainSampler
    targets: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]  # of an epoch
    evaluation: Evaluation
    monitor: Monitor
    device: torch.device
    options: TrainOptions
    epoch: int = 0
    epoch_step: int = 0  # optimiser steps finished in this epoch
    step: int = 0  # and in the whole run
    skipped: int = 0
    scaler: torch.amp.GradScaler = field(init=False)
    averaged: AveragedModel | None = field(init=False, default=None)
    best: dict[str, Any] = field(init=False)  # the evaluation's main metric, by its name, and the epoch
    best_seal: str = field(init=False, default="")  # of the file with the best weights
    interruption: SignalHandler = field(default_factory=SignalHandler)
    stop: distributed.Poll = field(default_factory=distributed.Poll)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == torch.float16)
        if decay := self.options.ema:
            self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.best = {self.evaluation.main: -1.0, "epoch": -1}

    @property
    def title(self) -> str:
        """The current epoch's name in the log."""
        return f"epoch {self.epoch + 1}/{self.options.epochs}"

    @property
    def result(self) -> TransPose:
        """The network that is validated and kept: the moving average if there is one."""
        if self.averaged is None:
            return self.model
        assert isinstance(self.averaged.module, TransPose)
        return self.averaged.module

    def run(self) -> int | None:
        """Train the remaining epochs, then write the final weights. Returns the signal that stopped the run, or None.

        Raises UserError for a loss or gradient that is NaN or infinite, and for files that cannot be written.
        """
        try:
            with self.interruption:
                self._run()
            return None
        except (Interrupted, RuntimeError) as error:
            # The same signal may end another process first; waiting for that one then fails here.
            deserted = distributed.world() > 1 and self.interruption.signal is not None
            if isinstance(error, RuntimeError) and not deserted:
                raise
            came = signal.Signals(self.interruption.signal or signal.SIGTERM)
            logger.info(
                "stopped by %s, saved after %d epochs and %d steps; AUTO_RESUME True resumes from there",
                *(came.name, self.epoch, self.epoch_step),
            )
            return came
        finally:
            self.monitor.close()

    def _run(self) -> None:
        wrapped: nn.Module = self.model
        if distributed.world() > 1:
            gpu = [self.device.index] if self.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self.model, gpu, broadcast_buffers=False)  # see BatchNorms
        logger.info("validation on %s", self.evaluation.describe())
        epochs = self.options.epochs
        while self.epoch < epochs:
            validate = (self.epoch + 1) % self.options.validate_every == 0 or self.epoch + 1 == epochs
            if self.epoch_step < self.plan.steps:
                self._train(wrapped)
                if validate:
                    self._save()  # so that the epoch is not lost if the validation is interrupted
            if validate:
                # All processes stop together: one that went on would wait for the others.
                if any(distributed.gather(self.interruption.signal is not None)):
                    raise Interrupted
                with self.interruption.at_once():
                    self._validate()
            self.epoch, self.epoch_step = self.epoch + 1, 0
            self._save()
        logger.info("final weights: %s; %s", self.folder / FINAL, describe_best(self.best))

    def _train(self, wrapped: nn.Module) -> None:
        """The remaining steps of this epoch."""
        options = self.options
        self._set_learning_rate()
        self.plan.epoch, self.plan.first = self.epoch, self.epoch_step
        meter, taken, began = Meter(), list[Step](), time.perf_counter()
        with log.Progress(len(self.plan), self.title, hidden=distributed.rank() > 0) as progress:
            batches, first = progress.follow(self.loader), self.step - self.epoch_step
            for step, batch, output, target in train_epoch(
                wrapped, batches, self.plan, self.targets, self.criterion, self.optimizer, self.scaler, options, first
            ):
                self.step, self.epoch_step = self.step + 1, self.epoch_step + 1
                meter.add(step)
                if step.skipped:
                    self.skipped += 1
                    logger.warning("%s: left out, %d so far", self._write_down(step), self.skipped)
                else:
                    taken.append(step)
                    if self.averaged is not None:
                        self.averaged.update_parameters(self.model)
                last = self.epoch_step == self.plan.steps
                reports = last or self.epoch_step % options.report_every == 0
                stops = self.stop(self.interruption.signal is not None)
                every = options.checkpoint_every
                saves = stops or (every and self.step % every == 0 and not last)
                if reports or saves:
                    self._refuse_broken(taken, step.number)
                    taken.clear()
                if reports and meter.samples:
                    progress.set_postfix_str(self._report(meter, time.perf_counter() - began), refresh=False)
                    self.monitor.pictures("train", batch, output, target, self.step - 1)
                if saves:
                    self._save()
                if stops:
                    raise Interrupted

    def _set_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.epoch) * group["lr_scale"]

    def _report(self, meter: Meter, seconds: float) -> str:
        """Log the meter's numbers and return them as a line; `seconds` since the epoch began, or was resumed."""
        numbers, rate = meter.read(), self.learning_rate(self.epoch)
        left = self.plan.steps * (self.options.epochs - self.epoch) - self.epoch_step
        remaining = timedelta(seconds=round(seconds / (self.epoch_step - self.plan.first) * left))
        line = (
            f"loss {numbers['loss']:.6f}  PCK {numbers['accuracy']:.3f}  {numbers['samples/s']:.1f} samples/s  "
            f"data wait {numbers['data wait %']:.0f} %  ETA {remaining}"
        )
        place = f"{self.title} step {self.epoch_step}/{self.plan.steps}"
        log.progress.info("%s  lr %.3g  %s", place, rate, line)
        self.monitor.scalars("train", numbers | {"lr": rate}, self.step - 1)
        return line

    def _refuse_broken(self, taken: list[Step], number: int) -> None:
        """Raise UserError if one of the steps up to that number was broken in any process."""
        broken = distributed.total(torch.stack([step.broken for step in taken])).tolist() if taken else []
        for step in (step for step, is_broken in zip(taken, broken, strict=True) if is_broken):
            raise UserError(
                f"{self._write_down(step)}: the training has diverged at the learning rate "
                f"{self.learning_rate(self.epoch):g}; set a smaller TRAIN.LR, TRAIN.CLIP_GRAD or "
                "TRAIN.SKIP_NONFINITE True, then train again, or resume with TRAIN.RESUME_CHANGED True"
            )
        if self.scaler.get_scale() < 1:
            raise UserError(
                f"{self.title} step {number + 1}: no loss scale makes float16's gradients finite: "
                "the training has diverged; train with TRAIN.PRECISION bfloat16 or a smaller TRAIN.LR"
            )

    def _write_down(self, step: Step) -> str:
        """Add a broken step's samples to the list in the run's folder; returns the fault and the list's path."""
        own = [(float(loss), samples.tolist()) for loss, samples in zip(step.losses, step.samples, strict=True)]
        batches = [batch for part in distributed.gather(own) for batch in part]
        path, norm = self.folder / BROKEN_STEPS, float(step.norm)
        if distributed.rank() == 0:
            assert isinstance(self.loader.dataset, TopDownDataset)
            instances = self.loader.dataset.instances
            names = instances.images.names[instances.image]
            record = {
                "epoch": self.epoch + 1,
                "step": step.number + 1,
                "gradient norm": str(norm),
                "micro-batches": [
                    {
                        "loss": str(loss),
                        "samples": [{"annotation": int(instances.ids[i]), "image": str(names[i])} for i in samples],
                    }
                    for loss, samples in batches
                ],
            }
            try:
                with open_to_append(path) as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                logger.warning("%s: cannot write (%s): %s", path, error.strerror, json.dumps(record))
        wrong = next((f"the loss is {loss}" for loss, _ in batches if not math.isfinite(loss)), None)
        return f"{self.title} step {step.number + 1}: {wrong or f'the gradient is {norm}'} (its samples: {path})"

    def _validate(self) -> None:
        predictions = self.evaluation.predict(self.result, self._watch)
        if distributed.rank() > 0:
            return
        epoch = self.epoch + 1
        metrics = self.evaluation.evaluate(predictions, self.folder, weights=f"epoch {epoch} of this run")
        if metrics is None:
            return
        logger.info("epoch %d on %s\n%s", epoch, self.evaluation.name, markdown_table(self.name, metrics))
        self.monitor.scalars("valid", metrics, self.step)
        self.monitor.attention(self.result, self.evaluation.crops, self.evaluation.options, self.step)
        main = self.evaluation.main
        if metrics[main] > self.best[main] or self.best["epoch"] < 0:  # an AP may be -1
            self.best = {main: metrics[main], "epoch": epoch}
            checkpoint.save(self.folder / BEST, self.result.state_dict())
            self.best_seal = checkpoint.seal_of(self.folder / BEST)

    def _watch(self, batch: dict[str, Tensor], heatmaps: Tensor, keypoints: Tensor) -> None:
        """Pictures of the first batch that is validated."""
        if bool((batch["index"] == 0).any()):
            self.monitor.pictures("valid", batch, heatmaps, self.targets(batch)[0], self.step)

    def _save(self) -> None:
        if distributed.rank() > 0:
            return
        # First: beside a checkpoint of a finished run there must be final weights.
        if self.epoch == self.options.epochs:
            checkpoint.save(self.folder / FINAL, self.result.state_dict())
        self._set_learning_rate()  # of the epoch to resume
        state = {
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "epoch_steps": self.plan.steps,
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "best_seal": self.best_seal,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({} if self.averaged is None else {"averaged": self.averaged.state_dict()}),
            "config": self.config,
        }
        checkpoint.save(self.folder / CHECKPOINT, state, keep=self.folder / PREVIOUS)

    def _load(self, saved: dict[str, Any]) -> None:
        """Load the states of optimiser, scaler and moving average; raises any exception if one does not fit."""
        groups = self.optimizer.state_dict()["param_groups"]
        if _signature(saved["optimizer"]["param_groups"]) != _signature(groups):
            raise ValueError("other groups of parameters")
        # The options, such as weight decay, are this run's.
        self.optimizer.load_state_dict(saved["optimizer"] | {"param_groups": groups})
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():
                if isinstance(moment, Tensor) and moment.ndim and moment.shape != parameter.shape:
                    raise ValueError(f"{name} of shape {tuple(moment.shape)} for {tuple(parameter.shape)}")
        if self.scaler.is_enabled() and saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(self.model.state_dict())
            self.averaged.load_state_dict(saved.get("averaged", self.averaged.state_dict()))

    def resume(self, saved: dict[str, Any]) -> None:
        """Resume from a state that `_save` wrote. Raises UserError if it does not fit the network or the optimiser."""
        path = self.folder / CHECKPOINT
        for remark in weights.load_weights(self.model, saved["state_dict"], source=str(path)):
            raise UserError(f"{path}: {remark}: a run keeps its MODEL.IMAGE_SIZE; train again with another --model-dir")
        found, self.best_seal = checkpoint.seal_of(self.folder / BEST), saved.get("best_seal", "")
        if saved["best"]["epoch"] > 0 and (not found or self.best_seal not in ("", found)):
            logger.warning(
                "%s is missing, or was changed after epoch %d; it is written again at the next better epoch",
                *(self.folder / BEST, saved["best"]["epoch"]),
            )
        if (self.folder / FINAL).exists():
            logger.warning(
                "%s holds the weights of the earlier, shorter run until this one is finished", self.folder / FINAL
            )
        try:
            self._load(saved)
        except Exception as error:
            raise UserError(
                f"{path}: its optimizer state does not fit this run's TRAIN.OPTIMIZER or the parameters that it trains "
                f"(MODEL.POS_EMBEDDING): set them back, or train again in another folder with --model-dir "
                f"({root_cause(error)})"
            ) from None
        self.epoch, self.step, self.best = saved["epoch"], saved["step"], saved["best"]
        # A state of version 0.1 does not have the following.
        self.epoch_step, self.skipped = saved.get("epoch_step", 0), saved.get("skipped", 0)
        if self.epoch_step and saved["epoch_steps"] != self.plan.steps:
            logger.warning("the number of steps per epoch has changed: epoch %d starts again", self.epoch + 1)
            self.step, self.epoch_step = self.step - self.epoch_step, 0
        logger.info(
            "resumed %s: %d epochs and %d steps done, step %d, %s",
            *(path, self.epoch, self.epoch_step, self.step, describe_best(self.best)),
        )
