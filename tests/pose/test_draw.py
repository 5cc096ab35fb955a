"""Drawing: what is drawn, where, and which pixels are unchanged; and the tool that draws a results file."""

import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers.goldens import ROOT

from transpose.commands.draw import main as draw_results
from transpose.errors import UserError
from transpose.pose import draw, geometry, sheets
from transpose.pose.draw import DrawOptions
from transpose.pose.skeleton import COCO, Skeleton

HAND = Skeleton(
    names=("wrist", "left_thumb", "right_thumb", "left_tip", "right_tip"),
    pairs=((1, 2), (3, 4)),
    limbs=((0, 1), (0, 2), (1, 3), (2, 4)),
    upper_body=(0, 1, 2, 3, 4),
    lower_body=(),
    sigmas=(0.05,) * 5,
    joint_weights=(1,) * 5,
)
HAND_POINTS = np.array([[60.0, 20], [90, 50], [30, 50], [90, 90], [30, 90]])
GREY = np.full((120, 120, 3), 128, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(-1)


def test_a_person_is_drawn_on_a_copy():
    image = np.random.default_rng(1).integers(0, 256, (100, 160, 3), np.uint8)
    before, points = image.copy(), np.random.default_rng(0).uniform((0, 0), (159, 99), (17, 2))
    drawn = draw.persons(image, points, np.ones(17), COCO)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == before).all()
    for x, y in points.round().astype(int):
        assert changed(image, drawn)[y, x]


def test_sides_have_their_colours_and_limbs_lead_from_joint_to_joint():
    drawn = draw.persons(GREY, HAND_POINTS, np.ones(5), HAND)
    for (x, y), side in zip(HAND_POINTS.astype(int), ("MIDDLE", "LEFT", "RIGHT", "LEFT", "RIGHT"), strict=True):
        assert tuple(drawn[y, x]) == draw.COLOURS[getattr(draw, side)]
    for (x, y), side in (((90, 70), "LEFT"), ((30, 70), "RIGHT"), ((75, 35), "LEFT"), ((45, 35), "RIGHT")):
        np.testing.assert_allclose(drawn[y, x], draw.COLOURS[getattr(draw, side)], atol=25, err_msg=f"limb at {x}, {y}")
    assert not changed(GREY, drawn)[70, 60]


def test_joints_below_the_threshold_are_left_out_with_their_limbs():
    scores = np.array([0.9, 0.9, 0.1, 0.5, 0.9])
    drawn = changed(GREY, draw.persons(GREY, HAND_POINTS, scores, HAND, DrawOptions(0.5)))
    assert not drawn[40:60, 20:40].any()
    assert not drawn[70, 30] and drawn[90, 30]
    assert drawn[90, 90] and drawn[70, 90]
    assert not changed(GREY, draw.persons(GREY, HAND_POINTS, np.zeros(5), HAND)).any()


def test_drawing_is_finer_than_a_pixel():
    one, other = (draw.persons(GREY, HAND_POINTS + shift, np.ones(5), HAND) for shift in (0, 0.25))
    assert changed(one, other).any()


def test_points_outside_the_image_are_harmless():
    points = HAND_POINTS.copy()
    points[3], points[4] = (90, 1e12), (np.nan, 50)
    drawn = changed(GREY, draw.persons(GREY, points, np.ones(5), HAND))
    assert drawn[119, 90]
    assert not drawn[70, 30]
    assert not changed(GREY, draw.persons(GREY, HAND_POINTS + 500, np.ones(5), HAND)).any()


def test_small_persons_lie_over_large_ones_whatever_their_order():
    both = np.stack([HAND_POINTS, 60 + HAND_POINTS * 0.2])
    drawn = draw.persons(GREY, both, np.ones((2, 5)), HAND)
    assert (drawn == draw.persons(GREY, both[::-1], np.ones((2, 5)), HAND)).all()
    alone = draw.persons(GREY, both[1:], np.ones((1, 5)), HAND)
    place = tuple(both[1, 3].round().astype(int)[::-1])
    assert tuple(drawn[place]) == tuple(alone[place])
    np.testing.assert_allclose(drawn[place], draw.COLOURS[draw.LEFT], atol=30)
    assert not changed(GREY, draw.persons(GREY, np.zeros((0, 5, 2)), np.zeros((0, 5)), HAND)).any()


def test_a_box_runs_along_its_outermost_pixels_on_a_copy():
    before = GREY.copy()
    drawn = changed(GREY, draw.box(GREY, np.array([20, 30, 60, 50])))
    assert (before == GREY).all()
    assert drawn[30, 20:80].all() and drawn[79, 20:80].all() and drawn[30:80, 20].all() and drawn[30:80, 79].all()
    assert not drawn[34:76, 24:76].any() and not drawn[:26].any() and not drawn[:, 84:].any()
    assert draw.box(GREY, np.array([-1e7, -5, 3e7, 9])).shape == GREY.shape


def test_large_persons_have_wider_lines():
    def share(size: int) -> float:
        image = np.zeros((2 * size, 2 * size, 3), np.uint8)
        points = np.array([[0.5, 0.2], [0.8, 0.5], [0.2, 0.5], [0.8, 1.2], [0.2, 1.2]]) * size
        drawn = draw.persons(image, points, np.ones(5), HAND)
        return changed(image, drawn)[round(0.85 * size)].sum() / 2

    assert 2 <= share(30) < share(300) <= 12


def test_lines_grow_with_the_image_and_leave_a_small_person_to_be_seen():
    """Measured across the left side of the person, in pixels, at half of its height."""

    def wide(extent: int, longer_side: int) -> float:
        image = np.zeros((longer_side, longer_side, 3), np.uint8)
        points = (HAND_POINTS - (30, 20)) / 70 * extent + 40
        drawn = draw.persons(image, points, np.ones(5), HAND)
        row = drawn[round(40 + 0.75 * extent), round(40 + 0.5 * extent) :].max(-1)
        return row.sum() / row.max()

    assert wide(25, 640) < 3 and wide(25, 4000) < 4
    assert wide(350, 640) < 9
    assert wide(2000, 4000) > 3 * wide(500, 1000) > 0
    assert wide(100, 4000) > 1.5 * wide(100, 640)


def test_pixels_away_from_a_fine_line_are_unchanged():
    image = np.random.default_rng(3).integers(0, 256, (60, 60, 3), np.uint8)
    drawn = draw.persons(image, HAND_POINTS[:2] * 0.3, np.ones(2), dataclasses.replace(HAND, names=("a", "b"), **TWO))
    assert changed(image, drawn).any()
    assert not changed(image, drawn)[:, 36:].any() and not changed(image, drawn)[24:].any()


TWO = {"pairs": (), "limbs": ((0, 1),), "sigmas": (0.05,) * 2, "joint_weights": (1,) * 2, "upper_body": ()}
BOX = np.array([[40.0, 20, 160, 190]])


def test_boxes_scores_ids_and_names_are_drawn_if_asked():
    def drawn(parts: tuple[str, ...] | None, **given) -> np.ndarray:
        return draw.persons(image, 2 * HAND_POINTS, np.ones(5), HAND, DrawOptions(parts=parts), **given)

    image = np.full((240, 240, 3), 128, np.uint8)
    plain = drawn(())
    ellipses = np.tile(100 * np.eye(2), (1, 5, 1, 1))
    given = {"boxes": BOX, "person_scores": np.array([0.5]), "ellipses": ellipses}
    pictures = [drawn((part,), **given) for part in draw.PARTS]
    for i, one in enumerate(pictures):
        assert (one != plain).any() and not any((one == other).all() for other in pictures[:i])
    assert changed(pictures[0], plain)[20, 40:200].all()
    np.testing.assert_array_equal(drawn(None, **given), plain)
    np.testing.assert_array_equal(drawn(None, ids=np.array([7])), drawn(("ids",), ids=np.array([7])))
    assert (drawn(("ids",), ids=np.array([7])) != drawn(("ids",), ids=np.array([8]))).any()


def test_what_is_written_of_a_small_person_is_small_whatever_the_image():
    image, box = np.full((2000, 2000, 3), 128, np.uint8), np.array([[500.0, 500, 12, 25]])
    drawn = [
        draw.persons(image, box[0, :2] + HAND_POINTS / 5, np.ones(5), HAND, DrawOptions(parts=p))
        for p in ((), ("ids",))
    ]
    rows, columns = np.nonzero(changed(*drawn))
    assert 7 <= np.ptp(rows) < 15 and np.ptp(columns) < 25


def test_names_lie_inside_the_image_and_not_on_each_other():
    """Of two keypoints one on the other at the right edge, each name is drawn as one alone in the middle is."""
    skeleton = dataclasses.replace(COCO, names=("left_shoulder", "left_shoulder", *COCO.names[2:]), limbs=())
    canvas, points = np.full((400, 400, 3), 128, np.uint8), np.full((1, 17, 2), np.nan)
    points[0, 2:4] = [(20, 20), (380, 380)]  # so that the person is large
    shown = np.array([[False, False, True, True] + [False] * 13])

    def inked(places: list[tuple[float, float]]) -> int:
        for i, place in enumerate(places):
            points[0, i], shown[0, i] = place, True
        drawn = [
            draw.persons(canvas, points, shown.astype(float), skeleton, DrawOptions(0.5, parts))
            for parts in ((), ("names",))
        ]
        return int((drawn[0] != drawn[1]).any(-1).sum())

    rest = inked([])
    alone = inked([(200, 200)]) - rest
    assert alone > 100
    assert abs(inked([(397, 200), (397, 200)]) - rest - 2 * alone) < 0.1 * alone


def test_an_id_without_a_box_is_drawn_above_the_highest_keypoint():
    canvas, points = np.zeros((400, 400, 3), np.uint8), np.full((1, 17, 2), 300.0)
    points[0, 0] = 200, 100
    given = {"boxes": np.array([[50.0, 50, 300, 300]]), "ids": np.array([3])}
    without = draw.persons(canvas, points, np.ones((1, 17)), COCO, DrawOptions(parts=()), **given)
    rows, columns = (draw.persons(canvas, points, np.ones((1, 17)), COCO, **given) != without).any(-1).nonzero()
    assert 50 < rows.min() and rows.max() < 100 and abs(columns.mean() - 200) < 30


def test_names_are_outlined():
    image = np.full((240, 240, 3), 255, np.uint8)
    drawn = [draw.persons(image, 2 * HAND_POINTS, np.ones(5), HAND, DrawOptions(parts=p)) for p in ((), ("names",))]
    dark, light = ((picture.max(-1) < 90).sum() for picture in drawn[::-1])
    assert dark - light > 0.2 * changed(*drawn).sum()


def test_colours_are_of_sides_persons_or_keypoints():
    both = np.stack([HAND_POINTS, HAND_POINTS[:, ::-1]])
    shown = draw.persons(GREY, both, np.ones((2, 5)), HAND, DrawOptions(color_by="person"))
    for points, colour in zip(both, draw.PERSONS, strict=False):
        assert tuple(shown[tuple(points[0].astype(int)[::-1])]) == colour
    by_id = draw.persons(GREY, both[:1], np.ones((1, 5)), HAND, DrawOptions(color_by="person"), ids=np.array([9]))
    assert tuple(by_id[90, 90]) == draw.PERSONS[9 % len(draw.PERSONS)]

    no_pairs = dataclasses.replace(HAND, pairs=())
    for skeleton, options in ((HAND, DrawOptions(color_by="keypoint")), (no_pairs, DrawOptions())):
        key = options.key(skeleton)
        assert [name for name, _ in key] == list(HAND.names) and len({colour for _, colour in key}) == 5
        shown = draw.persons(GREY, HAND_POINTS, np.ones(5), skeleton, options)
        assert [tuple(shown[y, x]) for x, y in HAND_POINTS.astype(int)] == [colour for _, colour in key]
    assert DrawOptions().key(HAND) == DrawOptions(color_by="person").key(HAND) == []


@pytest.mark.parametrize("wrong", [{"parts": ("boxes", "faces")}, {"color_by": "age"}], ids=str)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(UserError, match=r"'faces' cannot be drawn; name some of boxes|not by 'age'"):
        DrawOptions(**wrong)


def test_a_picture_needs_a_known_ending(tmp_path):
    assert draw.encode(GREY, tmp_path / "a.png").startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"a\.doc: no image format has this ending; choose a name that ends in \.png"):
        draw.encode(GREY, tmp_path / "a.doc")


RESULT = {"image_id": 21167, "category_id": 1, "keypoints": [200.0, 300.0, 0.9] * 17, "score": 0.8}


def test_the_tool_draws_the_image_with_persons_first_and_the_annotated_ones_beside_it(tmp_path):
    results = tmp_path / "found.json"
    results.write_text(json.dumps([RESULT, RESULT | {"image_id": 1}, RESULT | {"image_id": 343218, "score": 0.1}]))
    configuration = ROOT / "experiments" / "coco_sample" / "demo.yaml"
    command = [sys.executable, ROOT / "tools" / "draw_results.py", "--cfg", configuration, "--results", results]
    run = subprocess.run([*command, "--images", "2", "--columns", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "1 person(s) on 2 of 32 images" in run.stdout
    sheet = cv2.imread(str(tmp_path / "found.png"))
    assert sheet.shape == (
        2 * (300 + sheets.LABEL_HEIGHT + sheets.MARGIN) + sheets.MARGIN,
        2 * 400 + 3 * sheets.MARGIN,
        3,
    )
    image = cv2.imread(str(ROOT / "data" / "coco_sample" / "images" / "val2017" / "000000021167.jpg"))
    shown, to_cell = sheets.fit(image, (400, 300))
    left = sheets.MARGIN + (400 - shown.shape[1]) // 2
    drawn = changed(shown, sheet[sheets.MARGIN : sheets.MARGIN + 300, left : left + shown.shape[1]])
    x, y = geometry.apply(to_cell, np.array(RESULT["keypoints"][:2])).round().astype(int)
    assert drawn[y, x] and drawn.sum() < 50


def test_a_score_threshold_above_all_reports_the_best_score(tmp_path):
    results = tmp_path / "found.json"
    results.write_text(json.dumps([RESULT | {"score": 0.1}]))
    with pytest.raises(
        UserError, match=r"found.json: no instance is scored 0.3 or more, the best has 0.1; lower --score"
    ):
        draw_results(["--cfg", str(ROOT / "experiments/coco_sample/demo.yaml"), "--results", str(results)])
