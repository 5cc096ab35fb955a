"""What tests of several folders are given."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.goldens import ROOT, fill_from_names
from helpers.persons import DEMO
from helpers.places import MOST_SECONDS, Run, surroundings
from helpers.wheel import installed, machine, wheel  # noqa: F401

from transpose.build.model import build_model
from transpose.build.run import describe_run
from transpose.config.load import load_config
from transpose.pose import skeleton
from transpose.predictor.predictor import Predictor
from transpose.runtime import checkpoint

# Begun first, so that two processes end at about the same time.
LONGEST = "bad_input explain interruptions export pages_run predictor check_data runs loss state_files package".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.fixture(scope="session")
def run_preloaded() -> Iterator[Run]:
    """As `run_anew`, without the seconds that importing torch takes."""
    command = [sys.executable, str(ROOT / "tests/helpers/preloaded.py")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings())
    assert server.stdin is not None and server.stdout is not None

    def run(tool: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
        assert server.stdin is not None and server.stdout is not None
        out, err = folder / "stdout", folder / "stderr"
        request = {
            "tool": tool,
            "arguments": arguments,
            "folder": str(folder),
            "environment": environment,
            "stdout": str(out),
            "stderr": str(err),
            "seconds": MOST_SECONDS,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        exit_code = int(server.stdout.readline())
        return subprocess.CompletedProcess([tool, *arguments], exit_code, out.read_text(), err.read_text())

    yield run
    server.stdin.close()
    assert server.wait(MOST_SECONDS) == 0


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory) -> dict[str, str]:
    """An environment in which importing torch is a fault of the program."""
    folder = tmp_path_factory.mktemp("without_torch")
    (folder / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run of the demo's network whose weights are drawn."""
    folder = tmp_path_factory.mktemp("run")
    given = load_config(DEMO)
    network = build_model(given)
    fill_from_names(network)
    checkpoint.save(folder / "final_state.pth", network.state_dict())
    describe_run(given, skeleton.COCO, folder)
    return folder


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor.from_pretrained(run, device="cpu")
