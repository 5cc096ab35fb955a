"""Where the persons are: torchvision's networks, randomly initialised, and a stub for the choice of boxes."""

import re

import numpy as np
import pytest
import torch
from helpers.people import Stub
from torch import nn
from torchvision.models import get_model, get_model_weights

from transpose.errors import UserError
from transpose.predictor import detector
from transpose.predictor.detector import Detector, whole_image
from transpose.runtime import checkpoint, download


def test_persons_above_the_threshold_as_x_y_w_h():
    boxes, scores = Detector(Stub(), device="cpu")(np.zeros((100, 60, 3), np.uint8))
    assert boxes.tolist() == [[10, 20, 30, 60], [2.5, 3, 6.5, 6.5]]  # the fourth has no width
    assert scores.tolist() == pytest.approx([0.9, 0.5])
    everyone, _ = Detector(Stub(), threshold=0, device="cpu")(np.zeros((100, 60, 3), np.uint8))
    assert len(everyone) == 3


def test_images_of_any_size_in_batches_as_rgb_from_0_to_1():
    stub = Stub()
    images = [np.full((10 + i, 20, 3), (255, 51, 0), np.uint8) for i in range(5)]
    assert len(Detector(stub, batch_size=2, device="cpu").batch(images)) == 5
    assert [len(batch) for batch in stub.batches] == [2, 2, 1]
    assert stub.batches[1][1].shape == (3, 13, 20)
    assert stub.batches[0][0][:, 0, 0].tolist() == pytest.approx([1, 0.2, 0])
    assert Detector(stub, device="cpu").batch([]) == []


@pytest.mark.parametrize("name", detector.DETECTORS)
def test_torchvisions_networks(name):
    """With random weights that like persons: what such a network finds lies in the image."""
    categories = get_model_weights(detector.DETECTORS[name])["COCO_V1"].meta["categories"]
    assert categories[detector.PERSON] == "person"
    torch.manual_seed(22)
    model = get_model(detector.DETECTORS[name], weights=None, weights_backbone=None, min_size=64, max_size=96)
    person = slice(detector.PERSON, None, len(categories))
    likes = (
        model.roi_heads.box_predictor.cls_score if name == "fasterrcnn" else model.head.classification_head.cls_logits
    )
    nn.init.zeros_(likes.weight)
    likes.bias.data[person] = 3

    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    (boxes, scores), (again, _) = Detector(model, threshold=0, device="cpu").batch([image, image[:, :40]])
    assert len(boxes) and len(again) and boxes.shape == (len(scores), 4) and (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= [80.001, 48.001]).all()
    assert (again[:, :2] + again[:, 2:] <= [40.001, 48.001]).all() and (np.diff(scores) <= 0).all()


def test_published_weights_are_fetched_once(monkeypatch, tmp_path):
    asked = []

    def transfer(url, file, path, known):
        asked.append((url, path, known))
        torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, file)

    monkeypatch.setattr(download, "_transfer", transfer)
    monkeypatch.setattr(download, "SUM_IN_NAME", re.compile("no name"))
    monkeypatch.setattr(detector, "repository_root", lambda: tmp_path / "elsewhere")
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(detector, "get_model", lambda name, weights, weights_backbone: nn.Linear(3, 2))
    for _ in range(2):
        assert detector.network("retinanet").weight.sum() == 6
    name = "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", tmp_path / "cache" / name, False)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_weights_that_cannot_be_fetched_are_told_with_what_they_are_for(monkeypatch, tmp_path):
    def transfer(url, file, path, known):
        raise UserError(f"{url}: the download failed (Name or service not known)")

    monkeypatch.setattr(download, "_transfer", transfer)
    monkeypatch.setattr(detector, "repository_root", lambda: tmp_path)
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path))
    says = r"^the weights of the detector fasterrcnn, which finds the persons: https://.*: the download failed \(Name"
    with pytest.raises(UserError, match=says):
        detector.network()


def test_what_is_no_detector_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no detector 'yolo'; there are fasterrcnn, retinanet"):
        detector.network("yolo")
    checkpoint.save(tmp_path / "other.pth", {"weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"other.pth: these are not the weights of torchvision's detector fasterrcnn"):
        detector.network("fasterrcnn", tmp_path / "other.pth")
    for wrong in ({"threshold": 1.5}, {"threshold": float("nan")}, {"batch_size": 0}):
        with pytest.raises(UserError, match="threshold must lie between 0 and 1 and its batch_size be 1 or more"):
            Detector(Stub(), **wrong)


def test_the_whole_image_is_a_box():
    boxes, scores = whole_image(np.zeros((30, 40, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 40, 30]] and scores.tolist() == [1]
