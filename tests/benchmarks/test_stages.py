"""Every stage of the benchmark runs at the smallest size and gives equal results; nothing here is timed."""

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data_stages, forward, plain, report, stages
from transpose.errors import UserError
from transpose.pose import heatmap

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark works on one thread; the other tests do not."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def fixed(one: float, other: float) -> stages.Stage:
    """A stage of known results and durations: plain takes 3, then 5, then 4 seconds a call, ours 1."""
    now, durations = [0.0], itertools.cycle([3, 1, 5, 1, 4, 1])

    def call(value: float) -> float:
        now[0] += next(durations)
        return value

    return stages.Stage(
        title="known",
        original="9 s",
        wanted="≥ 2×",
        plain=lambda: call(one),
        ours=lambda: call(other),
        difference=lambda a, b: abs(a - b),
        tolerance=0.5,
        unit="px",
        count=2,
        clock=lambda: now[0],
    )


# A process that imports everything takes seconds, and so do the large networks and the other runtimes.
QUICK_NETWORKS = {"tp-r-a4-pytorch", "tp-h-s-pytorch"}
SLOW = {"help", *forward.STAGES} - QUICK_NETWORKS


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in stages.makers()])
def test_results_are_equal(name: str):
    (measured,) = stages.run([name], stages.SMALLEST).values()
    assert measured.equal and measured.repeats == 1


def test_a_moved_arg_max_is_not_an_equal_result():
    maps = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])
    assert forward.relative(maps, maps * 1.01) == pytest.approx(0.01)
    assert forward.relative(maps, maps.flip(-1)) == float("inf")


def test_medians_are_of_interleaved_runs_divided_by_the_count():
    found = stages.measure(fixed(1, 1.25), seconds=12)
    assert (found.plain, found.ours, found.ratio, found.difference, found.repeats) == (2, 0.5, 4, 0.25, 3)


def arguments(**changes) -> argparse.Namespace:
    return argparse.Namespace(
        **({"stage": [], "smallest": True, "write": False, "json": None, "profile": False} | changes)
    )


def test_results_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    known = {"fine": lambda size, folder: fixed(1, 1.5), "off": lambda size, folder: fixed(1, 1.6)}
    monkeypatch.setattr(stages, "makers", lambda: known)
    stages.main(arguments(stage=["fine"]))
    with pytest.raises(UserError, match=r"more than they may in off$"):
        stages.main(arguments())
    assert "off: plain 1.50 s, ours 0.50 s, 3.0× (wanted ≥ 2×); largest difference 0.6 px" in capsys.readouterr().out


def test_nan_is_not_an_equal_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "makers", lambda: {"nan": lambda size, folder: fixed(1, float("nan"))})
    with pytest.raises(UserError, match=r"in nan$"):
        stages.main(arguments())


def test_an_unknown_stage_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match=r"no stage 'decoding'; there are .*decode, .*help"):
        stages.run(["decoding"], stages.SMALLEST)


def test_the_page_is_written_from_all_stages_at_full_size_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin stages -->\n<!-- end stages -->\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(stages, "makers", lambda: {"known": lambda size, folder: fixed(1, 1)})
    monkeypatch.setattr(stages, "run_apart", lambda: stages.run([], stages.FULL))
    for wrong in (arguments(write=True), arguments(write=True, smallest=False, stage=["known"])):
        with pytest.raises(UserError, match="leave out --stage and --smallest"):
            stages.main(wrong)
    stages.main(arguments(write=True, smallest=False))
    written = page.read_text()
    assert "| known (`known`) | 9 s | 2.00 s | 0.50 s | 4.00× | 4, 4, 4 | ≥ 2× | none |" in written
    assert "`cv2.imread` of a bundled image: " in written


def test_figures_of_a_run_apart_come_back_however_it_ends(monkeypatch: pytest.MonkeyPatch):
    def command(line: list[str], check: bool) -> None:
        with contextlib.suppress(UserError):
            stages.main(arguments(smallest=False, json=Path(line[-1])))

    monkeypatch.setattr(stages.subprocess, "run", command)
    monkeypatch.setattr(stages, "makers", lambda: {"known": lambda size, folder: fixed(1, float("inf"))})
    assert not stages.run_apart()["known"].equal
    monkeypatch.setattr(stages, "makers", lambda: {"known": lambda size, folder: fixed(1, 1.25)})
    assert stages.run_apart()["known"].ratio == 4
    monkeypatch.setattr(stages.subprocess, "run", lambda line, check: None)
    with pytest.raises(UserError, match="without a result"):
        stages.run_apart()


def test_section_has_its_place_on_the_page():
    assert "<!-- begin stages -->" in report.PAGE.read_text()


# What the stages' equality rests on


@pytest.mark.parametrize("kernel", [3, 11])
def test_edge_maps_hold_peaks_that_are_refined_and_peaks_that_are_not(kernel: int):
    points, _ = heatmap.decode(data_stages.edge_maps(), kernel)
    refined = (points != points.round()).any(-1)
    assert refined[:2].sum() == 0 and refined[2:].sum() > 20


def test_an_index_without_a_person_or_with_a_moved_joint_is_not_equal():
    persons = data_stages.labelled()
    crops = data_stages.crops_of(persons)
    found = plain.training_index(data_stages.ANNOTATIONS, data_stages.ASPECT)
    assert data_stages.compare_persons(found, crops) == 0
    assert data_stages.compare_persons(found[:-1], crops) == np.inf
    found[3]["joints_3d"][0, 0] += 1
    assert data_stages.compare_persons(found, crops) == 1
