"""Bad input: one message that names the faulty file or option, exit code 2, no traceback; a fault keeps its own.

A case is a function that spoils one thing of a working set-up and returns what the sentence must say. The tools run
as commands, from a folder that is not the clone; where it takes torch to find the mistake, from `preloaded.py`.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from helpers.goldens import ROOT
from helpers.places import TWO_IMAGES, Place, Run, read, run_in_new_process, sentence, write

from transpose.dataset import coco, detections
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import TopDownDataset
from transpose.errors import UserError
from transpose.models.transpose import TransPoseR
from transpose.models.weights import load_weights, unwrap
from transpose.pose.skeleton import COCO
from transpose.runtime import checkpoint


@dataclass(frozen=True)
class Case:
    """`spoil` gets a working set-up and returns what the sentence of `tool` must begin with and hold."""

    name: str
    tool: str
    spoil: Callable[[Place], list]

    def check(self, place: Place, run: Run) -> None:
        wanted = [str(word) for word in self.spoil(place)]
        said = sentence(place.run(self.tool, run))
        assert said.startswith(wanted[0]), said
        for word in wanted:
            assert word in said, f"{word!r} is not in: {said}"


LIGHT: list[Case] = []  # mistakes of the configuration, found before torch is imported
HEAVY: list[Case] = []  # mistakes in files


def bad(cases: list[Case], tool: str, **variants: tuple) -> Callable:
    """Register a function as a case, or as one for each keyword, whose values are its further arguments."""

    def register(spoil: Callable) -> Callable:
        if not variants:
            cases.append(Case(spoil.__name__, tool, spoil))
        for variant, values in variants.items():
            cases.append(Case(f"{spoil.__name__}-{variant}", tool, lambda place, values=values: spoil(place, *values)))
        return spoil

    return register


bad_configuration, bad_file = partial(bad, LIGHT), partial(bad, HEAVY)


# ---- the configuration ----------------------------------------------------------------------------------------------


@bad_configuration(
    "train",
    bracket=(b"MODEL: [1, 2\nTRAIN:\n", ["line 2", "expected ','"]),
    tab=(b"MODEL:\n\tNAME: transpose_r\n", ["line 2, column 1", "\\t"]),
    binary=(b"\xff\xd8\xff\xe0JFIF", ["utf-8", "0xff"]),
    zeros=(b"WORKERS: 1\x00\n", ["#x0000"]),
    list_at_the_top=(b"- MODEL\n- TRAIN\n", ["mapping", "list"]),
    text_at_the_top=(b"MODEL\n", ["mapping", "str"]),
)
def yaml_is_no_configuration(place: Place, content: bytes, words: list[str]) -> list:
    place.config = {}
    place.yaml.write_bytes(content)
    return [f"{place.yaml}: ", *words]


@bad_configuration("test")
def yaml_is_missing(place: Place) -> list:
    place.config = {}
    return [f"{place.yaml}: ", "No such file"]


@bad_configuration("train")
def yaml_is_a_folder(place: Place) -> list:
    place.config = {}
    place.yaml.mkdir()
    return [f"{place.yaml}: ", "Is a directory"]


@bad_configuration("train")
def base_is_missing(place: Place) -> list:
    place.config["_BASE_"] = "above.yaml"
    return [f"{place.yaml}: _BASE_ names above.yaml", place.folder / "above.yaml"]


@bad_configuration("train")
def base_is_a_list(place: Place) -> list:
    place.config["_BASE_"] = ["above.yaml"]
    return [f"{place.yaml}: _BASE_ must be the name of a yaml, not ['above.yaml']"]


@bad_configuration("train")
def base_leads_back(place: Place) -> list:
    place.config["_BASE_"] = "above.yaml"
    (place.folder / "above.yaml").write_text("_BASE_: small.yaml\n")
    return [place.folder, "_BASE_", "leads back"]


@bad_configuration(
    "train",
    top=(["WORKER"], "WORKERS"),
    top_section=(["MODLE"], "MODEL"),
    model=(["MODEL", "DIM_MODELL"], "MODEL.DIM_MODEL"),
    extra=(["MODEL", "EXTRA", "NUM_LAYER"], "MODEL.EXTRA.NUM_LAYERS"),
    stage=(["MODEL", "EXTRA", "STAGE2", "NUM_CHANELS"], "MODEL.EXTRA.STAGE2.NUM_CHANNELS"),
    section=(["TRIAN", "LR"], "TRAIN.LR"),
    forgotten_section=(["FLIP_TEST"], "TEST.FLIP_TEST"),
)
def unknown_key(place: Place, key: list[str], nearest: str) -> list:
    put(place.config, key, 1)
    return [f"{place.yaml}: {'.'.join(key)} is not a configuration key", f"the nearest is {nearest}"]


@bad_configuration("train")
def unknown_key_in_the_base(place: Place) -> list:
    place.config["_BASE_"] = "above.yaml"
    (place.folder / "above.yaml").write_text("TRAIN:\n  EPOCHS: 3\n")
    return [f"{place.folder / 'above.yaml'}: TRAIN.EPOCHS is not a configuration key", "the nearest is TRAIN."]


@bad_configuration(
    "train",
    number_for_a_list=(["GPUS"], 0, "a list such as (0,), not 0"),
    one_side=(["MODEL", "IMAGE_SIZE"], 256, "a list such as [256, 256], not 256"),
    text_in_a_list=(["MODEL", "IMAGE_SIZE"], [192, "high"], "a whole number, not 'high'"),
    text_for_a_number=(["TRAIN", "LR"], "fast", "a number, not 'fast'"),
    nothing_for_a_number=(["TRAIN", "LR"], None, "a number, not None"),
    fraction=(["WORKERS"], 1.5, "a whole number, not 1.5"),
    number_for_a_switch=(["TEST", "USE_GT_BBOX"], 1, "true or false, not 1"),
    word_for_a_switch=(["TEST", "FLIP_TEST"], "sometimes", "true or false, not 'sometimes'"),
    list_for_text=(["MODEL", "NAME"], ["transpose_r"], "text, not ['transpose_r']"),
    in_extra=(["MODEL", "EXTRA", "NUM_LAYERS"], "fifty", "a whole number, not 'fifty'"),
)
def wrong_type(place: Place, key: list[str], value: Any, wanted: str) -> list:
    put(place.config, key, value)
    return [f"{place.yaml}: {'.'.join(key)} must be {wanted}"]


@bad_configuration("train")
def value_for_a_section(place: Place) -> list:
    place.config["CUDNN"] = True
    return [f"{place.yaml}: CUDNN contains further keys", "True"]


@bad_configuration(
    "train",
    heatmap=({"MODEL.HEATMAP_SIZE": [32, 32]}, ["MODEL.HEATMAP_SIZE [32, 32]", "a quarter", "that is [16, 16]"]),
    stride=({"MODEL.IMAGE_SIZE": [60, 64]}, ["MODEL.IMAGE_SIZE [60, 64]", "multiples of 8"]),
    three_sides=({"MODEL.IMAGE_SIZE": [64, 64, 3]}, ["MODEL.IMAGE_SIZE", "width and height"]),
    heads=({"MODEL.N_HEAD": 5}, ["MODEL.DIM_MODEL 32", "divisible by MODEL.N_HEAD 5"]),
    sine=({"MODEL.DIM_MODEL": 30}, ["MODEL.DIM_MODEL 30", "sine"]),
    deconvs=({"MODEL.EXTRA.NUM_DECONV_KERNELS": [4, 4]}, ["NUM_DECONV_FILTERS lists 1", "NUM_DECONV_KERNELS 2"]),
    two_deconvs=(
        {
            "MODEL.EXTRA.NUM_DECONV_LAYERS": 2,
            "MODEL.EXTRA.NUM_DECONV_FILTERS": [32, 32],
            "MODEL.EXTRA.NUM_DECONV_KERNELS": [4, 4],
        },
        ["MODEL.EXTRA.NUM_DECONV_LAYERS must be 1", "not 2"],
    ),
    branches=(
        {"MODEL.NAME": "transpose_h", "MODEL.EXTRA.STAGE3.NUM_CHANNELS": [32, 64]},
        ["MODEL.EXTRA.STAGE3.NUM_CHANNELS must list 3", "[32, 64]"],
    ),
    wide=({"MODEL.DIM_MODEL": 10**9}, ["MODEL.DIM_MODEL must be 1 to 4,096, not 1000000000"]),
    deep=({"MODEL.ENCODER_LAYERS": 10**9}, ["MODEL.ENCODER_LAYERS must be 1 to 100, not 1000000000"]),
    large=({"MODEL.IMAGE_SIZE": [10**6, 64]}, ["MODEL.IMAGE_SIZE must be width and height, 4,096 at most"]),
    misspelt=({"MODEL.NAME": "transpos_r"}, ["MODEL.NAME", "'transpos_r'", "the nearest is transpose_r"]),
    depth=({"MODEL.EXTRA.NUM_LAYERS": 51}, ["MODEL.EXTRA.NUM_LAYERS", "51", "the nearest is 50"]),
    batch=({"TRAIN.BATCH_SIZE_PER_GPU": -4}, ["TRAIN.BATCH_SIZE_PER_GPU must be positive, not -4"]),
    less_than_none=({"DEBUG.SAVE_ATTENTION": -1}, ["DEBUG.SAVE_ATTENTION must not be negative, not -1"]),
    not_a_number=({"TRAIN.LR": float("nan")}, ["TRAIN.LR must be positive, not nan"]),
    seed=({"SEED": 2**63}, ["SEED must be", f"not {2**63}"]),
    pixels=({"DATASET.MAX_IMAGE_PIXELS": 0}, ["DATASET.MAX_IMAGE_PIXELS must be positive, not 0"]),
    gpu=({"GPUS": [-1]}, ["GPUS", "(-1,)"]),
    blur=({"TEST.BLUR_KERNEL": 4}, ["TEST.BLUR_KERNEL must be odd, and less than 4,096, not 4"]),
    every=({"TRAIN.CHECKPOINT_EVERY": -1}, ["TRAIN.CHECKPOINT_EVERY must not be negative, not -1"]),
    ema=({"TRAIN.EMA": 1.0}, ["TRAIN.EMA must be 0 or more and less than 1"]),
    clip=({"TRAIN.CLIP_GRAD": float("nan")}, ["TRAIN.CLIP_GRAD must not be negative, not nan"]),
    epochs=({"TRAIN.BEGIN_EPOCH": 9}, ["TRAIN.BEGIN_EPOCH 9 must be less than END_EPOCH 1"]),
    momentum=(
        {"TRAIN.OPTIMIZER": "sgd", "TRAIN.NESTEROV": True, "TRAIN.MOMENTUM": 0},
        ["TRAIN.NESTEROV needs a positive TRAIN.MOMENTUM"],
    ),
)
def values_do_not_fit(place: Place, values: dict[str, Any], words: list[str]) -> list:
    for key, value in values.items():
        put(place.config, key.split("."), value)
    return [f"{place.yaml}: ", *words]


@bad_configuration(
    "test",
    no_value=(["TRAIN.LR", "0.1", "TEST.USE_GT_BBOX"], ["TEST.USE_GT_BBOX has no value"]),
    unknown=(["TEST.USE_GT_BOX", "True"], ["TEST.USE_GT_BOX is not a", "the nearest is TEST.USE_GT_BBOX"]),
    wrong_type=(["TRAIN.LR", "fast"], ["TRAIN.LR must be a number, not 'fast'"]),
    nearly_python=(["TRAIN.LR", "{[]: 1}"], ["TRAIN.LR must be a number"]),
    section=(["MODEL", "transpose_r"], ["MODEL contains further keys"]),
)
def override(place: Place, options: list[str], words: list[str]) -> list:
    place.options = options
    return ["command line: ", *words]


@bad_configuration("test")
def override_does_not_fit_the_yaml(place: Place) -> list:
    place.options = ["MODEL.N_HEAD", "5"]
    return [f"{place.yaml} with the command line: ", "MODEL.N_HEAD 5"]


def put(config: dict, key: list[str], value: Any) -> None:
    for section in key[:-1]:
        config = config.setdefault(section, {})
    config[key[-1]] = value


@pytest.mark.parametrize("case", LIGHT, ids=lambda case: case.name)
def test_configuration(case: Case, tmp_path: Path, without_torch: dict[str, str]):
    case.check(Place(tmp_path, environment=without_torch), run_in_new_process)


def test_a_good_configuration_does_import_torch(tmp_path: Path, without_torch: dict[str, str]):
    outcome = Place(tmp_path, environment=without_torch).run("train")
    assert outcome.returncode == 1 and "torch was imported" in outcome.stderr


# ---- annotations ----------------------------------------------------------------------------------------------------


@bad_file("train")
def annotations_are_missing(place: Place) -> list:
    place.annotations.unlink()
    return [f"{place.annotations}: ", "No such file"]


@bad_file(
    "train",
    no_json=(lambda whole: b"images: none", ["not valid JSON"]),
    truncated=(lambda whole: whole[: len(whole) // 2], ["truncated"]),
)
def annotations_are_no_json(place: Place, change: Callable[[bytes], bytes], words: list[str]) -> list:
    place.annotations.write_bytes(change(place.annotations.read_bytes()))
    return [f"{place.annotations}: ", *words]


@bad_file("train", images=("images",), annotations=("annotations",), categories=("categories",))
def annotations_lack(place: Place, key: str) -> list:
    content = read(place.annotations)
    del content[key]
    write(place.annotations, content)
    return [f"{place.annotations}: ", f"'{key}'"]


@bad_file("train")
def nobody_has_keypoints(place: Place) -> list:
    content = read(place.annotations)
    for annotation in content["annotations"]:
        annotation.update(keypoints=[0] * 51, num_keypoints=0)
    write(place.annotations, content)
    return [f"{place.annotations}: ", "'person'", "keypoint"]


def shorten_keypoints(place: Place) -> int:
    """Leave the second person's last keypoint out; returns the annotation's id."""
    content = read(place.annotations)
    person = person_in(content)
    person["keypoints"] = person["keypoints"][:-3]
    write(place.annotations, content)
    return person["id"]


@bad_file("train")
def keypoints_of_wrong_length(place: Place) -> list:
    person = shorten_keypoints(place)
    return [f"{place.annotations}: 'keypoints' of annotation with id {person} ", "51 numbers", "48"]


@bad_file("test")
def truth_is_malformed_although_boxes_are_detected(place: Place) -> list:
    place.options = ["TEST.MODEL_FILE", str(place.weights), "TEST.USE_GT_BBOX", "False"]
    person = shorten_keypoints(place)
    return [f"{place.annotations}: ", f"annotation with id {person}", "51 numbers"]


@bad_file("train", all=(1,), half=(2,))
def boxes_are_fractions(place: Place, step: int) -> list:
    content = read(place.annotations)
    sizes = {image["id"]: (image["width"], image["height"]) * 2 for image in content["images"]}
    for annotation in content["annotations"][::step]:
        annotation["bbox"] = [
            x / side for x, side in zip(annotation["bbox"], sizes[annotation["image_id"]], strict=True)
        ]
    write(place.annotations, content)
    return [f"{place.annotations}: the boxes of ", "lie within one pixel, like fractions of the image", "in pixels"]


@bad_file("train")
def keypoints_are_fractions(place: Place) -> list:
    content = read(place.annotations)
    for annotation in content["annotations"]:
        annotation["keypoints"] = [x if i % 3 == 2 else x / 640 for i, x in enumerate(annotation["keypoints"])]
    write(place.annotations, content)
    return [f"{place.annotations}: the keypoints of ", "lie within one pixel, like fractions of the image", "in pixels"]


@bad_file("train")
def another_number_of_joints(place: Place) -> list:
    place.config["MODEL"]["NUM_JOINTS"] = 16
    return [f"{place.annotations}: ", "has 17 keypoints", "MODEL.NUM_JOINTS is 16", "set MODEL.NUM_JOINTS 17"]


@bad_file("test")
def keypoints_are_listed_in_another_order(place: Place) -> list:
    content = read(place.annotations)
    category = content["categories"][0]
    category["keypoints"] = [name.replace("_", " ").title() for name in sorted(category["keypoints"])]
    write(place.annotations, content)
    place.options = ["TEST.MODEL_FILE", str(place.weights)]
    return [f"{place.weights}: it has the keypoints of val2017 in another order, nose, left_eye, "]


# ---- images ----------------------------------------------------------------------------------------------------


def spoil_image(place: Place, change: Callable[[bytes], bytes] | None) -> Path:
    path = place.image()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    return path


@bad_file(
    "train",
    missing=(None, "No such file"),
    empty=(lambda whole: b"", "is empty"),
    truncated=(lambda whole: whole[: len(whole) // 2], "truncated"),
    no_image=(lambda whole: b"this is a letter\n" * 100, "not an image"),
)
def image_read_by_a_worker(place: Place, change: Callable[[bytes], bytes] | None, word: str) -> list:
    path = spoil_image(place, change)
    place.config["WORKERS"] = 1
    return [f"{path} (person {place.person()['id']}): ", word]


@bad_file("train")
def image_read_without_workers(place: Place) -> list:
    path = spoil_image(place, lambda whole: whole[: len(whole) // 2])
    return [f"{path} (person {place.person()['id']}): ", "truncated"]


@bad_file("train", folder=("jpg", ""), zip=("zip", ".zip"))
def all_images_are_missing(place: Place, data_format: str, ending: str) -> list:
    place.config["DATASET"]["DATA_FORMAT"] = data_format
    place.images.rename(place.folder / "elsewhere")
    return [f"{place.images}{ending}: ", "missing"]


# ---- detections -----------------------------------------------------------------------------------------------------


def use_detections(place: Place) -> None:
    place.options = ["TEST.MODEL_FILE", str(place.weights), "TEST.USE_GT_BBOX", "False"]


@bad_file("test")
def detections_are_missing(place: Place) -> list:
    use_detections(place)
    place.detections.unlink()
    return [f"{place.detections}: ", "TEST.COCO_BBOX_FILE", "No such file"]


@bad_file("test")
def detections_are_not_set(place: Place) -> list:
    use_detections(place)
    place.config["TEST"]["COCO_BBOX_FILE"] = ""
    return ["TEST.USE_GT_BBOX is false", "TEST.COCO_BBOX_FILE is not set"]


@bad_file("test")
def detections_are_no_list(place: Place) -> list:
    use_detections(place)
    write(place.detections, {"boxes": read(place.detections)})
    return [f"{place.detections}: ", "a detection file is a list of boxes, but this is a dict"]


def unlist(box: dict) -> None:
    box["image_id"] += 10**9


@bad_file("test")
def no_detection_is_of_a_listed_image(place: Place) -> list:
    use_detections(place)
    boxes = read(place.detections)
    for box in boxes:
        unlist(box)
    write(place.detections, boxes)
    return [f"{place.detections}: none of its {len(boxes)} person boxes", place.annotations, "TEST.COCO_BBOX_FILE"]


@bad_file("test")
def set_has_no_truth(place: Place) -> list:
    place.options = ["TEST.MODEL_FILE", str(place.weights), "DATASET.TEST_SET", "test-dev2017"]
    return ["test-dev2017 has no ground truth", "TEST.USE_GT_BBOX False", "TEST.COCO_BBOX_FILE"]


def test_some_boxes_of_unlisted_images_are_counted_and_skipped(tmp_path: Path, trained: Place, run_preloaded: Run):
    place = Place(tmp_path, trained=trained)
    use_detections(place)
    boxes = read(place.detections)
    for box in boxes[:3]:
        unlist(box)
    write(place.detections, boxes)
    outcome = place.run("test", run_preloaded)
    assert outcome.returncode == 0, outcome.stderr
    assert f"{place.detections}: {len(boxes) - 3} persons; left out: 3 of images not listed\n" in outcome.stdout
    assert f"{len(boxes) - 3} persons in 2 of 2 images" in outcome.stdout
    results = read(place.run_folder / "results" / "keypoints_val2017_results_0.json")
    assert {result["image_id"] for result in results} == set(TWO_IMAGES)


# ---- weights --------------------------------------------------------------------------------------------------------


def give_weights(place: Place, content: bytes) -> Path:
    path = place.folder / "weights.pth"
    path.write_bytes(content)
    place.options = ["TEST.MODEL_FILE", str(path)]
    return path


@bad_file("test")
def checkpoint_is_missing(place: Place) -> list:
    path = give_weights(place, b"")
    path.unlink()
    return [f"{path}: ", "No such file"]


@bad_file(
    "test",
    empty=(lambda whole: b"",),
    truncated=(lambda whole: whole[: len(whole) // 2],),
)
def checkpoint_is_none(place: Place, change: Callable[[bytes], bytes]) -> list:
    path = give_weights(place, change(place.weights.read_bytes()))
    return [f"{path}: the checkpoint is truncated or "]


@bad_file("test")
def checkpoint_of_other_widths(place: Place) -> list:
    path = give_weights(place, place.weights.read_bytes())
    place.options += ["MODEL.DIM_FEEDFORWARD", "48"]
    key = "global_encoder.layers.0.linear1"
    return [f"{path}: ", f"{key}.weight is 32x32, the model's 48x32", f"{key}.bias is 32, the model's 48"]


@bad_file("test")
def checkpoint_of_other_depth(place: Place) -> list:
    path = give_weights(place, place.weights.read_bytes())
    place.options += ["MODEL.ENCODER_LAYERS", "2"]
    return [f"{path}: ", "12 missing", "global_encoder.layers.1.self_attn.in_proj_weight"]


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def write_pickle(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file)


@pytest.mark.parametrize(
    ("tool", "save"),
    [("train", torch.save), ("test", torch.save), ("test", write_pickle)],
    ids=["train", "test", "plain_pickle"],
)
def test_code_in_a_checkpoint_does_not_run(
    tmp_path: Path, tool: str, save: Callable[[Any, Path], None], run_preloaded: Run
):
    place = Place(tmp_path)
    path, marker = tmp_path / "weights.pth", tmp_path / "the code ran"
    save({"conv1.weight": Trap(marker)}, path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert marker.exists(), "the trap works"
    marker.unlink()

    place.options = ["MODEL.PRETRAINED" if tool == "train" else "TEST.MODEL_FILE", str(path)]
    said = sentence(place.run(tool, run_preloaded))
    assert said.startswith(f"{path}: refused"), said
    assert not marker.exists()


@bad_file("test")
def nothing_is_trained_and_no_weights_are_named(place: Place) -> list:
    return [place.run_folder / "final_state.pth", "TEST.MODEL_FILE is not set", "tools/train.py"]


@bad_file("train")
def imagenet_weights_are_missing(place: Place) -> list:
    path = place.folder / "models" / "resnet50-19c8e357.pth"
    place.config["MODEL"]["PRETRAINED"] = str(path)
    return [f"{path}: ", "https://download.pytorch.org/models/resnet50-19c8e357.pth", "MODEL.PRETRAINED ''"]


@bad_file("train")
def imagenet_weights_of_another_network(place: Place) -> list:
    path = place.folder / "imagenet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    place.config["MODEL"]["PRETRAINED"] = str(path)
    return [f"{path}: ", "conv1.weight has shape 64x3x3x3", "64x3x7x7"]


# ---- folders, processes, resuming -----------------------------------------------------------------------------------


@bad_file("train", model_dir=("--model-dir",), log_dir=("--log-dir",))
def folder_under_a_file(place: Place, option: str) -> list:
    file = place.folder / "occupied"
    file.write_text("a file\n")
    place.options = [option, str(file / "inside")]
    return [file / "inside", "Not a directory", option]


def lock(folder: Path) -> None:
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write everywhere")


@bad_file("train", model_dir=("--model-dir",), log_dir=("--log-dir",))
def folder_is_not_writable(place: Place, option: str) -> list:
    folder = place.folder / "locked"
    folder.mkdir()
    lock(folder)
    place.options = [option, str(folder)]
    return [folder, "Permission denied", option]


@bad_file("train")
def run_folder_is_not_writable(place: Place) -> list:
    place.run_folder.mkdir(parents=True)
    lock(place.run_folder)
    return [place.run_folder, "not writable", "--model-dir"]


@bad_file("train")
def processes_do_not_divide_the_gpus(place: Place) -> list:
    place.config["GPUS"] = [0, 1]
    place.environment = {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}
    return ["torchrun started 3 processes", "the 2 entries of GPUS", "use --nproc_per_node 1 or 2"]


def continue_run(place: Place) -> Path:
    """A copy of the trained place's run, to be continued; returns its training state."""
    assert place.trained is not None
    shutil.copytree(place.trained.run_folder, place.run_folder)
    place.config["AUTO_RESUME"] = True
    return place.run_folder / "checkpoint.pth"


@bad_file("train")
def folder_is_used(place: Place) -> list:
    continue_run(place)
    place.config["AUTO_RESUME"] = False
    return [place.run_folder, "checkpoint.pth", "final_state.pth", "AUTO_RESUME True", "--model-dir"]


@bad_file("train")
def resumed_with_another_configuration(place: Place) -> list:
    path = continue_run(place)
    place.options = ["TRAIN.LR", "0.002", "MODEL.DROPOUT", "0.2", "TRAIN.END_EPOCH", "2", "PRINT_FREQ", "7"]
    changes = ["MODEL.DROPOUT: 0.1 -> 0.2; ", "TRAIN.LR: 0.0001 -> 0.002; ", "TRAIN.END_EPOCH: 1 -> 2)"]
    return [path, *changes, "TRAIN.RESUME_CHANGED True"]


@bad_file("train")
def resumed_from_truncated_states(place: Place) -> list:
    path = continue_run(place)
    both = path, path.with_name("checkpoint_previous.pth")
    for state in both:
        state.write_bytes(state.read_bytes()[:5000])
    return [*(f"{state}: the checkpoint is truncated" for state in both), "no state is left"]


@bad_file("train")
def resumed_from_mere_weights(place: Place) -> list:
    path = continue_run(place)
    shutil.copy(place.weights, path)
    return [f"{path}: not a training state", "move it away"]


@bad_file(
    "train",
    optimizer=(["TRAIN.OPTIMIZER", "sgd"],),
    positions=(["MODEL.POS_EMBEDDING", "learnable"],),
)
def resumed_with_another(place: Place, options: list[str]) -> list:
    path = continue_run(place)
    place.options = [*options, "TRAIN.RESUME_CHANGED", "True", "TRAIN.END_EPOCH", "2"]
    return [f"{path}: its optimizer state", options[0], "--model-dir"]


@bad_file("train")
def training_diverges(place: Place) -> list:
    place.options = ["TRAIN.LR", "1e12", "TRAIN.END_EPOCH", "2", "TRAIN.VALIDATE_EVERY", "2"]
    return ["epoch 2/2 step 1: the loss is nan", "diverged at the learning rate 5e+11; set a smaller TRAIN.LR"]


@bad_file("train")
def training_has_diverged_when_it_is_validated(place: Place) -> list:
    place.options = ["TRAIN.LR", "1e12"]
    return ["4 of 4 predicted persons", "NaN or infinite", "the training has diverged (TRAIN.LR)"]


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_preloaded: Run) -> Place:
    """The unspoilt set-up, trained; nothing in it is a mistake, so a case's sentence is about what the case spoils."""
    place = Place(tmp_path_factory.mktemp("trained"))
    outcome = place.run("train", run_preloaded)
    assert outcome.returncode == 0, outcome.stderr
    return place


@pytest.mark.parametrize("case", HEAVY, ids=lambda case: case.name)
def test_files(case: Case, tmp_path: Path, trained: Place, run_preloaded: Run):
    case.check(Place(tmp_path, trained=trained), run_preloaded)


def test_preloading_changes_nothing(tmp_path: Path, run_preloaded: Run):
    place = Place(tmp_path)
    place.config["WORKERS"] = 1
    image = spoil_image(place, lambda whole: whole[:1000])
    anew, preloaded = place.run("train"), place.run("train", run_preloaded)
    assert str(image) in sentence(anew)
    assert (anew.returncode, anew.stderr) == (preloaded.returncode, preloaded.stderr)


FAULTY = "import sys; sys.path.insert(0, {tools!r}); from transpose import cli; cli.run(lambda: {fault})"


@pytest.mark.parametrize(
    ("fault", "name"),
    [("1 / 0", "ZeroDivisionError"), ("int('x')", "ValueError"), ("open('/no/file')", "FileNotFound")],
)
def test_a_fault_of_the_program_keeps_its_traceback(fault: str, name: str):
    code = FAULTY.format(tools=str(ROOT / "tools"), fault=fault)
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("Traceback") and name in outcome.stderr
    assert "error: " not in outcome.stderr.splitlines()


def test_opencv_without_its_system_libraries(tmp_path: Path):
    (tmp_path / "fake").mkdir()
    missing = "libGL.so.1: cannot open shared object file"
    (tmp_path / "fake" / "cv2.py").write_text(f"raise ImportError({missing!r}, name='cv2')\n")
    said = sentence(Place(tmp_path, environment={"PYTHONPATH": str(tmp_path / "fake")}).run("train"))
    assert missing in said and "opencv-python-headless" in said


# ---- further mistakes, at the functions that find them: what a tool makes of a UserError is tested above ------------


def person_in(content: dict) -> dict:
    """The second annotation with keypoints."""
    return [a for a in content["annotations"] if a["num_keypoints"]][1]


def drop(item: dict, key: str) -> None:
    del item[key]


ANNOTATION_MISTAKES = {
    "list_at_the_top": (lambda c: [c], "not a COCO annotation file: it has no list 'images'"),
    "images_no_list": (
        lambda c: c.update(images={"1": c["images"]}),
        "not a COCO annotation file: it has no list 'images'",
    ),
    "image_is_text": (
        lambda c: c["images"].insert(1, "000000021167.jpg"),
        "image number 2 must be a JSON object, not '000000021167.jpg'",
    ),
    "image_without_name": (lambda c: drop(c["images"][0], "file_name"), "image with id 21167 has no 'file_name'"),
    "image_id_is_text": (lambda c: c["images"][1].update(id="x"), "'id' of image with id x must be a whole number"),
    "image_width_is_none": (
        lambda c: c["images"][0].update(width=None),
        "'width' of image with id 21167 must be a whole",
    ),
    "no_category": (lambda c: c.update(categories=[]), "its list 'categories' is empty"),
    "no_image": (lambda c: c.update(images=[]), "its list 'images' is empty"),
    "no_annotation": (lambda c: c.update(annotations=[]), "its list 'annotations' is empty"),
    "no_person_category": (
        lambda c: c.update(categories=[{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]),
        "its categories are 3 cat, 4 dog: it is not clear which one to use; set DATASET.CATEGORY to a name or an id",
    ),
    "category_id_is_text": (
        lambda c: c["annotations"][3].update(category_id="1"),
        "'category_id' of annotation number 4",
    ),
    "crowd_is_text": (lambda c: c["annotations"][3].update(iscrowd="0"), "must be 0 or 1, not '0'"),
    "area_is_text": (
        lambda c: c["annotations"][3].update(area="9", keypoints=[]),  # nobody to train on, and yet told
        "must be a number, not '9'",
    ),
    "annotation_without_id": (lambda c: drop(c["annotations"][1], "id"), "annotation number 2 has no 'id'"),
    "annotation_is_null": (
        lambda c: c["annotations"].insert(0, None),
        "annotation number 1 must be a JSON object, not None",
    ),
    "keypoints_is_a_number": (
        lambda c: person_in(c).update(keypoints=5),
        "'keypoints' of annotation with id {id} must",
    ),
    "image_name_is_none": (
        lambda c: c["images"][0].update(file_name=None),
        "'file_name' of image with id 21167 must be the name of a file, not None",
    ),
    "image_name_with_a_zero_byte": (
        lambda c: c["images"][0].update(file_name="a\0.jpg"),
        "'file_name' of image with id 21167 must be the name of a file",
    ),
    "category_id_is_a_list": (
        lambda c: c["categories"][0].update(id=[1]),
        "'id' of category with id [1] must be a whole number, not [1]",
    ),
    "keypoints_are_numbers_as_text": (
        lambda c: person_in(c).update(keypoints=["1", "2", "2"] * 17),
        "'keypoints' of annotation with id {id} has a value that is not a number",
    ),
    "box_of_huge_numbers": (
        lambda c: person_in(c).update(bbox=[1e30, 1, 1, 1]),
        "'bbox' of annotation with id {id} has a value that is not a number, or too large",
    ),
    "a_long_wrong_value_is_cut": (
        lambda c: person_in(c).update(area="y" * 999),
        "'area' of annotation with id {id} must be a number, not '" + "y" * 27 + "..." + "y" * 28 + "'",
    ),
    "keypoints_hold_null": (
        lambda c: person_in(c).update(keypoints=[1, 2, None] * 17),
        "'keypoints' of annotation with id {id} has a value that is not a number",
    ),
    "keypoints_hold_text": (
        lambda c: person_in(c).update(keypoints=["left", 2, 2] * 17),
        "'keypoints' of annotation with id {id} has a value that is not a number",
    ),
    "box_of_three": (
        lambda c: person_in(c).update(bbox=[1, 2, 3]),
        "'bbox' of annotation with id {id} must list 4 numbers, not 3",
    ),
    "box_missing": (lambda c: drop(person_in(c), "bbox"), "annotation with id {id} has no 'bbox'"),
    "area_missing": (lambda c: drop(person_in(c), "area"), "annotation with id {id} has no 'area'"),
    "image_as_text": (
        lambda c: person_in(c).update(image_id="21167"),
        "'image_id' of annotation with id {id} must be a whole number, not '21167'",
    ),
    "image_as_list": (
        lambda c: person_in(c).update(image_id=[21167]),
        "annotation with id {id} must be a whole number",
    ),
    "all_of_another_category": (
        lambda c: c["categories"][0].update(id=7),
        "none of its 4 annotations has the category_id 7 that 'person' has",
    ),
    "all_are_crowds": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"]] and None,
        "every annotation of category 'person' with a labelled keypoint is a crowd",
    ),
    "boxes_outside": (
        lambda c: [a.update(bbox=[9000, 9000, 10, 10]) for a in c["annotations"]] and None,
        "no annotated person has a box inside its image",
    ),
}


@pytest.mark.parametrize(("change", "says"), ANNOTATION_MISTAKES.values(), ids=ANNOTATION_MISTAKES.keys())
def test_malformed_annotations(tmp_path: Path, change: Callable[[dict], list | None], says: str):
    place = Place(tmp_path)
    content = read(place.annotations)
    culprit = person_in(content)["id"]
    write(place.annotations, change(content) or content)
    with pytest.raises(UserError) as caught:
        coco.annotated_instances(coco.read_annotations(place.annotations))
    assert str(caught.value).startswith(f"{place.annotations}: ")
    assert says.format(id=culprit) in str(caught.value)


TRUTH_MISTAKES = {
    "crowd_is_none": ({"iscrowd": None}, "'iscrowd' of annotation with id {id} must be 0 or 1, not None"),
    "crowd_is_text": ({"iscrowd": "no"}, "'iscrowd' of annotation with id {id} must be 0 or 1, not 'no'"),
    "number_is_a_list": ({"num_keypoints": []}, "'num_keypoints' of annotation with id {id} must be a whole number"),
    "negative_area": ({"area": -1}, "'area' of annotation with id {id} must not be negative"),
    "box_of_text": ({"bbox": ["1", "2", "3", "4"]}, "'bbox' of annotation with id {id} has a value that is not a num"),
}


@pytest.mark.parametrize(("values", "says"), TRUTH_MISTAKES.values(), ids=TRUTH_MISTAKES.keys())
def test_what_pycocotools_would_fail_on(tmp_path: Path, values: dict[str, Any], says: str):
    place = Place(tmp_path)
    content = read(place.annotations)
    culprit = person_in(content)
    culprit.update(values)
    write(place.annotations, content)
    with pytest.raises(UserError) as caught:
        coco.check_truth(coco.read_annotations(place.annotations))
    assert str(caught.value).startswith(f"{place.annotations}: ")
    assert says.format(id=culprit["id"]) in str(caught.value)


def test_a_detected_box_that_has_no_crop(tmp_path: Path):
    place = Place(tmp_path)
    boxes = read(place.detections)
    boxes[3]["bbox"] = [100, 100, 0.8, 0.8]
    write(place.detections, boxes)
    persons = detections.detected_instances(place.detections, coco.read_annotations(place.annotations), 17, 0.0)
    with pytest.raises(UserError, match=r"0000000\d+\.jpg: the box .* of person 3 is too small or too far"):
        TopDownDataset(persons, ImageReader(place.images), COCO, (48, 64), (12, 16))


def test_not_a_number_in_a_box(tmp_path: Path):
    place = Place(tmp_path)
    person = place.person()
    text = place.annotations.read_text()
    place.annotations.write_text(text.replace(json.dumps(person["bbox"]), "[NaN, 1, 2, 3]"))
    with pytest.raises(UserError, match=rf'{place.annotations}: .* holds NaN, which is no number.*"bbox": \[NaN\)'):
        coco.read_annotations(place.annotations)
    place.annotations.write_text(text, encoding="utf-8-sig")  # as some editors on Windows do
    assert len(coco.read_annotations(place.annotations).table) == len(json.loads(text)["annotations"])
    place.annotations.write_text(text, encoding="utf-16")  # as PowerShell's > does
    with pytest.raises(UserError, match=f"{place.annotations}: .* is text in UTF-16 or UTF-32; save it as UTF-8"):
        coco.read_annotations(place.annotations)


DETECTION_MISTAKES = {
    "is_text": (lambda boxes: boxes.insert(4, "box"), "detection number 5 must be a JSON object, not 'box'"),
    "without_score": (lambda boxes: drop(boxes[4], "score"), "detection number 5 has no 'score'"),
    "score_is_text": (lambda boxes: boxes[4].update(score="0.9"), "'score' of detection number 5 must be a number"),
    "box_of_three": (lambda boxes: boxes[4]["bbox"].pop(), "'bbox' of detection number 5 must list 4 numbers, not 3"),
    "image_as_text": (lambda boxes: boxes[4].update(image_id="1"), "'image_id' of detection number 5 must be a whole"),
    "image_as_list": (lambda boxes: boxes[4].update(image_id=[1]), "'image_id' of detection number 5 must be a whole"),
    "all_scores_low": (lambda boxes: [box.update(score=0.1) for box in boxes] and None, "scored 0.5"),
    "other_category": (
        lambda boxes: [box.update(category_id=7) for box in boxes] and None,
        "boxes has the category_id 1 that 'person' has in",
    ),
    "category_as_text": (lambda boxes: boxes[4].update(category_id="1"), "'category_id' of detection number 5 must be"),
    "fractions": (
        lambda boxes: [box.update(bbox=[side / 1000 for side in box["bbox"]]) for box in boxes[1:]] and None,
        "lie within one pixel, like fractions of the image; give them in pixels",
    ),
    "no_boxes": (lambda boxes: boxes.clear(), "it lists no box"),
}


@pytest.mark.parametrize(("change", "says"), DETECTION_MISTAKES.values(), ids=DETECTION_MISTAKES.keys())
def test_malformed_detections(tmp_path: Path, change: Callable[[list], Any], says: str):
    place = Place(tmp_path)
    boxes = read(place.detections)
    # A box of another category stands first and counts.
    boxes.insert(0, boxes[0] | {"category_id": 18})
    change(boxes)
    write(place.detections, boxes)
    with pytest.raises(UserError) as caught:
        detections.detected_instances(place.detections, coco.read_annotations(place.annotations), 17, 0.5)
    assert str(caught.value).startswith(f"{place.detections}: ") and says in str(caught.value)


def zip_images(place: Place, folder: str = "") -> Path:
    path = place.images.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in sorted(place.images.iterdir()):
            archive.write(image, folder + image.name)
    return path


def test_zip_of_images(tmp_path: Path):
    place = Place(tmp_path)
    whole = zip_images(place).read_bytes()
    first = place.image()
    read_first = partial(ImageReader(place.images.with_suffix(".zip")).read, first.name, "person 5")
    assert read_first().tobytes() == ImageReader(place.images).read(first.name, "person 5").tobytes()

    path = zip_images(place, "val2017/")
    member = f"{path / first.name} (person 5): "
    says = {
        path.read_bytes(): f"{member}the zip has no such member at its root",
        whole[:-100]: f"{path}: cannot read the zip",
        b"": f"{path}: cannot read the zip",
    }
    data_of_first = whole.index(first.name.encode()) + len(first.name) + 1000
    says[whole[:data_of_first] + b"\xff" * 1000 + whole[data_of_first + 1000 :]] = f"{member}cannot read the zip"
    for content, begin in says.items():
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            ImageReader(path).read(first.name, "person 5")
        assert str(caught.value).startswith(begin)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("ending", "says"), [(".jpg", "the JPEG is truncated"), (".png", "not an image")])
def test_images_cut_anywhere(tmp_path: Path, kept: float, ending: str, says: str):
    image = Place(tmp_path).image()
    path = tmp_path / f"cut{ending}"
    whole = cv2.imencode(ending, cv2.imread(str(image)))[1].tobytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=rf"{path} \(person 5\): {says}"):
        ImageReader(tmp_path).read(path.name, "person 5")


@pytest.mark.parametrize("between", [b"\xff\xff", b"\x00\x00"])
def test_bytes_between_the_segments_of_a_jpeg(tmp_path: Path, between: bytes):
    image = Place(tmp_path).image()
    whole = image.read_bytes()
    second = 4 + int.from_bytes(whole[4:6], "big")
    image.write_bytes(whole[:second] + between + whole[second:])
    pixels = ImageReader(image.parent).read(image.name, "person 5")
    image.write_bytes(whole)
    assert (pixels == ImageReader(image.parent).read(image.name, "person 5")).all()


NO_CHECKPOINTS = {
    "text": (lambda path: path.write_text("404: Not Found\n"), "truncated or no checkpoint at all"),
    "folder": (Path.mkdir, "Is a directory"),
    "list": (lambda path: torch.save([torch.zeros(3)], path), "it contains a list"),
    "old_format_truncated": (lambda path: cut(save_in_the_old_format(path)), "truncated or no checkpoint at all"),
    "object": (lambda path: torch.save({"model": torch.nn.Linear(2, 2)}, path), "refused"),
}


def save_in_the_old_format(path: Path) -> Path:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path, _use_new_zipfile_serialization=False)
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(("make", "says"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS.keys())
def test_no_checkpoint(tmp_path: Path, make: Callable[[Path], Any], says: str):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UserError) as caught:
        checkpoint.read(path)
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)


def test_a_checkpoint_with_other_things_in_it_names_what_is_missing():
    content = {"model": {"conv1.weight": torch.zeros(3)}, 5: torch.zeros(2), "conv1.weight": "lost", "epoch": 3}
    with pytest.raises(UserError, match=r"odd\.pth: not a checkpoint of this model: .* missing .*conv1\.weight"):
        load_weights(TransPoseR(num_layers=18), unwrap(content, "odd.pth"), "odd.pth")
