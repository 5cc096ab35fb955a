"""Detectors: a YOLOX with planted outputs, torchvision's networks with random initialisation, and a stub."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.persons import Stub
from helpers.planted import planted_yolox
from torch import nn
from torchvision.models import get_model, get_model_weights

from transpose.errors import UserError
from transpose.predictor import detector, yolox
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


@pytest.mark.parametrize("name", detector.TORCHVISION)
def test_torchvisions_networks(name):
    """With random weights that favour persons: all boxes are in the image."""
    categories = get_model_weights(detector.TORCHVISION[name])["COCO_V1"].meta["categories"]
    assert categories == detector.LABELS and len(detector.CLASSES) == 80
    torch.manual_seed(22)
    model = get_model(detector.TORCHVISION[name], weights=None, weights_backbone=None, min_size=64, max_size=96)
    person = slice(detector.LABELS.index(detector.PERSON), None, len(categories))
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
        assert detector.network("retinanet", detector.published("retinanet")).weight.sum() == 6
    name = "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", tmp_path / "cache" / name, False)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_a_failed_download_says_what_the_weights_are_for(monkeypatch, tmp_path):
    def transfer(url, file, path, known):
        raise UserError(f"{url}: the download failed (Name or service not known)")

    monkeypatch.setattr(download, "_transfer", transfer)
    monkeypatch.setattr(detector, "repository_root", lambda: tmp_path)
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path))
    says = (
        r"^the weights of the detector yolox_nano: https://.*: the download failed \(Name.*\); --box x,y,w,h, --boxes"
    )
    with pytest.raises(UserError, match=says):
        Detector()


def test_unknown_detectors_and_classes_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no detector 'yolo'; the detectors are yolox_nano, .* fasterrcnn, retinanet"
    ):
        Detector("yolo")
    with pytest.raises(
        UserError,
        match=r"'Dogs' is not one of the 80 COCO classes that the detectors know \(the nearest is 'dog'\); --box",
    ):
        Detector(category="Dogs")
    checkpoint.save(tmp_path / "other.pth", {"weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"other.pth: these weights do not fit torchvision's detector fasterrcnn"):
        detector.network("fasterrcnn", tmp_path / "other.pth")
    for wrong in ({"threshold": 1.5}, {"threshold": float("nan")}, {"batch_size": 0}):
        with pytest.raises(UserError, match="threshold must be between 0 and 1 and its batch_size 1 or more"):
            Detector(Stub(), **wrong)


def test_the_whole_image_is_a_box():
    boxes, scores = whole_image(np.zeros((30, 40, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 40, 30]] and scores.tolist() == [1]


# YOLOX

UPRIGHT = np.full((200, 100, 3), (255, 51, 0), np.uint8)


def test_a_yolox_gives_boxes_in_pixels_of_the_image(tmp_path):
    """The network sees 416 x 416 pixels; an image of 100 x 200 is enlarged by 2.08 to its upper left."""
    planted = [
        # centre, sides in the network's pixels, objectness, scores of classes
        ((104, 208), (104, 208), 0.9, {0: 1.0}),
        ((108, 210), (104, 208), 0.8, {0: 1.0}),  # the same person again
        ((52, 104), (52, 52), 1.0, {0: 0.4, 16: 0.9}),  # rather a dog
        ((200, 30), (60, 100), 0.9, {0: 0.5}),  # reaches over the edges
        ((300, 300), (40, 40), 1.0, {0: 1.0}),  # in the padding
        ((20, 20), (8, 8), 0.5, {0: 0.5}),  # not sure enough
    ]
    file = planted_yolox(tmp_path / "nano.onnx", planted)
    boxes, scores = Detector(weights=file)(UPRIGHT)
    wanted = [[25, 50, 50, 100], [81.7308, 0, 18.2692, 38.4615], [12.5, 37.5, 25, 25]]
    np.testing.assert_allclose(boxes, wanted, atol=1e-3)
    assert scores.tolist() == pytest.approx([0.9, 0.45, 0.4])
    dogs, sure = Detector(weights=file, category="dog")(UPRIGHT)
    np.testing.assert_allclose(dogs, [[12.5, 37.5, 25, 25]], atol=1e-3)
    assert sure.tolist() == pytest.approx([0.9])
    few = Detector(weights=file, threshold=0.6).batch([UPRIGHT, UPRIGHT[::-1, ::-1], UPRIGHT[:1, :1]])
    assert [len(scores) for _, scores in few] == [1, 1, 2] and few[2][0].max() <= 1
    assert len(Detector(weights=file, threshold=0.2)(UPRIGHT)[0]) == 4


def test_a_yolox_sees_bgr_from_0_to_255_padded_with_grey(tmp_path):
    network = yolox.Yolox(planted_yolox(tmp_path / "nano.onnx", []), 416, place=0, threshold=0.3)
    seen = []
    network.network = SimpleNamespace(setInput=seen.append, forward=lambda: np.zeros((1, 3549, 85), np.float32))
    network(UPRIGHT)
    (blob,) = seen
    assert blob.shape == (1, 3, 416, 416) and blob.dtype == np.float32
    assert blob[0, :, 415, 207].tolist() == [0, 51, 255] and blob[0, :, 415, 208].tolist() == [114] * 3


def test_a_yolox_is_fetched_once_and_its_sum_recorded(monkeypatch, tmp_path):
    asked = []

    def transfer(url, file, path, known):
        asked.append(url)
        file.write(planted_yolox(tmp_path / "made.onnx", []).read_bytes())

    monkeypatch.setattr(download, "_transfer", transfer)
    monkeypatch.setattr(detector, "repository_root", lambda: tmp_path / "elsewhere")
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        boxes, scores = Detector()(UPRIGHT)
        assert boxes.shape == (0, 4) and scores.shape == (0,)
    assert asked == [f"{yolox.RELEASE}/yolox_nano.onnx"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["yolox_nano.onnx", "yolox_nano.onnx.sha256"]
    (tmp_path / "cache" / "yolox_nano.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match="damaged or changed"):
        Detector()


def test_files_that_are_not_yolox_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(UserError, match=r"text.onnx: not an ONNX file that OpenCV can run at 416 x 416 \("):
        Detector(weights=tmp_path / "text.onnx")
    small = planted_yolox(tmp_path / "small.onnx", [], size=64)
    with pytest.raises(
        UserError, match=r"small.onnx: not a YOLOX for 416 x 416 pixels: it gives \(1, 84, 85\), not \(1"
    ):
        Detector(weights=small)
