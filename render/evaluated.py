"""The scene's geometry as a renderer is given it: hidden, instanced, generated and modified exactly as in the pictures.

Blender evaluates a scene twice: once for its windows, once for a render (other subdivision levels, other modifiers, other
objects hidden). Only a render engine gets the second. So we are one for a moment, and read instead of rendering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

NO_SURFACE = {"POINTCLOUD": "point clouds", "CURVES": "hair", "VOLUME": "volumes", "GPENCIL": "drawings"}
"""Blender's types of visible things that have no surface -> what they are called here."""


class TooLargeError(ValueError):
    """More triangles than the caller allows."""


@dataclass(frozen=True)
class Evaluated:
    """What a render of the current scene, at its current frame, is given."""

    vertices: np.ndarray
    """(V, 3) float64, world frame; all of them used by a face."""
    faces: np.ndarray
    """(F, 3) int64."""
    materials: frozenset[str]
    """Names of the materials on the visible objects."""
    loose: int
    """Vertices of visible meshes that have no face at all."""
    left_out: dict[str, int]
    """Visible things without a surface (`NO_SURFACE`), by kind."""


class _Reader(bpy.types.RenderEngine):
    bl_idname = "TURNTABLE_READER"
    bl_label = "reads instead of rendering"
    bl_use_preview = False

    read: Callable[[Any], None]
    """What is done with the render's depsgraph."""
    error: BaseException | None

    def render(self, depsgraph: Any) -> None:
        try:
            _Reader.read(depsgraph)
        except BaseException as error:  # Blender would print it and go on
            _Reader.error = error


def evaluate(most_triangles: int) -> Evaluated:
    """The current scene's geometry. Raises `TooLargeError` beyond `most_triangles`."""
    parts = _Parts(most_triangles)
    _with_render_depsgraph(lambda depsgraph: parts.take(depsgraph.object_instances))
    return parts.joined()


def _with_render_depsgraph(read: Callable[[Any], None]) -> None:
    """Calls `read` with the depsgraph of a render of the current scene; what it raises is raised here."""
    scene = bpy.context.scene
    _Reader.read, _Reader.error = staticmethod(read), None
    bpy.utils.register_class(_Reader)
    before = scene.render.engine
    try:
        scene.render.engine = _Reader.bl_idname
        if not scene.camera:
            _add_camera(scene)
        bpy.ops.render.render()
    finally:
        scene.render.engine = before
        # A class that stays registered keeps the process from ending.
        bpy.utils.unregister_class(_Reader)
    if _Reader.error:
        raise _Reader.error


def _add_camera(scene: bpy.types.Scene) -> None:
    """No render starts without a camera. It stays: to take it away again would have Blender look through all objects again."""
    camera = bpy.data.objects.new("any", bpy.data.cameras.new("any"))
    scene.collection.objects.link(camera)
    scene.camera = camera


class _Parts:
    """Meshes collected from a depsgraph: each read once, however many instances it has."""

    def __init__(self, most_triangles: int) -> None:
        self.most_triangles = most_triangles
        self.found: list[tuple[tuple[str, str, bytes], np.ndarray, np.ndarray]] = []
        """What to sort by, vertices in the world and faces, of each visible mesh."""
        self.materials: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.loose = self.triangles = 0
        self._read: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def take(self, instances: Any) -> None:
        for instance in instances:
            obj = instance.object
            if not instance.show_self:
                continue
            if obj.type in NO_SURFACE:
                self.left_out[NO_SURFACE[obj.type]] += 1
            # Curves, texts and metaballs come a second time, as meshes.
            if obj.type == "MESH" and obj.visible_camera:
                self._add(obj, np.array(instance.matrix_world, dtype=np.float64))

    def _add(self, obj: Any, world_from_mesh: np.ndarray) -> None:
        address = obj.data.as_pointer()
        if address not in self._read:
            self._read[address] = _mesh_arrays(obj.data)
        corners, faces = self._read[address]
        self.triangles += len(faces)
        if self.triangles > self.most_triangles:
            raise TooLargeError(f"more than {self.most_triangles} triangles")
        if not len(faces):
            self.loose += len(corners)
            return
        key = (obj.name, obj.data.name, world_from_mesh.tobytes())
        self.found.append((key, corners @ world_from_mesh[:3, :3].T + world_from_mesh[:3, 3], faces))
        self.materials |= {slot.material.name for slot in obj.material_slots if slot.material}

    def joined(self) -> Evaluated:
        # In which order Blender lists instances, and a mesh's triangles, depends on what its process did before.
        found = sorted(self.found, key=lambda part: part[0])
        offsets = np.cumsum([0] + [len(vertices) for _, vertices, _ in found])
        vertices = np.concatenate([np.empty((0, 3)), *(vertices for _, vertices, _ in found)])
        shifted = (faces + offset for (_, _, faces), offset in zip(found, offsets[:-1], strict=True))
        faces = np.concatenate([np.empty((0, 3), np.int64), *shifted])
        used, faces = np.unique(faces, return_inverse=True)
        materials = frozenset(self.materials)
        return Evaluated(vertices[used], in_order(faces.reshape(-1, 3)), materials, self.loose, dict(self.left_out))


def in_order(faces: np.ndarray) -> np.ndarray:
    """(F, 3) vertex indices -> the same triangles, each from its lowest vertex on (which keeps its side), sorted."""
    first = faces.argmin(axis=1)[:, None]
    turned = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    return turned[np.lexsort(turned.T[::-1])]


def _mesh_arrays(mesh: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in the mesh's frame and faces (F, 3) int64."""
    mesh.calc_loop_triangles()
    vertices = np.empty(len(mesh.vertices) * 3, np.float32)
    faces = np.empty(len(mesh.loop_triangles) * 3, np.int32)
    mesh.vertices.foreach_get("co", vertices)
    mesh.loop_triangles.foreach_get("vertices", faces)
    return vertices.reshape(-1, 3).astype(np.float64), faces.reshape(-1, 3).astype(np.int64)
