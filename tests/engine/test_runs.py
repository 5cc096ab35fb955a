"""Whole runs, as a user starts them: train, interrupt, resume, test, several processes."""

import json
import resource
from pathlib import Path

import pytest
import torch
from helpers.places import Run
from helpers.runs import command, run, run_folder, torchrun

from transpose.errors import UserError
from transpose.runtime import checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_preloaded: Run) -> Path:
    """A folder in which a small run has been trained to its end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(command("train.py", folder), folder, run_preloaded)
    return folder


def test_a_run_leaves_what_the_readme_says(trained: Path) -> None:
    left = {path.name for path in run_folder(trained).iterdir()}
    assert {"checkpoint.pth", "model_best.pth", "final_state.pth", "config.yaml", "skeleton.yaml", "results"} <= left
    assert list((trained / "log").rglob("events.out.tfevents.*"))
    state = torch.load(run_folder(trained) / "final_state.pth", weights_only=True)
    assert "pos_embedding" in state and all(isinstance(value, torch.Tensor) for value in state.values())
    log = next(run_folder(trained).glob("*_train.log")).read_text()
    assert "samples/s" in log and "data wait" in log and "ETA" in log and "| demo |" in log


def test_a_finished_run_says_so_and_keeps_its_files(trained: Path, run_preloaded: Run) -> None:
    before = (run_folder(trained) / "checkpoint.pth").read_bytes()
    assert "this run is finished" in run(command("train.py", trained), trained, run_preloaded)
    assert (run_folder(trained) / "checkpoint.pth").read_bytes() == before


def test_testing_takes_the_final_state_and_names_what_it_measured(trained: Path, run_preloaded: Run) -> None:
    output = run(command("test.py", trained, "TEST.USE_GT_BBOX", "False"), trained, run_preloaded)
    assert f"weights: {run_folder(trained) / 'final_state.pth'}" in output
    assert "1091 persons in 32 of 32 images" in output
    assert "COCO_val2017_detections_AP_H_56_person.json" in output
    assert "| Arch | AP | AP .5 | AP .75 | AP (M) | AP (L) | AR | AR .5 | AR .75 | AR (M) | AR (L) |" in output


def test_two_and_three_processes_write_the_results_of_one(trained: Path, run_preloaded: Run) -> None:
    results = run_folder(trained) / "results" / "keypoints_val2017_results_0.json"
    test = command("test.py", trained, "GPUS", "(0,1,2,3,4,5)", "TEST.BATCH_SIZE_PER_GPU", "7")
    run(test, trained, run_preloaded)
    alone = results.read_bytes()
    assert len(json.loads(alone)) > 90
    for processes in (2, 3):
        results.unlink()
        run(torchrun(processes, test), cwd=trained)
        assert results.read_bytes() == alone


def test_a_run_that_was_killed_between_its_last_two_files_has_its_weights(trained: Path) -> None:
    """The final weights are written before the checkpoint that says that the run is over."""
    final, last = (run_folder(trained) / name for name in ("final_state.pth", "checkpoint.pth"))
    assert final.stat().st_mtime_ns <= last.stat().st_mtime_ns


def test_a_full_disk_gives_one_message_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, {"epoch": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoint\.pth: cannot write \(File too large\)"):
            checkpoint.save(path, {"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert checkpoint.read(path) == {"epoch": 1}
    assert [left.name for left in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_pictures_on_request(tmp_path: Path, run_preloaded: Run) -> None:
    debug = "DEBUG.DEBUG True TRAIN.END_EPOCH 1 PRINT_FREQ 100 DEBUG.SAVE_ATTENTION 2"
    run(command("train.py", tmp_path, *debug.split()), tmp_path, run_preloaded)
    pictures = {path.stem.rsplit("_", 1)[0] for path in (run_folder(tmp_path) / "pictures").glob("*.jpg")}
    kinds = ("gt", "pred", "hm_gt", "hm_pred")
    grids = {"valid_attention_0", "valid_attention_104"}  # the first and the last person
    assert pictures == {f"{part}_{kind}" for part in ("train", "valid") for kind in kinds} | grids
