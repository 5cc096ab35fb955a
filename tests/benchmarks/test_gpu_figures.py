"""The parts of the GPU's benchmark that a processor can run."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.goldens import ROOT
from helpers.wheel import ABSENT, python

from benchmarks import gpu, scale


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    limits = gpu.Ceilings({"bfloat16": 1e12, "float32": 1e11}, bandwidth=1e9)
    assert math.isclose(limits.least("bfloat16", 1e10, 1000), 10)  # ms
    assert math.isclose(limits.least("bfloat16", 1e3, 10**7), 20)  # two bytes a value
    assert math.isclose(limits.least("float32", 1e3, 10**7), 40)


def test_the_work_of_a_batch_grows_with_it():
    operations, values = gpu.work("tp_r_a4", 1)
    twice, more = gpu.work("tp_r_a4", 2)
    assert 12e9 < operations < 13e9 and twice == 2 * operations
    assert more - values == 3 * 256 * 192 + 17 * 64 * 48


def test_rows_are_begun_until_the_time_is_over():
    rows = [lambda: ["a"], lambda: ["b"]]
    assert gpu.in_time(rows, math.inf) == ([["a"], ["b"]], 0)
    assert gpu.in_time(rows, time.monotonic()) == ([], 2)


@pytest.mark.parametrize(
    "command",
    [["pytest", "--noconftest", "tests/gpu"], pytest.param(["benchmarks.gpu"], marks=pytest.mark.slow)],
    ids=["test", "bench"],
)
def test_both_commands_skip_without_the_packages_for_training(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Where nothing can be installed there is PyTorch, and not what only trainings and data sets need."""
    missing = ("yacs", "msgspec", "pycocotools", "json_tricks", "tensorboardX", "pooch", "av")
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(absent=missing))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = python("-m", *command, folder=ROOT, path=f"{tmp_path}:{ROOT / 'tools'}")
    assert found.returncode == 0 and "skipped" in found.stdout, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True], ids=["all", "a package missing"])
def test_the_page_is_described(monkeypatch: pytest.MonkeyPatch, missing: bool):
    """With stubs of what only a GPU has; nothing is timed."""

    def once(call) -> float:
        call()
        return 1.0

    def fed(*_) -> tuple[float, float]:
        if missing:
            raise ModuleNotFoundError(name="msgspec")
        return 1234, 0.96

    for name, value in {
        "milliseconds": once,
        "zoo": SimpleNamespace(RELEASED=["tp_r_a3"], model=gpu.zoo.model),
        "ceilings": lambda device: gpu.Ceilings(dict.fromkeys(gpu.PRECISIONS, 1e12), 1e12),
        "BATCHES": (1,),
        "PRECISIONS": ("TF32", "bfloat16"),
        "COMPILED": (),
        "TRAINED": (("tp_r_a4", 1),),
        "FED": 0.0005,
        "fed": fed,
    }.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu.os, "cpu_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2e9)
    text = gpu.describe(torch.device("cpu"), 600)
    assert "| tp_r_a3 | bfloat16 | 1 | 1.00 ms | 1,000 |" in text and "| tp_r_a4 | TF32 | 1 | 1.0 ms | 1,000 |" in text
    fed_row, why_not = "| tp_r_a4 | 1,234 | 96% |", "Not measured: the package msgspec is missing."
    assert "Left out" not in text and (why_not if missing else fed_row) in text


@pytest.mark.slow
def test_a_training_is_fed_from_jpegs(tmp_path: Path):
    scale.make(tmp_path, 0.0005)
    rate, fed = gpu.fed(tmp_path, "tp_r_a4", 1, 0, 1, torch.device("cpu"))
    assert rate > 0 and 0 < fed <= 1
