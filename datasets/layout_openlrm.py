"""OpenLRM's folders, as its `ObjaverseDataset` reads them (3DTopia/OpenLRM, openlrm/datasets/objaverse.py and base.py).

    <out>/uids.json              JSON list of uids; its configuration's `meta_path` names such a list
    <out>/<uid>/rgba/000.png     8-bit RGBA, straight alpha
    <out>/<uid>/pose/000.npy     (3, 4) float64: world_from_camera, OpenGL axes, world +z up, object's centre at the origin
    <out>/<uid>/intrinsics.npy   (3, 2) float64: [[fx, fy], [cx, cy], [width, height]] in pixels, of all views
    <out>/<uid>/turntable.json   what we know of the object; OpenLRM does not look at it

Pixel centres are at +0.5, as ours. There is one set of intrinsics for an object: where ours differ from view to view the
pictures are taken again (`datasets.single_camera`). Depth and normals go along, in folders of their own that OpenLRM does
not look at, where nothing was taken again and their size is the pictures'.
"""

from __future__ import annotations

import numpy as np

from datasets import single_camera
from datasets.exported import Exported, Files, Unexportable, json_bytes, npy_bytes
from datasets.pictures import encode_png
from turntable import cameras

EXPECTED_VIEWS = 32
"""OpenLRM draws its views from the first 32 unless its `num_all_views` says otherwise, and fails over an object with fewer."""


def openlrm(item: Exported) -> Files:
    """An object's folder."""
    poses, intrinsics = item.cameras
    size = item.size
    if single_camera.one_lens(intrinsics):
        lens, retaken = intrinsics[0], False
        pictures = {f"rgba/{view:03d}.png": encode_png(item.rgba(view)) for view in range(item.views)}
    else:
        shared = _shared(item)
        poses, lens, retaken = shared.world_from_camera, shared.intrinsics, True
        largest = max(item.reader.sizes)
        pictures = {
            f"rgba/{view:03d}.png": encode_png(single_camera.take(item.rgba(view, largest), seen, size))
            for view, seen in enumerate(shared.old_from_new)
        }
    files = {
        "intrinsics.npy": npy_bytes(intrinsics_table(lens, size)),
        "turntable.json": json_bytes(item.description(retaken=retaken, pictures_size=size)),
    }
    files |= {f"pose/{view:03d}.npy": npy_bytes(pose) for view, pose in enumerate(poses)}
    kept = [] if retaken else [name for name, side in item.stored_passes().items() if side == size]
    files |= {f"{name}/{view:03d}.png": item.encoded(name, view) for name in kept for view in range(item.views)}
    return {**pictures, **files}


def _shared(item: Exported) -> single_camera.SharedLens:
    try:
        return single_camera.share_lens(*item.cameras, item.reader.matte_boxes(item.number))
    except ValueError as error:
        raise Unexportable(
            "no-single-camera",
            f"{item.uid}: OpenLRM's layout has one lens an object, and these views share none: {error}",
        ) from error


def intrinsics_table(lens: np.ndarray, size: int) -> np.ndarray:
    """(4,) normalised -> (3, 2) as OpenLRM reads it, pixels."""
    fx, fy, cx, cy = cameras.pixel_intrinsics(lens, size, size)
    return np.array([[fx, fy], [cx, cy], [size, size]], dtype=np.float64)
