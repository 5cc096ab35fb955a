"""A file for COCO's evaluation server: https://cocodataset.org/#upload, format https://cocodataset.org/#format-results"""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UserError
from ..runtime.files import write_atomically

PERSON = 1  # COCO's category
FIELDS = ("image_id", "category_id", "keypoints", "score")
HOW_TO_SUBMIT = (
    "to submit: log in at the evaluation server that https://cocodataset.org/#upload names for keypoints, choose the "
    "phase of {set_name}, and upload {archive} as it is; the server allows few submissions a day"
)


def write(
    folder: Path, set_name: str, name: str, results: list[dict[str, Any]], image_ids: Collection[int], num_joints: int
) -> Path:
    """Write `results` under the server's naming into `folder`, checked, and as the zip that is uploaded; returns that.

    The JSON has the four fields that the server reads. Raises UserError if it would not take them.
    """
    path = folder / f"person_keypoints_{set_name}_{name}_results.json"
    lean = [{field: result[field] for field in FIELDS} for result in results]
    write_atomically(path, lambda file: file.write(msgspec.json.encode(lean)))
    check(path, image_ids, num_joints)
    archive = path.with_suffix(".zip")

    def fill(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
            members.write(path, path.name)

    write_atomically(archive, fill)
    return archive


def check(path: Path, image_ids: Collection[int], num_joints: int) -> int:
    """How many persons the file holds. Raises UserError that names the first one that the server would not take."""
    results = msgspec.json.decode(path.read_bytes())
    if not isinstance(results, list) or not results:
        raise UserError(f"{path}: there is no person in it; the server takes a list of one at least")
    known = set(image_ids)
    for number, result in enumerate(results, start=1):
        wrong = _what_is_wrong(result, known, num_joints)
        if wrong:
            raise UserError(f"{path}: person number {number} {wrong}; the server would not take the file")
    return len(results)


def _what_is_wrong(result: Any, image_ids: set[int], num_joints: int) -> str:
    """What the server would say of one person; nothing if it takes it."""
    if not isinstance(result, dict):
        return f"is a {type(result).__name__}"
    missing = [field for field in FIELDS if field not in result]
    if missing:
        return f"has no '{missing[0]}'"
    if type(result["image_id"]) is not int or result["image_id"] not in image_ids:
        return f"has an image_id of no image of the set: {result['image_id']!r}"
    if result["category_id"] != PERSON:
        return f"has category_id {result['category_id']!r} where {PERSON}, person, is asked for"
    keypoints = result["keypoints"]
    if not isinstance(keypoints, list) or len(keypoints) != 3 * num_joints:
        found = len(keypoints) if isinstance(keypoints, list) else repr(keypoints)
        return f"has keypoints of {found} where {3 * num_joints} numbers are asked for"
    if not _finite([*keypoints, result["score"]]):
        return "has a keypoint or a score that is NaN, infinite or no number"
    return ""


def _finite(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))
