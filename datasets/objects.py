"""One object of captures or shards, whichever a path holds, behind one face: cameras, pictures, shape, record.

Nothing is read before it is asked for, so a set of a hundred thousand objects opens as fast as its list of names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import CaptureReader
from datasets.contents import contents
from datasets.shards import ShardSet
from turntable import framing
from turntable.geometry import Geometry


@dataclass(frozen=True)
class StoredObject:
    """An object's cameras and record, and how to read the rest of it."""

    uid: str
    record: dict[str, Any]
    """What is known of the object; see docs/formats.md."""
    view_records: list[dict[str, Any]]
    """What is known of each view: coverage and other checks. Empty where nothing is."""
    world_from_camera: np.ndarray
    """(V, 3, 4) float64, OpenGL axes, object units."""
    intrinsics: np.ndarray
    """(V, 4) float64, normalised."""
    sizes: list[int]
    """Sides at which pictures are stored, ascending, pixels."""
    rgba: Callable[[int, int], np.ndarray]
    """(view, size) -> (H, W, 4) uint8, straight alpha, sRGB; the longer side is `size` pixels."""
    depth: Callable[[int], np.ndarray] | None
    """View -> (S, S) float32 planar depth in object units, 0 where nothing is hit."""
    geometry: Callable[[], Geometry] | None
    """Surface points, normals and the solid."""


class Objects:
    """The objects of a capture, a folder of captures, a shard or a folder of shards, as one sequence."""

    def __init__(self, path: Path) -> None:
        kind, files = contents(path)
        self._captures = files if kind == "captures" else []
        self._shards = ShardSet(files) if kind == "shards" else None
        self.uids: list[str] = self._shards.uids if self._shards else [file.stem for file in files]
        """One an object; a capture's is its file's name until it is opened."""

    def __len__(self) -> int:
        return len(self.uids)

    def record(self, index: int) -> dict[str, Any]:
        """What is known of an object, without its pictures."""
        if self._shards:
            return self._shards.record(index)
        with CaptureReader(self._captures[index]) as capture:
            return capture.record

    def open(self, index: int) -> StoredObject:
        """An object. Everything that is wrong with it is a `UserError`, here or where a part of it is read."""
        return _of_shard(self._shards, index) if self._shards else _of_capture(self._captures[index])


def _of_shard(shards: ShardSet, index: int) -> StoredObject:
    reader, number = shards.place(index)
    record = reader.record(number)
    passes = {name for name, _ in reader.layout}
    poses, intrinsics = reader.cameras(number)
    views = record.get("views")
    return StoredObject(
        str(record["uid"]),
        record,
        views if isinstance(views, list) and len(views) == len(poses) else [{}] * len(poses),
        poses,
        intrinsics,
        reader.sizes,
        partial(reader.picture, number),
        partial(reader.depth, number) if "depth" in passes else None,
        partial(reader.geometry, number) if reader.has_geometry else None,
    )


def _of_capture(path: Path) -> StoredObject:
    """Each part opens the archive anew: a page that is left open holds no file, and threads share nothing."""

    def read(part: Callable[[CaptureReader], Any]) -> Any:
        with CaptureReader(path) as capture:
            return part(capture)

    with CaptureReader(path) as capture:
        return StoredObject(
            capture.uid,
            capture.record,
            capture.view_records,
            capture.world_from_camera,
            capture.intrinsics,
            [max(capture.width, capture.height)],
            lambda view, size: _shrunk(read(lambda c: c.picture("rgba", view)), size),
            (lambda view: read(lambda c: c.depth(view))) if "depth" in capture.passes else None,
            lambda: read(lambda c: c.geometry()),
        )


def _shrunk(rgba: np.ndarray, size: int) -> np.ndarray:
    height, width = rgba.shape[:2]
    scale = size / max(height, width)
    return framing.resize(rgba, max(round(width * scale), 1), max(round(height * scale), 1))
