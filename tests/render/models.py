"""Small .glb files and caches for tests, written by hand so that nothing under test makes its own input."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

Box = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
"""Lower corner, upper corner (glTF's frame, +y up), linear RGB."""

BRACKET: list[Box] = [
    ((0.0, 0.0, 0.0), (2.0, 0.3, 0.4), (0.8, 0.1, 0.1)),
    ((0.0, 0.3, 0.0), (0.3, 1.5, 0.4), (0.1, 0.7, 0.1)),
    ((0.0, 0.0, 0.4), (0.5, 0.3, 1.3), (0.1, 0.2, 0.8)),
]
"""Three arms of different lengths: no mirror image or turn of it is itself."""


def box_mesh(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(8, 3) corners and (12, 3) outward faces."""
    corners = np.array([[(low, high)[i >> a & 1][a] for a in range(3)] for i in range(8)], np.float32)
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    return corners, np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))], np.uint32)


class Gltf:
    """A glTF file in the making: its JSON (`content`), which a test may bend, and its binary chunk."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.content |= {name: [] for name in ("nodes", "meshes", "materials", "accessors", "bufferViews")}
        self.binary = b""

    def accessor(self, values: np.ndarray, kind: str) -> int:
        component = {"float32": 5126, "uint32": 5125, "uint8": 5121}[values.dtype.name]
        start = len(self.binary)
        self.binary += values.tobytes() + b"\0" * (-values.nbytes % 4)
        self.content["bufferViews"].append({"buffer": 0, "byteOffset": start, "byteLength": values.nbytes})
        flat = values.reshape(len(values), -1)
        record = {"bufferView": len(self.content["bufferViews"]) - 1, "componentType": component, "count": len(values)}
        record |= {"type": kind, "min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}
        self.content["accessors"].append(record)
        return len(self.content["accessors"]) - 1

    def mesh(self, vertices: np.ndarray, faces: np.ndarray | None, colour: tuple[float, ...] = (0.8, 0.8, 0.8)) -> int:
        primitive: dict[str, Any] = {
            "attributes": {"POSITION": self.accessor(np.asarray(vertices, np.float32), "VEC3")}
        }
        if faces is None:
            primitive["mode"] = 0  # points
        else:
            primitive["indices"] = self.accessor(np.asarray(faces, np.uint32).reshape(-1), "SCALAR")
        surface = {"baseColorFactor": [*colour, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.9}
        self.content["materials"].append({"pbrMetallicRoughness": surface})
        primitive["material"] = len(self.content["materials"]) - 1
        self.content["meshes"].append({"primitives": [primitive]})
        return len(self.content["meshes"]) - 1

    def node(self, root: bool = True, **fields: Any) -> int:
        self.content["nodes"].append(fields)
        if root:
            self.content["scenes"][0]["nodes"].append(len(self.content["nodes"]) - 1)
        return len(self.content["nodes"]) - 1

    def animate(self, node: int, path: str, values: list[list[float]]) -> None:
        """Keyframes at whole seconds."""
        times = self.accessor(np.arange(len(values), dtype=np.float32), "SCALAR")
        sampler = {"input": times, "output": self.accessor(np.array(values, np.float32), f"VEC{len(values[0])}")}
        channel = {"sampler": 0, "target": {"node": node, "path": path}}
        self.content.setdefault("animations", []).append({"samplers": [sampler], "channels": [channel]})

    def data(self) -> bytes:
        content = {k: v for k, v in self.content.items() if v != []}
        if self.binary:
            content.setdefault("buffers", [{"byteLength": len(self.binary)}])
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        if self.binary:
            chunks += struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data())
        return path


def boxes(parts: list[Box], scale: float = 1.0, **fields: Any) -> Gltf:
    """A glTF with one root node a box."""
    gltf = Gltf()
    for low, high, colour in parts:
        vertices, faces = box_mesh(low, high)
        gltf.node(mesh=gltf.mesh(vertices * scale, faces, colour), **fields)
    return gltf


def bracket(stretch: float = 1.0) -> Gltf:
    """The bracket, its long arm stretched."""
    (low, high, colour), *others = BRACKET
    return boxes([(low, (high[0] * stretch, *high[1:]), colour), *others])


def rigged() -> Gltf:
    """A box that hangs on two bones."""
    asset = Gltf()
    vertices, faces = box_mesh((0, 0, 0), (1, 3, 1))
    mesh = asset.mesh(vertices, faces)
    attributes = asset.content["meshes"][mesh]["primitives"][0]["attributes"]
    attributes["JOINTS_0"] = asset.accessor(np.tile(np.array([[0, 1, 0, 0]], np.uint8), (8, 1)), "VEC4")
    attributes["WEIGHTS_0"] = asset.accessor(np.tile(np.array([[0.5, 0.5, 0, 0]], np.float32), (8, 1)), "VEC4")
    tip = asset.node(root=False, translation=[0, 30, 0])
    base = asset.node(children=[tip])
    asset.node(mesh=mesh, skin=0)
    inverse = np.tile(np.eye(4, dtype=np.float32).reshape(1, 16), (2, 1))
    inverse[1, 13] = -30
    asset.content["skins"] = [{"joints": [base, tip], "inverseBindMatrices": asset.accessor(inverse, "MAT4")}]
    return asset


def write_cache(folder: Path, models: dict[str, bytes]) -> Path:
    """An Objaverse cache that holds `models` (uid -> content of its .glb), all of them of LVIS class `chair`."""
    paths = {uid: f"glbs/000-000/{uid}.glb" for uid in models}
    records = {uid: {"name": f"Model {uid}", "license": "by", "user": {"displayName": "Ada"}} for uid in models}
    tables = {"object-paths": paths, "lvis-annotations": {"chair": list(models)}, "metadata/000-000": records}
    for name, table in tables.items():
        path = folder / f"{name}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(table).encode()))
    for uid, content in models.items():
        path = folder / paths[uid]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
