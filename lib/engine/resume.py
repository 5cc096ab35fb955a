"""A run's folder: its lock, and the training state to resume from."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from torch import Tensor

from ..errors import UserError
from ..runtime import checkpoint, distributed, lock
from ..runtime.files import remove_leftovers, root_cause

logger = logging.getLogger(__name__)

CHECKPOINT, BEST, FINAL = "checkpoint.pth", "model_best.pth", "final_state.pth"
PREVIOUS, SET_ASIDE = "checkpoint_previous.pth", "checkpoint_damaged.pth"
Count = Annotated[int, msgspec.Meta(ge=0)]


class OptimizerState(TypedDict):
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class State(TypedDict):
    """A training state. Version 0.1 did not save the NotRequired fields."""

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    optimizer: OptimizerState
    epoch: Count
    step: Count
    best: dict[str, int | float]
    epoch_step: NotRequired[Count]
    epoch_steps: NotRequired[Count]
    skipped: NotRequired[Count]
    best_seal: NotRequired[str]
    scaler: NotRequired[dict[str, Any]]
    averaged: NotRequired[dict[str, Tensor]]


def claim_folder(folder: Path, regardless: bool) -> None:
    """Lock the run's folder in the first process. Raises UserError if another run has it, unless `regardless`."""
    if distributed.rank() == 0 and lock.claim(folder, regardless):
        remove_leftovers(folder)


def saved_state(
    folder: Path, resume: bool, changes: Callable[[dict], list[str]], accept_changes: bool
) -> dict[str, Any] | None:
    """The training state to resume from in this folder; None for a new run.

    `changes(config)` lists how the configuration differs from the saved one. Raises UserError if the folder is in use
    and resuming is off, if the file is not a training state, if changes were not accepted, and if the processes do not
    see the same file.
    """
    used = [name for name in (CHECKPOINT, PREVIOUS, BEST, FINAL) if (folder / name).exists()]
    if used and not resume:
        raise UserError(
            f"{folder} contains a run already ({', '.join(used)}): continue it with AUTO_RESUME True, "
            "choose another folder with --model-dir, or move it away"
        )
    if used and not {CHECKPOINT, PREVIOUS} & set(used):
        raise UserError(
            f"{folder} contains weights ({', '.join(used)}) but no {CHECKPOINT} to resume from: move them away, "
            "or choose another folder with --model-dir"
        )
    path, saved = _newest_whole(folder) if used else (folder / CHECKPOINT, None)
    states = distributed.gather(saved and [saved.get(name) for name in ("epoch", "step")])
    if any(state != states[0] for state in states):
        raise UserError(f"{folder}: the processes read different states; all of them must use the same folder")
    if saved is None:
        return None
    try:
        saved = dict(msgspec.convert(saved, State))
        if len(saved["best"]) != 2 or "epoch" not in saved["best"]:
            raise ValueError("`best` must hold a metric and its epoch")
        changed = changes(saved["config"])
    except Exception as error:
        raise UserError(
            f"{path}: not a training state of this program ({root_cause(error)}); move it away to start again"
        ) from None
    if changed and not accept_changes:
        raise UserError(
            f"{path} was trained with another configuration ({'; '.join(changed)}): set it back, "
            "or continue anyway with TRAIN.RESUME_CHANGED True"
        )
    if changed:
        logger.info("resuming with a changed configuration: %s", "; ".join(changed))
    if path.name == PREVIOUS and distributed.rank() == 0 and (folder / CHECKPOINT).exists():
        # Removed, or it would replace the good one when the next state is saved.
        (folder / CHECKPOINT).replace(folder / SET_ASIDE)
    return saved


def _newest_whole(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The last training state, or the one before if that is damaged or missing; and its path."""
    newest, previous = folder / CHECKPOINT, folder / PREVIOUS
    trouble = f"{newest} is missing"
    if newest.exists():
        try:
            return newest, checkpoint.read(newest, sealed=True)
        except checkpoint.Damaged as error:
            if not previous.exists():
                raise
            trouble = str(error)
    try:
        saved = checkpoint.read(previous, sealed=True)
    except checkpoint.Damaged as error:
        raise UserError(
            f"{trouble}; {error}: no state is left to resume from; put a copy in their place, or move {folder} away"
        ) from None
    logger.warning("%s: resuming from the state before it, %s", trouble, previous)
    return previous, saved


def describe_best(best: dict[str, Any]) -> str:
    """The `best` of a training state, for the log."""
    (metric,) = best.keys() - {"epoch"}
    return f"best {metric} {best[metric]:.4f}"
