"""The processes of a run: rank, device and communication. A single process needs no set-up."""

import os
import sys
import time
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

# A gloo group beside the one for gradients: its messages do not wait for a GPU.
_control: Any = None
MAX_WAIT = timedelta(days=1)  # the other processes wait while the first one decodes images or evaluates


def world() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def usable_gpus(gpus: tuple[int, ...]) -> list[int]:
    """The configured GPU numbers that this machine has. Raises UserError if it has none of them."""
    count = torch.cuda.device_count()
    usable = [gpu for gpu in gpus if gpu < count]
    if count and not usable:
        raise UserError(f"GPUS {gpus}: this machine has {count}, numbered from 0; name at least one of them")
    return usable


def processes_for(gpus: tuple[int, ...]) -> int:
    """How many processes to start: the largest number of usable GPUs that divides the number of configured ones."""
    usable = len(usable_gpus(gpus))
    return max(n for n in range(1, max(usable, 1) + 1) if len(gpus) % n == 0)


def start_one_process_per_gpu(gpus: tuple[int, ...]) -> None:
    """Restart under torchrun if this process was started without it and several configured GPUs are here."""
    processes = processes_for(gpus)
    if "RANK" not in os.environ and processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        # A file in tools/, or "transpose train": then the installed package is started as a module.
        program = [sys.argv[0]] if os.path.exists(sys.argv[0]) else ["-m", *sys.argv[0].split()]
        os.execv(sys.executable, [sys.executable, *launch, *program, *sys.argv[1:]])


def start(gpus: tuple[int, ...]) -> torch.device:
    """Join the other processes, if any; returns this process's device.

    Raises UserError, with the option to use, if the number of processes does not divide the number of GPUS.
    """
    if len(gpus) % world():
        fitting = [n for n in range(1, len(gpus) + 1) if len(gpus) % n == 0]
        raise UserError(
            f"torchrun started {world()} processes, which does not divide the {len(gpus)} entries of GPUS: "
            f"use --nproc_per_node {' or '.join(map(str, fitting))}, or list another number of GPUS"
        )
    usable = usable_gpus(gpus)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cpu")
    if usable:
        if here > len(usable):
            raise UserError(
                f"torchrun started {here} processes on this machine, which has {len(usable)} of the GPUS {gpus}: "
                f"use --nproc_per_node {processes_for(gpus)}"
            )
        device = torch.device("cuda", usable[int(os.environ.get("LOCAL_RANK", 0))])
        torch.cuda.set_device(device)
    if world() > 1:
        global _control
        torch.distributed.init_process_group("nccl" if usable else "gloo")
        _control = torch.distributed.new_group(backend="gloo", timeout=MAX_WAIT)
    return device


def join() -> None:
    """Join the other processes, if there are any, only to wait for them and to `gather`."""
    if world() > 1:
        torch.distributed.init_process_group("gloo", timeout=MAX_WAIT)


def own_device(asked: str | None) -> str | None:
    """The device that was asked for; of several processes that share a machine's GPUs, each has its own.

    Raises UserError if there are fewer GPUs than processes.
    """
    if world() == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
        return asked
    here, count = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if here > count:
        raise UserError(
            f"torchrun started {here} processes on this machine, which has {count} GPU(s): "
            f"use --nproc_per_node {count}, or pass --device"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def stop() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather(part: Any) -> list[Any]:
    """Every process's `part`, in the order of their ranks, on every process."""
    if world() == 1:
        return [part]
    # Python handles signals in this loop, but not inside torch's wait.
    barrier = torch.distributed.all_reduce(torch.zeros(1), group=_control, async_op=True)
    while not barrier.is_completed():
        time.sleep(0.01)
    barrier.wait()
    parts: list[Any] = [None] * world()
    torch.distributed.all_gather_object(parts, part, group=_control)
    return parts


def collect(part: Tensor) -> list[Tensor]:
    """Every process's `part`, all of one shape, in the order of their ranks, on every process."""
    parts = [torch.empty_like(part) for _ in range(world())]
    torch.distributed.all_gather(parts, part)
    return parts


def total(part: Tensor) -> Tensor:
    """The sum of every process's `part`, on every process."""
    if world() > 1:
        torch.distributed.all_reduce(part)
    return part


class Poll:
    """Whether any process says yes. Each calls it once per step and gets the last step's answer, without waiting."""

    def __init__(self) -> None:
        self._previous: tuple[torch.distributed.Work, Tensor] | None = None

    def __call__(self, yes: bool) -> bool:
        if world() == 1:
            return yes
        answer = torch.tensor([float(yes)])
        work = torch.distributed.all_reduce(answer, group=_control, async_op=True)
        previous, self._previous = self._previous, (work, answer)
        if previous is None:
            return False
        previous[0].wait()
        return bool(previous[1])
