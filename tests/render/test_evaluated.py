"""The geometry that we read is the geometry that is rendered, whatever Blender makes it of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from render import evaluated, scene
from render.lights import Lights
from render.passes import Studio
from render.rigs import Camera
from render.settings import Settings
from tests.render.bad_blends import GENERATED, HIDDEN, INSTANCED, LIBRARY, saved
from turntable import cameras
from turntable.jobs import ItemError

SIZE = 64
_ALSO_IN_THE_SCENE = INSTANCED + "\nscene.collection.children.link(parts)\n"
_EXCLUDED = _ALSO_IN_THE_SCENE + "\nlayer(parts).exclude = True\n"
_LATTICE = """
obj = cube("driven", 3)
obj.constraints.new("COPY_LOCATION").target = cube("target", 6)
obj.modifiers.new("towards", "SHRINKWRAP").target = cube("wrapped", 9)
"""


def ray_depth(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W) planar depth by an independent ray caster, 0 where nothing is hit."""
    fx, fy, cx, cy = camera.intrinsics * SIZE
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    towards = np.stack([(u - cx) / fx, -(v - cy) / fy, -np.ones_like(u)], axis=-1).reshape(-1, 3)
    rotation, eye = camera.world_from_camera[:, :3], camera.world_from_camera[:, 3]
    caster = trimesh.Trimesh(vertices, faces, process=False).ray
    places, rays, _ = caster.intersects_location(np.tile(eye, (SIZE**2, 1)), towards @ rotation.T, multiple_hits=False)
    depth = np.zeros(SIZE**2)
    depth[rays] = -((places - eye) @ rotation)[:, 2]
    return depth.reshape(SIZE, SIZE)


@pytest.mark.parametrize(
    ("script", "triangles"),
    [
        (HIDDEN, 48),
        (GENERATED, None),
        (INSTANCED, 36),
        (_ALSO_IN_THE_SCENE, 48),
        (_EXCLUDED, 36),
        (_LATTICE, 36),
    ],
    ids=["hidden", "generated", "instanced", "instanced and in the scene", "instanced, excluded", "constrained"],
)
def test_a_ray_meets_what_the_picture_shows(tmp_path: Path, script: str, triangles: int | None) -> None:
    path = tmp_path / "model.blend"
    saved(script)(path)
    _, vertices, faces, record = scene.load(path)
    assert record["triangles"] == len(faces) == (triangles or len(faces))
    camera = Camera(cameras.look_at(np.array([1.4, -2.0, 1.2])), cameras.intrinsics_from_fov(50.0))
    with Studio(Settings(resolution=SIZE), Lights(1.0, ()), "cpu", 1) as studio:
        seen = studio.geometry(camera).depth
    expected = ray_depth(vertices, faces, camera)
    both = (seen > 0) & (expected > 0)
    # Rays that graze an edge fall to one side or the other by rounding: a pixel or two.
    assert ((seen > 0) != (expected > 0)).sum() <= 2 + 0.01 * both.sum() and both.sum() > 50
    assert np.percentile(abs(seen - expected)[both], 95) < 1e-4


def test_a_library_beside_a_blend_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.blend"
    beside = LIBRARY.replace("path.parent.parent", "path.parent")
    saved(beside + 'bpy.data.libraries[0].filepath = "//elsewhere.blend"\n')(path)
    assert scene.load(path)[3]["triangles"] == 12
    (path.parent / "elsewhere.blend").unlink()
    with pytest.raises(ItemError) as missing:
        scene.load(path)
    assert missing.value.reason == "empty"


def test_the_order_in_which_blender_lists_instances_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.blend"
    saved(_ALSO_IN_THE_SCENE)(path)
    scene.load(path)
    parts = evaluated._Parts(10_000)
    evaluated._with_render_depsgraph(lambda depsgraph: parts.take(depsgraph.object_instances))
    one = parts.joined()
    assert len(parts.found) > 2
    parts.found.reverse()
    other = parts.joined()
    assert np.array_equal(one.vertices, other.vertices) and np.array_equal(one.faces, other.faces)


def test_triangles_have_one_order_and_keep_their_side() -> None:
    rng = np.random.default_rng(0)
    faces = np.stack([rng.permutation(9)[:3] for _ in range(50)])
    shuffled = rng.permutation(np.stack([np.roll(face, rng.integers(3)) for face in faces]))
    ordered = evaluated.in_order(faces)
    assert np.array_equal(evaluated.in_order(shuffled), ordered)

    def turns(triangles: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(min(tuple(np.roll(t, k)) for k in range(3)) for t in triangles)

    assert turns(ordered) == turns(faces)
