"""The data doctor: what each check finds, the sheet, the command; and that no mutation of a file shows a traceback."""

import copy
import dataclasses
import json
import random
import re
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from helpers.goldens import IMAGES, ROOT, SAMPLE
from helpers.places import Place, Run, sentence

from transpose.build.data import skeleton_of
from transpose.build.model import build_model
from transpose.commands.check_data import HEIGHT, PER_ROW, WIDTH, contact_sheet
from transpose.config.load import load_config
from transpose.core.predict import Predictions
from transpose.dataset import coco, detections
from transpose.dataset.check import doctor, statistics
from transpose.dataset.check.report import TEST, TRAIN, Report
from transpose.dataset.findings import ERROR, NOTE
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import Augmentation, TopDownDataset
from transpose.errors import UserError
from transpose.evaluation.evaluate import average_precision, results
from transpose.pose import draw, sheets
from transpose.pose.skeleton import COCO, Skeleton

DEMO = ROOT / "experiments" / "coco_sample" / "demo.yaml"
TWO_IMAGES = (21167, 343218, 190923)  # of the sample: 6 persons with keypoints, 11 without, a crowd; 87 detections


def sample() -> tuple[dict, list]:
    """Annotations and detections of three images, without what is read by nothing."""
    content = json.loads((SAMPLE / "annotations" / "person_keypoints_val2017.json").read_bytes())
    boxes = json.loads(next((SAMPLE / "person_detection_results").glob("*.json")).read_bytes())
    kept = {
        "images": [image for image in content["images"] if image["id"] in TWO_IMAGES],
        "annotations": [a for a in content["annotations"] if a["image_id"] in TWO_IMAGES],
        "categories": content["categories"],
    }
    for item in (*kept["annotations"], *kept["images"]):
        for key in ("segmentation", "license", "coco_url", "flickr_url", "date_captured"):
            item.pop(key, None)
    return kept, [box for box in boxes if box["image_id"] in TWO_IMAGES]


@dataclasses.dataclass
class Patient:
    """A data set of its own in a folder; `examine` writes the files and reports on them."""

    folder: Path
    name: str = "mine"
    uses_boxes: bool = True
    trains: bool = True
    tests: bool = True

    def __post_init__(self) -> None:
        self.content, self.boxes = sample()
        self.annotations, self.detections = self.folder / "annotations.json", self.folder / "boxes.json"
        self.images = self.folder / "images"
        self.images.mkdir()
        for image in self.content["images"]:
            shutil.copy(IMAGES / image["file_name"], self.images)

    def person(self, labelled: bool = True) -> dict[str, Any]:
        persons = [a for a in self.content["annotations"] if not a["iscrowd"]]
        return next(a for a in persons if bool(a["num_keypoints"]) == labelled)

    def examine(self, write: bool = True, **options: Any) -> Report:
        if write:
            self.annotations.write_text(json.dumps(self.content))
            self.detections.write_text(json.dumps(self.boxes))
        images = doctor.SetToCheck(
            self.name, self.annotations, True, self.trains, self.tests, lambda: ImageReader(self.images)
        )
        standard: dict[str, Any] = {
            "category": "",
            "num_joints": 17,
            "skeleton_of": partial(skeleton_of, load_config(DEMO)),
            "aspect": 0.75,
            "select_data": False,
            "number": None,
        }
        return doctor.examine(
            [images], lambda: doctor.BoxesToCheck(self.detections, 0.1, self.uses_boxes), **(standard | options)
        )


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


# ---- what each check finds ------------------------------------------------------------------------------------------


def found(report: Report) -> list[tuple[str, str]]:
    """Level and check of all that is not in order."""
    return [(f.level, f.check) for section in report.sections for f in section.findings if f.level in (NOTE, ERROR)]


def told(report: Report) -> str:
    return " ".join(" ".join(report.lines(10_000)).split())


def test_a_healthy_set_has_no_finding(patient: Patient):
    report = patient.examine()
    assert found(report) == [] and report.stops == {} and report.healthy
    assert "6 of 18 persons in 3 images; left out: 1 as a crowd, 11 without a labelled keypoint" in told(report)


def keypoints(person: dict) -> np.ndarray:
    """(K, 3)"""
    return np.array(person["keypoints"]).reshape(-1, 3)


def set_keypoints(person: dict, points: np.ndarray) -> None:
    person["keypoints"] = points.ravel().tolist()


def image_twice(patient: Patient) -> list:
    patient.content["images"].append(patient.content["images"][0])
    return [
        (ERROR, "ids"),
        "1 of 3 image ids are given more than once",
        f"2 times {patient.content['images'][0]['id']}",
    ]


def annotation_twice(patient: Patient) -> list:
    patient.content["annotations"].append(patient.person(labelled=False))
    return [(ERROR, "ids"), "annotation ids are given more than once: testing stops", str(patient.person(False)["id"])]


def image_unlisted(patient: Patient) -> list:
    patient.person()["image_id"] = 12345
    return [(NOTE, "images"), "1 of 18 annotations are of images that are not listed", "(image 12345)"]


def image_without_size(patient: Patient) -> list:
    patient.content["images"].append({"id": 5, "file_name": patient.content["images"][0]["file_name"]})
    patient.content["images"][-1] |= {"width": 0, "height": 480}
    return [(ERROR, "size"), "1 image must have a width and a height", "0 x 480 of image 5"]


def box_empty(patient: Patient) -> list:
    patient.person()["bbox"][2] = 0
    return [
        (ERROR, "boxes"),
        (NOTE, "keypoints"),
        "1 of 18 without width or height",
        f"annotation {patient.person()['id']} (",
    ]


def box_outside(patient: Patient) -> list:
    patient.person(labelled=False)["bbox"] = [5000, 10, 20, 20]
    return [(NOTE, "boxes"), "1 of 18 wholly outside their image", "5000, 10, 20, 20 of annotation"]


def box_of_a_labelled_person_outside(patient: Patient) -> list:
    patient.person()["bbox"] = [5000, 10, 20, 20]
    says = "1 with an empty box or one outside the image", "5 of 18 persons", "1 of those that count are left out above"
    return [(ERROR, "boxes"), (NOTE, "keypoints"), (NOTE, "AP"), *says]


def box_beyond(patient: Patient) -> list:
    patient.person()["bbox"][2] = 1000
    return [(NOTE, "boxes"), "1 of 18 reach beyond their image and are cut there"]


def boxes_as_corners(patient: Patient) -> list:
    for annotation in patient.content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    return [(NOTE, "units"), (ERROR, "boxes"), (NOTE, "cover"), "they look like x1, y1, x2, y2"]


def area_zero(patient: Patient) -> list:
    patient.person()["area"] = 0
    return [(ERROR, "areas"), (NOTE, "AP"), "1 of 18 are not positive", "1 without an area"]


def area_as_fraction(patient: Patient) -> list:
    sizes = {image["id"]: image["width"] * image["height"] for image in patient.content["images"]}
    for annotation in patient.content["annotations"]:
        annotation["area"] /= sizes[annotation["image_id"]]
    return [(ERROR, "areas"), (NOTE, "AP"), "square pixels", "AP (M) and AP (L) will be -1"]


def keypoint_outside(patient: Patient) -> list:
    person = patient.person()
    points = keypoints(person)
    points[np.flatnonzero(points[:, 2])[0], 0] = -7
    set_keypoints(person, points)
    return [(NOTE, "keypoints"), "labelled ones are outside their image", "at -7, "]


def keypoints_as_fractions(patient: Patient) -> list:
    sizes = {image["id"]: (image["width"], image["height"], 1) for image in patient.content["images"]}
    for annotation in patient.content["annotations"]:
        set_keypoints(annotation, keypoints(annotation) / sizes[annotation["image_id"]])
    return [(ERROR, "units"), "the keypoints of 6 of 6 lie within one pixel, like fractions of the image"]


def boxes_as_fractions(patient: Patient) -> list:
    """And all else too: the areas are not what is wrong first."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in patient.content["images"]}
    keypoints_as_fractions(patient)
    for annotation in patient.content["annotations"]:
        width, height = sizes[annotation["image_id"]]
        annotation["bbox"] = [x / side for x, side in zip(annotation["bbox"], (width, height) * 2, strict=True)]
    for box in patient.boxes:
        box["bbox"] = [x / 1000 for x in box["bbox"]]
    return [*[(ERROR, "units")] * 3, "the boxes of 18 of 18 lie within one pixel", "the boxes of 87 of 87"]


def boxes_in_percent(patient: Patient) -> list:
    sizes = {image["id"]: (image["width"], image["height"]) for image in patient.content["images"]}
    for annotation in patient.content["annotations"]:
        width, height = sizes[annotation["image_id"]]
        annotation["bbox"] = [100 * x / side for x, side in zip(annotation["bbox"], (width, height) * 2, strict=True)]
    return [(ERROR, "units"), (ERROR, "cover"), "the boxes of all 18 lie within 100 x 100 pixels, like percent"]


def box_begins_before(patient: Patient) -> list:
    patient.person()["bbox"][0] = -40
    return [(NOTE, "boxes"), "1 of 18 begin left of or above their image: moved to its edge, width and height kept"]


def box_wholly_before(patient: Patient) -> list:
    patient.person()["bbox"] = [-50, 10, 40, 40]
    says = "1 of 18 wholly outside their image and left out", "1 with an empty box or one outside the image"
    return [(ERROR, "boxes"), (NOTE, "keypoints"), (NOTE, "AP"), *says]


def keypoints_in_another_order(patient: Patient) -> list:
    patient.content["categories"][0]["keypoints"] = sorted(patient.content["categories"][0]["keypoints"])
    return [
        (NOTE, "order"),
        (NOTE, "sigmas"),
        "COCO's keypoints in another order: weights that find COCO's are refused",
    ]


def category_ids_as_text(patient: Patient) -> list:
    for annotation in patient.content["annotations"][::2]:
        annotation["category_id"] = "1"
    says = "9 annotations of 18 must have 'category_id', a number", "'1' in annotation number 1"
    return [(ERROR, "format"), *says]


def visibility_three(patient: Patient) -> list:
    person = patient.person()
    points = keypoints(person)
    points[points[:, 2] == 2, 2] = 3
    set_keypoints(person, points)
    return [(NOTE, "keypoints"), "have a visibility that is not 0, 1 or 2"]


def visibility_zero(patient: Patient) -> list:
    person = patient.person()
    points = keypoints(person)
    points[:, 2] = 0
    set_keypoints(person, points)
    person["num_keypoints"] = 0
    return [(NOTE, "keypoints"), "1 person with coordinates, but visibility 0 in all"]


def number_a_little_off(patient: Patient) -> list:
    patient.person()["num_keypoints"] += 1
    return [(NOTE, "num_keypoints"), "1 of 18 are wrong"]


def number_zero(patient: Patient) -> list:
    patient.person()["num_keypoints"] = 0
    return [(ERROR, "num_keypoints"), "1 of 18 are wrong, in 1 of them the stated or the true number is 0"]


def numbers_all_zero(patient: Patient) -> list:
    for annotation in patient.content["annotations"]:
        annotation["num_keypoints"] = 0
    return [
        (ERROR, "num_keypoints"),
        (ERROR, "AP"),
        "AP is -1 whatever the model finds",
        "1 as a crowd",
        "17 with num_keypoints 0",
    ]


def nobody_large(patient: Patient) -> list:
    for annotation in patient.content["annotations"]:
        annotation["area"] = min(annotation["area"], 96**2 - 1)
    return [(NOTE, "AP"), "AP (L) will be -1"]


def id_zero(patient: Patient) -> list:
    patient.person()["id"] = 0
    return [(NOTE, "AP"), "the annotation with id 0", "count the ids from 1"]


def too_many_in_an_image(patient: Patient) -> list:
    person = patient.person()
    patient.content["annotations"] += [person | {"id": 100 + i} for i in range(20)]
    return [(NOTE, "AP"), "COCO's evaluation takes 20 of an image"]


def nobody_labelled(patient: Patient) -> list:
    for annotation in patient.content["annotations"]:
        annotation.update(keypoints=[0] * 51, num_keypoints=0)
    return [(ERROR, "taken"), (ERROR, "AP"), "no person to train on or to test", "17 without a labelled keypoint"]


def category_of_another_name(patient: Patient) -> list:
    patient.content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return [(ERROR, "category"), "its categories are 1 cat, 2 dog: it is not clear"]


def field_missing(patient: Patient) -> list:
    del patient.person(labelled=False)["area"]
    return [(ERROR, "format"), "1 annotation of 18 must have 'area', a number", "none in annotation"]


def field_of_another_kind(patient: Patient) -> list:
    patient.person(labelled=False)["bbox"] = [1, 2, "3", 4]
    return [(ERROR, "format"), "1 annotation of 18 must have 'bbox', 4 numbers", "[1, 2, '3', 4] in annotation"]


def crowd_is_none(patient: Patient) -> list:
    patient.person()["iscrowd"] = None
    return [(ERROR, "format"), "must have 'iscrowd', 0 or 1", "None in annotation"]


def name_is_none(patient: Patient) -> list:
    patient.content["images"].append(patient.content["images"][0] | {"id": 5, "file_name": None})
    return [(ERROR, "format"), "1 image of 4 must have 'file_name', the name of a file", "None in image 5"]


def annotation_is_text(patient: Patient) -> list:
    patient.content["annotations"].append("person")
    return [(ERROR, "format"), "1 annotation of 19 must be a JSON object", "number 19"]


def boxes_of_other_images(patient: Patient) -> list:
    for box in patient.boxes[:2]:
        box["image_id"] = 999
    return [(NOTE, "images"), "2 of", "are of images that the annotation file does not list such as 999"]


def boxes_of_other_images_only(patient: Patient) -> list:
    for box in patient.boxes:
        box["image_id"] += 10**6
    return [(ERROR, "images"), "do not belong together"]


def boxes_of_another_category(patient: Patient) -> list:
    for box in patient.boxes[:2]:
        box["category_id"] = 18
    return [(NOTE, "categories"), "2 of", "are not of category 1 and are left out such as 18"]


def boxes_of_another_category_only(patient: Patient) -> list:
    for box in patient.boxes:
        box["category_id"] = 0
    return [(ERROR, "categories"), "boxes has the category_id 1 that 'person' has"]


def boxes_empty(patient: Patient) -> list:
    patient.boxes.append(patient.boxes[0] | {"bbox": [5, 6, 0, 0]})
    return [
        (NOTE, "boxes"),
        "1 are empty or outside their image and are left out",
        f"5, 6, 0, 0 in number {len(patient.boxes)}",
    ]


def boxes_of_low_score(patient: Patient) -> list:
    for box in patient.boxes:
        box["score"] /= 100
    return [(ERROR, "scores"), "0 of", "are 0.1 (TEST.IMAGE_THRE) or more, the best is 0.0"]


def boxes_elsewhere(patient: Patient) -> list:
    for box in patient.boxes:
        box["bbox"] = [0, 0, 150, 5]
    return [(ERROR, "cover"), "0 of the 6 persons", "AP will be near 0"]


def box_malformed(patient: Patient) -> list:
    patient.boxes[3]["score"] = "high"
    return [(ERROR, "format"), "must have 'score', a number", "'high' in detection number 4"]


def image_missing(patient: Patient) -> list:
    (patient.images / patient.content["images"][0]["file_name"]).unlink()
    return [
        (ERROR, "there"),
        "1 of 3 images are missing, 1 of them with persons",
        patient.content["images"][0]["file_name"],
    ]


def image_of_nobody_missing(patient: Patient) -> list:
    patient.content["images"].append({"id": 5, "width": 64, "height": 48, "file_name": "nobody.jpg"})
    return [(NOTE, "there"), "1 of 4 images are missing, 0 of them with persons such as nobody.jpg"]


def names_in_other_letters(patient: Patient) -> list:
    first = patient.content["images"][0]
    name = first["file_name"].upper()
    shutil.copy(patient.images / first["file_name"], patient.images / name)
    patient.content["images"].append(first | {"id": 5, "file_name": name})
    return [(NOTE, "names"), "2 are named like another but for upper and lower case", name]


def image_cut_off(patient: Patient) -> list:
    path = patient.images / patient.content["images"][0]["file_name"]
    path.write_bytes(path.read_bytes()[:3000])
    return [
        (ERROR, "readable"),
        "1 of 3 cannot be read",
        f"{path.name} (image {int(path.stem)}): the JPEG is truncated",
    ]


def image_of_another_size(patient: Patient) -> list:
    image = patient.content["images"][0]
    path = patient.images / image["file_name"]
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (320, 240)))
    return [(ERROR, "size"), f"{path.name} is 320 x 240, not {image['width']} x {image['height']}"]


def image_turned(patient: Patient) -> list:
    path = patient.images / patient.content["images"][0]["file_name"]
    cv2.imwrite(str(path), cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_90_CLOCKWISE))
    return [(ERROR, "size"), "turned by its EXIF orientation?"]


def image_tagged(patient: Patient) -> list:
    """Turned by half, with its size kept."""
    path = patient.images / patient.content["images"][0]["file_name"]
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.open(path).save(path, exif=exif)
    return [(NOTE, "orientation"), f"1 of 3 have an EXIF orientation, which is ignored such as 3 in {path.name}"]


def images_of_twelve_bits(patient: Patient) -> list:
    for image in patient.content["images"]:
        path = patient.images / image["file_name"]
        pixels = cv2.imread(str(path)).astype(np.uint16) * 16
        image["file_name"] = path.with_suffix(".png").name
        cv2.imwrite(str(path.with_suffix(".png")), pixels)
    return [(ERROR, "contrast"), "3 of 3 are nearly of one value", "0 to 15 in", "only the upper 8 of 16 bits are read"]


FAULTS = (
    *(boxes_as_fractions, boxes_in_percent, box_begins_before, box_wholly_before),
    *(category_ids_as_text, keypoints_in_another_order),
    *(image_tagged, images_of_twelve_bits),
    *(image_twice, annotation_twice, image_unlisted, image_without_size),
    *(box_empty, box_outside, box_of_a_labelled_person_outside, box_beyond, boxes_as_corners),
    *(area_zero, area_as_fraction, keypoint_outside, keypoints_as_fractions, visibility_three, visibility_zero),
    *(number_a_little_off, number_zero, numbers_all_zero, nobody_large, id_zero, too_many_in_an_image, nobody_labelled),
    *(category_of_another_name, field_missing, field_of_another_kind, crowd_is_none, name_is_none, annotation_is_text),
    *(boxes_of_other_images, boxes_of_other_images_only, boxes_of_another_category, boxes_of_another_category_only),
    *(boxes_empty, boxes_of_low_score, boxes_elsewhere, box_malformed),
    *(image_missing, image_of_nobody_missing, image_cut_off),
    *(image_of_another_size, image_turned, names_in_other_letters),
)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_and_nothing_else(patient: Patient, plant: Callable[[Patient], list]):
    wanted = plant(patient)
    report = patient.examine()
    assert found(report) == [item for item in wanted if isinstance(item, tuple)]
    for words in wanted:
        assert isinstance(words, tuple) or words in told(report)
    assert report.healthy == all(item[0] != ERROR for item in wanted if isinstance(item, tuple))


def test_a_set_with_cocos_name_but_other_counts_is_noted(tmp_path: Path):
    report = Patient(tmp_path, name="val2017").examine()
    assert found(report) == [(NOTE, "counts")] and report.healthy
    assert "3 images, 18 annotations; COCO's val2017 has 5,000 and 11,004" in told(report)


def test_cocos_counts_are_not_expected_of_other_keypoints(tmp_path: Path):
    patient = Patient(tmp_path, name="val2017")
    names = patient.content["categories"][0]["keypoints"]
    patient.content["categories"][0]["keypoints"] = ["forehead", *names[1:]]
    assert found(patient.examine()) == [(NOTE, "sigmas")]


def test_published_counts_are_confirmed_and_other_persons_are_noted(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(statistics.PUBLISHED_COUNTS, "mine", (3, 18))
    monkeypatch.setitem(statistics.PUBLISHED_PERSONS, "mine", 7)
    report = patient.examine()
    assert "3 images, 18 annotations, as published" in told(report)
    assert found(report) == [(NOTE, "taken")] and "published: 7" in told(report)


def test_a_training_set_need_not_satisfy_cocos_evaluation(tmp_path: Path):
    patient = Patient(tmp_path, tests=False)
    annotation_twice(patient)
    for annotation in patient.content["annotations"]:
        annotation["num_keypoints"] = 0
    report = patient.examine()
    assert found(report) == [(NOTE, "ids"), (NOTE, "num_keypoints")] and report.healthy


def test_a_broken_training_set_stops_training_alone(tmp_path: Path):
    patient = Patient(tmp_path, tests=False)
    del patient.person()["bbox"]
    assert set(patient.examine().stops) == {TRAIN}
    patient.tests = True
    assert set(patient.examine().stops) == {TRAIN, TEST}


def test_the_verdict_on_a_tool_goes_by_what_it_reads(tmp_path: Path):
    patient = Patient(tmp_path, tests=False)
    area_zero(patient)
    *_, train, test, _ = patient.examine().lines()
    assert train.endswith("but the errors above make the result wrong") and test == f"{TEST}   would take this data"


def test_what_select_data_drops_is_counted(patient: Patient):
    next(a for a in patient.content["annotations"] if a["id"] == 2163489)["bbox"][0] += 40  # a person 45 pixels wide
    report = patient.examine(select_data=True)
    assert "left out in training: 1 off centre (SELECT_DATA)" in told(report)
    assert "SELECT_DATA" not in told(patient.examine())


@pytest.mark.parametrize(
    ("uses_boxes", "spoil", "wanted"),
    [
        (False, lambda path: path.unlink(), (NOTE, "not needed while TEST.USE_GT_BBOX is True")),
        (True, lambda path: path.unlink(), (ERROR, "No such file")),
        (False, lambda path: path.write_text("[{"), (ERROR, "not valid JSON")),
        (True, lambda path: path.write_text('{"boxes": []}'), (ERROR, "a list of boxes, but this is a dict")),
    ],
)
def test_a_detection_file_that_is_missing_or_malformed(tmp_path, uses_boxes, spoil, wanted):
    patient = Patient(tmp_path, uses_boxes=uses_boxes)
    patient.examine()
    spoil(patient.detections)
    report = patient.examine(write=False)
    assert found(report) == [(wanted[0], "file")] and wanted[1] in told(report)
    assert bool(report.stops) == (uses_boxes and wanted[0] == ERROR)


@pytest.mark.parametrize(
    ("content", "checks", "says"),
    [
        ("", ["file"], "not valid JSON"),
        ('{"images": [', ["file"], "not valid JSON or is truncated"),
        ("[1, 2]", ["format"] * 3, "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": {}}', ["format"] * 2, "no list 'categories'"),
    ],
)
def test_a_malformed_annotation_file(patient: Patient, content: str, checks: list[str], says: str):
    patient.examine()
    patient.annotations.write_text(content)
    report = patient.examine(write=False)
    errors = [f.check for f in report.sections[0].findings if f.level == ERROR]
    assert errors == checks and says in told(report) and set(report.stops) == {TRAIN, TEST}


def test_nothing_to_check_is_a_sentence(patient: Patient):
    with pytest.raises(UserError, match=f"nothing to check, there is no {patient.annotations}"):
        patient.examine(write=False)


def test_images_in_a_zip(patient: Patient):
    archive = patient.folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(patient.images.iterdir())[1:]:
            file.write(path, path.name)
    patient.images, folder = archive, patient.images
    assert found(patient.examine()) == [(ERROR, "there")]
    with zipfile.ZipFile(archive, "a") as file:
        first = sorted(folder.iterdir())[0]
        file.write(first, first.name)
    assert found(patient.examine()) == []
    archive.write_bytes(archive.read_bytes()[:-30])
    assert "cannot read the zip of the images (BadZipFile: File is not a zip file)" in told(patient.examine())


def test_images_that_are_no_folder(patient: Patient):
    patient.images = patient.folder / "images.txt"
    patient.images.write_text("")
    report = patient.examine()
    assert (
        found(report) == [(ERROR, "there")] and "Not a directory" in told(report) and set(report.stops) == {TRAIN, TEST}
    )


def test_some_images_are_read_evenly_spread(patient: Patient):
    read: list[int] = []

    def follow(indices: list[int]) -> list[int]:
        read.extend(indices)
        return indices

    report = patient.examine(number=2, follow=follow)
    assert read == [0, 2] and "2 of 3 with persons read, each of the stated size" in told(report)


WRONG_PAIRS = dataclasses.replace(COCO, pairs=(*COCO.pairs[:4], (9, 16), (15, 10), *COCO.pairs[5:7]))


# A side in the middle of a name tells no pair.
UNPAIRED = tuple({"left_eye": "wing_left_tip", "right_eye": "wing_right_tip"}.get(name, name) for name in COCO.names)


@pytest.mark.parametrize(
    ("kind", "wanted", "says"),
    [
        (WRONG_PAIRS, ERROR, "left_wrist/right_ankle; left_ankle/right_wrist"),
        (dataclasses.replace(COCO, pairs=COCO.pairs[1:]), NOTE, "does not exchange them such as left_eye/right_eye"),
        (dataclasses.replace(COCO, pairs=((2, 1), *COCO.pairs[1:])), NOTE, "right comes before left"),
        (dataclasses.replace(COCO, pairs=()), NOTE, "does not exchange them"),
        (dataclasses.replace(COCO, pairs=(), names=tuple("abcdefghijklmnopq")), NOTE, "none: a flip exchanges nothing"),
        (dataclasses.replace(COCO, pairs=COCO.pairs[1:], names=UNPAIRED), NOTE, "wing_left_tip; wing_right_tip"),
    ],
)
def test_pairs_that_contradict_their_names(patient: Patient, kind: Skeleton, wanted: str, says: str):
    report = patient.examine(skeleton_of=lambda annotations: kind)
    assert found(report) == [(wanted, "pairs")] and says in told(report)


def test_a_report_keeps_to_its_width(patient: Patient):
    for plant in (area_as_fraction, nobody_large, boxes_of_other_images, image_cut_off, image_unlisted):
        plant(patient)
    for line in patient.examine().lines(WIDTH):
        assert len(line) <= WIDTH or "/" in line, line


# ---- the sheet ------------------------------------------------------------------------------------------------------


def halves(report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Of the sheet's first person: as annotated, mirrored."""
    sheet = contact_sheet(report, 0.75, number=1)
    assert sheet is not None
    width, step = round(HEIGHT * 0.75), HEIGHT + sheets.LABEL_HEIGHT + sheets.MARGIN
    top, left = len(sheet) - step, sheets.MARGIN
    picture = sheet[top : top + HEIGHT, left : left + 2 * width + 2]
    return picture[:, :width], picture[:, width + 2 :]


def limbs(picture: np.ndarray, side: int) -> np.ndarray:
    return (np.abs(picture.astype(int) - draw.COLOURS[side]) < 40).all(-1)


def test_a_wrong_pair_is_seen_on_the_sheet(patient: Patient):
    for image in patient.images.iterdir():
        cv2.imwrite(str(image), np.full_like(cv2.imread(str(image)), 90))
    shown = {name: halves(patient.examine(skeleton_of=lambda _, kind=kind: kind)) for name, kind in KINDS.items()}
    plain, mirrored = shown["right"]
    for side in (draw.LEFT, draw.RIGHT):
        # The mirror image has the colours exchanged, but for what rounding does to the lines' edges.
        ours, theirs = limbs(plain, side), limbs(mirrored[:, ::-1], -side)
        assert ours.sum() > 300 and (ours ^ theirs).sum() < 0.1 * ours.sum()
    for name in ("wrong", "missing"):
        annotated, other = shown[name]
        if name == "wrong":
            assert (annotated == plain).all(), "the colours alone do not tell"
        assert sum((limbs(other, side) ^ limbs(mirrored, side)).sum() for side in (draw.LEFT, draw.RIGHT)) > 300


KINDS = {"right": COCO, "wrong": WRONG_PAIRS, "missing": dataclasses.replace(COCO, pairs=COCO.pairs[:4])}


def test_the_mirrored_sample_is_the_one_that_training_draws(patient: Patient):
    report = patient.examine()
    assert report.instances is not None and report.reader is not None
    crops = partial(TopDownDataset, report.instances, report.reader, COCO, (48, 64), (12, 16))
    training = crops(augmentation=Augmentation(flip=True, scale=0, rotation=0, half_body=0))
    for index in range(len(report.instances)):
        ours = crops().mirrored(index)
        drawn = [training[epoch, index] for epoch in range(12)]
        same = [all((ours[key] == sample[key]).all() for key in ours) for sample in drawn]
        assert any(same) and not all(same)


def test_samples_are_spread_and_the_fullest_come_first(patient: Patient):
    report = patient.examine()
    assert report.instances is not None
    groups = doctor.samples(report.instances, 3)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert [sorted(group) for group in groups] == [[0, 1], [2, 3], [4, 5]]
    for group in groups:
        seen = report.instances.visible[group].sum(1)
        assert (np.diff(seen) <= 0).all()
    assert len(doctor.samples(report.instances, 100)) == 6


def test_an_image_that_cannot_be_read_is_not_on_the_sheet(patient: Patient):
    image_cut_off(patient)
    sheet = contact_sheet(patient.examine(), 0.75, number=6)
    assert sheet is not None
    assert sheet.shape[1] == PER_ROW * (2 * round(HEIGHT * 0.75) + 2 + sheets.MARGIN) + sheets.MARGIN
    for image in patient.images.iterdir():
        image.unlink()
    assert contact_sheet(patient.examine(), 0.75, number=6) is None


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_bundled_sample_is_healthy(tmp_path: Path, run_preloaded: Run):
    options = ["--cfg", str(DEMO), "--modelDir", str(tmp_path)]
    run = run_preloaded("check_data", [*options, "--images", "all"], tmp_path, {})
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == "" and "0 errors, 2 notes" in run.stdout and len(run.stdout.splitlines()) <= 50
    sheet = cv2.imread(str(tmp_path / "check" / "demo.png"))
    assert sheet.shape[1] == PER_ROW * (2 * round(HEIGHT * 64 / 96) + 2 + sheets.MARGIN) + sheets.MARGIN
    again = run_preloaded("check_data", [*options, "--samples", "1", "--images", "0"], tmp_path, {})
    assert again.returncode == 0 and cv2.imread(str(tmp_path / "check" / "demo.png")).shape[0] < sheet.shape[0]


def test_the_sheet_does_not_take_the_place_of_a_file(tmp_path: Path, run_preloaded: Run):
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    run = run_preloaded("check_data", ["--cfg", str(DEMO), "--out", str(mine)], tmp_path, {})
    assert f"{mine}: exists already" in sentence(run) and mine.read_text() == "mine"


def test_errors_are_exit_code_1_and_nothing_to_check_is_2(tmp_path: Path, run_preloaded: Run):
    place = Place(tmp_path)
    run = place.run("check_data", run_preloaded)
    assert run.returncode == 0 and "contact sheet: " in run.stdout, run.stdout + run.stderr
    place.image().unlink()
    run = place.run("check_data", run_preloaded)
    assert run.returncode == 1 and run.stderr == "" and "1 error, " in run.stdout
    place.options = ["--images", "many"]
    assert "--images must be a number or all, not 'many'" in sentence(place.run("check_data", run_preloaded))
    place.options = ["--out", str(tmp_path / "sheet.doc")]
    assert "choose a name that ends in .png" in sentence(place.run("check_data", run_preloaded))
    place.options = ["DATASET.TEST_SET", "test-dev2017"]
    run = place.run("check_data", run_preloaded)
    assert run.returncode == 1 and "tools/test.py   would stop:" in run.stdout
    place.options = []
    place.annotations.unlink()
    assert "nothing to check" in sentence(place.run("check_data", run_preloaded))


def test_help_comes_without_torch(tmp_path: Path, without_torch: dict[str, str]):
    run = Place(tmp_path, environment=without_torch).run("check_data")
    assert run.returncode == 1 and "torch was imported" in run.stderr
    asked = Place(tmp_path / "help", environment=without_torch, options=["--help"]).run("check_data")
    assert asked.returncode == 0 and "--images N|all" in asked.stdout


# ---- 1,000 mutations ------------------------------------------------------------------------------------------------

MUTATIONS = 1000
RAW = {"<NaN>": "NaN", "<Infinity>": "-Infinity", "<1e400>": "1e400", "<surrogate>": '"\\ud800"'}  # no JSON, or barely
NUMBERS = (
    *(0, 1, -1, 2, 0.5, -0.5, 0.64, 0.8, -300, 5000, 21167, 2**20, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**30, 1e-300, 1e7, 1e18, 1e38, 1e308, -1e308),
)
STRANGE = (
    *(*NUMBERS, None, True, False, "", "x", "1", "nan", "\x00", "../x", "漢字🙂\n", "y" * 5000),
    *([], {}, [[]], [None], [1], [1, 2, 3, 4], ["1", 2, 3, 4], {"id": 1}, {"": {"": []}}, [[1, 2], [3, 4]], *RAW),
)


def nodes(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """The places in a tree, as keys and indices from its root; whole branches, then what they hold."""
    yield place
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from nodes(content[key], (*place, key))


def at(content: Any, place: tuple) -> Any:
    for key in place:
        content = content[key]
    return content


def mutate(content: Any, draw: random.Random) -> Any:
    """One change somewhere; keys are equally likely, however many items have them, but the few near the root less."""
    by_key: dict[tuple, list[tuple]] = {}
    for place in nodes(content):
        by_key.setdefault(tuple("*" if isinstance(key, int) else key for key in place), []).append(place)
    weights = [1 if len(key) < 3 else 10 for key in by_key]
    place = draw.choice(by_key[draw.choices(list(by_key), weights)[0]])
    value = draw.choice(STRANGE)
    kinds = ("replace", "replace", "delete", "wrap", "repeat", "everywhere", "type", "cut")
    if isinstance(at(content, place), int | float) and draw.random() < 0.8:
        value, kinds = draw.choice(NUMBERS), ("replace", "everywhere")
    elif draw.random() < 0.3:
        value = copy.deepcopy(at(content, draw.choice(by_key[draw.choice(list(by_key))])))
    if not place:
        return value
    parent, key = at(content, place[:-1]), place[-1]
    kind = draw.choice(kinds)
    if kind == "delete":
        del parent[key]
    elif kind == "wrap":
        parent[key] = draw.choice(([parent[key]], {"id": parent[key]}, [[parent[key]] * 2]))
    elif kind == "repeat" and isinstance(parent, list):
        parent.insert(draw.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif kind == "everywhere" and len(place) > 1 and isinstance(at(content, place[:-2]), list):
        for sibling in at(content, place[:-2]):
            if isinstance(sibling, dict):
                sibling[key] = value
    elif kind == "type":
        parent[key] = draw.choice((str, lambda x: not x, lambda x: -x if isinstance(x, int | float) else x, repr))(
            parent[key]
        )
    elif kind == "cut" and isinstance(parent[key], list | str):
        parent[key] = parent[key][: draw.randrange(len(parent[key]) + 1)]
    else:
        parent[key] = value
    return content


def spoil(content: Any, draw: random.Random) -> bytes:
    """A file with up to three mutations of its content, one in eight also of its bytes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        content = mutate(content, draw)
    text = json.dumps(content)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    file = bytearray(text.encode())
    if draw.random() < 1 / 8:
        if draw.random() < 0.4:
            return bytes(file[: draw.randrange(len(file) + 1)])
        for _ in range(draw.choice((1, 1, 3, 30))):
            file[draw.randrange(len(file))] = draw.choice((draw.randrange(256), *b'"{}[],:0-e'))
    return bytes(file)


@pytest.mark.slow
def test_a_thousand_mutations_end_in_a_result_or_in_a_sentence(tmp_path: Path):
    """What the doctor says of each is what then happens: tools/test.py stops or not, AP is -1 or not."""
    cfg = load_config(DEMO)
    reader = ImageReader(IMAGES, cache_bytes=1 << 26)
    annotations, boxes = tmp_path / "annotations.json", tmp_path / "boxes.json"
    originals = sample()
    outcomes: Counter[type] = Counter()
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        which = draw.choice((0, 0, 0, 1))
        files = [json.dumps(content).encode() for content in originals]
        files[which] = spoil(copy.deepcopy(originals[which]), draw)
        annotations.write_bytes(files[0])
        boxes.write_bytes(files[1])
        used = which == 1 or draw.random() < 0.5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = examine(cfg, annotations, boxes, reader, used)
            if seed % 20 == 0:
                contact_sheet(report, 0.75, number=2)
            outcome: tuple[int, dict[str, float]] | UserError
            try:
                outcome = score(cfg, annotations, boxes if used else None, reader)
            except UserError as error:
                outcome = error
        outcomes[type(outcome)] += 1
        if isinstance(outcome, UserError):
            assert TEST in report.stops, f"{seed}: {outcome}"
        else:
            taken, metrics = outcome
            said = told(report)
            missing = any(f.check == "there" and f.level == ERROR for s in report.sections for f in s.findings)
            assert (TEST in report.stops) == missing, f"{seed}: {report.stops}"
            assert f" {taken:,} of " in said, seed
            assert ("AP is -1" in said) == (metrics["AP"] == -1), seed
            for name in ("AP (M)", "AP (L)") if metrics["AP"] != -1 else ():
                assert bool(re.search(rf"{re.escape(name)}.* will be -1", said)) == (metrics[name] == -1), seed
    assert outcomes[UserError] > MUTATIONS / 4 and outcomes[tuple] > MUTATIONS / 4, outcomes


def examine(cfg, annotations: Path, boxes: Path, reader: ImageReader, used: bool) -> Report:
    """The doctor's report, in full."""
    images = doctor.SetToCheck("val2017", annotations, True, True, True, lambda: reader)
    report = doctor.examine(
        [images],
        lambda: doctor.BoxesToCheck(boxes, 0.0, used),
        category="",
        num_joints=17,
        skeleton_of=partial(skeleton_of, cfg),
        aspect=0.75,
        select_data=False,
        number=None,
    )
    assert report.lines()
    return report


def score(cfg, annotations: Path, boxes: Path | None, reader: ImageReader) -> tuple[int, dict[str, float]]:
    """What tools/test.py does, with the annotations in the model's place; also how many persons it takes."""
    source = coco.read_annotations(annotations)
    kind = skeleton_of(cfg, source)
    coco.check_truth(source)
    persons = coco.annotated_instances(source)
    taken = len(persons)
    if boxes is not None:
        persons = detections.detected_instances(boxes, source, kind.num_joints, 0.0)
    crops = TopDownDataset(persons, reader, kind, (48, 64), (12, 16))
    for sample in crops:
        assert np.isfinite(sample["to_image"]).all()
    predictions = Predictions(np.arange(len(persons)), persons.keypoints, persons.visible, crops.center, crops.scale)
    found = results(
        persons,
        predictions,
        category_id=source.category["id"],
        sigmas=kind.sigmas,
        score_threshold=0.2,
        oks_threshold=0.9,
    )
    return taken, average_precision(found, source, kind.sigmas)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutation_shows_no_traceback_at_the_command(seed: int, tmp_path: Path, run_preloaded: Run):
    place = Place(tmp_path)
    weights = tmp_path / "weights.pth"
    place.yaml.write_text(yaml.safe_dump(place.config))
    torch.save(build_model(load_config(place.yaml)).state_dict(), weights)
    place.options = ["TEST.MODEL_FILE", str(weights)]
    content = json.loads(place.annotations.read_bytes())
    place.annotations.write_bytes(spoil(content, random.Random(seed)))
    tested, checked = place.run("test", run_preloaded), place.run("check_data", run_preloaded)
    for run in (tested, checked):
        assert "Traceback" not in run.stdout + run.stderr, run.stderr
    if tested.returncode:
        said = sentence(tested)
        assert checked.returncode == 1 and " ".join(said.split()) in " ".join(checked.stdout.split())
    else:
        assert "| AP |" in tested.stdout and checked.returncode in (0, 1)
