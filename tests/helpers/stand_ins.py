"""What stands in a clone for the data and weights that the pages' commands need: few images, random weights."""

import json
from pathlib import Path

import numpy as np
import torch
import torchvision

from helpers.goldens import ROOT
from helpers.planted import planted_yolox
from transpose.models import zoo
from transpose.predictor import yolox

FEW_IMAGES = (785, 885)  # of the bundled sample
SAMPLE = ROOT / "data/coco_sample"
SKIER = SAMPLE / "images/val2017/000000000785.jpg"


def few_of_coco(clone: Path) -> None:
    """Images of the bundled sample where COCO is expected."""
    folder = clone / "data/coco"
    truth = json.loads((SAMPLE / "annotations/person_keypoints_val2017.json").read_text())
    truth["images"] = [image for image in truth["images"] if image["id"] in FEW_IMAGES]
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in FEW_IMAGES]
    unlabelled = {key: truth[key] for key in ("images", "categories")}
    (folder / "annotations").mkdir(parents=True)
    for name, content in (
        ("person_keypoints_train2017", truth),
        ("person_keypoints_val2017", truth),
        ("image_info_test-dev2017", unlabelled),
    ):
        (folder / f"annotations/{name}.json").write_text(json.dumps(content))
    for name in ("train2017", "val2017", "test2017"):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / name).symlink_to(SAMPLE / "images/val2017")
    boxes = folder / "person_detection_results"
    boxes.mkdir()
    found = json.loads((SAMPLE / boxes.name / "COCO_val2017_detections_AP_H_56_person.json").read_text())
    text = json.dumps([box for box in found if box["image_id"] in FEW_IMAGES])
    for name in ("COCO_val2017_detections_AP_H_56_person.json", "COCO_test-dev2017_detections_AP_H_609_person.json"):
        (boxes / name).write_text(text)


def random_weights(folder: Path) -> dict[str, Path]:
    """Files in `folder`, by the address where a download looks: the released models, ImageNet's ResNet-50, and a
    detector that finds one person in every image."""
    networks = {released.url: zoo.model(name) for name, released in zoo.RELEASED.items()}
    networks[zoo.BACKBONES["resnet50"].url] = torchvision.models.resnet50()
    files = {url: folder / url.rsplit("/", 1)[1] for url in networks}
    for url, network in networks.items():
        torch.save(network.state_dict(), files[url])
    detector = planted_yolox(folder / "yolox_nano.onnx", [((200.0, 150.0), (100.0, 200.0), 0.9, {0: 0.9})])
    return files | {f"{yolox.RELEASE}/{detector.name}": detector}


def annotated_again(path: Path, source: Path, seed: int) -> None:
    """The annotations of `source` as another person makes them: keypoints off by 2 % of the root of the area."""
    draw, content = np.random.default_rng(seed), json.loads(source.read_bytes())
    for annotation in content["annotations"]:
        points = np.reshape(annotation.get("keypoints", []), (-1, 3)).astype(float)
        noise = (
            0.02 * annotation["bbox"][2] ** 0.5 * annotation["bbox"][3] ** 0.5 * draw.standard_normal((len(points), 2))
        )
        points[:, :2] += noise * (points[:, 2:] > 0)
        annotation |= {"keypoints": points.ravel().tolist()} if len(points) else {}
    path.write_text(json.dumps(content))
