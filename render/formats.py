"""The formats that assets are read from, and whether a file's content is what its suffix says, whole. Needs no Blender."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from turntable.jobs import ItemError

SUFFIXES: tuple[str, ...] = (
    ".glb",
    ".gltf",
    ".obj",
    ".fbx",
    ".stl",
    ".ply",
    ".usd",
    ".usda",
    ".usdc",
    ".usdz",
    ".dae",
    ".abc",
    ".blend",
)
"""Suffixes of asset files, lower case, in the order in which one is preferred where a folder has the same asset twice."""


@dataclass(frozen=True)
class Bounds:
    """What is too much for one asset; it then fails with `bad-asset` before Blender sees it."""

    max_asset_mb: float = 2048.0
    """Largest file, and largest file beside it that it is made of, megabytes."""
    max_nodes: int = 10_000
    """Most nodes of a glTF file. Blender makes an object of each: one with 10,000 took three times as long to load
    as one with 2,500, one with 20,000 twenty times. The most in 632 of Objaverse's models is 123."""

    def __post_init__(self) -> None:
        if not (self.max_asset_mb > 0 and self.max_nodes > 0):
            raise ValueError(f"max_asset_mb and max_nodes must be positive, got {self.max_asset_mb}, {self.max_nodes}")


BOUNDS = Bounds()
"""The usual ones."""
AGAIN = "delete it and download it again"
_HEAD = 4096
_SIGNATURES: dict[str, bytes] = {
    "a .glb file": rb"glTF",
    "a binary .fbx file": rb"Kaydara FBX Binary",
    "a .fbx file in text": rb"; FBX \d",
    "a .blend file": rb"BLENDER",
    "a binary .usd file": rb"PXR-USDC",
    "a .usd file in text": rb"#usda ",
    "a .ply file": rb"ply\r?\n",
    "an Alembic file": rb"Ogawa|\x89HDF\r\n\x1a\n",
    "an HTML page": rb"\s*(<!doctype html|<html|<head|<body|<!-- *<)",
    "XML": rb"(\xef\xbb\xbf)?\s*<[?!a-z]",
    "a zip archive": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
    "something compressed by zstd": rb"\x28\xb5\x2f\xfd",
    "a RAR archive": rb"Rar!",
    "a 7z archive": rb"7z\xbc\xaf",
    "a PNG picture": rb"\x89PNG",
    "a JPEG picture": rb"\xff\xd8\xff",
    "a PDF document": rb"%PDF",
    "a program": rb"\x7fELF|MZ",
    "a Git LFS pointer instead of the file": rb"version https://git-lfs",
    "JSON": rb"\s*[{\[]",
}
"""What a file is -> a regular expression for its beginning, small letters or not; the first that fits."""
_ACCEPTED: dict[str, set[str]] = {
    ".glb": {"a .glb file"},
    ".gltf": {"JSON"},
    ".fbx": {"a binary .fbx file", "a .fbx file in text"},
    ".ply": {"a .ply file"},
    ".usd": {"a binary .usd file", "a .usd file in text"},
    ".usda": {"a .usd file in text"},
    ".usdc": {"a binary .usd file"},
    ".usdz": {"a zip archive"},
    ".dae": {"XML"},
    ".abc": {"an Alembic file"},
    ".blend": {"a .blend file", "a gzip archive", "something compressed by zstd"},
    # Without a signature of their own: anything but what is known to be something else.
    ".obj": {""},
    ".stl": {""},
}


def bad(path: Path, what: str) -> ItemError:
    """The failure of a file that must not, or need not, reach Blender."""
    return ItemError("bad-asset", f"{path}: {what}")


def check_size(path: Path, file: Path, bounds: Bounds) -> None:
    """Refuses the asset `path` for the size of `file`: its own, or one beside it."""
    size = file.stat().st_size / 1e6
    if size > bounds.max_asset_mb:
        what = "" if file == path else f"{file.name} beside it has "
        raise bad(path, f"{what}{size:.3g} MB, more than {bounds.max_asset_mb:g}; --max-asset-mb allows more")


def identify(head: bytes) -> str:
    """What a file that begins so is, in words; empty where it is nothing that we know."""
    found = (name for name, signature in _SIGNATURES.items() if re.match(signature, head, re.IGNORECASE))
    return next(found, "")


def check(path: Path, bounds: Bounds) -> None:
    """Raises `ItemError` `bad-asset` unless the file is what its suffix says, not too large, and seems whole."""
    suffix, size = path.suffix.lower(), path.stat().st_size
    check_size(path, path, bounds)
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
    found = identify(head)
    if found not in _ACCEPTED.get(suffix, {""}) and not (suffix == ".stl" and _stl_triangles(head, size) is not None):
        what = "empty" if not head else f"{found}" if found else f"beginning with {head[:8]!r}"
        raise bad(path, f"not a {suffix[1:]} file but {what}; {AGAIN}, or give it its right suffix")
    complaint = _WHOLE[suffix](path, head, size) if suffix in _WHOLE else None
    if complaint:
        raise bad(path, f"{complaint}; {AGAIN}")


def _obj(path: Path, head: bytes, size: int) -> str | None:
    """Text, and some line is a vertex."""
    if b"\0" in head:
        return "not an obj file but something binary"
    with path.open("rb") as handle:
        if any(line.startswith((b"v ", b"v\t")) for line in handle):
            return None
    return f"no vertex in its {size} bytes: no obj file, or only the beginning of one"


def _stl_triangles(head: bytes, size: int) -> int | None:
    """Triangles that a binary .stl file states; None where its size says that it is not one."""
    if len(head) < 84:
        return None
    count = struct.unpack_from("<I", head, 80)[0]
    return count if size >= 84 + 50 * count else None


def _stl(path: Path, head: bytes, size: int) -> str | None:
    if _stl_triangles(head, size) is not None:
        return None
    if head.lstrip()[:5].lower() != b"solid":
        stated = struct.unpack_from("<I", head, 80)[0] if len(head) >= 84 else 0
        return f"cut off, {size} of {84 + 50 * stated} bytes" if stated else "neither a binary nor a text .stl file"
    return None if b"endsolid" in _tail(path, size).lower() else "cut off: its text does not end with endsolid"


_PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}


def _ply(path: Path, head: bytes, size: int) -> str | None:
    """The header ends, and there are at least as many bytes as its elements take; a list takes at least its count."""
    text, end, _ = head.partition(b"end_header")
    if not end:
        return "its header does not end"
    binary, least, count, row = b"format ascii" not in text, 0, 0, 0
    for line in text.decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            least, count, row = least + count * row, int(words[2]), 0
        elif words[:1] == ["property"] and len(words) >= 3:
            # In text a value takes a digit and a space.
            row += _PLY_BYTES.get(words[2 if words[1] == "list" else 1], 1) if binary else 2
    least += count * row + len(text)
    return f"cut off, {size} of at least {least} bytes" if size < least else None


def _fbx(path: Path, head: bytes, size: int) -> str | None:
    """The binary form is a chain of records, each with the place of the next, that ends with an empty one."""
    if not head.startswith(b"Kaydara"):
        return None
    layout, place = ("<Q", 27) if struct.unpack_from("<I", head.ljust(27, b"\0"), 23)[0] >= 7500 else ("<I", 27)
    with path.open("rb") as handle:
        while True:
            handle.seek(place)
            field = handle.read(struct.calcsize(layout))
            after = struct.unpack(layout, field)[0] if len(field) == struct.calcsize(layout) else size + 1
            if after > size:
                return f"cut off at {size} bytes"
            if after == 0:
                return None
            if after <= place:
                return "damaged: its records run in a circle"
            place = after


def _usdc(path: Path, head: bytes, size: int) -> str | None:
    """Its table of contents is its last part."""
    if not head.startswith(b"PXR-USDC"):
        return None
    contents = struct.unpack_from("<q", head.ljust(24, b"\0"), 16)[0]
    return None if 0 < contents < size else f"cut off at {size} bytes"


def _usdz(path: Path, head: bytes, size: int) -> str | None:
    """A zip archive whose members are stored, and lie where they say."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        return f"damaged or cut off ({error})"
    if not members or not members[0].filename.lower().endswith((".usd", ".usda", ".usdc")):
        return "its first member is no usd file"
    odd = [m.filename for m in members if m.compress_type or m.flag_bits & 1 or m.compress_size != m.file_size]
    return f"its member {odd[0]!r} is compressed or encrypted, which usdz forbids" if odd else None


def _abc(path: Path, head: bytes, size: int) -> str | None:
    """Ogawa's sixth byte is set last, when the file is closed."""
    return "not closed by its writer, or cut off" if head.startswith(b"Ogawa") and head[5:6] != b"\xff" else None


def _dae(path: Path, head: bytes, size: int) -> str | None:
    if b"<COLLADA" not in head:
        return "XML, but no COLLADA document"
    return None if b"</COLLADA>" in _tail(path, size) else "cut off: its XML does not end"


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(max(size - 1024, 0))
        return handle.read()


_WHOLE: dict[str, Callable[[Path, bytes, int], str | None]] = {
    ".obj": _obj,
    ".stl": _stl,
    ".ply": _ply,
    ".fbx": _fbx,
    ".usd": _usdc,
    ".usdc": _usdc,
    ".usdz": _usdz,
    ".abc": _abc,
    ".dae": _dae,
}
"""Suffix -> what is wrong with a file of it, given its beginning and its size; None where nothing shows."""
