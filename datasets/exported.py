"""One object of a shard, as the layouts of `datasets.export` are given it, and what a layout makes of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from datasets.shards import ShardReader
from turntable.errors import UserError
from turntable.geometry import Geometry

FORMAT = "turntable-export"
FORMAT_VERSION = 1
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""Uids that name a folder or a tar's entry as they are, on every file system."""

Files = dict[str, bytes]
"""Name below the object's folder -> content."""


class Unexportable(UserError):
    """An object that a layout cannot hold; `reason` is its short name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Exported:
    """An object on its way out."""

    reader: ShardReader
    number: int
    """Of the object in its shard."""
    wanted_size: int | None
    """Side of the pictures in pixels; None: the largest that is stored."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the shard knows of the object."""
        return self.reader.record(self.number)

    @property
    def stated_uid(self) -> str:
        """The object's name as the shard has it."""
        return str(self.record["uid"])

    @property
    def uid(self) -> str:
        """The object's name; raises Unexportable when it cannot be a file's."""
        uid = self.stated_uid
        if not _SAFE_NAME.fullmatch(uid):
            raise Unexportable("bad-uid", f"{self.reader.path}: the uid {uid!r} cannot name a folder; left out")
        return uid

    @cached_property
    def cameras(self) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera (V, 3, 4) and normalised intrinsics (V, 4)."""
        return self.reader.cameras(self.number)

    @property
    def views(self) -> int:
        """How many there are."""
        return self.reader.view_count(self.number)

    @property
    def size(self) -> int:
        """Side of the exported pictures, pixels; raises Unexportable when nothing as large is stored."""
        largest = max(self.reader.sizes)
        if self.wanted_size is not None and self.wanted_size > largest:
            raise Unexportable(
                "too-small",
                f"{self.reader.path}: {self.uid} has pictures of {largest} pixels, --size {self.wanted_size} was asked for; "
                "nothing is enlarged here (preprocess with --upscale)",
            )
        return self.wanted_size or largest

    def rgba(self, view: int, size: int | None = None) -> np.ndarray:
        """(S, S, 4) uint8 straight alpha, sRGB, of the exported size unless another is named."""
        return self.reader.picture(self.number, view, size or self.size)

    def stored_passes(self) -> dict[str, int]:
        """Pass beside rgba -> the side of its pictures, pixels."""
        return {name: size for name, size in self.reader.layout if name != "rgba"}

    def encoded(self, name: str, view: int) -> bytes:
        """The stored PNG of a pass beside rgba, byte for byte."""
        return self.reader.encoded(name, self.stored_passes()[name], self.number, view).tobytes()

    def geometry(self) -> Geometry | None:
        """Surface points, normals and the solid, where the shard has them."""
        return self.reader.geometry(self.number) if self.reader.has_geometry else None

    def description(self, **more: Any) -> dict[str, Any]:
        """What travels with the export beside pictures and cameras: the object's record, whole, and what is said of the export."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, "uid": self.uid, **more, "record": self.record}


Layout = Callable[[Exported], Files]
"""What an object's files are in some format. Pure: reads the shard, writes nothing."""


def json_bytes(value: Any) -> bytes:
    """A JSON document with a final newline; NaN and infinity are refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def npy_bytes(array: np.ndarray) -> bytes:
    """NumPy's .npy format, version 1."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
