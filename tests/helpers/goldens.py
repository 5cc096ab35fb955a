"""What several tests share: the golden values, weights made from names, and the bundled sample.

Only what reads the sample imports the data sets: the tests on a GPU run where their packages are missing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from transpose.pose import geometry
from transpose.pose.skeleton import COCO

if TYPE_CHECKING:
    from transpose.dataset.coco import Annotations, Instances
    from transpose.dataset.topdown import TopDownDataset

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
SAMPLE = ROOT / "data/coco_sample"
ANNOTATIONS = SAMPLE / "annotations/person_keypoints_val2017.json"
IMAGES = SAMPLE / "images/val2017"
INPUT, HEATMAP = (192, 256), (48, 64)


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def state_dicts() -> dict[str, dict]:
    """Per published model its config, number of parameters, and ordered [key, shape, dtype] list."""
    with gzip.open(GOLDEN / "state_dicts.json.gz") as file:
        return json.load(file)


def sample_annotations() -> Annotations:
    from transpose.dataset.coco import read_annotations

    return read_annotations(ANNOTATIONS)


def sample_instances() -> Instances:
    from transpose.dataset.coco import annotated_instances

    return annotated_instances(sample_annotations())


def sample_detections(threshold: float = 0.0) -> Instances:
    from transpose.dataset.detections import detected_instances

    path = SAMPLE / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    return detected_instances(path, sample_annotations(), COCO.num_joints, threshold)


def sample_crops(people: Instances | None = None, **options) -> TopDownDataset:
    from transpose.dataset.images import ImageReader
    from transpose.dataset.topdown import TopDownDataset

    return TopDownDataset(people or sample_instances(), ImageReader(IMAGES), COCO, INPUT, HEATMAP, **options)


def mapped(center: np.ndarray, scale: np.ndarray, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints (N, K, 2) of N unrotated crops, in the pixels of a `size` output."""
    crops = zip(center, scale, keypoints, strict=True)
    return np.stack([geometry.apply(geometry.crop_to_output(c, s, 0, size), k) for c, s, k in crops])


@torch.no_grad()
def fill_from_names(model: torch.nn.Module) -> None:
    """The weights with which the goldens were computed: each tensor drawn from a seed made of its key."""
    for key, tensor in model.state_dict().items():
        if key == "pos_embedding" or key.endswith("num_batches_tracked"):
            continue
        shape = tuple(tensor.shape)
        g = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("running_mean") or key.endswith("bias"):
            g = 0.1 * g
        elif key.endswith("running_var"):
            g = 1 + 0.2 * abs(g)
        elif len(shape) == 1:
            g = 1 + 0.1 * g
        elif len(shape) == 2:
            g = g * np.sqrt(1 / shape[1])
        else:
            gain = 1 if key.startswith(("final_layer", "reduce")) else 2
            inputs = shape[0] / 4 if key.startswith("deconv_layers") else shape[1]
            g = g * np.sqrt(gain / (inputs * shape[2] * shape[3]))
        tensor.copy_(torch.from_numpy(g.astype(np.float32)))
