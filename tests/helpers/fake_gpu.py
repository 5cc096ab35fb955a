"""A GPU that is not there: tensors without values on a fake device, and what makes the host wait for it.

PyTorch's FakeTensorMode computes shapes, types and devices alone, and refuses what needs a value (`.item()`). `Watched`
counts what makes the host wait for a GPU, and refuses operations on two devices, such as an index on the host.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VALUES = [f"aten.{name}.default" for name in ("_local_scalar_dense", "nonzero", "equal", "masked_select")]
COPIES = ("_to_copy", "to", "copy_")


def kinds(tree: Any) -> set[str]:
    """The kinds of device that the tensors of a tree are on; numbers in a tensor's shape count nowhere."""
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.dim()}


class Watched(TorchDispatchMode):
    """`waits` are the operations so far for which the host waits: values asked for, copies that block."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        came_from, name = kinds((arguments, named)), str(operation)
        if name in VALUES and came_from - {"cpu"}:
            self.waits.append(name)
        found = operation(*arguments, **named)
        places = came_from | kinds(found)
        if len(places) > 1 and name.split(".")[1] not in COPIES:
            raise RuntimeError(f"{name} uses tensors of {' and '.join(sorted(places))}")
        if len(places) > 1 and not (named.get("non_blocking") or any(value is True for value in arguments)):
            self.waits.append(f"copy to {found.device.type}")
        return found


@contextlib.contextmanager
def fake(device: str) -> Iterator[Watched]:
    """Within, tensors made on the `device` are fake; real ones of the host may be used beside them."""
    with FakeTensorMode(allow_non_fake_inputs=True), Watched() as watched:
        yield watched
