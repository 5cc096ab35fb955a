"""Lets `python tools/benchmark.py` import the benchmarks from a clone: `benchmarks` is the folder beside this one."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "benchmarks")]
