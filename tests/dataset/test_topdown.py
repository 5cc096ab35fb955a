"""The persons, their crops, the draws that augment them, and which samples make a batch."""

import io
import json
import warnings
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from helpers.goldens import (
    ANNOTATIONS,
    HEATMAP,
    IMAGES,
    INPUT,
    golden,
    mapped,
    sample_crops,
    sample_detections,
    sample_instances,
)
from torch.utils.data import DataLoader

from transpose.core.predict import normalise
from transpose.dataset.coco import Images, Instances, annotated_instances, centred, read_annotations, select
from transpose.dataset.images import ORIENTATION, ImageReader, decode_image, orientation
from transpose.dataset.samplers import EvalSampler, TrainSampler
from transpose.dataset.topdown import Augmentation, TopDownDataset, half_body_crop, mirror_image
from transpose.errors import UserError
from transpose.pose import geometry
from transpose.pose.skeleton import COCO

ASPECT = INPUT[0] / INPUT[1]
DRAWS = 3000
NOTHING = Augmentation(flip=False, scale=0.0, rotation=0.0, half_body=0.0)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


# The sample's persons against the original


def test_annotated_persons_and_crops_are_the_originals():
    wanted, people, crops = golden("crops_gt"), sample_instances(), sample_crops()
    np.testing.assert_array_equal(people.images.ids[people.image], wanted["image"])
    np.testing.assert_array_equal(people.visible, wanted["joints_vis"])
    np.testing.assert_allclose(crops.center, wanted["center"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(crops.scale, wanted["scale"], rtol=0, atol=1e-4)
    joints, seen = mapped(crops.center, crops.scale, people.keypoints, INPUT), people.visible > 0
    np.testing.assert_allclose(joints[seen], wanted["joints"][seen], rtol=0, atol=1e-4)


def test_persons_come_in_image_order_then_file_order(tmp_path):
    content = json.loads(ANNOTATIONS.read_text())
    content["annotations"].reverse()
    content["annotations"].insert(0, content["annotations"][0] | {"id": 1, "category_id": 2})
    content["categories"].append({"id": 2, "name": "dog"})
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    usual, found = sample_instances(), annotated_instances(read_annotations(path))
    wanted = [usual.ids[usual.image == image][::-1] for image in np.unique(usual.image)]
    np.testing.assert_array_equal(found.ids, np.concatenate(wanted))
    np.testing.assert_array_equal(np.sort(found.image), found.image)


def test_crops_show_the_pixels_of_the_originals():
    wanted, crops = golden("crops_gt"), sample_crops()
    samples = [crops[index] for index in range(len(crops))]
    shown = np.stack([sample["image"] for sample in samples[:4]])
    difference = abs(shown.astype(int) - wanted["input"])
    assert (difference <= 2).mean() >= 0.999  # OpenCV's versions differ by a grey level or two
    pixels = normalise(torch.from_numpy(np.stack([sample["image"] for sample in samples])), torch.device("cpu"))
    np.testing.assert_allclose(pixels.mean((2, 3)).numpy(), wanted["input_mean"], rtol=0, atol=5e-3)


def test_a_sample_is_what_it_says():
    crops = sample_crops()
    sample = crops[40]
    kinds = {key: (np.asarray(value).shape, np.asarray(value).dtype.name) for key, value in sample.items()}
    assert kinds == {
        "image": ((256, 192, 3), "uint8"),
        "keypoints": ((17, 2), "float32"),
        "visible": ((17,), "float32"),
        "to_image": ((2, 3), "float64"),
        "center": ((2,), "float32"),
        "scale": ((2,), "float32"),
        "index": ((), "int64"),
    }
    assert sample["index"] == 40
    back = geometry.apply(sample["to_image"], sample["keypoints"].astype(float))
    np.testing.assert_allclose(back, crops.instances.keypoints[40], atol=2e-3)
    blue_first = sample_crops(rgb=False)[40]["image"]
    np.testing.assert_array_equal(blue_first[..., ::-1], sample["image"])


def test_detected_boxes_are_the_originals():
    wanted, people = golden("crops_det"), sample_detections()
    assert len(people) == 1091
    np.testing.assert_array_equal(people.images.ids[people.image], wanted["image"])
    np.testing.assert_allclose(people.scores, wanted["score"], rtol=0, atol=1e-12)
    center, scale = geometry.boxes_to_crops(people.boxes, ASPECT)
    np.testing.assert_allclose(center, wanted["center"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scale, wanted["scale"], rtol=0, atol=1e-4)


def test_detections_below_the_threshold_are_dropped_and_keep_their_ids():
    every, some = sample_detections(), sample_detections(0.5)
    np.testing.assert_array_equal(some.ids, every.ids[every.scores >= 0.5])
    np.testing.assert_array_equal(some.boxes, every.boxes[every.scores >= 0.5])
    assert 0 < len(some) < len(every)


# Reading images


@pytest.fixture(scope="module")
def few() -> Instances:
    """Persons of the first three images that show any."""
    people = sample_instances()
    return select(people, np.isin(people.image, np.unique(people.image)[:3]))


@pytest.fixture
def zipped(few: Instances, tmp_path: Path) -> ImageReader:
    path = tmp_path / "val2017.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in few.images.names[np.unique(few.image)]:
            archive.write(IMAGES / name, str(name))
    return ImageReader(path)


def crops_of(people: Instances, reader: ImageReader, **options) -> TopDownDataset:
    return TopDownDataset(people, reader, COCO, INPUT, HEATMAP, **options)


def load(crops: TopDownDataset, batches: list | EvalSampler, workers: int) -> list[dict]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(crops, batch_sampler=batches, num_workers=workers)
        return [{key: value.numpy() for key, value in batch.items()} for batch in loader]


def test_zip_reads_like_the_folder(few, zipped):
    folder, archive = crops_of(few, ImageReader(IMAGES)), crops_of(few, zipped)
    assert len(few) > 3 and all(same(folder[index], archive[index]) for index in range(len(few)))


def test_opencv_keeps_no_threads_that_a_forked_worker_would_wait_for():
    """A worker forked after the first warp used to hang for ever."""
    assert cv2.getNumThreads() <= 1


def test_zip_that_was_read_before_serves_several_workers(few, zipped):
    """A forked worker inherits the open file, and with it a position that all of them would share."""
    crops, plan = crops_of(few, zipped), [[index] for index in range(len(few))] * 4
    first = [load(crops, plan, 0), load(crops, plan, 3)]
    assert all(same(one, other) for one, other in zip(*first, strict=True))


def test_image_is_found_by_its_file_name(few, tmp_path):
    """Not by its id, from which the lineage made names up."""
    renamed = np.array([f"a photo of {image_id}.png" for image_id in few.images.ids])
    for index in np.unique(few.image):
        pixels = cv2.imread(str(IMAGES / few.images.names[index]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        cv2.imwrite(str(tmp_path / renamed[index]), pixels)
    other = crops_of(replace(few, images=replace(few.images, names=renamed)), ImageReader(tmp_path))
    assert same(other[0], crops_of(few, ImageReader(IMAGES))[0])


def test_orientation_tag_is_ignored_as_in_cocos_annotations(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
    turned = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    tagged = jpeg[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + jpeg[2:]
    (tmp_path / "a.jpg").write_bytes(tagged)
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape == (40, 20, 3)
    assert ImageReader(tmp_path).read("a.jpg", "person 1").shape == (20, 40, 3)


def tiff(pixels: np.ndarray, orientation: int, **how) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "TIFF", tiffinfo={ORIENTATION: orientation}, **how)
    return file.getvalue()


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("how", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
def test_a_tiff_is_read_as_stored_unless_it_is_to_be_turned(tag, how):
    """Its decoders turn it although told not to."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    content = tiff(pixels, tag, **how)
    assert (decode_image(content, "a.tif")[..., ::-1] == pixels).all() and orientation(content) == tag
    turned = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    assert (decode_image(content, "a.tif", oriented=True)[..., ::-1] == np.asarray(turned)).all()


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_an_image_of_another_size_than_annotated_is_reported_once(few, context, capfd, caplog):
    """By whichever process reads it first; this one's log is not a loading process's."""
    sizes = few.images.sizes.copy()
    sizes[np.unique(few.image)] = sizes[np.unique(few.image)][:, ::-1]
    crops = crops_of(replace(few, images=replace(few.images, sizes=sizes)), ImageReader(IMAGES))
    workers = {"num_workers": 1, "multiprocessing_context": context} if context else {}
    for _ in range(2):
        assert len(list(DataLoader(crops, batch_size=2, **workers))) > 1
    said = f"{caplog.text}{capfd.readouterr().err}"
    assert crops._warned.all() and said.count("(turned by its EXIF orientation?), as annotated") == (context != "fork")


def test_bytes_after_the_jpegs_end_do_not_make_it_truncated(tmp_path):
    """Telephones append films and depth maps, in which any marker may turn up."""
    jpeg = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(jpeg + b"film\xff\xda film")
    assert ImageReader(tmp_path).read("a.jpg", "person 1").shape == (20, 40, 3)


def test_fill_bytes_before_a_jpegs_marker_are_legal(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xff" + jpeg[2:])
    assert ImageReader(tmp_path).read("a.jpg", "person 1").shape == (20, 40, 3)


def test_jpeg_cut_off_behind_its_thumbnail_is_truncated(tmp_path):
    """The thumbnail in a segment before the pixels ends with an end of its own."""
    jpeg = cv2.imencode(".jpg", np.full((200, 400, 3), 90, np.uint8))[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg
    (tmp_path / "whole.jpg").write_bytes(jpeg[:2] + thumbnail + jpeg[2:])
    (tmp_path / "cut.jpg").write_bytes(jpeg[:2] + thumbnail + jpeg[2:-20])
    reader = ImageReader(tmp_path)
    assert reader.read("whole.jpg", "person 1").shape == (200, 400, 3)
    with pytest.raises(UserError, match=r"cut\.jpg \(person 1\): the JPEG is truncated"):
        reader.read("cut.jpg", "person 1")


def test_cache_keeps_images_up_to_its_size_and_always_the_last(few, tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((10, 10, 3), np.uint8))
    small, large = ImageReader(tmp_path), ImageReader(tmp_path, cache_bytes=600)
    first = [reader.read("a.png", "") for reader in (small, large)]
    assert small.read("a.png", "") is first[0]
    for reader in (small, large):
        reader.read("b.png", "")
    assert small.read("a.png", "") is not first[0]
    assert large.read("a.png", "") is first[1]


# Augmentation: what is drawn


@pytest.fixture(scope="module")
def recipe(few) -> TopDownDataset:
    return crops_of(few, ImageReader(IMAGES, cache_bytes=1 << 30), augmentation=Augmentation(), seed=22)


def test_draws_depend_on_seed_epoch_and_sample_alone(few, recipe):
    plan = [[(3, index), (4, index)] for index in range(len(few))]
    here, there = load(recipe, plan, 0), load(recipe, plan, 2)
    backwards = load(recipe, plan[::-1], 0)[::-1]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(here, there, backwards, strict=True))
    drawn = np.concatenate([batch["to_image"] for batch in here])
    other_seed = crops_of(few, recipe.reader, augmentation=Augmentation(), seed=23)
    drawn = np.concatenate([drawn, [other_seed[3, index]["to_image"] for index in range(len(few))]])
    assert len(np.unique(drawn.reshape(len(drawn), 6), axis=0)) == len(drawn) == 3 * len(few)


def test_nothing_to_draw_is_the_plain_crop(few, recipe):
    plain = crops_of(few, recipe.reader)
    still = crops_of(few, recipe.reader, augmentation=NOTHING)
    # A drawn scale is float64, so the last digits of the map differ.
    assert abs(still[5, 1]["image"].astype(int) - plain[1]["image"]).max() <= 1
    np.testing.assert_allclose(still[5, 1]["keypoints"], plain[1]["keypoints"], rtol=0, atol=1e-3)


class NoPhotograph:
    """Reads a black image at once, so that many draws cost little."""

    def read(self, name: str, owner: str) -> np.ndarray:
        return np.zeros((400, 600, 3), np.uint8)


def one_person(visible: int = 17) -> Instances:
    """A person whose upper and lower body lie apart."""
    keypoints = np.random.default_rng(0).uniform(100, 180, (1, 17, 2)).astype(np.float32)
    keypoints[0, list(COCO.lower_body), 1] += 120
    seen = (np.arange(17) < visible).astype(np.float32)[None]
    images = Images(np.array([7]), np.array(["x.jpg"]), np.array([[600, 400]]))
    one = np.ones(1)
    return Instances(images, one.astype(int), np.zeros(1, int), np.array([[90.0, 80, 130, 250]]), one, keypoints, seen)


def draws(augmentation: Augmentation, people: Instances | None = None) -> tuple[TopDownDataset, dict[str, np.ndarray]]:
    crops = TopDownDataset(
        people or one_person(), NoPhotograph(), COCO, (24, 32), (6, 8), augmentation=augmentation, seed=1
    )
    samples = [crops[epoch, 0] for epoch in range(DRAWS)]
    return crops, {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def about(share: np.ndarray, probability: float, of: int = DRAWS) -> bool:
    """A share that is four standard deviations away at most; the seed is fixed."""
    return abs(share.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / of)


def test_flip_is_a_fair_coin_and_can_be_turned_off():
    crops, drawn = draws(replace(NOTHING, flip=True))
    flipped = np.isclose(drawn["center"][:, 0], 599 - crops.center[0, 0])
    assert about(flipped, 0.5)
    assert (drawn["center"][~flipped] == crops.center[0]).all()
    never = TopDownDataset(one_person(), NoPhotograph(), COCO, (24, 32), (6, 8), augmentation=NOTHING)
    assert all((never[epoch, 0]["center"] == never.center[0]).all() for epoch in range(30))


def test_scale_is_a_normal_draw_clipped_at_one_deviation():
    crops, drawn = draws(replace(NOTHING, scale=0.35))
    factor = drawn["scale"] / crops.scale[0]
    np.testing.assert_allclose(factor[:, 0], factor[:, 1], rtol=1e-6)
    assert factor.min() == pytest.approx(0.65, rel=1e-5) and factor.max() == pytest.approx(1.35, rel=1e-5)
    below, above = (factor[:, 0] < 0.65001), (factor[:, 0] > 1.34999)
    assert about(below, 0.158655) and about(above, 0.158655)
    assert about(factor[:, 0] < 1 - 0.35 / 2, 0.308538)


def test_rotation_comes_six_times_in_ten_and_is_clipped_at_two_deviations():
    _, drawn = draws(replace(NOTHING, rotation=40.0))
    # The inverse map turns back.
    angle = np.rad2deg(np.arctan2(drawn["to_image"][:, 1, 0], drawn["to_image"][:, 0, 0]))
    turned = abs(angle) > 1e-4
    assert about(turned, 0.6)
    assert abs(angle).max() == pytest.approx(80, abs=1e-3)
    assert about(angle > 79.99, 0.6 * 0.022750) and about(angle < -79.99, 0.6 * 0.022750)
    assert about(angle > 40, 0.6 * 0.158655)


def test_half_bodies_come_with_their_probability_and_the_upper_more_often():
    people = one_person()
    crops, drawn = draws(replace(NOTHING, half_body=0.3), people)
    whole = (drawn["center"] == crops.center[0]).all(1)
    halves = [half_body_crop(people.keypoints[0], people.visible[0], COCO, 24 / 32, prefer) for prefer in (True, False)]
    upper, lower = (
        np.isclose(drawn["center"], center).all(1) & np.isclose(drawn["scale"], scale).all(1)
        for center, scale in halves
    )
    assert (whole ^ upper ^ lower).all()
    assert about(~whole, 0.3)
    assert about(upper[~whole], 0.691462, of=(~whole).sum())


@pytest.mark.parametrize("visible, halved", [(8, False), (9, True)])
def test_half_bodies_need_more_visible_joints_than_the_limit(visible, halved):
    crops = TopDownDataset(
        one_person(visible), NoPhotograph(), COCO, (24, 32), (6, 8), augmentation=replace(NOTHING, half_body=1.0)
    )
    assert bool((crops[0, 0]["center"] != crops.center[0]).any()) == halved


@pytest.mark.parametrize(
    "upper, lower, prefer_upper, takes",
    [
        (3, 3, True, "upper"),
        (3, 3, False, "lower"),
        (2, 3, True, "lower"),
        (3, 2, False, "upper"),
        (2, 2, False, "upper"),
        (1, 2, True, None),
        (0, 1, False, None),
    ],
)
def test_the_chosen_half_of_the_body(upper, lower, prefer_upper, takes):
    keypoints, visible = one_person().keypoints[0], np.zeros(17, np.float32)
    visible[list(COCO.upper_body[:upper] + COCO.lower_body[:lower])] = 1
    half = half_body_crop(keypoints, visible, COCO, ASPECT, prefer_upper)
    if takes is None:
        assert half is None
    else:
        chosen = COCO.upper_body[:upper] if takes == "upper" else COCO.lower_body[:lower]
        np.testing.assert_allclose(half[0], keypoints[list(chosen)].mean(0), rtol=1e-6)


def test_flipped_sample_is_the_mirror_image_with_left_and_right_exchanged(few, recipe):
    crops = crops_of(few, recipe.reader, augmentation=replace(NOTHING, flip=True))
    order = COCO.flip_order
    person = int(np.flatnonzero((few.visible != few.visible[:, order]).any(1))[0])
    plain = crops_of(few, recipe.reader)[person]
    flipped = next(s for s in (crops[epoch, person] for epoch in range(50)) if s["center"][0] != plain["center"][0])
    np.testing.assert_array_equal(flipped["visible"], plain["visible"][order])
    seen = flipped["visible"] > 0
    mirrored = geometry.flip_points(plain["keypoints"], HEATMAP[0])[order]
    np.testing.assert_allclose(flipped["keypoints"][seen], mirrored[seen], atol=1e-3)
    difference = abs(flipped["image"].astype(int) - plain["image"][:, ::-1])
    assert (difference <= 3).mean() > 0.98


# Selection of well-centred persons


@pytest.mark.parametrize(
    "visible, similarity, kept",
    [(17, 0.655, True), (17, 0.645, False), (5, 0.505, True), (5, 0.495, False), (1, 0.455, True), (1, 0.445, False)],
)
def test_selection_asks_more_of_persons_with_more_visible_joints(visible, similarity, kept):
    person = one_person(visible)
    center, scale = geometry.boxes_to_crops(person.boxes, ASPECT)
    distance = np.sqrt(-np.log(similarity) * 2 * 0.2**2 * 200**2 * scale.prod())
    person.keypoints[0, :visible] = center + distance * np.array([0.6, -0.8])
    assert centred(person, ASPECT).tolist() == [kept]
    person.visible[:] = 0
    assert centred(person, ASPECT).tolist() == [False]


def test_selection_keeps_all_that_is_known_of_the_chosen():
    people = sample_instances()
    keep = centred(people, ASPECT)
    assert 0 < keep.sum() < len(people)
    kept = select(people, keep)
    np.testing.assert_array_equal(kept.ids, people.ids[keep])
    np.testing.assert_array_equal(kept.keypoints, people.keypoints[keep])


# Batches


def steps(plan: TrainSampler) -> list[list[list[tuple[int, int]]]]:
    """Micro-batches of each step."""
    batches = list(plan)
    assert len(batches) == len(plan) == plan.steps * plan.micro_batches_here
    return [batches[i : i + plan.micro_batches_here] for i in range(0, len(batches), plan.micro_batches_here)]


@pytest.mark.parametrize("samples", [96, 105, 99, 97])
def test_steps_are_the_same_for_any_number_of_processes(samples):
    found = []
    for world in (1, 2, 4):
        plans = [TrainSampler(samples, 4, 4, seed=22, rank=rank, world=world) for rank in range(world)]
        for plan in plans:
            plan.epoch = 3
        by_step = [[batch for part in parts for batch in part] for parts in zip(*map(steps, plans), strict=True)]
        found.append([sorted(map(tuple, step)) for step in by_step])
        assert [sum(map(len, step)) for step in by_step] == [plans[0].step_size(i) for i in range(plans[0].steps)]
    assert found[0] == found[1] == found[2]
    taken = Counter(sample for step in found[0] for part in step for sample in part)
    assert set(taken.values()) == {1} and {epoch for epoch, _ in taken} == {3}
    dropped = samples - len(taken)
    assert dropped == (samples % 16 if samples % 16 < 4 else 0)


def test_last_step_shares_what_is_left_equally():
    *full, last = steps(TrainSampler(105, 4, 4, seed=22))
    assert [[len(part) for part in step] for step in full] == [[4] * 4] * 6
    assert [len(part) for part in last] == [3, 2, 2, 2]


def test_fewer_samples_than_shares_wait_for_another_epoch():
    plan = TrainSampler(99, 4, 4, seed=22)
    missing = []
    for epoch in range(2):
        plan.epoch = epoch
        missing.append(set(range(99)) - {index for batch in plan for _, index in batch})
    assert len(missing[0]) == len(missing[1]) == 3 and missing[0] != missing[1]
    assert TrainSampler(3, 4, 4, seed=22).steps == 0


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        plan = TrainSampler(20, 2, 2, seed, shuffle=shuffle)
        plan.epoch = epoch
        return [index for batch in plan for _, index in batch]

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6) and order(1, 5) != order(2, 5)
    assert order(1, 5, shuffle=False) == list(range(20))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("samples, size", [(105, 32), (7, 3), (2, 4)])
def test_evaluation_takes_every_sample_once(samples, size, world):
    plans = [EvalSampler(np.arange(samples) % 3, size, rank=rank, world=world) for rank in range(world)]
    assert all(len(list(plan)) == len(plan) for plan in plans)
    batches = [batch for plan in plans for batch in plan]
    assert max(map(len, batches)) <= size
    assert sorted(index for batch in batches for index in batch) == list(range(samples))


def test_an_image_is_decoded_once_although_its_boxes_lie_apart_in_the_file(monkeypatch):
    people = sample_detections(0.3)
    mixed = select(people, np.random.default_rng(0).permutation(len(people)))
    crops, decoded = sample_crops(mixed), []
    decode = ImageReader._decode
    monkeypatch.setattr(
        ImageReader, "_decode", lambda self, name, owner: decoded.append(name) or decode(self, name, owner)
    )
    for batch in EvalSampler(mixed.image, 8):
        for index in batch:
            crops[index]
    assert len(decoded) == len(np.unique(mixed.image)) < len(mixed) / 2


@pytest.mark.parametrize("filling", [0, 255])
def test_a_crop_of_the_mirror_image_looks_at_nothing_that_was_left_out(filling, monkeypatch):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (90, 120, 3), np.uint8)
    monkeypatch.setattr(np, "empty_like", lambda array: np.full_like(array, filling))
    for rotation in [0, 90, *draw.normal(0, 60, 60)]:
        center = draw.uniform(-20, 140, 2).astype(np.float32)
        scale = draw.uniform(0.05, 1) * np.array([0.75, 1], np.float32)
        matrix = geometry.crop_to_output(center, scale, rotation, INPUT)
        mirror = mirror_image(image, center, geometry.half_extent(matrix, INPUT))
        wanted = cv2.warpAffine(cv2.flip(image, 1), matrix, INPUT, flags=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(cv2.warpAffine(mirror, matrix, INPUT, flags=cv2.INTER_LINEAR), wanted)
