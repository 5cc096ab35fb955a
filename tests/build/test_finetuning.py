"""From trained weights to other keypoints: what is taken, what is kept, and a whole run on a category of its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.goldens import ROOT
from helpers.networks import with_encoder
from helpers.persons import DEMO
from helpers.places import Run

from transpose.errors import UserError
from transpose.models import weights
from transpose.models.transpose import TransPoseR

SMALL = {"image_size": (32, 64), "num_layers": 18, "deconv_filters": (16,)}
NAMES = ("nose", "left_eye", "right_eye")


def small(num_joints: int = 3, **other) -> TransPoseR:
    options = with_encoder(SMALL | other, dim=16, heads=2, layers=1, feedforward=16)
    return TransPoseR(num_joints=num_joints, **options)


def test_rows_of_the_last_layer_follow_the_names():
    source, model = small().state_dict(), small(num_joints=2)
    drawn = model.final_layer.weight.clone()
    remarks = weights.transfer(model, source, NAMES, ("tail", "left_eye"), "w.pth")
    assert torch.equal(model.final_layer.weight[1], source["final_layer.weight"][1])
    assert torch.equal(model.final_layer.weight[0], drawn[0])
    assert torch.equal(model.conv1.weight, source["conv1.weight"])
    assert remarks == [
        f"final_layer.{part}: rows of left_eye taken, the rest newly initialised" for part in ("weight", "bias")
    ]


def test_what_does_not_fit_is_listed():
    source = small().state_dict() | {"extra.weight": torch.zeros(1)}
    del source["conv1.weight"]
    model = small(image_size=(64, 64), feedforward=32)
    remarks = weights.transfer(model, source, NAMES, NAMES, "w.pth")
    for part in ("extra.weight: not of this model", "conv1.weight: missing", "linear1.weight: 16x16 instead of 32x16"):
        assert any(part in remark for remark in remarks), part
    assert any(remark.startswith("pos_embedding: resized") for remark in remarks)


def test_rows_without_names_and_strangers_are_refused():
    with pytest.raises(UserError, match="3 rows for 2 keypoints"):
        weights.transfer(small(), small().state_dict(), NAMES[:2], NAMES, "w.pth")
    with pytest.raises(UserError, match="none of its 1 tensors"):
        weights.transfer(small(), {"a": torch.zeros(1)}, NAMES, NAMES, "w.pth")


def test_frozen_parameters_and_their_statistics_stay():
    model = small().train()
    assert "layer1.0.conv1.weight" in model.freeze("layer1*")
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(torch.randn(2, 3, 64, 32)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith("layer1") for key in changed)
    assert {"conv1.weight", "layer2.0.bn1.running_mean", "final_layer.weight"} <= changed


def test_a_category_of_five_keypoints_trains_and_is_tested(tmp_path: Path, run_preloaded: Run):
    """COCO's sample with its first five keypoints as another category, id 7, among two."""
    source, data = ROOT / "data" / "coco_sample", tmp_path / "data"
    shutil.copytree(source / "images" / "val2017", data / "images" / "birds")
    content = json.loads((source / "annotations" / "person_keypoints_val2017.json").read_bytes())
    names = content["categories"][0]["keypoints"][:5]
    content["categories"] = [
        {"id": 3, "name": "tree"},
        {"id": 7, "name": "bird", "keypoints": names, "skeleton": [[1, 2]]},
    ]
    for annotation in content["annotations"]:
        points = annotation["keypoints"][:15]
        annotation |= {"category_id": 7, "keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
    (data / "annotations").mkdir()
    (data / "annotations" / "person_keypoints_birds.json").write_text(json.dumps(content))
    overrides = (
        "DATASET.TRAIN_SET birds DATASET.TEST_SET birds DATASET.CATEGORY bird MODEL.NUM_JOINTS 5 DATASET.FLIP True "
        "MODEL.IMAGE_SIZE [32,64] MODEL.HEATMAP_SIZE [8,16] TRAIN.END_EPOCH 1 TRAIN.WARMUP_EPOCHS 0"
    ).split()
    folders = ["--modelDir", str(tmp_path / "o"), "--logDir", str(tmp_path / "l")]

    def run(*more: str) -> str:
        arguments = ["--cfg", str(DEMO), *folders, "DATASET.ROOT", str(data), *overrides, *more]
        done = run_preloaded("train", arguments, tmp_path, {})
        return done.stdout + done.stderr

    output = run()
    assert (
        "5 keypoints (nose, left_eye, right_eye, left_ear, right_ear); left/right pairs: left_eye/right_eye" in output
    )
    assert "gives no OKS `sigmas`: 0.05" in output and "| demo |" in output, output
    folder = tmp_path / "o" / "bird" / "transpose_r" / "demo"
    result = json.loads((folder / "results" / "keypoints_birds_results_0.json").read_bytes())[0]
    assert result["category_id"] == 7 and len(result["keypoints"]) == 15
    shutil.rmtree(tmp_path / "o")
    assert "set MODEL.NUM_JOINTS 5" in run("MODEL.NUM_JOINTS", "17")
