"""A command watched from outside: elapsed time, CPU time, and the most memory that it and its loading processes take
together (proportional set size)."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.scale import MB, REPOSITORY
from transpose.errors import UserError

TICK = 0.005  # seconds between two looks whether a process has ended
LOOKS = 1.0  # seconds between two looks at its memory, which slow large processes down


@dataclass(frozen=True)
class Measured:
    """Seconds; MB, 0 for a process that ended too soon to see; and the seconds or rates of the parts by name."""

    wall: float
    cpu: float
    peak: float
    parts: dict[str, float] = field(default_factory=dict)


def run(command: list[str], until: str = "", threads: int = 1) -> Measured:
    """Run a command to its end, or until it prints `until`; raises UserError if it fails, or never prints that."""
    own = {"PYTHONPATH": str(REPOSITORY / "tools"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("a+") as said:  # appended to, wherever this process reads
        start, peak, cpu = time.perf_counter(), 0.0, None
        looked = start
        process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | own, stdout=said, stderr=subprocess.STDOUT)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if not pid and until and until in output(said):
                cpu = cpu_time(psutil.Process(process.pid))  # before it ends, which may take work of its own
                process.terminate()
                pid, _, used = os.wait4(process.pid, 0)
                status = 0
            if pid:
                break
            if wall > looked - start + LOOKS:
                looked = time.perf_counter()
                peak = max(peak, memory(psutil.Process(process.pid)))
            time.sleep(TICK)
        process.returncode = os.waitstatus_to_exitcode(status)
        lines = output(said).splitlines()
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {' '.join(lines[-3:])}")
    if until and cpu is None:
        raise UserError(f"{' '.join(command)} ended before it printed {until!r}: {' '.join(lines[-3:])}")
    parts = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    found = Measured(wall, used.ru_utime + used.ru_stime if cpu is None else cpu, peak, parts)
    print(" ".join(command[1:]), found, file=sys.stderr, flush=True)
    return found


def output(file: Any) -> str:
    file.seek(0)
    return file.read()


def memory(process: psutil.Process) -> float:
    """MB of a process and its children; what they share counts once."""
    return sum(over_family(process, lambda member: member.memory_full_info().pss)) / MB


def cpu_time(process: psutil.Process) -> float:
    """Seconds of a process and its children that have not ended."""
    return sum(over_family(process, lambda member: sum(member.cpu_times()[:2])))


def over_family(process: psutil.Process, value: Callable[[psutil.Process], float]) -> Iterator[float]:
    """The value of a process and of each of its children."""
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            yield value(member)
