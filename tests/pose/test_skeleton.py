"""Skeletons: COCO's, one from a yaml, one from an annotation file."""

import pytest
import yaml

from transpose.errors import UserError
from transpose.pose import skeleton

HAND = ["thumb", "left_tip", "right_tip"]


def from_yaml(tmp_path, **content):
    path = tmp_path / "skeleton.yaml"
    path.write_text(yaml.safe_dump(content))
    return skeleton.read(path)


def test_a_written_skeleton_is_read_back(tmp_path):
    assert from_yaml(tmp_path, **skeleton.to_mapping(skeleton.COCO)) == skeleton.COCO


def test_flip_order_is_an_involution_that_exchanges_the_pairs():
    order = skeleton.COCO.flip_order
    assert (order[order] == range(17)).all()
    assert [skeleton.COCO.names[i] for i in order[:3]] == ["nose", "right_eye", "left_eye"]


@pytest.mark.parametrize(
    "names, pairs",
    [
        (["nose", "left_eye", "right_eye"], ((1, 2),)),
        (["r_paw", "l_paw", "tail"], ((1, 0),)),
        (["LeftX", "Left_Hip", "Right_Hip"], ((1, 2),)),
        (["ear right", "ear left", "eye.L", "eye.R", "wing-l", "wing-r"], ((1, 0), (2, 3), (4, 5))),
        (["left_a", "right_b", "l", "r", "tail", "tair"], ()),
    ],
)
def test_pairs_follow_from_the_names(tmp_path, names, pairs):
    assert from_yaml(tmp_path, names=names).pairs == pairs


def test_sides_without_a_pair_are_reported(tmp_path, caplog):
    from_yaml(tmp_path, names=[*HAND, "leftEye", "rightEye"], sigmas=[0.1] * 5)
    assert "skeleton.yaml: leftEye, rightEye are in no left/right pair: list the pairs" in caplog.text
    caplog.clear()
    from_yaml(tmp_path, names=["leftEye", "rightEye"], pairs=[], sigmas=[0.1] * 2)
    assert not caplog.text


def test_missing_sigmas_are_a_stated_default(tmp_path, caplog):
    assert from_yaml(tmp_path, names=HAND).sigmas == (skeleton.DEFAULT_SIGMA,) * 3
    assert "skeleton.yaml gives no OKS `sigmas`: 0.05" in caplog.text


def test_given_sigmas_are_taken_without_a_warning(tmp_path, caplog):
    assert from_yaml(tmp_path, names=HAND, sigmas=[0.1, 0.2, 0.3]).sigmas == (0.1, 0.2, 0.3)
    assert not caplog.text


@pytest.mark.parametrize(
    "content, wanted",
    [
        ({}, "`names` must list"),
        ({"names": ["a", "a"]}, "'a' is listed twice"),
        ({"names": HAND, "pairs": [["left_tip", "right_top"]]}, "'right_top', which is no keypoint; the nearest is"),
        ({"names": HAND, "pairs": [["thumb", "left_tip"], ["right_tip", "thumb"]]}, "'thumb' is in two"),
        ({"names": HAND, "pairs": [["thumb", "thumb"]]}, "two different keypoints"),
        ({"names": HAND, "limbs": "thumb"}, "`limbs` must be a list"),
        ({"names": HAND, "sigmas": [0.1]}, "`sigmas` lists 1 numbers for 3 keypoints"),
        ({"names": HAND, "sigmas": [0.1, 0, 0.1]}, "`sigmas` of 'left_tip' must be a positive number, not 0"),
        ({"names": HAND, "upper_body": ["toe"]}, "`upper_body` names 'toe'"),
        ({"names": HAND, "sigma": [1, 1, 1]}, "no `sigma`; the nearest is `sigmas`"),
    ],
)
def test_a_skeleton_that_contradicts_itself_is_named(tmp_path, content, wanted):
    with pytest.raises(UserError) as error:
        from_yaml(tmp_path, **content)
    assert wanted in str(error.value) and "skeleton.yaml" in str(error.value)


def test_a_category_tells_names_limbs_and_pairs():
    category = {"name": "bird", "keypoints": ["beak", "left_wing", "right_wing"], "skeleton": [[1, 2], [1, 3]]}
    bird = skeleton.from_category(category, "birds.json")
    assert bird.names == ("beak", "left_wing", "right_wing")
    assert bird.limbs == ((0, 1), (0, 2)) and bird.pairs == ((1, 2),)


def test_cocos_category_is_cocos_skeleton_and_one_without_keypoints_is_none():
    assert skeleton.from_category({"name": "person", "keypoints": list(skeleton.COCO.names)}, "x") is skeleton.COCO
    assert skeleton.from_category({"name": "person"}, "x") is None


def test_a_limb_beyond_the_keypoints_is_named():
    with pytest.raises(UserError, match=r"birds.json, category 'bird': limb \[0, 1\]"):
        skeleton.from_category({"name": "bird", "keypoints": ["a", "b"], "skeleton": [[0, 1]]}, "birds.json")


def test_limbs_that_are_no_list_are_named():
    with pytest.raises(UserError, match=r"birds.json, category 'bird': `skeleton` must be a list, not 5"):
        skeleton.from_category({"name": "bird", "keypoints": ["a", "b"], "skeleton": 5}, "birds.json")


@pytest.mark.parametrize(
    "key, value", [("limbs", [[["a"], "top"]]), ("upper_body", [["top"]]), ("pairs", [[{}, "top"]])]
)
def test_a_keypoint_name_in_too_many_brackets_is_reported(key, value):
    with pytest.raises(UserError, match=f"`{key}` names .*, which is no keypoint"):
        skeleton.from_mapping({"names": ["top", "tail"], key: value}, "mine.yaml")


def test_pairs_against_the_names_are_accepted_with_a_warning(caplog):
    names = ["left_wing", "right_wing", "tail"]
    kind = skeleton.from_mapping({"names": names, "pairs": [["left_wing", "tail"]]}, "odd.yaml")
    assert kind.pairs == ((0, 2),) and "odd.yaml: the `pairs` left_wing/tail" in caplog.text


@pytest.mark.parametrize("name", ["LeftEye", "leftEye", "LEFT EYE", "eye_left", "l_eye", "eye-L", "LEye", "lefteye"])
def test_spellings_of_one_keypoint(name):
    assert skeleton.common_name(name) == skeleton.common_name("left_eye") != skeleton.common_name("right_eye")
    assert len({skeleton.common_name(own) for own in skeleton.COCO.names}) == 17
