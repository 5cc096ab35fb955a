"""A small folder with all inputs of a command, and functions that run commands in it and check their ends."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from helpers.goldens import ROOT, SAMPLE

TWO_IMAGES = (21167, 343218)  # of the sample: two persons with keypoints in each


CONFIGURATION = {
    "AUTO_RESUME": False,
    "WORKERS": 0,
    "DATASET": {"ROOT": "", "TRAIN_SET": "val2017", "TEST_SET": "val2017"},
    "MODEL": {
        "IMAGE_SIZE": [64, 64],
        "HEATMAP_SIZE": [16, 16],
        "POS_EMBEDDING": "sine",
        "DIM_MODEL": 32,
        "DIM_FEEDFORWARD": 32,
        "N_HEAD": 2,
        "ENCODER_LAYERS": 1,
        "EXTRA": {"NUM_LAYERS": 18, "NUM_DECONV_FILTERS": [32]},
    },
    "TRAIN": {"BATCH_SIZE_PER_GPU": 4, "END_EPOCH": 1, "SHUFFLE": False},
    "TEST": {"USE_GT_BBOX": True, "IMAGE_THRE": 0.0, "COCO_BBOX_FILE": ""},
}


@dataclass
class Place:
    """A folder with two images, their annotations and detections, and a configuration; `run` uses all of it."""

    folder: Path
    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIGURATION))
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    trained: "Place | None" = None  # a place where the same model was trained

    def __post_init__(self) -> None:
        self.yaml = self.folder / "small.yaml"
        self.annotations = self.folder / "data" / "annotations" / "person_keypoints_val2017.json"
        self.detections = self.folder / "data" / "detections.json"
        self.images = self.folder / "data" / "images" / "val2017"
        self.output = self.folder / "output"
        self.run_folder = self.output / "coco" / "transpose_r" / "small"
        self.config["DATASET"]["ROOT"] = str(self.folder / "data")
        self.config["TEST"]["COCO_BBOX_FILE"] = str(self.detections)
        self.images.mkdir(parents=True)
        self.annotations.parent.mkdir()
        content = json.loads((SAMPLE / "annotations" / self.annotations.name).read_bytes())
        content["images"] = [image for image in content["images"] if image["id"] in TWO_IMAGES]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in TWO_IMAGES]
        write(self.annotations, content)
        for image in content["images"]:
            shutil.copy(SAMPLE / "images" / "val2017" / image["file_name"], self.images)
        boxes = json.loads(next((SAMPLE / "person_detection_results").glob("*.json")).read_bytes())
        write(self.detections, [box for box in boxes if box["image_id"] in TWO_IMAGES])

    def run(self, tool: str, run: "Run | None" = None) -> subprocess.CompletedProcess:
        if self.config:
            self.yaml.write_text(yaml.safe_dump(self.config))
        folders = ["--modelDir", str(self.output), "--logDir", str(self.folder / "log")]
        arguments = ["--cfg", str(self.yaml), *folders, *self.options]
        return (run or run_in_new_process)(tool, arguments, self.folder, self.environment)

    @property
    def weights(self) -> Path:
        """What the trained place's run left."""
        assert self.trained is not None
        return self.trained.run_folder / "final_state.pth"

    def person(self) -> dict[str, Any]:
        """The annotation of the person that is trained on first: with keypoints, in the first image."""
        content = read(self.annotations)
        first = content["images"][0]["id"]
        return next(a for a in content["annotations"] if a["image_id"] == first and a["num_keypoints"])

    def image(self) -> Path:
        """The first person's image."""
        return self.images / f"{self.person()['image_id']:012}.jpg"


# Tool, arguments, folder to be in, additions to the environment.
Run = Callable[[str, list[str], Path, dict[str, str]], subprocess.CompletedProcess]


MOST_SECONDS = 600


def surroundings() -> dict[str, str]:
    """The current environment, but without torchrun's variables, without a GPU, and with one thread."""
    outer = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return outer | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run_in_new_process(
    tool: str, arguments: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess:
    """`python tools/<tool>.py <arguments>`"""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments],
        env=surroundings() | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
    )


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def sentence(outcome: subprocess.CompletedProcess) -> str:
    """The message of a run that must have ended with exit code 2 and a single message."""
    everything = f"exit code {outcome.returncode}\n{outcome.stdout}\n{outcome.stderr}"
    assert "Traceback" not in everything, everything
    assert outcome.returncode == 2, everything
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, everything
    assert outcome.stderr == errors[0] + "\n", f"more than the sentence: {everything}"
    return errors[0].removeprefix("error: ")
