"""The jobs' benchmark: a process watched from outside, and every job at the smallest size; nothing here is timed."""

import sys
from pathlib import Path

import pytest

from benchmarks import jobs, scale
from transpose.errors import UserError

pytestmark = pytest.mark.slow


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_watched_from_outside():
    kept = 50_000_000
    found = jobs.run(python(f"import time; x = b'1' * {kept}; time.sleep(0.5); print('log'); print('{{\"a\": 2.5}}')"))
    assert found.parts == {"a": 2.5}
    assert found.wall > 0.5 and 0 < found.cpu and found.peak > kept / jobs.MB


def test_a_process_is_ended_at_its_first_output():
    found = jobs.run(python("import time; print('step 1/9'); time.sleep(60)"), until="step 1/")
    assert found.wall < 50


def test_a_process_that_fails_says_how():
    with pytest.raises(UserError, match="ended with 3: it broke"):
        jobs.run(python("import sys; print('it broke'); sys.exit(3)"))


def test_a_loader_is_fed_from(tmp_path: Path):
    scale.make(tmp_path, 0.001)
    found = jobs.feed(str(tmp_path), "0", "40")
    assert found["crops"] == 60 and 0 < found["waited for data, %"] < 100


def test_a_test_with_a_wait_in_place_of_the_network(tmp_path: Path):
    """In a process of its own, as it replaces functions of the library."""
    scale.make(tmp_path, 0.001)
    jobs.save_weights(tmp_path)
    found = jobs.run(jobs.part("test", tmp_path, 1, "WORKERS", 0))
    assert set(found.parts) == {"read, s", "predict, s", "evaluate, s", "a crop, ms"}
    assert found.parts["predict, s"] > round(0.001 * scale.VAL_BOXES) / 1e3


@pytest.mark.slow
def test_every_job_at_the_smallest_size(tmp_path: Path):
    scale.make(tmp_path, jobs.SMALLEST.fraction)
    for name, job in jobs.JOBS.items():
        if name == "predicting":
            assert "is missing" in job(tmp_path, jobs.SMALLEST, tmp_path / "none.pth")
        else:
            assert "| elapsed |" in job(tmp_path, jobs.SMALLEST, tmp_path / "none.pth")
