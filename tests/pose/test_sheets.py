"""Sheets: a cell for each image, titles, legends, crops with keypoints and heatmaps."""

import numpy as np
import pytest

from transpose.pose import geometry, sheets
from transpose.pose.skeleton import COCO


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(-1)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (7, 400), (30, 40)])
def test_fit_keeps_the_aspect_and_its_map_follows_the_pixels(shape):
    image = np.zeros((*shape, 3), np.uint8)
    place = np.array([shape[1] // 3, shape[0] // 2])
    image[place[1], place[0]] = 255
    fitted, to_fitted = sheets.fit(image, (240, 180))
    height, width = fitted.shape[:2]
    assert width == 240 or height == 180
    assert width <= 240 and height <= 180
    assert abs(width / shape[1] * shape[0] - height) <= 1
    weight = fitted[..., 0].astype(float)
    centre = [(weight.sum(0) * np.arange(width)).sum(), (weight.sum(1) * np.arange(height)).sum()] / weight.sum()
    np.testing.assert_allclose(geometry.apply(to_fitted, place), centre, atol=0.15)


def test_mosaic_has_a_cell_for_each_image_and_shows_it():
    images = [np.full((*shape, 3), 10 * i, np.uint8) for i, shape in enumerate([(30, 60), (60, 30), (9, 9), (50, 50)])]
    sheet = sheets.mosaic(images, columns=3, cell=(80, 60))
    assert sheet.shape == (2 * 60 + 3 * sheets.MARGIN, 3 * 80 + 4 * sheets.MARGIN, 3)
    assert tuple(sheet[0, 0]) == sheets.PAPER
    for i in range(4):
        row, column = divmod(i, 3)
        y, x = (sheets.MARGIN + 30 + row * (60 + sheets.MARGIN), sheets.MARGIN + 40 + column * (80 + sheets.MARGIN))
        assert tuple(sheet[y, x]) == (10 * i,) * 3
    assert sheets.mosaic(images[:1], columns=3, cell=(80, 60)).shape == (
        60 + 2 * sheets.MARGIN,
        80 + 2 * sheets.MARGIN,
        3,
    )


def test_labels_are_below_their_image_and_cut_to_its_width():
    images = [np.zeros((60, 80, 3), np.uint8)] * 2
    sheet = sheets.mosaic(images, columns=2, cell=(80, 60), labels=["a.jpg", "a very long name of an image.jpg"])
    assert sheet.shape[0] == 60 + sheets.LABEL_HEIGHT + 2 * sheets.MARGIN
    beneath = changed(sheet[sheets.MARGIN + 60 :], np.full_like(sheet[sheets.MARGIN + 60 :], sheets.PAPER[0]))
    first, gap, second = np.split(beneath, [sheets.MARGIN + 80, 2 * sheets.MARGIN + 80], axis=1)
    assert first.any() and second.any() and not gap.any()
    assert not second[:, 80:].any()


def test_a_title_takes_as_many_lines_as_its_text_and_keeps_the_sheet():
    sheet = np.full((50, 300, 3), 128, np.uint8)
    short, long = (sheets.titled(sheet, "mirrored persons " * count) for count in (1, 8))
    assert short.shape[1] == long.shape[1] == 300 and 50 < len(short) < len(long)
    assert (short[-50:] == 128).all() and (long[-50:] == 128).all()
    assert changed(long[:-50], np.full_like(long[:-50], 255))[:, :-5].any() and (long[:-50, -5:] == 255).all()


def test_a_legend_below_names_each_colour():
    sheet = np.full((50, 300, 3), 128, np.uint8)
    assert sheets.legend(sheet, []) is sheet
    explained = sheets.legend(sheet, sheets.SIDES)
    assert explained.shape[1] == 300 and (explained[:50] == 128).all()
    for _, colour in sheets.SIDES[:2]:
        assert (explained[50:] == colour).all(-1).any()
    many = sheets.legend(sheet, [(f"keypoint {number}", (0, 0, 9 * number)) for number in range(1, 20)])
    assert len(many) > len(explained) and many.shape[1] == 300
    assert sheets.legend(sheet, [("a keypoint with a name that is wider than the picture", (0, 0, 9))]).shape[1] > 300


def test_crops_show_their_visible_keypoints_and_no_more_than_32():
    crops = np.full((40, 64, 48, 3), 128, np.uint8)
    points = np.stack([np.random.default_rng(0).uniform((0, 0), (47, 63), (17, 2))] * 40)
    visible = np.zeros((40, 17), np.float32)
    visible[0] = 1
    # As a view with its channels turned round, which is how a batch of RGB crops comes.
    grid = sheets.crops_with_keypoints(crops[..., ::-1], points, visible, COCO)
    assert grid.shape == (4 * (64 + sheets.MARGIN) + sheets.MARGIN, 8 * (48 + sheets.MARGIN) + sheets.MARGIN, 3)
    cells = grid[sheets.MARGIN :, sheets.MARGIN :]
    assert (cells[:64, :48] != 128).any()
    assert (cells[:64, 48 + sheets.MARGIN : 2 * 48 + sheets.MARGIN] == 128).all()


def test_heatmaps_shine_where_the_keypoint_is():
    crops = np.full((10, 128, 96, 3), 90, np.uint8)[..., ::-1]
    maps = np.zeros((10, 5, 32, 24), np.float32)
    maps[0, 2, 8, 18] = 1
    picture = sheets.heatmaps(crops, maps)
    step_x, step_y = 48 + sheets.MARGIN, 64 + sheets.MARGIN
    assert picture.shape == (8 * step_y + sheets.MARGIN, 6 * step_x + sheets.MARGIN, 3)
    overlay = picture[sheets.MARGIN : sheets.MARGIN + 64, sheets.MARGIN + 3 * step_x :][:, :48].astype(int).sum(-1)
    y, x = np.unravel_index(overlay.argmax(), overlay.shape)
    expected = (geometry.heatmap_to_input(np.array([18, 8]), (24, 32), (96, 128)) - 0.5) / 2
    assert np.abs(np.array([x, y]) - expected).max() <= 1

    keypoints = np.full((10, 5, 2), 20.0)
    marked = changed(picture, sheets.heatmaps(crops, maps, keypoints))
    columns = {(x - sheets.MARGIN) // step_x for x in np.flatnonzero(marked.any(0))}
    assert columns == {0, 3}, "only the joint whose map is not empty is marked, on its map and on the crop"
