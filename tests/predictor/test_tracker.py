"""Tracking: ids from frame to frame, and keypoints that do not jitter when the person is at rest."""

from pathlib import Path

import numpy as np
import pytest

from transpose.pose.skeleton import COCO
from transpose.predictor.image import InputImage
from transpose.predictor.result import PoseResult
from transpose.predictor.tracker import Tracker

RATE = 25.0


def result(boxes: list, keypoints: np.ndarray | None = None) -> PoseResult:
    count = len(boxes)
    if keypoints is None:
        keypoints = np.array([np.tile([box[0], box[1]], (17, 1)) for box in boxes], np.float32).reshape(count, 17, 2)
    one = np.ones(count)
    table = np.array(boxes, float).reshape(-1, 4)
    scores = np.ones((count, 17), np.float32)
    return PoseResult(InputImage(Path("frame"), "frame"), (640, 480), keypoints, scores, one, table, one, COCO)


def ids(tracker: Tracker, boxes: list) -> list[int]:
    return tracker(result(boxes)).ids.tolist()


def test_persons_keep_their_ids_whatever_their_order():
    tracker = Tracker(RATE)
    assert ids(tracker, [[0, 0, 50, 100], [200, 0, 50, 100]]) == [1, 2]
    assert ids(tracker, [[205, 0, 50, 100], [5, 0, 50, 100]]) == [2, 1]
    assert ids(tracker, [[10, 0, 50, 100], [400, 0, 50, 100]]) == [1, 3]
    assert ids(tracker, []) == []
    assert ids(tracker, [[400, 2, 50, 100], [10, 0, 50, 100], [205, 0, 50, 100]]) == [3, 1, 2]


def test_of_two_overlapping_instances_the_closer_is_matched():
    tracker = Tracker(RATE)
    assert ids(tracker, [[0, 0, 50, 100], [30, 0, 50, 100]]) == [1, 2]
    assert ids(tracker, [[25, 0, 50, 100], [2, 0, 50, 100]]) == [2, 1]
    assert ids(tracker, [[26, 0, 50, 100], [27, 0, 50, 100]]) == [2, 1]


def test_who_is_away_too_long_or_too_far_is_somebody_new():
    tracker = Tracker(5.0)  # frames per second
    assert ids(tracker, [[0, 0, 50, 100]]) == [1]
    for _ in range(4):
        ids(tracker, [])
    assert ids(tracker, [[0, 0, 50, 100]]) == [1]
    for _ in range(5):
        ids(tracker, [])
    assert ids(tracker, [[0, 0, 50, 100]]) == [2]
    assert ids(tracker, [[40, 0, 50, 100]]) == [3]


def path_of(tracker: Tracker, places: np.ndarray) -> np.ndarray:
    """Places (T, 2) of a keypoint after the tracker, in a box that moves along."""
    found = []
    for place in places:
        keypoints = np.tile(place, (1, 17, 1)).astype(np.float32)
        found.append(tracker(result([[place[0] - 50, place[1] - 100, 100, 200]], keypoints)).keypoints[0, 0])
    return np.array(found)


def test_smoothing_reduces_jitter_and_follows_motion():
    noise = np.random.default_rng(0).normal(0, 2, (100, 2))
    still = np.full((100, 2), 300.0) + noise
    assert np.array_equal(path_of(Tracker(RATE), still), still.astype(np.float32))
    assert path_of(Tracker(RATE, smooth=True), still)[20:].std(0).max() < 0.5 * noise[20:].std(0).min()
    # 20 pixels a frame, 2.2 diagonals of the box in a second: behind by less than a frame.
    moving = np.stack([np.arange(100) * 20.0, np.full(100, 300.0)], 1)
    assert np.abs(path_of(Tracker(RATE, smooth=True), moving) - moving)[20:].max() < 20
    constant = np.full((50, 2), 123.0)
    assert np.array_equal(path_of(Tracker(RATE, smooth=True), constant), constant.astype(np.float32))


def test_the_filter_is_one_euro():
    """Against the authors' formulas, written out for one coordinate."""
    places = np.cumsum(np.random.default_rng(1).normal(0, 3, 30)) + 300
    tracker = Tracker(RATE, smooth=True)
    found = path_of(tracker, np.stack([places, np.full(30, 300.0)], 1))[:, 0]

    def alpha(cutoff: float) -> float:
        tau = 1 / (2 * np.pi * cutoff)
        return 1 / (1 + tau * RATE)

    smoothed, speed = places[0], 0.0
    for place, value in zip(places[1:], found[1:], strict=True):
        speed = alpha(1.0) * (place - smoothed) * RATE + (1 - alpha(1.0)) * speed
        share = alpha(1.0 + 5.0 * abs(speed) / np.hypot(100, 200))
        smoothed = share * place + (1 - share) * smoothed
        assert value == pytest.approx(smoothed, abs=1e-3)
