"""Networks of a few operations in the form of rembg's u2net, for its true code to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 320


def write_network(
    path: Path, probability: bool = True, gain: float = 4.0, level: float = 0.0, side: int = SIDE
) -> Path:
    """`path`: a network that takes the bright for the object: gain × (mean of the normalised channels - level), as logits.

    With `probability` a sigmoid follows, as in the true u2net.
    """
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "channels"),
        numpy_helper.from_array(np.array(level, np.float32), "level"),
        numpy_helper.from_array(np.array(gain, np.float32), "gain"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "channels"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["mean", "level"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["logits" if probability else "matte"]),
    ]
    if probability:
        nodes.append(helper.make_node("Sigmoid", ["logits"], ["matte"]))
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("matte", TensorProto.FLOAT, [1, 1, side, side])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
