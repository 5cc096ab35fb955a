"""The parts of the GPU's benchmark that a processor can run."""

import math
from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
def test_a_training_is_fed_from_jpegs(tmp_path: Path):
    scale.make(tmp_path, 0.0005)
    rate, fed = gpu.fed(tmp_path, "tp_r_a4", 1, 0, 1, torch.device("cpu"))
    assert rate > 0 and 0 < fed <= 1
