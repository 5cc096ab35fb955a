"""A skeleton: keypoint names, left/right pairs, limbs, OKS sigmas, joint weights.

COCO's is built in; any other comes from a yaml (`read`) or from the category of an annotation file (`from_category`).
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import yaml_file
from ..errors import UserError, shown

logger = logging.getLogger(__name__)

PERSON = "person"  # COCO's category
DEFAULT_SIGMA = 0.05  # sigma of a keypoint without one: between COCO's eyes (0.025) and hips (0.107)
# The word left, or l, at the start or end of a lower-case keypoint name, and its counterpart.
LEFT_SIDE = re.compile(r"^(left|l)(?=[ ._-])|(?<=[ ._-])(left|l)$")
OTHER_SIDE = {"left": "right", "l": "r"}


@dataclass(frozen=True)
class Skeleton:
    """A set of K keypoints. All indices count from 0 in the order of `names`.

    `pairs` are exchanged by a horizontal flip; `limbs` are drawn; `upper_body` and `lower_body` are for the half-body
    augmentation; `sigmas` (K) are those of OKS; `joint_weights` (K) can weight the loss. `category` is the COCO
    category that has these keypoints.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    lower_body: tuple[int, ...]
    sigmas: tuple[float, ...]
    joint_weights: tuple[float, ...]
    category: str = PERSON

    @property
    def noun(self) -> str:
        """The noun for an instance in results and messages."""
        return PERSON if self.category == PERSON else "instance"

    @property
    def num_joints(self) -> int:
        return len(self.names)

    @cached_property
    def flip_order(self) -> np.ndarray:
        """(K) int64: the keypoint at place k after left and right are exchanged; its own inverse."""
        order = np.arange(self.num_joints)
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order


# COCO 2017's keypoints in their order, the sigmas of pycocotools, and the joint weights of the TransPose recipe.
_COCO_KEYPOINTS: tuple[tuple[str, float, float], ...] = (
    ("nose", 0.026, 1),
    ("left_eye", 0.025, 1),
    ("right_eye", 0.025, 1),
    ("left_ear", 0.035, 1),
    ("right_ear", 0.035, 1),
    ("left_shoulder", 0.079, 1),
    ("right_shoulder", 0.079, 1),
    ("left_elbow", 0.072, 1.2),
    ("right_elbow", 0.072, 1.2),
    ("left_wrist", 0.062, 1.5),
    ("right_wrist", 0.062, 1.5),
    ("left_hip", 0.107, 1),
    ("right_hip", 0.107, 1),
    ("left_knee", 0.087, 1.2),
    ("right_knee", 0.087, 1.2),
    ("left_ankle", 0.089, 1.5),
    ("right_ankle", 0.089, 1.5),
)
COCO = Skeleton(
    names=tuple(name for name, _, _ in _COCO_KEYPOINTS),
    pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),  # legs
        *((5, 11), (6, 12), (5, 6)),  # trunk
        *((5, 7), (6, 8), (7, 9), (8, 10)),  # arms
        *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # head
    ),
    upper_body=tuple(range(11)),
    lower_body=tuple(range(11, 17)),
    sigmas=tuple(sigma for _, sigma, _ in _COCO_KEYPOINTS),
    joint_weights=tuple(weight for _, _, weight in _COCO_KEYPOINTS),
)


def read(path: Path) -> Skeleton:
    """The skeleton of a yaml: `names`, and by these names `pairs`, `limbs`, `upper_body`, `lower_body`; `sigmas` and
    `joint_weights` as lists in the order of the names; `category`. All but `names` may be missing.

    Raises UserError that names the file and the entry.
    """
    content = yaml_file.read(path, "skeleton")
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: a skeleton must be a mapping with `names` and other keys, not {type(content).__name__}"
        )
    return from_mapping(content, str(path))


def from_category(category: Mapping[str, Any], where: str) -> Skeleton | None:
    """The skeleton that a COCO category describes by its `keypoints` and `skeleton` (limbs that count from 1).

    Left and right are found by names such as left_x/right_x or x-L/x-R. None if the category names no keypoints;
    COCO's own names give COCO's own skeleton. Raises UserError if the category contradicts itself.
    """
    names = category.get("keypoints")
    if not names:
        return None
    if names == list(COCO.names):
        return COCO
    where = f"{where}, category '{category.get('name')}'"
    names = _texts(names, "keypoints", where)
    limbs = _list(category.get("skeleton") or [], "skeleton", where)
    for limb in limbs:
        if not _is_pair(limb) or not all(isinstance(end, int) and 1 <= end <= len(names) for end in limb):
            raise UserError(f"{where}: limb {shown(limb)} of `skeleton` must be two numbers from 1 to {len(names)}")
    limbs = [[names[end - 1] for end in limb] for limb in limbs]
    return of_category(from_mapping({"names": names, "limbs": limbs}, where), str(category.get("name", PERSON)))


def of_category(skeleton: Skeleton, name: str) -> Skeleton:
    """The skeleton for a category of this name; COCO's keypoints always stay those of a person."""
    return skeleton if skeleton.names == COCO.names else dataclasses.replace(skeleton, category=name)


def from_mapping(content: Mapping[str, Any], where: str) -> Skeleton:
    """A checked skeleton from plain values; `where` is what an error calls their source. Joints go by their names.

    Missing pairs are found by the names; missing sigmas are `DEFAULT_SIGMA`, weights 1. Raises UserError.
    """
    fields = [field.name for field in dataclasses.fields(Skeleton)]
    for key in content:
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0)[0]
            raise UserError(f"{where}: a skeleton has no `{key}`; the nearest is `{nearest}`")
    names = _texts(content.get("names"), "names", where)
    place = {name: i for i, name in enumerate(names)}
    if len(place) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: the keypoint {shown(twice)} is listed twice")

    def index(name: Any, key: str) -> int:
        if not isinstance(name, str) or name not in place:
            nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0)[0]
            raise UserError(f"{where}: `{key}` names {shown(name)}, which is no keypoint; the nearest is {nearest!r}")
        return place[name]

    def joints(key: str) -> tuple[int, ...]:
        return tuple(index(name, key) for name in _list(content.get(key) or [], key, where))

    def couples(key: str, values: Any) -> tuple[tuple[int, int], ...]:
        for couple in _list(values, key, where):
            if not _is_pair(couple) or couple[0] == couple[1]:
                raise UserError(f"{where}: {shown(couple)} in `{key}` must be two different keypoints")
        return tuple((index(a, key), index(b, key)) for a, b in values)

    pairs = couples("pairs", pairs_from_names(names) if content.get("pairs") is None else content["pairs"])
    paired = [joint for pair in pairs for joint in pair]
    if len(set(paired)) < len(paired):
        twice = names[next(joint for joint in paired if paired.count(joint) > 1)]
        raise UserError(f"{where}: {shown(twice)} is in two of the `pairs`; a keypoint can have only one counterpart")

    told = {frozenset(pair) for pair in pairs_from_names(names)}
    odd = [f"{names[a]}/{names[b]}" for a, b in pairs if told and frozenset((names[a], names[b])) not in told]
    if odd:
        _warn(f"{where}: the `pairs` {', '.join(odd)} do not agree with the names; a flip exchanges them anyway")
    if content.get("sigmas") is None:
        _warn(f"{where} gives no OKS `sigmas`: {DEFAULT_SIGMA:g} is used for each, so its AP cannot be compared")

    def numbers(key: str, default: float) -> tuple[float, ...]:
        values = content.get(key)
        if values is None:
            return (default,) * len(names)
        values = _list(values, key, where)
        if len(values) != len(names):
            raise UserError(f"{where}: `{key}` lists {len(values)} numbers for {len(names)} keypoints")
        for name, value in zip(names, values, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise UserError(f"{where}: `{key}` of {shown(name)} must be a positive number, not {shown(value)}")
        return tuple(float(value) for value in values)

    category = content.get("category", Skeleton.category)
    if not isinstance(category, str) or not category:
        raise UserError(
            f"{where}: `category` must be the name of the category with these keypoints, not {shown(category)}"
        )
    skeleton = Skeleton(
        names=tuple(names),
        pairs=pairs,
        limbs=couples("limbs", content.get("limbs") or []),
        upper_body=joints("upper_body"),
        lower_body=joints("lower_body"),
        sigmas=numbers("sigmas", DEFAULT_SIGMA),
        joint_weights=numbers("joint_weights", 1.0),
        category=category,
    )
    alone = unpaired_sides(skeleton)
    if alone and content.get("pairs") is None:
        _warn(f"{where}: {', '.join(alone)} are in no left/right pair: list the pairs in DATASET.SKELETON")
    return skeleton


def unpaired_sides(skeleton: Skeleton) -> list[str]:
    """Keypoints with left or right in their names that are not in a pair."""
    paired = {joint for pair in skeleton.pairs for joint in pair}
    sided = [name for name in skeleton.names if re.search("left|right", name, re.IGNORECASE)]
    return [name for name in sided if skeleton.names.index(name) not in paired]


def to_mapping(skeleton: Skeleton) -> dict[str, Any]:
    """Plain values for a yaml; `from_mapping` makes the same skeleton from them."""

    def named(joints: Sequence[int]) -> list[str]:
        return [skeleton.names[joint] for joint in joints]

    return {
        "category": skeleton.category,
        "names": list(skeleton.names),
        "pairs": [named(pair) for pair in skeleton.pairs],
        "limbs": [named(limb) for limb in skeleton.limbs],
        "upper_body": named(skeleton.upper_body),
        "lower_body": named(skeleton.lower_body),
        "sigmas": list(skeleton.sigmas),
        "joint_weights": list(skeleton.joint_weights),
    }


@cache
def _warn(message: str) -> None:
    """Log a warning once, even if the same skeleton is read several times."""
    logger.warning("%s", message)


def pairs_from_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in a first or last word left/right (or l/r) only, ignoring case."""
    lowered = {name.lower(): name for name in names}
    mirrored = {name: LEFT_SIDE.sub(lambda side: OTHER_SIDE[side[0]], low) for low, name in lowered.items()}
    return [(name, lowered[low]) for name, low in mirrored.items() if low != name.lower() and low in lowered]


def common_name(name: str) -> str:
    """One spelling for left_eye, LeftEye, "eye left", l-eye and lefteye."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W_]+", name)
    joined = "".join({"l": "left", "r": "right"}.get(word, word) for word in map(str.lower, words))
    side = next((side for side in ("left", "right") if joined.startswith(side) or joined.endswith(side)), "")
    return side + (joined.removeprefix(side) if joined.startswith(side) else joined.removesuffix(side))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _list(value: Any, key: str, where: str) -> list:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: `{key}` must be a list, not {shown(value)}")
    return list(value)


def _texts(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise UserError(f"{where}: `{key}` must list the keypoints' names")
    return value
