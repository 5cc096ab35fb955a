"""Whole runs, as a user starts them: train, interrupt, resume, test, several processes."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from transpose import checkpoint
from transpose.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "experiments" / "coco_sample" / "demo.yaml"
# The demo made small: a step takes a few hundredths of a second. Dropout and augmentation draw random numbers.
SMALL = (
    "MODEL.IMAGE_SIZE [32,64] MODEL.HEATMAP_SIZE [8,16] MODEL.DIM_MODEL 16 MODEL.DIM_FEEDFORWARD 16 MODEL.N_HEAD 2 "
    "MODEL.DROPOUT 0.1 MODEL.EXTRA.NUM_DECONV_FILTERS [16] DATASET.FLIP True DATASET.SCALE_FACTOR 0.3 "
    "DATASET.ROT_FACTOR 30 TRAIN.END_EPOCH 2 TRAIN.VALIDATE_EVERY 2 TRAIN.WARMUP_EPOCHS 0 PRINT_FREQ 5 TRAIN.LR 0.001"
).split()


def command(tool: str, folder: Path, *overrides: str) -> list[str]:
    directories = ["--modelDir", str(folder / "output"), "--logDir", str(folder / "log")]
    return [sys.executable, str(ROOT / "tools" / tool), "--cfg", str(DEMO), *directories, *SMALL, *overrides]


def run(arguments: list[str], cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed; it runs outside the repository's root."""
    done = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_folder(folder: Path) -> Path:
    return folder / "output" / "coco" / "transpose_r" / "demo"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run has been trained to its end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(command("train.py", folder), cwd=folder)
    return folder


def test_a_run_leaves_what_the_readme_says(trained: Path) -> None:
    left = {path.name for path in run_folder(trained).iterdir()}
    assert {"checkpoint.pth", "model_best.pth", "final_state.pth", "config.yaml", "skeleton.yaml", "results"} <= left
    assert list((trained / "log").rglob("events.out.tfevents.*"))
    state = torch.load(run_folder(trained) / "final_state.pth", weights_only=True)
    assert "pos_embedding" in state and all(isinstance(value, torch.Tensor) for value in state.values())
    log = next(run_folder(trained).glob("*_train.log")).read_text()
    assert "samples/s" in log and "data wait" in log and "ETA" in log and "| demo |" in log


def test_a_finished_run_says_so_and_keeps_its_files(trained: Path) -> None:
    before = (run_folder(trained) / "checkpoint.pth").read_bytes()
    assert "this run is finished" in run(command("train.py", trained), cwd=trained)
    assert (run_folder(trained) / "checkpoint.pth").read_bytes() == before


def test_a_killed_run_goes_on_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    arguments = command("train.py", tmp_path)
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    state = run_folder(tmp_path) / "checkpoint.pth"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(state, weights_only=True)["epoch"] == 1, "the run was over before it was killed"

    output = run(arguments, cwd=tmp_path)
    assert "1 epochs done" in output
    whole, resumed = (
        torch.load(run_folder(folder) / "final_state.pth", weights_only=True) for folder in (trained, tmp_path)
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_testing_takes_the_final_state_and_names_what_it_measured(trained: Path) -> None:
    output = run(command("test.py", trained, "TEST.USE_GT_BBOX", "False"), cwd=trained)
    assert f"weights: {run_folder(trained) / 'final_state.pth'}" in output
    assert "1091 persons in 32 of 32 images" in output
    assert "COCO_val2017_detections_AP_H_56_person.json" in output
    assert "| Arch | AP | AP .5 | AP .75 | AP (M) | AP (L) | AR | AR .5 | AR .75 | AR (M) | AR (L) |" in output


def test_two_processes_give_the_results_of_one(trained: Path) -> None:
    results = run_folder(trained) / "results" / "keypoints_val2017_results_0.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    gpus = ["GPUS", "(0,1)", "TEST.BATCH_SIZE_PER_GPU", "7"]
    run(command("test.py", trained, *gpus), cwd=trained)
    alone = json.loads(results.read_text())
    run(torchrun + command("test.py", trained, *gpus)[1:], cwd=trained)
    assert json.loads(results.read_text()) == alone


def losses(folder: Path) -> list[float]:
    log = next(run_folder(folder).glob("*_train.log")).read_text()
    return [float(line.split("loss ")[1].split()[0]) for line in log.splitlines() if "  loss " in line]


def test_two_processes_train_like_one_that_accumulates(tmp_path: Path) -> None:
    """Dropout and augmentation included: what is drawn does not depend on the number of processes."""
    overrides = ["GPUS", "(0,1)", "TRAIN.END_EPOCH", "1", "PRINT_FREQ", "1", "TEST.BATCH_SIZE_PER_GPU", "16"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    output = run(command("train.py", alone, *overrides), cwd=alone)
    assert "effective batch 8 = 2 GPUS x 4, accumulated over 2 micro-batches" in output
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(torchrun + command("train.py", together, *overrides)[1:], cwd=together)
    assert len(losses(alone)) == 13
    assert losses(together) == pytest.approx(losses(alone), rel=1e-3)

    # What the processes validated together is what the saved weights predict.
    results = run_folder(together) / "results" / "keypoints_val2017_results_0.json"
    validated = json.loads(results.read_text())
    run(command("test.py", together, *overrides), cwd=together)
    assert json.loads(results.read_text()) == validated


def test_a_run_that_was_killed_between_its_last_two_files_has_its_weights(trained: Path) -> None:
    """The final weights are written before the checkpoint that says that the run is over."""
    final, last = (run_folder(trained) / name for name in ("final_state.pth", "checkpoint.pth"))
    assert final.stat().st_mtime_ns <= last.stat().st_mtime_ns


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
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


def test_pictures_on_request(tmp_path: Path) -> None:
    debug = "DEBUG.DEBUG True DEBUG.SAVE_BATCH_IMAGES_GT True DEBUG.SAVE_BATCH_IMAGES_PRED True "
    debug += "DEBUG.SAVE_HEATMAPS_GT True DEBUG.SAVE_HEATMAPS_PRED True TRAIN.END_EPOCH 1 PRINT_FREQ 100"
    run(command("train.py", tmp_path, *debug.split()), cwd=tmp_path)
    pictures = {path.stem.rsplit("_", 1)[0] for path in (run_folder(tmp_path) / "pictures").glob("*.jpg")}
    kinds = ("gt", "pred", "hm_gt", "hm_pred")
    assert pictures == {f"{part}_{kind}" for part in ("train", "valid") for kind in kinds}
