"""One small asymmetric textured model, made by code, written by Blender in every format that it writes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from tests.render.models import BRACKET, box_mesh

COLOUR = (0.8, 0.1, 0.1)
"""Linear colour of the model's surface."""


def png(width: int, height: int, rows: bytes | None = None, rgb: tuple[int, int, int] = (231, 89, 89)) -> bytes:
    """A PNG written by hand. `rows` None: plain `rgb`; else the compressed rows, which need not fit the header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = rows if rows is not None else zlib.compress((b"\0" + bytes(rgb) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bracket_points() -> np.ndarray:
    """(24, 3) corners of the bracket in Blender's frame: its boxes' coordinates are taken as Blender's."""
    return np.concatenate([box_mesh(low, high)[0] for low, high, _ in BRACKET]).astype(np.float64)


def build(folder: Path) -> None:
    """The bracket in a fresh scene: one mesh an arm, all with one material whose colour is a picture's."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    texture = folder / "paint.png"
    texture.write_bytes(png(8, 8))
    material = bpy.data.materials.new("paint")
    material.use_nodes = True
    tree = material.node_tree
    picture = tree.nodes.new("ShaderNodeTexImage")
    picture.image = bpy.data.images.load(str(texture))
    tree.links.new(picture.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    for number, (low, high, _) in enumerate(BRACKET):
        vertices, faces = box_mesh(low, high)
        mesh = bpy.data.meshes.new(f"arm {number}")
        mesh.from_pydata(vertices.tolist(), [], faces.tolist())
        mesh.uv_layers.new(name="UVMap").data.foreach_set("uv", np.full(2 * 36, 0.5, np.float32))
        colours = mesh.color_attributes.new("Col", "FLOAT_COLOR", "POINT")
        colours.data.foreach_set("color", np.tile([*COLOUR, 1.0], 8).astype(np.float32))
        mesh.materials.append(material)
        bpy.context.scene.collection.objects.link(bpy.data.objects.new(f"arm {number}", mesh))


def export(path: Path) -> Path:
    """Writes the current scene to `path` in the format of its suffix."""
    import bpy

    name = str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for obj in bpy.data.objects:
        obj.select_set(True)
    {
        ".glb": lambda: bpy.ops.export_scene.gltf(filepath=name, export_format="GLB"),
        ".gltf": lambda: bpy.ops.export_scene.gltf(filepath=name, export_format="GLTF_SEPARATE"),
        ".obj": lambda: bpy.ops.wm.obj_export(filepath=name, path_mode="COPY"),
        ".fbx": lambda: bpy.ops.export_scene.fbx(filepath=name, path_mode="COPY", embed_textures=True),
        ".stl": lambda: bpy.ops.wm.stl_export(filepath=name),
        ".ply": lambda: bpy.ops.wm.ply_export(filepath=name, export_colors="SRGB"),
        ".usd": lambda: bpy.ops.wm.usd_export(filepath=name, relative_paths=True),
        ".usda": lambda: bpy.ops.wm.usd_export(filepath=name, relative_paths=True),
        ".usdc": lambda: bpy.ops.wm.usd_export(filepath=name, relative_paths=True),
        ".usdz": lambda: bpy.ops.wm.usd_export(filepath=name),
        ".dae": lambda: bpy.ops.wm.collada_export(filepath=name, use_texture_copies=True),
        ".abc": lambda: bpy.ops.wm.alembic_export(filepath=name, start=0, end=0, as_background_job=False),
        ".blend": lambda: bpy.ops.wm.save_as_mainfile(filepath=name, copy=True, compress=True),
    }[path.suffix]()
    return path
