"""Tars as webdataset reads them: one sample an object, its key the uid.

    <uid>.json                      what is known of the object
    <uid>.world_from_camera.npy     (V, 3, 4) float64, OpenGL axes, object units
    <uid>.intrinsics.npy            (V, 4) float64, normalised
    <uid>.matte_box.npy             (V, 4) float32
    <uid>.points.npy …              points (N, 3), normals (N, 3) float32, solid (262144,) uint8, bit-packed
    <uid>.000.png …                 8-bit RGBA, straight alpha
    <uid>.000.normal.png …          8-bit
    <uid>.000.depth.png16 …         16-bit PNG

A sample is an object because a training step wants several views of one. Depth has a name of its own since webdataset's
decoder for pictures would make eight bits of it without a word.
"""

from __future__ import annotations

from datasets.exported import Exported, Files, Unexportable, json_bytes, npy_bytes
from datasets.pictures import encode_png
from turntable.geometry import pack_solid

_SUFFIX = {"depth": "depth.png16", "normal": "normal.png"}


def webdataset(item: Exported) -> Files:
    """An object's entries, named without the key."""
    if "." in item.uid:
        raise Unexportable("bad-uid", f"{item.uid}: webdataset ends a key at its first dot; left out")
    poses, intrinsics = item.cameras
    files = {
        "json": json_bytes(item.description(pictures_size=item.size)),
        "world_from_camera.npy": npy_bytes(poses),
        "intrinsics.npy": npy_bytes(intrinsics),
        "matte_box.npy": npy_bytes(item.reader.matte_boxes(item.number)),
    }
    shape = item.geometry()
    if shape is not None:
        arrays = {"points": shape.points, "normals": shape.normals, "solid": pack_solid(shape.solid)}
        files |= {f"{name}.npy": npy_bytes(array) for name, array in arrays.items()}
    for view in range(item.views):
        files[f"{view:03d}.png"] = encode_png(item.rgba(view))
        files |= {
            f"{view:03d}.{_SUFFIX.get(name, f'{name}.png')}": item.encoded(name, view) for name in item.stored_passes()
        }
    return files
