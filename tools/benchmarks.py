"""Makes `benchmarks` importable from tools: it is the folder beside this one."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "benchmarks")]
