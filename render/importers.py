"""One importer a format, into the current scene. What they may read is checked before (`check`) and after (`render.textures`)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from render import blendfile, formats, gltf, references, usd
from render.formats import Bounds, bad
from turntable.errors import UserError
from turntable.jobs import ItemError


def check(path: Path, bounds: Bounds) -> dict[str, int]:
    """Refuses (`ItemError` `bad-asset`) what must not reach Blender -> what the file says of itself without it."""
    suffix = path.suffix.lower()
    if suffix not in IMPORTERS:
        raise bad(path, f"{suffix or 'no suffix'}; assets are read from {' '.join(IMPORTERS)}")
    formats.check(path, bounds)
    if suffix in (".glb", ".gltf"):
        return gltf.inspect(path, bounds)
    if suffix in _CHECKS:
        _CHECKS[suffix](path)
    return {}


def load(path: Path) -> None:
    """Imports into the current scene. What Blender cannot import is an `ItemError` `import-error`."""
    try:
        IMPORTERS[path.suffix.lower()](path)
    except ItemError:
        raise
    except (RuntimeError, OSError) as error:
        raise ItemError("import-error", f"{path}: Blender cannot import it: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _check_obj(path: Path) -> None:
    """Material libraries are text that the importer opens by itself; they lie beside the file. Without any it tries the same name."""
    with path.open("rb") as handle:
        # A line that ends with a backslash goes on in the next.
        text = (line.replace(b"\\\n", b" ").replace(b"\\\r\n", b" ") for line in handle)
        names = [match[1] for match in map(_LIBRARY.search, _whole_lines(text)) if match]
    for name in [name.decode("utf-8", "replace").strip().strip('"') for name in names] + [path.stem + ".mtl"]:
        try:
            references.beside(path, name)
        except UserError as error:
            raise bad(path, f"takes its materials from a file outside its folder: {error}") from error


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces joined until one ends a line."""
    before = b""
    for piece in pieces:
        before += piece
        if piece.endswith(b"\n"):
            yield before
            before = b""
    yield before


_LIBRARY = re.compile(rb"^\s*mtllib\s+(.*)", re.DOTALL)
_ELSEWHERE = re.compile(rb"""<(?:instance_\w+|skin|input|accessor)\s[^>]*\b(?:url|source)\s*=\s*["']([^#"'][^"']*)""")
"""In COLLADA, a part's place: `#name` in the same document, else an address."""


def _check_dae(path: Path) -> None:
    """No document type (entities may be files, or grow without end), and no part that lies in another document."""
    with path.open("rb") as handle:
        for line in handle:
            if b"<!DOCTYPE" in line or b"<!ENTITY" in line:
                raise bad(path, "has a document type definition, through which XML can read other files; refused")
            other = _ELSEWHERE.search(line)
            if other:
                name = other[1][:80].decode("utf-8", "replace")
                raise bad(path, f"takes a part from another document ({name!r}); only whole files are read")


_CHECKS: dict[str, Callable[[Path], Any]] = {
    ".obj": _check_obj,
    ".dae": _check_dae,
    ".blend": blendfile.inspect,
    **dict.fromkeys((".usd", ".usda", ".usdc", ".usdz"), usd.inspect),
}
"""Suffix -> what is looked at before import, beside `render.formats` and `render.gltf`."""


def _import_gltf(path: Path) -> None:
    with _triangles_once():
        # A bone's display shape is an icosphere of the importer's own, which would dominate the box.
        bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True, import_webp_texture=True)


@contextlib.contextmanager
def _triangles_once() -> Iterator[None]:
    """While it is open, Blender's glTF importer is given each triangle once.

    Of a triangle that is there once each way round, Blender keeps either, now this one and now that.
    """
    from io_scene_gltf2.blender.imp import mesh

    original = mesh.points_edges_tris

    def points_edges_triangles(mode: int, indices: np.ndarray) -> tuple[np.ndarray | None, ...]:
        points, edges, triangles = original(mode, indices)
        return points, edges, None if triangles is None else once_each(triangles)

    mesh.points_edges_tris = points_edges_triangles
    try:
        yield
    finally:
        mesh.points_edges_tris = original


def once_each(triangles: np.ndarray) -> np.ndarray:
    """(3 F,) vertex indices, three a triangle -> the same without triangles that an earlier one covers, either way round."""
    faces = triangles.reshape(-1, 3)
    first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)[1]
    return triangles if len(first) == len(faces) else faces[np.sort(first)].reshape(-1)


def _import_obj(path: Path) -> None:
    bpy.ops.wm.obj_import(filepath=str(path))


def _import_fbx(path: Path) -> None:
    # Blender 4.5's own reader is quicker, and reads text files too; time 0 is frame 0.
    if "fbx_import" in dir(bpy.ops.wm):
        bpy.ops.wm.fbx_import(filepath=str(path), anim_offset=0.0)
    else:
        bpy.ops.import_scene.fbx(filepath=str(path), anim_offset=0.0, use_image_search=False)


def _import_stl(path: Path) -> None:
    bpy.ops.wm.stl_import(filepath=str(path))


def _import_ply(path: Path) -> None:
    """Its colours, where it has some, are a colour attribute that needs a material to be seen."""
    bpy.ops.wm.ply_import(filepath=str(path))
    for mesh in bpy.data.meshes:
        if mesh.color_attributes and not mesh.materials:
            mesh.materials.append(_vertex_colours(mesh.color_attributes[0].name))


def _vertex_colours(attribute: str) -> bpy.types.Material:
    material = bpy.data.materials.new("vertex colours")
    material.use_nodes = True
    tree = material.node_tree
    colour = tree.nodes.new("ShaderNodeVertexColor")
    colour.layer_name = attribute
    surface = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    tree.links.new(colour.outputs["Color"], surface.inputs["Base Color"])
    return material


def _import_usd(path: Path) -> None:
    bpy.ops.wm.usd_import(filepath=str(path), import_volumes=False, create_world_material=False, import_subdiv=True)


def _import_dae(path: Path) -> None:
    if "collada_import" not in dir(bpy.ops.wm):
        version = bpy.app.version_string
        raise ItemError("import-error", f"{path}: Blender {version} reads no Collada files; Blender 4.5 does")
    bpy.ops.wm.collada_import(filepath=str(path))


def _import_abc(path: Path) -> None:
    bpy.ops.wm.alembic_import(filepath=str(path), as_background_job=False)


def _import_blend(path: Path) -> None:
    """Its open scene's objects, brought over into ours: no script, handler, render setting or compositor of the file comes along."""
    wanted = blendfile.inspect(path).scene
    with bpy.data.libraries.load(str(path), link=False) as (available, chosen):
        names = [name for name in available.scenes if name == wanted] or available.scenes[:1]
        chosen.scenes = names
    if not names:
        raise ItemError("empty", f"{path}: it holds no scene")
    _take_over(chosen.scenes[0])


def _take_over(loaded: bpy.types.Scene) -> None:
    ours = bpy.context.scene
    excluded = {layer.collection.name for layer in _layers(loaded.view_layers[0].layer_collection) if layer.exclude}
    for obj in loaded.collection.objects:
        ours.collection.objects.link(obj)
    for collection in loaded.collection.children:
        ours.collection.children.link(collection)
    bpy.data.scenes.remove(loaded)
    for layer in _layers(bpy.context.view_layer.layer_collection):
        layer.exclude = layer.exclude or layer.collection.name in excluded


def _layers(layer: Any) -> list[Any]:
    """A layer collection and all below it, parents first."""
    return [layer] + [below for child in layer.children for below in _layers(child)]


IMPORTERS: dict[str, Callable[[Path], None]] = {
    ".glb": _import_gltf,
    ".gltf": _import_gltf,
    ".obj": _import_obj,
    ".fbx": _import_fbx,
    ".stl": _import_stl,
    ".ply": _import_ply,
    **dict.fromkeys((".usd", ".usda", ".usdc", ".usdz"), _import_usd),
    ".dae": _import_dae,
    ".abc": _import_abc,
    ".blend": _import_blend,
}
"""Suffix -> importer into the current scene; the same suffixes as `render.formats.SUFFIXES`."""
