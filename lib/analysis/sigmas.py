"""OKS sigmas of keypoints, measured on images that several people annotated.

COCO's definition (https://cocodataset.org/#keypoints-eval): sigma^2 = E[d^2 / area], where d is the distance in image
pixels between an annotated keypoint and its true place. The mean of the annotators is used for the true place, at the
cost of one degree of freedom. F annotation files, N instances, K keypoints.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
import yaml
from torchvision.ops import box_convert, box_iou

from ..dataset import coco
from ..errors import UserError
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime.files import write_text

logger = logging.getLogger(__name__)

MIN_OVERLAP = 0.5  # smallest IoU of two annotators' boxes of the same instance
MIN_INSTANCES = 10  # with this keypoint; fewer give no meaningful interval
LEVEL = 0.95  # confidence level of the intervals


@dataclass(frozen=True)
class Repeated:
    """Instances that several files annotate: keypoints (F, N, K, 2) in image pixels; labelled (F, N, K), False if a
    file lacks the instance; areas (N) in square pixels, the annotators' mean; names (N) for messages."""

    keypoints: np.ndarray
    labelled: np.ndarray
    areas: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Sigmas:
    """For each keypoint (K): the sigma, its interval, the number of instances behind it, the largest distance of an
    annotator from the mean in image pixels, and the instance (index into N) that has it."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    largest: np.ndarray
    where: np.ndarray


def match(files: Sequence[coco.Annotations]) -> Repeated:
    """The instances of the first file, each matched with the instance of every other file whose box overlaps it most.

    Images are matched by their names. Raises UserError for a file that shares no instance with the first.
    """
    for file in files:
        coco.check_truth(file)
    first, *others = files
    taken = np.flatnonzero(first.taken)
    keypoints, labelled = [first.keypoints[taken, :, :2]], [first.visible[taken]]
    areas = [first.table["area"][taken]]
    for other in others:
        mine, theirs = _pairs(first, other, taken)
        if not len(mine):
            raise UserError(
                f"{other.path}: no annotated box has an IoU of {MIN_OVERLAP:g} with one of {first.path} in an image "
                "of the same file_name; give files in which several people annotated the same images"
            )
        logger.info("%s: %d of the %d instances of %s", other.path, len(mine), len(taken), first.path.name)
        keypoints.append(np.zeros_like(keypoints[0]))
        labelled.append(np.zeros_like(labelled[0]))
        areas.append(np.full(len(taken), np.nan))
        keypoints[-1][mine], labelled[-1][mine] = other.keypoints[theirs, :, :2], other.visible[theirs]
        areas[-1][mine] = other.table["area"][theirs]
    names = [first.name(index) for index in taken.tolist()]
    return Repeated(np.stack(keypoints), np.stack(labelled), np.nanmean(areas, 0), names)


def _pairs(first: coco.Annotations, other: coco.Annotations, taken: np.ndarray) -> tuple[list[int], list[int]]:
    """Indices into `taken`, and those of the other file's matching annotations; the best overlap is matched first."""
    mine: list[int] = []
    theirs: list[int] = []
    candidates = np.flatnonzero(other.taken)
    their_images = other.images.names[other.image[candidates]]
    for name in np.unique(first.images.names[first.image[taken]]):
        here = np.flatnonzero(first.images.names[first.image[taken]] == name)
        there = candidates[their_images == name]
        boxes = [file.table["bbox"][rows] for file, rows in ((first, taken[here]), (other, there))]
        overlap = box_iou(*(box_convert(torch.from_numpy(box), "xywh", "xyxy") for box in boxes)).numpy()
        for place in np.argsort(-overlap, axis=None, kind="stable"):
            i, j = divmod(int(place), len(there))
            if overlap[i, j] < MIN_OVERLAP:
                break
            if here[i] not in mine and there[j] not in theirs:
                mine.append(int(here[i]))
                theirs.append(int(there[j]))
    return mine, theirs


def estimate(repeated: Repeated, names: Sequence[str]) -> Sigmas:
    """The sigma of each keypoint, named in `names`, with intervals at `LEVEL`.

    sigma^2 = sum_i S_i / A_i / sum_i (m_i - 1), where m_i files label instance i, S_i is the sum of the squared
    distances from their mean, and A_i is its area. The interval is that of the logarithm of a ratio (delta method,
    Student's t). In simulations with 15 to 100 instances it contained the sigma in 94 % of draws with Gaussian errors,
    and in 88 % with errors from Student's t with 4 degrees of freedom. Raises UserError for a keypoint that too few
    instances have in two files, or that is at the same place in all files.
    """
    weights = repeated.labelled.astype(float)[..., None]
    m = weights.sum(0)
    offsets = (repeated.keypoints - (repeated.keypoints * weights).sum(0) / np.maximum(m, 1)) * weights
    distances = np.linalg.norm(offsets, axis=-1)
    squares = (distances**2).sum(0) / repeated.areas[:, None]
    freedom = np.maximum(m[..., 0] - 1, 0)
    counts = (freedom > 0).sum(0)
    squares = np.where(freedom > 0, squares, 0)
    for name, count, total in zip(names, counts.tolist(), squares.sum(0).tolist(), strict=True):
        if count < MIN_INSTANCES:
            raise UserError(
                f"keypoint {name}: {count} instances are labelled in two or more files; at least {MIN_INSTANCES} are "
                "needed, and a hundred for a narrow interval"
            )
        if not total:
            raise UserError(f"keypoint {name}: it is at the same places in all files; are they copies of each other?")
    variance = squares.sum(0) / freedom.sum(0)
    residual = ((squares - variance * freedom) ** 2).sum(0) * counts / (counts - 1)
    reach = np.array([_student(count - 1) for count in counts]) * np.sqrt(residual) / freedom.sum(0) / variance
    farthest = distances.max(0)
    return Sigmas(
        values=np.sqrt(variance),
        low=np.sqrt(variance * np.exp(-reach)),
        high=np.sqrt(variance * np.exp(reach)),
        counts=counts,
        largest=farthest.max(0),
        where=farthest.argmax(0),
    )


def _student(freedom: float) -> float:
    """The two-sided quantile of Student's t at `LEVEL`, by Cornish and Fisher's expansion: 0.2 % off at 9."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def tolerance(sigmas: Sequence[float] | np.ndarray, similarity: float) -> np.ndarray:
    """The error (K) at which a keypoint has this similarity, relative to √area: sigma sqrt(-8 ln similarity)."""
    return np.asarray(sigmas) * math.sqrt(-8 * math.log(similarity))


def table(found: Sigmas, repeated: Repeated, names: Sequence[str]) -> list[str]:
    """Lines for the console: the sigmas, and the errors of OKS .5 and .75 in pixels, for the median area."""
    area = float(np.median(repeated.areas))
    half, three_quarters = (tolerance(found.values, similarity) * math.sqrt(area) for similarity in (0.5, 0.75))
    width = max(len("keypoint"), *map(len, names))
    lines = [f"{'keypoint':{width}}  instances   sigma  {LEVEL:.0%} interval    OKS .5  OKS .75  largest deviation"]
    for k, name in enumerate(names):
        lines.append(
            f"{name:{width}}  {found.counts[k]:9}  {found.values[k]:6.4f}  {found.low[k]:.4f} to {found.high[k]:.4f}"
            f"  {half[k]:5.1f} px  {three_quarters[k]:4.1f} px  {found.largest[k]:.1f} px, "
            f"{repeated.names[found.where[k]]}"
        )
    return [*lines, f"OKS .5 and .75: the error in pixels that gives this OKS, at the median area of {area:.0f} px²"]


def write(path: Path, skeleton: Skeleton, values: np.ndarray, overwrite: bool = False) -> None:
    """Write the sigmas, with three digits, into the skeleton's yaml at `path`; its other text is unchanged.

    Raises UserError if the file has sigmas already, unless `overwrite`.
    """
    sigmas = [float(f"{value:.3g}") for value in values]
    text, line = path.read_text(encoding="utf-8"), f"sigmas: {sigmas}"
    content = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(content, yaml.MappingNode)
    old = next(((key, value) for key, value in content.value if key.value == "sigmas"), None)
    if old is None:
        text = f"{text.rstrip()}\n{line}\n"
    elif not overwrite:
        raise UserError(f"{path}: has `sigmas` already; pass --overwrite to replace them")
    else:
        key, value = old
        # A block ends at the next key; comments in between do not belong to it.
        block = isinstance(value, yaml.SequenceNode) and not value.flow_style
        end = value.value[-1].end_mark if block else value.end_mark
        text = text[: key.start_mark.index] + line + text[end.index :]
    written = skeletons.of_category(skeletons.from_mapping(yaml.safe_load(text), str(path)), skeleton.category)
    assert written == replace(skeleton, sigmas=tuple(sigmas))
    write_text(path, text)
