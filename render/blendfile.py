"""What a .blend file says of itself, read without Blender: whole, its open scene, the other files it links to.

A .blend file is a chain of blocks: what they hold, where they lay in Blender's memory, their length. The block DNA1 describes every
structure (names, types, sizes). Compressed files are zstd (since 3.0) or gzip around the same.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from render import references
from render.formats import AGAIN, bad
from turntable.errors import UserError

MAX_UNPACKED = 16 << 30
_KEPT = {b"LI\0\0", b"GLOB", b"SC\0\0", b"DNA1"}
_MAX_KEPT = 16 << 20


@dataclass(frozen=True)
class BlendFile:
    """What we want to know of one."""

    scene: str
    """Name of the scene that was open when it was saved; empty where there is none."""
    libraries: list[str]
    """Other .blend files that it takes parts from, as it names them; `//` is its own folder."""


def inspect(path: Path) -> BlendFile:
    """Reads the blocks. A file that is cut off, or links to what lies outside its folder is an `ItemError` `bad-asset`."""
    return _inspect(path, {path.resolve()})


def _inspect(path: Path, seen: set[Path]) -> BlendFile:
    try:
        with _opened(path) as stream:
            found = _read(path, stream)
    except UserError:
        raise
    except (struct.error, IndexError, KeyError, StopIteration, EOFError, OSError, ValueError) as error:
        raise bad(path, f"cut off or damaged ({error or type(error).__name__}); {AGAIN}") from error
    for name in found.libraries:
        try:
            library = references.beside(path, name.removeprefix("//"))
        except UserError as error:
            raise bad(path, f"takes parts from a file outside its folder: {error}") from error
        # A library may have libraries of its own, which Blender would open as well.
        if library.is_file() and library.resolve() not in seen:
            seen.add(library.resolve())
            _inspect(library, seen)
    return found


def _opened(path: Path) -> Any:
    """The uncompressed stream."""
    with path.open("rb") as handle:
        head = handle.read(4)
    if head[:2] == b"\x1f\x8b":
        return gzip.open(path)
    if head == b"\x28\xb5\x2f\xfd":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return path.open("rb")


def _read(path: Path, stream: BinaryIO) -> BlendFile:
    layout = _header(path, stream)
    kept: list[tuple[bytes, int, bytes]] = []
    for code, old, length in _blocks(stream, layout):
        if code in _KEPT and length <= _MAX_KEPT:
            kept.append((code, old, _exactly(stream, length)))
        else:
            _skip(stream, length)
    dna = _Dna(next(data for code, _, data in kept if code == b"DNA1"), layout)
    scenes = {old: dna.text(data, "ID", "name")[2:] for code, old, data in kept if code == b"SC\0\0"}
    current = [dna.pointer(data, "FileGlobal", "curscene") for code, _, data in kept if code == b"GLOB"]
    scene = scenes.get(current[0] if current else 0, next(iter(scenes.values()), ""))
    libraries = [dna.text(data, "Library", "name", "filepath") for code, _, data in kept if code == b"LI\0\0"]
    return BlendFile(scene, libraries)


@dataclass(frozen=True)
class _Layout:
    """How numbers are written."""

    order: str
    """`<` or `>`."""
    pointer: int
    """Bytes of an address."""
    large: bool
    """Blocks with 64-bit lengths (Blender 5)."""


def _header(path: Path, stream: BinaryIO) -> _Layout:
    """`BLENDER-v405`, or since 5.0 `BLENDER17-01v0500`."""
    head = _exactly(stream, 12)
    old = re.fullmatch(rb"BLENDER([_-])([vV])\d{3}", head)
    if old:
        return _Layout("<" if old[2] == b"v" else ">", 8 if old[1] == b"-" else 4, False)
    if re.fullmatch(rb"BLENDER17-01v\d{4}", head + stream.read(5)):
        return _Layout("<", 8, True)
    raise bad(path, f"its header is {head!r}, which no Blender that we know writes; {AGAIN}")


def _blocks(stream: BinaryIO, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Code, address and length of every block; the caller reads or skips the content before it asks for the next."""
    address = "Q" if layout.pointer == 8 else "I"
    form = struct.Struct(layout.order + ("4sIQqq" if layout.large else f"4sI{address}II"))
    total = 0
    while True:
        head = form.unpack(_exactly(stream, form.size))
        code, old, length = head[0], head[2], head[3] if layout.large else head[1]
        if code == b"ENDB":
            return
        total += form.size + length
        if length < 0 or total > MAX_UNPACKED:
            raise struct.error(f"blocks of more than {MAX_UNPACKED} bytes")
        yield code, old, length


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("it ends before its last block")
    return data


def _skip(stream: BinaryIO, length: int) -> None:
    """Reads over it: compressed streams cannot jump, and a jump would not notice a file's end."""
    while length:
        length -= len(_exactly(stream, min(length, 1 << 20)))


class _Dna:
    """The file's own description of its structures."""

    def __init__(self, data: bytes, layout: _Layout) -> None:
        self.layout, self._data, self._place = layout, data, 4
        names, types = self._words(b"NAME"), self._words(b"TYPE")
        self._section(b"TLEN")
        self._sizes = dict(zip(types, self._numbers("H", len(types)), strict=True))
        self._section(b"STRC")
        self._fields: dict[str, list[tuple[str, str]]] = {}
        for _ in range(self._numbers("I", 1)[0]):
            kind, count = self._numbers("H", 2)
            pairs = self._numbers("H", 2 * count)
            fields = zip(pairs[::2], pairs[1::2], strict=True)
            self._fields[types[kind]] = [(types[t], names[n]) for t, n in fields]

    def text(self, data: bytes, structure: str, *fields: str) -> str:
        """A text, in the first of its fields that has one of the names."""
        start, name = self._find(structure, fields)
        length = int(re.findall(r"\[(\d+)\]", name)[0])
        return data[start : start + length].partition(b"\0")[0].decode("utf-8", "replace")

    def pointer(self, data: bytes, structure: str, field: str) -> int:
        """An address, as the block's own is written."""
        start, _ = self._find(structure, (f"*{field}",))
        return struct.unpack_from(self.layout.order + ("Q" if self.layout.pointer == 8 else "I"), data, start)[0]

    def _find(self, structure: str, wanted: tuple[str, ...]) -> tuple[int, str]:
        start = 0
        for kind, name in self._fields[structure]:
            if name.partition("[")[0] in wanted:
                return start, name
            size = self.layout.pointer if name.startswith(("*", "(*")) else self._sizes[kind]
            for count in re.findall(r"\[(\d+)\]", name):
                size *= int(count)
            start += size
        raise KeyError(f"{structure} has none of {wanted}")

    def _section(self, name: bytes) -> None:
        self._place += -self._place % 4
        if self._data[self._place : self._place + 4] != name:
            raise struct.error(f"no {name!r} where its structures are described")
        self._place += 4

    def _words(self, section: bytes) -> list[str]:
        self._section(section)
        words = []
        for _ in range(self._numbers("I", 1)[0]):
            end = self._data.index(b"\0", self._place)
            words.append(self._data[self._place : end].decode("latin-1"))
            self._place = end + 1
        return words

    def _numbers(self, kind: str, count: int) -> tuple[int, ...]:
        values = struct.unpack_from(f"{self.layout.order}{count}{kind}", self._data, self._place)
        self._place += struct.calcsize(kind) * count
        return values
