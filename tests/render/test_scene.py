"""Import and normalisation, on files that break the public scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render import scene
from tests.render.models import BRACKET, Gltf, box_mesh, boxes, bracket, rigged
from turntable.jobs import ItemError


def asset_points(parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Points in glTF's frame (+y up) -> Blender's (+z up): (x, y, z) -> (x, -z, y)."""
    points = np.concatenate([v for v, _ in parts]).astype(np.float64)
    return points[:, [0, 2, 1]] * [1, -1, 1]


def same_points(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two sets of points are equal, whatever their order and repetition."""
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    return bool(distance.min(axis=0).max() < tolerance and distance.min(axis=1).max() < tolerance)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_several_roots_keep_their_arrangement_at_any_scale(tmp_path: Path, scale: float) -> None:
    parts = [box_mesh(np.multiply(low, scale), np.multiply(high, scale)) for low, high, _ in BRACKET]
    normalisation, vertices, faces, record = scene.load(boxes(BRACKET, scale).write(tmp_path / "a.glb"))
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(1, abs=1e-5)
    assert np.allclose(vertices.min(axis=0) + vertices.max(axis=0), 0, atol=1e-5)
    expected = asset_points(parts) @ normalisation.object_from_asset[:3, :3].T + normalisation.object_from_asset[:3, 3]
    assert same_points(vertices, expected, 1e-5)
    assert (len(faces), record["triangles"], record["nodes"], record["materials"]) == (36, 36, 3, 3)


def test_a_nested_turned_and_scaled_file(tmp_path: Path) -> None:
    asset = Gltf()
    vertices, faces = box_mesh((0, 0, 0), (1, 2, 3))
    child = asset.node(root=False, mesh=asset.mesh(vertices, faces), scale=[1, 1, 2])
    asset.node(children=[child], rotation=[0, np.sqrt(0.5), 0, np.sqrt(0.5)], translation=[5, 0, 0])
    _, points, _, _ = scene.load(asset.write(tmp_path / "a.glb"))
    # A quarter turn about the up axis puts the stretched z side (6) along x: 6 × 1 × 2 in Blender's x, y, z.
    assert np.allclose(np.ptp(points, axis=0) / np.ptp(points, axis=0)[1], [6, 1, 2], atol=1e-4)


def test_keyframes_on_a_root_do_not_undo_the_normalisation(tmp_path: Path) -> None:
    asset = Gltf()
    vertices, faces = box_mesh((0, 0, 0), (10, 10, 10))
    node = asset.node(mesh=asset.mesh(vertices, faces))
    asset.animate(node, "translation", [[100, 0, 0], [200, 0, 0]])
    asset.animate(node, "scale", [[3, 3, 3], [9, 9, 9]])
    normalisation, points, _, record = scene.load(asset.write(tmp_path / "a.glb"))
    assert record["animations"] == 2
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    # The first animation is the one shown, at its first keyframe.
    assert normalisation.centre[0] == pytest.approx(105, abs=1e-3)


@pytest.mark.parametrize(("frame", "x"), [(0, 105), (12, 155), (24, 205)])
def test_an_animated_asset_at_a_frame(tmp_path: Path, frame: int, x: float) -> None:
    """Keyframes a second apart, 24 frames a second; between them, linearly."""
    asset = Gltf()
    node = asset.node(mesh=asset.mesh(*box_mesh((0, 0, 0), (10, 10, 10))))
    asset.animate(node, "translation", [[100, 0, 0], [200, 0, 0]])
    normalisation, points, _, record = scene.load(asset.write(tmp_path / "a.glb"), frame)
    assert normalisation.centre[0] == pytest.approx(x, abs=1e-3)
    assert record["bounding_box"]["low"][0] == pytest.approx(x - 5, abs=1e-3)
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_bones_are_no_geometry(tmp_path: Path) -> None:
    normalisation, points, faces, _ = scene.load(rigged().write(tmp_path / "a.glb"))
    assert len(faces) == 12
    assert normalisation.scale == pytest.approx(2 / np.sqrt(11), rel=1e-5)
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_the_file_s_lights_and_cameras_change_nothing(tmp_path: Path) -> None:
    import bpy

    asset = bracket()
    asset.content["extensionsUsed"] = ["KHR_lights_punctual"]
    lamp = {"type": "point", "intensity": 1e6, "color": [1, 0, 0]}
    asset.content["extensions"] = {"KHR_lights_punctual": {"lights": [lamp]}}
    asset.content["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
    vertices, faces = box_mesh((3, 0, 0), (4, 1, 1))
    hanging = asset.node(root=False, mesh=asset.mesh(vertices, faces))
    light = {"KHR_lights_punctual": {"light": 0}}
    asset.node(camera=0, translation=[100, 0, 0])
    asset.node(extensions=light, translation=[-100, 5, 0], children=[hanging])
    normalisation, points, faces, _ = scene.load(asset.write(tmp_path / "a.glb"))
    # What hangs on the lamp is still where the lamp puts it: x from -97 to 2.
    assert len(faces) == 48 and np.ptp(points[:, 0]) / normalisation.scale == pytest.approx(99, rel=1e-4)
    assert all(o.hide_render and o.data.energy == 0 for o in bpy.data.objects if o.type == "LIGHT")


def failure(path: Path) -> ItemError:
    with pytest.raises(ItemError) as caught:
        scene.load(path)
    assert str(path) in str(caught.value)
    return caught.value


def damaged(kind: str) -> bytes:
    whole = bracket().data()
    return {
        "nothing": b"",
        "html": b"\n<!DOCTYPE html><html>404</html>",
        "cut": whole[: len(whole) // 2],
        "header": whole[:10],
        "json": whole[:20] + b"{" + whole[21:60] + b"\xff\xff" + whole[62:],
        "version": whole[:4] + b"\1" + whole[5:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nothing", "empty"),
        ("html", "HTML page"),
        ("cut", "cut off"),
        ("header", "cut off"),
        ("json", "does not parse"),
        ("version", "version 1"),
    ],
)
def test_what_is_no_whole_glb_is_named(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "a.glb").write_bytes(damaged(kind))
    error = failure(tmp_path / "a.glb")
    assert error.reason == "bad-asset" and words in str(error)


def test_files_that_ask_for_trouble_are_refused(tmp_path: Path) -> None:
    crowd, link, odd = bracket(), bracket(), bracket()
    crowd.content["nodes"] += [{} for _ in range(10_000)]
    link.content["images"] = [{"uri": "../../etc/passwd"}]
    odd.content["nodes"] = "many"
    for asset, words in ((crowd, "10003 nodes, more than 10000"), (link, "another file"), (odd, "not a list")):
        error = failure(asset.write(tmp_path / "a.glb"))
        assert error.reason == "bad-asset" and words in str(error)


def test_a_json_that_is_no_gltf_does_not_import(tmp_path: Path) -> None:
    asset = bracket()
    asset.content["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = 999
    assert failure(asset.write(tmp_path / "a.glb")).reason == "import-error"


def scenes_without_surface() -> dict[str, Gltf]:
    empty, cloud, point = Gltf(), Gltf(), Gltf()
    empty.node()
    corners, faces = box_mesh((0, 0, 0), (1, 1, 1))
    cloud.node(mesh=cloud.mesh(corners, None))
    point.node(mesh=point.mesh(corners * 0 + 1, faces))
    return {"empty": empty, "cloud": cloud, "point": point}


@pytest.mark.parametrize("kind", ["empty", "cloud", "point"])
def test_what_has_no_surface_is_empty(tmp_path: Path, kind: str) -> None:
    assert failure(scenes_without_surface()[kind].write(tmp_path / "a.glb")).reason == "empty"


def test_vertices_that_are_no_numbers(tmp_path: Path) -> None:
    asset = Gltf()
    corners, faces = box_mesh((0, 0, 0), (1, 1, 1))
    mesh = asset.mesh(corners, faces)
    asset.node(mesh=mesh)
    asset.binary = np.full(1, np.nan, np.float32).tobytes() + asset.binary[4:]
    error = failure(asset.write(tmp_path / "a.glb"))
    assert error.reason == "bad-asset" and "1 of 8 vertices" in str(error)
