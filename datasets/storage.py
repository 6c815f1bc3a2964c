"""Where a shard's bytes come from: a memory map of a file here, or ranged reads of a URL through a cache of bounded size.

The cache is a folder of blocks, `<folder>/<shard's key>/<block number>`, that any number of processes share: a block is
written under a temporary name and renamed, the least recently used ones go when there is no room. A shard's key is made of
the hash in its first 512 bytes, which are always read from the URL, so that
what is left of a shard that was replaced is never taken for the new one's.
Nothing here judges content: that is checked, piece by piece, by whoever reads a shard, who asks for `again` what does not fit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from turntable.errors import UserError
from turntable.files import disk_errors, is_local

HEADER = 512
"""The first bytes of a shard, by which the cache tells one from another."""
_WAITS = (0.5, 2.0)
"""Seconds between one try to read from a URL and the next."""
_LONGEST_RUN = 32
"""Blocks asked for in one request."""


class ShardError(UserError):
    """A shard that cannot be read, or content of one that is not what was written."""


class Content(Protocol):
    """The bytes of one shard."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, start: int, count: int) -> np.ndarray:
        """(count,) uint8, read-only. Raises ShardError where there are not as many."""

    def again(self, start: int, count: int) -> np.ndarray:
        """The same, from where they really are: what was kept of them did not fit its checksum."""


def open_content(path: Path, cache: BlockCache) -> Content:
    """A shard's bytes. Raises ShardError."""
    return Mapped(path) if is_local(path) else Remote(path, cache)


class Mapped:
    """A file of this machine, as a memory map."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as handle:
                if os.fstat(handle.fileno()).st_size == 0:
                    raise ShardError(f"{path}: is empty, not a turntable shard; delete it and preprocess again")
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ShardError(f"{path}: no such shard") from None
        except OSError as error:
            raise ShardError(f"{path}: cannot be opened ({error})") from error

    def __len__(self) -> int:
        return len(self._map)

    def read(self, start: int, count: int) -> np.ndarray:
        """See `Content`."""
        if not 0 <= start <= start + count <= len(self._map):
            raise ShardError(f"{self.path}: has no bytes {start} to {start + count}")
        return np.frombuffer(self._map, np.uint8, count, start)

    again = read


@dataclass(frozen=True)
class BlockCache:
    """Parts of remote shards, kept on a disk here and shared by all processes."""

    cache_folder: Path = field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "turntable" / "shards"
    )
    """Where shards at URLs keep what was read of them."""
    cache_bytes: float = 20e9
    """Most bytes in that folder."""
    cache_block: int = 1 << 20
    """Bytes a block: what is read from a URL at least."""

    def __post_init__(self) -> None:
        if self.cache_block < 1 or self.cache_bytes < 64 * self.cache_block:
            raise ValueError(
                f"a cache of {self.cache_bytes:.0f} bytes holds less than 64 blocks of {self.cache_block}; allow it more"
            )

    def get(self, key: str, number: int) -> bytes | None:
        """A block, if it is kept; it counts as used now."""
        path = self._path(key, number)
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:  # never kept, or just now evicted by another process
            return None
        return content

    def put(self, key: str, number: int, content: bytes) -> None:
        """Keeps a block; those unused for longest make room for it."""
        path = self._path(key, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as usage, disk_errors(path):
            taken = int(usage.read() or 0)
            if taken + len(content) > self.cache_bytes:
                taken = self._evict(0.9 * self.cache_bytes - len(content))
            usage.seek(0)
            usage.truncate()
            # Counted before it is there: a process killed in between leaves a count too high, which the next eviction corrects.
            usage.write(str(taken + len(content)))
            usage.flush()
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(content)
            temporary.replace(path)

    def drop(self, key: str, first: int, end: int) -> None:
        """Forgets blocks whose content did not fit."""
        for number in range(first, end):
            self._path(key, number).unlink(missing_ok=True)

    def _path(self, key: str, number: int) -> Path:
        return self.cache_folder / key / f"{number:08d}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Any]:
        """The file that says how many bytes are kept, while no other process may change it."""
        self.cache_folder.mkdir(parents=True, exist_ok=True)
        with (self.cache_folder / "usage").open("a+") as usage:
            fcntl.flock(usage, fcntl.LOCK_EX)
            usage.seek(0)
            yield usage

    def _evict(self, room: float) -> int:
        """Deletes the blocks unused for longest until the rest take no more than `room` bytes; returns what they take."""
        blocks = []
        for folder in self.cache_folder.iterdir():
            for entry in os.scandir(folder) if folder.is_dir() else ():
                status = entry.stat()
                blocks.append((status.st_mtime_ns, status.st_size, entry.path))
        taken = sum(size for _, size, _ in blocks)
        for _, size, path in sorted(blocks):
            if taken <= room:
                break
            Path(path).unlink(missing_ok=True)
            taken -= size
        return taken


class Remote:
    """A shard at a URL that fsspec knows. Reads only the blocks that are asked for, each once while the cache has room for it."""

    def __init__(self, path: Path, cache: BlockCache) -> None:
        self.path, self.cache = path, cache
        remote: Any = path
        # An instance of this process: fsspec's network loops do not survive a fork.
        self._system = type(remote.fs)(**remote.storage_options)
        self._name = remote.path if remote.protocol not in ("http", "https") else str(remote)
        self._length = self._size()
        header = self._fetch(0, min(HEADER, self._length))
        self._key = hashlib.sha256(header + str(self._length).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, count: int) -> np.ndarray:
        """See `Content`."""
        if not 0 <= start <= start + count <= self._length:
            raise ShardError(f"{self.path}: has no bytes {start} to {start + count}")
        if count == 0:
            return np.empty(0, np.uint8)
        block = self.cache.cache_block
        first, end = start // block, -(-(start + count) // block)
        content = b"".join(self._blocks(first, end))
        return np.frombuffer(content, np.uint8, count, start - first * block)

    def again(self, start: int, count: int) -> np.ndarray:
        """See `Content`."""
        self.cache.drop(self._key, start // self.cache.cache_block, -(-(start + count) // self.cache.cache_block))
        return self.read(start, count)

    def forget(self) -> None:
        """Drops all that the cache keeps of this shard."""
        self.cache.drop(self._key, 0, -(-self._length // self.cache.cache_block))

    def _blocks(self, first: int, end: int) -> Iterator[bytes]:
        """The blocks first … end - 1; neighbours that are not kept are fetched together."""
        number = first
        while number < end:
            kept = self._kept(number)
            if kept is not None:
                yield kept
                number += 1
                continue
            stop = number + 1
            while stop < min(end, number + _LONGEST_RUN) and self._kept(stop) is None:
                stop += 1
            block = self.cache.cache_block
            content = self._fetch(number * block, min(stop * block, self._length))
            for place in range(number, stop):
                part = content[(place - number) * block : (place - number + 1) * block]
                self.cache.put(self._key, place, part)
                yield part
            number = stop

    def _kept(self, number: int) -> bytes | None:
        kept = self.cache.get(self._key, number)
        whole = min(self.cache.cache_block, self._length - number * self.cache.cache_block)
        return kept if kept is not None and len(kept) == whole else None

    def _size(self) -> int:
        size = self._tried(lambda: self._system.info(self._name)["size"])
        if not size:
            raise ShardError(f"{self.path}: is empty or its length is not told; not a turntable shard")
        return int(size)

    def _fetch(self, start: int, end: int) -> bytes:
        content = cast(bytes, self._tried(lambda: self._system.cat_file(self._name, start=start, end=end)))
        if len(content) != end - start:
            raise ShardError(
                f"{self.path}: gave {len(content)} bytes where bytes {start} to {end} were asked for; its server must know "
                "range requests, or copy the shards to this machine"
            )
        return content

    def _tried(self, ask: Any) -> Any:
        for wait in (*_WAITS, None):
            try:
                return ask()
            except FileNotFoundError:
                raise ShardError(f"{self.path}: no such shard") from None
            except Exception as error:  # each store has errors of its own
                if wait is None or isinstance(error, PermissionError):
                    raise ShardError(f"{self.path}: cannot be read ({type(error).__name__}: {error})") from error
                time.sleep(wait)


class ContentFile(io.RawIOBase):
    """A shard's bytes as a file that h5py reads."""

    def __init__(self, content: Content) -> None:
        self._content, self._position = content, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), len(self._content) - self._position), 0)
        view[:count] = self._content.read(self._position, count).data
        self._position += count
        return count
