"""Opening a shard: its user block and its tables, each checked; see `datasets.shards` for the format.

Whatever is found here is a promise to the reader: tables that fit their checksums, offsets that fit their data.
"""

from __future__ import annotations

import functools
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from datasets.pictures import MAX_PICTURE_SIDE
from datasets.storage import HEADER, BlockCache, Content, ContentFile, Remote, ShardError, open_content
from turntable.files import is_local

FORMAT = "turntable-shard"
FORMAT_VERSION = 1
USER_BLOCK = HEADER
MAGIC = "TURNTABLE-SHARD"
CONVENTION = (
    "world_from_camera 3x4, OpenGL axes (x right, y up, looking along -z), right-handed world, +z up, object units "
    "(bounding sphere of radius 1); intrinsics fx fy cx cy over width height width height, pixel centres at +0.5; "
    "depth planar, 0 where nothing is hit; normals in the world frame"
)
COLOUR = "sRGB, straight alpha"
GEOMETRY_PARTS = ("points", "normals", "solid")
BULK = {"data", *GEOMETRY_PARTS}
"""Last part of the names of datasets that are checked piece by piece when read, not when the shard is opened."""


@dataclass(frozen=True)
class Blobs:
    """Variable-length pieces of one contiguous dataset."""

    start: int
    """Byte of the file at which the dataset's data begin."""
    offsets: np.ndarray
    """(n + 1,) uint64 into the data."""
    crc32: np.ndarray
    """(n,) uint32."""


@dataclass(frozen=True)
class Rows:
    """Fixed-length pieces of one contiguous dataset, one an object."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: np.ndarray


@dataclass(frozen=True)
class Tables:
    """What is read when a shard is opened."""

    content: Content
    sha256: str
    configuration: dict[str, Any]
    view_offsets: np.ndarray
    world_from_camera: np.ndarray
    intrinsics: np.ndarray
    matte_box: np.ndarray
    records: Blobs
    images: dict[tuple[str, int], Blobs]
    geometry: dict[str, Rows] = field(default_factory=dict)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Sizes of the `rgba` pictures, ascending, pixels."""
        return sorted(size for name, size in self.images if name == "rgba")

    @property
    def bytes(self) -> int:
        """Memory taken."""
        arrays = [self.view_offsets, self.world_from_camera, self.intrinsics, self.matte_box]
        for piece in (self.records, *self.images.values()):
            arrays += [piece.offsets, piece.crc32]
        return sum(array.nbytes for array in [*arrays, *(rows.crc32 for rows in self.geometry.values())])


def open_tables(path: Path, cache: BlockCache) -> Tables:
    content = open_content(path, cache)
    try:
        return _opened(path, content)
    except ShardError:
        if not isinstance(content, Remote):
            raise
        content.forget()  # what the cache keeps of it may be at fault, not the shard
        return _opened(path, content)


def _opened(path: Path, content: Content) -> Tables:
    digest = check_header(path, content)
    try:
        with h5py.File(path if is_local(path) else ContentFile(content), "r") as file:
            return _read_tables(path, file, content, digest)
    except ShardError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ShardError(
            f"{path}: its HDF5 structure cannot be read ({error}); restore the shard, or delete it and preprocess again"
        ) from error


def user_block(length: int, sha256: str) -> bytes:
    """The 512 bytes before a shard's HDF5 content."""
    return f"{MAGIC} {FORMAT_VERSION}\nbytes {length}\nsha256 {sha256}\n".encode().ljust(USER_BLOCK, b"\0")


def check_header(path: Path, content: Content) -> str:
    """The hexadecimal SHA-256 that the user block states; format, version and length are checked."""
    block = content.read(0, min(USER_BLOCK, len(content))).tobytes()
    lines = block.decode("ascii", "replace").split("\n")
    words = [line.split(" ") for line in lines[:3]]
    if len(lines) != 4 or any(len(pair) != 2 for pair in words) or words[0][0] != MAGIC:
        raise ShardError(f"{path}: not a turntable shard (it does not begin with {MAGIC})")
    version, length, digest = (pair[1] for pair in words)
    if version != str(FORMAT_VERSION):
        raise ShardError(
            f"{path}: shard format {version}, this version of Turntable reads {FORMAT_VERSION}; preprocess its captures again"
        )
    if length != str(len(content)):
        raise ShardError(
            f"{path}: {len(content)} bytes long, written with {length}; restore the shard, or delete it and preprocess again"
        )
    return digest


def _read_tables(path: Path, file: h5py.File, content: Content, digest: str) -> Tables:
    if (_text(file, "format"), int(file.attrs["format_version"])) != (FORMAT, FORMAT_VERSION):
        raise ShardError(f"{path}: calls itself {_text(file, 'format')} {file.attrs['format_version']}")
    if (_text(file, "convention"), _text(file, "colour")) != (CONVENTION, COLOUR):
        raise ShardError(
            f"{path}: states another camera or colour convention than format {FORMAT_VERSION}; preprocess again"
        )
    images = {
        (name, int(size)): _blobs(path, group[size])
        for name, group in file["images"].items()
        for size in group
        if 0 < int(size) <= MAX_PICTURE_SIDE
    }
    tables = Tables(
        content,
        digest,
        json.loads(_text(file, "configuration")),
        _table(path, file["objects/view_offsets"]),
        _table(path, file["views/world_from_camera"]),
        _table(path, file["views/intrinsics"]),
        _table(path, file["views/matte_box"]),
        _blobs(path, file["objects/records"]),
        images,
        _geometry(path, file),
    )
    objects, views = len(tables.view_offsets) - 1, int(tables.view_offsets[-1])
    counts = {len(t) for t in (tables.world_from_camera, tables.intrinsics, tables.matte_box)}
    counts |= {len(blobs.crc32) for blobs in images.values()}
    if counts != {views} or len(tables.records.crc32) != objects:
        raise ShardError(f"{path}: its tables disagree on the number of views ({sorted({*counts, views})}) or objects")
    return tables


def _text(file: h5py.File, name: str) -> str:
    """An attribute of the file. Ours are of fixed length, see `shard_writer`; h5py gives those as bytes."""
    value = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def _table(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    values = dataset[...]
    if zlib.crc32(values.data) != int(dataset.attrs["crc32"]):
        raise ShardError(
            f"{path}: the table {dataset.name} does not fit its checksum; restore the shard, or delete it and preprocess again"
        )
    return values


def _blobs(path: Path, group: h5py.Group) -> Blobs:
    offsets, crc32 = _table(path, group["offsets"]), _table(path, group["crc32"])
    if (
        len(offsets) != len(crc32) + 1
        or offsets[-1] != len(group["data"])
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise ShardError(f"{path}: the offsets of {group.name} do not fit its data")
    return Blobs(_start(path, group["data"]), offsets, crc32)


def _geometry(path: Path, file: h5py.File) -> dict[str, Rows]:
    if "geometry" not in file:
        return {}
    crc32 = _table(path, file["geometry/crc32"])
    rows = {}
    for column, name in enumerate(GEOMETRY_PARTS):
        dataset = file["geometry"][name]
        rows[name] = Rows(_start(path, dataset), dataset.shape[1:], dataset.dtype, crc32[:, column])
    return rows


def _start(path: Path, dataset: h5py.Dataset) -> int:
    """Byte of the file at which a contiguous dataset begins; HDF5 counts the user block in."""
    start = dataset.id.get_offset()
    if start is None and dataset.size:
        raise ShardError(f"{path}: {dataset.name} is not stored in one contiguous piece")
    return start or 0
