"""Inputs that failed for users: what each tool reports and does, from end to end (inputs are made from the sample)."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers.goldens import ANNOTATIONS, sample_annotations
from helpers.places import Place, Run, read, run_in_new_process, write

from transpose.dataset import coco, detections
from transpose.errors import UserError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """In a folder whose name breaks careless shells, formats and encodings."""
    folder = tmp_path / "a 100 %s: b=ä' 日本"
    folder.mkdir()
    return Place(folder)


def change(place: Place, **values: Any) -> None:
    """Set fields of all annotations."""
    content = read(place.annotations)
    for annotation in content["annotations"]:
        annotation.update(values)
    write(place.annotations, content)


def test_a_test_set_without_countable_persons_is_reported_and_the_run_finishes(place: Place, run_preloaded: Run):
    change(place, num_keypoints=0)
    outcome = place.run("train", run_preloaded)
    assert outcome.returncode == 0, outcome.stderr
    persons = len(read(place.annotations)["annotations"])
    says = f"{place.annotations}: AP is -1 whatever the model finds: none of {persons} persons counts"
    assert says in outcome.stdout and f"({persons} with num_keypoints 0)" in outcome.stdout
    assert {"model_best.pth", "final_state.pth"} <= {path.name for path in place.run_folder.iterdir()}
    assert place.run("test", run_preloaded).stdout.count("AP is -1") == 1


def test_numbers_that_mean_nothing_are_doubted_beside_them(place: Place, run_preloaded: Run):
    """Areas in another unit: the log says it before the run, and the summary with the AP."""
    change(place, area=0.05)
    assert place.run("train", run_preloaded).returncode == 0
    said = place.run("test", run_preloaded).stdout
    assert "AP (M) and AP (L) will be -1" in said
    doubt = "times the box's area in the median, where COCO's are half of it"
    assert "; doubtful: areas: they are" in said and said.count(doubt) == 2
    summary = read(place.run_folder / "results" / "metrics_val2017_0.json")
    assert doubt in summary["measured"]
    content = read(place.annotations)  # COCO's OKS of somebody without a labelled keypoint is the box's
    for annotation in content["annotations"]:
        annotation["keypoints"][2::3] = [0] * 17
    write(place.annotations, content)
    said = place.run("test", run_preloaded).stdout
    assert re.search(r"doubtful: .*num_keypoints: \d+ of \d+ are wrong, in \d+ of them the stated", said)


def test_a_list_that_an_annotation_file_has_twice_is_refused(tmp_path: Path):
    path, content = tmp_path / "a.json", read(ANNOTATIONS)
    halves = content["annotations"][::2], content.pop("annotations")[1::2]
    joined = "".join(f', "annotations": {json.dumps(half)}' for half in halves)
    path.write_text(json.dumps(content | {"info": {"annotations": 'a " and "images": b'}})[:-1] + joined + "}")
    with pytest.raises(UserError, match=r"a.json: 'annotations' occurs twice in the annotation file"):
        coco.read_annotations(path)
    write(path, read(ANNOTATIONS) | {"info": {"images": '"annotations": [', "annotations": []}})
    assert len(coco.read_annotations(path).table)
    path.write_text(path.read_text()[:-1] + ', "note": 1, "note": 2}')  # nobody reads it
    assert len(coco.read_annotations(path).table)


def test_other_annotations_are_another_run(place: Place, run_preloaded: Run):
    place.options = ["AUTO_RESUME", "True"]
    assert place.run("train", run_preloaded).returncode == 0
    content = read(place.annotations)
    write(place.annotations, content | {"info": {"version": "2"}})
    place.options += ["TRAIN.END_EPOCH", "2", "DATASET.CACHE_MB", "9"]
    outcome = place.run("train", run_preloaded)
    changed = "TRAIN.END_EPOCH: 1 -> 2; the file of DATASET.TRAIN_SET; the file of DATASET.TEST_SET"
    assert outcome.returncode == 2 and f"another configuration ({changed}): set it back" in outcome.stderr
    write(place.annotations, content)
    outcome = place.run("train", run_preloaded)
    assert outcome.returncode == 2 and "another configuration (TRAIN.END_EPOCH: 1 -> 2)" in outcome.stderr
    place.options += ["TRAIN.RESUME_CHANGED", "True"]
    assert place.run("train", run_preloaded).returncode == 0


def test_draw_skips_what_test_skips(place: Place, run_preloaded: Run):
    """An image without persons that is missing; one with persons that cannot be read is told and the rest drawn."""
    content = read(place.annotations)
    content["images"].append({"id": 5, "width": 64, "height": 48, "file_name": "nobody.jpg"})
    write(place.annotations, content)
    results = place.folder / "found.json"
    keypoints = {"score": 0.9, "category_id": 1, "keypoints": [50, 60, 1] * 17}
    write(results, [keypoints | {"image_id": image["id"]} for image in content["images"][:2]])
    place.options = ["--results", str(results), "--out", str(place.folder / "sheet.png")]
    outcome = place.run("draw_results", run_preloaded)
    assert outcome.returncode == 0 and "2 person(s) on 2 of 3 images" in outcome.stdout
    place.image().write_bytes(b"no image")
    outcome = place.run("draw_results", run_preloaded)
    assert outcome.returncode == 1 and "1 person(s) on 1 of 3 images" in outcome.stdout
    assert f"{place.image()} (image {place.person()['image_id']}): not an image" in outcome.stderr


def test_images_of_another_size_are_reported_by_train_and_test(place: Place, run_preloaded: Run):
    for image in place.images.iterdir():
        cv2.imwrite(str(image), cv2.resize(cv2.imread(str(image)), None, fx=0.5, fy=0.5))
    outcome = place.run("train", run_preloaded)
    assert outcome.returncode == 0 and outcome.stdout.count("as annotated: boxes and keypoints are misplaced") == 2
    assert re.search(
        rf"{re.escape(str(place.images))}/0\d+\.jpg: is \d+ x \d+, not \d+ x \d+, as annot", outcome.stdout
    )
    place.options = ["TEST.USE_GT_BBOX", "False"]
    assert place.run("test", run_preloaded).stdout.count("as annotated: boxes and keypoints are misplaced") == 1


def test_without_fcntl_everything_works(place: Place):
    """As on Windows, where Python has no such module."""
    (place.folder / "fcntl.py").write_text("raise ModuleNotFoundError(name='fcntl')\n")
    place.environment["PYTHONPATH"] = str(place.folder)
    outcome = place.run("train")
    assert outcome.returncode == 0, outcome.stderr
    arguments = [str(place.image()), "--model", str(place.run_folder), "--detector", "whole-image"]
    outcome = run_in_new_process("predict", arguments, place.folder, place.environment)
    assert outcome.returncode == 0 and "1 person(s) in 1 image(s)" in outcome.stdout, outcome.stderr


CATEGORIES = {
    "twice": ([{"id": 0, "name": "person"}, {"id": 1, "name": "person", "keypoints": ["a"]}], "", 1),
    "root": ([{"id": 0, "name": "people"}, {"id": 1, "name": "skier", "keypoints": ["a"]}], "", 1),
    "by_id": ([{"id": 0, "name": "person"}, {"id": 1, "name": "person"}], "1", 1),
    "by_name": ([{"id": 0, "name": "cat", "keypoints": ["a"]}, {"id": 1, "name": "dog"}], "dog", 1),
    "unclear": ([{"id": 0, "name": "person"}, {"id": 1, "name": "person"}], "", "0 person, 1 person: it is not clear"),
    "unknown": ([{"id": 0, "name": "person"}], "man", "are 0 person: none is named 'man'; set DATASET.CATEGORY"),
}


@pytest.mark.parametrize(("categories", "wanted", "found"), CATEGORIES.values(), ids=CATEGORIES.keys())
def test_which_category_is_meant(categories: list, wanted: str, found: Any, tmp_path: Path):
    path = tmp_path / "annotations.json"
    write(path, read(ANNOTATIONS) | {"categories": categories})
    if isinstance(found, int):
        assert coco.read_annotations(path, category_name=wanted).category["id"] == found
    else:
        with pytest.raises(UserError, match=found):
            coco.read_annotations(path, category_name=wanted)


def test_boxes_that_show_nothing_are_counted_and_left_out_of_a_test(tmp_path: Path):
    boxes = [[280.8, 44.7, 218.7, 346.7], [10, 10, 0, 0], [10, 10, 0, 9], [640, 10, 5, 30], [-9, 10, 9, 30]]
    write(tmp_path / "b.json", [{"image_id": 785, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes])
    taken = detections.detected_instances(tmp_path / "b.json", sample_annotations(), 17, 0.0)
    assert taken.ids.tolist() == [0] and taken.left_out == "4 empty or outside their image"
