"""A run may end anywhere: the same command goes on to the same losses, predictions, AP and weights, bit for bit."""

import hashlib
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import ENVIRONMENT, ROOT, command, run, run_folder, torchrun
from tensorboardX.proto import event_pb2

# Two micro-batches a step. The last batch norm's statistics move; where all move, rounding grows by itself.
OPTIONS = (
    "GPUS (0,1) PRINT_FREQ 1 TRAIN.CHECKPOINT_EVERY 4 TRAIN.VALIDATE_EVERY 1 TRAIN.EMA 0.9 "
    "TRAIN.FREEZE ['*bn*','*downsample.1*']"
).split()
STEPS = 2 * 13
HANGS = 600  # seconds after which a process counts as hanging; no verdict hangs on less
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process that nothing interrupted."""
    folder = tmp_path_factory.mktemp("alone")
    run(command("train.py", folder, *OPTIONS), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two processes."""
    folder = tmp_path_factory.mktemp("together")
    run(torchrun(2, command("train.py", folder, *OPTIONS)), cwd=folder)
    return folder


def same(one: Any, other: Any) -> bool:
    """Whether two training states hold the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def losses(folder: Path) -> dict[str, set[str]]:
    """Of each "epoch 1/2 step 3/13" the losses that the logs of all attempts name."""
    found: dict[str, set[str]] = {}
    for log in run_folder(folder).glob("*_train.log"):
        for place, loss in re.findall(r"(epoch \S+ step \S+)  .*loss (\S+)", log.read_text()):
            found.setdefault(place, set()).add(loss)
    return found


def assert_same_run(folder: Path, reference: Path) -> None:
    # A log's last line may be lost with its process, and its step with the state.
    expected = losses(reference)
    assert losses(folder).items() <= expected.items() and len(losses(folder)) > len(expected) // 2
    for name in ("final_state.pth", "model_best.pth", "checkpoint.pth"):
        one, other = (torch.load(run_folder(f) / name, weights_only=True) for f in (folder, reference))
        for state in (one, other):
            for place in ("OUTPUT_DIR", "LOG_DIR", "WORKERS"):
                state.get("config", {}).pop(place, None)
        assert one.keys() == other.keys()
        assert not [key for key in one if not same(one[key], other[key])], name
    predictions, metrics = (
        (run_folder(folder) / "results" / name).read_bytes()
        for name in ("keypoints_val2017_results_0.json", "metrics_val2017_0.json")
    )
    assert predictions == (run_folder(reference) / "results/keypoints_val2017_results_0.json").read_bytes()
    assert metrics == (run_folder(reference) / "results/metrics_val2017_0.json").read_bytes()
    assert json.loads(metrics)["results_sha256"] == hashlib.sha256(predictions).hexdigest()


class Started:
    """A run in the background."""

    def __init__(self, arguments: list[str], folder: Path):
        self.output = folder / f"output_{time.monotonic_ns()}.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                arguments, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )

    def wait_for(self, text: str) -> None:
        """Until a line matches, or the run is over."""
        deadline = time.monotonic() + HANGS
        while not re.search(text, self.output.read_text()) and self.process.poll() is None:
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def end(self, number: int) -> float:
        """Seconds from the signal to the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(HANGS)
        return time.monotonic() - began


def interrupt_at_random(folder: Path, numbers: list[int], most_seconds: float, *overrides: str) -> Iterator[Path]:
    """Interrupt runs by these signals up to so long after each start's first step, begun anew in the same folder until
    finished; gives the folder of each finished run."""
    seed = int(os.environ.get("INTERRUPTION_SEED", 1))
    print("INTERRUPTION_SEED", seed)
    draw, waits, attempts = random.Random(seed), [], 0
    while numbers:
        place = folder / f"run_{attempts}"  # one may end before its signal comes
        place.mkdir()
        code = None
        while code != 0:
            attempts += 1
            workers = str(draw.randrange(2)) if numbers else "0"
            started = Started(command("train.py", place, *overrides, "WORKERS", workers), place)
            started.wait_for(r"epoch \S+ step")
            time.sleep(draw.uniform(0, most_seconds))
            if numbers and started.process.poll() is None:
                waited = started.end(numbers[0])
            code = started.process.wait(HANGS)
            output = started.output.read_text()
            print(attempts, code, re.findall(r"resumed .*|stopped .*|epoch .* step \S+", output)[-1:])
            if code != 0 and "final weights" not in output:
                assert code == EXIT_CODES[numbers[0]], output
                waits.append(waited)
                del numbers[0]
        yield place
    print(f"{len(waits)} interruptions in {attempts} starts; the longest way out took {max(waits):.1f} s")


def test_three_interruptions_give_the_same_run(alone: Path, tmp_path: Path) -> None:
    for folder in interrupt_at_random(tmp_path, [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], 0.7, *OPTIONS):
        assert_same_run(folder, alone)


@pytest.mark.slow
def test_interrupted_twenty_times_it_is_the_same_run(tmp_path: Path) -> None:
    """Batch norm, loading processes, and a validation of a second or two included; -s shows the figures."""
    options = "PRINT_FREQ 1 TRAIN.CHECKPOINT_EVERY 10 TRAIN.END_EPOCH 8 TEST.USE_GT_BBOX False".split()
    reference = tmp_path / "uninterrupted"
    reference.mkdir()
    run(command("train.py", reference, *options), cwd=reference)
    numbers = [(signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3] for i in range(20)]
    for folder in interrupt_at_random(tmp_path, numbers, 3.0, *options):
        assert_same_run(folder, reference)


@pytest.mark.slow
def test_a_deterministic_run_gives_the_same_bits_twice(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        run([*command("train.py", folder, "PRINT_FREQ", "1"), "--deterministic"], cwd=folder)
    assert_same_run(second, first)


def scalars(folder: Path, tag: str) -> dict[int, float]:
    """By step what TensorBoard's files hold; their records are length, checksum, event, checksum."""
    found = {}
    for path in (folder / "log").rglob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            found.update((event.step, value.simple_value) for value in event.summary.value if value.tag == tag)
            at += length + 16
    return found


def test_two_processes_train_like_one_that_accumulates(alone: Path, together: Path) -> None:
    """Dropout and augmentation included: what is drawn does not depend on the number of processes."""
    one, two = scalars(alone, "train/loss"), scalars(together, "train/loss")
    assert len(one) == STEPS
    assert two == pytest.approx(one, rel=1e-5)
    weights = [torch.load(run_folder(folder) / "final_state.pth", weights_only=True) for folder in (alone, together)]
    for key, value in weights[0].items():
        assert torch.allclose(value.double(), weights[1][key].double(), rtol=1e-3, atol=1e-5), key


def test_two_processes_stop_together_and_outlive_one_of_them(together: Path, tmp_path: Path) -> None:
    arguments = command("train.py", tmp_path, *OPTIONS)
    started = Started(torchrun(2, arguments), tmp_path)
    started.wait_for("epoch 1/2 step 2/13")
    started.end(signal.SIGTERM)  # torchrun would kill a process that does not stop, and nothing would say so
    state = torch.load(run_folder(tmp_path) / "checkpoint.pth", weights_only=True)
    assert 2 <= 13 * state["epoch"] + state["epoch_step"] < 26
    assert "stopped by SIGTERM" in started.output.read_text()

    started = Started(torchrun(2, arguments, "--max-restarts", "1"), tmp_path)
    started.wait_for("epoch 2/2 step 6/13")
    first = int((run_folder(tmp_path) / ".lock").read_text().split()[1])
    os.kill(first, signal.SIGKILL)
    assert started.process.wait(HANGS) == 0, started.output.read_text()
    assert started.output.read_text().count("resumed") == 2
    assert_same_run(tmp_path, together)


HOLDS_BACK = """
import sys, time; sys.path.insert(0, {tools!r})
from transpose.runtime import signals
from transpose.runtime.signals import Interrupted, SignalHandler
signals.REPEAT_SECONDS = {repeat_seconds}
with SignalHandler() as interruption:
    print("ready", flush=True)
    {then}
"""
WAITS_FOR_EVER = """while not interruption.signal: time.sleep(0.01)
    print("held back", flush=True)
    while True: time.sleep(0.01)"""
LEAVES_AT_ONCE = """try:
        with interruption.at_once(): time.sleep(60)
    except Interrupted: print(interruption.signal)"""


@pytest.fixture
def held_back() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process that holds signals back; `repeat_seconds` in place of the two of runtime/signals.py."""
    processes = []

    def start(then: str, repeat_seconds: float = 2.0) -> subprocess.Popen:
        code = HOLDS_BACK.format(tools=str(ROOT / "tools"), then=then, repeat_seconds=repeat_seconds)
        processes.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_signal_ends_at_once(held_back: Callable[..., subprocess.Popen]) -> None:
    process = held_back(WAITS_FOR_EVER)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "held back\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGS) == -signal.SIGINT


def test_an_echo_of_torchruns_does_not(
    held_back: Callable[..., subprocess.Popen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    for seconds in (1e9, 0.1):
        process = held_back(WAITS_FOR_EVER, repeat_seconds=seconds)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "held back\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        if seconds > 1:
            time.sleep(0.2)
            assert process.poll() is None
        else:
            assert process.wait(HANGS) == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_interruptible_code_stops_at_once(number: int, held_back: Callable[..., subprocess.Popen]) -> None:
    process = held_back(LEAVES_AT_ONCE)
    process.send_signal(number)
    assert process.communicate(timeout=HANGS)[0] == f"{int(number)}\n"
