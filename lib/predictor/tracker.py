"""The same persons from frame to frame: ids by the overlap of boxes, keypoints smoothed by One-Euro filters.

The filter is by Casiez, Roussel and Vogel (CHI 2012): a low-pass filter whose cut-off frequency rises with speed, so
that keypoints at rest do not jitter and moving ones do not lag. N persons, T tracks, K keypoints; boxes are x, y, w, h
in image pixels.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from .result import PoseResult

MIN_OVERLAP = 0.3  # IoU of the boxes of one person in successive frames
PATIENCE = 1.0  # seconds after which a person who is not seen is forgotten
CUTOFF = 1.0  # Hz, cut-off of the low-pass filter on the keypoints of a person at rest
SPEED_GAIN = 5.0  # Hz by which it rises for each box diagonal per second that a keypoint moves
SPEED_CUTOFF = 1.0  # Hz, cut-off of the low-pass filter on speeds: the authors' value


@dataclass
class _Track:
    number: int
    box: np.ndarray
    frame: int  # number of the frame that showed it last
    keypoints: np.ndarray  # (K, 2), smoothed
    speed: np.ndarray  # (K, 2), smoothed, in pixels per second


class Tracker:
    """Gives the persons of successive frames ids; called with the result of each frame.

    A person keeps the id of the earlier person whose box overlaps most. With `smooth` the keypoints are filtered.
    """

    def __init__(self, rate: float, *, smooth: bool = False):
        """`rate` is in frames per second."""
        self.rate, self.smooth = rate, smooth
        self._tracks: list[_Track] = []
        self._frame = self._count = 0

    def __call__(self, result: PoseResult) -> PoseResult:
        """The result of the next frame, with `ids`, which count from 1."""
        self._frame += 1
        self._tracks = [t for t in self._tracks if self._frame - t.frame <= max(1, PATIENCE * self.rate)]
        matches = self._matches(result.boxes)
        ids, keypoints = np.zeros(len(result), np.int64), result.keypoints.copy()
        for i, box in enumerate(result.boxes):
            if i in matches:
                track = matches[i]
                self._move(track, keypoints[i], box)
            else:
                self._count += 1
                track = _Track(self._count, box, self._frame, keypoints[i], np.zeros_like(keypoints[i]))
                self._tracks.append(track)
            ids[i] = track.number
            if self.smooth:
                keypoints[i] = track.keypoints
        return replace(result, ids=ids, keypoints=keypoints)

    def _matches(self, boxes: np.ndarray) -> dict[int, _Track]:
        """The track of each person that was seen before; the pair that overlaps most is matched first."""
        if not len(boxes) or not self._tracks:
            return {}
        known = np.array([track.box for track in self._tracks])
        corners = [box_convert(torch.from_numpy(table), "xywh", "xyxy") for table in (boxes, known)]
        overlap = box_iou(*corners).numpy()
        matches: dict[int, _Track] = {}
        while overlap.max() >= MIN_OVERLAP:
            i, t = np.unravel_index(overlap.argmax(), overlap.shape)
            matches[int(i)] = self._tracks[t]
            overlap[i], overlap[:, t] = -1, -1
        return matches

    def _move(self, track: _Track, keypoints: np.ndarray, box: np.ndarray) -> None:
        """One filter step for each keypoint; its cut-off depends on its speed relative to the person's size."""
        seconds = (self._frame - track.frame) / self.rate
        speed = (keypoints - track.keypoints) / seconds
        track.speed = track.speed + _weight(SPEED_CUTOFF, seconds) * (speed - track.speed)
        diagonals = np.linalg.norm(track.speed, axis=-1, keepdims=True) / np.linalg.norm(box[2:])
        step = _weight(CUTOFF + SPEED_GAIN * diagonals, seconds) * (keypoints - track.keypoints)
        track.keypoints = (track.keypoints + step).astype(np.float32)
        track.box, track.frame = box, self._frame


def _weight(cutoff: np.ndarray | float, seconds: float) -> np.ndarray | float:
    """The weight of a new value in a low-pass filter of that cut-off (Hz), `seconds` after the last one."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * seconds))
