"""Geometry and codec under any input that hypothesis can think of.

What is tried is drawn from the test's own text, so that a run in CI can be had again; with HYPOTHESIS_PROFILE=thorough
twenty times as much is tried, drawn anew each time.
"""

import os

import numpy as np
import pytest
import torch
from helpers.goldens import HEATMAP, INPUT, sample_instances
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from transpose.core.predict import Predictions, to_image
from transpose.errors import UserError
from transpose.evaluation.evaluate import refuse_broken
from transpose.pose import geometry, heatmap
from transpose.pose.skeleton import COCO

settings.register_profile("quick", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

WITHIN = 1e-4  # pixels
SIZES = (HEATMAP, INPUT, (72, 96), (288, 384), (16, 16))
coordinates = st.floats(-10_000, 10_000)
sides = st.floats(2, 10_000)
points = arrays(np.float64, (5, 2), elements=coordinates)


def crop_of(box: tuple[float, ...], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre (2) and scale (2)."""
    center, scale = geometry.boxes_to_crops(np.array([box]), size[0] / size[1])
    return center[0], scale[0]


# Geometry


@given(
    box=st.tuples(coordinates, coordinates, sides, sides),
    zoom=st.floats(0.5, 2),
    rotation=st.floats(-180, 180),
    width=st.integers(1, 10_000),
    flip=st.booleans(),
    size=st.sampled_from(SIZES),
    there=points,
)
@example((0, 0, 2, 2), 0.5, 90.0, 1, True, INPUT, np.full((5, 2), 1e4))
def test_any_crop_undoes_itself(box, zoom, rotation, width, flip, size, there):
    center, scale = crop_of(box, size)
    scale = scale * np.float32(zoom)
    if scale[0] * geometry.PIXEL_STD <= 1.5:
        return  # of less than half a pixel step; what is refused stands in test_bad_input
    if flip:
        center = geometry.flip_points(center, width).astype(np.float32)
    mirrored = geometry.flip_points(there, width) if flip else there
    maps = [geometry.crop_to_output(center, scale, rotation, size, inverse=inverse) for inverse in (False, True)]
    assert np.isfinite(maps).all()
    back = geometry.apply(maps[1], geometry.apply(maps[0], mirrored))
    back = geometry.flip_points(back, width) if flip else back
    np.testing.assert_allclose(back, there, rtol=0, atol=WITHIN)


@given(
    box=st.tuples(st.floats(0, 1500), st.floats(0, 1500), st.floats(10, 1500), st.floats(10, 1500)),
    inside=arrays(np.float64, (1, 17, 2), elements=st.floats(0, 1)),
)
def test_float32_holds_keypoints_of_images_up_to_2048_pixels(box, inside):
    """As a sample holds them and as predictions do: heatmap pixels, and back into image pixels."""
    center, scale = crop_of(box, INPUT)
    there = np.minimum(np.array(box[:2]) + inside * np.array(box[2:]), 2047)
    to_heatmap = geometry.crop_to_output(center, scale, 0, HEATMAP)
    exact = geometry.apply(to_heatmap, there)
    held = exact.astype(np.float32)
    assert abs(held - exact).max() < WITHIN
    matrix = torch.from_numpy(geometry.crop_to_output(center, scale, 0, HEATMAP, inverse=True))[None]
    back = to_image(torch.from_numpy(exact), matrix)
    assert (back.float() - torch.from_numpy(there)).abs().max() < WITHIN
    # What the heatmap's rounding becomes in the image: as many times as much as the crop is larger.
    larger = 1 / np.hypot(*to_heatmap[0, :2])
    rounded = to_image(torch.from_numpy(held), matrix)
    assert (rounded - torch.from_numpy(there)).abs().max() < 2**-24 * 64 * larger + 1e-9


@given(
    st.lists(st.tuples(coordinates, coordinates, st.floats(-100, 1e4), st.floats(-100, 1e4)), min_size=1, max_size=9)
)
def test_clean_boxes_lie_in_their_image(boxes):
    sizes = np.full((len(boxes), 2), (640, 480))
    clean, valid = geometry.clean_boxes(np.array(boxes), sizes)
    for x, y, w, h in clean[valid]:
        assert x >= 0 and y >= 0 and w >= 1 and h >= 1
        assert x + w <= 640 + 1e-9 and y + h <= 480 + 1e-9


# Codec


@given(
    place=st.tuples(st.floats(2, HEATMAP[0] - 3), st.floats(2, HEATMAP[1] - 3)),
    sigma=st.floats(1, 4),
    height=st.floats(1e-3, 1e3),
)
@example((2.5, 2.5), 2.0, 1.0)
def test_decoding_without_blur_inverts_encoding(place, sigma, height):
    """Up to two pixels from the border, where a peak is not refined."""
    maps, weight = heatmap.encode(torch.tensor([[place]]), torch.ones(1, 1), HEATMAP, sigma)
    found, score = heatmap.decode(height * maps, 1)
    assert weight.item() == 1 and 0 < score.item() <= height * (1 + 1e-6)
    assert (found[0, 0] - torch.tensor(place)).abs().max() < WITHIN


@given(
    place=st.tuples(st.floats(7, HEATMAP[0] - 8), st.floats(7, HEATMAP[1] - 8)),
    kernel=st.sampled_from([3, 5, 7, 11]),
    height=st.floats(1e-3, 1e3),
)
def test_decoding_inverts_encoding(place, kernel, height):
    """As closely as a blur that is no Gaussian, or one cut off after 11 pixels, leaves the logarithm a paraboloid."""
    maps, _ = heatmap.encode(torch.tensor([[place]]), torch.ones(1, 1), HEATMAP, 2.0)
    found, _ = heatmap.decode(height * maps, kernel)
    assert (found[0, 0] - torch.tensor(place)).abs().max() < 2e-3


shapes = array_shapes(min_dims=2, max_dims=2, min_side=5, max_side=14)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
MAPS = {
    "any": arrays(np.float32, shapes, elements=finite),
    "denormal": arrays(np.float32, shapes, elements=st.floats(0, 2.0**-126, width=32)),
    "near_one": arrays(np.float32, shapes, elements=st.floats(1 - 2.0**-21, 1 + 2.0**-21, width=32)),
    "negative": arrays(np.float32, shapes, elements=st.floats(max_value=0, allow_infinity=False, width=32)),
    "constant": st.builds(np.full, shapes, finite, st.just(np.float32)),
}


@pytest.mark.parametrize("kind", MAPS)
@given(data=st.data(), kernel=st.sampled_from([1, 3, 5, 11]))
def test_any_finite_map_decodes_to_finite_numbers(kind, data, kernel):
    values = data.draw(MAPS[kind])
    found, scores = heatmap.decode(torch.from_numpy(values)[None, None], kernel)
    assert found.isfinite().all() and scores.isfinite().all()
    assert scores.item() == values.max()
    if values.max() <= 0:
        assert found.abs().max() == 0


def test_a_step_beyond_float32_is_not_taken(monkeypatch):
    maps, _ = heatmap.encode(torch.full((1, 1, 2), 20.3), torch.ones(1, 1), HEATMAP, 2.0)
    monkeypatch.setattr(heatmap, "_newton_step", lambda log: torch.full((len(log), 2), 1e60, dtype=torch.float64))
    assert heatmap.decode(maps, 11)[0].tolist() == [[[20, 20]]]


@given(
    values=arrays(np.float32, (1, 3, 9, 8), elements=st.floats(-1, 1, width=32)),
    bad=st.sampled_from([np.nan, np.inf]),
    place=st.tuples(st.integers(0, 8), st.integers(0, 7)),
    kernel=st.sampled_from([1, 3, 11]),
)
def test_a_map_with_nan_has_a_nan_score(values, bad, place, kernel):
    """NaN and infinity come out as the score, the joint stays a place of the map, and other maps are untouched."""
    spoilt = values.copy()
    spoilt[0, 1, *place] = bad
    (found, scores), (usual, _) = (heatmap.decode(torch.from_numpy(maps), kernel) for maps in (spoilt, values))
    np.testing.assert_equal(scores[0, 1].item(), bad)
    assert found.isfinite().all()
    assert torch.equal(found[:, [0, 2]], usual[:, [0, 2]])
    # Which is what keeps it out of a results file.
    people = sample_instances()
    predictions = Predictions(np.array([3]), found.numpy(), scores.numpy(), np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(UserError, match="1 of 1 predicted persons have keypoints or scores that are NaN or infinite"):
        refuse_broken(people, predictions)


@given(values=arrays(np.float32, (1, 17, 6, 8), elements=finite))
def test_any_maps_flip_back(values):
    order, maps = torch.from_numpy(COCO.flip_order), torch.from_numpy(values)
    assert torch.equal(heatmap.flip(heatmap.flip(maps, order), order), maps)
