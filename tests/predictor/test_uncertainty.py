"""Results of a calibrated network have confidences, and so have those of its exported file."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.persons import BOXES, IMAGE

from transpose.core.predict import TestOptions
from transpose.evaluation import calibration
from transpose.evaluation.calibration import GAUSSIAN, Calibration
from transpose.pose import draw, skeleton
from transpose.pose.draw import DrawOptions
from transpose.predictor import export, uncertainty
from transpose.predictor.export import Exported
from transpose.predictor.predictor import Predictor, trained_network
from transpose.runtime.files import checksum

FITTED = Calibration(0.5, (0.0, 1.0), (0.2, 0.9), (-2.0, -1.0, 1.0), (GAUSSIAN[0], 3.0), 1000, "", False, 5)


@pytest.fixture
def calibrated(run, tmp_path) -> Path:
    """A run's folder with a calibration beside the weights."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    weights = folder / "final_state.pth"
    calibration.write(calibration.place(weights), replace(FITTED, weights_sha256=checksum(weights)))
    return folder


def test_a_result_says_how_sure_it_is(calibrated, predictor):
    found = Predictor.from_pretrained(calibrated, device="cpu")(IMAGE, BOXES)
    plain = predictor(IMAGE, BOXES)
    assert plain.uncertainty is None and np.array_equal(found.keypoints, plain.keypoints)
    sure = found.uncertainty
    assert np.allclose(sure.confidence, np.interp(found.scores, (0, 1), (0.2, 0.9)), atol=1e-6)
    assert sure.covariance.shape == (3, 17, 2, 2) and (np.linalg.eigvalsh(sure.covariance) > 0).all()
    assert np.array_equal(sure.ellipses(0.95), sure.covariance * 9)
    person = found.to_dict()["persons"][1]
    assert np.allclose(person["confidence"], sure.confidence[1], atol=1e-4)
    assert np.allclose(person["covariance"][3], sure.covariance[1, 3][[0, 0, 1], [0, 1, 1]], atol=1e-3)
    assert "confidence" not in plain.to_dict()["persons"][1]


def test_the_covariance_is_in_image_pixels():
    maps = torch.zeros(1, 2, 20, 20)
    maps[0, 0, 10, 8:13] = torch.tensor([0.1, 0.2, 0.8, 0.2, 0.1])
    maps[0, 1] = maps[0, 0].T
    points = torch.tensor([[[10.0, 10.0], [10.5, 10.0]]])  # the first at a whole pixel
    turned = {"to_image": torch.tensor([[[0.0, -3.0, 7.0], [2.0, 0.0, 9.0]]], dtype=torch.float64)}
    first, second = uncertainty.of_batch(turned, maps, points, FITTED)[0]
    across = (2 * 0.2 * 1 + 2 * 0.1 * 4) / 1.4 + 1 / 12
    scale = np.exp(-2) / maps.max().item()
    assert np.allclose(first, scale * np.e * np.diag([9 / 12, 4 * across]), rtol=1e-5)
    assert np.allclose(second, scale * np.diag([9 * across, 4 * (0.25 + 1 / 12)]), rtol=1e-5)


@pytest.mark.parametrize("options", [{"flip_test": True}, {"kernel_size": 3}])
def test_a_calibration_for_other_options_is_not_used(options, calibrated, caplog):
    with caplog.at_level("WARNING", "transpose"):
        predictor = Predictor.from_pretrained(calibrated, device="cpu", **options)
    assert predictor.calibration is None and "made with flip test off and blur 5" in caplog.text
    assert predictor(IMAGE, BOXES).uncertainty is None


@pytest.mark.parametrize("decodes", [True, False])
def test_an_exported_file_carries_it(decodes, calibrated):
    trained = trained_network(calibrated)
    about = export.card(trained, decodes=decodes, half=False, any_batch=True)

    def run(batch):
        if decodes:
            return torch.zeros(len(batch), 17, 2), torch.full((len(batch), 17), 0.5)
        return (trained.network.eval()(batch),)

    file = Exported(Path("network.onnx"), about, run)
    assert file.calibration == trained.calibration
    sure = Predictor(file)(IMAGE, BOXES).uncertainty
    if decodes:
        assert np.allclose(sure.confidence, 0.55) and sure.covariance is None
        assert "covariance" not in sure.columns()
    else:
        wanted = Predictor(trained, device="cpu")(IMAGE, BOXES).uncertainty
        # A random network has keypoints with a nearly singular Hessian, which rounding moves.
        off = np.abs(sure.covariance / wanted.covariance - 1).max((-2, -1))
        assert np.median(off) < 1e-3


def test_without_persons_there_is_no_attention_to_measure(calibrated):
    sure = Predictor.from_pretrained(calibrated, device="cpu")(IMAGE, []).uncertainty
    assert sure.confidence.shape == (0, 17)


def test_ellipses_are_drawn_on_request():
    canvas = np.zeros((100, 100, 3), np.uint8)
    points, scores = np.tile([50.0, 50.0], (1, 17, 1)), np.ones((1, 17))
    matrices = np.tile(np.diag([30.0**2, 10.0**2]), (1, 17, 1, 1))

    def drawn(*parts: str) -> np.ndarray:
        return draw.persons(canvas, points, scores, skeleton.COCO, DrawOptions(0.2, parts), ellipses=matrices)

    more = (drawn("ellipses") != drawn()).any(-1)
    ys, xs = np.nonzero(more)
    assert abs(xs.min() - 20) <= 2 and abs(xs.max() - 80) <= 2 and abs(ys.min() - 40) <= 2 and abs(ys.max() - 60) <= 2


def test_options_are_those_that_it_was_fitted_with():
    assert FITTED.holds_for(TestOptions(False, 5)) and not FITTED.holds_for(TestOptions())
