"""The five released models by name: the recipes' networks, the files' places, torch.hub."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch
from helpers.goldens import ROOT, state_dicts
from huggingface_hub import ModelCard
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transpose.build.model import build_model, check_start_weights
from transpose.commands import download as command
from transpose.config import paths
from transpose.config.load import load_config
from transpose.config.paths import repository_root
from transpose.errors import UserError
from transpose.models import hub, zoo
from transpose.models.encoder import ACTIVATIONS
from transpose.models.transpose import R_A4
from transpose.runtime import download, log

PUBLISHED = state_dicts()
EACH = pytest.mark.parametrize("name", zoo.RELEASED)
SLOWER = {"tp_h_a4": pytest.mark.slow, "tp_h_a6": pytest.mark.slow}


def recipe(name: str):
    return load_config(ROOT / "experiments/coco" / PUBLISHED[name]["config"])


def structure(network: nn.Module) -> list[str]:
    """Every module with its numbers, every tensor with its shape."""
    shapes = [f"{key} {tuple(value.shape)} {value.dtype}" for key, value in network.state_dict().items()]
    return [str(network), *shapes]


@EACH
def test_an_entry_is_its_recipe(name):
    cfg, entry = recipe(name), zoo.RELEASED[name]
    torch.manual_seed(0)
    wanted = build_model(cfg)
    torch.manual_seed(0)
    found = zoo.model(entry.hub_name)
    assert structure(found) == structure(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))
    assert sum(parameter.numel() for parameter in found.parameters()) == entry.parameters
    assert Path(cfg.TEST.MODEL_FILE) == repository_root() / zoo.FOLDER / entry.file
    assert (tuple(cfg.MODEL.IMAGE_SIZE), cfg.MODEL.NUM_JOINTS) == (zoo.IMAGE_SIZE, zoo.KEYPOINTS)
    assert (cfg.TEST.BLUR_KERNEL, cfg.TEST.FLIP_TEST, cfg.DATASET.COLOR_RGB) == (zoo.BLUR_KERNEL, True, True)


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOWER.get(name, ())) for name in zoo.RELEASED])
def test_operations_are_as_listed(name):
    with torch.device("meta"):
        network = zoo.model(name).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 256, 192))
    assert round(counter.get_total_flops() / 1e9, 2) == zoo.RELEASED[name].gflops


def test_names_of_both_kinds_and_the_nearest_of_a_wrong_one():
    assert zoo.is_name("tp_r_a4") and zoo.is_name("tpr_a4_256x192") and not zoo.is_name("model.pth")
    assert len(zoo.HUB_NAMES) == len(zoo.RELEASED) == 5
    with pytest.raises(UserError, match=r"no released model 'tp_r_a5'; choose from tp_r_a3, .*; the nearest is tp_r_a"):
        zoo.weights("tp_r_a5")


@pytest.fixture
def fetched(monkeypatch) -> list[tuple[str, Path]]:
    """What would have been downloaded; the files that come are weights as constructed."""
    asked = []

    def transfer(url: str, file: IO[bytes], path: Path, known: bool) -> None:
        asked.append((url, path))
        torch.save({"state_dict": zoo.model("tp_r_a3").state_dict()}, file)

    monkeypatch.setattr(download, "_transfer", transfer)
    return asked


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """The user's cache, and no clone."""
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(zoo, "repository_root", lambda: tmp_path / "elsewhere")
    return tmp_path / "cache"


def test_weights_are_downloaded_once_into_the_users_cache(fetched, cache, tmp_path):
    path = zoo.weights("tp_r_a3")
    assert path == cache / "tp_r_256x192_enc3_d256_h1024_mh8.pth" and path.exists()
    assert zoo.weights("tpr_a3_256x192") == path
    assert fetched == [(f"{zoo.RELEASE}/tp_r_256x192_enc3_d256_h1024_mh8.pth", path)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("name", ["tp_r_a3", "resnet50"])
def test_weights_in_the_clone_are_used_without_a_download(name, fetched, cache, tmp_path):
    get, place, entry = (
        (zoo.weights, "transpose_coco", zoo.RELEASED["tp_r_a3"])
        if name == "tp_r_a3"
        else (zoo.backbone, "imagenet", zoo.BACKBONES["resnet50"])
    )
    path = tmp_path / "elsewhere/models/pytorch" / place / entry.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    if name == "tp_r_a3":
        assert get(name) == path
    else:  # and checked by its name
        with pytest.raises(UserError, match=rf"{path}: its sha256 is"):
            get(name)
    assert not fetched and not cache.exists()


def test_a_network_with_its_weights(fetched, cache):
    network = zoo.pretrained("tp_r_a3")
    wanted = torch.load(zoo.weights("tp_r_a3"), weights_only=True)["state_dict"]
    assert not network.training and len(fetched) == 1
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_weights_that_are_no_longer_those_that_came_are_refused(fetched, tmp_path):
    path = zoo.weights("tp_r_a3", tmp_path)
    path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(UserError, match=rf"its sha256 is .*{path.name}\.sha256 says 0000"):
        zoo.weights("tp_r_a3", tmp_path)


def test_the_hubs_entry_points_are_the_five_models():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert entries == set(zoo.HUB_NAMES)


HUB = """
import sys
import lib
import torch

clone, folder = sys.argv[1:]
torch.hub.set_dir(folder)
network = torch.hub.load(clone, "tpr_a3_256x192", source="local", pretrained=True)
assert lib.mine and not network.training
with torch.inference_mode():
    print(tuple(network(torch.zeros(1, 3, 256, 192)).shape), float(network.final_layer.bias[0]))
print(type(torch.hub.load(clone, "tph_s_256x192", source="local")).__name__, "yacs" in sys.modules)
"""


def test_torch_hub_beside_another_package_called_lib(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/__init__.py").write_text("mine = True\n")
    (tmp_path / "program.py").write_text(HUB)
    state = zoo.model("tp_r_a3").state_dict()
    state["final_layer.bias"].fill_(0.25)
    weights = tmp_path / "hub/checkpoints" / zoo.RELEASED["tp_r_a3"].file
    weights.parent.mkdir(parents=True)
    torch.save(state, weights)
    done = subprocess.run(
        [sys.executable, "program.py", str(ROOT), str(tmp_path / "hub")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    forward, last = done.stdout.splitlines()
    assert forward == "(1, 17, 64, 48) 0.25" and last == "TransPoseH False"


# What version 0.1 wrote as config.json of tp_r_a3 and tp_h_s: the encoder's numbers beside the others.
FLAT = {
    "tp_r_a3": {
        **{"activation": "relu", "attention_dropout": None, "dim": 256, "dropout": 0.1, "feedforward": 1024},
        **{"heads": 8, "layers": 3, "positions": "sine", "positions_at_first_layer_only": False},
        **{"deconv_bias": False, "deconv_filters": [256], "deconv_kernels": [4], "final_kernel": 1},
        **{"image_size": [192, 256], "num_joints": 17, "num_layers": 50},
    },
    "tp_h_s": {
        **{"activation": "relu", "attention_dropout": None, "dim": 64, "dropout": 0.1, "feedforward": 128},
        **{"heads": 1, "layers": 4, "positions": "sine", "positions_at_first_layer_only": False},
        **{"final_kernel": 1, "image_size": [192, 256], "num_joints": 17},
        "stage2": {"block": "BASIC", "blocks": [4, 4], "modules": 1, "planes": [32, 64]},
        "stage3": {"block": "BASIC", "blocks": [4, 4, 4], "modules": 4, "planes": [32, 64, 128]},
    },
}
OF_THE_HUB = pytest.mark.parametrize("name", ["tp_r_a3", pytest.param("tp_h_s", marks=pytest.mark.slow)])


def hub_variant(name: str) -> type:
    return hub.HUB_VARIANTS["transpose_r" if name == "tp_r_a3" else "transpose_h"]


def assert_same_network(one: nn.Module, other: nn.Module) -> None:
    assert not one.training and structure(one) == structure(other)
    assert all(torch.equal(value, one.state_dict()[key]) for key, value in other.state_dict().items())


@OF_THE_HUB
def test_the_hugging_face_hubs_folder_gives_the_network_back(name, tmp_path):
    network = zoo.model(name, hub.HUB_VARIANTS).eval()
    assert structure(network)[1:] == structure(zoo.model(name))[1:]
    network.save_pretrained(tmp_path / "first")
    assert {"model.safetensors", "config.json"} <= {file.name for file in (tmp_path / "first").iterdir()}
    again = hub_variant(name).from_pretrained(tmp_path / "first")
    assert_same_network(again, network)
    again.save_pretrained(tmp_path / "second")
    one, other = ((tmp_path / folder / "config.json").read_bytes() for folder in ("first", "second"))
    assert one == other


@OF_THE_HUB
def test_a_hub_folder_of_version_0_1_gives_its_network(name, tmp_path):
    network = zoo.model(name, hub.HUB_VARIANTS).eval()
    network.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    new = config.read_bytes()
    config.write_text(json.dumps(FLAT[name]))
    again = hub_variant(name).from_pretrained(tmp_path)
    assert_same_network(again, network)
    again.save_pretrained(tmp_path)
    assert config.read_bytes() == new


def test_the_numbers_of_a_flat_hub_file_reach_the_encoder(tmp_path):
    odd = {"dropout": 0.25, "attention_dropout": 0.0, "activation": "gelu", "positions_at_first_layer_only": True}
    encoder = replace(R_A4, layers=2, positions="learnable", **odd)
    network = hub.HUB_VARIANTS["transpose_r"](encoder=encoder)
    network.save_pretrained(tmp_path)
    flat = FLAT["tp_r_a3"] | {"layers": 2, "positions": "learnable"} | odd
    (tmp_path / "config.json").write_text(json.dumps(flat))
    again = hub.HUB_VARIANTS["transpose_r"].from_pretrained(tmp_path)
    assert_same_network(again, network.eval())
    layer = again.global_encoder.layers[0]
    assert (layer.self_attn.dropout, layer.dropout.p, layer.activation) == (0.0, 0.25, ACTIVATIONS["gelu"])
    assert again.global_encoder.positions_at_first_layer_only and again.pos_embedding.requires_grad


def test_a_hub_card_says_what_the_network_is_and_what_its_owner_adds(tmp_path):
    network = hub.HUB_VARIANTS["transpose_h"](image_size=(96, 128), num_joints=5)
    network.save_pretrained(tmp_path, model_card_kwargs={"datasets": ["me/hands"], "results": "AP 0.5 on ours."})
    card = ModelCard.load(tmp_path / "README.md")
    about = card.data.to_dict()
    assert about["datasets"] == ["me/hands"] and about["metrics"] == ["oks-ap"] and about["license"] == "mit"
    assert (about["library_name"], about["pipeline_tag"]) == ("transpose", "keypoint-detection")
    for said in ("# TransPose-H", "5 keypoints", "AP 0.5 on ours.", 'HUB_VARIANTS["transpose_h"]', "(B, 3, 128, 96)"):
        assert said in card.text
    hub.HUB_VARIANTS["transpose_r"]().save_pretrained(tmp_path / "other")
    card = ModelCard.load(tmp_path / "other/README.md")
    assert "datasets" not in card.data.to_dict() and "Not stated: what the weights were trained on" in card.text
    assert "More Information Needed" not in card.text


def test_a_hub_folder_that_lacks_a_tensor_is_refused(tmp_path):
    from safetensors.torch import save_file

    network = zoo.model("tp_r_a3", hub.HUB_VARIANTS)
    network.save_pretrained(tmp_path)
    state = {key: value for key, value in network.state_dict().items() if key != "final_layer.bias"}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"final_layer\.bias"):
        hub.HUB_VARIANTS["transpose_r"].from_pretrained(tmp_path)


def test_imagenet_weights_come_from_where_a_program_can_get_them(fetched, tmp_path):
    with pytest.raises(UserError, match=r"resnet50-19c8e357\.pth: its sha256 is .* its name says 19c8e357"):
        zoo.backbone("resnet50", tmp_path)  # what `fetched` gives is not that file
    path = tmp_path / "resnet50-19c8e357.pth"
    assert fetched == [("https://download.pytorch.org/models/resnet50-19c8e357.pth", path)] and not path.exists()
    with pytest.raises(
        UserError, match=rf"{tmp_path}/hrnet_w32-36af842e\.pth: download .*drive\.google\.com.* put it there"
    ):
        zoo.backbone("hrnet_w32", tmp_path)
    with pytest.raises(UserError, match="no ImageNet weights 'vgg'; choose from resnet50, hrnet_w32"):
        zoo.backbone("vgg")


@pytest.mark.parametrize("backbone", zoo.BACKBONES)
def test_missing_imagenet_weights_are_reported_with_their_source(backbone):
    entry = zoo.BACKBONES[backbone]
    published = PUBLISHED["tp_h_s" if entry.model == "transpose_h" else "tp_r_a4"]
    cfg = load_config(ROOT / "experiments/coco" / published["config"], ["MODEL.PRETRAINED", "no.pth"])
    with pytest.raises(
        UserError, match=rf"no.pth: the ImageNet weights .* get them from {re.escape(entry.source)}, or"
    ):
        check_start_weights(cfg)


def test_the_table_shows_which_files_are_downloaded(fetched, tmp_path):
    zoo.weights("tp_h_s", tmp_path)
    table = command.table(tmp_path).splitlines()
    assert [line.split()[0] for line in table[2:7]] == list(zoo.RELEASED)
    assert [line for line in table if line.endswith("(here)")] == [next(x for x in table if x.startswith("tp_h_s "))]
    assert "8,019,281" in table[4] and "19.86" in table[4] and "0.742" in table[4]


def test_the_command_needs_a_name_or_the_list_option(tmp_path):
    for arguments in ((), ("--list", "tp_r_a4")):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools/download.py"), *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and done.stderr == "error: give the names of what to download, or pass --list\n"


def test_a_name_that_there_is_not_does_not_end_the_download(fetched, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        command.main(["tp_x", "tp_r_a3", "--folder", str(tmp_path)])
    assert len(fetched) == 1 and fetched[0][1].exists()
    assert "error: there is no released model 'tp_x'" in capsys.readouterr().err


@pytest.mark.parametrize("clone", [True, False])
def test_the_command_fills_the_recipes_folders_of_a_clone_and_else_the_cache(
    clone, fetched, cache, tmp_path, monkeypatch
):
    root = tmp_path / "elsewhere"
    (root / "experiments" if clone else root).mkdir(parents=True)
    monkeypatch.setattr(paths, "repository_root", lambda: root)
    monkeypatch.setattr(log, "start", lambda: None)
    command.main(["tp_r_a3"])
    file = zoo.RELEASED["tp_r_a3"].file
    assert [path for _, path in fetched] == [root / "models/pytorch/transpose_coco" / file if clone else cache / file]
    with pytest.raises(UserError, match="its name says 19c8e357"):  # what `fetched` gives is not that file
        command.main(["resnet50"])
    imagenet = zoo.BACKBONES["resnet50"].file
    assert fetched[-1][1] == (root / "models/pytorch/imagenet" / imagenet if clone else cache / imagenet)
    assert clone or not list(root.iterdir())
