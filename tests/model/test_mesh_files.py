"""Files read back: by trimesh, by hand, and by Blender's own importers, in which the object must stand upright and face the front."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from model import mesh_files
from model.mesh import Mesh, TexturedMesh
from tests.conftest import ROOT
from turntable.errors import UserError


@pytest.fixture
def wedge() -> TexturedMesh:
    """A tetrahedron: its tip up (+z), a nose at the front (-y), an ear at its left, our right (+x). Each corner has a colour."""
    vertices = np.array([[0, 0, 0.8], [0, -0.6, 0], [0.4, 0.2, 0], [-0.3, 0.2, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    colours = np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 1], [0.2, 0.2, 0.2]], np.float32)
    # A quarter of the texture for each corner, and every face reads one point of each.
    texture = (colours.reshape(2, 2, 3).repeat(16, 0).repeat(16, 1) * 255).round().astype(np.uint8)
    uv = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)
    # Seams: the last face has places of its own.
    uv, owner = np.concatenate([uv, uv[1:]]), np.array([0, 1, 2, 3, 1, 2, 3])
    return TexturedMesh(Mesh(vertices, faces, colours), uv, owner, np.array([*faces[:3], [4, 6, 5]]), texture)


def colours_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and the texture's colours at them, as trimesh reads them."""
    loaded = trimesh.load(path, force="mesh", process=False)
    material = loaded.visual.material
    picture = material.baseColorTexture if path.suffix == ".glb" else material.image
    return loaded.vertices, np.asarray(trimesh.visual.color.uv_to_color(loaded.visual.uv, picture))[:, :3] / 255


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_textured_file_has_its_colours_where_they_belong_and_is_closed(wedge, tmp_path, suffix):
    path = tmp_path / f"wedge{suffix}"
    mesh_files.write(path, wedge)
    places, colours = colours_in(path)
    own = mesh_files.Y_UP_FROM_WORLD[:, :3] @ wedge.surface.vertices.T
    vertex = np.linalg.norm(places[:, None] - own.T, axis=-1).argmin(axis=1)
    np.testing.assert_allclose(places, own.T[vertex], atol=1e-6)
    np.testing.assert_allclose(colours, wedge.surface.colours[vertex], atol=1 / 255)
    loaded = trimesh.load(path, force="mesh")
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume > 0


def test_the_glb_is_a_matt_material_with_the_picture_inside(wedge, tmp_path):
    mesh_files.write(tmp_path / "a.glb", wedge)
    data = (tmp_path / "a.glb").read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    surface = tree["materials"][0]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["roughnessFactor"] == 1
    assert tree["images"][0]["mimeType"] == "image/png" and "uri" not in tree["images"][0]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= tree["meshes"][0]["primitives"][0]["attributes"].keys()
    # glTF counts v from the top, as we do.
    view = tree["bufferViews"][
        tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]["bufferView"]
    ]
    start = 20 + int.from_bytes(data[12:16], "little") + 8 + view["byteOffset"]
    np.testing.assert_allclose(np.frombuffer(data, "<f4", 14, start).reshape(-1, 2), wedge.uv, atol=1e-6)


def test_the_ply_is_in_our_own_axes_with_colours_and_normals(wedge, tmp_path):
    mesh_files.write(tmp_path / "a.ply", wedge)
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(loaded.vertices, wedge.surface.vertices)
    np.testing.assert_array_equal(loaded.faces, wedge.surface.faces)
    np.testing.assert_array_equal(loaded.visual.vertex_colors[:, :3], (wedge.surface.colours * 255).round())
    np.testing.assert_allclose(loaded.vertex_normals, wedge.surface.normals(), atol=1e-6)


def test_an_obj_without_texture_has_colours_at_its_vertices(wedge, tmp_path):
    mesh_files.write(tmp_path / "a.obj", wedge.surface)
    loaded = trimesh.load(tmp_path / "a.obj", process=False)
    np.testing.assert_allclose(loaded.visual.vertex_colors[:, :3] / 255, wedge.surface.colours, atol=1 / 255)
    assert [path.name for path in tmp_path.iterdir()] == ["a.obj"]


def test_names_that_no_format_has_are_refused(wedge, tmp_path):
    with pytest.raises(UserError, match=r"written as \.glb, \.obj, \.ply, not as \.stl"):
        mesh_files.write(tmp_path / "a.stl", wedge)


def test_a_name_with_blanks_is_found_by_the_obj(wedge, tmp_path):
    mesh_files.write(tmp_path / "my old chair.obj", wedge)
    _, colours = colours_in(tmp_path / "my old chair.obj")
    assert colours.max() == 1


BLENDER = """
import json, sys, bpy
found = {}
for path in sys.argv[1:]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    room, name = {"glb": "import_scene.gltf", "obj": "wm.obj_import", "ply": "wm.ply_import"}[path[-3:]].split(".")
    getattr(getattr(bpy.ops, room), name)(filepath=path)
    shape, = (thing for thing in bpy.data.objects if thing.type == "MESH")
    pictures = [list(picture.size) for picture in bpy.data.images]
    found[path] = [sorted([round(c, 4) + 0.0 for c in shape.matrix_world @ v.co] for v in shape.data.vertices), pictures]
print("FOUND" + json.dumps(found))
"""


def test_blender_stands_the_object_upright_facing_its_front(wedge, tmp_path):
    pytest.importorskip("bpy")
    paths = [tmp_path / f"wedge.{kind}" for kind in ("glb", "obj", "ply")]
    for path in paths:
        mesh_files.write(path, wedge)
    command = [sys.executable, "-c", BLENDER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout.partition("FOUND")[2].splitlines()[0])
    for path in paths:
        places, pictures = found[str(path)]
        assert {tuple(place) for place in places} == {
            tuple(map(float, v.round(4))) for v in wedge.surface.vertices.astype(float)
        }
        assert path.suffix == ".ply" or [32, 32] in pictures
