"""test-dev: the file with the server's name, its zip, and refusing what the server would refuse."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.goldens import sample_instances
from helpers.places import Place, Run, read, write

from transpose.core.predict import Predictions
from transpose.errors import UserError
from transpose.evaluation import submission
from transpose.evaluation.evaluate import refuse_broken

PERSON = {"image_id": 7, "category_id": 1, "keypoints": [1.5] * 51, "score": 0.5, "center": [1, 2], "scale": [1, 1]}


def test_written_under_the_servers_name_with_its_zip(tmp_path):
    archive = submission.write(tmp_path, "test-dev2017", "mine", [PERSON, PERSON])
    assert archive == tmp_path / "person_keypoints_test-dev2017_mine_results.zip"
    content = archive.with_suffix(".json").read_bytes()
    assert json.loads(content) == [{key: PERSON[key] for key in submission.FIELDS}] * 2
    with zipfile.ZipFile(archive) as members:
        assert members.namelist() == ["person_keypoints_test-dev2017_mine_results.json"]
        assert members.read(members.namelist()[0]) == content


@pytest.mark.parametrize(
    "results, says",
    [
        ([PERSON | {"category_id": 2}], "accepts category 1, person, with 17 keypoints, not category 2 with 17"),
        ([PERSON | {"keypoints": [1.0] * 48}], "accepts category 1, person, with 17 keypoints, not category 1 with 16"),
        ([], "it would have no person; the server needs at least one"),
    ],
)
def test_files_that_the_server_would_refuse_are_not_written(tmp_path, results, says):
    with pytest.raises(UserError) as caught:
        submission.write(tmp_path, "test-dev2017", "mine", results)
    assert says in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("column", ["keypoints", "scores"])
def test_a_nonfinite_prediction_is_never_written(column):
    people = sample_instances()
    arrays = {
        "keypoints": people.keypoints[:4].copy(),
        "scores": np.ones((4, 17), np.float32),
        "center": np.zeros((4, 2)),
        "scale": np.ones((4, 2)),
    }
    arrays[column][2, 5] = np.nan
    with pytest.raises(UserError, match=f"1 of 4 .* in image {people.images.ids[people.image[2]]}:"):
        refuse_broken(people, Predictions(index=np.arange(4), **arrays))


def test_command_on_a_set_without_ground_truth(tmp_path: Path, run_preloaded: Run):
    place = Place(tmp_path)
    assert place.run("train", run_preloaded).returncode == 0
    content = read(place.annotations)
    write(
        place.annotations.with_name("image_info_test-dev2017.json"), {k: content[k] for k in ("images", "categories")}
    )
    place.images.rename(place.images.with_name("test2017"))
    place.annotations.unlink()
    place.options = ["DATASET.TEST_SET", "test-dev2017", "TEST.USE_GT_BBOX", "False"]
    outcome = place.run("test", run_preloaded)
    assert outcome.returncode == 0, outcome.stderr
    archive = place.run_folder / "results" / "person_keypoints_test-dev2017_small_results.zip"
    assert f"ready for COCO's server: {archive}" in outcome.stdout
    assert "https://cocodataset.org/#upload" in outcome.stdout and "AP" not in outcome.stdout
    found, ids = read(archive.with_suffix(".json")), {image["id"] for image in content["images"]}
    assert found and {person["image_id"] for person in found} <= ids
    for person in found:
        assert tuple(person) == submission.FIELDS and person["category_id"] == 1 and len(person["keypoints"]) == 51
        assert all(math.isfinite(value) for value in (*person["keypoints"], person["score"]))
