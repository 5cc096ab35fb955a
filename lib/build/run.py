"""The configuration -> a run: its folders, PyTorch's switches, the state to resume from, and its trainer."""

import os
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from yacs.config import CfgNode

from ..config.changes import as_dict, config_changes
from ..engine.monitor import Monitor, Pictures
from ..engine.resume import claim_folder, saved_state
from ..engine.trainer import Trainer
from ..errors import needs
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime import distributed
from ..runtime.files import make_writable, write_text
from .data import build_training_data, data_sums, shared_skeleton
from .evaluation import build_evaluation
from .model import CONFIG_FILE, SKELETON_FILE, build_model, check_start_weights, freeze_parameters, load_start_weights
from .optim import build_criterion, build_learning_rate, build_optimizer, build_targets, build_train_options

SUMS = "sums"  # key of the data files' checksums in a training state


def _run_place(cfg: CfgNode) -> Path:
    """<dataset>/<model name>, or <category>/<model name> for a category other than person."""
    hybrid, category = cfg.DATASET.HYBRID_JOINTS_TYPE, cfg.DATASET.CATEGORY
    place = cfg.DATASET.DATASET
    if category not in ("", Skeleton.category):
        place = re.sub(r"\W+", "_", category)
    return Path(f"{place}_{hybrid}" if hybrid else place) / cfg.MODEL.NAME


def run_folder(cfg: CfgNode, name: str) -> Path:
    """output/<dataset or category>/<model name>/<name>, made if missing. Raises UserError if it cannot be written."""
    folder = Path(cfg.OUTPUT_DIR) / _run_place(cfg) / name
    make_writable(folder, "--model-dir")
    return folder


def log_folder(cfg: CfgNode, name: str, stamp: str) -> Path:
    """log/<dataset or category>/<model name>/<name>_<time>"""
    return Path(cfg.LOG_DIR) / _run_place(cfg) / f"{name}_{stamp}"


def set_backends(cfg: CfgNode, deterministic: bool = False) -> None:
    """Set PyTorch's global switches, and the seed of the random initialisation and of a user's own code.

    With `deterministic`, an operation without bit-identical results raises RuntimeError.
    """
    torch.backends.cudnn.benchmark = cfg.CUDNN.BENCHMARK
    torch.backends.cudnn.deterministic = cfg.CUDNN.DETERMINISTIC
    torch.backends.cudnn.enabled = cfg.CUDNN.ENABLED
    torch.backends.cudnn.allow_tf32 = cfg.CUDNN.TF32
    torch.backends.cuda.matmul.allow_tf32 = cfg.CUDNN.TF32_MATMUL
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS needs it
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    random.seed(cfg.SEED)
    np.random.seed(cfg.SEED % 2**32)
    torch.manual_seed(cfg.SEED)


def read_state(cfg: CfgNode, folder: Path) -> dict[str, Any] | None:
    """Claim the run's folder, and read the state to resume from (None for a new run).

    Raises UserError as `claim_folder` and `saved_state` do.
    """
    claim_folder(folder, cfg.TRAIN.IGNORE_LOCK)
    return saved_state(folder, cfg.AUTO_RESUME, partial(_changes, cfg=cfg), cfg.TRAIN.RESUME_CHANGED)


def _changes(old: dict[str, Any], cfg: CfgNode) -> list[str]:
    """The differences of the configuration, and of the files that it names, from a training state's."""
    sums = old.pop(SUMS, {})  # older states have none
    files = [f"the file of {key}" for key, value in data_sums(cfg).items() if sums.get(key, value) != value]
    return config_changes(old, cfg) + files


def build_trainer(
    cfg: CfgNode,
    name: str,
    folder: Path,
    device: torch.device,
    saved: dict[str, Any] | None = None,
    logs: Path | None = None,
) -> Trainer:
    """The trainer of a run, new or resumed from a `saved` state.

    The first process describes the run in `folder`, and writes TensorBoard's files into `logs` if that is given.
    """
    options = build_train_options(cfg, device)
    model = build_model(cfg)
    if saved is None:
        check_start_weights(cfg)
    loader, plan = build_training_data(cfg)
    evaluation = build_evaluation(cfg, device)
    skeleton = shared_skeleton(loader, evaluation)
    if saved is None:
        load_start_weights(cfg, model, skeleton)
    freeze_parameters(cfg, model)
    model.to(device)
    if cfg.TRAIN.COMPILE:
        model.compile()
    first = distributed.rank() == 0
    if first:
        describe_run(cfg, skeleton, folder)
    trainer = Trainer(
        name=name,
        folder=folder,
        config=as_dict(cfg) | {SUMS: data_sums(cfg)},
        model=model,
        loader=loader,
        plan=plan,
        targets=build_targets(cfg, skeleton, device),
        criterion=build_criterion(cfg),
        optimizer=build_optimizer(cfg, model),
        learning_rate=build_learning_rate(cfg),
        evaluation=evaluation,
        monitor=_build_monitor(cfg, skeleton, logs if first else None, folder),
        device=device,
        options=options,
        epoch=cfg.TRAIN.BEGIN_EPOCH,
    )
    if saved is not None:
        trainer.resume(saved)
    return trainer


def _build_monitor(cfg: CfgNode, skeleton: Skeleton, logs: Path | None, folder: Path) -> Monitor:
    """TensorBoard in `logs`, and the pictures that DEBUG asks for in `folder`/pictures."""
    debug, wanted = cfg.DEBUG, Pictures()
    if debug.DEBUG:
        wanted = Pictures(
            images_gt=debug.SAVE_BATCH_IMAGES_GT,
            images_pred=debug.SAVE_BATCH_IMAGES_PRED,
            heatmaps_gt=debug.SAVE_HEATMAPS_GT,
            heatmaps_pred=debug.SAVE_HEATMAPS_PRED,
            attention=debug.SAVE_ATTENTION,
        )
    if logs:
        make_writable(logs, "--log-dir")
        if wanted.attention:
            needs("matplotlib", extra="explain")
    return Monitor(logs, folder / "pictures", wanted, skeleton, cfg.DATASET.COLOR_RGB)


def describe_run(cfg: CfgNode, skeleton: Skeleton, folder: Path) -> None:
    """Write the complete configuration and the skeleton beside a run's weights."""
    keypoints = yaml.safe_dump(skeletons.to_mapping(skeleton), sort_keys=False)
    write_text(folder / CONFIG_FILE, cfg.dump())
    write_text(folder / SKELETON_FILE, keypoints)
