"""The index of a large annotation file: used while it is right, made anew when it is not."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import synthetic
from transpose.dataset import annotation_cache, coco
from transpose.dataset.coco import COLUMNS


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth an entry."""
    path = tmp_path / "annotations" / "train.json"
    synthetic.annotations(path, images=30, persons=80, empty_images=5, unlabelled=20)
    monkeypatch.setattr(annotation_cache, "MIN_BYTES", 1)
    return path


class Reader:
    """Reads the file, and counts how often."""

    def __init__(self, path: Path):
        self.path, self.times = path, 0

    def __call__(self):
        self.times += 1
        source = coco.read_annotations(self.path)
        return source, coco.annotated_instances(source)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def load_or_build(tmp_path: Path, reader: Reader, key: str = "17 joints"):
    return annotation_cache.load_or_build(tmp_path / "index", reader.path, reader, key=key)


def test_second_start_reads_no_json_and_has_the_same(tmp_path, path):
    reader = Reader(path)
    (source, persons), (again, same) = load_or_build(tmp_path, reader), load_or_build(tmp_path, reader)
    assert reader.times == 1
    assert (source.path, source.category) == (again.path, again.category) and persons.unlisted == same.unlisted
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(persons, name), getattr(same, name), strict=True)
    for field in dataclasses.fields(persons.images):
        np.testing.assert_array_equal(
            getattr(persons.images, field.name), getattr(same.images, field.name), strict=True
        )


def test_small_file_leaves_nothing(tmp_path, path, monkeypatch):
    monkeypatch.setattr(annotation_cache, "MIN_BYTES", path.stat().st_size + 1)
    load_or_build(tmp_path, Reader(path))
    assert not (tmp_path / "index").exists()


def test_changed_file_of_equal_length_and_time_is_read_again(tmp_path, path):
    reader = Reader(path)
    _, before = load_or_build(tmp_path, reader)
    stamp = path.stat()
    content = json.loads(path.read_bytes())
    first = next(a for a in content["annotations"] if a["id"] == int(before.ids[0]))
    first["keypoints"][2], was = 3 - first["keypoints"][2], first["keypoints"][0]
    first["keypoints"][0] = was + 1 if len(str(was)) == len(str(was + 1)) else was - 1
    text = json.dumps(content, separators=(",", ":"))
    path.write_text(text)
    assert path.stat().st_size == stamp.st_size
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    _, after = load_or_build(tmp_path, reader)
    assert reader.times == 2 and before.keypoints[0, 0, 0] != after.keypoints[0, 0, 0]
    assert len(entries(tmp_path / "index")) == 1  # the outdated one is replaced
    load_or_build(tmp_path, reader)
    assert reader.times == 2


def test_other_wish_or_other_code_is_read_again(tmp_path, path, monkeypatch):
    reader = Reader(path)
    load_or_build(tmp_path, reader)
    load_or_build(tmp_path, reader, key="5 joints")
    assert reader.times == 2
    changed = tmp_path / "people.py"
    changed.write_text(Path(coco.__file__).read_text() + "\n# changed")
    monkeypatch.setattr(coco, "__file__", str(changed))
    load_or_build(tmp_path, reader)
    assert reader.times == 3


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "other"])
def test_damaged_entry_is_noticed_and_made_anew(tmp_path, path, harm, caplog):
    reader = Reader(path)
    _, wanted = load_or_build(tmp_path, reader)
    (entry,) = entries(tmp_path / "index")
    content = bytearray(entry.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {"truncated": content[:-200], "flipped": content, "empty": b"", "other": b"no archive"}[harm]
    entry.write_bytes(damaged)
    _, found = load_or_build(tmp_path, reader)
    np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
    assert reader.times == 2 and f"{entry}: damaged" in caplog.text
    load_or_build(tmp_path, reader)
    assert reader.times == 2


def test_entry_that_cannot_be_written_is_done_without(tmp_path, path, caplog):
    (tmp_path / "index").write_text("a file where the folder should be")
    _, persons = load_or_build(tmp_path, Reader(path))
    assert len(persons) == 80 and "INDEX_CACHE" in caplog.text
