"""Exported files give PyTorch's keypoints, describe their input, and are removed if their results differ."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.goldens import ROOT
from helpers.networks import SMALL, images, small_h, small_r
from helpers.places import sentence
from torch import nn

from transpose.build.evaluation import build_sample_evaluation
from transpose.build.model import TrainedModel, read_trained_model
from transpose.commands import export as command
from transpose.core.predict import TestOptions, normalise, to_image
from transpose.errors import UserError, missing
from transpose.evaluation.evaluate import CocoEvaluation
from transpose.models.encoder import EncoderConfig
from transpose.models.transpose import TransPoseR
from transpose.pose import geometry
from transpose.pose.skeleton import COCO
from transpose.predictor import drift, export

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # TorchScript is deprecated, and asked for
IN_PYTORCH = ("torchscript", "torch-export")
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def needs(name: str) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)


EACH = pytest.mark.parametrize("name", export.FORMATS)


@pytest.fixture(scope="module")
def sample() -> CocoEvaluation:
    """Some of the sample's crops, in batches of two sizes."""
    whole = build_sample_evaluation(SMALL)
    batch = next(iter(whole.loader))
    return replace(
        whole, loader=[{key: value[part] for key, value in batch.items()} for part in (slice(12), slice(12, 17))]
    )


class Peaked(TransPoseR):
    """A network that adds soft spots of the image to its heatmaps, so that they have peaks without training."""

    def __init__(self) -> None:
        encoder = EncoderConfig(dim=32, heads=4, layers=2, feedforward=64)
        super().__init__(num_layers=18, image_size=SMALL, encoder=encoder, deconv_filters=(32,))
        steps = torch.arange(17) - 8.0
        soft = torch.exp(-(steps**2 + steps[:, None] ** 2) / 32)
        self.spots = nn.Conv2d(3, 17, 17, stride=4, padding=8)
        self.spots.weight.data = torch.randn(17, 3, 1, 1) * soft / soft.sum()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.1 * super().forward(images) + self.spots(images)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel(Peaked().eval(), COCO, Path("small.pth"), TestOptions(blur_kernel=5))


# Files


@pytest.mark.parametrize("make", [small_r, small_h], ids=["R", "H"])
def test_both_variants_as_torchscript_for_any_batch(make, tmp_path):
    """For heatmaps; the other runtimes are tested with the backends."""
    network = make()
    variant = TrainedModel(network, COCO, Path("small.pth"))
    about = export.card(variant, decodes=False, half=False, any_batch=True)
    example = torch.zeros(1, 3, *SMALL[::-1])
    path = tmp_path / "small.torchscript"
    export.FORMATS["torchscript"].write(export.ToHeatmaps(variant, False).eval(), example, about, path)
    x = images(3)
    with torch.no_grad():
        wanted = network(x)
    found = export.load(path).forward(x)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("name", "decodes"),
    [  # heatmaps are what keypoints are found in, so those of three formats are tried in the slow tests only
        pytest.param(name, decodes, marks=() if decodes or name == "torchscript" else pytest.mark.slow)
        for name in export.FORMATS
        for decodes in (False, True)
    ],
)
def test_an_exported_file_finds_pytorchs_keypoints(name, decodes, trained, sample, tmp_path):
    needs(name)
    path = tmp_path / f"small{export.FORMATS[name].suffix}"
    found = export.export(trained, path, sample, decodes=decodes, any_batch=True)
    assert found.crops == 17 and found.faults() == []
    assert found.most < 0.005 and found.ap == pytest.approx(found.ap_pytorch, abs=1e-4)
    files = {f"small{suffix}" for suffix in (export.FORMATS[name].suffix, *([".bin"] if name == "openvino" else []))}
    assert {file.name for file in tmp_path.iterdir()} == files

    loaded = export.load(path)
    about = loaded.card
    assert about.text == export.card(trained, decodes=decodes, half=False, any_batch=True).text
    assert loaded.skeleton == COCO and about.image_size == SMALL and about.flip_test and about.rgb
    batch = next(iter(sample.loader))["image"][:3]
    if decodes:
        keypoints, scores = loaded.keypoints(batch)
        assert keypoints.shape == (3, 17, 2) and scores.shape == (3, 17)
    else:
        assert loaded.forward(normalise(batch, CPU)).shape == (3, 17, 24, 16)


@pytest.mark.parametrize("name", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_half_precision_and_batches_of_one(name, trained, sample, tmp_path):
    needs(name)
    path = tmp_path / f"small{export.FORMATS[name].suffix}"
    few = replace(sample, loader=sample.loader[1:])  # float16 is slow on a processor
    found = export.export(trained, path, few, half=True, decodes=True)
    assert 1e-5 < found.p95 < 0.05 and found.faults() == []
    assert path.stat().st_size < 0.7 * sum(p.numel() * 4 for p in trained.network.parameters())
    loaded = export.load(path)
    crops = next(iter(sample.loader))["image"][:2]
    both = loaded.keypoints(crops)[0]
    assert torch.equal(both[1:], loaded.keypoints(crops[1:])[0]) and not loaded.card.any_batch


def test_a_file_itself_gives_pixels_of_the_crop(trained, sample, tmp_path):
    path = tmp_path / "small.torchscript"
    export.export(trained, path, sample, decodes=True, any_batch=True)
    crops = next(iter(sample.loader))["image"]
    keypoints, _ = torch.jit.load(str(path))(crops)
    in_heatmap, _ = export.load(path).keypoints(crops)
    wanted = geometry.heatmap_to_input(in_heatmap.numpy(), (16, 24), SMALL)
    np.testing.assert_allclose(keypoints.numpy(), wanted, rtol=0, atol=1e-4)


def test_the_pages_program_finds_what_the_repository_finds(trained, sample, tmp_path, monkeypatch):
    """The one in docs/export.md, on a box of a bundled image."""
    needs("onnx")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "final_state_keypoints.onnx"
    export.export(trained, path, sample, decodes=True)
    batch = {key: value[:1] for key, value in sample.loader[0].items()}
    people = sample.crops.instances
    box, image = people.boxes[int(batch["index"])], people.image[int(batch["index"])]
    image = cv2.imread(str(ROOT / "data/coco_sample/images/val2017" / people.images.names[image]))
    cv2.imwrite(str(tmp_path / "photo.jpg"), image)
    page = (ROOT / "docs/export.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    assert "x, y, w, h = 388, 70, 109, 278" in program and '"photo.jpg"' in program
    program = program.replace("388, 70, 109, 278", ", ".join(map(str, box.tolist())))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(program, names)
    found, scores = export.load(path).keypoints(torch.from_numpy(names["crop"][None]))
    wanted = to_image(found, batch["to_image"])[0]
    assert abs(names["crop"].astype(int) - batch["image"][0].numpy()).mean() < 3  # the image was compressed anew
    np.testing.assert_allclose(names["keypoints"], wanted.numpy(), rtol=0, atol=0.05)
    np.testing.assert_allclose(names["scores"], scores.numpy(), rtol=1e-5)


def test_other_keypoints_have_no_ap(trained, sample, tmp_path):
    kind = replace(COCO, names=tuple(f"point {i}" for i in range(17)))
    found = export.export(replace(trained, skeleton=kind), tmp_path / "small.torchscript", sample, any_batch=True)
    assert found.ap is None and "AP" not in found.describe()
    assert export.load(tmp_path / "small.torchscript").skeleton.names == kind.names


# The gate


FINE = drift.Drift(105, False, 9e-4, 0.019, 0.01, 0.0, 0.7, 0.7019)


@pytest.mark.parametrize(
    "changes, faults",
    [
        ({}, []),
        ({"heatmaps": 1.1e-3}, ["heatmaps 0.0011, but at most 0.001 is allowed"]),
        ({"most": 0.021}, ["keypoints 0.021, but at most 0.02 is allowed"]),
        ({"ap": 0.6979}, ["AP 0.0021, but at most 0.002 is allowed"]),
        ({"ap": None, "ap_pytorch": None}, []),
        ({"most": float("nan"), "heatmaps": float("nan")}, ["heatmaps nan, but at most", "keypoints nan, but at most"]),
        ({"half": True, "heatmaps": 0.1, "most": 5.0, "p95": 0.1}, []),
        ({"half": True, "p95": 0.11}, ["keypoints' 95th percentile 0.11, but at most 0.1 is allowed"]),
    ],
)
def test_limits_of_the_drift(changes, faults):
    found = replace(FINE, **changes).faults()
    assert len(found) == len(faults) and all(a.startswith(b) for a, b in zip(found, faults, strict=True))


@pytest.mark.parametrize("decodes", [False, True], ids=["heatmaps", "keypoints"])
def test_a_file_that_drifts_is_not_left_behind(decodes, trained, sample, tmp_path, monkeypatch):
    def drifting(module, example, about, path):
        with torch.no_grad():
            network = module.heatmaps.network if decodes else module.network
            network.final_layer.weight *= 1.0 + 0.2 * torch.rand(network.final_layer.weight.shape)
        export._write_torchscript(module, example, about, path)

    monkeypatch.setitem(export.FORMATS, "torchscript", replace(export.FORMATS["torchscript"], write=drifting))
    path = tmp_path / "small.torchscript"
    path.write_text("what stood there")
    with pytest.raises(
        UserError, match=r"small\.torchscript: not written, because its results differ .*keypoints .* allowed"
    ):
        export.export(trained, path, sample, decodes=decodes, any_batch=True)
    assert path.read_text() == "what stood there" and len(list(tmp_path.iterdir())) == 1


def test_nan_in_a_files_heatmaps_is_a_fault(trained, sample):
    about = export.card(trained, decodes=False, half=False, any_batch=True)
    file = export.Exported(Path("nan.onnx"), about, lambda crops: (torch.full((len(crops), 17, 24, 16), torch.nan),))
    assert any(fault.startswith("heatmaps nan") for fault in drift.measure(file, trained, sample).faults())


# Bad input


@EACH
def test_damaged_and_foreign_files_are_named(name, tmp_path):
    needs(name)
    path = tmp_path / f"broken{export.FORMATS[name].suffix}"
    with pytest.raises(UserError, match=f"{path}: there is no such file"):
        export.load(path)
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match=rf"{path}: cannot be loaded as {name} \(.+\)$"):
        export.load(path)


@pytest.mark.parametrize("card", [None, "[" * 100_000])
def test_a_network_of_another_program_is_named(card, tmp_path):
    path = tmp_path / "other.torchscript"
    extra = {export.KEY: card} if card else {}
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path), _extra_files=extra)
    with pytest.raises(UserError, match="its metadata is missing"):
        export.load(path)
    with pytest.raises(UserError, match=r"whose name ends in \.onnx, \.xml, \.torchscript, \.pt2"):
        export.load(tmp_path / "weights.pth")


@pytest.mark.parametrize("package, suffix, extra", [("onnx", ".onnx", "onnxruntime"), ("openvino", ".xml", "openvino")])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    package, suffix, extra, trained, sample, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        export.export(trained, tmp_path / f"small{suffix}", sample)
    assert str(error.value) == str(missing(package, extra)) and list(tmp_path.iterdir()) == []


def tool(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/export.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow  # trains the demo
def test_every_format_of_the_trained_demo(tmp_path):
    recipe = ROOT / "experiments/coco_sample/demo.yaml"
    command = [sys.executable, str(ROOT / "tools/train.py"), "--cfg", str(recipe), "--modelDir", str(tmp_path)]
    subprocess.run([*command, "--logDir", str(tmp_path / "log")], check=True, capture_output=True)
    run = tmp_path / "coco/transpose_r/demo"
    asked = ("--model", str(run), "--format", "torchscript", "--with-decode")
    done = tool(*asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    head, *report = done.stdout.splitlines()
    assert head == f"torchscript: {run}/final_state_keypoints.torchscript"
    assert report[0] == "against PyTorch on 105 crops:" and report[-1].startswith("  AP 0.9")
    again = tool(*asked, folder=tmp_path)
    assert again.returncode == 2 and "choose another with --out, or pass --overwrite" in again.stderr
    twice = tool("--model", str(run / "final_state_keypoints.torchscript"), "--format", "onnx", folder=tmp_path)
    assert twice.returncode == 2 and "this is an exported file" in twice.stderr

    demo, sample = read_trained_model(run), build_sample_evaluation(SMALL)
    for name, made in export.FORMATS.items():
        if all(importlib.util.find_spec(package) for package in NEEDS.get(name, ())):
            for decodes in (False, True):
                for half in (False, True):
                    path = tmp_path / f"demo{made.suffix}"
                    found = export.export(demo, path, sample, decodes=decodes, half=half, any_batch=True)
                    assert found.ap > 0.9 and not found.faults(), (name, decodes, half)


def test_an_unknown_model_is_named(tmp_path, run_preloaded):
    said = sentence(run_preloaded("export", ["--model", "tp_r_a5", "--format", "onnx"], tmp_path, {}))
    assert said.startswith("tp_r_a5: there is no such file or folder, and no released model")


def test_the_command_knows_every_format():
    assert list(command.FORMATS) == list(export.FORMATS)
