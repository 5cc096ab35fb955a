"""Convert weights: python tools/convert.py IN OUT, each a .pth or a .safetensors

From a training state only the plain weights are written. Nothing in IN is executed, and no file is overwritten.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

ENDINGS = (".pth", ".safetensors")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert weights from .pth to .safetensors, or back.")
    parser.add_argument("source", type=Path, metavar="IN", help="weights or a training state")
    parser.add_argument("target", type=Path, metavar="OUT", help="file to write, .pth or .safetensors")
    arguments = parser.parse_args(argv)
    source, target = arguments.source, arguments.target
    if target.suffix not in ENDINGS:
        raise UserError(f"{target}: the name must end in {' or '.join(ENDINGS)}, which chooses the format")
    if target.exists():
        raise UserError(f"{target}: exists already; choose another name, or move it away")

    from ..models import weights
    from ..runtime import checkpoint

    content = checkpoint.read(source)
    state = weights.unwrap(content, str(source))
    if not state:
        raise UserError(f"{source}: the file contains no named tensors, so there are no weights to convert")
    checkpoint.save(target, state)
    others = 0 if {"state_dict", "best_state_dict"} & set(content) else len(content) - len(state)
    left_out = f"; left out: {others} that are no named tensors" * bool(others)
    print(f"{target}: {len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers{left_out}")
