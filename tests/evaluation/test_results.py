"""Reading results files, and the messages for files that do not belong to the data."""

import json

import pytest
from helpers.goldens import sample_annotations

from transpose.errors import UserError
from transpose.evaluation.results import read_results

RESULT = {"image_id": 21167, "score": 0.9, "category_id": 1, "keypoints": [1.0, 2, 0.5] * 17}


def test_results_of_other_images_and_categories_are_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "found.json"
    other = [{"category_id": 2}, {"image_id": 1}, {"image_id": 343218, "score": 0.1}]
    path.write_text(json.dumps([RESULT, *(RESULT | change for change in other)]))
    columns = read_results(path, sample_annotations(), 17)
    assert "left out: 1 result of other categories" in caplog.text and "left out: 1 result of images" in caplog.text
    assert columns["image_id"].tolist() == [21167, 343218] and columns["score"].tolist() == [0.9, 0.1]
    assert columns["keypoints"].shape == (2, 17, 3) and columns["keypoints"][0, 3].tolist() == [1, 2, 0.5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read the results file"),
        ("", "not valid JSON"),
        ("[{", "not valid JSON"),
        ('[{"score": ' + "[" * 100_000 + "]" * 100_000 + "}]", "not valid JSON"),
        ("[]", "an empty list: there are no results"),
        (json.dumps(RESULT), "the results file has the wrong format: expected `array`, got `object`"),
        (
            "[1]",
            "the results file has the wrong format: expected `object`, got `int` - at `$[0]`, counted from 0",
        ),
        (
            json.dumps([RESULT, RESULT | {"category_id": "1"}]),
            "'category_id' of result number 2 must be a number",
        ),
        ("[{}]", "result number 1 has no 'image_id'"),
        (
            json.dumps([RESULT | {"category_id": 2}, RESULT | {"keypoints": [1] * 50}]),
            "'keypoints' of result number 2 must list 51 numbers (MODEL.NUM_JOINTS), not 50",
        ),
        (json.dumps([RESULT | {"image_id": 1}]), "none of its 1 results is of an image of"),
        (json.dumps([RESULT | {"category_id": 2}]), "none of its 1 results has the category_id 1 that 'person' has in"),
    ],
)
def test_a_results_file_that_does_not_fit_is_named_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "found.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_results(path, sample_annotations(), 17)
    assert str(error.value).startswith(str(path)) and sentence in str(error.value)
