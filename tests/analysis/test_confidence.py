"""Calibration: planted probabilities and covariances come back, and the file beside the weights is the right one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.persons import DEMO

from transpose.analysis import confidence
from transpose.commands import calibrate
from transpose.core.predict import TestOptions
from transpose.errors import UserError
from transpose.evaluation import calibration
from transpose.evaluation.calibration import GAUSSIAN, Calibration, Labelled
from transpose.pose import heatmap
from transpose.runtime import log
from transpose.runtime.files import checksum


def planted(seed: int, number: int = 6000) -> Labelled:
    """Keypoints that are right with a probability of score^2. Their errors have the covariance moments x score^-3 / 50,
    four times that at whole pixels; one in fifty is far off."""
    draw = np.random.default_rng(seed)
    scores = draw.uniform(0.3, 1, number)
    half = draw.normal(size=(number, 2, 2))
    moments = half @ half.transpose(0, 2, 1) + np.eye(2)
    whole = draw.random(number) < 0.2
    scale = scores**-3 / 50 * np.where(whole, 4, 1)
    errors = np.einsum("nij,nj->ni", np.linalg.cholesky(moments * scale[:, None, None]), draw.normal(size=(number, 2)))
    errors[draw.random(number) < 0.02] *= 20
    return Labelled(scores, moments, whole, errors, draw.random(number) < scores**2, np.arange(number) // 5)


def fitted(data: Labelled) -> Calibration:
    return calibration.fit(data, 0.5, "sum", TestOptions())


def test_planted_confidence_and_covariance_come_back():
    found, data = fitted(planted(0)), planted(1)
    tested = confidence.apply(found, data)
    assert np.abs(tested.confidence - data.scores**2).mean() < 0.02
    assert (np.diff(found.probabilities) > 0).all() and (np.diff(found.scores) > 0).all()
    _, power, at_whole = found.spread
    assert abs(power + 3) < 0.2 and abs(at_whole - np.log(4)) < 0.15
    truth = data.moments * (data.scores**-3 / 50 * np.where(data.whole, 4, 1))[:, None, None]
    ratio = np.linalg.det(found.covariance(data.moments, data.scores, data.whole)) / np.linalg.det(truth)
    assert abs(np.median(ratio) ** 0.5 - 1) < 0.1
    shares = confidence.numbers(tested)
    for level in ("68%", "95%"):
        for third in ("", ", smallest", ", middle", ", largest"):
            assert abs(shares[f"coverage of {level}{third}"] - float(level[:2]) / 100) < 0.03
    assert found.radii[0] == pytest.approx(GAUSSIAN[0]) and found.radii[1] > GAUSSIAN[1]
    assert shares["calibration error, calibrated"] < 0.02 < shares["calibration error, raw"] / 5
    assert shares["Brier score, calibrated"] < shares["Brier score, raw"]


def test_folds_test_each_image_with_what_the_others_gave():
    data, seen = planted(0, 1000), []

    def watched(part: Labelled) -> Calibration:
        seen.append(set(part.image.tolist()))
        return fitted(part)

    tested = confidence.cross_fit(data, watched)
    assert len(tested.confidence) == len(data) == tested.distances.shape[1]
    assert sorted(tested.data.scores) == sorted(data.scores)
    for number, images in enumerate(seen):
        assert images == {image for image in data.image.tolist() if image % confidence.FOLDS != number}


def test_the_calibration_error_by_hand():
    probabilities, right = np.array([0.11, 0.19, 0.95, 0.95]), np.array([True, False, True, True])
    assert confidence.calibration_error(probabilities, right) == pytest.approx((0.35 + 0.05) / 2)


@pytest.mark.parametrize("rotation", [0.0, 0.6])
def test_the_moments_of_a_gaussian_are_its_covariance(rotation):
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    wanted = turn @ np.diag([4.0, 1.5]) @ turn.T
    y, x = np.mgrid[:40, :48] - np.array([19.3, 25.6])[:, None, None]
    offsets = np.stack([x, y], -1)
    maps = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", offsets, np.linalg.inv(wanted), offsets))
    maps = torch.from_numpy(np.stack([maps, 0.3 * maps, np.zeros_like(maps) - 1]))[None]
    found = heatmap.second_moments(maps, torch.tensor([25.6, 19.3]).expand(1, 3, 2))[0].numpy()
    assert np.abs(found[:2] - wanted - np.eye(2) / 12).max() < 1e-3
    assert np.isfinite(found[2]).all() and found[2].trace() > 40  # nothing is known: as wide as the map


def test_a_file_gives_the_calibration_of_its_weights_only(tmp_path, caplog):
    weights = tmp_path / "final_state.pth"
    weights.write_bytes(b"one")
    found = replace(fitted(planted(0, 500)), weights_sha256=checksum(weights))
    assert calibration.read(weights) is None
    calibration.write(calibration.place(weights), found)
    assert calibration.read(weights) == found
    weights.write_bytes(b"trained on")
    with caplog.at_level("WARNING", "transpose"):
        assert calibration.read(weights) is None
    assert "made for other weights" in caplog.text
    for text in ("{", "[]", "{}", json.dumps({"scores": 1}), json.dumps({**vars(found), "radii": [1.5]})):
        calibration.place(weights).write_text(text)
        with pytest.raises(UserError, match=r"final_state_calibration\.json: "):
            calibration.read(weights)


def test_few_keypoints_are_refused():
    with pytest.raises(UserError, match="199 labelled keypoints are too few"):
        fitted(planted(0, 199))


@pytest.fixture
def asked(run, monkeypatch, tmp_path) -> list[str]:
    """The command's arguments for the run of the demo's network, which is not trained."""
    monkeypatch.setattr(log, "start", lambda **_: None)
    options = f"TEST.MODEL_FILE {run / 'final_state.pth'} WORKERS 0"
    return ["--cfg", str(DEMO), "--modelDir", str(tmp_path), *options.split()]


def test_the_command_fits_beside_the_weights(asked, run, tmp_path, capsys):
    picture = tmp_path / "diagram.svg"
    calibrate.main(["--picture", str(picture), *asked])
    out = capsys.readouterr().out
    assert "keypoints are right: OKS 0.5 or more" in out and "calibration error" in out and "95%" in out
    path = run / "final_state_calibration.json"
    found = calibration.read(run / "final_state.pth")
    assert str(path) in out and found is not None and found.keypoints > 1000 and picture.stat().st_size > 1000
    with pytest.raises(UserError, match=r"final_state_calibration\.json: exists already; pass --overwrite"):
        calibrate.main(asked)
    path.unlink()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--similarity 1", "--similarity must be between 0 and 1, not 1"),
        ("--held-out val2017", "--held-out val2017: the calibration is fitted on this set"),
        ("--held-out val2018", "person_keypoints_val2018.json: cannot read the annotation file"),
        ("--picture a.gif", "a.gif: the name of a picture must end in"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, asked, run):
    with pytest.raises(UserError) as refused:
        calibrate.main([*options.split(), *asked])
    assert sentence in str(refused.value)
    assert not (run / "final_state_calibration.json").exists()
