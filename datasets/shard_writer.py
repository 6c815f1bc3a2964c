"""Writing a shard: encoded pictures are spooled to files beside it, laid out end to end at the close, hashed and renamed.

The format is described in `datasets.shards`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from datasets.shard_tables import COLOUR, CONVENTION, FORMAT, FORMAT_VERSION, GEOMETRY_PARTS, USER_BLOCK, user_block
from turntable.files import atomic_path, disk_errors, is_local
from turntable.geometry import Geometry, pack_solid

_STORED = {"points": "<f4", "normals": "<f2", "solid": "u1"}


@dataclass(frozen=True)
class ShardObject:
    """One object as a shard stores it."""

    record: dict[str, Any]
    """JSON values; `uid` must be among them, `depth_scale` (object units a step) too where there is a depth pass."""
    world_from_camera: np.ndarray
    """(V, 3, 4), OpenGL axes, object units, world frame."""
    intrinsics: np.ndarray
    """(V, 4), normalised."""
    matte_box: np.ndarray
    """(V, 4), x0, y0, x1, y1 over width and height, zeros where the matte is empty."""
    images: dict[tuple[str, int], list[bytes]]
    """(pass, size in pixels) -> V encoded pictures."""
    geometry: Geometry | None = None

    @property
    def layout(self) -> tuple[Any, ...]:
        """What must agree between the objects of one shard: passes and sizes, number of surface points."""
        return (*sorted(self.images), None if self.geometry is None else self.geometry.points.shape)


class ShardWriter:
    """Collects objects and writes them as one shard at `close`. Until then nothing exists under the shard's name."""

    def __init__(self, path: Path, configuration: dict[str, Any]) -> None:
        self.path, self.configuration = path, configuration
        self.layout: tuple[Any, ...] | None = None
        self.size = 0
        """Bytes taken so far, without tables."""
        # Pieces are spooled beside the shard to come, where there is room for it; for one at a URL, among temporary files.
        self._folder = spool_folder(path) if is_local(path) else Path(tempfile.mkdtemp(prefix="turntable-shard-"))
        self._spools: dict[str, _Spool] = {}
        self._cameras: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._cameras)

    def add(self, item: ShardObject) -> None:
        """Appends an object. Its passes and sizes must be those of the objects before it."""
        if self.layout is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self.layout = item.layout
        if item.layout != self.layout:
            raise ValueError(f"{self.path}: holds {self.layout}, {item.record['uid']} has {item.layout}")
        views = len(item.world_from_camera)
        if {len(pictures) for pictures in item.images.values()} | {len(item.intrinsics), len(item.matte_box)} != {
            views
        }:
            raise ValueError(f"{item.record['uid']}: {views} cameras, another number of pictures or boxes")
        try:
            with disk_errors(self.path):
                self._spool(item)
        except BaseException:
            self.discard()  # an object that is half there would spoil those before it
            raise
        self._cameras.append((item.world_from_camera, item.intrinsics, item.matte_box))

    def _spool(self, item: ShardObject) -> None:
        for (name, size), pictures in item.images.items():
            self._append(f"images/{name}/{size}", pictures)
        self._append("objects/records", [json.dumps(item.record, ensure_ascii=False, allow_nan=False).encode()])
        for name, part in _parts(item.geometry):
            self._append(f"geometry/{name}", [part])
        for spool in self._spools.values():
            spool.file.flush()

    def close(self) -> None:
        """Writes the shard: complete under its name, or not at all. There must be an object in it."""
        try:
            with atomic_path(self.path) as temporary:
                structure, starts = self._structure()
                with temporary.open("w+b") as target:
                    structure.copy_to(target)
                    for name, spool in self._spools.items():
                        target.seek(starts[name])
                        spool.copy_to(target)
                    _seal(target)
        finally:
            self.discard()

    def discard(self) -> None:
        """Forgets everything that was added, without writing a shard."""
        for spool in self._spools.values():
            with contextlib.suppress(OSError):  # a full disk is told of by whoever wrote; closing would only repeat it
                spool.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._spools, self._cameras = {}, []

    def _append(self, name: str, pieces: Iterable[bytes]) -> None:
        if name not in self._spools:
            self._spools[name] = _Spool((self._folder / name.replace("/", "-")).open("w+b"), [], [])
        for piece in pieces:
            self._spools[name].append(piece)
            self.size += len(piece)

    def _structure(self) -> tuple[_SparseFile, dict[str, int]]:
        """Everything but the bulk data, for which room is left, and where each spool's bytes go.

        HDF5 writes to memory: it cannot close a file after a write that found the disk full, and in the end crashes over it.
        """
        poses, intrinsics, boxes = (np.concatenate(part) for part in zip(*self._cameras, strict=True))
        counts = [len(views) for views, _, _ in self._cameras]
        memory = _SparseFile()
        with h5py.File(memory, "w", userblock_size=USER_BLOCK, libver=("v110", "v110")) as file:
            texts = {"format": FORMAT, "convention": CONVENTION, "colour": COLOUR}
            for name, text in {**texts, "configuration": json.dumps(self.configuration)}.items():
                # Of fixed length: HDF5's heap for other texts has no checksum, and one flipped bit can make it loop.
                file.attrs.create(name, text.encode(), dtype=h5py.string_dtype("utf-8", len(text.encode())))
            file.attrs["format_version"] = FORMAT_VERSION
            _table(file, "views/world_from_camera", poses, "<f8")
            _table(file, "views/intrinsics", intrinsics, "<f8")
            _table(file, "views/matte_box", boxes, "<f4")
            _table(file, "objects/view_offsets", np.cumsum([0, *counts]), "<u8")
            room = {name: self._describe(file, name, spool) for name, spool in self._spools.items()}
            if "geometry/points" in self._spools:
                crc32 = [self._spools[f"geometry/{name}"].crc32 for name in GEOMETRY_PARTS]
                _table(file, "geometry/crc32", np.stack(crc32, axis=1), "<u4")
            file.flush()
            starts = {name: dataset.id.get_offset() for name, dataset in room.items()}
        return memory, starts

    def _describe(self, file: h5py.File, name: str, spool: _Spool) -> h5py.Dataset:
        kind, _, part = name.partition("/")
        if kind == "geometry":
            assert self.layout is not None
            row = self.layout[-1] if part != "solid" else (len(spool) // len(self),)
            return _room(file, name, (len(self), *row), _STORED[part])
        _table(file, f"{name}/offsets", np.cumsum([0, *spool.lengths], dtype=np.uint64), "<u8")
        _table(file, f"{name}/crc32", np.array(spool.crc32), "<u4")
        return _room(file, f"{name}/data", (len(spool),), "u1")


@dataclass
class _Spool:
    """Pieces of one dataset on their way, in a file."""

    file: IO[bytes]
    lengths: list[int]
    crc32: list[int]

    def __len__(self) -> int:
        return sum(self.lengths)

    def append(self, piece: bytes) -> None:
        self.file.write(piece)
        self.lengths.append(len(piece))
        self.crc32.append(zlib.crc32(piece))

    def copy_to(self, target: IO[bytes]) -> None:
        """Copies everything to where `target` stands, and gives the spool's room on the disk back."""
        self.file.seek(0)
        shutil.copyfileobj(self.file, target, 1 << 24)
        self.file.truncate(0)


def spool_folder(path: Path) -> Path:
    """Where the pieces of an unfinished shard lie; whatever is there without a writer was left by a killed process."""
    return path.with_name(f".{path.name}.spool.tmp")


class _SparseFile(io.RawIOBase):
    """A file in memory of which only the pages that were written to take room; the rest reads as zeros."""

    PAGE = 4096

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._length = self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._length = self._position if size is None else size
        return self._length

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for page, start, first, count in self._pieces(len(view)):
            view[first : first + count] = self._pages.get(page, bytes(self.PAGE))[start : start + count]
        self._position += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for page, start, first, count in self._pieces(len(view)):
            self._pages.setdefault(page, bytearray(self.PAGE))[start : start + count] = view[first : first + count]
        self._position += len(view)
        self._length = max(self._length, self._position)
        return len(view)

    def _pieces(self, count: int) -> Iterator[tuple[int, int, int, int]]:
        """`count` bytes from where the file stands: page, first byte in it, first byte of the buffer, number of bytes."""
        done = 0
        while done < count:
            page, start = divmod(self._position + done, self.PAGE)
            piece = min(self.PAGE - start, count - done)
            yield page, start, done, piece
            done += piece

    def copy_to(self, target: IO[bytes]) -> None:
        """Writes what there is to an empty file on disk."""
        for page, content in sorted(self._pages.items()):
            target.seek(page * self.PAGE)
            target.write(content[: max(self._length - page * self.PAGE, 0)])
        target.truncate(self._length)


def _parts(geometry: Geometry | None) -> Iterable[tuple[str, bytes]]:
    if geometry is not None:
        yield "points", geometry.points.astype("<f4").tobytes()
        yield "normals", geometry.normals.astype("<f2").tobytes()
        yield "solid", pack_solid(geometry.solid).tobytes()


def _table(file: h5py.File, name: str, values: np.ndarray, dtype: str) -> None:
    stored = np.ascontiguousarray(values, dtype=dtype)
    dataset = file.create_dataset(name, data=stored)
    dataset.attrs["crc32"] = np.uint32(zlib.crc32(stored.data))


def _room(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    """A contiguous dataset whose place in the file is fixed now and whose bytes are written later, without HDF5."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # no clock in the bytes
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
    file.require_group(name.rpartition("/")[0])
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, layout))


def _seal(file: IO[bytes]) -> None:
    """Writes the user block: the length and the hash of what follows it."""
    length = file.seek(0, 2)
    file.seek(USER_BLOCK)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 22):
        digest.update(chunk)
    file.seek(0)
    file.write(user_block(length, digest.hexdigest()))
