"""The shard format: many objects' encoded pictures, cameras and geometry in one HDF5 file; docs/formats.md is its contract.

Byte layout of `shard-000000.h5`:

    0 … 511        user block, ASCII, the rest zeros:
                       TURNTABLE-SHARD 1\\n
                       bytes <length of the whole file>\\n
                       sha256 <hexadecimal SHA-256 of everything from byte 512 to the end>\\n
    512 …          an HDF5 file (superblock 3, metadata with HDF5's own checksums); every dataset is contiguous, little-endian:

    /images/<pass>/<size>/data       (B,) uint8      encoded pictures end to end
                         /offsets    (V+1,) uint64   picture v is data[offsets[v]:offsets[v+1]]
                         /crc32      (V,) uint32     zlib's CRC-32 of each
    /views/world_from_camera         (V, 3, 4) float64   OpenGL axes, object units, normalised world frame
    /views/intrinsics                (V, 4) float64      fx, fy, cx, cy over width, height, width, height
    /views/matte_box                 (V, 4) float32      x0, y0, x1, y1 of the matte over width and height; zeros: nothing in it
    /objects/view_offsets            (O+1,) uint64       object o has the views view_offsets[o] … view_offsets[o+1]-1
    /objects/records/{data,offsets,crc32}                a JSON document an object, laid out as pictures are
    /geometry/points                 (O, N, 3) float32   surface points
    /geometry/normals                (O, N, 3) float16   their unit normals
    /geometry/solid                  (O, 262144) uint8   bit-packed 128³ grid, see turntable.geometry.pack_solid
    /geometry/crc32                  (O, 3) uint32       of the object's points, normals, solid

Passes: `rgba` at several sizes, lossless WebP, straight alpha, sRGB (colour under alpha 0 is not kept and reads as black);
`depth` and `normal` at the capture's own size, the capture's own PNG bytes. A size is the side of a square picture in
pixels. All objects of a shard have the same passes and sizes; `geometry` may be absent. Every dataset except the four
kinds of bulk data (picture `data`, points, normals, solid), which are checked piece by piece as they are read, has an
attribute `crc32` of its bytes that is checked when the shard is opened. Attributes of the file: `format`,
`format_version`, `convention`, `colour`, and `configuration`, the JSON of the settings that wrote it; texts are UTF-8 of
fixed length (HDF5 keeps those of variable length in a heap without checksum, in which one flipped bit can make it loop).

Opening reads the tables through HDF5 and closes it; pictures come straight from a memory map, so threads do not queue
for HDF5's lock. Nothing that a reader returns differs from what was written: it is returned whole or a `ShardError` says
what is damaged.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from datasets.pictures import MAX_PICTURE_SIDE, PASS_CHANNELS, decode_normal, decode_png
from turntable import framing
from turntable.errors import UserError
from turntable.geometry import Geometry, unpack_solid

FORMAT = "turntable-shard"
FORMAT_VERSION = 1
USER_BLOCK = 512
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


class ShardError(UserError):
    """A shard that cannot be read, or content of one that is not what was written."""


def shard_paths(folder: Path) -> list[Path]:
    """Every finished shard in `folder`, in order of their names."""
    return sorted(folder.glob("shard-*.h5"))


def encode_rgba(rgba: np.ndarray) -> bytes:
    """(S, S, 4) uint8 straight alpha -> lossless WebP. Colour under alpha 0 is dropped."""
    # Against PNG (level 3) on renders at 512², 256², 128², measured: decodes 2.8, 2.1, 1.3 times as fast and takes 0.55 of
    # the bytes; encodes 6 to 14 times as slowly (97, 47, 13 ms), which is paid once, and less than what rendering took.
    ok, data = cv2.imencode(".webp", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert ok, rgba.shape
    return data.tobytes()


def decode_rgba(data: np.ndarray, size: int) -> np.ndarray:
    """Lossless WebP bytes as a (B,) uint8 array -> (size, size, 4) uint8 straight alpha, black where alpha is 0.

    The header's size is checked before anything is decoded. Raises ValueError.
    """
    # VP8L bitstream: RIFF header of 12 bytes, "VP8L", length, signature 0x2f, then 14 bits each of width-1 and height-1.
    header = data[:25].tobytes()
    if header[:4] != b"RIFF" or header[8:16] != b"WEBPVP8L" or len(header) < 25 or header[20] != 0x2F:
        raise ValueError("not a lossless WebP picture")
    bits = int.from_bytes(header[21:25], "little")
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if (width, height) != (size, size):
        raise ValueError(f"a picture of {width}×{height} pixels, expected {size}×{size}")
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a damaged WebP picture")
    if picture.shape[2] == 3:  # the encoder drops an alpha that is opaque everywhere
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGBA)
    rgba = cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
    # The encoder leaves arbitrary colour under alpha 0. A pixel as one little-endian number has its alpha on top.
    pixels = rgba.view("<u4")
    pixels *= pixels >= 1 << 24
    return rgba


@dataclass(frozen=True)
class _Blobs:
    """Variable-length pieces of one contiguous dataset."""

    start: int
    """Byte of the file at which the dataset's data begin."""
    offsets: np.ndarray
    """(n + 1,) uint64 into the data."""
    crc32: np.ndarray
    """(n,) uint32."""


@dataclass(frozen=True)
class _Rows:
    """Fixed-length pieces of one contiguous dataset, one an object."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: np.ndarray


@dataclass(frozen=True)
class _Tables:
    """What is read when a shard is opened."""

    content: mmap.mmap
    sha256: str
    configuration: dict[str, Any]
    view_offsets: np.ndarray
    world_from_camera: np.ndarray
    intrinsics: np.ndarray
    matte_box: np.ndarray
    records: _Blobs
    images: dict[tuple[str, int], _Blobs]
    geometry: dict[str, _Rows] = field(default_factory=dict)


class ShardReader:
    """Reads one shard. Opens it at first use, may be pickled and shared by threads; every error is a `ShardError`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._opened: tuple[int, _Tables] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    @property
    def _tables(self) -> _Tables:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _open(self.path))
        return self._opened[1]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._tables.view_offsets) - 1

    @property
    def configuration(self) -> dict[str, Any]:
        """The settings that wrote the shard."""
        return self._tables.configuration

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of the content, as the file states it; `datasets.verify` compares the two."""
        return self._tables.sha256

    @property
    def layout(self) -> list[tuple[str, int]]:
        """(pass, size) of everything that is stored of each view."""
        return sorted(self._tables.images)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the `rgba` pictures, ascending, pixels."""
        return [size for name, size in self.layout if name == "rgba"]

    @property
    def has_geometry(self) -> bool:
        """Whether points, normals and solids are stored."""
        return bool(self._tables.geometry)

    def view_count(self, index: int) -> int:
        """Number of views of object `index`."""
        return len(self._views(index))

    def record(self, index: int) -> dict[str, Any]:
        """What is known of object `index`: uid, licence, lvis_class, creator, normalisation, …"""
        self._views(index)
        data = self._piece(self._tables.records, index, f"the record of object {index}")
        try:
            return json.loads(data.tobytes())
        except ValueError as error:
            raise ShardError(f"{self.path}: the record of object {index} is not JSON ({error})") from error

    def cameras(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera (V, 3, 4) and normalised intrinsics (V, 4), float64."""
        views = self._views(index)
        return self._tables.world_from_camera[views].copy(), self._tables.intrinsics[views].copy()

    def matte_boxes(self, index: int) -> np.ndarray:
        """(V, 4) float32: x0, y0, x1, y1 over width and height; zeros where the matte is empty."""
        return self._tables.matte_box[self._views(index)].copy()

    def encoded(self, name: str, size: int, index: int, view: int) -> np.ndarray:
        """(B,) uint8, read-only: the encoded bytes of one view, checked against their checksum."""
        blobs = self._tables.images.get((name, size))
        if blobs is None:
            raise ShardError(f"{self.path}: stores no {name} of {size} pixels; it has {self.layout}")
        views = self._views(index)
        if not 0 <= view < len(views):
            raise IndexError(f"{self.path}: object {index} has {len(views)} views, asked for view {view}")
        return self._piece(blobs, views[view], f"{name} of {size} pixels, object {index}, view {view}")

    def stored_size(self, size: int) -> int:
        """The smallest stored picture size that is at least `size`, else the largest."""
        return min((s for s in self.sizes if s >= size), default=max(self.sizes))

    def picture(self, index: int, view: int, size: int) -> np.ndarray:
        """(size, size, 4) uint8 straight alpha, sRGB; decoded from the smallest stored size that serves, resized if it must be."""
        stored = self.stored_size(size)
        try:
            rgba = decode_rgba(self.encoded("rgba", stored, index, view), stored)
        except ValueError as error:
            raise self._damaged(f"rgba of {stored} pixels, object {index}, view {view}", error) from error
        return framing.resize(rgba, size, size)

    def depth(self, index: int, view: int) -> np.ndarray:
        """(S, S) float32 planar depth in object units, 0 where nothing is hit."""
        steps = self._png("depth", index, view)
        scale = self.record(index).get("depth_scale")
        if not isinstance(scale, float):
            raise ShardError(
                f"{self.path}: the record of object {index} states no depth_scale, so its depth has no unit"
            )
        return steps.astype(np.float32) * np.float32(scale)

    def normal(self, index: int, view: int) -> np.ndarray:
        """(S, S, 3) float32 unit normals in the world frame, 0 where nothing is hit."""
        return decode_normal(self._png("normal", index, view))

    def geometry(self, index: int) -> Geometry:
        """Surface points, normals and the solid, in object units and the world frame."""
        self._views(index)
        if not self.has_geometry:
            raise ShardError(f"{self.path}: stores no geometry; shapes cannot be judged on it")
        points, normals, solid = (self._row(name, index) for name in GEOMETRY_PARTS)
        return Geometry(points, normals.astype(np.float32), unpack_solid(solid))

    def _png(self, name: str, index: int, view: int) -> np.ndarray:
        size = next((s for n, s in self.layout if n == name), None)
        if size is None:
            raise ShardError(f"{self.path}: stores no {name}; it has {self.layout}")
        channels, dtype = PASS_CHANNELS[name]
        try:
            picture = decode_png(self.encoded(name, size, index, view).tobytes())
            if picture.shape[:2] != (size, size) or picture.size != size * size * channels or picture.dtype != dtype:
                raise ValueError(f"{picture.shape} {picture.dtype}, expected {size}×{size} of {np.dtype(dtype)}")
        except ShardError:
            raise
        except ValueError as error:
            raise self._damaged(f"{name}, object {index}, view {view}", error) from error
        return picture

    def _views(self, index: int) -> range:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} objects, asked for object {index}")
        first, end = self._tables.view_offsets[index : index + 2]
        return range(int(first), int(end))

    def _piece(self, blobs: _Blobs, number: int, what: str) -> np.ndarray:
        first, end = (int(o) for o in blobs.offsets[number : number + 2])
        data = np.frombuffer(self._tables.content, np.uint8, end - first, blobs.start + first)
        if zlib.crc32(data.data) != blobs.crc32[number]:
            raise self._damaged(what, "its checksum does not fit")
        return data

    def _row(self, name: str, index: int) -> np.ndarray:
        rows = self._tables.geometry[name]
        count = int(np.prod(rows.shape))
        start = rows.start + index * count * rows.dtype.itemsize
        data = np.frombuffer(self._tables.content, rows.dtype, count, start)
        if zlib.crc32(data.data) != rows.crc32[index]:
            raise self._damaged(f"the {name} of object {index}", "its checksum does not fit")
        return data.reshape(rows.shape).copy()

    def _damaged(self, what: str, why: object) -> ShardError:
        return ShardError(
            f"{self.path}: {what}: {why}; run `python -m datasets.verify {self.path}`, then restore the shard or delete it "
            "and preprocess again"
        )


def _open(path: Path) -> _Tables:
    content = mapped(path)
    digest = check_header(path, content)
    try:
        with h5py.File(path, "r") as file:
            return _read_tables(path, file, content, digest)
    except ShardError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ShardError(
            f"{path}: its HDF5 structure cannot be read ({error}); restore the shard, or delete it and preprocess again"
        ) from error


def mapped(path: Path) -> mmap.mmap:
    """A shard's whole file as a read-only memory map."""
    try:
        with path.open("rb") as handle:
            if os.fstat(handle.fileno()).st_size == 0:
                raise ShardError(f"{path}: is empty, not a turntable shard; delete it and preprocess again")
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ShardError(f"{path}: no such shard") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be opened ({error})") from error


def user_block(length: int, sha256: str) -> bytes:
    """The 512 bytes before a shard's HDF5 content."""
    return f"{MAGIC} {FORMAT_VERSION}\nbytes {length}\nsha256 {sha256}\n".encode().ljust(USER_BLOCK, b"\0")


def check_header(path: Path, content: mmap.mmap) -> str:
    """The hexadecimal SHA-256 that the user block states; format, version and length are checked."""
    lines = content[:USER_BLOCK].decode("ascii", "replace").split("\n")
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


def _read_tables(path: Path, file: h5py.File, content: mmap.mmap, digest: str) -> _Tables:
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
    tables = _Tables(
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


def _blobs(path: Path, group: h5py.Group) -> _Blobs:
    offsets, crc32 = _table(path, group["offsets"]), _table(path, group["crc32"])
    if (
        len(offsets) != len(crc32) + 1
        or offsets[-1] != len(group["data"])
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise ShardError(f"{path}: the offsets of {group.name} do not fit its data")
    return _Blobs(_start(path, group["data"]), offsets, crc32)


def _geometry(path: Path, file: h5py.File) -> dict[str, _Rows]:
    if "geometry" not in file:
        return {}
    crc32 = _table(path, file["geometry/crc32"])
    rows = {}
    for column, name in enumerate(GEOMETRY_PARTS):
        dataset = file["geometry"][name]
        rows[name] = _Rows(_start(path, dataset), dataset.shape[1:], dataset.dtype, crc32[:, column])
    return rows


def _start(path: Path, dataset: h5py.Dataset) -> int:
    """Byte of the file at which a contiguous dataset begins; HDF5 counts the user block in."""
    start = dataset.id.get_offset()
    if start is None and dataset.size:
        raise ShardError(f"{path}: {dataset.name} is not stored in one contiguous piece")
    return start or 0


class ShardSet:
    """The objects of many shards as one sequence, in the order of the shards' names. May be pickled."""

    def __init__(self, source: Path | list[Path]) -> None:
        """`source`: a folder of shards, one shard, or a list of shards."""
        self.paths = _found(source)
        self._readers = [ShardReader(path) for path in self.paths]
        self._places = [(reader, k) for reader in self._readers for k in range(len(reader))]
        self.uids: list[str] = [str(reader.record(k)["uid"]) for reader, k in self._places]
        """One an object."""
        first: dict[str, Path] = {}
        for uid, (reader, _) in zip(self.uids, self._places, strict=True):
            if uid in first:
                raise ShardError(f"{uid} is in {first[uid]} and in {reader.path}; remove one of the shards")
            first[uid] = reader.path

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sizes(self) -> list[int]:
        """Every size at which some shard stores `rgba`, ascending, pixels."""
        return sorted({size for reader in self._readers for size in reader.sizes})

    def place(self, index: int) -> tuple[ShardReader, int]:
        """The reader that holds an object, and its number there."""
        return self._places[index]

    def record(self, index: int) -> dict[str, Any]:
        """See `ShardReader.record`."""
        reader, number = self._places[index]
        return reader.record(number)

    def view_count(self, index: int) -> int:
        """Number of views of an object."""
        reader, number = self._places[index]
        return reader.view_count(number)

    def cameras(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera (V, 3, 4) and normalised intrinsics (V, 4), float64."""
        reader, number = self._places[index]
        return reader.cameras(number)

    def matte_boxes(self, index: int) -> np.ndarray:
        """(V, 4) float32, zeros where the matte is empty."""
        reader, number = self._places[index]
        return reader.matte_boxes(number)

    def stored_size(self, index: int, size: int) -> int:
        """The stored size from which a picture of `size` pixels of this object is made."""
        return self._places[index][0].stored_size(size)

    def picture(self, index: int, view: int, size: int) -> np.ndarray:
        """(size, size, 4) uint8 straight alpha, sRGB."""
        reader, number = self._places[index]
        return reader.picture(number, view, size)

    def depth(self, index: int, view: int) -> np.ndarray:
        """(S, S) float32 planar depth in object units, 0 where nothing is hit."""
        reader, number = self._places[index]
        return reader.depth(number, view)

    def normal(self, index: int, view: int) -> np.ndarray:
        """(S, S, 3) float32 unit normals in the world frame, 0 where nothing is hit."""
        reader, number = self._places[index]
        return reader.normal(number, view)

    def geometry(self, index: int) -> Geometry:
        """Surface points, normals and the solid."""
        reader, number = self._places[index]
        return reader.geometry(number)


def _found(source: Path | list[Path]) -> list[Path]:
    if isinstance(source, list):
        return [Path(path) for path in source]
    source = Path(source)
    if not source.exists():
        raise ShardError(f"{source}: no such folder or shard; `python -m preprocess.captures` makes shards")
    if source.is_file():
        return [source]
    paths = shard_paths(source)
    if not paths:
        raise ShardError(f"{source}: no shard-*.h5 in this folder; `python -m preprocess.captures` makes shards")
    return paths
