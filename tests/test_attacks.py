"""Input that is spoilt at random, a kind at a time: each is used, or refused in one sentence. SEED=… spoils others.

Of other kinds: images in tests/dataset/test_mutations.py, annotations in test_check_data.py, checkpoints in
tests/runtime/test_hostile_files.py, killed runs in tests/engine/test_interruptions.py, requests to the web page in
tests/predictor/test_web_guard.py.
"""

import json
import os
import random
import string
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from helpers.goldens import ROOT

from transpose.config.load import load_config
from transpose.errors import UserError
from transpose.predictor import inputs

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("SEED", 0))
TRIES = 2_000
SCREEN = 2_000  # characters of a sentence
DEMO = ROOT / "experiments/coco_sample/demo.yaml"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1e308, float("nan"), float("inf"), 10**30, "", "..", "../../x", "a\0b", "x" * 6_000),
    *([], [1], {}, {"a": 1}, "None", "\x1b[2J", "½", [[[]]], {"path": "http://127.0.0.1:1/x"}, -0.0, "1e400"),
)

PIECES = ("\n", ":", " ", "\t", "- ", "&a ", "*a", "<<: *a", "{", "[", '"', "!!python/x ", "\x07", "9")


def one_sentence(error: UserError) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < SCREEN and not any(ord(letter) < 32 for letter in text), text[:SCREEN]


def spoil_text(text: str, draw: random.Random) -> str:
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(text) + 1)
        piece = draw.choice(
            ("\n", ":", " ", "\t", "- ", "&a ", "*a", "<<: *a", "{", "[", '"', "!!python/x ", "\x07", "9")
        )
        cut = draw.choice((0, 0, 1, 20))
        text = text[:place] + piece + text[place + cut :]
    return text


def spoil_value(tree: Any, draw: random.Random) -> Any:
    """The tree with one of its values replaced, left out or repeated."""
    if isinstance(tree, dict) and tree and draw.random() < 0.85:
        key = draw.choice(list(tree))
        return tree | {key: spoil_value(tree[key], draw)} if draw.random() < 0.9 else tree | {f"{key}x": tree[key]}
    if isinstance(tree, list) and tree and draw.random() < 0.85:
        place = draw.randrange(len(tree))
        return [*tree[:place], spoil_value(tree[place], draw), *tree[place + draw.choice((0, 1)) :]]
    return draw.choice(ODD)


def test_spoilt_configurations_are_read_or_refused(tmp_path: Path):
    outcomes: Counter[str] = Counter()
    text, path = DEMO.read_text(), tmp_path / "spoilt.yaml"
    for number in range(TRIES):
        draw = random.Random(f"{SEED} {number}")
        if draw.random() < 0.5:
            spoilt = spoil_text(text, draw)
        else:
            spoilt = yaml.safe_dump(spoil_value(yaml.safe_load(text), draw), allow_unicode=True)
        path.write_text(spoilt)
        try:
            load_config(path, report=False)
            outcomes["read"] += 1
        except UserError as error:
            one_sentence(error)
            assert "spoilt.yaml" in str(error), error
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > TRIES / 20, outcomes


def test_spoilt_boxes_are_read_or_refused(tmp_path: Path):
    outcomes: Counter[str] = Counter()
    images = tmp_path / "images"
    images.mkdir()
    for number in range(1, 7):
        cv2.imwrite(str(images / f"{number}.png"), np.zeros((240, 300 + number, 3), np.uint8))
    boxes = [
        {"image_id": number, "category_id": 1, "bbox": [10.5 * k, 20.0, 150.0, 90.0 + number], "score": 0.9}
        for number in range(1, 7)
        for k in range(1, 4)
    ]
    listed = [
        {"id": number, "file_name": f"{number}.png", "width": 300 + number, "height": 240} for number in range(1, 7)
    ]
    persons = [
        {"id": at, "image_id": box["image_id"], "category_id": 1, "bbox": box["bbox"], "area": 5000.0, "iscrowd": 0}
        for at, box in enumerate(boxes)
    ]
    truth = {"images": listed, "annotations": persons, "categories": [{"id": 1, "name": "person"}]}
    known = inputs.numbering(inputs.expand([str(images)]))
    path = tmp_path / "spoilt.json"
    for number in range(TRIES):
        draw = random.Random(f"{SEED} {number}")
        content: Any = draw.choice((boxes, truth))
        for _ in range(draw.choice((1, 1, 2))):
            content = spoil_value(content, draw)
        text = json.dumps(content)
        path.write_text(spoil_text(text, draw) if draw.random() < 0.2 else text)
        try:
            found = inputs.read_boxes(path, known, 0.1)
            outcomes["read"] += 1
        except UserError as error:
            one_sentence(error)
            outcomes["refused"] += 1
        else:
            assert len(found) == 6 and all(np.isfinite(row[0]).all() for row in found), number
    assert min(outcomes["read"], outcomes["refused"]) > TRIES / 20, outcomes


def test_boxes_in_another_unit_are_refused_and_pixels_are_not(tmp_path: Path):
    """Persons spread over images of several sizes, a few in each."""
    outcomes: Counter[tuple[str, bool]] = Counter()
    for number in range(TRIES // 10):
        draw = random.Random(f"{SEED} {number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        entries, unit = [], draw.choice(("pixels", "fractions", "percent"))
        for image in range(1, 9):
            size = [draw.randrange(250, 900), draw.randrange(250, 900)]
            cv2.imwrite(str(folder / f"{image}.png"), np.zeros((size[1], size[0], 3), np.uint8))
            per = {"pixels": size, "fractions": [1, 1], "percent": [100, 100]}[unit]
            corners = [(0.01, 0.02), (0.55, 0.6)] + [(draw.random() / 2, draw.random() / 2) for _ in range(3)]
            for x, y in corners:
                sides = (0.1 + 0.3 * draw.random(), 0.1 + 0.3 * draw.random())
                box = [part * per[at % 2] for at, part in enumerate((x, y, *sides))]
                entries.append({"image_id": image, "category_id": 1, "bbox": box, "score": 0.9})
        path = folder / "boxes.json"
        path.write_text(json.dumps(entries))
        try:
            inputs.read_boxes(path, inputs.numbering(inputs.expand([str(folder)])), 0.1)
            refused = False
        except UserError as error:
            one_sentence(error)
            assert unit in str(error), error
            refused = True
        outcomes[unit, refused] += 1
    assert set(outcomes) == {("pixels", False), ("fractions", True), ("percent", True)}, outcomes


def test_files_of_any_name_are_found_once_and_their_results_stay_in_the_folder(tmp_path: Path):
    letters = [*string.ascii_letters[:4], *"AaÄä½日é €%:#+=~!&;'\"()[]{}@^,_-\n\t\x1b\udce4 ", ".."]
    for number in range(TRIES // 20):
        draw = random.Random(f"{SEED} {number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        written = set()
        for _ in range(20):
            name = "".join(draw.choices(letters, k=draw.choice((1, 2, 3, 12)))) + draw.choice((".png", ".PNG", ".jpg"))
            (folder / name).write_bytes(b"")
            written.add(name)
        sources = inputs.expand([str(folder), str(folder)])
        found = {file.name for file in sources.images}
        assert found == {name for name in written if not name.startswith(".")}, number
        names = inputs.result_names(sources.images)
        assert len({name.lower() for name in names}) == len(names)
        for name in names:
            assert "/" not in name and name not in (".", ".."), name
