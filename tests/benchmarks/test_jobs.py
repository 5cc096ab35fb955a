"""The jobs' benchmark: a process watched from outside, and every job at the smallest size; nothing here is timed."""

import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import job_parts, jobs, scale, watch
from benchmarks.forward import DEMO
from transpose.build.model import build_model
from transpose.config.load import load_config
from transpose.errors import UserError

pytestmark = pytest.mark.slow


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_watched_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept, seen, memory = 50_000_000, tmp_path / "seen", watch.memory

    def looked(process: psutil.Process) -> float:
        found = memory(process)
        if found > kept / watch.MB:
            seen.touch()
        return found

    monkeypatch.setattr(watch, "memory", looked)
    wait = f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)"
    code = f"import os, time\nx = b'1' * {kept}\n{wait}\nprint('log'); print('{{\"a\": 2.5}}')"
    found = watch.run(python(code))
    assert found.parts == {"a": 2.5}
    assert 0 < found.cpu and found.peak > kept / watch.MB


def test_the_end_of_a_process_is_seen_between_two_looks_at_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOKS", 60)
    assert watch.run(python("pass")).wall < 50


def test_a_process_is_ended_at_its_first_output():
    found = watch.run(python("import time; print('step 1/9'); time.sleep(60)"), until="step 1/")
    assert found.wall < 50


def test_a_process_that_never_prints_that_output_is_an_error():
    with pytest.raises(UserError, match="ended before it printed 'step 1/': other"):
        watch.run(python("print('other')"), until="step 1/")


def test_a_process_that_fails_says_how():
    with pytest.raises(UserError, match="ended with 3: it broke"):
        watch.run(python("import sys; print('it broke'); sys.exit(3)"))


def test_a_loader_is_fed_from(tmp_path: Path):
    scale.make(tmp_path, 0.001)
    found = job_parts.feed(str(tmp_path), "0", "40")
    assert found["crops"] == 60 and 0 < found["waited for data, %"] < 100


def test_a_test_with_a_wait_in_place_of_the_network(tmp_path: Path):
    """In a process of its own, as it replaces functions of the library."""
    boxes = jobs.make_boxes(tmp_path, 0.001)
    found = watch.run(jobs.part("test", tmp_path, 1, "WORKERS", 0))
    assert set(found.parts) == {"read, s", "predict, s", "evaluate, s", "a crop, ms"}
    assert found.parts["predict, s"] > boxes / 1e3 and found.parts["a crop, ms"] > 1


def test_every_job_at_the_smallest_size(tmp_path: Path):
    scale.make(tmp_path, jobs.SMALLEST.fraction)
    weights = tmp_path / "final_state.pth"
    torch.save(build_model(load_config(DEMO)).state_dict(), weights)
    for name, job in jobs.JOBS.items():
        text = job(tmp_path, jobs.SMALLEST, weights)
        if name == "precision":
            assert "| share of kernels |" in text and "| PyTorch, bfloat16 |" in text
        else:
            assert "| elapsed |" in text and "| plain form" in text and "×" in text


@pytest.mark.parametrize("job", [jobs.predicting, jobs.precision])
def test_without_trained_weights_a_job_says_what_trains_them(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "run", lambda *_: watch.Measured(1, 1, 1, {"s": 1.0, "share": 0.5}))
    assert "none.pth is missing (`make demo` trains it)" in job(tmp_path, jobs.SMALLEST, tmp_path / "none.pth")


def test_ours_is_as_many_times_as_fast_as_the_plain_form():
    slow, fast = (watch.Measured(wall, 1, 1, {"crops/s": rate}) for wall, rate in ((6, 10), (3, 40)))
    ours, plain = jobs.compared(jobs.Row("ours", "", fast), jobs.Row("plain form", "", slow))
    assert ours.ratio == 2 and plain.ratio is None
    (ours, _) = jobs.compared(jobs.Row("ours", "", fast, "crops/s"), jobs.Row("plain form", "", slow, "crops/s"))
    assert ours.ratio == 4


def test_of_several_runs_the_one_with_the_median_figure_counts(monkeypatch: pytest.MonkeyPatch):
    seconds = iter([3, 8, 1, 9, 2, 10])
    monkeypatch.setattr(jobs, "run", lambda *_: watch.Measured(next(seconds), 1, 1))
    ours, plain = jobs.in_turn(3, "ours", "", lambda run: [f"ours {run}"], lambda run: [f"plain {run}"])
    assert (ours.value(), plain.value(), ours.ratio) == (2, 9, 4.5)


def test_two_precisions_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the one that any processor computes, as the other takes minutes where it is not computed."""
    monkeypatch.setattr(jobs, "BOTH", ("float32", "auto"))
    rows = jobs.in_both(tmp_path, jobs.SMALLEST).splitlines()[2:]
    assert [row.split("|")[1].split(" of ")[0].strip() for row in rows] == ["test", "training step", "training step"]


def test_the_ratio_is_that_of_the_first_precision_to_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str]) -> watch.Measured:
        return watch.Measured(1, 1, 1, dict.fromkeys(("a crop, ms", "step, s"), 6.0 if "float32" in command else 2.0))

    monkeypatch.setattr(jobs, "run", run)
    monkeypatch.setattr(jobs, "make_boxes", lambda *_: 10)
    rows = [row.split(" | ") for row in jobs.in_both(tmp_path, jobs.SMALLEST).splitlines()[2:]]
    assert [row[1:4] for row in rows] == [["6.00 ms", "2.00 ms", "3.00×"], *[["6.00 s", "2.00 s", "3.00×"]] * 2]


def test_kernels_are_convolutions_products_and_attention():
    for name in (
        *(
            "aten::mkldnn_convolution",
            "aten::convolution_backward",
            "aten::mm",
            "aten::addmm",
            "aten::bmm",
            "aten::baddbmm",
        ),
        *("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::addmm_"),
    ):
        assert job_parts.KERNELS.search(name), name
    for name in ("aten::_softmax", "aten::native_batch_norm", "aten::dropout", "aten::add", "aten::gelu", "aten::comm"):
        assert not job_parts.KERNELS.search(name), name


def test_the_gain_that_is_wanted_of_the_kernels():
    assert jobs.gain(0.8, 2) == pytest.approx(0.8 / 0.3)
    assert jobs.gain(0.9, 1 / (0.1 + 0.9 / 3)) == pytest.approx(3)
    assert jobs.gain(0.5, 2) == jobs.gain(0.4, 2) == float("inf")


@pytest.mark.parametrize("what", ["forward pass", "training step"])
def test_a_part_of_the_time_is_the_kernels(what: str):
    assert 0 < job_parts.kernels("tp_r_a4", what, "1")["share"] < 1
