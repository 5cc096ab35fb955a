"""Confidence and covariance on the kites of docs/custom-dataset.md: each step has scenes of its own."""

import sys

import pytest
import torch
from helpers.goldens import ROOT
from helpers.kites import draw_kites
from helpers.runs import run

from transpose.analysis import confidence
from transpose.build.evaluation import build_evaluation
from transpose.build.model import build_model, load_trained
from transpose.config.load import load_config
from transpose.core.predict import TestOptions
from transpose.evaluation.calibration import Labelled, fit

KITES = ROOT / "experiments/kites/kites.yaml"
SETS = {"train": range(1, 81), "calibrate": range(81, 161), "held_out": range(161, 261)}  # scenes, of two images each


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_falls_by_half_and_the_ellipses_cover_what_they_say(seed, tmp_path, capsys):
    draw_kites(tmp_path / "kites", seed, SETS)
    options = ["DATASET.ROOT", str(tmp_path / "kites"), "SEED", str(seed), "TRAIN.VALIDATE_EVERY", "14"]
    folders = ["--modelDir", str(tmp_path / "output"), "--logDir", str(tmp_path / "log")]
    train = [sys.executable, str(ROOT / "tools/train.py"), "--cfg", str(KITES), *folders]
    run([*train, *options, "DATASET.TEST_SET", "calibrate"], tmp_path)
    options += ["TEST.MODEL_FILE", str(tmp_path / "output/kite/transpose_r/kites/final_state.pth")]

    def collected(name: str) -> Labelled:
        cfg = load_config(KITES, [*options, "DATASET.TEST_SET", name], report=False)
        model = build_model(cfg)
        load_trained(cfg, model, tmp_path)
        return confidence.collect(build_evaluation(cfg, torch.device("cpu")), model, 0.5)

    found = fit(collected("calibrate"), 0.5, "", TestOptions(blur_kernel=5))
    tested = confidence.apply(found, collected("held_out"))
    numbers = confidence.numbers(tested)
    with capsys.disabled():
        print(f"\nseed {seed}", *confidence.describe(tested, found), sep="\n")
    assert len(tested.data) >= 2000
    assert numbers["calibration error, calibrated"] <= numbers["calibration error, raw"] / 2
    assert numbers["Brier score, calibrated"] < numbers["Brier score, raw"]
    assert abs(numbers["coverage of 68%"] - 0.68) <= 0.03 and abs(numbers["coverage of 95%"] - 0.95) <= 0.03
