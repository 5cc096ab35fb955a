"""MPII's annotations, in the lineage's JSON files -> the table of persons that COCO's give.

I images, N persons, K keypoints. The files count pixels from 1, as Matlab does; what leaves this room counts from 0.
A record is a person: `image` (file name), `center` (x, y), `scale` (height / 200 pixels), `joints` (K pairs x, y) and
`joints_vis` (K times 0 or 1).
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..pose.geometry import PADDING, PIXEL_STD
from .coco import Annotations, Images, Instances
from .json_fields import column, file_names, numbers, read_json, rows

DROP = 15.0  # pixels per unit of `scale` that a crop lies below the annotated centre, so as not to cut off feet
NOT_ANNOTATED = -1  # x of such a centre: its crop is neither dropped nor padded


def read_annotations(path: Path) -> Annotations:
    """Read a file of records. Images are numbered in the order of the file, which does not tell their sizes (0, 0).

    Raises UserError for a file that is missing, no JSON, or not in this format.
    """
    records = read_json(path, "annotation file (DATASET.ROOT, TRAIN_SET, TEST_SET)", list[dict[str, Any]])
    if not records:
        raise UserError(f"{path}: not an MPII annotation file: it lists no person")
    names = file_names(records, "image", "record", path)
    unique = list(dict.fromkeys(names))
    images = Images(np.arange(len(unique)), np.array(unique, np.str_), np.zeros((len(unique), 2), np.int64))
    return Annotations(path, images, {"id": 1, "name": "person"}, records)


def annotated_people(source: Annotations, num_joints: int, with_joints: bool = True) -> Instances:
    """All persons in the order of the file, which the ground truth of PCKh shares.

    `with_joints` false is for a set without ground truth, whose persons get no visible joint.
    Raises UserError that names the malformed record.
    """
    path, records = source.path, source.annotations
    place = {name: index for index, name in enumerate(source.images.names.tolist())}
    center = rows(records, "center", 2, path, what="record")
    scale = numbers(records, "scale", np.float64, "record", path)
    for number, value in enumerate(scale, start=1):
        if not value > 0:
            raise UserError(f"{path}: 'scale' of record number {number} must be positive, not {value:g}")
    keypoints = np.zeros((len(records), num_joints, 2))
    visible = np.zeros((len(records), num_joints))
    if with_joints:
        keypoints = _joints(records, num_joints, path) - 1
        visible = rows(records, "joints_vis", num_joints, path, what="record")
    return Instances(
        images=source.images,
        ids=np.arange(len(records)),
        image=np.array([place[record["image"]] for record in records], np.int32),
        boxes=boxes(center, scale),
        scores=np.ones(len(records)),
        keypoints=keypoints.astype(np.float32),
        visible=(visible > 0).astype(np.float32),
    )


def boxes(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Square boxes (N, 4) of 1-based centres (N, 2) and scales (N), of which `geometry` makes the lineage's crops."""
    annotated = center[:, 0] != NOT_ANNOTATED
    side = PIXEL_STD * np.where(annotated, scale, scale / PADDING)
    middle = center - 1
    middle[:, 1] += np.where(annotated, DROP * scale, 0)
    return np.column_stack([middle - (side[:, None] - 1) / 2, side, side])


def _joints(records: list[dict[str, Any]], num_joints: int, path: Path) -> np.ndarray:
    """The records' joints (N, K, 2) as they stand in the file; the first malformed ones are named."""
    values = column(records, "joints", "record", path)
    for number, joints in enumerate(values, start=1):
        pairs = isinstance(joints, list) and all(isinstance(joint, list) and len(joint) == 2 for joint in joints)
        if not pairs or len(joints) != num_joints:
            found = len(joints) if pairs else f"{joints!r:.60}"
            where = f"{path}: 'joints' of record number {number}"
            raise UserError(f"{where} must list {num_joints} pairs x, y, not {found}")
    flat = [{"joints": [number for joint in joints for number in joint]} for joints in values]
    return rows(flat, "joints", 2 * num_joints, path, what="record").reshape(-1, num_joints, 2)
