"""Five records in MPII's format, and the images of them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import savemat

from helpers.goldens import ROOT
from transpose.pose import skeleton

MPII = skeleton.read(ROOT / "experiments" / "mpii" / "skeleton.yaml")
SHORT_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri".split()
# A standing person in 1-based pixels, in the order of MPII's joints.
POSE = np.array(
    [
        *((25, 125), (25, 95), (27, 65), (43, 65), (45, 95), (45, 125), (35, 63), (35, 30)),
        *((35, 24), (35, 6), (10, 68), (12, 48), (20, 31), (50, 31), (58, 48), (60, 68)),
    ]
)
PERSONS, WIDTH, HEIGHT = 5, 160, 180


def joints() -> np.ndarray:
    """(N, 16, 2) in 1-based pixels: the same pose at five places."""
    return POSE + np.array([(20 + 12 * person, 20 + 5 * person) for person in range(PERSONS)])[:, None]


def records() -> list[dict[str, Any]]:
    return [
        {
            "image": f"{person + 1:09}.jpg",
            "joints": places.astype(float).tolist(),
            "joints_vis": [1] * 16,
            "center": [float(places[:, 0].mean()), float(places[:, 1].mean())],
            "scale": 0.75,  # the joints lie far enough from the crop's border for DARK's blur
        }
        for person, places in enumerate(joints())
    ]


def ground_truth(missing: tuple[tuple[int, str], ...] = ()) -> dict[str, np.ndarray]:
    """As in gt_valid.mat. The head boxes' diagonals are 50, that of the last person 100."""
    absent = np.zeros((16, PERSONS), np.uint8)
    for person, name in missing:
        absent[MPII.names.index(name), person] = 1
    boxes = np.array([[(10, 20)] * PERSONS, [(40, 60)] * 4 + [(70, 100)]], float)
    return {
        "dataset_joints": np.array([SHORT_NAMES], object),
        "jnt_missing": absent,
        "pos_gt_src": joints().transpose(1, 2, 0).astype(float),
        "headboxes_src": boxes.transpose(0, 2, 1),
    }


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_set(folder: Path) -> Path:
    """A data set of five images, black but for a white pixel at each joint."""
    (folder / "images").mkdir(parents=True)
    for name in ("train", "valid"):
        write_json(folder / "annot" / f"{name}.json", records())
    without_joints = [{key: r[key] for key in ("image", "center", "scale")} for r in records()]
    write_json(folder / "annot" / "test.json", without_joints)
    savemat(folder / "annot" / "gt_valid.mat", ground_truth())
    for record, places in zip(records(), joints(), strict=True):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[places[:, 1] - 1, places[:, 0] - 1] = 255
        assert cv2.imwrite(str(folder / "images" / record["image"]), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder
