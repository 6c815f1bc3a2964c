"""How large a picture is, from its header alone: what would fill the memory is refused before anything is decoded."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MAX_PIXELS = 1 << 28
"""Most pixels of one texture (16384²): a gibibyte once decoded, four if in floating point."""
_HEAD = 1 << 16

Size = tuple[int, int]


def refuse_large(name: str, stream: BinaryIO) -> Size | None:
    """Width and height of the picture in `stream`; None where it is no picture of a known kind. `ValueError` if too large."""
    size = picture_size(stream)
    if size and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"texture {name!r} has {size[0]}×{size[1]} pixels, more than {MAX_PIXELS}; refused")
    return size


def file_size(path: Path) -> Size | None:
    """`refuse_large` of a file."""
    with path.open("rb") as stream:
        return refuse_large(path.name, stream)


def bytes_size(name: str, content: bytes) -> Size | None:
    """`refuse_large` of a file's content."""
    return refuse_large(name, io.BytesIO(content))


def picture_size(stream: BinaryIO) -> Size | None:
    """Width and height by the header; None where the header is none that we know, or is cut off."""
    head = stream.read(_HEAD)
    try:
        for signature, size_of in _BY_SIGNATURE:
            if re.match(signature, head, re.DOTALL):
                return size_of(head, stream)
        return _tga(head)
    except (struct.error, IndexError, ValueError):
        return None


def _at(layout: str, start: int) -> Callable[[bytes, BinaryIO], Size]:
    """Width and height as two numbers at a fixed place."""

    def read(head: bytes, _: BinaryIO) -> Size:
        width, height = struct.unpack_from(layout, head, start)
        return abs(width), abs(height)

    return read


def _psd(head: bytes, _: BinaryIO) -> Size:
    height, width = struct.unpack_from(">II", head, 14)
    return width, height


def _dds(head: bytes, _: BinaryIO) -> Size:
    height, width = struct.unpack_from("<II", head, 12)
    return width, height


def _jpeg(_: bytes, stream: BinaryIO) -> Size | None:
    """Walks from marker to marker up to the frame's header; thumbnails lie inside other segments and are passed over."""
    position = 2
    for _segment in range(10_000):
        stream.seek(position)
        marker, kind, length = struct.unpack(">BBH", stream.read(4))
        if marker != 0xFF:
            return None
        if kind == 0xFF:  # filling
            position += 1
            continue
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", stream.read(5))
            return width, height
        position += 2 + length
    return None


def _webp(head: bytes, _: BinaryIO) -> Size | None:
    kind = head[12:16]
    if len(head) < 30:
        return None
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(head: bytes, stream: BinaryIO) -> Size | None:
    """Tags 256 and 257 of the first directory (Adobe, TIFF 6.0); BigTIFF is not read."""
    order = "<" if head[:2] == b"II" else ">"
    stream.seek(struct.unpack_from(order + "I", head, 4)[0])
    found: dict[int, int] = {}
    for _ in range(struct.unpack(order + "H", stream.read(2))[0]):
        entry = stream.read(12)
        tag, kind = struct.unpack_from(order + "HH", entry)
        found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), entry, 8)[0]
    return (found[256], found[257]) if {256, 257} <= set(found) else None


def _exr(head: bytes, _: BinaryIO) -> Size:
    start = head.index(b"dataWindow\0box2i\0") + 17 + 4
    left, top, right, bottom = struct.unpack_from("<iiii", head, start)
    return right - left + 1, bottom - top + 1


def _hdr(head: bytes, _: BinaryIO) -> Size | None:
    match = re.search(rb"\n[-+]Y (\d+) [-+]X (\d+)\n", head)
    return (int(match[2]), int(match[1])) if match else None


def _tga(head: bytes) -> Size | None:
    """Truevision's has no signature, but few values make sense in its first bytes."""
    kind, depth = head[2], head[16]
    if head[1] > 1 or kind not in (1, 2, 3, 9, 10, 11) or depth not in (8, 15, 16, 24, 32):
        return None
    width, height = struct.unpack_from("<HH", head, 12)
    return (width, height) if width and height else None


_BY_SIGNATURE: list[tuple[bytes, Callable[[bytes, BinaryIO], Size | None]]] = [
    (rb"\x89PNG\r\n\x1a\n", _at(">II", 16)),
    (rb"\xff\xd8\xff", _jpeg),
    (rb"RIFF....WEBP", _webp),
    (rb"II\*\0|MM\0\*", _tiff),
    (rb"\x76\x2f\x31\x01", _exr),
    (rb"#\?RADIANCE|#\?RGBE", _hdr),
    (rb"DDS ", _dds),
    (rb"8BPS", _psd),
    (rb"BM", _at("<ii", 18)),
    (rb"\0\0\0\x0cjP  \r\n\x87\n.*ihdr", lambda head, _: _at(">II", head.index(b"ihdr") + 4)(head, _)[::-1]),
]
"""Beginning of a file -> how to read its size."""
