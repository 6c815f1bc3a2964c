"""What a .glb or .gltf file says of itself, checked before Blender sees it: whole, of sensible size, finite, its files beside it."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from render import references, texture_sizes
from render.formats import AGAIN, BOUNDS, Bounds, bad, check_size
from turntable.errors import UserError

_FLOAT = 5126


def inspect(path: Path, bounds: Bounds = BOUNDS) -> dict[str, int]:
    """Counts of nodes, textures and animations. Anything that must not reach Blender is an `ItemError` `bad-asset`."""
    content, start = read_json(path)
    nodes = len(_listed(path, content, "nodes"))
    if nodes > bounds.max_nodes:
        why = "Blender would import it for minutes (--max-nodes lets it)"
        raise bad(path, f"{nodes} nodes, more than {bounds.max_nodes}; {why}")
    buffers = _Buffers(path, _listed(path, content, "buffers"), start, bounds)
    _check_pictures(path, content, buffers)
    _check_finite(path, content, buffers)
    return {name: len(_listed(path, content, name)) for name in ("nodes", "textures", "animations")}


def read_json(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON document, and for .glb the place of the binary chunk's content. A file that is cut off is an `ItemError`."""
    text, start = _json_chunk(path) if path.suffix.lower() == ".glb" else (path.read_bytes(), 0)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(path, f"its JSON does not parse ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise bad(path, "its JSON is no object")
    return content, start


def _json_chunk(path: Path) -> tuple[bytes, int]:
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(20)
        if len(head) < 20:
            raise bad(path, f"cut off within its header ({size} bytes); {AGAIN}")
        version, length, chunk, kind = struct.unpack("<III4s", head[4:])
        if version != 2 or kind != b"JSON":
            raise bad(path, f"glb version {version} with a first chunk {kind!r}; version 2 is read")
        if length > size or chunk + 20 > size:
            raise bad(path, f"cut off, {size} of {max(length, chunk + 20)} bytes; {AGAIN}")
        return handle.read(chunk), 20 + chunk + 8


def _listed(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = content.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise bad(path, f"its JSON's {name} is not a list of objects")
    return values


class _Buffers:
    """The binary data of a document: in its own chunk, in a file beside it, or written out in its JSON."""

    def __init__(self, path: Path, buffers: list[dict[str, Any]], start: int, bounds: Bounds) -> None:
        self._places = [self._place(path, buffer, start, bounds) for buffer in buffers]

    @staticmethod
    def _place(path: Path, buffer: dict[str, Any], start: int, bounds: Bounds) -> tuple[Path, int] | bytes:
        uri, length = buffer.get("uri"), buffer.get("byteLength")
        if uri is None:
            return path, start
        if str(uri).startswith("data:"):
            return data_uri(path, str(uri))
        file = _beside(path, str(uri))
        if not file.is_file():
            raise bad(path, f"its buffer {uri!r} is not beside it; download the whole folder")
        check_size(path, file, bounds)
        if isinstance(length, int) and file.stat().st_size < length:
            raise bad(path, f"its buffer {uri!r} is cut off, {file.stat().st_size} of {length} bytes; {AGAIN}")
        return file, 0

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of the buffer `number`, fewer where it ends before."""
        if number < 0 or offset < 0 or length < 0:
            raise ValueError("a negative place in a buffer")
        place = self._places[number]
        if isinstance(place, bytes):
            return place[offset : offset + length]
        with place[0].open("rb") as handle:
            handle.seek(place[1] + offset)
            return handle.read(length)


def data_uri(path: Path, uri: str) -> bytes:
    """What is written out in a `data:` address. One that is not base64 the importer would take for the name of a file."""
    kind, marker, text = uri.partition(";base64,")
    if not marker or "/.." in kind:
        raise bad(path, f"a data: address that is not base64 ({uri[:80]!r})")
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise bad(path, f"a data: address that is not base64 ({error})") from error


def _beside(path: Path, uri: str) -> Path:
    if path.suffix.lower() == ".glb":
        raise bad(path, f"refers to another file ({uri[:80]!r}); a glb is only read whole")
    try:
        return references.beside(path, uri, encoded=True)
    except UserError as error:
        raise bad(path, f"refers to a file outside its folder: {error}") from error


def _check_pictures(path: Path, content: dict[str, Any], buffers: _Buffers) -> None:
    """Refuses pictures that are too large or lie elsewhere. One that is missing is no reason to refuse the asset."""
    for number, image in enumerate(_listed(path, content, "images")):
        uri, view = image.get("uri"), image.get("bufferView")
        try:
            if isinstance(uri, str) and not uri.startswith("data:"):
                file = _beside(path, uri)
                if file.is_file():
                    texture_sizes.file_size(file)
            elif isinstance(uri, str):
                texture_sizes.bytes_size(f"image {number}", data_uri(path, uri))
            elif isinstance(view, int):
                texture_sizes.bytes_size(str(image.get("name", f"image {number}")), _view(content, buffers, view))
        except (IndexError, KeyError, TypeError):
            continue  # malformed: for the importer to judge
        except UserError:
            raise
        except ValueError as error:
            raise bad(path, str(error)) from error


def _view(content: dict[str, Any], buffers: _Buffers, number: int) -> bytes:
    view = content["bufferViews"][number]
    return buffers.read(view["buffer"], view.get("byteOffset", 0), view["byteLength"])


def _check_finite(path: Path, content: dict[str, Any], buffers: _Buffers) -> None:
    """Blender's importer puts vertices that are no numbers at the origin without a word; here they are refused."""
    broken = total = 0
    for number in set(_position_accessors(path, content)):
        # Compressed or malformed accessors have no plain numbers to look at: that is for the importer to judge.
        try:
            positions = _floats(content, buffers, number)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue
        broken += int((~np.isfinite(positions)).any(axis=1).sum())
        total += len(positions)
    if broken:
        raise bad(path, f"{broken} of {total} vertices are not finite numbers")


def _position_accessors(path: Path, content: dict[str, Any]) -> Iterator[int]:
    for mesh in _listed(path, content, "meshes"):
        for part in _listed(path, mesh, "primitives"):
            attributes = part.get("attributes")
            if isinstance(attributes, dict) and isinstance(attributes.get("POSITION"), int):
                yield attributes["POSITION"]


def _floats(content: dict[str, Any], buffers: _Buffers, number: int) -> np.ndarray:
    """(N, 3) float32 of a plain accessor."""
    accessor = content["accessors"][number]
    view = content["bufferViews"][accessor["bufferView"]]
    if accessor["componentType"] != _FLOAT:
        raise ValueError("not floats")
    count, stride = accessor["count"], view.get("byteStride", 12)
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    data = buffers.read(view["buffer"], start, (count - 1) * stride + 12)
    return np.ndarray((count, 3), "<f4", data, strides=(stride, 4))
