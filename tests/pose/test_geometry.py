"""Geometry: the original's crops and maps, and the guarantees of the conventions."""

import json

import numpy as np
import pytest
import torch
from helpers.goldens import GOLDEN, HEATMAP, INPUT, golden, sample_annotations, sample_instances

from transpose.dataset.topdown import half_body_crop
from transpose.pose import geometry, heatmap
from transpose.pose.skeleton import COCO

ASPECT = INPUT[0] / INPUT[1]
CENTER, SCALE = np.array([300.5, 200.25], np.float32), np.array([0.9, 1.2], np.float32)


# Boxes and crops


@pytest.mark.parametrize(
    "box, clean, valid",
    [
        ([10, 20, 30, 40], [10, 20, 30, 40], True),
        ([-5, -6, 30, 40], [0, 0, 30, 40], True),
        ([80, 90, 30, 40], [80, 90, 20, 30], True),
        ([10, 20, 0, 0.5], [10, 20, 1, 1], True),
        ([99, 119, 5, 5], [99, 119, 1, 1], True),
        ([100, 20, 5, 5], [100, 20, 0, 5], False),
        ([20, 120, 5, 5], [20, 120, 5, 0], False),
        ([-9, 20, 5, 5], [0, 20, 5, 5], False),
        ([20, -5, 5, 5], [20, 0, 5, 5], False),
        ([20, 20, 0, 0], [20, 20, 1, 1], False),
        ([20, 20, -5, 40], [20, 20, 1, 40], False),
    ],
)
def test_boxes_are_clipped_to_the_image(box, clean, valid):
    boxes, valids = geometry.clean_boxes(np.array([box], float), np.array([[100, 120]]))
    assert boxes.tolist() == [clean] and valids.tolist() == [valid]


@pytest.mark.parametrize("box, shown", [([10, 20, 40, 40], (40, 160 / 3)), ([10, 20, 30, 80], (60, 80))])
def test_crop_shows_the_box_grown_to_the_inputs_aspect_and_padded(box, shown):
    center, scale = geometry.boxes_to_crops(np.array([box]), ASPECT)
    np.testing.assert_allclose(center, [[box[0] + (box[2] - 1) / 2, box[1] + (box[3] - 1) / 2]])
    np.testing.assert_allclose(scale, [np.array(shown) * 1.25 / 200], rtol=1e-6)
    np.testing.assert_allclose(geometry.crop_areas(scale), [np.prod(shown) * 1.25**2], rtol=1e-6)


@pytest.mark.parametrize("upper", [True, False])
def test_half_body_crops_are_the_originals(upper):
    wanted, people = golden("half_body"), sample_instances()
    rows = np.flatnonzero(wanted["upper"] == upper)
    assert len(rows) == len(people)
    assert set(wanted["valid"][rows]) == {0, 1}
    for row in rows:
        index = wanted["record"][row]
        keypoints, visible = people.keypoints[index], people.visible[index]
        assert visible.sum() == wanted["visible"][row]
        half = half_body_crop(keypoints, visible, COCO, ASPECT, prefer_upper=upper)
        assert (half is not None) == wanted["valid"][row]
        if half is not None:
            np.testing.assert_allclose(half[0], wanted["center"][row], rtol=0, atol=1e-4)
            np.testing.assert_allclose(half[1], wanted["scale"][row], rtol=0, atol=1e-5)


# Maps


def test_augmented_maps_joints_and_targets_are_the_originals():
    wanted, people = golden("augment"), sample_instances()
    assert set(wanted["flip"]) == {0, 1} and abs(wanted["rotation"]).max() > 45
    base, _ = geometry.boxes_to_crops(people.boxes, ASPECT)
    for row, index in enumerate(wanted["record"]):
        center, keypoints, visible = base[index], people.keypoints[index], people.visible[index]
        if wanted["flip"][row]:
            width = people.images.sizes[people.image[index], 0]
            center = geometry.flip_points(center, width).astype(np.float32)
            keypoints = geometry.flip_points(keypoints, width)[COCO.flip_order]
            visible = visible[COCO.flip_order]
        np.testing.assert_allclose(center, wanted["center"][row], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(visible, wanted["vis"][row])
        for name, size in (("input", INPUT), ("heatmap", HEATMAP)):
            to_output = geometry.crop_to_output(center, wanted["scale"][row], wanted["rotation"][row], size)
            np.testing.assert_allclose(to_output, wanted[f"to_{name}"][row], rtol=0, atol=1e-4)
            joints = geometry.apply(to_output, keypoints)
            np.testing.assert_allclose(
                joints[visible > 0], wanted[f"joints_{name}"][row][visible > 0], rtol=0, atol=1e-4
            )
        # The heatmap's joints are the last ones.
        target, weight = heatmap.encode(
            torch.from_numpy(joints).float()[None], torch.from_numpy(visible)[None], HEATMAP, 2.0
        )
        np.testing.assert_array_equal(weight[0].numpy(), wanted["target_weight"][row])
        np.testing.assert_allclose(target[0].sum((1, 2)).numpy(), wanted["target_sum"][row], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(target[0].flatten(1).argmax(1).numpy(), wanted["target_argmax"][row])


def test_predictions_of_the_released_weights_land_on_the_annotated_person():
    wanted = json.loads((GOLDEN / "published_prediction.json").read_text())
    center, scale = geometry.boxes_to_crops(np.array([wanted["bbox"]]), ASPECT)
    np.testing.assert_allclose(center[0], wanted["center"], atol=1e-4)
    np.testing.assert_allclose(scale[0], wanted["scale"], atol=1e-6)
    on_heatmap = (np.array(wanted["query_locations"]) - 0.5) / 4
    found = geometry.apply(geometry.crop_to_output(center[0], scale[0], 0, HEATMAP, inverse=True), on_heatmap)
    np.testing.assert_allclose(found, wanted["image_locations"], atol=1e-3)

    annotation = next(a for a in sample_annotations().as_dicts() if a["id"] == wanted["annotation_id"])
    truth = np.array(annotation["keypoints"], float).reshape(-1, 3)
    spread = 2 * annotation["area"] * (2 * np.array(COCO.sigmas)) ** 2
    similarity = np.exp(-((found - truth[:, :2]) ** 2).sum(1) / spread)
    assert similarity[truth[:, 2] > 0].mean() >= 0.983


@pytest.mark.parametrize("rotation", [0.0, 30.0, -75.0])
@pytest.mark.parametrize("size", [INPUT, HEATMAP])
def test_inverse_map_undoes_the_map(size, rotation):
    there = geometry.crop_to_output(CENTER, SCALE, rotation, size)
    back = geometry.crop_to_output(CENTER, SCALE, rotation, size, inverse=True)
    points = np.random.default_rng(0).uniform(0, 500, (20, 2))
    np.testing.assert_allclose(geometry.apply(back, geometry.apply(there, points)), points, atol=1e-6)


def test_map_takes_centre_to_centre_and_crop_edge_to_the_last_pixel():
    to_input = geometry.crop_to_output(CENTER, SCALE, 0, INPUT)
    half = (SCALE[0] * 200 - 1) / 2
    found = geometry.apply(to_input, np.array([CENTER, CENTER - np.array([half, 0]), CENTER + np.array([half, 0])]))
    np.testing.assert_allclose(found, [[95.5, 127.5], [0, 127.5], [191, 127.5]], atol=1e-3)


def test_positive_rotation_turns_the_content_counter_clockwise():
    to_input = geometry.crop_to_output(CENTER, SCALE, 90, INPUT)
    right_of_centre = geometry.apply(to_input, CENTER + np.array([10.0, 0]))
    factor = (INPUT[0] - 1) / (SCALE[0] * 200 - 1)
    np.testing.assert_allclose(right_of_centre, [95.5, 127.5 - 10 * factor], atol=1e-3)


def test_heatmap_pixels_lie_where_the_inputs_pixels_of_the_same_crop_do():
    points = np.random.default_rng(0).uniform(100, 400, (20, 2))
    on_input, on_heatmap = (
        geometry.apply(geometry.crop_to_output(CENTER, SCALE, 20, size), points) for size in (INPUT, HEATMAP)
    )
    np.testing.assert_allclose(geometry.heatmap_to_input(on_heatmap, HEATMAP, INPUT), on_input, atol=1e-3)


def test_flipped_points_are_mirrored_pixels_and_flip_back():
    points = np.array([[0.0, 5.0], [99.0, 6.0], [49.5, 7.0]])
    assert geometry.flip_points(points, 100).tolist() == [[99, 5], [0, 6], [49.5, 7]]
    assert geometry.flip_points(geometry.flip_points(points, 100), 100).tolist() == points.tolist()
