"""The command analyze: the files it writes, and its messages for results that do not belong to the data."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.goldens import ROOT
from helpers.places import TWO_IMAGES, Place, read, sentence, write
from helpers.planted_errors import plant

from transpose.dataset.coco import read_annotations


class Page(HTMLParser):
    """Counts the tags of a page, which must be closed in order, and collects what it loads."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.counts, self.loads = [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [value for name, value in attrs if name in ("src", "href") or name.endswith(":href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [value for name, value in attrs if name.endswith("href")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two images, and results with errors of all kinds beside them."""
    made = Place(tmp_path)
    annotations = read_annotations(made.annotations)
    for name, rate, seed in (("found", 0.3, 1), ("better", 0.05, 2)):
        kinds = ("jitter", "inversion", "swap", "miss", "background", "misranked")
        write(made.folder / f"{name}.json", plant(annotations, dict.fromkeys(kinds, rate / 2), seed).results)
    made.options = ["--results", str(made.folder / "found.json"), "--bootstrap", "20"]
    return made


def test_the_report_is_a_self_contained_page_with_pictures_and_attention(place, run, run_preloaded):
    place.options += ["--compare", str(place.folder / "better.json"), "--model", str(run), "--worst", "1"]
    outcome = place.run("analyze", run_preloaded)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    out = place.folder / "found_analysis"
    text = (out / "report.html").read_text()
    page = Page(text)
    assert all(load.startswith(("data:image/jpeg;base64,", "#")) for load in page.loads)
    assert page.counts["svg"] == 6 and page.counts["img"] >= 4 and page.counts["table"] == 9
    assert "viewport" in text and "@media print" in text and "found (" in text and "annotated (" in text
    content = read(out / "report.json")
    assert content["instances"] == 4 and content["resamples"] == 20
    assert content["comparison"]["metrics"]["AP"]["value"] > 0 and content["comparison"]["moved"]
    table = (out / "report.md").read_text()
    assert "| + misses | " in table and table.strip() in outcome.stdout


def test_without_pictures_no_image_is_needed(place, run_preloaded):
    for image in place.images.iterdir():
        image.unlink()
    place.images.rmdir()
    assert "the images of DATASET set val2017 are missing" in sentence(place.run("analyze", run_preloaded))
    place.options += ["--worst", "0", "--bootstrap", "0", "--out", str(place.folder / "report")]
    outcome = place.run("analyze", run_preloaded)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert Page((place.folder / "report" / "report.html").read_text()).counts.get("img", 0) == 0
    table = place.folder / "report" / "report.json"
    before = table.read_bytes()
    assert read(table)["metrics"]["AP"]["low"] is None
    refusal = "report.html: exists already; pass --overwrite to replace it, or choose another folder with --out"
    assert refusal in sentence(place.run("analyze", run_preloaded)) and table.read_bytes() == before
    place.options += ["--overwrite"]
    assert place.run("analyze", run_preloaded).returncode == 0
    assert table.read_bytes() == before


def test_an_unreadable_image_is_reported_after_the_report_is_written(place, run_preloaded):
    broken = place.images / f"{TWO_IMAGES[0]:012}.jpg"
    broken.write_bytes(b"no image")
    outcome = place.run("analyze", run_preloaded)
    assert outcome.returncode == 1 and str(broken) in outcome.stderr and "Traceback" not in outcome.stderr
    assert (place.folder / "found_analysis" / "report.html").exists()


def spoil(place: Place, **changes) -> None:
    path = place.folder / "found.json"
    write(path, [result | changes for result in read(path)])


MPII = ["DATASET.DATASET", "mpii", "DATASET.SKELETON", str(ROOT / "experiments/mpii/skeleton.yaml")]
BAD = {
    "no file": (lambda place: (place.folder / "found.json").unlink(), "cannot read the results file"),
    "empty file": (lambda place: (place.folder / "found.json").write_text(""), "not valid JSON or is truncated"),
    "no results": (lambda place: write(place.folder / "found.json", []), "an empty list: there are no results"),
    "other images": (lambda place: spoil(place, image_id=5), r"none of its \d+ results is of an image of .*TEST_SET"),
    "other skeleton": (lambda place: spoil(place, keypoints=[1.0] * 15), "must list 51 numbers .*NUM_JOINTS.*, not 15"),
    "other category": (lambda place: spoil(place, category_id=3), "none of its .* has the category_id 1"),
    "boxes": (lambda place: write(place.folder / "found.json", read(place.detections)), "has no 'keypoints'"),
    "compared": (lambda place: place.options.extend(["--compare", str(place.detections)]), "has no 'keypoints'"),
    "no truth": (lambda place: place.options.extend(["DATASET.TEST_SET", "test2017"]), "test2017 has no ground truth"),
    "mpii": (lambda place: place.options.extend(MPII), "COCO's format, and .* is mpii"),
    "no model": (
        lambda place: place.options.extend(["--model", "nowhere"]),
        "nowhere: there is no such file or folder",
    ),
    "model unseen": (lambda place: place.options.extend(["--model", "x", "--worst", "0"]), "which --worst 0 turns off"),
    "negative": (lambda place: place.options.extend(["--bootstrap=-1"]), "--bootstrap must be 0 or more, not -1"),
}


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("case", BAD)
def test_unfitting_input_is_one_message(place, run_preloaded, case):
    change, wanted = BAD[case]
    change(place)
    assert re.search(wanted, sentence(place.run("analyze", run_preloaded)))
    assert not (place.folder / "found_analysis").exists()


def test_annotations_of_another_kind_are_refused(place, run_preloaded):
    content = json.loads(place.annotations.read_bytes())
    content["annotations"][0]["area"] = -1
    write(place.annotations, content)
    assert "must not be negative" in sentence(place.run("analyze", run_preloaded))
