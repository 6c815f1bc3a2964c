"""Networks of a few operations in the form of rembg's u2net, for its true code to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 320


def write_network(
    path: Path,
    probability: bool = True,
    gain: float = 4.0,
    level: float = 0.0,
    side: int = SIDE,
    fails_above: float | None = None,
) -> Path:
    """`path`: a network that takes the bright for the object: gain × (mean of the normalised channels - level), as logits.

    With `probability` a sigmoid follows, as in the true u2net. Of a picture whose mean is above `fails_above` it takes an
    element from beyond a table's end, which ends in an error.
    """
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "channels"),
        numpy_helper.from_array(np.array(level, np.float32), "level"),
        numpy_helper.from_array(np.array(np.inf if fails_above is None else fails_above, np.float32), "most"),
        numpy_helper.from_array(np.array([gain], np.float32), "table"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["whole"], keepdims=0),
        helper.make_node("Greater", ["whole", "most"], ["too_bright"]),
        helper.make_node("Cast", ["too_bright"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["gain"]),
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


def write_sam(folder: Path) -> None:
    """Segment Anything's two networks, as rembg names and calls them; this one takes all that is in the box for the object."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = 684, 1024
    value = helper.make_tensor_value_info
    encoder = helper.make_graph(
        [helper.make_node("ReduceMean", ["picture"], ["embedding"], keepdims=1)],
        "encoder",
        [value("picture", TensorProto.FLOAT, [height, width, 3])],
        [value("embedding", TensorProto.FLOAT, [1, 1, 1])],
    )
    across = np.arange(width, dtype=np.float32)[None, None, None, :] + 0 * np.ones((1, 1, height, 1), np.float32)
    down = np.arange(height, dtype=np.float32)[None, None, :, None] + 0 * np.ones((1, 1, 1, width), np.float32)
    constants = [
        numpy_helper.from_array(across, "across"),
        numpy_helper.from_array(down, "down"),
        numpy_helper.from_array(np.array(20, np.float32), "sure"),
        numpy_helper.from_array(np.array(10, np.float32), "half"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
    ]
    nodes = []
    for corner in (0, 1):
        for axis in (0, 1):
            name = f"{'xy'[axis]}{corner}"
            constants.append(numpy_helper.from_array(np.array([0, corner, axis], np.int64), f"at_{name}"))
            nodes.append(helper.make_node("GatherND", ["point_coords", f"at_{name}"], [name]))
    for test, left, right in (("a", "across", "x0"), ("b", "down", "y0"), ("c", "x1", "across"), ("d", "y1", "down")):
        nodes.append(helper.make_node("GreaterOrEqual", [left, right], [test]))
    nodes += [
        helper.make_node("And", ["a", "b"], ["ab"]),
        helper.make_node("And", ["c", "d"], ["cd"]),
        helper.make_node("And", ["ab", "cd"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "sure"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "half"], ["masks"]),
        helper.make_node("ReduceMean", ["masks"], ["iou_predictions"], keepdims=1),
        helper.make_node("ReduceMean", ["image_embeddings"], ["low_res_masks"], keepdims=1),
    ]
    inputs: dict[str, list[int | None]] = {
        "image_embeddings": [1, 1, 1],
        "point_coords": [1, None, 2],
        "point_labels": [1, None],
        "mask_input": [1, 1, 256, 256],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    decoder = helper.make_graph(
        nodes,
        "decoder",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            value("masks", TensorProto.FLOAT, [1, 1, height, width]),
            value("iou_predictions", TensorProto.FLOAT, None),
            value("low_res_masks", TensorProto.FLOAT, None),
        ],
        constants,
    )
    for name, graph in (("encoder", encoder), ("decoder", decoder)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (folder / f"sam_vit_b_01ec64.{name}.onnx").write_bytes(model.SerializeToString())
