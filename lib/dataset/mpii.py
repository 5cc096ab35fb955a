"""MPII's annotations, in HRNet's JSON files -> instances, as from COCO's files.

I images, N instances, K keypoints. The files count pixels from 1, as Matlab does; instances count from 0.
A record is a person: `image` (file name), `center` (x, y), `scale` (height / 200 pixels), `joints` (K pairs x, y) and
`joints_vis` (K times 0 or 1).
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..pose.geometry import PADDING, PIXEL_STD
from .coco import CONFIGURED, Annotations, Images, Instances, check_units
from .findings import ERROR, Findings, many
from .json_fields import FILE_NAME, NUMBER, Kind, Table, listing, read_json

DROP = 15.0  # pixels per unit of `scale` that a crop lies below the annotated centre, so that feet are not cut off
NOT_ANNOTATED = -1  # x of a missing centre, whose crop is neither moved nor padded
PLACE = {"center": listing(2), "scale": NUMBER}


def read_annotations(path: Path, num_joints: int) -> Annotations:
    """Read a file of records. Images are numbered in the order of the file; their sizes are unknown (0, 0).

    Raises UserError for a file that is missing, no JSON, or not in this format.
    """
    source = parse_annotations(path, num_joints)
    source.findings.refuse(path)
    return source


def parse_annotations(path: Path, num_joints: int) -> Annotations:
    """As `read_annotations`, but `findings` say which records have no image, and whether there are any.

    Raises UserError for a file that is missing or no JSON list of objects.
    """
    records = read_json(path, f"annotation file{CONFIGURED.keys}", list[dict[str, Any]])
    joints = {"joints": Kind(f"{num_joints} pairs x, y", shape=(num_joints, 2)), "joints_vis": listing(num_joints)}
    table = Table.read(records, "record", {"image": FILE_NAME, **PLACE, **joints})
    findings = table.check("image")
    if not records:
        says = "its list of persons is empty"
        findings.add(ERROR, "format", says, error=f"not an MPII annotation file: {says}")
    unique = list(dict.fromkeys(table["image"][~table.malformed("image")].tolist()))
    images = Images(np.arange(len(unique)), np.array(unique, object), np.zeros((len(unique), 2), np.int64))
    listed = {"images": len(unique), "records": len(records)}
    return Annotations(path, images, {"id": 1, "name": "person"}, table, listed, findings)


def check_annotations(source: Annotations, with_joints: bool = True) -> Findings:
    """What is wrong with the records."""
    table, scale = source.table, source.table["scale"]
    findings = table.check(*PLACE, *(("joints", "joints_vis") if with_joints else ()))
    wrong = np.flatnonzero(scale <= 0).tolist()
    if wrong:
        says = f"'scale' of {many(len(wrong), 'record')} of {len(table):,} is not positive"
        error = f"'scale' of {table.label(wrong[0])} must be positive, not {scale[wrong[0]]:g}"
        findings.add(ERROR, "scale", says, (f"{scale[i]:g} in {table.name(i)}" for i in wrong), error=error)
    check_units(findings, "the centers", table["center"][:, None], np.zeros_like(table["center"]), table["image"])
    if with_joints:
        seen = np.where(table["joints_vis"][..., None] > 0, table["joints"], -np.inf).max(1, initial=-np.inf)
        check_units(findings, "the joints", seen[:, None], np.zeros_like(seen), table["image"])
    return findings


def annotated_instances(source: Annotations, with_joints: bool = True) -> Instances:
    """All persons in the order of the file, which is also that of PCKh's ground truth.

    Without `with_joints`, for a set without ground truth, no keypoint is visible.
    Raises UserError that names the malformed record.
    """
    findings = check_annotations(source, with_joints)
    findings.refuse(source.path)
    findings.warn(source.path)
    table = source.table
    scale, joints, visible = table["scale"], table["joints"], table["joints_vis"]
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
