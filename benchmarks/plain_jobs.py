"""Whole jobs in the plainest way: the baseline of `benchmarks.jobs`: python -m benchmarks.plain_jobs NAME …, with
PYTHONPATH=tools. Each prints its figures as JSON in its last line.

As a first implementation of the papers does them: persons are dictionaries in a list, each sample is normalised and
gets its target maps by itself, the network is `PlainTransPose`, each map is decoded by itself, images and frames come
one after the other. Loading processes are PyTorch's, and as many as ours. Of `lib` it takes the configuration, the
convolutional layers and the limbs to draw.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from benchmarks import plain, synthetic
from benchmarks.job_process import BATCH, Figures, consume, each_crop, main, since_start, wait_for
from benchmarks.plain_model import PlainTransPose, plain_loss
from transpose.build.model import build_model
from transpose.config.load import load_config
from transpose.pose.skeleton import COCO as PERSON

DRAWN = 0.2  # keypoints with less are not drawn
cv2.setNumThreads(0)  # as in lib: the loading processes are the threads


class Samples(Dataset):
    """Samples of persons, as a configuration's recipe trains or tests them."""

    def __init__(self, folder: Path, persons: list[dict], cfg: CfgNode, training: bool = False):
        self.folder, self.persons, self.training = folder, persons, training
        self.size, self.sigma, data = tuple(cfg.MODEL.IMAGE_SIZE), cfg.MODEL.SIGMA, cfg.DATASET
        self.factors = data.SCALE_FACTOR, data.ROT_FACTOR, data.PROB_HALF_BODY, data.NUM_JOINTS_HALF_BODY

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, i: int) -> tuple[int, Tensor, np.ndarray, np.ndarray]:
        person = self.persons[i]
        points, visible = person["joints_3d"][:, :2], person["joints_3d_vis"][:, 0]
        draw = np.random.default_rng((0, i)) if self.training else None
        _, pixels, maps, weight = plain.sample(
            *(self.folder / person["image"], person["center"], person["scale"], points, visible, draw),
            size=self.size,
            factors=self.factors,
            sigma=self.sigma,
        )
        return i, pixels, maps, weight


def aspect(cfg: CfgNode) -> float:
    width, height = cfg.MODEL.IMAGE_SIZE
    return width / height


def training_set(root: Path, name: str, cfg: CfgNode, augmented: bool) -> Samples:
    with contextlib.redirect_stdout(io.StringIO()):
        persons = plain.training_index(root / f"annotations/person_keypoints_{name}.json", aspect(cfg))
    return Samples(root / "images" / name, persons, cfg, augmented)


def feed(root: str, recipe: str, workers: str, samples: str) -> Figures:
    """A training set against a step that waits."""
    start = time.perf_counter()
    dataset = training_set(Path(root), "train2017", load_config(Path(recipe)), augmented=True)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=int(workers))
    return consume(loader, int(samples), lambda batch: len(batch[0]), start, time.perf_counter())


def network_of(recipe: str, weights: Path) -> PlainTransPose:
    model = build_model(load_config(Path(recipe)))
    state = torch.load(weights, weights_only=True)
    model.load_state_dict(state)
    return PlainTransPose(model.eval())


@torch.no_grad()
def predict_batch(
    network: Callable[[Tensor], Tensor], images: Tensor, persons: list[dict], kernel_size: int, flip: bool = False
) -> np.ndarray:
    """Keypoints in image pixels, with scores (B, 17, 3), of normalised crops (B, 3, h, w)."""
    maps = network(images).numpy()
    if flip:
        mirrored = network(images.flip(3)).numpy()[:, :, :, ::-1].copy()
        for left, right in plain.PAIRS:
            mirrored[:, [left, right]] = mirrored[:, [right, left]]
        maps = (maps + mirrored) * 0.5
    points, scores = plain.decode(maps, kernel_size)
    size = (maps.shape[3], maps.shape[2])
    for i, person in enumerate(persons):
        to_image = cv2.invertAffineTransform(plain.affine(person["center"], person["scale"], 0, size))
        for joint in range(len(plain.SIGMAS)):
            points[i, joint] = np.dot(to_image, np.array([points[i, joint, 0], points[i, joint, 1], 1.0]))
    return np.concatenate([points, scores[..., None]], 2)


def test(root: str, recipe: str, workers: str, forward: str, flip: str = "") -> Figures:
    """A test on detected boxes, with the "network" or so many milliseconds of a wait; without either the predictions
    are made up."""
    folder, start = Path(root), time.perf_counter()
    truth = folder / "annotations/person_keypoints_val2017.json"
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(str(truth))
    names = {image["id"]: image["file_name"] for image in annotated.loadImgs(annotated.getImgIds())}
    numbers = {name: number for number, name in names.items()}
    cfg, done = load_config(Path(recipe)), list[tuple[float, int]]()
    persons = plain.detected_index(folder / "boxes.json", names, cfg.TEST.IMAGE_THRE, aspect(cfg))
    read = time.perf_counter()
    network: Callable[[Tensor], Tensor] = network_of(recipe, folder / "weights.pth")
    built = time.perf_counter()
    if forward:
        network = network if forward == "network" else wait_for(float(forward))
        dataset = Samples(folder / "images/val2017", persons, cfg)
        found = np.zeros((len(persons), len(plain.SIGMAS), 3), np.float32)
        for which, images, _, _ in DataLoader(dataset, cfg.TEST.BATCH_SIZE_PER_GPU, num_workers=int(workers)):
            place = which.tolist()
            found[place] = predict_batch(network, images, [persons[i] for i in place], cfg.TEST.BLUR_KERNEL, bool(flip))
            done.append((time.perf_counter(), len(place)))
    else:
        found = made_up(persons)
    predicted = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        plain.evaluate(
            found,
            *(np.array([person[key] for person in persons]) for key in ("center", "scale", "score")),
            np.array([numbers[person["image"]] for person in persons]),
            truth,
            folder / "plain_results.json",
            score_threshold=cfg.TEST.IN_VIS_THRE,
            oks_threshold=cfg.TEST.OKS_THRE,
        )
    parts = {"read, s": read - start, "predict, s": predicted - built, "evaluate, s": time.perf_counter() - predicted}
    return parts | ({"a crop, ms": each_crop(done)} if done else {})


def made_up(persons: list[dict]) -> np.ndarray:
    """The keypoints that `benchmarks.synthetic` makes up for these persons, with scores (N, 17, 3)."""
    center, scale, boxes = (np.array([person[key] for person in persons]) for key in ("center", "scale", "box"))
    found = synthetic.predictions_in(boxes, np.zeros((len(boxes), len(plain.SIGMAS), 2)), center, scale)
    return np.concatenate([found.keypoints, found.scores[..., None]], 2)


def train(
    recipe: str, root: str, name: str, workers: str, micro_batch: str, steps: str, augmented: str = ""
) -> Figures:
    """Training steps on the set `name` under `root`; prints each."""
    cfg = load_config(Path(recipe))
    dataset = training_set(Path(root), name, cfg, bool(augmented))
    loader = DataLoader(dataset, int(micro_batch), shuffle=True, num_workers=int(workers))
    network = PlainTransPose(build_model(cfg)).train()
    kind = torch.optim.AdamW if cfg.TRAIN.OPTIMIZER == "adamw" else torch.optim.Adam
    optimizer = kind(network.parameters(), cfg.TRAIN.LR, weight_decay=0)
    start = 0.0
    for taken, (_, images, maps, weight) in enumerate(loader):
        loss = plain_loss(network(images), maps, weight[:, :, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {taken + 1}/{len(loader)}, loss {loss.item():.5f}")
        start = start or time.perf_counter()  # the first step is not counted
        if taken == int(steps):
            break
    seconds = (time.perf_counter() - start) / int(steps)
    return {"step, s": seconds, "steps/s": 1 / seconds, "crops/s": int(micro_batch) / seconds}


def predict(images: str, source: str, recipe: str, weights: str, out: str, *files: str) -> Figures:
    """Keypoints of a video or a folder's images, drawn; with a detections and an annotation file those of its boxes,
    as COCO's JSON. `images` is their number."""
    cfg, target = load_config(Path(recipe)), Path(out)
    network = network_of(recipe, Path(weights))
    target.mkdir(parents=True, exist_ok=True)
    start = since_start()

    def keypoints(pixels: np.ndarray, boxes: list[dict]) -> np.ndarray:
        """With scores (N, 17, 3), of an image in BGR."""
        width, height = cfg.MODEL.IMAGE_SIZE
        rgb, crops, persons = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), [], []
        for box in boxes:
            center, scale = plain.box_to_crop(box["bbox"], aspect(cfg))
            to_input = plain.affine(center, scale, 0, (width, height))
            crops.append(plain.TO_TENSOR(cv2.warpAffine(rgb, to_input, (width, height), flags=cv2.INTER_LINEAR)))
            persons.append({"center": center, "scale": scale})
        return predict_batch(network, torch.stack(crops), persons, cfg.TEST.BLUR_KERNEL)

    def whole(pixels: np.ndarray) -> list[dict]:
        return [{"bbox": [0, 0, pixels.shape[1], pixels.shape[0]], "score": 1.0}]

    if source.endswith(".mp4"):
        film, drawn = cv2.VideoCapture(source), None
        while (frame := film.read()[1]) is not None:
            if drawn is None:
                kind, rate = cv2.VideoWriter.fourcc(*"mp4v"), film.get(cv2.CAP_PROP_FPS)
                drawn = cv2.VideoWriter(str(target / "film.mp4"), kind, rate, frame.shape[1::-1])
            drawn.write(draw(frame, keypoints(frame, whole(frame))))
        if drawn is not None:
            drawn.release()
    elif files:
        lowest = cfg.TEST.IN_VIS_THRE
        target.joinpath("keypoints.json").write_text(json.dumps(of_boxes(Path(source), *files, lowest, keypoints)))
    else:
        for path in sorted(Path(source).iterdir()):
            pixels = cv2.imread(str(path))
            cv2.imwrite(str(target / path.name), draw(pixels, keypoints(pixels, whole(pixels))))
    return {"start, s": start, "an image, ms": 1e3 * (since_start() - start) / int(images)}


def of_boxes(folder: Path, detections: str, annotations: str, lowest: float, keypoints: Callable) -> list[dict]:
    """COCO's results of the boxes that were detected in a folder's images; keypoints with a score above `lowest` count
    for the person's."""
    with open(detections) as file:
        found = json.load(file)
    with open(annotations) as file:
        names = {image["id"]: image["file_name"] for image in json.load(file)["images"]}
    results = []
    for number, name in names.items():
        boxes = [item for item in found if item["image_id"] == number and item["category_id"] == 1]
        if not boxes or not (folder / name).exists():
            continue
        for box, points in zip(boxes, keypoints(cv2.imread(str(folder / name)), boxes), strict=True):
            counted = [value for _, _, value in points if value > lowest]
            score = box["score"] * sum(counted) / len(counted) if counted else 0.0
            person = {"image_id": number, "category_id": 1, "score": float(score)}
            results.append(person | {"keypoints": points.ravel().tolist()})
    return results


def draw(pixels: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """Limbs and keypoints (N, 17, 3) drawn into the image."""
    for points in persons:
        for one, other in PERSON.limbs:
            if points[one, 2] > DRAWN and points[other, 2] > DRAWN:
                ends = [tuple(points[joint, :2].round().astype(int).tolist()) for joint in (one, other)]
                cv2.line(pixels, *ends, (0, 200, 0), 2, cv2.LINE_AA)
        for x, y, score in points:
            if score > DRAWN:
                cv2.circle(pixels, (round(float(x)), round(float(y))), 3, (0, 0, 255), -1, cv2.LINE_AA)
    return pixels


def analyse(annotations: str, results: str, resamples: str) -> Figures:
    """AP and the AP of each keypoint alone, by pycocotools, with so many bootstrap resamples of the images."""
    with open(annotations) as file:
        content = json.load(file)
    with open(results) as file:
        found = json.load(file)
    count, seconds = len(content["images"]), {"evaluate, s": 0.0, "resamples, s": 0.0}
    drawn = np.random.default_rng(0).integers(0, count, (int(resamples), count))
    rows = {}
    for joint in (None, *range(len(plain.SIGMAS))):
        start = time.perf_counter()
        evaluation = evaluated(only(joint, content), found)
        whole = average_precision(evaluation, np.arange(count))
        middle = time.perf_counter()
        rows[joint] = [whole, *(average_precision(evaluation, places) for places in drawn)]
        seconds["evaluate, s"] += middle - start
        seconds["resamples, s"] += time.perf_counter() - middle
    Path(results).with_name("plain_analysis.json").write_text(json.dumps(rows))
    return seconds


def only(joint: int | None, content: dict[str, Any]) -> dict[str, Any]:
    """The annotations as if no other keypoint were labelled."""
    if joint is None:
        return content
    annotations = []
    for annotation in content["annotations"]:
        keypoints = list(annotation["keypoints"])
        for other in range(len(plain.SIGMAS)):
            if other != joint:
                keypoints[other * 3 + 2] = 0
        seen = int(keypoints[joint * 3 + 2] > 0)
        annotations.append(annotation | {"keypoints": keypoints, "num_keypoints": seen})
    return content | {"annotations": annotations}


def evaluated(content: dict[str, Any], found: list[dict]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(item) for item in found]), "keypoints")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def average_precision(evaluation: COCOeval, places: np.ndarray) -> float:
    """Of the images at these places, which may be repeated."""
    matched, sampled = evaluation.evalImgs, COCOeval(iouType="keypoints")
    sampled.params, sampled._paramsEval = evaluation.params, evaluation._paramsEval
    sampled.evalImgs = [matched[place] for place in places]
    with contextlib.redirect_stdout(io.StringIO()):
        sampled.accumulate()
    return float(sampled.eval["precision"][:, :, 0, 0, 0].mean())


PARTS: dict[str, Callable[..., Figures]] = {
    "feed": feed,
    "test": test,
    "train": train,
    "predict": predict,
    "analyse": analyse,
}

if __name__ == "__main__":
    main(PARTS)
