"""An asset in Blender: checked before import, imported, brought to object units by one new parent, and read back as triangles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from render import gltf
from turntable.files import sha256
from turntable.jobs import ItemError

MAX_TRIANGLES = 20_000_000
RENDERED_FRAME = 0
"""Time 0 of the file's animations."""


@dataclass(frozen=True)
class Normalisation:
    """The similarity that brings an asset to object units."""

    object_from_asset: np.ndarray
    """(4, 4) float64; the asset's frame is Blender's reading of the file: +z up, file units."""
    scale: float
    """Object units an asset unit."""
    centre: np.ndarray
    """(3,) float64, centre of the bounding box in the asset's frame."""

    def record(self) -> dict[str, Any]:
        """As JSON values, for the capture."""
        matrix = self.object_from_asset.tolist()
        return {"object_from_asset": matrix, "scale": self.scale, "centre": self.centre.tolist()}


def load(path: Path) -> tuple[Normalisation, np.ndarray, np.ndarray, dict[str, Any]]:
    """An empty scene with the asset in object units -> similarity, vertices (V, 3), faces (F, 3), and what the file is.

    Raises `ItemError` with the reason `bad-asset`, `import-error` or `empty`.
    """
    record = inspect(path)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    IMPORTERS[path.suffix.lower()](path)
    silence(bpy.data.objects)
    bpy.context.scene.frame_set(RENDERED_FRAME)
    normalisation = normalise(path)
    vertices, faces = triangles(path)
    farthest = np.linalg.norm(vertices, axis=1).max()
    # 1e-3: float32 coordinates of a scene far from its file's origin; anything more is an asset that escapes its parent.
    if abs(farthest - 1) > 1e-3:
        raise ItemError("bad-asset", f"{path}: cannot be normalised (farthest point at {farthest:.4g} instead of 1)")
    record |= {"triangles": len(faces), "vertices": len(vertices), "materials": len(bpy.data.materials)}
    return normalisation, vertices, faces, record


def inspect(path: Path) -> dict[str, Any]:
    """Size and hash of an asset's file, and for glb what it says of itself, checked without Blender."""
    record = {"file": path.name, "file_bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.suffix.lower() not in IMPORTERS:
        raise ItemError("bad-asset", f"{path}: {path.suffix or 'no suffix'}; assets are read from {sorted(IMPORTERS)}")
    return record | (gltf.inspect(path) if path.suffix.lower() == ".glb" else {})


def _import_gltf(path: Path) -> None:
    try:
        # A bone's display shape is an icosphere of the importer's own, which would dominate the box.
        bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True)
    except RuntimeError as error:
        raise ItemError("import-error", f"{path}: Blender cannot import it: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


IMPORTERS: dict[str, Callable[[Path], None]] = {".glb": _import_gltf}
"""Suffix -> importer into the current scene."""


def silence(objects: Any) -> None:
    """Takes the file's own lights out, and makes what Blender evaluates for us the same as what it renders.

    Lights stay as objects, since others may hang on them. Its cameras do nothing: the scene's camera is ours.
    """
    for obj in objects:
        if obj.type == "LIGHT":
            obj.data.energy = 0
            obj.hide_render = True
        obj.hide_viewport = obj.hide_render


def normalise(path: Path) -> Normalisation:
    """Hangs every root below one new parent that brings the visible geometry into the unit sphere.

    One parent over all roots keeps their arrangement, and leaves the keyframes of animated roots to act below it.
    """
    vertices, _ = triangles(path)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre = (low + high) / 2
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    if not radius > 1e-12:
        raise ItemError("empty", f"{path}: all {len(vertices)} vertices lie on one point")
    scale = 1 / radius
    roots = [obj for obj in bpy.data.objects if obj.parent is None]
    parent = bpy.data.objects.new("object_from_asset", None)
    bpy.context.scene.collection.objects.link(parent)
    parent.scale, parent.location = (scale,) * 3, -scale * centre
    for root in roots:
        root.parent = parent
        root.matrix_parent_inverse.identity()
    bpy.context.view_layer.update()
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * centre
    return Normalisation(matrix, scale, centre)


def triangles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Evaluated, visible geometry, instances included: vertices (V, 3) float64 in the world and faces (F, 3), all of them used."""
    parts = list(_instances(path))
    if not parts:
        meshes = sum(obj.type == "MESH" for obj in bpy.data.objects)
        total = len(bpy.data.objects)
        raise ItemError(
            "empty", f"{path}: no visible surface ({meshes} of {total} objects are meshes, none has a face)"
        )
    offsets = np.cumsum([0] + [len(v) for v, _ in parts[:-1]])
    faces = np.concatenate([f + offset for (_, f), offset in zip(parts, offsets, strict=True)])
    used, faces = np.unique(faces, return_inverse=True)
    vertices = np.concatenate([v for v, _ in parts])[used]
    broken = int((~np.isfinite(vertices)).any(axis=1).sum())
    if broken:
        raise ItemError("bad-asset", f"{path}: {broken} of {len(vertices)} vertices are not finite numbers")
    return vertices, faces.reshape(-1, 3)


def _instances(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vertices (V, 3) in the world and faces (F, 3) of every visible object and instance that has faces."""
    total = 0
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        obj = instance.object
        if not instance.show_self or obj.type not in {"MESH", "CURVE", "SURFACE", "FONT", "META"}:
            continue
        mesh = obj.to_mesh()
        if mesh is None:
            continue
        mesh.calc_loop_triangles()
        vertices = np.empty(len(mesh.vertices) * 3, np.float32)
        faces = np.empty(len(mesh.loop_triangles) * 3, np.int32)
        mesh.vertices.foreach_get("co", vertices)
        mesh.loop_triangles.foreach_get("vertices", faces)
        world_from_mesh = np.array(instance.matrix_world, dtype=np.float64)
        obj.to_mesh_clear()
        total += len(faces) // 3
        if total > MAX_TRIANGLES:
            raise ItemError("bad-asset", f"{path}: more than {MAX_TRIANGLES} triangles")
        if len(faces):
            corners = vertices.reshape(-1, 3).astype(np.float64)
            yield corners @ world_from_mesh[:3, :3].T + world_from_mesh[:3, 3], faces.reshape(-1, 3).astype(np.int64)
