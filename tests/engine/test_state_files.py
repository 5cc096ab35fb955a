"""The files of a run: whole or not there, checked when read, the one before kept, and written by one run at a time."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import ROOT

from transpose.engine import monitor
from transpose.engine.resume import claim_folder, saved_state
from transpose.errors import UserError
from transpose.pose.skeleton import COCO
from transpose.runtime import checkpoint, lock
from transpose.runtime.files import remove_leftovers

STATE = {
    "config": {},
    "state_dict": {"w": torch.arange(12.0)},
    "optimizer": {"state": {}, "param_groups": []},
    "epoch": 1,
}
STATE["best"] = {"AP": 0.5, "epoch": 1}


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder / "checkpoint.pth", STATE | {"step": step}, keep=folder / "checkpoint_previous.pth")


def state_of(folder: Path) -> dict | None:
    return saved_state(folder, True, lambda config: [], False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the states of the steps 2 and 3; that of step 1 is gone."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    return tmp_path


def test_the_last_two_states_are_kept_and_any_torch_reads_them(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pth", "checkpoint_previous.pth"]
    newest, previous = (torch.load(folder / name) for name in ("checkpoint.pth", "checkpoint_previous.pth"))
    assert (newest["step"], previous["step"]) == (3, 2)
    assert state_of(folder)["step"] == 3


def test_each_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / "checkpoint.pth"
    whole = path.read_bytes()
    draw = random.Random(0)
    places = {*draw.sample(range(len(whole)), 300), *range(len(whole) - 120, len(whole))}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"checkpoint\.pth: "):
            checkpoint.read(path)
    path.write_bytes(whole)
    assert checkpoint.read(path)["step"] == 3


@pytest.mark.parametrize("length", [0, 1, 1000, -71, -1])
def test_a_truncated_state_is_named_and_the_one_before_is_used(
    length: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "checkpoint.pth"
    truncated = path.read_bytes()[:length]
    path.write_bytes(truncated)
    assert state_of(folder)["step"] == 2
    (warning,) = caplog.messages
    assert str(path) in warning and str(folder / "checkpoint_previous.pth") in warning
    # It does not take the good one's place when the run saves next, and is not lost.
    save(folder, 3)
    assert checkpoint.read(folder / "checkpoint_previous.pth")["step"] == 2
    assert (folder / "checkpoint_damaged.pth").read_bytes() == truncated


def test_a_crash_between_the_two_renames_leaves_the_state_before(folder: Path) -> None:
    (folder / "checkpoint.pth").unlink()
    assert state_of(folder)["step"] == 2


def test_two_damaged_states_are_both_named(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"checkpoint\.pth: .*checkpoint_previous\.pth: .*no state is left"):
        state_of(folder)


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    (folder / ".checkpoint.pth.abcd1234.part").write_bytes(b"half")
    (folder / ".mine").write_text("the user's")
    remove_leftovers(folder)
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*.part"))
    assert (folder / ".mine").exists()


NO_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ("transpose.runtime.checkpoint.read_bytes", OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        ("transpose.runtime.checkpoint.read_bytes", MemoryError(), "not enough memory"),
        ("torch.frombuffer", MemoryError(), "not enough memory"),
        ("torch.frombuffer", NO_MEMORY, "not enough memory"),
    ],
)
def test_a_disk_or_a_memory_that_fails_does_not_make_a_state_damaged(
    place: str, error: Exception, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(UserError, match=rf"checkpoint\.pth: cannot read the checkpoint \({says}\)") as caught:
        state_of(folder)
    assert not isinstance(caught.value, checkpoint.Damaged)
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pth", "checkpoint_previous.pth"}


def test_a_damaged_file_is_reported_with_the_librarys_error(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("404: Not Found\n")
    with pytest.raises(
        checkpoint.Damaged, match=r"no checkpoint at all \(ValueError: at position 0, opcode b'4' unknown\)$"
    ):
        checkpoint.read(tmp_path / "w.pth")


def test_weights_of_other_programs_without_checksum_are_read(tmp_path: Path) -> None:
    torch.save(STATE["state_dict"], tmp_path / "w.pth")
    assert torch.equal(checkpoint.read(tmp_path / "w.pth")["w"], torch.arange(12.0))


def test_a_state_of_version_0_1_with_random_generators_is_gone_on_from(make_run: Callable, tmp_path: Path) -> None:
    make_run().run()
    path = tmp_path / "checkpoint.pth"
    name, words, *rest = np.random.get_state()
    generators = {"python": random.getstate(), "numpy": (name, words.tolist(), *rest), "cuda": None}
    checkpoint.save(path, checkpoint.read(path) | {"generators": [generators | {"torch": torch.get_rng_state()}]})
    again = make_run("TRAIN.END_EPOCH", "2")
    again.resume(state_of(tmp_path))
    assert (again.epoch, again.step) == (1, again.plan.steps)
    again.run()
    state = checkpoint.read(path)
    assert (state["epoch"], state["step"]) == (2, 2 * again.plan.steps) and "generators" not in state


def test_the_saved_learning_rate_is_of_the_epoch_that_a_state_goes_on_with(make_run: Callable, tmp_path: Path) -> None:
    trainer = make_run("TRAIN.END_EPOCH", "2")
    trainer.run()
    rates = {}
    for name in ("checkpoint_previous.pth", "checkpoint.pth"):
        state = checkpoint.read(tmp_path / name)
        (group,) = state["optimizer"]["param_groups"]
        rates[state["epoch"]] = group["lr"]
    assert rates == {epoch: trainer.learning_rate(epoch) for epoch in (1, 2)} and rates[1] != rates[2]


def test_a_disk_that_fills_ends_tensorboards_file_with_one_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    died: list = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr(monitor, "open", lambda _, mode: open("/dev/full", mode), raising=False)  # noqa: SIM115
    writer = monitor.Monitor(tmp_path / "log", tmp_path, monitor.Pictures(), COCO, rgb=False)
    for step in range(100):  # far more than its queue holds
        writer.scalars("train", {"loss": 1.0, "lr": 0.1}, step)
    writer.close()
    assert [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()] == [
        f"{next(iter(caplog.records)).args[0]}: TensorBoard's file can no longer be written (No space left on device)"
    ]
    assert not died


CLAIMS = """
import os, sys, time; sys.path.insert(0, {tools!r})
from pathlib import Path
from transpose import cli
from transpose.runtime import lock
own = []
cli.run(lambda: own.append(lock.claim(Path({folder!r}), {regardless})))
print("claimed" if own[0] else "shared", flush=True)
{then}
time.sleep({seconds})
"""


def claiming(folder: Path, seconds: int, regardless: bool = False, then: str = "") -> subprocess.Popen:
    code = CLAIMS.format(
        tools=str(ROOT / "tools"), folder=str(folder), seconds=seconds, regardless=regardless, then=then
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen]:
    process = claiming(tmp_path, 600)
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_in_a_folder_is_refused_unless_told(owner: subprocess.Popen, tmp_path: Path) -> None:
    second = claiming(tmp_path, 0)
    _, error = second.communicate(timeout=600)
    assert second.returncode == 2 and error.count("\n") == 1
    assert f"process {owner.pid} on " in error and "TRAIN.IGNORE_LOCK True" in error and str(tmp_path) in error
    told = claiming(tmp_path, 0, regardless=True)
    assert told.communicate(timeout=600)[0] == "shared\n"


def test_a_process_that_shares_a_folder_keeps_the_owners_unfinished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / ".checkpoint.pth.abc.part"
    for own in (False, True):
        part.touch()
        monkeypatch.setattr(lock, "claim", lambda *_, own=own: own)
        claim_folder(tmp_path, regardless=True)
        assert part.exists() != own


def test_a_killed_run_leaves_its_folder_free_though_a_child_of_it_lives(tmp_path: Path) -> None:
    """A loading process is forked while its parent holds the lock, and may outlive it."""
    owner = claiming(tmp_path, 600, then="child = os.fork() or time.sleep(600)\nprint(child, flush=True)")
    assert owner.stdout.readline() == "claimed\n"
    child = int(owner.stdout.readline())
    try:
        assert claiming(tmp_path, 0).wait(timeout=600) == 2
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert claiming(tmp_path, 0).communicate(timeout=600)[0] == "claimed\n"
        os.kill(child, 0)  # it lives
    finally:
        owner.kill()
        os.kill(child, signal.SIGKILL)
        owner.communicate()


def test_a_killed_run_leaves_its_folder_free(owner: subprocess.Popen, tmp_path: Path) -> None:
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert claiming(tmp_path, 0).communicate(timeout=600)[0] == "claimed\n"


def test_a_folder_that_turns_read_only_keeps_its_states(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("root may write everywhere")
        with pytest.raises(UserError, match=r"checkpoint\.pth: cannot write \(Permission denied\)"):
            save(folder, 4)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)
