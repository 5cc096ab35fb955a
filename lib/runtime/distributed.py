"""Processes: who this one is, and what all of them know together. One process alone needs no set-up.

Imports torch only where it is used: `rank` is asked before the configuration is checked, which must not take seconds.
"""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch

# On the processor, beside the group that carries gradients: what the processes agree on waits for no GPU.
_control: Any = None
LONGEST_WAIT = timedelta(days=1)  # the others' while the first one decodes photographs or judges


def world() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def usable_gpus(gpus: tuple[int, ...]) -> list[int]:
    """Those of the configured GPU numbers that this machine has. Raises UserError if it has others only."""
    import torch

    count = torch.cuda.device_count()
    usable = [gpu for gpu in gpus if gpu < count]
    if count and not usable:
        raise UserError(f"GPUS {gpus}: this machine has {count}, numbered from 0; name at least one of them")
    return usable


def processes_for(gpus: tuple[int, ...]) -> int:
    """Processes that a plain start should become: the most usable GPUs whose number divides the configured ones."""
    usable = len(usable_gpus(gpus))
    return max(n for n in range(1, max(usable, 1) + 1) if len(gpus) % n == 0)


def start_one_process_per_gpu(gpus: tuple[int, ...]) -> None:
    """Replace a plain start on a machine with several of the configured GPUs by torchrun's."""
    processes = processes_for(gpus)
    if "RANK" not in os.environ and processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        # A file of a clone's tools, or "transpose train", which the installed package answers to as a module.
        program = [sys.argv[0]] if os.path.exists(sys.argv[0]) else ["-m", *sys.argv[0].split()]
        os.execv(sys.executable, [sys.executable, *launch, *program, *sys.argv[1:]])


def start(gpus: tuple[int, ...]) -> "torch.device":
    """This process's device; joins the others if there are any. The number of processes must divide the GPUs'.

    Raises UserError that says what to type when it does not.
    """
    if len(gpus) % world():
        fitting = [n for n in range(1, len(gpus) + 1) if len(gpus) % n == 0]
        raise UserError(
            f"torchrun started {world()} processes, which does not divide the {len(gpus)} entries of GPUS: "
            f"type --nproc_per_node {' or '.join(map(str, fitting))}, or list another number of GPUS"
        )
    import torch

    usable = usable_gpus(gpus)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cpu")
    if usable:
        if here > len(usable):
            raise UserError(
                f"torchrun started {here} processes on this machine, which has {len(usable)} of the GPUS {gpus}: "
                f"type --nproc_per_node {processes_for(gpus)}"
            )
        device = torch.device("cuda", usable[int(os.environ.get("LOCAL_RANK", 0))])
        torch.cuda.set_device(device)
    if world() > 1:
        global _control
        torch.distributed.init_process_group("nccl" if usable else "gloo")
        _control = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return device


def stop() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather(part: Any) -> list[Any]:
    """Every process's `part`, in the order of their ranks, on every process."""
    if world() == 1:
        return [part]
    import torch

    # Python hears of signals in this loop, and would not inside torch's own waiting.
    meeting = torch.distributed.all_reduce(torch.zeros(1), group=_control, async_op=True)
    while not meeting.is_completed():
        time.sleep(0.01)
    meeting.wait()
    parts: list[Any] = [None] * world()
    torch.distributed.all_gather_object(parts, part, group=_control)
    return parts


def collect(part: "torch.Tensor") -> "list[torch.Tensor]":
    """Every process's `part`, which have one shape, in the order of their ranks, on every process."""
    import torch

    parts = [torch.empty_like(part) for _ in range(world())]
    torch.distributed.all_gather(parts, part)
    return parts


def share(tensors: "Iterable[torch.Tensor]") -> None:
    """Give every process the first one's values, in place."""
    if world() == 1:
        return
    import torch

    for tensor in tensors:
        torch.distributed.broadcast(tensor, src=0)


def total(part: "torch.Tensor") -> "torch.Tensor":
    """The sum of every process's `part`, on every process."""
    if world() > 1:
        import torch

        torch.distributed.all_reduce(part)
    return part


class Poll:
    """Whether any process says yes. All ask once a step and get the answer of the step before, for which none waits."""

    def __init__(self) -> None:
        self._asked: tuple[torch.distributed.Work, torch.Tensor] | None = None

    def __call__(self, yes: bool) -> bool:
        if world() == 1:
            return yes
        import torch

        answer = torch.tensor([float(yes)])
        before, work = self._asked, torch.distributed.all_reduce(answer, group=_control, async_op=True)
        self._asked = work, answer
        if before is None:
            return False
        before[0].wait()
        return bool(before[1])
