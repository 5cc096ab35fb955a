"""The package: its command, its public names, its wheel in an empty folder, and the files that describe it."""

import ast
import importlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers.goldens import ROOT, SAMPLE
from helpers.places import Place, sentence, surroundings
from helpers.wheel import EXTRAS, PROJECT, python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import transpose
from transpose import commands
from transpose.cli import FOR_TRAINING
from transpose.errors import UserError, needs
from transpose.runtime import distributed

NOT_COMMANDS = ("transpose.py", "benchmarks.py")
TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.name not in NOT_COMMANDS)


# The wheel


def test_every_sub_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(("transpose", *path.parent.relative_to(ROOT / "lib").parts))
        for path in ROOT.glob("lib/**/__init__.py")
    }
    assert set(listed) == found


def test_the_wheel_holds_the_package_and_its_command(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    wanted = {f"transpose/{path.relative_to(ROOT / 'lib')}" for path in (ROOT / "lib").rglob("*.py")}
    assert {name for name in names if "dist-info" not in name} == wanted | {"transpose/py.typed"}
    assert "transpose = transpose.commands:main" in entry_points


def test_prediction_needs_what_the_wheel_depends_on_and_nothing_else(machine, run, tmp_path: Path):
    image = SAMPLE / "images/val2017/000000000785.jpg"
    program = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('transpose', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print(*{name.partition('.')[0] for name in sys.modules}, file=open('modules', 'w'))\n"
    )
    options = ("--model", str(run), "--detector", "whole-image", "--save", "json", "--device", "cpu")
    found = python("-c", program, "predict", str(image), *options, folder=tmp_path, path=machine())
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "predictions/000000000785.json").stat().st_size > 100
    owners = importlib.metadata.packages_distributions()
    imported = {name for module in (tmp_path / "modules").read_text().split() for name in owners.get(module, [])}
    imported |= {"pooch", "requests", "urllib3"}  # when weights are downloaded
    unused = {Requirement(text).name for text in PROJECT["dependencies"]} - imported
    assert unused == set()


def test_missing_extras_and_clones_are_reported(machine, tmp_path: Path):
    path, place = machine(), Place(tmp_path / "place")
    place.yaml.write_text(yaml.safe_dump(place.config))
    for command in ("train", "test"):
        outcome = python("-m", "transpose", command, "--cfg", str(place.yaml), folder=tmp_path, path=path)
        assert re.fullmatch(
            r"the package \w+ is not installed: pip install \w+, or pip install 'transpose-pose\[train\]' for .*",
            sentence(outcome),
        )
    outcome = python("-m", "transpose", "benchmark", "--stages", folder=tmp_path, path=path)
    assert "need a clone of the repository" in sentence(outcome)


def test_a_model_is_trained_with_the_extra_train(machine, tmp_path: Path):
    place = Place(tmp_path / "place")
    place.yaml.write_text(yaml.safe_dump(place.config))
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = python("-m", "transpose", "train", "--cfg", str(place.yaml), folder=empty, path=machine("train"))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert (empty / "output/coco/transpose_r/small/final_state.pth").exists()
    assert "| small | " in outcome.stdout


def test_what_needs_the_bundled_sample_says_so(machine, run, tmp_path: Path):
    options = ("--model", str(run), "--format", "torchscript", "--out", "small.torchscript")
    outcome = python("-m", "transpose", "export", *options, folder=tmp_path, path=machine("train"))
    assert outcome.returncode == 2 and "Traceback" not in outcome.stderr
    assert outcome.stderr.splitlines()[-1].endswith(
        "the bundled sample is used, so run this in a clone of the repository"
    )
    assert list(tmp_path.iterdir()) == []


# The command


def test_help_imports_nothing_heavy(tmp_path: Path):
    program = (
        "import sys\n"
        "from transpose import commands\n"
        "for name in commands.COMMANDS:\n"
        "    sys.argv = ['transpose', name, '--help']\n"
        "    try:\n"
        "        commands.main()\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "own = {'transpose', '__main__', 'sitecustomize'}\n"
        "print('heavy:', *{name.partition('.')[0] for name in sys.modules} - own - set(sys.stdlib_module_names))\n"
    )
    asked = python("-S", "-c", program, folder=tmp_path, path=str(ROOT / "tools"))
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[-1] == "heavy:"
    usages = [line.split()[1:3] for line in asked.stdout.splitlines() if line.startswith("usage: ")]
    assert usages == [["transpose", name] for name in commands.COMMANDS]


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_a_tool_is_five_lines_that_run_a_command(path: Path, tmp_path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 5
    (name,) = re.findall(r'run\("([a-z-]+)"\)', lines[-1])
    assert name in commands.COMMANDS
    asked = python("-S", str(path), "--help", folder=tmp_path)
    assert asked.stdout.split()[:2] == ["usage:", path.name]


def test_every_command_has_its_tool():
    named = [name for path in TOOLS for name in re.findall(r'run\("([a-z-]+)"\)', path.read_text())]
    assert sorted(named) == sorted(commands.COMMANDS)


def test_a_wrong_command_is_answered_with_those_there_are(tmp_path: Path):
    asked = python("-S", "-m", "transpose", "fly", folder=tmp_path, path=str(ROOT / "tools"))
    assert asked.returncode == 2 and "invalid choice: 'fly'" in asked.stderr and "check-data" in asked.stderr


def test_a_reader_that_has_read_enough_ends_a_command_quietly(tmp_path: Path):
    for program in (
        "cli.run(lambda: [print(i) for i in range(100_000)])",  # fails while it prints
        "cli.run(lambda: print('one line'))",  # fails when it ends
    ):
        source = f"import os, sys\nfrom transpose import cli\nsys.stdin.read()\n{program}\n"
        process = subprocess.Popen(
            [sys.executable, "-c", source],
            env=surroundings() | {"PYTHONPATH": str(ROOT / "tools")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141


def test_another_broken_pipe_is_a_fault_of_the_program(tmp_path: Path):
    broken = "import os\nfrom transpose import cli\nr, w = os.pipe()\nos.close(r)\ncli.run(lambda: os.write(w, b'x'))"
    outcome = python("-c", broken, folder=tmp_path, path=str(ROOT / "tools"))
    assert outcome.returncode == 1 and "BrokenPipeError" in outcome.stderr


def test_a_second_interruption_ends_a_command_at_once_and_without_a_traceback():
    """While a stage that takes long is waited for."""
    source = (
        "import time\nfrom transpose import cli\nfrom transpose.runtime.ahead import ahead\n"
        "def slow():\n    print('begun', flush=True)\n    time.sleep(600)\n    yield\n"
        "cli.run(lambda: list(ahead(slow())))"
    )
    environment = surroundings() | {"PYTHONPATH": str(ROOT / "tools")}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", source], env=environment, **piped) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping (Ctrl-C again stops at once)\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr.read() == ""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interruption_cleans_up_without_a_reader_and_is_ignored_if_the_shell_says_so(ignored: bool):
    source = (
        "import os, signal, sys\nfrom transpose import cli\n"
        "def work():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n        print('cleaned up')\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
        "read, write = os.pipe()\nos.close(read)\nos.dup2(write, 2)\ncli.run(work)"
    )
    environment = surroundings() | {"PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "cleaned up\n" and done.returncode == (0 if ignored else 130)


@pytest.mark.parametrize(
    "started, again",
    [
        ([str(ROOT / "tools/train.py"), "--cfg", "x y"], [str(ROOT / "tools/train.py"), "--cfg", "x y"]),
        (["transpose train", "--cfg", "x y"], ["-m", "transpose", "train", "--cfg", "x y"]),
    ],
    ids=["tool", "installed"],
)
def test_a_start_makes_one_process_per_gpu(started, again, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", started)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(distributed, "processes_for", lambda gpus: 2)
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, line: seen.append(line))
    distributed.start_one_process_per_gpu((0, 1))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert seen == [launch + again]


def test_torchrun_takes_that_line(tmp_path: Path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")
    line = (*launch, "-m", "transpose", "train", "--cfg", "none.yaml")
    outcome = python(*line, folder=tmp_path, path=str(ROOT / "tools"))
    assert "error: none.yaml: cannot read the configuration file" in outcome.stderr


# Names and versions


def test_the_public_names_come_without_torch_until_they_are_used(tmp_path: Path):
    program = (
        "import sys, transpose\n"
        "assert 'torch' not in sys.modules and set(transpose.__all__) <= set(dir(transpose))\n"
        "from transpose import UserError, load_config\n"
        "assert 'torch' not in sys.modules\n"
        "from transpose import Predictor\n"
        "assert 'torch' in sys.modules and Predictor.__module__ == 'transpose.predictor.predictor'\n"
    )
    outcome = python("-c", program, folder=tmp_path, path=str(ROOT / "tools"))
    assert outcome.returncode == 0, outcome.stderr


def test_torch_hub_finds_the_package_of_the_clone(tmp_path: Path):
    program = (
        "import torch\n"
        f"network = torch.hub.load({str(ROOT)!r}, 'tpr_a3_256x192', source='local')\n"
        "from transpose import Predictor\n"
        "print(type(network).__module__, Predictor.__name__)\n"
    )
    outcome = python("-c", program, folder=tmp_path)
    assert outcome.stdout == "transpose.models.transpose Predictor\n", outcome.stderr


def test_all_public_names_are_there():
    assert all(getattr(transpose, name) is not None for name in transpose.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        transpose.Predicter  # noqa: B018


def read_requirements(name: str) -> dict[str, str]:
    """Package -> the versions that a requirements file asks for."""
    lines = [line.partition(" #")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return as_table([line for line in lines if line and not line.startswith("#")])


def as_table(requirements: list[str]) -> dict[str, str]:
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(one.name): str(one.specifier) for one in parsed if one.name != PROJECT["name"]}


def test_the_requirements_of_a_clone_are_those_of_the_package_of_training_and_of_video():
    wanted = PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["video"]
    assert read_requirements("requirements.txt") == as_table(wanted)
    assert set(FOR_TRAINING) == {Requirement(text).name for text in EXTRAS["train"]}


def test_all_version_numbers_agree():
    extras: dict[str, str] = {}
    for requirements in EXTRAS.values():
        for name, versions in as_table(requirements).items():
            assert extras.setdefault(name, versions) == versions
    development = read_requirements("requirements-dev.txt")
    assert {name: development[name] for name in extras.keys() & development} == {
        name: extras[name] for name in extras.keys() & development
    }
    pinned = read_requirements("constraints.txt")
    for name, versions in (read_requirements("requirements.txt") | development | extras).items():
        if name in pinned:
            assert Requirement(f"{name}{versions}").specifier.contains(pinned[name].removeprefix("=="))


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    assert needs("json", "explain") is importlib.import_module("json")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError) as caught:
        needs("matplotlib", "explain")
    assert str(caught.value) == (
        "the package matplotlib is not installed: pip install matplotlib, "
        "or pip install 'transpose-pose[explain]' for everything that this needs"
    )


def test_extras_that_the_source_names_exist():
    nodes = [node for path in (ROOT / "lib").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "needs"]
    named = {ast.literal_eval([*call.args, *(word.value for word in call.keywords)][1]) for call in calls}
    assert {"openvino", "onnxruntime"} <= named <= set(EXTRAS)


# Files that describe the project to others


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def test_ci_runs_what_contributing_asks_for_on_both_ends_of_the_supported_versions():
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = ci["jobs"]["test"]
    assert [entry["python"] for entry in job["strategy"]["matrix"]["include"]] == ["3.11", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11"
    assert any("make lint docs test" in step.get("run", "") for step in job["steps"])
    assert "lint docs test" in (ROOT / ".ci/run").read_text()


def test_a_tag_is_published_without_a_stored_token():
    publish = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text())
    assert publish[True] == {"push": {"tags": ["v*"]}}  # yaml reads `on` as true
    job = publish["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"} and job["needs"] == "build"
    assert "secrets." not in (ROOT / ".github/workflows/publish.yml").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_not_write_to_the_repository(path: Path):
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_make_targets_that_are_named_exist_and_are_listed():
    makefile = (ROOT / "Makefile").read_text()
    described = set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.M))
    used = set()
    for path in (*WORKFLOWS, ROOT / "CONTRIBUTING.md", ROOT / "README.md"):
        for line in re.findall(r"^(?: *- run: )?make ([a-z][a-z -]+?)(?:  .*| [A-Z].*)?$", path.read_text(), re.M):
            used |= set(line.split())
    assert {"lint", "test", "demo"} <= used <= described
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    assert set(phony.split()) == described


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_asks_for_command_message_and_versions(path: Path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    assert {"command", "versions"} <= {field["id"] for field in form["body"]}
    assert "message" in path.read_text()


def test_the_paper_is_cited_as_in_the_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    readme = (ROOT / "README.md").read_text()
    assert f"title     = {{{paper['title']}}}" in readme and f"author    = {{{authors}}}" in readme
    assert [one["value"] for one in paper["identifiers"]] == ["arXiv:2012.14214", "yang2021transpose"]
    assert "{yang2021transpose," in readme and paper["year"] == 2021


def test_the_image_runs_as_a_user_and_names_no_host():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER transpose" in lines and 'ENTRYPOINT ["transpose"]' in lines
    assert not re.search(r"https?://|\w+\.(com|org|io)\b", "\n".join(lines))
    extras = next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2]
    assert set(extras.split(",")) <= set(EXTRAS)


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "demo.ipynb"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_and_modules_that_a_page_names_exist(path: Path):
    text = path.read_text()
    named = set(re.findall(r"\b(?:lib|tools|tests|docs|benchmarks|experiments)/[\w/.-]+\.(?:py|md|yaml)\b", text))
    history = {"tools/run_notebook.py"} if path.name == "CHANGELOG.md" else set()
    assert {name for name in named - history if not (ROOT / name).exists()} == set()
    for line in re.findall(r"^ *\"?(from transpose[\w.]* import [\w, ]+)", text, re.M):
        exec(line, {})
