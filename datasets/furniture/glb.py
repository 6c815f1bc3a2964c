"""Binary glTF 2.0 from solids and materials: one mesh, one primitive a material, textures embedded as PNG.

Normals are smooth across edges that bend by less than `SMOOTH_DEG` and sharp across others. Texture coordinates are
projected along each face's dominant axis, in metres, with u along the part's longest side: wood grain runs the length of a plank.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.furniture.materials import Material
from datasets.furniture.shapes import Solid
from datasets.pictures import encode_png

SMOOTH_DEG = 50.0
GLTF_FROM_ASSET = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""(3, 3): our +z up and front at -y to glTF's +y up and front at +z."""
_FLOAT, _UINT32, _ARRAY, _ELEMENTS = 5126, 5125, 34962, 34963


@dataclass(frozen=True)
class Corners:
    """Triangles with a corner's attributes of their own, duplicates joined."""

    positions: np.ndarray
    """(N, 3) float32, metres, our axes."""
    normals: np.ndarray
    """(N, 3) float32, unit."""
    uvs: np.ndarray
    """(N, 2) float32, metres."""
    faces: np.ndarray
    """(F, 3) uint32."""


def corners(solid: Solid) -> Corners:
    """A solid with normals and texture coordinates, its vertices split where those differ."""
    points = solid.vertices[solid.faces]
    cross = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normals = _corner_normals(solid.faces, cross, _angles(points))
    uvs = _box_projection(points, cross)
    rows = np.concatenate([points.reshape(-1, 3), normals.reshape(-1, 3), uvs.reshape(-1, 2)], axis=1)
    unique, index = np.unique(np.round(rows.astype(np.float32), 6) + 0.0, axis=0, return_inverse=True)
    return Corners(unique[:, :3], unique[:, 3:6], unique[:, 6:], index.reshape(-1, 3).astype(np.uint32))


def _angles(points: np.ndarray) -> np.ndarray:
    """(F, 3, 3) triangles -> (F, 3) angle at each corner, radians."""
    ahead, behind = np.roll(points, -1, axis=1) - points, np.roll(points, 1, axis=1) - points
    sine = np.linalg.norm(np.cross(ahead, behind), axis=2)
    return np.arctan2(sine, (ahead * behind).sum(2))


def _corner_normals(faces: np.ndarray, cross: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(F, 3, 3): for each corner the mean normal of the faces round its vertex that bend little from its own.

    A face counts by its area, so that broad flats stay flat beside narrow rounded edges, and by its angle at the vertex, so
    that it does not matter along which diagonal a quadrilateral was cut.
    """
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)
    order = np.argsort(faces.reshape(-1), kind="stable")
    around = np.bincount(faces.reshape(-1))
    starts = np.repeat(np.cumsum(around) - around, around)
    counts = np.repeat(around, around)
    # Every pair (mine, theirs) of corners at one vertex.
    mine = np.repeat(np.arange(len(order)), counts)
    theirs = np.repeat(starts, counts) + np.arange(len(mine)) - np.repeat(np.cumsum(counts) - counts, counts)
    my_face, their_face = order[mine] // 3, order[theirs] // 3
    close = (unit[my_face] * unit[their_face]).sum(1) > np.cos(np.deg2rad(SMOOTH_DEG))
    summed = np.zeros((faces.size, 3))
    weighted = cross[their_face] * angles.reshape(-1)[order[theirs], None]
    np.add.at(summed, order[mine][close], weighted[close])
    return (summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-20)).reshape(-1, 3, 3)


def _box_projection(points: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """(F, 3, 3) triangles -> (F, 3, 2) in metres, from the part's corner, u along its longest side that the face shows."""
    low, high = points.reshape(-1, 3).min(0), points.reshape(-1, 3).max(0)
    by_length = np.argsort(-(high - low), kind="stable")
    facing = np.abs(cross).argmax(axis=1)
    axes = np.array([[a for a in by_length if a != axis] for axis in range(3)])[facing]
    return np.take_along_axis(points - low, axes[:, None, :].repeat(3, axis=1), axis=2)


def write_glb(parts: Sequence[tuple[Material, Solid]], name: str) -> bytes:
    """The content of a .glb: the solids in metres, grouped by material. Same input, same bytes."""
    return _Writer(name).write(parts)


class _Writer:
    def __init__(self, name: str) -> None:
        self._blob = bytearray()
        self._json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "Turntable procedural furniture"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"name": name, "mesh": 0}],
            "meshes": [{"name": name, "primitives": []}],
            "materials": [],
            "accessors": [],
            "bufferViews": [],
        }

    def write(self, parts: Sequence[tuple[Material, Solid]]) -> bytes:
        materials = list({material.name: material for material, _ in parts}.values())
        for index, material in enumerate(materials):
            group = [corners(solid) for owner, solid in parts if owner.name == material.name]
            self._json["materials"].append(self._material(material))
            self._json["meshes"][0]["primitives"].append({**self._primitive(group, material), "material": index})
        self._blob += b"\0" * (-len(self._blob) % 4)
        self._json["buffers"] = [{"byteLength": len(self._blob)}]
        text = json.dumps(self._json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self._blob), b"BIN\0") + bytes(self._blob)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def _primitive(self, group: list[Corners], material: Material) -> dict[str, Any]:
        starts = np.cumsum([0, *(len(c.positions) for c in group[:-1])])
        positions = np.concatenate([c.positions for c in group]) @ GLTF_FROM_ASSET.T
        normals = np.concatenate([c.normals for c in group]) @ GLTF_FROM_ASSET.T
        faces = np.concatenate([c.faces + start for c, start in zip(group, starts, strict=True)])
        attributes = {"POSITION": self._accessor(positions, "VEC3"), "NORMAL": self._accessor(normals, "VEC3")}
        if material.texture is not None:
            # Parts begin at different places of the texture: two planks never show the same grain.
            shifts = np.repeat(np.arange(len(group)) * 0.381966, [len(c.uvs) for c in group])
            uvs = np.concatenate([c.uvs for c in group]) / material.tile_m + shifts[:, None]
            attributes["TEXCOORD_0"] = self._accessor(uvs, "VEC2")
        indices = self._accessor(faces.reshape(-1, 1), "SCALAR")
        return {"attributes": attributes, "indices": indices}

    def _accessor(self, values: np.ndarray, kind: str) -> int:
        whole = kind == "SCALAR"
        data = np.ascontiguousarray(values, dtype="<u4" if whole else "<f4")
        accessor: dict[str, Any] = {
            "bufferView": self._view(data.tobytes(), _ELEMENTS if whole else _ARRAY),
            "componentType": _UINT32 if whole else _FLOAT,
            "count": len(data),
            "type": kind,
        }
        if kind == "VEC3":
            accessor |= {"min": data.min(0).tolist(), "max": data.max(0).tolist()}
        self._json["accessors"].append(accessor)
        return len(self._json["accessors"]) - 1

    def _view(self, data: bytes, target: int | None = None) -> int:
        self._blob += b"\0" * (-len(self._blob) % 4)
        view = {"buffer": 0, "byteOffset": len(self._blob), "byteLength": len(data)}
        self._json["bufferViews"].append(view | ({"target": target} if target else {}))
        self._blob += data
        return len(self._json["bufferViews"]) - 1

    def _material(self, material: Material) -> dict[str, Any]:
        surface: dict[str, Any] = {
            "baseColorFactor": [*(round(_linear(c), 6) for c in material.colour), 1.0],
            "metallicFactor": round(material.metallic, 6),
            "roughnessFactor": round(min(material.roughness, 1.0), 6),
        }
        if material.texture is not None:
            surface["baseColorTexture"] = {"index": self._texture(material.texture)}
        return {"name": material.name, "pbrMetallicRoughness": surface}

    def _texture(self, picture: np.ndarray) -> int:
        images = self._json.setdefault("images", [])
        images.append({"bufferView": self._view(encode_png(picture)), "mimeType": "image/png"})
        self._json.setdefault("textures", []).append({"source": len(images) - 1, "sampler": 0})
        # 9729 linear, 9987 linear with mipmaps, 10497 repeat.
        self._json["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}]
        return len(images) - 1


def _linear(srgb: float) -> float:
    """IEC 61966-2-1."""
    return srgb / 12.92 if srgb <= 0.04045 else ((srgb + 0.055) / 1.055) ** 2.4
