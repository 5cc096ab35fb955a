"""README and the pages of docs/: their commands and programs run, from a copy of the clone in which a model is trained.

A fenced block in `sh` holds commands, one in `python` a program. An HTML comment on the line above says why a block is
not run here, as in <!-- needs COCO --> or <!-- takes minutes -->; its tools, options, keys, files and packages are
checked all the same. Commands of docs/custom-dataset.md that take minutes: tests/commands/test_custom_dataset.py.
"""

import argparse
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torchvision
from helpers.goldens import ROOT
from helpers.places import MOST_SECONDS, surroundings
from helpers.planted import planted_yolox

from transpose import cli, commands
from transpose.config.default import defaults
from transpose.config.load import leaves, load_config
from transpose.errors import UserError
from transpose.models import zoo
from transpose.predictor import yolox

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- ((?:needs|takes) [^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r" <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ON_REQUEST = {"tensorboard", "opencv-python-headless"}  # packages that a page names and nothing here imports
CHECKED_ONLY = ("pip", "make", "pytest", ".", "docker", "tensorboard", "torchrun")  # programs that no test starts
QUICKER = {  # options with which a tool takes fewer persons or images the same way
    "attention_stats": ["--persons", "4"],
    "check_data": ["--images", "8"],
    "test": ["TEST.IMAGE_THRE", "0.9"],
    "predict": ["--box-score", "0.9"],
}
FEW_IMAGES = (785, 885)  # of the bundled sample
CLONED = ("lib", "tools", "docs", "experiments", "tests/helpers", "benchmarks")


@dataclass(frozen=True)
class Block:
    page: Path
    reason: str  # why it is not run
    language: str
    text: str

    def lines(self) -> list[list[str]]:
        """The words of each command; a program between <<'END' and END is the last word of its command."""
        programs = HEREDOC.findall(self.text)
        text = HEREDOC.sub(" PROGRAM", self.text).replace("\\\n", " ")
        lines = [shlex.split(part, comments=True) for line in text.splitlines() for part in line.split(" && ")]
        given = iter(programs)
        return [[next(given) if word == "PROGRAM" else word for word in line] for line in lines if line]


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(page, *parts) for parts in BLOCK.findall(page.read_text())]
    return [block for block in found if block.language in languages]


def name(page: Path) -> str:
    return page.stem


# What a page names exists


class Parsed(Exception):
    """Ends a command when its options are read."""


def check_tool(command: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(parse: Callable) -> Callable:
        def stop(self, args=None, namespace=None) -> NoReturn:
            raise Parsed(parse(self, args, namespace))

        return stop

    module = importlib.import_module(f"transpose.commands.{command.replace('-', '_')}")
    with monkeypatch.context() as patch:
        for parser in (argparse.ArgumentParser, cli.Parser):
            patch.setattr(parser, "parse_args", stopping(parser.parse_args))
        try:
            module.main(options)
        except Parsed as parsed:
            (arguments,) = parsed.args
        except SystemExit:
            pytest.fail(f"{command} does not take {shlex.join(options)}")
    if getattr(arguments, "cfg", None):
        load_config(ROOT / arguments.cfg, getattr(arguments, "opts", ()), report=False)


def check_packages(words: list[str]) -> None:
    requirements = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    known = {re.split(r"[\[<>=]", text)[0] for text in requirements} | ON_REQUEST
    for word in (word for word in words if not word.startswith("-")):
        package, _, extras = re.split(r"[<>=]", word)[0].partition("[")
        assert package in known or (ROOT / package).exists(), word
        assert not extras or set(extras.rstrip("]").split(",")) <= set(EXTRAS), word


def check_command(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    while "=" in line[0]:  # NAME=value in front of the program
        line = line[1:]
    program, *words = line
    for word in words:
        if re.match(r"(experiments|docs|lib|tests|data/coco_sample)/", word):
            assert (ROOT / word).exists(), word
    tool = next((word for word in words if word.startswith("tools/")), None)
    if tool:
        (command,) = re.findall(r'run\("([a-z-]+)"\)', (ROOT / tool).read_text())
        check_tool(command, words[words.index(tool) + 1 :], monkeypatch)
    elif program == "transpose":
        assert words[0] in commands.COMMANDS
        check_tool(words[0], words[1:], monkeypatch)
    elif program == "python" and words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words[1]
    elif program == "python" and words[0] == "-":
        compile(words[1], "page", "exec")
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words if "=" not in word} <= targets
    elif program == "pip":
        check_packages(words[1:])
    else:
        assert program in CHECKED_ONLY or (program == "python" and (ROOT / words[0]).is_file()), line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_the_commands_name_exists(page: Path, monkeypatch: pytest.MonkeyPatch):
    for block in blocks(page, "sh"):
        for line in block.lines():
            check_command(line, monkeypatch)
    for block in blocks(page, "python"):
        compile(block.text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_hides_in_another_block(page: Path):
    for _, language, text in BLOCK.findall(page.read_text()):
        assert language, f"a block without a language begins {text.splitlines()[0]!r}"
        if language not in ("sh", "python"):
            found = re.findall(r"^(?:python tools/|make |pip install )[^…\n]*$", text, re.MULTILINE)
            assert found == [], f"commands in a block of {language}"


@pytest.mark.parametrize(
    "wrong",
    [
        "python tools/predict.py image.jpg --model tp_r_a4 --svae json",
        "transpose test --cfg experiments/coco_sample/demo.yaml TEST.USE_BOXES True",
        "python tools/test.py --cfg experiments/coco_sample/none.yaml",
        "pip install -e .[trian]",
        "make dome",
        "rm -rf output",
    ],
)
def test_what_does_not_exist_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises((AssertionError, UserError, pytest.fail.Exception)):
        check_command(shlex.split(wrong), monkeypatch)


# The commands run


class Clone:
    """A copy of the clone with a small trained model as the demo's, and a server that runs its tools."""

    def __init__(self, folder: Path, run: Path):
        self.folder, self.run = folder, run
        for part in CLONED:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "data").mkdir()
        (folder / "data/coco_sample").symlink_to(ROOT / "data/coco_sample")
        (folder / "said").mkdir()
        self.own = set(folder.iterdir())
        command = [sys.executable, str(folder / "tests/helpers/preloaded.py")]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings()
        )

    def reset(self) -> None:
        for path in set(self.folder.iterdir()) - self.own:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.run, self.folder / "output/coco/transpose_r/demo")

    def tool(self, tool: str, words: list[str]) -> None:
        assert self.server.stdin is not None and self.server.stdout is not None
        place = {"tool": tool, "arguments": words, "folder": str(self.folder), "environment": {}}
        out = [self.folder / "said" / stream for stream in ("stdout", "stderr")]
        request = place | {"stdout": str(out[0]), "stderr": str(out[1]), "seconds": MOST_SECONDS}
        for path in out:
            path.unlink(missing_ok=True)
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        assert code == 0, f"{tool} {shlex.join(words)}\n" + "\n".join(path.read_text() for path in out)

    def program(self, text: str) -> None:
        (self.folder / "tools/page.py").write_text(text)
        self.tool("page", [])

    def command(self, line: list[str]) -> None:
        environment = surroundings()
        while "=" in line[0]:
            name, value = line[0].split("=", 1)
            environment, line = environment | {name: value}, line[1:]
        if line[0] in CHECKED_ONLY:
            return
        assert line[0] == "python", line
        if line[1] == "-":
            self.program(line[2])
        elif line[1].startswith("tools/"):
            tool = Path(line[1]).stem
            self.tool(tool, [*line[2:], *QUICKER.get(tool, [])])
        else:
            subprocess.run([sys.executable, *line[1:]], cwd=self.folder, env=environment, check=True)

    def block(self, block: Block) -> None:
        if block.language == "python":
            self.program(block.text)
        else:
            for line in block.lines():
                self.command(line)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Iterator[Clone]:
    made = Clone(tmp_path_factory.mktemp("clone"), run)
    yield made
    made.server.stdin.close()
    assert made.server.wait(MOST_SECONDS) == 0


def runnable(page: Path, reason: str = "") -> list[Block]:
    return [block for block in blocks(page, "sh", "python") if block.reason == reason]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_the_commands_run(page: Path, clone: Clone):
    clone.reset()
    for block in runnable(page):
        clone.block(block)


@pytest.mark.slow
def test_the_commands_that_take_minutes_run(clone: Clone):
    """Of docs/training.md first, which train the demo's model that the others use."""
    clone.reset()
    shutil.rmtree(clone.folder / "output")
    training = ROOT / "docs/training.md"
    for page in (training, *(page for page in PAGES if page not in (training, ROOT / "docs/custom-dataset.md"))):
        for block in runnable(page, "takes minutes"):
            clone.block(block)


def few_of_coco(folder: Path) -> None:
    """Images of the bundled sample where COCO is expected, and random weights where the released ones are."""
    sample = ROOT / "data/coco_sample"
    truth = json.loads((sample / "annotations/person_keypoints_val2017.json").read_text())
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
        (folder / "images" / name).symlink_to(sample / "images/val2017")
    boxes = folder / "person_detection_results"
    boxes.mkdir()
    found = json.loads((sample / boxes.name / "COCO_val2017_detections_AP_H_56_person.json").read_text())
    text = json.dumps([box for box in found if box["image_id"] in FEW_IMAGES])
    for name in ("COCO_val2017_detections_AP_H_56_person.json", "COCO_test-dev2017_detections_AP_H_609_person.json"):
        (boxes / name).write_text(text)


def random_weights(folder: Path) -> None:
    for name in ("tp_r_a4", "tp_h_a6"):
        path = folder / zoo.FOLDER / zoo.RELEASED[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(zoo.model(name).state_dict(), path)
    path = folder / zoo.IMAGENET_FOLDER / zoo.BACKBONES["resnet50"].file
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet50().state_dict(), path)


@pytest.mark.slow
def test_the_commands_that_need_coco_run_on_a_few_images(clone: Clone, monkeypatch: pytest.MonkeyPatch):
    """With random weights, which have not the checksum in the name of ImageNet's; trainings end after an epoch."""
    clone.reset()
    monkeypatch.setitem(QUICKER, "train", ["GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", "4", "TRAIN.END_EPOCH", "1"])
    few_of_coco(clone.folder / "data/coco")
    random_weights(clone.folder)
    try:
        for page in PAGES:
            for block in runnable(page, "needs COCO"):
                text = block.text.replace("python tools/download.py resnet50\n", "")
                clone.block(replace(block, text=re.sub(" /(runs|big)", r" output/\1", text)))
    finally:
        shutil.rmtree(clone.folder / "data/coco")


@pytest.mark.slow
def test_the_commands_that_need_a_download_run_with_random_weights(clone: Clone):
    """Those of README and docs/predict.md, whose weights can be made here."""
    clone.reset()
    random_weights(clone.folder)
    weights = clone.folder / yolox.FOLDER / "yolox_nano.onnx"
    weights.parent.mkdir(parents=True)
    planted_yolox(weights, [((200.0, 150.0), (100.0, 200.0), 0.9, {0: 0.9})])
    image = ROOT / "data/coco_sample/images/val2017/000000000785.jpg"
    (clone.folder / "images").mkdir()
    for name in ("photo.jpg", "me.jpg", "images/one.jpg"):
        shutil.copyfile(image, clone.folder / name)
    for page in (ROOT / "README.md", ROOT / "docs/predict.md"):
        for block in runnable(page, "needs a download"):
            clone.block(block)


# What is generated


def test_the_configuration_page_lists_the_keys_as_they_are():
    made = runpy.run_path(str(ROOT / "docs/make_configuration.py"))
    assert made["PAGE"].read_text() == made["page"](made["SOURCE"].read_text()), "run make docs"
    keys = re.findall(r"^\| `([A-Z][\w.]+)` \|", made["PAGE"].read_text(), re.MULTILINE)
    assert keys == [key for key, _ in leaves(defaults())]
    assert all(meaning for _, _, meaning in made["entries"](made["SOURCE"].read_text()))


def test_the_page_on_installing_lists_every_command_and_extra_once():
    page = (ROOT / "docs/install.md").read_text()
    assert sorted(re.findall(r"^\| `transpose ([\w-]+)` \|", page, re.MULTILINE)) == sorted(commands.COMMANDS)
    assert sorted(re.findall(r"^\| `(\w+)` \| [^`]", page, re.MULTILINE)) == sorted(EXTRAS)


def test_readme_stays_short_and_lists_every_page():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 220
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(re.findall(r"\]\((docs/[\w-]+\.md)", readme))
