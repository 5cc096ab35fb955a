"""Read results files in COCO's format: https://cocodataset.org/#format-results"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.coco import Annotations, check_units
from ..dataset.findings import many
from ..dataset.json_fields import NUMBER, WHOLE, Table, listing, read_json
from ..errors import UserError

logger = logging.getLogger(__name__)


def read_results(path: Path, annotations: Annotations, num_joints: int) -> dict[str, np.ndarray]:
    """The results of the annotated category in listed images, as columns: image_id (N), score (N), keypoints
    (N, K, 3: x, y, score) in image pixels.

    Raises UserError for a file that is malformed, or that belongs to other images or another category.
    """
    content = read_json(path, "results file", list[dict[str, Any]])
    if not content:
        raise UserError(f"{path}: an empty list: there are no results")
    wanted = annotations.category["id"]
    categories = Table.read(content, "result", {"category_id": replace(NUMBER, default=wanted)})
    categories.check().refuse(path)
    places = np.flatnonzero(categories["category_id"] == wanted)
    if not len(places):
        raise UserError(
            f"{path}: none of its {len(content)} results has the category_id {wanted} that "
            f"'{annotations.category['name']}' has in {annotations.path}"
        )
    fields = {"image_id": WHOLE, "score": NUMBER, "keypoints": listing(3 * num_joints, " (MODEL.NUM_JOINTS)")}
    table = Table.read([content[place] for place in places.tolist()], "result", fields, places)
    findings, image = table.check(), annotations.images.find(table)
    listed = image >= 0
    middles = table["keypoints"].reshape(-1, num_joints, 3)[listed, :, :2].mean(1)  # single ones may be anywhere
    sizes = annotations.images.sizes[image[listed]]
    check_units(findings, "the mean keypoints", middles[:, None], sizes, image[listed])
    findings.refuse(path)
    findings.warn(path)
    if not listed.any():
        raise UserError(
            f"{path}: none of its {len(table)} results is of an image of {annotations.path}; "
            "is it another set's file (DATASET.TEST_SET)?"
        )
    if others := len(content) - len(places):
        logger.warning("%s: left out: %s of other categories", path, many(others, "result"))
    if not listed.all():
        logger.warning(
            "%s: left out: %s of images that %s does not list",
            *(path, many(int((~listed).sum()), "result"), annotations.path.name),
        )
    columns = {key: table[key][listed] for key in fields}
    return columns | {"keypoints": columns["keypoints"].reshape(-1, num_joints, 3)}
