"""A small run, built and not begun."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import DEMO, SMALL

from transpose.build.run import build_trainer, set_backends
from transpose.config.load import load_config
from transpose.engine.trainer import Trainer


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Trainer]:
    def make(*overrides: str) -> Trainer:
        cfg = load_config(DEMO, [*SMALL, "TRAIN.END_EPOCH", "1", *overrides], output_dir=str(tmp_path))
        set_backends(cfg)
        trainer = build_trainer(cfg, "small", tmp_path, torch.device("cpu"))
        trainer.options = replace(trainer.options, validate_every=9)
        return trainer

    return make
