"""docs/custom-dataset.md holds: the kites are what it says, and any layout of the files is read.

Elsewhere: its commands (test_pages_run), files of skeletons and pairs told by names (test_skeleton), starting from
weights of other keypoints (test_finetuning), other malformed annotations (test_bad_input).
"""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.goldens import ROOT
from yacs.config import CfgNode

from transpose.build.data import build_training_data, shared_skeleton, skeleton_of
from transpose.build.evaluation import build_evaluation
from transpose.build.model import build_model, load_start_weights
from transpose.build.optim import build_targets
from transpose.config.load import load_config
from transpose.dataset import coco
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import Augmentation, TopDownDataset
from transpose.errors import UserError
from transpose.evaluation import nms
from transpose.evaluation.coco_eval import average_precision
from transpose.pose import skeleton

DOC = (ROOT / "docs" / "custom-dataset.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
COMMANDS = [content for language, content in BLOCKS if language == "sh"]
KITES = ROOT / "experiments" / "kites" / "kites.yaml"
SKELETON = KITES.with_name("skeleton.yaml")
TOP, LEFT, RIGHT, TAIL, CENTRE = range(5)
CLONED = ("lib", "tools", "docs", "experiments")


def run(clone: Path, command: str) -> str:
    """The output of a command of the doc, run from the clone's root, that must succeed."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    outcome = subprocess.run(["bash", "-ec", command], cwd=clone, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, in which the doc's first steps have been taken with fewer images."""
    folder = tmp_path_factory.mktemp("clone")
    for name in CLONED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    generate, split = COMMANDS[:2]
    run(folder, f"{generate.strip()} --scenes 10")
    run(folder, split)
    return folder


@pytest.fixture
def kites(clone: Path, tmp_path: Path) -> Path:
    """A copy of the small set's annotations to spoil, beside the images."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "val"):
        shutil.copy(clone / "data" / "kites" / f"{name}.json", data)
    (data / "photos").symlink_to(clone / "data" / "kites" / "photos", target_is_directory=True)
    return data


def configure(data: Path, *overrides: str) -> CfgNode:
    return load_config(KITES, ["DATASET.ROOT", str(data), *overrides])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def change(path: Path, what: Callable[[dict], Any]) -> None:
    content = read(path)
    what(content)
    path.write_text(json.dumps(content))


def kites_of(path: Path) -> coco.Instances:
    return coco.annotated_instances(coco.read_annotations(path, num_joints=5, category_name="kite"))


def handedness(keypoints: np.ndarray) -> np.ndarray:
    """(N) the sign tells on which side of the line from tail to top a kite's left wing is."""
    spar, wing = keypoints[:, TOP] - keypoints[:, TAIL], keypoints[:, LEFT] - keypoints[:, RIGHT]
    return np.sign(spar[:, 0] * wing[:, 1] - spar[:, 1] * wing[:, 0])


# ---- the kites ------------------------------------------------------------------------------------------------------


def test_the_set_is_what_the_doc_says(clone: Path):
    folder = clone / "data" / "kites"
    content = read(folder / "kites.json")
    assert {category["name"]: category["id"] for category in content["categories"]} == {"balloon": 3, "kite": 7}
    assert {annotation["category_id"] for annotation in content["annotations"]} == {3, 7}
    names = {image["file_name"]: image for image in content["images"]}
    assert set(names) == {path.name for path in (folder / "photos").iterdir()}
    assert "kite 07-a.png" in names and len(names) == 20
    for name, image in names.items():
        assert cv2.imread(str(folder / "photos" / name)).shape == (image["height"], image["width"], 3)

    persons = kites_of(folder / "kites.json")
    x, y, width, height = np.hsplit(persons.boxes, 4)
    inside = (persons.keypoints >= np.hstack([x, y])[:, None] - 1).all(-1)
    inside &= (persons.keypoints <= np.hstack([x + width, y + height])[:, None] + 1).all(-1)
    assert inside[persons.visible > 0].all()
    whole = persons.visible.all(1)
    assert whole.sum() > 20 and not whole.all(), "some kites reach out of the image"
    assert (handedness(persons.keypoints[whole]) > 0).all()
    values = {v for a in content["annotations"] if a["category_id"] == 7 for v in a["keypoints"][2::3]}
    assert values == {0, 1, 2}


def test_the_held_back_images_are_of_other_scenes(clone: Path):
    train, val = (read(clone / "data" / "kites" / f"{name}.json")["images"] for name in ("train", "val"))
    scenes = [{image["file_name"].split("-")[0] for image in images} for images in (train, val)]
    assert len(train) == 16 and len(val) == 4 and not scenes[0] & scenes[1]


def test_the_generator_repeats_itself_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    main = runpy.run_path(str(ROOT / "docs" / "make_kites.py"))["main"]

    def make(folder: str, seed: str) -> bytes:
        command = ["make_kites.py", str(tmp_path / folder), "--scenes", "1", "--seed", seed]
        monkeypatch.setattr(sys, "argv", command)
        main()
        return (tmp_path / folder / "kites.json").read_bytes()

    one = make("one", "0")
    assert make("same", "0") == one != make("other", "1")
    with pytest.raises(SystemExit) as exit:
        make("one", "1")
    assert exit.value.code == 2 and "is not empty" in capsys.readouterr().err
    assert (tmp_path / "one" / "kites.json").read_bytes() == one


# ---- the skeleton ---------------------------------------------------------------------------------------------------


def test_the_category_says_what_the_skeleton_file_says(kites: Path):
    told = skeleton_of(
        configure(kites, "DATASET.SKELETON", ""),
        coco.read_annotations(kites / "val.json", num_joints=5, category_name="kite"),
    )
    written = skeleton.read(SKELETON)
    for part in ("names", "pairs", "limbs"):
        assert getattr(told, part) == getattr(written, part)
    assert told.pairs == ((LEFT, RIGHT),)


def crops(data: Path, kind: skeleton.Skeleton, flip: bool) -> list[dict]:
    """The crops of the kites that can be seen whole; all flipped if asked for."""
    persons = kites_of(data / "val.json")
    persons = coco.select(persons, persons.visible.all(1))
    chosen = Augmentation(flip=flip, scale=0, rotation=0, half_body=0)
    reader = ImageReader(data / "photos")
    samples = TopDownDataset(persons, reader, kind, (64, 64), (16, 16), augmentation=chosen, seed=1)
    plain = TopDownDataset(persons, reader, kind, (64, 64), (16, 16))
    pairs = [(samples[epoch, i], plain[i]) for epoch in range(6) for i in range(len(plain))]
    return [sample for sample, other in pairs if flip != np.array_equal(sample["image"], other["image"])]


def test_a_flip_keeps_left_and_right_and_a_wrong_pair_does_not(kites: Path):
    kind = skeleton.read(SKELETON)
    mirrored = crops(kites, kind, flip=True)
    assert len(mirrored) > 5
    assert (handedness(np.stack([sample["keypoints"] for sample in mirrored])) > 0).all()
    wrong = skeleton.from_mapping(skeleton.to_mapping(kind) | {"pairs": []}, "wrong")
    assert wrong.flip_order.tolist() == [0, 1, 2, 3, 4] and kind.flip_order.tolist() == [0, 2, 1, 3, 4]
    assert (handedness(np.stack([sample["keypoints"] for sample in crops(kites, wrong, flip=True)])) < 0).all()


def test_loss_weights_sigmas_and_flip_test_are_the_skeletons(kites: Path):
    cfg = configure(kites)
    device = torch.device("cpu")
    evaluation = build_evaluation(cfg, device)
    assert evaluation.sigmas == (0.05, 0.05, 0.05, 0.05, 0.04)
    assert evaluation.crops.skeleton.flip_order.tolist() == [0, 2, 1, 3, 4]
    batch = {"keypoints": torch.full((1, 5, 2), 8.0), "visible": torch.ones(1, 5)}
    maps, weight = build_targets(cfg, evaluation.crops.skeleton, device)(batch)
    assert maps.shape == (1, 5, 16, 16) and weight.tolist()[0] == pytest.approx([1.2, 1.2, 1.2, 1.2, 1])


def test_impossible_half_body_crops_are_reported(kites: Path, caplog: pytest.LogCaptureFixture):
    build_training_data(configure(kites))
    assert "no half-body crops" not in caplog.text
    build_training_data(configure(kites, "DATASET.NUM_JOINTS_HALF_BODY", "8"))
    assert "NUM_JOINTS_HALF_BODY 8 is not less than the 5 keypoints: no half-body crops" in caplog.text


def test_numbered_keypoints_get_the_skeletons_names(kites: Path):
    change(kites / "val.json", lambda c: c["categories"][1].update(keypoints=list("12345")))
    annotations = coco.read_annotations(kites / "val.json", num_joints=5, category_name="kite")
    assert skeleton_of(configure(kites), annotations).names[LEFT] == "left_wing"


# ---- the files ------------------------------------------------------------------------------------------------------


def move_to_folders(data: Path, ending: str, place: str, file_name: str) -> None:
    """Images with another ending in another folder, and their names in the annotations."""
    for name in ("train", "val"):
        content = read(data / f"{name}.json")
        for image in content["images"]:
            pixels = cv2.imread(str(data / "photos" / image["file_name"]))
            image["file_name"] = file_name.format(Path(image["file_name"]).stem) + ending
            path = data / place.replace("{set}", name) / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(ending, pixels)[1].tobytes())
        (data / f"{name}.json").write_text(json.dumps(content))
    (data / "photos").unlink()


@pytest.mark.parametrize(
    ("ending", "place", "file_name"),
    [
        (".bmp", "images/{set}", "{}"),
        (".tif", "Bilder für {set}", "{}"),
        (".png", ".", "2024/öst {}"),
        (".jpg", "{set}/jpg", "{}.final"),
    ],
)
def test_images_of_any_name_in_any_folder(kites: Path, ending: str, place: str, file_name: str):
    before = build_evaluation(configure(kites), torch.device("cpu")).crops
    wanted = [before[i]["image"] for i in (0, len(before) - 1)]
    move_to_folders(kites, ending, place, file_name)
    cfg = configure(kites, "DATASET.IMAGES", "" if place == "images/{set}" else place)
    after = build_evaluation(cfg, torch.device("cpu")).crops
    for old, i in zip(wanted, (0, len(after) - 1), strict=True):
        difference = np.abs(after[i]["image"].astype(int) - old)
        assert difference.max() == 0 if ending != ".jpg" else difference.mean() < 8
    loader, _ = build_training_data(cfg)
    assert next(iter(loader))["image"].shape == (8, 64, 64, 3)


def test_images_in_a_zip(kites: Path, tmp_path: Path):
    shutil.make_archive(str(kites / "val"), "zip", kites / "photos")
    zipped, folder = (
        build_evaluation(configure(kites, "DATASET.IMAGES", images), torch.device("cpu")).crops
        for images in ("{set}.zip", "photos")
    )
    assert np.array_equal(zipped[0]["image"], folder[0]["image"])


def test_annotations_are_found_where_cvat_puts_them(kites: Path):
    (kites / "annotations").mkdir()
    for name in ("train", "val"):
        (kites / f"{name}.json").rename(kites / "annotations" / f"person_keypoints_{name}.json")
    cfg = configure(kites, "DATASET.ANNOTATIONS", "")
    assert len(build_evaluation(cfg, torch.device("cpu")).crops) > 5


def test_one_file_for_training_and_testing_is_refused(kites: Path):
    with pytest.raises(UserError, match=r"DATASET\.ANNOTATIONS train\.json is one file for TRAIN_SET train"):
        configure(kites, "DATASET.ANNOTATIONS", "train.json")
    configure(kites, "DATASET.ANNOTATIONS", "train.json", "DATASET.TEST_SET", "train")


@pytest.mark.parametrize("first_id", [0, 1])
def test_an_annotation_with_the_id_0_counts(kites: Path, first_id: int):
    """pycocotools takes a match with it for none."""

    def number(content: dict) -> None:
        for i, annotation in enumerate(a for a in content["annotations"] if a["category_id"] == 7):
            annotation["id"] = first_id + i
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7]

    change(kites / "val.json", number)
    truth = coco.read_annotations(kites / "val.json", num_joints=5, category_name="kite")
    perfect = [
        {"image_id": a["image_id"], "category_id": 7, "keypoints": a["keypoints"], "score": 1.0}
        for a in truth.as_dicts()
    ]
    assert average_precision(perfect, truth, [0.05] * 5)["AP"] == pytest.approx(1)


# ---- what is refused: the sentences stand in the doc ----------------------------------------------------------------


def kite_in(content: dict) -> dict:
    return next(a for a in content["annotations"] if a["category_id"] == 7)


def swap_names(content: dict) -> None:
    names = content["categories"][1]["keypoints"]
    names[TOP], names[LEFT] = names[LEFT], names[TOP]


def empty_boxes(content: dict) -> None:
    for annotation in content["annotations"]:
        annotation["area"] = 0


def text_ids(content: dict) -> None:
    for image in content["images"]:
        image["id"] = Path(image["file_name"]).stem


NOTHING: Callable[[dict], Any] = lambda content: None  # noqa: E731
# What the doc's table says, the mistake in val.json, and keys behind the command.
REFUSED: dict[str, tuple[Callable[[dict], Any], list[str]]] = {
    "none is named": (NOTHING, ["DATASET.CATEGORY", "kit"]),
    "set MODEL.NUM_JOINTS 5": (NOTHING, ["MODEL.NUM_JOINTS", "17"]),
    "must list 15 numbers": (lambda c: kite_in(c).update(keypoints=[1, 1, 2] * 4), []),
    "must be a whole number, not 'kite 01-a'": (text_ids, []),
    "has no 'area'": (lambda c: kite_in(c).pop("area"), []),
    "a box inside its image and a positive area": (empty_boxes, []),
    "lists 'left_wing' there": (swap_names, []),
    "both must list the same in the same order": (swap_names, ["DATASET.SKELETON", ""]),
    "cannot read the annotation file": (NOTHING, ["DATASET.TEST_SET", "valid"]),
    "the images of DATASET set": (NOTHING, ["DATASET.IMAGES", "images"]),
    "cannot read the image": (lambda c: c["images"][0].update(file_name="kite.png"), []),
    "has no ground truth": (NOTHING, ["DATASET.TEST_SET", "test"]),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_the_sentences_that_the_doc_explains(kites: Path, sentence: str):
    assert f"| `{sentence}" in DOC
    spoil, overrides = REFUSED[sentence]
    change(kites / "val.json", spoil)
    with pytest.raises(UserError) as error:
        cfg = configure(kites, *overrides)
        loader, _ = build_training_data(cfg)
        evaluation = build_evaluation(cfg, torch.device("cpu"))
        shared_skeleton(loader, evaluation)
        list(evaluation.loader)
    assert sentence in str(error.value)


def test_every_sentence_of_the_docs_table_is_tried():
    table = DOC.split("| the sentence contains |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == list(REFUSED)


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_short_run_leaves_everything_for_five_keypoints(clone: Path):
    folders = "--model-dir output --log-dir log"
    debug = "DEBUG.DEBUG True " + " ".join(
        f"DEBUG.SAVE_{what} True" for what in ("BATCH_IMAGES_GT", "BATCH_IMAGES_PRED", "HEATMAPS_GT", "HEATMAPS_PRED")
    )
    train = f"export OMP_NUM_THREADS=1; python tools/train.py --cfg experiments/kites/kites.yaml {folders}"
    said = run(clone, f"{train} TRAIN.END_EPOCH 4 {debug}")
    assert "5 keypoints (top, left_wing, right_wing, tail, centre); left/right pairs: left_wing/right_wing" in said
    assert "sigmas" not in said and "| kites |" in said
    folder = clone / "output" / "kite" / "transpose_r" / "kites"

    results = read(folder / "results" / "keypoints_val_results_0.json")
    truth = coco.read_annotations(clone / "data" / "kites" / "val.json", num_joints=5, category_name="kite")
    assert {result["category_id"] for result in results} == {7}
    assert {len(result["keypoints"]) for result in results} == {15}
    written = read(folder / "results" / "metrics_val_0.json")["metrics"]
    kind = skeleton.read(folder / "skeleton.yaml")
    assert kind == dataclasses.replace(skeleton.read(SKELETON), category="kite")
    assert written == pytest.approx(average_precision(results, truth, kind.sigmas))
    assert written != pytest.approx(average_precision(results, truth, [0.2] * 5))

    assert {path.stem.rsplit("_", 1)[0] for path in (folder / "pictures").iterdir()} == {
        f"{part}_{what}" for part in ("train", "valid") for what in ("gt", "pred", "hm_gt", "hm_pred")
    }
    rows, columns = cv2.imread(str(next((folder / "pictures").glob("train_hm_gt_*")))).shape[:2]
    assert columns > 6 * 32 and rows > 8 * 32, "for each of 8 kites the crop and 5 heatmaps, at half its size"
    (events,) = (clone / "log").rglob("events.out.tfevents.*")
    assert b"valid_hm_pred" in events.read_bytes()

    draw = "python tools/draw_results.py --cfg experiments/kites/kites.yaml --score 0 --threshold 0 --results"
    said = run(clone, f"{draw} {folder / 'results' / 'keypoints_val_results_0.json'}")
    assert f"{len(results)} instance(s) on 4 of 4 images" in said
    assert (folder / "results" / "keypoints_val_results_0.png").stat().st_size > 10_000


def test_cocos_weights_start_the_recipe_that_the_doc_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With random weights of the released model's shapes."""
    released = build_model(load_config(ROOT / "experiments/coco/transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml"))
    torch.save(released.state_dict(), tmp_path / "tp_r.pth")
    cfg = load_config(KITES.with_name("from_coco.yaml"), ["MODEL.INIT_FROM", str(tmp_path / "tp_r.pth")])
    network = build_model(cfg)
    with caplog.at_level("INFO", "transpose"):
        load_start_weights(cfg, network, skeleton.read(SKELETON))
    assert [line.strip() for line in caplog.messages[1:]] == [
        "pos_embedding: resized from 32x24 to 32x32 tokens (rows x columns)",
        *(f"final_layer.{part}: rows of no keypoint taken, the rest newly initialised" for part in ("weight", "bias")),
    ]
    assert torch.equal(network.layer2[3].conv3.weight, released.layer2[3].conv3.weight)


# ---- the doc itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [KITES, SKELETON], ids=lambda path: path.name)
def test_the_doc_shows_the_yaml_as_it_is(path: Path):
    assert path.read_text() in [content for language, content in BLOCKS if language == "yaml"]


def test_the_docs_example_of_an_annotation_file_is_one(tmp_path: Path):
    (example,) = (content for language, content in BLOCKS if language == "json")
    path = tmp_path / "example.json"
    path.write_text(example)
    persons = kites_of(path)
    assert persons.visible.tolist() == [[1, 1, 1, 0, 1]]
    assert yaml.safe_load(SKELETON.read_text())["names"] == read(path)["categories"][1]["keypoints"]


def test_the_distances_of_the_docs_table():
    (row,) = re.findall(r"^\| distance, as a share of √area \| (.*) \|$", DOC, re.MULTILINE)
    kite = np.zeros((5, 2))
    for share, wanted in zip(row.split(" | "), (0.5, 0.75, 0.95), strict=True):
        away = kite + np.array([60 * float(share.removesuffix(" %")) / 100, 0])
        similarity = nms.oks(kite, away[None], 3600.0, np.array([3600.0]), np.full(5, 0.05))
        assert similarity == pytest.approx(wanted, abs=0.01)
