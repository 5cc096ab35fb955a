"""Thousands of spoilt images through dataset and predictor: read, or refused by name; no crash, hang or leak."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.goldens import HEATMAP, INPUT
from helpers.mutations import KINDS, Tally, examine, mutants

from transpose.build.model import TrainedModel
from transpose.core.predict import TestOptions
from transpose.dataset.coco import Images, Instances
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import Augmentation, TopDownDataset
from transpose.errors import UserError
from transpose.models.encoder import EncoderConfig
from transpose.models.transpose import TransPoseR
from transpose.pose.skeleton import COCO
from transpose.predictor.detector import whole_image
from transpose.predictor.predictor import Predictor

SEED = int(os.environ.get("SEED", 0))
GROWTH = 200 * 2**20  # bytes, whatever their number
# What nothing is wrong with, but for the rarity of it.
GOOD = {"tiny", "grey", "cmyk", "sixteen_bits", "turned_by_exif", "transparent", "of_a_palette", "wrong_ending"}
BAD = {"empty", "folder"}


def sampled(path: Path) -> None:
    """The training sample of one person on an image, as the dataset makes it."""
    boxes, keypoints = np.array([[20.0, 10.0, 90.0, 150.0]]), np.full((1, 17, 2), 60, np.float32)
    images = Images(np.array([1]), np.array([path.name]), np.array([[256, 256]]))
    people = Instances(images, np.array([7]), np.array([0]), boxes, np.ones(1), keypoints, np.ones((1, 17), np.float32))
    crops = TopDownDataset(people, ImageReader(path.parent), COCO, INPUT, HEATMAP, augmentation=Augmentation())
    for sample in (crops[0, 0], crops.mirrored(0)):
        assert sample["image"].shape == (256, 192, 3) and sample["image"].dtype == np.uint8
        assert all(np.isfinite(sample[key]).all() for key in ("keypoints", "to_image", "center", "scale"))


def check(tally: Tally, number: int) -> None:
    print(f"\n{number} images, the slowest {tally.slowest[0]:.2f} s ({tally.slowest[1]}), ", end="")
    print(f"{tally.grown / 2**20:.0f} MiB grown\n{'kind':16}{'read':>6}{'refused':>9}")
    for kind in KINDS:
        print(f"{kind:16}{tally.read[kind]:6}{tally.refused[kind]:9}")
    assert tally.read.total() + tally.refused.total() == number
    assert tally.grown < GROWTH
    for kind in GOOD:
        assert not tally.refused[kind], kind
    for kind in BAD:
        assert not tally.read[kind], kind


@pytest.mark.parametrize("number", [190, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_images_are_read_or_refused(tmp_path: Path, number: int):
    check(examine(mutants(number, seed=number + SEED), tmp_path, sampled), number)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of an untrained network, for inputs as small as may be."""
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, heads=1, layers=1, feedforward=16)
    network = TransPoseR(image_size=(32, 64), num_layers=18, encoder=encoder, deconv_filters=(16,))
    trained = TrainedModel(network, COCO, Path("untrained"), TestOptions(flip_test=False))
    return Predictor(trained, device="cpu", detector=whole_image)


@pytest.mark.parametrize("number", [95, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_images_give_persons_or_are_refused(tmp_path: Path, predictor: Predictor, number: int):
    def found(path: Path) -> None:
        people = predictor(path)
        assert len(people.boxes) == 1 and np.isfinite(people.keypoints).all()

    check(examine(mutants(number, seed=number + 1 + SEED), tmp_path, found), number)


def test_equal_seeds_give_equal_mutants():
    assert list(mutants(40, seed=1)) == list(mutants(40, seed=1)) != list(mutants(40, seed=2))


def test_examining_fails_on_an_error_that_does_not_name_the_file(tmp_path: Path):
    def unnamed(path: Path) -> None:
        raise UserError("something is wrong")

    def fault(path: Path) -> None:
        raise ValueError(path)

    for read, error in ((unnamed, AssertionError), (fault, ValueError)):
        with pytest.raises(error):
            examine(mutants(1, seed=0), tmp_path, read)
