"""A file for COCO's evaluation server: https://cocodataset.org/#upload, format https://cocodataset.org/#format-results"""

import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UserError
from ..runtime.files import write_atomically

PERSON, KEYPOINTS = 1, 17  # COCO's category, and how many keypoints it has
FIELDS = ("image_id", "category_id", "keypoints", "score")
HOW_TO_SUBMIT = (
    "to submit: log in at the evaluation server that https://cocodataset.org/#upload names for keypoints, choose the "
    "phase of {set_name}, and upload {archive} as it is; the server allows few submissions a day"
)


def write(folder: Path, set_name: str, name: str, results: list[dict[str, Any]]) -> Path:
    """Write `results` into `folder` with the server's file name, and as a zip to upload; returns the zip's path.

    The JSON has the four fields that the server reads. Raises UserError if the server would refuse it.
    """
    path = folder / f"person_keypoints_{set_name}_{name}_results.json"
    if not results:
        raise UserError(f"{path}: it would have no person; the server needs at least one")
    category, joints = results[0]["category_id"], len(results[0]["keypoints"]) // 3
    if (category, joints) != (PERSON, KEYPOINTS):
        raise UserError(
            f"{path}: the server accepts category {PERSON}, person, with {KEYPOINTS} keypoints, not category "
            f"{category} with {joints}"
        )
    content = msgspec.json.encode([{field: result[field] for field in FIELDS} for result in results])
    write_atomically(path, lambda file: file.write(content))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(path.name, content)
    archive = path.with_suffix(".zip")
    write_atomically(archive, lambda file: file.write(zipped.getbuffer()))
    return archive
