"""An asset in Blender: checked before import, imported, brought to object units by one new parent, and read back as triangles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from render import importers, textures
from render.evaluated import NO_SURFACE, Evaluated, TooLargeError, evaluate
from render.formats import BOUNDS, Bounds
from turntable.files import sha256
from turntable.jobs import ItemError

MAX_TRIANGLES = 20_000_000
_KINDS = {"MESH": "meshes", "EMPTY": "empties", "ARMATURE": "armatures", "LIGHT": "lights", "CAMERA": "cameras"}


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


def load(
    path: Path, frame: int = 0, bounds: Bounds = BOUNDS
) -> tuple[Normalisation, np.ndarray, np.ndarray, dict[str, Any]]:
    """An empty scene with the asset in object units, as it is at `frame` (0: time 0 of its animations).

    -> similarity, vertices (V, 3), faces (F, 3), and what the file is and holds, JSON values (docs/formats.md, `asset`).
    Raises `ItemError` with the reason `bad-asset`, `import-error` or `empty`.
    """
    stated = importers.check(path, bounds)
    record = {"file": path.name, "format": path.suffix[1:].lower(), "file_bytes": path.stat().st_size, **stated}
    bpy.ops.wm.read_factory_settings(use_empty=True)
    _import_into_collection()
    importers.load(path)
    record |= {"sha256": sha256(path), **textures.settle(path)}
    silence(bpy.data.objects)
    bpy.context.scene.frame_set(frame)
    _mesh_metaballs([obj for obj in bpy.data.objects if obj.type == "META"])
    before = surface(path)
    normalisation = normalise(before.vertices)
    after = surface(path)
    farthest = np.linalg.norm(after.vertices, axis=1).max()
    # 1e-3: float32 coordinates of a scene far from its file's origin; anything more is an asset that escapes its parent.
    if abs(farthest - 1) > 1e-3 or len(after.faces) != len(before.faces):
        raise ItemError("bad-asset", f"{path}: cannot be normalised (farthest point at {farthest:.4g} instead of 1)")
    return normalisation, after.vertices, after.faces, record | describe(before, stated.get("animations", 0))


def _import_into_collection() -> None:
    """Has importers put their objects into one collection, which `_gather` takes out of the scene at a stroke."""
    imported = bpy.data.collections.new("imported")
    bpy.context.scene.collection.children.link(imported)
    bpy.context.view_layer.active_layer_collection = bpy.context.view_layer.layer_collection.children[0]


def _mesh_metaballs(balls: list[Any]) -> None:
    """Puts meshes in the place of metaballs: Blender shows none in an instance. The first of a family is the surface of all."""
    if not balls:
        return
    for ball in balls:
        ball.data.resolution = ball.data.render_resolution
    evaluated = bpy.context.evaluated_depsgraph_get()
    for ball in balls:
        mesh = bpy.data.meshes.new_from_object(ball.evaluated_get(evaluated))
        if mesh and mesh.polygons:
            solid = bpy.data.objects.new(ball.name, mesh)
            solid.matrix_world, solid.hide_render = ball.matrix_world, ball.hide_render
            for collection in ball.users_collection:
                collection.objects.link(solid)
    bpy.data.batch_remove(balls)


def describe(before: Evaluated, animations: int) -> dict[str, Any]:
    """What the scene holds, `before` it was normalised. JSON values."""
    corners = {"low": before.vertices.min(axis=0).tolist(), "high": before.vertices.max(axis=0).tolist()}
    return {
        "triangles": len(before.faces),
        "vertices": len(before.vertices),
        "materials": len(before.materials),
        "animations": max(animations, len(bpy.data.actions)),
        "armatures": sum(obj.type == "ARMATURE" for obj in bpy.data.objects),
        "bounding_box": corners,
        "left_out": before.left_out,
    }


def silence(objects: Any) -> None:
    """Takes the file's own lights out. They stay as objects, since others may hang on them; its cameras do nothing: ours is used.

    What would show as a hole or a shadow alone is hidden: the box is that of what a picture shows. So are things without a surface
    (point clouds, hair, volumes), which Blender would render as something of its own.
    """
    for obj in objects:
        if obj.type == "LIGHT":
            obj.data.energy = 0
        if obj.type in ("LIGHT", *NO_SURFACE) or obj.is_holdout or obj.is_shadow_catcher:
            obj.hide_render = True


def normalise(vertices: np.ndarray) -> Normalisation:
    """Shows the whole scene through one instance that brings the visible geometry, vertices (V, 3), into the unit sphere.

    The asset's own world stays as it is: keyframes, constraints, collections that are instanced and simulations act in it as before,
    and several roots keep their arrangement. A new parent over the roots would move instanced parts twice.
    """
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre = (low + high) / 2
    scale = 1 / float(np.linalg.norm(vertices - centre, axis=1).max())
    whole = bpy.data.objects.new("object_from_asset", None)
    whole.instance_type, whole.instance_collection = "COLLECTION", _gather(bpy.context.scene)
    whole.scale, whole.location = (scale,) * 3, -scale * centre
    bpy.context.scene.collection.objects.link(whole)
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * centre
    return Normalisation(matrix, scale, centre)


def _gather(scene: bpy.types.Scene) -> bpy.types.Collection:
    """All objects that a render shows, moved out of the scene into one collection."""
    shown = dict.fromkeys(_rendered(bpy.context.view_layer.layer_collection))
    # First out of the scene, then in: Blender goes through all of a scene's objects whenever one of its collections changes.
    for collection in list(scene.collection.children):
        scene.collection.children.unlink(collection)
    for obj in list(scene.collection.objects):
        scene.collection.objects.unlink(obj)
    gathered = bpy.data.collections.new("asset")
    for obj in shown:
        gathered.objects.link(obj)
    return gathered


def _rendered(layer: Any) -> Iterator[Any]:
    """Objects of a layer collection and those below it, but for what is excluded or hidden from renders."""
    if layer.exclude or layer.collection.hide_render:
        return
    yield from layer.collection.objects
    for child in layer.children:
        yield from _rendered(child)


def surface(path: Path) -> Evaluated:
    """The visible geometry at the current frame, which has a surface; else an `ItemError` that says what there is."""
    try:
        found = evaluate(MAX_TRIANGLES)
    except TooLargeError as error:
        raise ItemError("bad-asset", f"{path}: {error}") from error
    if not len(found.faces):
        raise ItemError("empty", f"{path}: no visible surface; it holds {contents(found)}")
    broken = int((~np.isfinite(found.vertices)).any(axis=1).sum())
    if broken:
        raise ItemError("bad-asset", f"{path}: {broken} of {len(found.vertices)} vertices are not finite numbers")
    size = np.ptp(found.vertices, axis=0).max()
    if not size > 1e-12:
        raise ItemError("empty", f"{path}: all {len(found.vertices)} vertices lie on one point")
    edges = [found.vertices[found.faces[:, k]] - found.vertices[found.faces[:, 0]] for k in (1, 2)]
    if not np.linalg.norm(np.cross(*edges), axis=1).sum() > 1e-12 * size**2:
        raise ItemError("empty", f"{path}: none of its {len(found.faces)} triangles has an area")
    return found


def contents(found: Evaluated) -> str:
    """What a scene without a surface holds, in words."""
    kinds = Counter(
        _KINDS.get(obj.type, obj.type.lower()) for obj in bpy.data.objects if obj is not bpy.context.scene.camera
    )
    hidden = sum(obj.hide_render for obj in bpy.data.objects if obj.type == "MESH")
    parts = [f"{count} {name}" for name, count in kinds.items()]
    if hidden:
        parts.append(f"{hidden} of the meshes hidden")
    if found.loose:
        parts.append(f"{found.loose} points without faces (a point cloud, or loose points)")
    return ", ".join(parts) or "no object"
