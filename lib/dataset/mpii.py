"""MPII's annotations, in HRNet's JSON files -> the instances that COCO's give.

I images, N instances, K keypoints. The files count pixels from 1, as Matlab does; instances count from 0.
A record is a person: `image` (file name), `center` (x, y), `scale` (height / 200 pixels), `joints` (K pairs x, y) and
`joints_vis` (K times 0 or 1).
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..pose.geometry import PADDING, PIXEL_STD
from .coco import ANNOTATION_FILE, Annotations, Images, Instances
from .json_fields import FILE_NAME, NUMBER, Kind, Table, listing, read_json

DROP = 15.0  # pixels per unit of `scale` that a crop lies below the annotated centre, so that feet are not cut off
NOT_ANNOTATED = -1  # x of such a centre: its crop is neither dropped nor padded
PLACE = {"center": listing(2), "scale": NUMBER}


def read_annotations(path: Path, num_joints: int) -> Annotations:
    """Read a file of records. Images are numbered in the order of the file, which does not tell their sizes (0, 0).

    Raises UserError for a file that is missing, no JSON, or not in this format.
    """
    records = read_json(path, ANNOTATION_FILE, list[dict[str, Any]])
    if not records:
        raise UserError(f"{path}: not an MPII annotation file: it lists no person")
    joints = {"joints": Kind(f"{num_joints} pairs x, y", shape=(num_joints, 2)), "joints_vis": listing(num_joints)}
    table = Table.read(records, "record", {"image": FILE_NAME, **PLACE, **joints})
    table.check("image").refuse(path)
    unique = list(dict.fromkeys(table["image"].tolist()))
    images = Images(np.arange(len(unique)), np.array(unique, object), np.zeros((len(unique), 2), np.int64))
    return Annotations(path, images, {"id": 1, "name": "person"}, table)


def annotated_instances(source: Annotations, with_joints: bool = True) -> Instances:
    """All persons in the order of the file, which the ground truth of PCKh shares.

    `with_joints` false is for a set without ground truth, whose persons get no visible joint.
    Raises UserError that names the malformed record.
    """
    path, table = source.path, source.table
    table.check(*PLACE, *(("joints", "joints_vis") if with_joints else ())).refuse(path)
    scale, joints, visible = table["scale"], table["joints"], table["joints_vis"]
    for index in np.flatnonzero(scale <= 0)[:1].tolist():
        raise UserError(f"{path}: 'scale' of {table.label(index)} must be positive, not {scale[index]:g}")
    place = {name: index for index, name in enumerate(source.images.names.tolist())}
    return Instances(
        images=source.images,
        ids=np.arange(len(table)),
        image=np.array([place[name] for name in table["image"].tolist()], np.int32),
        boxes=boxes(table["center"], scale),
        scores=np.ones(len(table)),
        keypoints=(joints - 1 if with_joints else np.zeros_like(joints)).astype(np.float32),
        visible=(visible > 0).astype(np.float32),
    )


def boxes(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Square boxes (N, 4) of 1-based centres (N, 2) and scales (N), of which `geometry` makes HRNet's crops."""
    annotated = center[:, 0] != NOT_ANNOTATED
    side = PIXEL_STD * np.where(annotated, scale, scale / PADDING)
    middle = center - 1
    middle[:, 1] += np.where(annotated, DROP * scale, 0)
    return np.column_stack([middle - (side[:, None] - 1) / 2, side, side])
