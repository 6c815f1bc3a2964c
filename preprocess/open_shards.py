"""The shards that a run has in hand. A shard holds objects of one layout (passes, sizes); objects of several layouts come mixed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.packing import next_number
from datasets.shard_writer import ShardObject, ShardWriter

MOST_OPEN = 8
"""Layouts that are kept open; each takes a handful of files. Beyond, the one begun first is closed, however little it holds."""


def names_after(folder: Path) -> Iterator[str]:
    """Names of shards to come: shard-000012.h5, shard-000013.h5, …"""
    return (f"shard-{number:06d}.h5" for number in itertools.count(next_number(folder)))


def names_under(number: int, taken: set[str]) -> Iterator[str]:
    """Names of shards under one number, which nobody else uses: shard-000012.h5, shard-000012-01.h5, … without those taken."""
    parts = ("" if part == 0 else f"-{part:02d}" for part in itertools.count())
    return (name for part in parts if (name := f"shard-{number:06d}{part}.h5") not in taken)


class OpenShards:
    """One unfinished shard for every layout; what is laid into them, and in which order, alone decides their bytes."""

    def __init__(
        self, folder: Path, names: Iterator[str], shard_bytes: float, settings: dict[str, Any], finished: list[str]
    ) -> None:
        """`names` are the shards' names to come; `finished` gets the names of those that are closed."""
        self._folder, self._names, self._shard_bytes, self._settings = folder, names, shard_bytes, settings
        self._finished = finished
        self._writers: dict[tuple[Any, ...], ShardWriter] = {}

    def add(self, item: ShardObject) -> None:
        """Lays an object into the open shard of its layout, or into a new one where there is none or that is full."""
        writer = self._writers.get(item.layout)
        if writer and writer.size >= self._shard_bytes:
            self._close(item.layout)
            writer = None
        if writer is None:
            if len(self._writers) == MOST_OPEN:
                self._close(next(iter(self._writers)))
            writer = self._writers[item.layout] = ShardWriter(self._folder / next(self._names), self._settings)
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
