"""Coordinates in another unit than pixels: what is refused, what is doubted, and what is left alone."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.goldens import sample_annotations

from transpose.dataset import mpii
from transpose.dataset.coco import check_units
from transpose.dataset.findings import Findings
from transpose.errors import UserError
from transpose.evaluation.results import read_results

SHARES = np.array(  # x, y, w, h of six boxes as shares of the image
    [
        *([0.1, 0.1, 0.2, 0.5], [0.3, 0.2, 0.3, 0.7], [0.6, 0.3, 0.3, 0.6]),
        *([0.5, 0.1, 0.1, 0.3], [0.0, 0.4, 0.4, 0.6], [0.8, 0.2, 0.2, 0.4]),
    ]
)
CORNERS = np.concatenate([SHARES[:, :2], SHARES[:, :2] + SHARES[:, 2:]], 1)
PIXELS = SHARES * (640, 480, 640, 480)
FRACTIONS, PERCENT, BEYOND = "like fractions of the image", "like percent of the image", "reach beyond their image"


@pytest.mark.parametrize(
    ("boxes", "size", "says", "stops"),
    [
        (SHARES, (640, 480), FRACTIONS, True),
        (SHARES, (0, 0), FRACTIONS, True),
        (CORNERS, (640, 480), FRACTIONS, True),
        (np.concatenate([PIXELS, SHARES[:1]]), (640, 480), FRACTIONS, True),
        (np.concatenate([PIXELS] * 4 + [SHARES[:1]]), (640, 480), FRACTIONS, False),
        (100 * SHARES, (640, 480), PERCENT, True),
        (104 * SHARES, (640, 480), PERCENT, True),
        (100 * SHARES, (0, 0), "", False),
        (100 * SHARES * (0.7, 1, 0.7, 1), (640, 480), PERCENT, False),
        (100 * SHARES[:3], (640, 480), "", False),
        (100 * SHARES, (150, 150), "", False),
        (1000 * SHARES, (640, 480), BEYOND, False),
        (np.concatenate([PIXELS[:, :2], PIXELS[:, :2] + PIXELS[:, 2:]], 1), (640, 480), BEYOND, False),
        (PIXELS, (640, 480), "", False),
        (0 * PIXELS, (640, 480), "", False),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else str(value),
)
def test_boxes_in_another_unit(boxes, size, says, stops):
    findings = Findings()
    sizes = np.tile(size, (len(boxes), 1))
    sizes[0] = 1.2 * sizes[0]
    check_units(findings, "the boxes", boxes.reshape(-1, 2, 2), sizes, np.arange(len(boxes)))
    assert all(says in finding.says for finding in findings) and bool(findings) == bool(says)
    assert any(finding.error for finding in findings) == stops


@pytest.mark.parametrize(("images", "sizes"), [([0], [300]), (range(6), [300]), ([1, 2], [300, 400])])
def test_a_group_in_the_corner_of_few_images_or_of_images_of_one_size_is_only_doubted(images, sizes):
    findings = Findings()
    each = np.resize(sizes, (2, 6)).T
    check_units(findings, "the boxes", (100 * SHARES).reshape(-1, 2, 2), each, np.resize(images, 6))
    assert [PERCENT in finding.says and finding.error for finding in findings] == [""]


def test_results_in_fractions_are_refused_and_in_percent_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    annotations, path = sample_annotations(), tmp_path / "found.json"
    sizes = dict(zip(annotations.images.ids.tolist(), annotations.images.sizes.min(1).tolist(), strict=True))
    images = [number for number, side in sizes.items() if side > 200][:6]

    def write(unit: float) -> None:
        rows = [[unit * x, unit * y, 0.9] * 17 for x, y in SHARES[:, :2] + SHARES[:, 2:] / 2]
        content = [
            {"image_id": i, "category_id": 1, "score": 1, "keypoints": row} for i, row in zip(images, rows, strict=True)
        ]
        path.write_text(json.dumps(content))

    write(1)
    with pytest.raises(UserError, match="the mean keypoints of 6 of 6 lie within one pixel, like fractions"):
        read_results(path, annotations, 17)
    write(100)
    with caplog.at_level(logging.WARNING):
        assert len(read_results(path, annotations, 17)["score"]) == 6
    assert "the mean keypoints of all 6 lie within 100 x 100 pixels, like percent of the image" in caplog.text


def test_mpii_in_fractions_is_refused(tmp_path: Path):
    record = {"image": "a.jpg", "joints": [[0.4, 0.6]] * 16, "joints_vis": [1] * 16, "center": [30, 40], "scale": 1}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match="the joints of 1 of 1 lie within one pixel, like fractions of the image"):
        mpii.annotated_instances(mpii.read_annotations(tmp_path / "a.json", 16))
    (tmp_path / "a.json").write_text(json.dumps([record | {"joints": [[30, 40]] * 16, "center": [0.3, 0.4]}]))
    with pytest.raises(UserError, match="the centers of 1 of 1 lie within one pixel"):
        mpii.annotated_instances(mpii.read_annotations(tmp_path / "a.json", 16))
