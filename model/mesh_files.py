"""Meshes as files: .glb (glTF 2.0), .obj with .mtl and .png beside it, .ply; each as the programs that open them expect it.

A mesh is given in our world: +z up, front towards -y. Which way is up in a file:
- .glb: +y up and front towards +z, as the format says;
- .obj: the same. The format says nothing, but Blender, and viewers that draw +y upwards, suppose it;
- .ply: our own axes. Blender takes a .ply as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from model.mesh import Mesh, TexturedMesh, transformed
from turntable.errors import UserError
from turntable.files import atomic_path
from turntable.report import encode_picture

Y_UP_FROM_WORLD = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""(3, 4): our +z up to glTF's +y up, Blender's front (-y) to glTF's front (+z)."""

SUFFIXES = (".glb", ".obj", ".ply")


def write(path: Path, surface: Mesh | TexturedMesh) -> None:
    """Writes a mesh in our world; the suffix says how."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: meshes are written as {', '.join(SUFFIXES)}, not as {path.suffix or 'a bare name'}")
    {".glb": write_glb, ".obj": write_obj, ".ply": write_ply}[path.suffix](path, surface)


def linear_from_srgb(colours: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: sRGB in [0, 1] to linear in [0, 1]."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def write_glb(path: Path, surface: Mesh | TexturedMesh) -> None:
    """.glb: normals, a matt material with the texture inside, or linear vertex colours where there is none."""
    try:
        import trimesh
    except ImportError as error:
        raise UserError("a .glb needs trimesh: pip install -e .[model]; or write .obj or .ply") from error
    turned = transformed(surface, Y_UP_FROM_WORLD)
    if isinstance(turned, TexturedMesh):
        shape = _textured_shape(turned)
        content = trimesh.exchange.gltf.export_glb(trimesh.Scene(shape), include_normals=True)
    else:
        shape = trimesh.Trimesh(turned.vertices, turned.faces, vertex_normals=turned.normals(), process=False)
        # trimesh would round colours to 8 linear bits, too few in the dark; as an attribute of ours they stay float32.
        shape.vertex_attributes["colour"] = linear_from_srgb(turned.colours).astype(np.float32)
        content = trimesh.exchange.gltf.export_glb(
            trimesh.Scene(shape), include_normals=True, tree_postprocessor=_name_colours
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _textured_shape(textured: TexturedMesh) -> Any:
    import trimesh
    from PIL import Image

    material = trimesh.visual.material.PBRMaterial(
        "field", baseColorTexture=Image.fromarray(textured.texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    # trimesh counts v from the bottom and turns it for glTF.
    uv = textured.uv * [1, -1] + [0, 1]
    return trimesh.Trimesh(
        textured.surface.vertices[textured.uv_vertices],
        textured.uv_faces,
        vertex_normals=textured.surface.normals()[textured.uv_vertices],
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
        process=False,
    )


def _name_colours(tree: dict[str, Any]) -> None:
    """Makes our attribute glTF's COLOR_0 and gives the mesh a material; without one it would be shown as metal."""
    tree["materials"] = [{"name": "field", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}]
    for primitive in (primitive for mesh in tree["meshes"] for primitive in mesh["primitives"]):
        primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_colour")
        primitive["material"] = 0


def write_obj(path: Path, surface: Mesh | TexturedMesh) -> None:
    """.obj: sRGB colours behind the vertices, or `<name>.mtl` and `<name>.png` beside it. The .obj is written last."""
    turned = transformed(surface, Y_UP_FROM_WORLD)
    body = turned.surface if isinstance(turned, TexturedMesh) else turned
    lines = [*_lines("v", np.hstack([body.vertices, body.colours])), *_lines("vn", body.normals())]
    corners = [(body.faces + 1).astype(str)]
    if isinstance(turned, TexturedMesh):
        material = f"newmtl field\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nNs 0\nillum 1\nmap_Kd {path.stem}.png\n"
        _write(path.with_suffix(".png"), encode_picture(turned.texture, ".png"))
        _write(path.with_suffix(".mtl"), material.encode())
        lines = [f"mtllib {path.stem}.mtl", "usemtl field", *lines, *_lines("vt", turned.uv * [1, -1] + [0, 1])]
        corners.append((turned.uv_faces + 1).astype(str))
    else:
        corners.append(np.full_like(corners[0], ""))
    corner = np.char.add(np.char.add(np.char.add(np.char.add(corners[0], "/"), corners[1]), "/"), corners[0])
    lines += [f"f {a} {b} {c}" for a, b, c in corner]
    _write(path, ("\n".join(lines) + "\n").encode())


def _lines(keyword: str, rows: np.ndarray) -> Iterable[str]:
    form = keyword + " %.6g" * rows.shape[1]
    return (form % tuple(row) for row in rows.tolist())


def write_ply(path: Path, surface: Mesh | TexturedMesh) -> None:
    """.ply: binary, normals, sRGB colours of 8 bits at the vertices."""
    body = surface.surface if isinstance(surface, TexturedMesh) else surface
    vertex = np.dtype([("place", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
    vertices = np.empty(len(body.vertices), vertex)
    vertices["place"], vertices["normal"] = body.vertices, body.normals()
    vertices["colour"] = (body.colours * 255).round()
    faces = np.empty(len(body.faces), np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    faces["count"], faces["corners"] = 3, body.faces
    names = [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    names += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *names]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    content = io.BytesIO()
    content.write(("\n".join(header) + "\n").encode("ascii"))
    content.write(vertices.tobytes())
    content.write(faces.tobytes())
    _write(path, content.getvalue())


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
