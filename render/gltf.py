"""What a .glb file says of itself, checked before Blender sees it: whole, self-contained, of sensible size, finite."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from turntable.jobs import ItemError

MAX_NODES = 20_000
"""Blender's import slows with the square of the node count: 70,000 take minutes."""
_FLOAT = 5126


def inspect(path: Path) -> dict[str, int]:
    """Counts of nodes, textures and animations. Anything that must not reach Blender is an `ItemError` `bad-asset`."""
    content = read_json_chunk(path)
    nodes = len(_listed(path, content, "nodes"))
    if nodes > MAX_NODES:
        raise _bad(path, f"{nodes} nodes, more than {MAX_NODES}; Blender would import it for minutes")
    for part in _listed(path, content, "buffers") + _listed(path, content, "images"):
        uri = part.get("uri")
        if uri and not str(uri).startswith("data:"):
            raise _bad(path, f"refers to another file ({str(uri)[:80]!r}); only whole files are read")
    _check_finite(path, content)
    return {name: len(_listed(path, content, name)) for name in ("nodes", "textures", "animations")}


def read_json_chunk(path: Path) -> dict[str, Any]:
    """The JSON chunk. A file that is cut off, or no glb, is an `ItemError` that says which."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(20)
        if head[:4] != b"glTF":
            what = "an HTML page" if b"<" in head.lstrip()[:1] else f"beginning with {head[:8]!r}" if head else "empty"
            raise _bad(path, f"not a glb file but {what}; delete it and download it again")
        if len(head) < 20:
            raise _bad(path, f"cut off within its header ({size} bytes); delete it and download it again")
        version, length, chunk, kind = struct.unpack("<III4s", head[4:])
        if version != 2 or kind != b"JSON":
            raise _bad(path, f"glb version {version} with a first chunk {kind!r}; version 2 is read")
        if length > size or chunk + 20 > size:
            raise _bad(path, f"cut off, {size} of {max(length, chunk + 20)} bytes; delete it and download it again")
        text = handle.read(chunk)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its JSON chunk does not parse ({error})") from error
    if not isinstance(content, dict):
        raise _bad(path, "its JSON chunk is no object")
    return content


def _bad(path: Path, what: str) -> ItemError:
    return ItemError("bad-asset", f"{path}: {what}")


def _listed(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = content.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise _bad(path, f"its JSON chunk's {name} is not a list of objects")
    return values


def _check_finite(path: Path, content: dict[str, Any]) -> None:
    """Blender's importer puts vertices that are no numbers at the origin without a word; here they are refused."""
    broken = total = 0
    for number in _position_accessors(path, content):
        # Compressed or malformed accessors have no plain numbers to look at: that is for the importer to judge.
        try:
            positions = _floats(path, content, number)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue
        broken += int((~np.isfinite(positions)).any(axis=1).sum())
        total += len(positions)
    if broken:
        raise _bad(path, f"{broken} of {total} vertices are not finite numbers")


def _position_accessors(path: Path, content: dict[str, Any]) -> list[Any]:
    primitives = [part for mesh in _listed(path, content, "meshes") for part in _listed(path, mesh, "primitives")]
    attributes = [part.get("attributes") for part in primitives]
    return list(
        {str(a["POSITION"]): a["POSITION"] for a in attributes if isinstance(a, dict) and "POSITION" in a}.values()
    )


def _floats(path: Path, content: dict[str, Any], number: int) -> np.ndarray:
    """(N, 3) float32 of a plain accessor into the binary chunk."""
    accessor = content["accessors"][number]
    view = content["bufferViews"][accessor["bufferView"]]
    if accessor["componentType"] != _FLOAT or view["buffer"] != 0 or "uri" in content["buffers"][0]:
        raise ValueError("not floats of the binary chunk")
    count, stride = accessor["count"], view.get("byteStride", 12)
    with path.open("rb") as handle:
        handle.seek(12)
        json_length = struct.unpack("<I", handle.read(4))[0]
        handle.seek(20 + json_length + 8 + view.get("byteOffset", 0) + accessor.get("byteOffset", 0))
        data = handle.read((count - 1) * stride + 12)
    return np.ndarray((count, 3), "<f4", data, strides=(stride, 4))
