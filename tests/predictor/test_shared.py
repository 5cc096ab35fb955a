"""Images shared out over processes, and gone on with after a kill: each once, in order, the same bytes."""

import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import PIL.Image
import pytest
import torch
from helpers.goldens import IMAGES, ROOT, fill_from_names
from helpers.persons import DEMO, Stub
from helpers.places import MOST_SECONDS, sentence, surroundings
from helpers.planted import planted_yolox
from helpers.runs import SMALL, torchrun

from transpose import cli
from transpose.build.model import build_model
from transpose.build.run import describe_run
from transpose.commands import detect, predict
from transpose.config.load import load_config
from transpose.errors import UserError
from transpose.pose import skeleton
from transpose.predictor import detector, export, inputs, predictor, shared
from transpose.predictor.predictor import trained_network
from transpose.predictor.result import PoseResult
from transpose.runtime import checkpoint, distributed, lock, log

TOOLS = {"predict": predict, "detect": detect}


@pytest.fixture(autouse=True)
def as_before(monkeypatch) -> Iterator[None]:
    """Chunks of two images; a run's locks end with it, as with its process; the log is as other tests want it."""
    monkeypatch.setattr(shared, "CHUNK", 2)
    before = log.logger.handlers, log.logger.propagate, log.logger.level
    yield
    lock._held.clear()
    log.logger.handlers, log.logger.propagate, log.logger.level = before


def tiny_images(folder: Path, count: int) -> Path:
    """Of 36 x 48 pixels, all different where there are few."""
    folder.mkdir()
    pixels = cv2.imread(str(IMAGES / "000000388056.jpg"))
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:05}.png"), pixels[number % 200 :][:48, :36])
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """Seven, the fifth of which is broken."""
    folder = tiny_images(tmp_path / "images", 7)
    (folder / "00004.png").write_text("no image")
    return folder


@pytest.fixture
def command(tmp_path, monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess]:
    """`python tools/<tool>.py` from `tmp_path`, in this process, which has torch already."""

    def start(tool: str, *arguments: Any) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *map(str, arguments)])
        code = 0
        try:
            cli.run(TOOLS[tool].main)
        except SystemExit as end:
            code = end.code
        lock._held.clear()
        return subprocess.CompletedProcess(sys.argv, code, *capfd.readouterr())

    return start


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_at(count: int, monkeypatch, owner: Any, name: str) -> list[Any]:
    """The calls of a method, each by what it was of; the one of this number ends the run."""
    calls, method = [], getattr(owner, name)

    def called(self, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == count:
            raise KeyboardInterrupt
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, called)
    return calls


def predicting(run: Path, out: str, *more: str) -> list[str]:
    how = [
        "--model",
        str(run),
        "--detector",
        "whole-image",
        "--device",
        "cpu",
        "--save",
        "image",
        "json",
        "csv",
        "coco",
    ]
    return ["images", *how, "--batch", "1", "--out", out, *more]


def test_predict_goes_on_where_it_was(images, run, command, tmp_path, monkeypatch):
    outcome = command("predict", *predicting(run, "whole"))
    assert outcome.returncode == 1 and outcome.stdout == "whole: 6 person(s) in 6 image(s)\n", outcome
    assert "00004.png: not an image" in outcome.stderr and "1 could not be used" in outcome.stderr
    whole = content(tmp_path / "whole")
    names = [image["file_name"] for image in json.loads(whole["images.json"])["images"]]
    assert names == [f"{number:05}.png" for number in (0, 1, 2, 3, 5, 6)]
    assert len(whole) == 6 * 2 + 3 and whole["keypoints.csv"].count(b"image,frame") == 1

    with monkeypatch.context() as patch:
        killed_at(6, patch, PoseResult, "to_json")  # in the last of four chunks; the broken image lies before it
        assert command("predict", *predicting(run, "out")).returncode == 130
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {f"{n:05}.json" for n in (0, 1, 2, 3, 5)}

    said = sentence(command("predict", *predicting(run, "out", "--no-flip")))
    assert said.startswith("out/.parts: holds an unfinished run with a different --flip; repeat its command to go on")
    calls = killed_at(0, monkeypatch, PoseResult, "to_json")
    again = command("predict", *predicting(run, "out"))
    assert [Path(result.image.name).name for result in calls] == ["00006.png"]
    gone_on = "out/.parts: going on after the 6 images that an unfinished run has done\n"
    assert (again.returncode, again.stderr) == (1, outcome.stderr)
    assert again.stdout == gone_on + outcome.stdout.replace("whole", "out")
    assert content(tmp_path / "out") == whole
    assert "exists already; pass --overwrite to replace" in sentence(command("predict", *predicting(run, "out")))


def test_an_unfinished_run_is_discarded_only_when_asked(images, run, command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(3, patch, PoseResult, "to_json")
        assert command("predict", *predicting(run, "out")).returncode == 130
    shutil.copy(images / "00001.png", images / "00000.png")  # also where no option says that anything has changed
    said = sentence(command("predict", *predicting(run, "out")))
    assert said.startswith("out/.parts: holds an unfinished run with a different list of images; repeat its command")
    assert command("predict", *predicting(run, "out", "--overwrite")).returncode == 1
    assert command("predict", *predicting(run, "anew")).returncode == 1
    assert content(tmp_path / "out") == content(tmp_path / "anew")


def test_an_unfinished_run_of_other_names_ids_or_chunks_is_not_gone_on_with(images, tmp_path):
    rows = [(images / "00000.png", "00000.png", 1), (images / "none.png", "none.png", 2)]
    sums = [shared.dependence({}, [rows[0], (rows[1][0], *called)]) for called in (("none.png", 2), ("x", 2), ("x", 3))]
    assert len({how["list of images"] for how in sums}) == 3
    shared.Parts(tmp_path / ".parts", {}, 5, 1, overwrite=False)
    for count, batch, says in ((6, 1, "number of images"), (5, 9, "number of images in a part")):
        lock._held.clear()
        with pytest.raises(UserError, match=f"with a different {says}; repeat its command"):
            shared.Parts(tmp_path / ".parts", {}, count, batch, overwrite=False)


def test_a_file_that_stays_while_it_is_open_does_not_keep_the_results_away(tmp_path, monkeypatch):
    """As the lock's on NFS."""
    parts = shared.Parts(tmp_path / ".parts", {}, 1, 1, overwrite=False)

    def unlink(*place: Any, **more: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rmdir", unlink)
    parts.remove()
    assert not shared.is_unfinished(tmp_path / ".parts")


def test_a_folder_of_parts_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others/theirs.json").write_text("[]")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.parts").symlink_to(tmp_path / "others")
    with pytest.raises(UserError, match="must not be a symbolic link"):
        shared.Parts(tmp_path / "out/.parts", {}, 1, 1, overwrite=True)
    assert [path.name for path in (tmp_path / "others").iterdir()] == ["theirs.json"]


def test_a_place_that_cannot_be_locked_names_the_option(tmp_path):
    (tmp_path / ".parts" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\.lock: cannot write \(Is a directory\); choose another place with --out$"):
        shared.Parts(tmp_path / ".parts", {}, 1, 1, overwrite=False)


def test_two_runs_do_not_write_into_one_folder(images, run, command, tmp_path):
    (tmp_path / "out" / ".parts").mkdir(parents=True)
    lock.claim(tmp_path / "out" / ".parts")
    held = list(lock._held)
    said = sentence(command("predict", *predicting(run, "out")))
    assert held and said.startswith("out/.parts: another run is writing here (process ")
    assert said.endswith("): wait for it, or choose another place with --out")


def test_detect_goes_on_where_it_was(images, command, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "published", lambda name: tmp_path)
    monkeypatch.setattr(detector, "network", lambda name, weights: Stub())
    how = ["images", "--detector", "fasterrcnn", "--device", "cpu", "--batch", 2]
    outcome = command("detect", *how, "--out", "whole.json")
    assert outcome.returncode == 1 and outcome.stdout == "whole.json: 18 boxes in 6 images\n", outcome
    with monkeypatch.context() as patch:
        killed_at(2, patch, detector.Detector, "batch")
        assert command("detect", *how, "--out", "out.json").returncode == 130
    assert not list(tmp_path.glob("out*.json")) and (tmp_path / ".out.json.parts").exists()
    again = command("detect", *how, "--out", "out.json")
    assert again.returncode == 1 and again.stdout.startswith(".out.json.parts: going on after the 2 images")
    for name in ("", "_images"):
        assert (tmp_path / f"out{name}.json").read_bytes() == (tmp_path / f"whole{name}.json").read_bytes()
    assert not (tmp_path / ".out.json.parts").exists()


def test_nothing_is_left_where_no_image_can_be_used(tmp_path, run, command):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").write_text("no image")
    for _ in range(2):
        assert "not an image" in sentence(command("predict", *predicting(run, "out")))
        assert not (tmp_path / "out").exists()


def test_parts_are_joined_as_if_written_at_once(tmp_path):
    lists: list[list] = [[], [{"a": 0.1}, {"b": [1, "ä"]}], [], [{"c": None}]]
    for own in (lists, [[], []]):
        shared.write_lists(tmp_path / "x.json", own)
        assert (tmp_path / "x.json").read_text() == json.dumps([entry for some in own for entry in some])
    shared.write_lists(tmp_path / "x.json", lists, json.dumps({"a": [], "b": []}))
    assert (tmp_path / "x.json").read_text() == json.dumps({"a": [entry for some in lists for entry in some], "b": []})
    shared.write_tables(tmp_path / "x.csv", ["", "a,b\n1,2\n", "", "a,b\n3,4\n5,6\n"])
    assert (tmp_path / "x.csv").read_text() == "a,b\n1,2\n3,4\n5,6\n"


# Zips and lists


def test_zips_and_lists_are_sources_as_folders_are(images, run, command, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for file in sorted(images.iterdir(), reverse=True):
            stored = {"00001.png": "./00001.png", "00002.png": ".//00002.png"}.get(file.name, file.name)
            archive.writestr(stored, file.read_bytes())
        for other in ("__MACOSX/._00001.png", "notes.md", "film.mp4"):
            archive.writestr(other, "not looked at")
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in sorted(images.iterdir())) + "\n")
    found = {}
    for source in ("images", "images.zip", "@list.txt"):
        outcome = command("predict", source, *predicting(run, f"out-{source}")[1:])
        assert outcome.returncode == 1 and "00004.png: not an image" in outcome.stderr, outcome
        told = "images.zip: passed over: 1 file, such as images.zip/film.mp4; in a zip, known endings are .jpg"
        assert (told in outcome.stdout) == (source == "images.zip")
        found[source] = content(tmp_path / f"out-{source}")
    pictures = {name: file for name, file in found["images"].items() if name.endswith(".jpg")}
    for own in found.values():
        assert own.keys() == found["images"].keys() and pictures.items() <= own.items()
        assert [own[name] for name in ("keypoints.json", "images.json")] == [
            found["images"][name] for name in ("keypoints.json", "images.json")
        ]


def test_a_zip_that_cannot_be_read_is_told(images, run, command, tmp_path):
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../x.png", "")
    assert "its member '../x.png' leads out of the zip" in sentence(command("predict", "out.zip", "--model", run))
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.writestr("a/film.mkv", "")
    says = "films.zip: videos in a zip are not read: unpack it"
    assert sentence(command("predict", "films.zip", "--model", run)) == says
    (tmp_path / "cut.zip").write_bytes((tmp_path / "out.zip").read_bytes()[:-9])
    assert "cut.zip: cannot read the zip" in sentence(command("predict", "cut.zip", "--model", run))
    assert "none.txt: cannot read this list" in sentence(command("predict", "@none.txt", "--model", run))
    for line in ("images/none.png", "https://localhost/film.mp4", "0"):
        (tmp_path / "list.txt").write_text(f"{line}\n")
        assert f"{line}: there is no such file" in sentence(command("predict", "@list.txt", "--model", run))


def test_images_in_a_zip_state_their_size_and_orientation(tmp_path, monkeypatch, caplog):
    exif, encoded = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    PIL.Image.new("RGB", (60, 40)).save(encoded, "JPEG", exif=exif)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./1.jpg", encoded.getvalue())
    known = inputs.numbering(inputs.expand([str(tmp_path / "a.zip")]))
    replace(known, sizes=[(60, 40)]).refuse_otherwise_turned(True)
    assert "a.zip/1.jpg: is rotated as its EXIF orientation says" in caplog.text
    stated: list[Any] = []
    monkeypatch.setattr(inputs, "_boxes_by_image", lambda *given: stated.append(given[-1]) or {})
    inputs.read_boxes(tmp_path / "boxes.json", known, 0.5)
    assert stated == [{1: (60, 40)}]


# Several processes


def test_what_several_processes_do_not_share(images, run, command, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "film.mp4").write_bytes(b"")
    said = sentence(command("predict", "film.mp4", "--model", run))
    assert said == "film.mp4: images are shared out over processes, videos are not: predict them without torchrun"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [distributed.own_device(asked) for asked in (None, "cuda", "cpu", "cuda:0")] == [
        *("cuda:1", "cuda:1", "cpu", "cuda:0")
    ]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"torchrun started 3 processes .* has 2 GPU\(s\): use --nproc_per_node 2"):
        distributed.own_device(None)

    # What runs on the processor needs no GPU.
    def reached(*given: Any) -> None:
        raise UserError("reached")

    weights = planted_yolox(tmp_path / "n.onnx", [((100.0, 90.0), (60.0, 80.0), 0.9, {0: 0.9})])
    trained = trained_network(run)
    about = export.card(trained, decodes=False, half=False, any_batch=True)
    monkeypatch.setattr(shared, "dependence", reached)
    detecting = ["detect", "images", "--out", "x.json", "--weights", weights]
    assert sentence(command(*detecting)) == "reached"
    assert "--nproc_per_node 2" in sentence(command(*detecting, "--detector", "fasterrcnn"))
    boxed = ["predict", "images", "--model", "n.onnx", "--box", "0,0,9,9"]
    for network, says in ((export.Exported(Path("n.onnx"), about, lambda batch: ()), "reached"), (trained, "--nproc")):
        monkeypatch.setattr(predictor, "trained_network", lambda *given, network=network: network)
        assert says in sentence(command(*boxed))


def test_the_first_process_alone_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "join", lambda: None)
    error = UserError("of the first process")
    monkeypatch.setattr(distributed, "gather", lambda own: [({}, set(), [error]), own])
    monkeypatch.setattr(shared.Parts, "_begin", lambda *given: set())
    for rank, kind in ((0, UserError), (1, SystemExit)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with pytest.raises(kind) as raised:
            shared.Parts(tmp_path / ".parts", {}, 1, 1, overwrite=False)
        assert raised.value is error or raised.value.code == 2


def test_two_processes_write_what_one_does(run, command, tmp_path, monkeypatch):
    """Without torchrun's own start, which takes as long as the rest."""
    folder = tiny_images(tmp_path / "images", 70)
    (folder / "00050.png").write_text("no image")
    entries = [{"image_id": n, "category_id": 1, "bbox": [0, 0, 36, 48], "score": 0.9} for n in range(70)]
    (tmp_path / "boxes.json").write_text(json.dumps([*entries, entries[40] | {"bbox": [0, 0, 0, 9]}]))
    monkeypatch.undo()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    how = [
        "--model",
        str(run),
        "--boxes",
        str(tmp_path / "boxes.json"),
        "--device",
        "cpu",
        "--save",
        "json",
        "csv",
        "coco",
    ]
    arguments = [str(folder), *how, "--out", "one"]
    outcome = command("predict", *arguments)
    torch.set_num_threads(threads)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    line = [sys.executable, str(ROOT / "tools/predict.py"), *["two" if a == "one" else a for a in arguments]]
    pipes: Any = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(line, env=surroundings() | place | {"RANK": str(rank)}, **pipes) for rank in range(2)]
    (told, errors), (own, nothing) = (process.communicate(timeout=MOST_SECONDS) for process in ranks)
    assert [process.returncode for process in ranks] == [1, 0], (told, errors, own, nothing)
    assert told == "two: 69 person(s) in 69 image(s)\n"
    assert own == f"{folder}/00040.png: 1 of 2 boxes are empty or outside the image, and are left out\n"
    assert outcome.stdout == own + told.replace("two", "one")
    assert errors == outcome.stderr and "00050.png: not an image" in errors and not nothing
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of a run of a network that takes a millisecond."""
    folder, given = tmp_path_factory.mktemp("tiny"), load_config(DEMO, SMALL)
    network = build_model(given)
    fill_from_names(network)
    checkpoint.save(folder / "final_state.pth", network.state_dict())
    describe_run(given, skeleton.COCO, folder)
    return folder


def started(line: list[str], folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        line, cwd=folder, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def wait_for_parts(folder: Path, count: int) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while len(list(folder.glob("0*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(torchrun: subprocess.Popen) -> dict[str, int]:
    """The numbers of its processes by their ranks."""
    found = {}
    for number in Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split():
        for entry in Path(f"/proc/{number}/environ").read_text().split("\0"):
            if entry.startswith("RANK="):
                found[entry.removeprefix("RANK=")] = int(number)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["predict", "detect"])
def test_kills_between_20_000_images(tool, tiny_run, tmp_path):
    """One of two processes is killed, then both at once; the third start ends it. -s shows peak memory."""
    tiny_images(tmp_path / "images", 20_000)
    (tmp_path / "images" / "00777.png").write_text("no image")
    if tool == "predict":
        how = ["--model", str(tiny_run), "--detector", "whole-image", "--save", "csv", "coco"]
        results, parts = "{}", "{}/.parts"
    else:
        weights = planted_yolox(tmp_path / "n.onnx", [((100.0, 90.0), (60.0, 80.0), 0.9, {0: 0.9})])
        how, results, parts = ["--weights", str(weights)], "{}.json", ".{}.json.parts"
    line = [sys.executable, str(ROOT / f"tools/{tool}.py"), "images", "--device", "cpu", *how, "--out"]

    def peak_of(source: str, out: str) -> int:
        """MB, of one process that ends by itself."""
        process = started([*line[:2], source, *line[3:], results.format(out)], tmp_path)
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 1
        return usage.ru_maxrss // 1024

    (tmp_path / "tenth").mkdir()
    for file in sorted((tmp_path / "images").iterdir())[:2_000]:
        (tmp_path / "tenth" / file.name).hardlink_to(file)
    tenth, whole = peak_of("tenth", "few"), peak_of("images", "one")
    print(f"\n{tool}: {tenth} MB for 2,000 images, {whole} MB for 20,000")
    assert whole - tenth < 60

    two, folder = torchrun(2, [*line, results.format("two")]), tmp_path / parts.format("two")
    process = started(two, tmp_path)
    wait_for_parts(folder, 100)
    os.kill(workers(process)["1"], signal.SIGKILL)
    output = process.communicate(timeout=MOST_SECONDS)[0].decode()
    assert process.returncode == 1 and "Signal 9" in output, output
    process = started(two, tmp_path)
    wait_for_parts(folder, 300)
    for number in (*workers(process).values(), process.pid):
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=MOST_SECONDS)
    process = started(two, tmp_path)
    output = process.communicate(timeout=MOST_SECONDS)[0].decode()
    assert process.returncode == 1 and "going on after the" in output and "00777.png: not an image" in output, output
    assert not folder.exists()
    for name in ("keypoints.csv", "keypoints.json", "images.json") if tool == "predict" else ("", "_images.json"):
        one, own = (
            tmp_path / (f"{out}/{name}" if tool == "predict" else f"{out}{name or '.json'}") for out in ("one", "two")
        )
        assert own.read_bytes() == one.read_bytes(), name
    listed = json.loads((tmp_path / ("two/images.json" if tool == "predict" else "two_images.json")).read_bytes())
    assert [image["file_name"] for image in listed["images"]] == [f"{n:05}.png" for n in range(20_000) if n != 777]
