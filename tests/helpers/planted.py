"""An ONNX file in the form of a YOLOX whose outputs are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
# The centre x, y and the sides w, h in the network's pixels, the probability of an object, and those of its classes.
Planted = tuple[tuple[float, float], tuple[float, float], float, dict[int, float]]


def planted_yolox(path: Path, found: Sequence[Planted], size: int = 416) -> Path:
    """A network that finds these in every image; each is the output of the cell that contains its centre."""
    counts = [(size // stride) ** 2 for stride in STRIDES]
    cells, used = np.zeros((1, sum(counts), 85), np.float32), set()
    cells[..., 2:4] = -9  # tiny
    for (x, y), sides, objectness, classes in found:
        for stride, first in zip(STRIDES, np.cumsum([0, *counts]), strict=False):
            column, row = int(x // stride), int(y // stride)
            place = int(first) + row * (size // stride) + column
            if place not in used:
                break
        used.add(place)
        cells[0, place, :5] = x / stride - column, y / stride - row, *np.log(np.array(sides) / stride), objectness
        for number, probability in classes.items():
            cells[0, place, 5 + number] = probability
    # The constant, plus nothing of the image.
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["cells", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(cells.shape))],
        [numpy_helper.from_array(cells, "cells"), numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path)
    return path
