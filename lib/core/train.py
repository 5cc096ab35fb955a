"""One epoch of training."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..dataset.samplers import TrainSampler
from ..runtime import distributed
from .loss import pck, pck_average
from .predict import normalise


@dataclass(frozen=True)
class TrainOptions:
    """The options of training, apart from data, loss and optimiser."""

    epochs: int
    validate_every: int = 1  # epochs; the last one is always validated
    report_every: int = 20  # optimiser steps
    checkpoint_every: int = 0  # optimiser steps between two saved states within an epoch; 0: at its end only
    precision: torch.dtype = torch.float32  # of the forward and backward pass; weights and loss stay float32
    clip: float = 0.0  # largest norm of the gradient; 0: no limit
    skip_broken: bool = False  # leave out a step whose loss or gradient is NaN or infinite
    ema: float = 0.0  # decay of the weights' moving average; 0: none


@dataclass
class Step:
    """This process's part of an optimiser step; tensors stay on the device until they are read.

    `losses`, `samples` (indices into the dataset) and `counts` (of PCK) belong to its micro-batches.
    """

    number: int
    losses: list[Tensor]
    samples: list[Tensor]
    counts: list[tuple[Tensor, Tensor]]
    waited: float  # seconds of waiting for data
    norm: Tensor  # of the whole gradient, before clipping
    broken: Tensor  # 1 if a loss or the gradient is NaN or infinite, else 0
    skipped: bool


@dataclass
class Meter:
    """Sums over the optimiser steps since the last `read`; tensors stay on the device until then."""

    losses: list[Tensor] = field(default_factory=list)
    counts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    samples: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, step: Step) -> None:
        self.waited += step.waited
        if not step.skipped:
            self.losses += [loss * len(samples) for loss, samples in zip(step.losses, step.samples, strict=True)]
            self.counts += step.counts
            self.samples += sum(map(len, step.samples))

    def read(self) -> dict[str, float]:
        """Mean loss, PCK and samples per second of all processes; this one's share of time spent waiting for data."""
        loss = distributed.total(torch.stack(self.losses).sum())
        correct, counts = (distributed.total(torch.stack(part).sum(0)) for part in zip(*self.counts, strict=True))
        samples = int(distributed.total(torch.tensor(self.samples, device=loss.device)))
        seconds = time.perf_counter() - self.since
        numbers = {
            "loss": float(loss) / samples,
            "accuracy": pck_average(correct, counts)[0],
            "samples/s": samples / seconds,
            "data wait %": 100 * self.waited / seconds,
        }
        vars(self).update(vars(Meter()))
        return numbers


def dropout_seed(seed: int, micro_batch: int, step: int) -> int:
    """The seed of dropout for a micro-batch, from its number in the step and the step's number in the run.

    So a resumed run continues identically without a saved random state, for any number of processes.
    """
    return ((seed * 1_000_003 + micro_batch) * 1_000_000_007 + step) % 2**63


def gradient_norm(parameters: list[nn.Parameter], bound: float) -> Tensor:
    """The norm of all gradients together; with a `bound` above 0, a larger one is scaled down to it."""
    if bound:
        return torch.nn.utils.clip_grad_norm_(parameters, bound)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


class BatchNorms:
    """Makes the running statistics of batch norms independent of the number of processes.

    After a turn, in which each process takes one micro-batch, the statistics are (up to rounding) those of a single
    process that takes these micro-batches in the order of the ranks, keeping the fraction `keep` of a statistic each
    time.
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
        self.statistics = [s for layer in self.layers for s in (layer.running_mean, layer.running_var) if s is not None]
        self.keep = 1 - (self.layers[0].momentum or 0) if self.layers else 1.0

    def values(self) -> Tensor:
        return torch.cat([statistic.flatten() for statistic in self.statistics])

    def take_turns(self, before: Tensor) -> None:
        """Combine the statistics; `before` are the values before the turn, equal in all processes."""
        value = before
        for after in distributed.collect(self.values()):
            value = self.keep * value + (after - self.keep * before)
        for statistic, part in zip(self.statistics, value.split([s.numel() for s in self.statistics]), strict=True):
            statistic.copy_(part.view_as(statistic))
        for layer in self.layers:
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += distributed.world() - 1


def train_epoch(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    plan: TrainSampler,
    targets_of: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    options: TrainOptions,
    first_step: int,
) -> Iterator[tuple[Step, dict[str, Tensor], Tensor, Tensor]]:
    """Train on one epoch of `plan`, whose micro-batches come from `loader`; yields each finished step, with the batch,
    output and target maps of its last micro-batch.

    `targets_of(batch)` makes the target maps (B, K, H, W) and weights (B, K) on the device, `criterion(output, target,
    weight)` the loss; `first_step` is the number of the epoch's first step in the run. `scaler` keeps float16's
    gradients from vanishing, and skips steps whose scaled gradient is too large. With `options.skip_broken` all
    processes leave out a step that is broken in one of them, so that every step waits for the device. Without it the
    step is taken, and the caller must check `Step.broken` before it saves or reports.
    """
    model.train()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device, micro_batches = parameters[0].device, iter(loader)
    norms = BatchNorms(model)
    shares_norms = distributed.world() > 1 and bool(norms.layers)
    for number in range(plan.first, plan.steps):
        optimizer.zero_grad(set_to_none=True)
        statistics = [buffer.clone() for buffer in model.buffers()] if options.skip_broken else []
        losses, samples, counts, waited = [], [], [], 0.0
        for micro_batch in range(plan.micro_batches_here):
            asked = time.perf_counter()
            batch = next(micro_batches)
            waited += time.perf_counter() - asked
            target, weight = targets_of(batch)
            torch.manual_seed(dropout_seed(plan.seed, plan.rank + micro_batch * plan.world, first_step + number))
            last = micro_batch == plan.micro_batches_here - 1
            before = norms.values() if shares_norms else None
            with (
                contextlib.nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
            ):
                with torch.autocast(device.type, options.precision, enabled=options.precision != torch.float32):
                    output = model(normalise(batch["image"], device))
                output = output.float()
                loss = criterion(output, target, weight)
                # The gradient is that of the mean over the whole step; DDP averages over its processes.
                scaler.scale(loss * (len(output) * plan.world / plan.step_size(number))).backward()
            if before is not None:
                norms.take_turns(before)
            losses.append(loss.detach())
            samples.append(batch["index"])
            counts.append(pck(output.detach(), target))
        scaler.unscale_(optimizer)
        norm = gradient_norm(parameters, options.clip)
        numbers = torch.stack(losses if scaler.is_enabled() else [*losses, norm])
        broken = (~numbers.isfinite().all()).float()
        skipped = options.skip_broken and bool(distributed.total(broken.clone()))
        if skipped:
            for buffer, before in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        else:
            scaler.step(optimizer)
        scaler.update()
        yield Step(number, losses, samples, counts, waited, norm, broken, skipped), batch, output.detach(), target
