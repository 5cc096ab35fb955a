"""README and the pages of docs/: what their commands and programs name exists, and what is generated is up to date.

tests/test_pages_run.py runs them.
"""

import argparse
import importlib.util
import re
import runpy
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from helpers.goldens import ROOT
from helpers.pages import BLOCK, PAGES, PROGRAM, blocks, name, sentences

from transpose import cli, commands
from transpose.config.default import defaults
from transpose.config.load import leaves, load_config
from transpose.errors import UserError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ON_REQUEST = {"tensorboard", "opencv-python", "opencv-python-headless"}  # packages that a page names


class Parsed(Exception):
    """Ends a command when its options are read."""


def check_tool(command: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(parse: Callable) -> Callable:
        def stop(self, args=None, namespace=None) -> NoReturn:
            raise Parsed(parse(self, args, namespace))

        return stop

    if not options:
        return  # only the tool is named
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
        assert program in ("pytest", ".", "torchrun") or (program == "python" and (ROOT / words[0]).is_file()), line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_the_commands_name_exists(page: Path, monkeypatch: pytest.MonkeyPatch):
    for block in blocks(page, "sh"):
        for line in block.lines():
            check_command(line, monkeypatch)
    for block in blocks(page, "python"):
        compile(block.text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_the_commands_in_sentences_name_exists(page: Path, monkeypatch: pytest.MonkeyPatch):
    for line in sentences(page):
        check_command(line, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_hides_in_another_block(page: Path):
    for _, language, text in BLOCK.findall(page.read_text()):
        assert language, f"a block without a language begins {text.splitlines()[0]!r}"
        if language not in ("sh", "python"):
            found = re.findall(rf"^{PROGRAM}[^…\n]*$", text, re.MULTILINE)
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
