"""test-dev: the file under the server's name, its zip, and what the server would refuse."""

import copy
import json
import math
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.goldens import sample_people
from helpers.places import Place, read, write

from transpose.core.predict import Predictions
from transpose.errors import UserError
from transpose.evaluation import submission
from transpose.evaluation.evaluate import refuse_broken

PERSON = {"image_id": 7, "category_id": 1, "keypoints": [1.5] * 51, "score": 0.5, "center": [1, 2], "scale": [1, 1]}


def test_written_under_the_servers_name_with_its_zip(tmp_path):
    archive = submission.write(tmp_path, "test-dev2017", "mine", [PERSON, PERSON], {7, 9}, 17)
    assert archive == tmp_path / "person_keypoints_test-dev2017_mine_results.zip"
    content = archive.with_suffix(".json").read_bytes()
    assert json.loads(content) == [{key: PERSON[key] for key in submission.FIELDS}] * 2
    with zipfile.ZipFile(archive) as members:
        assert members.namelist() == ["person_keypoints_test-dev2017_mine_results.json"]
        assert members.read(members.namelist()[0]) == content
    assert submission.check(archive.with_suffix(".json"), {7, 9}, 17) == 2


@pytest.mark.parametrize(
    "change, says",
    [
        ({"image_id": 8}, "has an image_id of no image of the set: 8"),
        ({"image_id": "7"}, "has an image_id of no image of the set: '7'"),
        ({"category_id": 2}, "has category_id 2 where 1, person,"),
        ({"keypoints": [1.0] * 50}, "has keypoints of 50 where 51"),
        ({"keypoints": None}, "has keypoints of None where 51"),
        ({"keypoints": [1.0] * 50 + [None]}, "NaN, infinite or no number"),
        ({"keypoints": [1.0] * 50 + ["1"]}, "NaN, infinite or no number"),
        ({"score": math.nan}, "NaN, infinite or no number"),
    ],
)
def test_what_the_server_would_refuse_is_named(tmp_path, change, says):
    with pytest.raises(UserError, match="person number 2 ") as caught:
        submission.write(tmp_path, "test-dev2017", "mine", [PERSON, PERSON | change], {7, 9}, 17)
    assert says in str(caught.value)
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("field", submission.FIELDS)
def test_missing_field_is_named(tmp_path, field):
    path = tmp_path / "results.json"
    person = copy.deepcopy(PERSON)
    del person[field]
    path.write_bytes(msgspec.json.encode([person]))
    with pytest.raises(UserError, match=f"person number 1 has no '{field}'"):
        submission.check(path, {7}, 17)


def test_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no person in it"):
        submission.write(tmp_path, "test-dev2017", "mine", [], {7}, 17)


@pytest.mark.parametrize("column", ["keypoints", "scores"])
def test_prediction_that_is_no_number_reaches_no_file(column):
    people = sample_people()
    arrays = {
        "keypoints": people.keypoints[:4].copy(),
        "scores": np.ones((4, 17), np.float32),
        "center": np.zeros((4, 2)),
        "scale": np.ones((4, 2)),
    }
    arrays[column][2, 5] = np.nan
    with pytest.raises(UserError, match=f"1 of 4 .* in image {people.images.ids[people.image[2]]}:"):
        refuse_broken(people, Predictions(index=np.arange(4), **arrays))


def test_command_on_a_set_without_ground_truth(tmp_path: Path):
    place = Place(tmp_path)
    assert place.run("train").returncode == 0
    content = read(place.annotations)
    write(
        place.annotations.with_name("image_info_test-dev2017.json"), {k: content[k] for k in ("images", "categories")}
    )
    place.images.rename(place.images.with_name("test2017"))
    place.annotations.unlink()
    place.options = ["DATASET.TEST_SET", "test-dev2017", "TEST.USE_GT_BBOX", "False"]
    outcome = place.run("test")
    assert outcome.returncode == 0, outcome.stderr
    archive = place.run_folder / "results" / "person_keypoints_test-dev2017_small_results.zip"
    assert f"ready for COCO's server: {archive}" in outcome.stdout
    assert "https://cocodataset.org/#upload" in outcome.stdout and "AP" not in outcome.stdout
    assert submission.check(archive.with_suffix(".json"), {i["id"] for i in content["images"]}, 17) > 0
