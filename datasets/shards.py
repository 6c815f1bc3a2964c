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

import bisect
import collections
import json
import logging
import math
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.catalogue import read_uids
from datasets.pictures import PASS_CHANNELS, decode_normal, decode_png
from datasets.shard_tables import GEOMETRY_PARTS, Blobs, Tables, open_tables
from datasets.storage import BlockCache, ShardError
from turntable import framing
from turntable.errors import UserError
from turntable.files import is_local
from turntable.geometry import Geometry, unpack_solid

log = logging.getLogger(__name__)

INDEX_NAME = "index.json"
"""What `datasets.index` writes beside the shards of a folder."""


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


class ShardReader:
    """Reads one shard. Opens it at first use, may be pickled and shared by threads; every error is a `ShardError`."""

    def __init__(self, path: Path, cache: BlockCache | None = None) -> None:
        """`cache`: where a shard at a URL keeps what was read of it."""
        self.path, self.cache = path, cache or BlockCache()
        self._opened: tuple[int, Tables] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "cache": self.cache, "_opened": None}

    @property
    def _tables(self) -> Tables:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            opened = self._opened = (os.getpid(), open_tables(self.path, self.cache))
        return opened[1]

    def close(self) -> None:
        """Forgets the tables; the next use opens the shard again."""
        self._opened = None

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
        return list(self._tables.sizes)

    @property
    def has_geometry(self) -> bool:
        """Whether points, normals and solids are stored."""
        return bool(self._tables.geometry)

    @property
    def tables_bytes(self) -> int:
        """Memory that the open shard's tables take."""
        return self._tables.bytes

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return len(self._tables.content)

    def stored_bytes(self) -> dict[tuple[str, int], int]:
        """(pass, size) -> bytes that its pictures take."""
        return {key: int(blobs.offsets[-1]) for key, blobs in self._tables.images.items()}

    def view_count(self, index: int) -> int:
        """Number of views of object `index`."""
        return len(self._views(index))

    def record(self, index: int) -> dict[str, Any]:
        """What is known of object `index`: uid, licence, lvis_class, creator, normalisation, …"""
        self._views(index)
        data = self._piece(self._tables.records, index, f"the record of object {index}")
        try:
            record = json.loads(data.tobytes())
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{self.path}: the record of object {index} is not JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get("uid"), str):
            raise ShardError(f"{self.path}: the record of object {index} states no uid; preprocess its capture again")
        return record

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
        sizes = self._tables.sizes
        return sizes[min(bisect.bisect_left(sizes, size), len(sizes) - 1)]

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
        if not isinstance(scale, float) or not 0 < scale < math.inf:
            raise ShardError(
                f"{self.path}: the record of object {index} states no depth_scale (but {scale!r}), so its depth has no unit"
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

    def points(self, index: int) -> np.ndarray:
        """(N, 3) float32 surface points alone."""
        self._views(index)
        if not self.has_geometry:
            raise ShardError(f"{self.path}: stores no geometry, so no surface points")
        return self._row("points", index)

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

    def _piece(self, blobs: Blobs, number: int, what: str) -> np.ndarray:
        first, end = (int(o) for o in blobs.offsets[number : number + 2])
        return self._checked(blobs.start + first, end - first, blobs.crc32[number], what)

    def _row(self, name: str, index: int) -> np.ndarray:
        rows = self._tables.geometry[name]
        count = int(np.prod(rows.shape))
        length = count * rows.dtype.itemsize
        data = self._checked(rows.start + index * length, length, rows.crc32[index], f"the {name} of object {index}")
        return data.view(rows.dtype).reshape(rows.shape).copy()

    def _checked(self, start: int, count: int, crc32: int, what: str) -> np.ndarray:
        """Bytes of the file that fit their checksum."""
        content = self._tables.content
        data = content.read(start, count)
        if zlib.crc32(data.data) != crc32:
            data = content.again(start, count)
            if zlib.crc32(data.data) != crc32:
                raise self._damaged(what, "its checksum does not fit")
        return data

    def _damaged(self, what: str, why: object) -> ShardError:
        return ShardError(
            f"{self.path}: {what}: {why}; run `python -m datasets.verify {self.path}`, then restore the shard or delete it "
            "and preprocess again"
        )


class ShardSet:
    """The objects of many shards as one sequence, in the order of the shards' names. May be pickled, and shared by threads.

    Keeps of every object its uid. Of the shards in use it keeps the tables, of no more than `MOST_OPEN` at a time and within
    `tables_limit`; one that was closed is opened and checked again when it is needed.
    """

    MOST_OPEN = 400
    """Every open shard takes a file descriptor, of which a process is often given 1024."""

    def __init__(self, source: Path | list[Path], cache: BlockCache | None = None, tables_limit: float = 1e9) -> None:
        """`source`: a folder of shards, one shard, or a list of shards, here or at URLs, which are read through `cache`."""
        self.paths = found(source)
        self.tables_limit = tables_limit
        self._readers = [ShardReader(path, cache) for path in self.paths]
        self._open: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.uids: list[str] = []
        """One an object."""
        self.ends: list[int] = []
        """Of each shard the index after its last object."""
        sizes: set[int] = set()
        for reader in self.readers():
            self.uids += [str(reader.record(k)["uid"]) for k in range(len(reader))]
            self.ends.append(len(self.uids))
            sizes.update(reader.sizes)
        self.sizes = sorted(sizes)
        """Every size at which some shard stores `rgba`, ascending, pixels."""
        self._refuse_repeated()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": collections.OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _refuse_repeated(self) -> None:
        first: dict[str, int] = {}
        for index, uid in enumerate(self.uids):
            if first.setdefault(uid, index) != index:
                paths = [self.paths[self.shard_of(i)] for i in (first[uid], index)]
                raise ShardError(f"{uid} is in {paths[0]} and in {paths[1]}; remove one of the shards")

    def __len__(self) -> int:
        return len(self.uids)

    def shard_of(self, index: int) -> int:
        """The number, in `paths`, of the shard that holds an object."""
        return bisect.bisect_right(self.ends, index)

    def _use(self, number: int) -> ShardReader:
        """A shard's reader; those unused for longest are closed where too many are open."""
        reader = self._readers[number]
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return reader
            self._open[number] = reader.tables_bytes
            while len(self._open) > 1 and (
                len(self._open) > self.MOST_OPEN or sum(self._open.values()) > self.tables_limit
            ):
                self._readers[self._open.popitem(last=False)[0]].close()
        return reader

    def readers(self) -> Iterator[ShardReader]:
        """Each shard's reader in turn."""
        return (self._use(number) for number in range(len(self.paths)))

    def listed(self, uids: Path | None) -> list[int]:
        """Indices of the objects that a file of uids names, in its order; of all where there is none. Unknown ones are a UserError."""
        if uids is None:
            return list(range(len(self)))
        place = {uid: index for index, uid in enumerate(self.uids)}
        wanted = read_uids(uids)
        unknown = [uid for uid in wanted if uid not in place]
        if unknown:
            raise UserError(f"{uids}: {len(unknown)} of its uids are not in the shards, the first is {unknown[0]}")
        return [place[uid] for uid in wanted]

    def place(self, index: int) -> tuple[ShardReader, int]:
        """The reader that holds an object, and its number there."""
        # As a list takes it: from the end where negative, IndexError where there is none.
        index = range(len(self))[index]
        shard = self.shard_of(index)
        return self._use(shard), index - (self.ends[shard - 1] if shard else 0)

    def record(self, index: int) -> dict[str, Any]:
        """See `ShardReader.record`."""
        reader, number = self.place(index)
        return reader.record(number)

    def view_count(self, index: int) -> int:
        """Number of views of an object."""
        reader, number = self.place(index)
        return reader.view_count(number)

    def cameras(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera (V, 3, 4) and normalised intrinsics (V, 4), float64."""
        reader, number = self.place(index)
        return reader.cameras(number)

    def matte_boxes(self, index: int) -> np.ndarray:
        """(V, 4) float32, zeros where the matte is empty."""
        reader, number = self.place(index)
        return reader.matte_boxes(number)

    def stored_size(self, index: int, size: int) -> int:
        """The stored size from which a picture of `size` pixels of this object is made."""
        return self.place(index)[0].stored_size(size)

    def picture(self, index: int, view: int, size: int) -> np.ndarray:
        """(size, size, 4) uint8 straight alpha, sRGB."""
        reader, number = self.place(index)
        return reader.picture(number, view, size)

    def depth(self, index: int, view: int) -> np.ndarray:
        """(S, S) float32 planar depth in object units, 0 where nothing is hit."""
        reader, number = self.place(index)
        return reader.depth(number, view)

    def normal(self, index: int, view: int) -> np.ndarray:
        """(S, S, 3) float32 unit normals in the world frame, 0 where nothing is hit."""
        reader, number = self.place(index)
        return reader.normal(number, view)

    def geometry(self, index: int) -> Geometry:
        """Surface points, normals and the solid."""
        reader, number = self.place(index)
        return reader.geometry(number)


def found(source: Path | list[Path]) -> list[Path]:
    """The shards that a folder, a shard or a list of shards names, here or at URLs; none is a ShardError."""
    if isinstance(source, list):
        return list(source)
    if not is_local(source):
        return [source] if source.suffix == ".h5" else _found_remote(source)
    if not source.exists():
        raise ShardError(f"{source}: no such folder or shard; `python -m preprocess.captures` makes shards")
    if source.is_file():
        return [source]
    paths = shard_paths(source)
    if not paths:
        raise ShardError(f"{source}: no shard-*.h5 in this folder; `python -m preprocess.captures` makes shards")
    return paths


def _found_remote(folder: Path) -> list[Path]:
    """The shards at a URL: those that its store lists or, where it lists none (many web servers do not), that index.json names."""
    try:
        names = {path.name for path in shard_paths(folder)}
    except Exception as error:  # each store has errors of its own
        log.info("%s: cannot be listed (%s); its index.json is asked", folder, error)
        names = set()
    if not names:
        try:
            names = {str(shard["file"]) for shard in json.loads((folder / INDEX_NAME).read_bytes())["shards"]}
        except Exception as error:
            raise ShardError(
                f"{folder}: no shard-*.h5 is listed there, nor by an index.json ({type(error).__name__}: {error}); upload the "
                "folder with its index.json"
            ) from error
    stray = [name for name in names if not re.fullmatch(r"shard-[\w-]+\.h5", name)]
    if stray:
        raise ShardError(f"{folder / INDEX_NAME}: names {stray[0]!r}, which is no shard beside it")
    return [folder / name for name in sorted(names)]
