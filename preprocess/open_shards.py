"""The shards that a run has in hand. A shard holds objects of one layout (passes, sizes); objects of several layouts come mixed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from datasets.shard_writer import ShardObject, ShardWriter
from datasets.shards import shard_paths

MOST_OPEN = 8
"""Layouts that are kept open; each takes a handful of files. Beyond, the one begun first is closed, however little it holds."""


class OpenShards:
    """One unfinished shard for every layout; what is laid into them, and in which order, alone decides their bytes."""

    def __init__(self, folder: Path, shard_bytes: float, settings: dict[str, Any], finished: list[str]) -> None:
        """`finished` gets the names of the shards that are closed."""
        self._folder, self._shard_bytes, self._settings = folder, shard_bytes, settings
        self._finished = finished
        self._writers: dict[tuple[Any, ...], ShardWriter] = {}
        numbers = [int(path.stem[6:]) for path in shard_paths(folder) if path.stem[6:].isdigit()]
        self._next = max(numbers, default=-1) + 1

    def add(self, item: ShardObject) -> None:
        """Lays an object into the open shard of its layout, or into a new one where there is none or that is full."""
        writer = self._writers.get(item.layout)
        if writer and writer.size >= self._shard_bytes:
            self._close(item.layout)
            writer = None
        if writer is None:
            if len(self._writers) == MOST_OPEN:
                self._close(next(iter(self._writers)))
            path = self._folder / f"shard-{self._next:06d}.h5"
            writer = self._writers[item.layout] = ShardWriter(path, self._settings)
            self._next += 1
        writer.add(item)

    def close(self) -> None:
        """Finishes every shard with what it holds; when one cannot be, the others that are left are forgotten."""
        try:
            while self._writers:
                self._close(next(iter(self._writers)))
        finally:
            self.discard()

    def discard(self) -> None:
        """Forgets everything that is in no finished shard."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.discard()
        self._writers = {}

    def _close(self, layout: tuple[Any, ...]) -> None:
        writer = self._writers.pop(layout)
        if not len(writer):  # its first object did not fit on the disk
            return
        writer.close()
        self._finished.append(writer.path.name)
