"""The random generators of a process, as values that a checkpoint may hold, and back.

Nothing in this package draws from them while it trains: every draw is a function of the seed, the epoch and the
sample or step. They are kept for randomness that a user adds.
"""

import random
from typing import Any

import numpy as np
import torch


def states() -> dict[str, Any]:
    """The state of Python's, NumPy's, torch's and, where CUDA is in use, the current GPU's generator."""
    drawn: Any = np.random.get_state()  # name, words, position, and half of a pair of normal numbers
    return {
        "python": random.getstate(),
        "numpy": (drawn[0], drawn[1].tolist(), *drawn[2:]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
