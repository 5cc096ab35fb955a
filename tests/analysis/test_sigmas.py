"""Sigmas from repeated annotations: planted noise comes back, the file keeps its text, bad input is one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.goldens import ANNOTATIONS, sample_annotations

from transpose.analysis import sigmas
from transpose.commands import sigmas as command
from transpose.errors import UserError
from transpose.pose import skeleton as skeletons
from transpose.pose.skeleton import COCO
from transpose.runtime import log

TRUE = np.array(COCO.sigmas)


def repeated(draw: np.random.Generator, people: int = 2) -> sigmas.Repeated:
    """The sample's labelled persons as annotated by so many people, whose Gaussian noise has COCO's sigmas."""
    truth = sample_annotations()
    rows = np.flatnonzero(truth.taken)
    areas = truth.table["area"][rows]
    spread = TRUE[:, None] * np.sqrt(areas / 2)[:, None, None]  # of each axis
    keypoints = truth.keypoints[rows, :, :2] + spread * draw.standard_normal((people, len(rows), 17, 2))
    return sigmas.Repeated(keypoints, np.stack([truth.visible[rows]] * people), areas, [truth.name(i) for i in rows])


@pytest.mark.parametrize("people", [2, 3])
def test_planted_noise_is_within_its_interval_in_ninety_of_a_hundred_draws(people):
    hits, ratios = np.zeros(17), []
    for seed in range(100):
        found = sigmas.estimate(repeated(np.random.default_rng(seed), people), COCO.names)
        hits += (found.low <= TRUE) & (found.high >= TRUE)
        ratios.append(found.values / TRUE)
    assert hits.mean() >= 90, hits
    assert np.abs(np.mean(ratios, 0) - 1).max() < 0.02
    # One keypoint of 17 may have bad luck: of 95 expected, 87 are 3.7 standard deviations away.
    assert hits.min() >= 87, hits


def test_two_annotators_are_the_formula_of_the_docs():
    """The root of the mean of d^2 / area, over the root of 2."""
    twice = repeated(np.random.default_rng(0))
    squares = ((twice.keypoints[0] - twice.keypoints[1]) ** 2).sum(-1) / twice.areas[:, None]
    wanted = np.sqrt(np.where(twice.labelled[0], squares, 0).sum(0) / twice.labelled[0].sum(0) / 2)
    assert np.allclose(sigmas.estimate(twice, COCO.names).values, wanted, rtol=1e-12)


def test_an_instance_missing_in_one_file_counts_in_the_others():
    all_three = repeated(np.random.default_rng(0), 3)
    labelled = all_three.labelled.copy()
    labelled[2] = False
    lacking = sigmas.estimate(replace(all_three, labelled=labelled), COCO.names)
    two = sigmas.Repeated(all_three.keypoints[:2], all_three.labelled[:2], all_three.areas, all_three.names)
    assert np.array_equal(lacking.values, sigmas.estimate(two, COCO.names).values)


def test_tolerance_is_the_distance_of_an_oks():
    far = sigmas.tolerance(TRUE, 0.75)
    assert np.allclose(np.exp(-(far**2) / (2 * (2 * TRUE) ** 2)), 0.75)  # COCO's formula, area 1


def annotate(path: Path, seed: int, **changes) -> Path:
    """The sample as another person annotated it: noise, other ids, another order."""
    draw, content = np.random.default_rng(seed), json.loads(ANNOTATIONS.read_bytes())
    for annotation in content["annotations"]:
        points = np.array(annotation["keypoints"], float).reshape(-1, 3)
        noise = TRUE[:, None] * np.sqrt(annotation["area"] / 2) * draw.standard_normal((17, 2))
        points[:, :2] += noise * (points[:, 2:] > 0)
        annotation["keypoints"] = points.ravel().tolist()
        annotation["id"] += 7 * seed
        annotation["image_id"] += seed
        annotation["bbox"] = (np.array(annotation["bbox"]) + draw.uniform(-1, 1, 4)).clip(0).tolist()
    for image in content["images"]:
        image["id"] += seed
    draw.shuffle(content["annotations"])
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """A command would set the log up for all tests."""
    monkeypatch.setattr(log, "start", lambda **_: None)


SKELETON = """# Ours.
names: {names}
# Before.
sigmas:{sigmas}
# After.
joint_weights: {weights}
"""


@pytest.fixture
def skeleton(tmp_path) -> Path:
    path = tmp_path / "skeleton.yaml"
    path.write_text(SKELETON.format(names=list(COCO.names), sigmas="\n" + "- 0.1\n" * 17, weights=[1] * 17))
    return path


def test_the_command_matches_files_and_writes_into_the_skeleton(tmp_path, skeleton, capsys):
    files = [str(annotate(tmp_path / f"{seed}.json", seed)) for seed in (1, 2)]
    command.main(["--skeleton", str(skeleton), *files, "--write", "--overwrite"])
    out = capsys.readouterr().out
    assert "left_wrist" in out and "OKS .75" in out and f"{skeleton}: sigmas written" in out
    found = skeletons.read(skeleton)
    assert np.abs(np.log(np.array(found.sigmas) / TRUE)).max() < 0.5
    shown = skeleton.read_text()
    assert shown == SKELETON.format(names=list(COCO.names), sigmas=f" {list(found.sigmas)}\n", weights=[1] * 17)


@pytest.mark.parametrize("old", ["", "sigmas: [0.1, 0.2]  # guessed\n", "sigmas:\n- 0.1\n- 0.2 # guessed\n\n# end\n"])
def test_the_files_other_text_is_unchanged(tmp_path, old):
    path = tmp_path / "s.yaml"
    path.write_text(f"names: [a, b]\n{old}limbs: []\n")
    sigmas.write(path, skeletons.read(path), np.array([0.123456, 0.05]), overwrite=True)
    text = path.read_text()
    assert yaml.safe_load(text)["sigmas"] == [0.123, 0.05]
    for kept in (
        "names: [a, b]\n",
        "limbs: []\n",
        *(["# guessed"] if old else []),
        *(["# end"] if "end" in old else []),
    ):
        assert kept in text


def edit(path: str, change) -> str:
    content = json.loads(Path(path).read_bytes())
    change(content)
    Path(path).write_text(json.dumps(content))
    return path


def few(content: dict) -> None:
    content["annotations"] = content["annotations"][:8]


def other_images(content: dict) -> None:
    for image in content["images"]:
        image["file_name"] = f"x{image['file_name']}"


BAD = {
    "one file": (lambda a, b: [a], "give at least two annotation files"),
    "copies": (lambda a, b: [a, a], "it is at the same places in all files"),
    "other images": (lambda a, b: [a, edit(b, other_images)], "b.json: no annotated box has an IoU of"),
    "another order": (
        lambda a, b: [a, edit(b, lambda c: c["categories"][0]["keypoints"].reverse())],
        "its keypoint 1 is 'nose', but ",
    ),
    "another category": (lambda a, b: [a, b, "--category", "cat"], "none is named 'cat'"),
    "few": (lambda a, b: [a, edit(b, few)], "at least 10 are needed"),
    "empty": (lambda a, b: [a, edit(b, lambda c: c.update(annotations=[]))], "b.json: its list 'annotations' is empty"),
    "not asked": (lambda a, b: [a, b, "--write"], "has `sigmas` already; pass --overwrite to replace them"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, tmp_path, skeleton):
    arguments, wanted = BAD[name]
    files = [str(annotate(tmp_path / f"{file}.json", seed)) for seed, file in ((1, "a"), (2, "b"))]
    before = skeleton.read_text()
    with pytest.raises(UserError) as refused:
        command.main(["--skeleton", str(skeleton), *arguments(*files)])
    assert wanted in str(refused.value)
    assert skeleton.read_text() == before


def test_a_keypoint_without_repeated_annotations_is_named():
    twice = repeated(np.random.default_rng(0))
    labelled = twice.labelled.copy()
    labelled[1, 3:, 5] = False
    with pytest.raises(UserError, match=r"keypoint left_shoulder: [0-3] instances"):
        sigmas.estimate(replace(twice, labelled=labelled), COCO.names)


def test_a_file_without_the_category_is_told_with_the_commands_own_option(tmp_path):
    (tmp_path / "skeleton.yaml").write_text("{names: [a, b], sigmas: [0.1, 0.1]}")
    image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}
    categories = [{"id": 1, "name": "bird"}, {"id": 2, "name": "kite"}]
    content = {"images": [image], "annotations": [], "categories": categories}
    (tmp_path / "anna.json").write_text(json.dumps(content))
    files = [str(tmp_path / "anna.json")] * 2
    with pytest.raises(
        UserError, match=r"its categories are 1 bird, 2 kite: .*; pass --category with a name or an id$"
    ):
        command.main(["--skeleton", str(tmp_path / "skeleton.yaml"), *files])
    with pytest.raises(UserError, match=r"gone.json: cannot read the annotation file \(No such file"):
        command.main(["--skeleton", str(tmp_path / "skeleton.yaml"), "gone.json", *files])
