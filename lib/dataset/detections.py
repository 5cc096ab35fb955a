"""A detector's boxes in COCO's format -> instances: https://cocodataset.org/#format-results

N boxes, K keypoints. Boxes are x, y, w, h in image pixels. As for annotations, there is one list of checks.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..pose import geometry
from .coco import Annotations, Instances, check_units, count_reasons, first_reasons
from .findings import ERROR, NOTE, OK, Findings, in_digits, many
from .json_fields import NUMBER, WHOLE, Table, list_of, listing, read_json

DETECTION_FILE = "detection file (TEST.COCO_BBOX_FILE)"
DETECTION = {"category_id": NUMBER, "image_id": WHOLE, "score": NUMBER, "bbox": listing(4)}
PUBLISHED_BOXES = {"COCO_val2017_detections_AP_H_56_person.json": 104_125}


def detected_instances(path: Path, source: Annotations, num_joints: int, threshold: float) -> Instances:
    """A detector's person boxes scored `threshold` or more, in file order, not clipped.

    The file is a COCO results list. What is left out, such as empty boxes, is counted in `left_out`.
    Raises UserError when the file is malformed or no box is left.
    """
    findings, instances = check_detections(path, source, num_joints, threshold)
    findings.refuse(path)
    return dataclasses.replace(instances, doubts=findings.warn(path))


def parse_detections(path: Path, what: str = DETECTION_FILE) -> tuple[Table, Findings]:
    """The objects of a COCO results list of boxes, and those of them that are malformed.

    Raises UserError for a file that is missing, no JSON or no list.
    """
    content = read_json(path, what, list_of(DETECTION), otherwise=Any)
    if not isinstance(content, list):
        raise UserError(f"{path}: a detection file is a list of boxes, but this is a {type(content).__name__}")
    table, findings = Table.read(content, "detection", DETECTION), Findings()
    findings += table.check()
    return table, findings


def check_detections(path: Path, source: Annotations, num_joints: int, threshold: float) -> tuple[Findings, Instances]:
    """The findings about a detection file of any format, and the instances that are used of it.

    Raises UserError for a file that is missing, no JSON or no list.
    """
    table, malformed = parse_detections(path)
    findings, total = Findings(), many(len(table), "box")
    published = PUBLISHED_BOXES.get(path.name, len(table))
    expected = f"; COCO's file has {published:,}" if published != len(table) else ""
    findings.add(NOTE if expected else OK, "counts", f"{total}{expected}")
    findings += malformed
    if not len(table):
        findings.add(ERROR, "boxes", "it lists no box", error="it lists no box")

    person = table["category_id"] == source.category.get("id")
    if source.category and not person.all():
        wanted, others = source.category["id"], np.unique(table["category_id"][~person])
        says = f"{(~person).sum():,} of {total} are not of category {wanted} and are left out"
        error = f"none of its {len(person)} boxes has the category_id {wanted} that '{source.category['name']}' has in "
        level, error = (NOTE, "") if person.any() else (ERROR, f"{error}{source.path}")
        findings.add(level, "categories", says, (f"{other:g}" for other in others), error=error)

    image = source.images.find(table)
    listed = image >= 0
    unknown = np.unique(table["image_id"][~listed & ~table.malformed("image_id")])
    if len(unknown):
        says = f"{(~listed).sum():,} of {total} are of images that the annotation file does not list"
        error = (
            f"none of its {person.sum()} {source.noun} boxes is of an image of {source.path}; "
            "TEST.COCO_BBOX_FILE and DATASET.TEST_SET do not belong together"
        )
        stops = person.any() and not (person & listed).any()
        findings.add(ERROR if stops else NOTE, "images", says, map(str, unknown), error=error if stops else "")
    else:
        findings.add(OK, "images", "all listed in the annotation file")

    boxes, scores = table["bbox"], table["score"]
    sizes = np.full((len(table), 2), np.nan)
    sizes[listed] = source.images.sizes[image[listed]]
    own = person & listed
    check_units(findings, "the boxes", boxes[own].reshape(-1, 2, 2), sizes[own], image[own])
    nowhere = listed & ~geometry.in_image(boxes, sizes)
    usable = person & listed & ~nowhere
    if nowhere.any():
        says = f"{nowhere.sum():,} are empty or outside their image and are left out"
        examples = (f"{in_digits(boxes[i])} in number {table.places[i] + 1}" for i in np.flatnonzero(nowhere))
        stops = (person & listed).any() and not usable.any()
        error = f"none of its {source.noun} boxes has a width and a height and shows some of its image" if stops else ""
        findings.add(ERROR if stops else NOTE, "boxes", says, examples, error=error)
    enough = int((scores[usable] >= threshold).sum()) if usable.any() else int((scores >= threshold).sum())
    says = f"{enough:,} of {len(scores):,} are {threshold:g} (TEST.IMAGE_THRE) or more"
    if enough:
        findings.add(OK, "scores", says)
    else:
        best = f", the best is {np.nanmax(scores, initial=-np.inf):.3g}" if len(scores) else ""
        error = f"no {source.noun} box is scored {threshold} (TEST.IMAGE_THRE) or more"
        findings.add(ERROR, "scores", f"{says}{best}", error=error)
    reasons = first_reasons(
        {
            "of other categories": ~person,
            "of images not listed": ~listed,
            "empty or outside their image": nowhere,
            f"scored below {threshold:g} (TEST.IMAGE_THRE)": ~(scores >= threshold),
        }
    )
    keep = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
    return findings, Instances(
        images=source.images,
        ids=keep,
        image=image[keep],
        boxes=boxes[keep],
        scores=scores[keep],
        keypoints=np.zeros((len(keep), num_joints, 2), np.float32),
        visible=np.ones((len(keep), num_joints), np.float32),
        left_out=count_reasons(reasons),
    )
