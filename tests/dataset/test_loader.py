"""A loading process that is killed: one sentence, wherever the death is noticed, and an end without waiting."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.goldens import HEATMAP, IMAGES, INPUT, ROOT, sample_instances
from torch.utils.data import DataLoader, dataloader
from torch.utils.data._utils import signal_handling

from transpose import cli
from transpose.dataset.coco import Instances, select
from transpose.dataset.images import ImageReader
from transpose.dataset.loader import Loader
from transpose.dataset.samplers import EvalSampler, TrainSampler
from transpose.dataset.topdown import Augmentation, TopDownDataset
from transpose.errors import UserError
from transpose.pose.skeleton import COCO

PARENT = os.getpid()


@pytest.fixture(autouse=True)
def dead_processes_are_forgotten() -> Iterator[None]:
    """PyTorch's handler raises for a loader's dead, at the end of any process, until the loader is gone."""
    yield
    gc.collect()


class Fatal(ImageReader):
    """Kills the process that reads one of its images, `after` seconds."""

    def __init__(self, name: str, by: signal.Signals, after: float = 0):
        super().__init__(IMAGES)
        self.name, self.by, self.after = name, by, after

    def read(self, name: str, owner: str) -> np.ndarray:
        assert os.getpid() != PARENT
        if name == self.name:
            time.sleep(self.after)
            os.kill(os.getpid(), self.by)
        return super().read(name, owner)


def crops_with(reader: ImageReader, people: Instances | None = None, **options) -> TopDownDataset:
    return TopDownDataset(people or sample_instances(), reader, COCO, INPUT, HEATMAP, **options)


def batches_of(crops: TopDownDataset, kind: str) -> TrainSampler | EvalSampler:
    if kind == "training":
        return TrainSampler(len(crops), 4, 1, seed=3)
    return EvalSampler(crops.instances.image, 4)


def said_by(batches: Callable[[], object], capsys: pytest.CaptureFixture) -> str:
    """What a command that loads these batches prints before it exits with 2."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: (batches(), time.sleep(600)))  # a death is noticed here at the latest
    assert ended.value.code == 2
    signal_handling._SIGCHLD_handler_set = False  # the command gave the handler up, as a process that ends may
    return capsys.readouterr().err


SAYS = r"^error: DataLoader worker \(pid(\(s\))? [\d, ]+\) .*: lower WORKERS or DATASET\.CACHE_MB\n$"


@pytest.mark.parametrize(("kind", "by"), [("training", signal.SIGKILL), ("evaluation", signal.SIGSEGV)])
def test_a_killed_process_is_one_sentence(kind: str, by: signal.Signals, capsys: pytest.CaptureFixture):
    people = sample_instances()
    name = str(people.images.names[people.image[60]])
    crops = crops_with(Fatal(name, by), augmentation=Augmentation() if kind == "training" else None)
    loader = Loader(crops, batch_sampler=batches_of(crops, kind), num_workers=2)
    assert re.match(SAYS, said_by(lambda: list(loader), capsys))


def test_a_death_between_two_batches_is_also_reported(capsys: pytest.CaptureFixture):
    people = sample_instances()
    order = EvalSampler(people.image, 1).order
    name = str(people.images.names[people.image[order[5]]])
    crops = crops_with(Fatal(name, signal.SIGKILL, after=1))
    loader = iter(Loader(crops, batch_sampler=EvalSampler(people.image, 1), num_workers=1, prefetch_factor=50))
    assert re.match(SAYS, said_by(lambda: next(loader), capsys))


def test_a_death_before_anything_is_read(capsys: pytest.CaptureFixture):
    crops = crops_with(ImageReader(IMAGES))
    loader = Loader(crops, batch_sampler=batches_of(crops, "evaluation"), num_workers=1, worker_init_fn=die)
    assert re.match(SAYS, said_by(lambda: list(loader), capsys))


def die(worker: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_connection_that_breaks_before_the_death_is_noticed(capsys: pytest.CaptureFixture, monkeypatch):
    def broken(self: object, timeout: float = 0) -> None:
        raise EOFError

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_try_get_data", broken)
    crops = crops_with(ImageReader(IMAGES))
    loader = Loader(crops, batch_sampler=batches_of(crops, "evaluation"), num_workers=1, worker_init_fn=die_later)
    assert re.match(SAYS, said_by(lambda: list(loader), capsys))


def die_later(worker: int) -> None:
    time.sleep(1)
    die(worker)


def test_batches_are_the_data_loaders_and_an_error_stays_one(tmp_path: Path):
    people = sample_instances()
    crops = crops_with(ImageReader(IMAGES), people=select(people, np.arange(len(people)) < 12))
    for workers in (0, 2):
        loaders = [
            kind(crops, batch_sampler=batches_of(crops, "evaluation"), num_workers=workers)
            for kind in (Loader, DataLoader)
        ]
        for one, other in zip(*loaders, strict=True):
            assert all((one[key] == other[key]).all() for key in other)
    missing = crops_with(ImageReader(tmp_path))
    with pytest.raises(UserError, match=r"\.jpg \(person \d+\): cannot read the image \(No such file"):
        next(iter(Loader(missing, batch_sampler=batches_of(missing, "training"), num_workers=1)))


@pytest.mark.parametrize("kind, most", [(Loader, 20), (DataLoader, None)])
def test_batches_that_are_kept_keep_no_file_open(kind: type[DataLoader], most: int | None):
    """A test of COCO keeps the indices of thousands of batches; PyTorch's own loader shows what would happen."""
    crops = crops_with(ImageReader(IMAGES))
    batches = kind(crops, batch_sampler=EvalSampler(crops.instances.image, 1), num_workers=1)
    before = len(os.listdir("/proc/self/fd"))
    kept = [batch["index"] for batch in batches]
    opened = len(os.listdir("/proc/self/fd")) - before
    assert len(kept) == 105
    assert opened < most if most else opened > 100


ENDS = """
import sys
from helpers.goldens import sample_crops
from transpose.dataset.loader import Loader
from transpose.dataset.samplers import TrainSampler
from transpose.runtime.signals import leave_to_parent
crops = sample_crops()
options = {"worker_init_fn": leave_to_parent, "persistent_workers": True}
batches = iter(Loader(crops, batch_sampler=TrainSampler(len(crops), 4, 1, seed=3), num_workers=2, **options))
next(batches)
sys.exit(7)
"""


def test_processes_that_leave_signals_to_their_parent_end_with_it():
    path = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", ENDS], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (7, "")  # else it waits for ever
