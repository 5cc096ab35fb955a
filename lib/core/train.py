"""One epoch of training, on one screen."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transpose import distributed
from transpose.core.loss import pck, pck_average
from transpose.core.predict import normalise
from transpose.dataset.batches import TrainingBatches


@dataclass
class Meter:
    """Sums since the last report; tensors stay on the device until it is asked."""

    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    judged: list[Tensor] = field(default_factory=list)
    samples: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def read(self) -> dict[str, float]:
        """Mean loss, PCK and samples a second of all processes, and this one's share of time spent waiting for data."""
        loss = distributed.total(torch.stack(self.losses).sum())
        correct, judged = (distributed.total(torch.stack(counts).sum(0)) for counts in (self.correct, self.judged))
        samples = int(distributed.total(torch.tensor(self.samples, device=loss.device)))
        seconds = time.perf_counter() - self.since
        return {
            "loss": float(loss) / samples,
            "accuracy": pck_average(correct, judged)[0],
            "samples/s": samples / seconds,
            "data wait %": 100 * self.waited / seconds,
        }


def dropout_seed(seed: int, share: int, step: int) -> int:
    """The seed of dropout in a micro-batch, by its number within the optimiser step and the step's in the run.

    So no random state has to be saved for a resumed run to go on equally, and any number of processes draws the same.
    """
    return ((seed * 1_000_003 + share) * 1_000_000_007 + step) % 2**63


def train_epoch(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    plan: TrainingBatches,
    optimizer: torch.optim.Optimizer,
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor],
    targets_of: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    first_step: int,
    precision: torch.dtype,
    scaler: torch.amp.GradScaler,
    report_every: int,
    report: Callable[[int, dict[str, float], dict[str, Tensor], Tensor, Tensor], None],
) -> None:
    """Train on one epoch of `plan`, whose micro-batches `loader` delivers.

    `targets_of(batch)` makes the target maps and weights on the device; `first_step` is the run's number of the
    epoch's first step. The network runs in `precision`, its weights and the loss stay float32; `scaler` keeps
    float16's gradients from vanishing. Every `report_every` steps and at the end
    `report(step, numbers, batch, output, target)` is called with the step within the epoch.
    """
    model.train()
    meter = Meter()
    shares = iter(loader)
    for step in range(plan.steps):
        optimizer.zero_grad(set_to_none=True)
        for share in range(plan.shares_here):
            asked = time.perf_counter()
            batch = next(shares)
            meter.waited += time.perf_counter() - asked
            target, weight = targets_of(batch)
            torch.manual_seed(dropout_seed(plan.seed, plan.rank + share * plan.world, first_step + step))
            last = share == plan.shares_here - 1
            with (
                contextlib.nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
            ):
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    output = model(normalise(batch["image"], device))
                output = output.float()
                loss = criterion(output, target, weight)
                # The gradient is that of the mean over the whole step; DDP averages over its processes.
                scaler.scale(loss * (len(output) * plan.world / plan.step_size(step))).backward()
            meter.losses.append(loss.detach() * len(output))
            meter.samples += len(output)
            counts = pck(output.detach(), target)
            meter.correct.append(counts[0])
            meter.judged.append(counts[1])
        scaler.step(optimizer)
        scaler.update()
        if (step + 1) % report_every == 0 or step == plan.steps - 1:
            report(step, meter.read(), batch, output.detach(), target)
            meter = Meter()
