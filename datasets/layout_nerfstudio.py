"""Folders with a transforms.json, as nerfstudio and instant-ngp read them, and as an unzipped capture is one.

    <out>/<uid>/transforms.json
    <out>/<uid>/rgba/000.png       8-bit RGBA, straight alpha
    <out>/<uid>/depth/000.png      16-bit, planar z = value × integer_depth_scale, 0 where nothing is hit
    <out>/<uid>/normal/000.png     8-bit, world frame, value / 127.5 - 1
    <out>/<uid>/points.ply         surface points and their normals, for methods that begin from points
    <out>/<uid>/geometry.npz       the same with the solid, as in a capture

nerfstudio takes `fl_x` and the like from the top of the file for *all* frames wherever they stand there, whatever a frame
says: they stand there only when all frames agree. `orientation_override` asks it to leave the axes as they are; by its
defaults it still centres and scales the cameras.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets.captures import geometry_npz, shared_lens
from datasets.exported import Exported, Files, json_bytes
from datasets.pictures import encode_png
from turntable import cameras
from turntable.geometry import Geometry


def nerfstudio(item: Exported) -> Files:
    """An object's folder."""
    passes = item.stored_passes()
    files = {f"rgba/{view:03d}.png": encode_png(item.rgba(view)) for view in range(item.views)}
    files |= {f"{name}/{view:03d}.png": item.encoded(name, view) for name in passes for view in range(item.views)}
    shape = item.geometry()
    if shape is not None:
        files |= {"points.ply": ply_bytes(shape), "geometry.npz": geometry_npz(shape)}
    return {"transforms.json": json_bytes(_transforms(item, passes, shape is not None)), **files}


def _transforms(item: Exported, passes: dict[str, int], points: bool) -> dict[str, Any]:
    frames = [_frame(item, view, passes) for view in range(item.views)]
    scale = {"integer_depth_scale": item.record["depth_scale"]} if "depth" in passes else {}
    return {
        "camera_model": "OPENCV",
        **shared_lens(frames),
        **scale,
        **({"ply_file_path": "points.ply"} if points else {}),
        # The field's box. instant-ngp maps it onto its unit cube.
        "aabb": [[-1, -1, -1], [1, 1, 1]],
        "aabb_scale": 1,
        "orientation_override": "none",
        "frames": frames,
        "turntable": item.description(),
    }


def _frame(item: Exported, view: int, passes: dict[str, int]) -> dict[str, Any]:
    poses, intrinsics = item.cameras
    size = item.size
    fl_x, fl_y, cx, cy = cameras.pixel_intrinsics(intrinsics[view], size, size).tolist()
    frame = {"file_path": f"rgba/{view:03d}.png", "fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy, "w": size, "h": size}
    frame |= {f"{name}_file_path": f"{name}/{view:03d}.png" for name in passes}
    if passes.get("depth") == size:
        # instant-ngp's name. It stops at a depth picture of another size; nerfstudio resizes it.
        frame["depth_path"] = f"depth/{view:03d}.png"
    return {**frame, "transform_matrix": cameras.homogeneous(poses[view]).tolist()}


def ply_bytes(shape: Geometry) -> bytes:
    """Points and normals as a binary little-endian PLY."""
    header = "\n".join(
        ["ply", "format binary_little_endian 1.0", f"element vertex {len(shape.points)}"]
        + [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
        + ["end_header", ""]
    )
    return header.encode("ascii") + np.concatenate([shape.points, shape.normals], axis=1).astype("<f4").tobytes()
