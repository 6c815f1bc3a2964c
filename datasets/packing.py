"""Filling a folder of shards: one writer at a time, numbered shards, a new one where the open one is full or differs.

Objects that come from other shards keep their bytes: encoded pictures are copied as they are, each checked against its
checksum as it is read, and nothing is decoded or encoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.shard_tables import USER_BLOCK
from datasets.shard_writer import ShardObject, ShardWriter
from datasets.shards import ShardError, ShardReader, shard_paths
from turntable.files import atomic_path, only_run

SHARD_BYTES = 1.5e9
"""A shard is closed when it holds this many bytes, unless the user says otherwise."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other writers out of a folder of shards for as long as this process lives; clears what a killed one left."""
    with only_run(folder):
        for leftover in folder.glob(".shard-*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def number_of(path: Path) -> int | None:
    """The number in a shard's name, `shard-000012.h5` or `shard-000012-01.h5`; None where somebody gave it another name."""
    number = path.stem.removeprefix("shard-").partition("-")[0]
    return int(number) if number.isdigit() else None


def next_number(folder: Path) -> int:
    """One more than the highest number in use."""
    return max((number_of(path) or 0 for path in shard_paths(folder)), default=-1) + 1


def next_shard(folder: Path) -> Path:
    """The name after the highest number in use."""
    return folder / f"shard-{next_number(folder):06d}.h5"


class Packer:
    """Lays objects into shards of a folder. Use it as a context manager inside `writing`: an error leaves no half shard."""

    def __init__(self, folder: Path, shard_bytes: float = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.finished: list[Path] = []
        """Shards written so far."""
        self._writer: ShardWriter | None = None

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close_shard()
        elif self._writer:
            self._writer.discard()

    def add(self, item: ShardObject, configuration: dict[str, Any]) -> None:
        """Appends an object that was made with these settings; a shard holds one layout and one settings."""
        writer = self._writer
        if writer and (
            writer.layout != item.layout or writer.configuration != configuration or writer.size >= self.shard_bytes
        ):
            self.close_shard()
        if self._writer is None:
            self._writer = ShardWriter(next_shard(self.folder), configuration)
        self._writer.add(item)

    def close_shard(self) -> None:
        """Finishes the open shard, if there is one with an object in it."""
        writer, self._writer = self._writer, None
        if writer and len(writer):  # none where its first object did not fit on the disk
            writer.close()
            self.finished.append(writer.path)


def stored_object(reader: ShardReader, number: int) -> ShardObject:
    """An object of a shard as it was given to the shard's writer, every byte of it checked."""
    poses, intrinsics = reader.cameras(number)
    views = range(len(poses))
    images = {
        (name, size): [reader.encoded(name, size, number, view).tobytes() for view in views]
        for name, size in reader.layout
    }
    shape = reader.geometry(number) if reader.has_geometry else None
    return ShardObject(reader.record(number), poses, intrinsics, reader.matte_boxes(number), images, shape)


def copy_shard(source: Path, target: Path) -> None:
    """Copies a whole shard and compares what was copied with the hash that the shard states. A difference is a ShardError."""
    reader = ShardReader(source)
    stated = reader.sha256
    with atomic_path(target) as temporary, source.open("rb") as content, temporary.open("wb") as copy:
        copy.write(content.read(USER_BLOCK))
        digest = hashlib.sha256()
        while chunk := content.read(1 << 22):
            digest.update(chunk)
            copy.write(chunk)
        if digest.hexdigest() != stated:
            raise ShardError(
                f"{source}: its content does not fit its SHA-256; run `python -m datasets.verify {source}` and leave it out"
            )
