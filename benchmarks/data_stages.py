"""The stages around the model: decoding, samples, files, evaluation."""

import collections
import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from benchmarks import plain, protocol, scale, synthetic
from benchmarks.stages import Maker, Size, Stage
from transpose.build.data import build_training_data
from transpose.build.evaluation import build_evaluation
from transpose.core.predict import normalise
from transpose.dataset import coco
from transpose.dataset.detections import detected_instances
from transpose.dataset.image_cache import DecodedImages
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import Augmentation, TopDownDataset
from transpose.pose import heatmap
from transpose.pose.skeleton import COCO

SAMPLE = scale.REPOSITORY / "data/coco_sample"
ANNOTATIONS = SAMPLE / "annotations/person_keypoints_val2017.json"
BOXES = SAMPLE / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
INPUT, HEATMAP, KERNEL, SEED = (192, 256), (48, 64), 11, 22
ASPECT = INPUT[0] / INPUT[1]
RECIPE = Augmentation(scale=0.35, rotation=45, half_body=0.3, half_body_joints=8)
BATCH = 20
BOXES_PER_IMAGE = 20


def largest(one: Any, other: Any) -> float:
    """Largest difference of two arrays; infinite for other shapes."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0))


# Decoding


def gaussians(batch: int, noise: float) -> torch.Tensor:
    """Maps (batch, 17, 64, 48) as a network makes them."""
    draw = torch.Generator().manual_seed(SEED)
    points = torch.rand(batch, 17, 2, generator=draw) * torch.tensor(HEATMAP)
    maps, _ = heatmap.encode(points, torch.ones(batch, 17), HEATMAP, 2.0)
    heights = 0.2 + 0.8 * torch.rand(batch, 17, 1, 1, generator=draw)
    return maps * heights + noise * torch.randn(maps.shape, generator=draw)


def edge_maps() -> torch.Tensor:
    """Maps (7, 17, 64, 48): flat, negative, of single and tied pixels, of noise only, with a peak at each border."""
    draw = torch.Generator().manual_seed(SEED)
    flat = torch.linspace(-1, 1, 17).view(17, 1, 1).expand(17, 64, 48)
    negative = -torch.rand(17, 64, 48, generator=draw) - 0.01
    pixel, tied = torch.zeros(2, 17, 64, 48)
    border = torch.empty(17, 2)
    for joint in range(17):
        pixel[joint, 3 * joint, 2 * joint] = 10.0 ** -(joint % 12)
        tied[joint, 20, 10 + joint] = tied[joint, 20, 12 + joint] = tied[joint, 20 + joint, 11] = 0.7
        along = joint % 5
        border[joint] = torch.tensor([(along, 30), (47 - along, 30), (24, along), (24, 63 - along)][joint % 4])
    at_border, _ = heatmap.encode(border[None] + 0.3, torch.ones(1, 17), HEATMAP, 2.0)
    noise = torch.rand(2, 17, 64, 48, generator=draw)
    noise[1] = noise[1] - 0.9
    return torch.stack([flat, negative, pixel, tied, at_border[0], *noise])


def decode(size: Size, folder: Path) -> Stage:
    maps = gaussians(size.batch, noise=0.003)
    arrays = maps.numpy()

    def difference(one: Any, other: Any) -> float:
        edges = edge_maps()
        pairs = (
            (one, other),
            *((plain.decode(edges.numpy(), k, np.float64), heatmap.decode(edges, k)) for k in (KERNEL, 3)),
        )
        if any((theirs[1] != ours[1].numpy()).any() for theirs, ours in pairs):
            return float("inf")
        return max(largest(theirs[0], ours[0]) for theirs, ours in pairs)

    return Stage(
        title=f"DARK decoding, {size.batch}×17×64×48",
        original="37 ms",
        wanted="≥ 20×",
        plain=lambda: plain.decode(arrays, KERNEL),
        ours=lambda: heatmap.decode(maps, KERNEL),
        difference=difference,
        tolerance=2e-4,
        unit="px",
    )


# Samples


def image_paths(persons: coco.Instances) -> list[Path]:
    names = persons.images.names[persons.image]
    return [SAMPLE / "images/val2017" / str(name) for name in names]


def crops_of(persons: coco.Instances, cache_bytes: int = 0, augmentation: Augmentation | None = None) -> TopDownDataset:
    reader = ImageReader(SAMPLE / "images/val2017", cache_bytes)
    return TopDownDataset(persons, reader, COCO, INPUT, HEATMAP, augmentation=augmentation, seed=SEED)


def labelled() -> coco.Instances:
    return coco.annotated_instances(coco.read_annotations(ANNOTATIONS))


def plain_samples(persons: coco.Instances, order: list[int], training: bool) -> Iterator[tuple]:
    paths = image_paths(persons)
    for i in order:
        center, extent = plain.box_to_crop(persons.boxes[i], ASPECT)
        draw = np.random.default_rng((SEED, 0, 1 + i)) if training else None
        yield plain.sample(paths[i], center, extent, persons.keypoints[i], persons.visible[i], draw)


def sample_stage(
    title: str,
    original: str,
    wanted: str,
    persons: coco.Instances,
    order: list[int],
    ours: Callable[[], Iterator[Any]],
    training: bool,
    difference: Callable[[tuple, Any], float] | None = None,
) -> Stage:
    """Samples one after the other, none kept: the difference is of passes that are not timed."""

    def theirs() -> Iterator[tuple]:
        return plain_samples(persons, order, training)

    def pixels(one: tuple, other: dict[str, np.ndarray]) -> float:
        return largest(one[0], other["image"])

    drain = collections.deque[Any](maxlen=0).extend
    return Stage(
        title=title,
        original=original,
        wanted=wanted,
        plain=lambda: drain(theirs()),
        ours=lambda: drain(ours()),
        difference=lambda *_: max(map(difference or pixels, theirs(), ours())),
        tolerance=0 if difference is None else 1e-5,
        unit="grey levels" if difference is None else "",
        count=len(order),
    )


def shuffled(count: int, size: Size) -> list[int]:
    return np.random.default_rng(SEED).permutation(count)[: size.samples].tolist()


def training_sample(size: Size, folder: Path) -> Stage:
    persons = labelled()
    order, crops = shuffled(len(persons), size), crops_of(persons, augmentation=RECIPE)

    def ours() -> Iterator[tuple[torch.Tensor, ...]]:
        for start in range(0, len(order), BATCH):
            batch = default_collate([crops[0, i] for i in order[start : start + BATCH]])
            maps, weight = heatmap.encode(batch["keypoints"], batch["visible"], HEATMAP, 2.0)
            yield from zip(normalise(batch["image"], torch.device("cpu")), maps, weight, strict=True)

    def difference(one: tuple, other: tuple[torch.Tensor, ...]) -> float:
        _, pixels, maps, weight = one
        return max(largest(a, b) for a, b in zip((pixels, maps, weight[:, 0]), other, strict=True))

    title = "one training sample: normalised pixels, target maps, weights"
    return sample_stage(title, "4.2 ms", "≥ 1.5×", persons, order, ours, True, difference)


def training_sample_uint8(size: Size, folder: Path) -> Stage:
    persons = labelled()
    order, crops = shuffled(len(persons), size), crops_of(persons, augmentation=RECIPE)
    title = "one training sample, as it leaves the loading process: uint8 pixels and keypoints"
    return sample_stage(title, "4.2 ms", "≥ 1.8×", persons, order, lambda: (crops[0, i] for i in order), True)


def training_sample_cached(size: Size, folder: Path) -> Stage:
    persons = labelled()
    order, crops = shuffled(len(persons), size), crops_of(persons, 1 << 30, RECIPE)
    for i in order:
        crops.image(i)
    title = "one training sample, its image in memory (`DATASET.CACHE_MB`)"
    return sample_stage(title, "4.2 ms", "≥ 8×", persons, order, lambda: (crops[0, i] for i in order), True)


def training_sample_stored(size: Size, folder: Path) -> Stage:
    persons = labelled()
    reader = ImageReader(SAMPLE / "images/val2017")
    names = np.unique(persons.images.names[persons.image]).tolist()
    images = DecodedImages(reader, folder / "decoded")
    size_of_all = sum(images.read(name, "benchmark").nbytes for name in names)
    order = shuffled(len(persons), size)
    crops = TopDownDataset(persons, images, COCO, INPUT, HEATMAP, augmentation=RECIPE, seed=SEED)
    held = f"{size_of_all / 1e6:.0f} MB for {len(names)} images"
    title = f"one training sample from images decoded once (`DATASET.DECODED_DIR`, {held})"
    return sample_stage(title, "4.2 ms", "≥ 8×", persons, order, lambda: (crops[0, i] for i in order), True)


def test_stage(persons: coco.Instances, wanted: str, what: str) -> Stage:
    crops = crops_of(persons)
    order = list(range(len(persons)))
    each = len(persons) / len(np.unique(persons.image))
    title = f"one test sample, {what}, {each:.1f} per image"
    return sample_stage(title, "3.2 ms", wanted, persons, order, lambda: (crops[i] for i in order), False)


def first(persons: coco.Instances, size: Size) -> coco.Instances:
    return coco.select(persons, np.arange(len(persons)) < size.samples)


def test_sample(size: Size, folder: Path) -> Stage:
    return test_stage(first(labelled(), size), "≥ 3×", "annotated boxes")


def test_sample_detected(size: Size, folder: Path) -> Stage:
    persons = detected_instances(BOXES, coco.read_annotations(ANNOTATIONS), COCO.num_joints, 0.0)
    place = np.arange(len(persons)) - np.searchsorted(persons.image, persons.image)
    best = coco.select(persons, place < BOXES_PER_IMAGE)
    return test_stage(best if size.samples > 100 else first(best, size), "≥ 6×", "detected boxes")


# Evaluation


def predicted(size: Size, root: Path) -> tuple[Any, Any]:
    """An evaluation and predictions for `size.persons` detected boxes of images as many as COCO's share."""
    share = size.persons / scale.VAL_BOXES
    ids = scale.make_set(root, "val2017", scale.VAL, share, images=False).ids
    synthetic.detections(root / "boxes.json", ids, boxes=size.persons)
    overrides = ["TEST.USE_GT_BBOX", "False", "TEST.IMAGE_THRE", "0.0"]
    evaluation = build_evaluation(scale.settings(root, *overrides), torch.device("cpu"))
    crops, persons = evaluation.crops, evaluation.crops.instances
    if size.persons < 1000:  # for AP other than 0, where it costs little
        annotated = coco.annotated_instances(evaluation.annotations)
        persons = synthetic.with_keypoints(persons, annotated)
    return evaluation, synthetic.predictions(persons, crops.center, crops.scale)


def evaluation_stage(size: Size, folder: Path) -> Stage:
    evaluation, predictions = predicted(size, folder)
    scores = evaluation.crops.instances.scores

    return Stage(
        title=f"evaluation from predictions to results file and AP, {size.persons:,} persons",
        original="47 s",
        wanted="≥ 12×",
        plain=lambda: protocol.plainly(evaluation, predictions, scores, folder / "plain.json"),
        ours=lambda: list(evaluation.evaluate(predictions, folder / "run", "none").values()),
        difference=largest,
        tolerance=1e-12,
    )


# Files


def compare_persons(one: list[dict[str, Any]], other: TopDownDataset) -> float:
    """Largest difference of a plain index, with everything that a sample takes from it."""
    persons = other.instances
    if len(one) != len(persons):
        return float("inf")
    if [item["image"] for item in one] != persons.images.names[persons.image].tolist():
        return float("inf")
    pairs = (
        (np.array([item["center"] for item in one]), other.center),
        (np.array([item["scale"] for item in one]), other.scale),
        (np.array([item["joints_3d"][:, :2] for item in one]), persons.keypoints),
        (np.array([item["joints_3d_vis"][:, 0] for item in one]), persons.visible),
        (np.array([item.get("score", 1.0) for item in one]), persons.scores),
    )
    return max(largest(a, b) for a, b in pairs)


def detections(size: Size, folder: Path) -> Stage:
    synthetic.image_info(folder / "info.json", images=max(1, round(size.persons / 20)))
    source = coco.read_annotations(folder / "info.json", image_info=True)
    names = dict(zip(source.images.ids.tolist(), source.images.names.tolist(), strict=True))
    path = folder / "boxes.json"
    synthetic.detections(path, source.images.ids, boxes=size.persons)
    return Stage(
        title=f"detections file, {size.persons:,} boxes, to crops",
        original="2.6 s",
        wanted="≥ 4×",
        plain=lambda: plain.detected_index(path, names, 0.0, ASPECT),
        ours=lambda: crops_of(detected_instances(path, source, COCO.num_joints, 0.0)),
        difference=compare_persons,
        tolerance=0,
    )


def train_index(size: Size, folder: Path) -> Stage:
    scale.make_set(folder, "train2017", scale.TRAIN, size.fraction, images=False)
    cfg = scale.settings(folder, "WORKERS", "0")
    path = folder / "annotations/person_keypoints_train2017.json"

    def theirs() -> list[dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            return plain.training_index(path, ASPECT)

    def ours() -> Any:
        return build_training_data(cfg)[0].dataset

    return Stage(
        title=f"training set's index, {round(scale.TRAIN['persons'] * size.fraction):,} persons",
        original="23 s",
        wanted="≥ 4×",
        plain=theirs,
        ours=ours,
        difference=compare_persons,
        tolerance=0,
    )


# Commands

HELP = ["tools/train.py", "--help"]
PLAIN_HELP = (
    "import runpy, sys; sys.path.insert(0, 'tools'); import transpose.build.run; "
    f"sys.argv = {HELP}; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def command_help(size: Size, folder: Path) -> Stage:
    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=scale.REPOSITORY, check=True, capture_output=True, text=True).stdout

    return Stage(
        title="`tools/train.py --help`",
        original="5.8 s",
        wanted="< 0.3 s",
        plain=lambda: run("-c", PLAIN_HELP),
        ours=lambda: run(*HELP),
        difference=lambda one, other: float(one != other),
        tolerance=0,
        clock=time.perf_counter,
    )


STAGES: dict[str, Maker] = {
    "decode": decode,
    "training-sample": training_sample,
    "training-sample-uint8": training_sample_uint8,
    "training-sample-cached": training_sample_cached,
    "training-sample-stored": training_sample_stored,
    "test-sample": test_sample,
    "test-sample-detected": test_sample_detected,
    "evaluation": evaluation_stage,
    "detections": detections,
    "train-index": train_index,
    "help": command_help,
}
