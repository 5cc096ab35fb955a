"""A command watched from outside: elapsed time, CPU time, and the most memory that it and its loading processes take
together (proportional set size)."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.scale import MB, REPOSITORY
from transpose.errors import UserError

LOOKS = 0.1  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Measured:
    """Seconds; MB, 0 for a process that ended too soon to see; and the seconds or rates of the parts by name."""

    wall: float
    cpu: float
    peak: float
    parts: dict[str, float] = field(default_factory=dict)


def run(command: list[str], until: str = "", threads: int = 1) -> Measured:
    """Run a command to its end, or until it prints `until`."""
    own = {"PYTHONPATH": str(REPOSITORY / "tools"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as said:
        start, peak = time.perf_counter(), 0.0
        process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | own, stdout=said, stderr=subprocess.STDOUT)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if not pid and until and until in output(said):
                process.terminate()
                pid, _, used = os.wait4(process.pid, 0)
                status = 0
            if pid:
                break
            time.sleep(LOOKS)
            peak = max(peak, memory(psutil.Process(process.pid)))
        process.returncode = os.waitstatus_to_exitcode(status)
        lines = output(said).splitlines()
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {' '.join(lines[-3:])}")
    parts = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    found = Measured(wall, used.ru_utime + used.ru_stime, peak, parts)
    print(" ".join(command[1:]), found, file=sys.stderr, flush=True)
    return found


def output(file: Any) -> str:
    file.seek(0)
    return file.read()


def memory(process: psutil.Process) -> float:
    """MB of a process and its children; what they share counts once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
    return total / MB
