"""Pictures of scenes whose every pixel can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render import scene
from render.lights import AreaLight, Lights
from render.passes import Studio
from render.rigs import Camera
from render.settings import Settings
from tests.render.models import boxes
from turntable import cameras

SIZE = 64
DAYLIGHT = Lights(world=1.0, areas=())


def studio(folder: Path, grey: float = 0.5, lights: Lights = DAYLIGHT, **settings: object) -> Studio:
    """Around a cube whose half side is 1 / √3 in object units."""
    scene.load(boxes([((0, 0, 0), (1, 1, 1), (grey,) * 3)]).write(folder / "cube.glb"))
    return Studio(Settings(resolution=SIZE, **settings), lights, "cpu")  # type: ignore[arg-type]


def camera(pose: np.ndarray) -> Camera:
    return Camera(pose, cameras.intrinsics_from_fov(50.0))


def test_depth_is_planar_and_exact_at_pixel_centres(tmp_path: Path) -> None:
    pose = cameras.look_at(np.array([0.0, -2.8, 0.0]))
    with studio(tmp_path) as photographer:
        seen = photographer.geometry(camera(pose))
    depth, normal = seen.depth, seen.normal
    # The front face stands upright before the camera: one planar depth all over it, where a depth along rays would vary by 3 %.
    front = 2.8 - 1 / np.sqrt(3)
    half = SIZE * cameras.intrinsics_from_fov(50.0)[0] / np.sqrt(3) / front
    inside = abs(np.arange(SIZE) + 0.5 - SIZE / 2) < half
    expected = np.outer(inside, inside)
    assert np.array_equal(depth > 0, expected)
    assert np.allclose(depth[expected], front, atol=1e-5)
    assert np.allclose(normal[expected], [0, -1, 0], atol=1e-5)


def test_depth_and_normals_agree_with_the_cube_from_anywhere(tmp_path: Path) -> None:
    pose = cameras.look_at(cameras.spherical_position(35, 25, 2.7))
    with studio(tmp_path) as photographer:
        seen = photographer.geometry(camera(pose))
    depth, normal = seen.depth, seen.normal
    hit = depth > 0
    uv, lens = cameras.pixel_centres(SIZE, SIZE), cameras.intrinsics_from_fov(50.0)
    points = cameras.backproject(uv[hit], depth[hit], pose, lens)
    side = abs(points).argmax(axis=1)
    # Every point lies on a face (float32 through a scene of size 1), and its normal is that face's, outward, in the world.
    assert np.allclose(abs(points).max(axis=1), 1 / np.sqrt(3), atol=2e-5)
    outward = np.sign(points)[np.arange(len(side)), side]
    assert np.allclose(normal[hit][np.arange(len(side)), side], outward, atol=1e-4)
    assert set(side.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("grey", "level"), [(1.0, 255), (0.5, 188), (0.2, 124)])
def test_colours_come_out_as_srgb_says(tmp_path: Path, grey: float, level: int) -> None:
    # A convex matt body in an even white world shows its own albedo: linear 0.5 is 188 in sRGB. Blender's AgX would give 197
    # for white.
    pose = cameras.look_at(np.array([0.0, -2.8, 0.0]))
    with studio(tmp_path, grey, samples=64) as photographer:
        rgba = photographer.colour(camera(pose), 0)
    assert rgba.shape == (SIZE, SIZE, 4) and rgba.dtype == np.uint8
    centre = rgba[24:40, 24:40]
    assert (centre[..., 3] == 255).all() and (rgba[0, 0] == 0).all()
    # Its clear coat of glTF's default reflectance adds a few hundredths of the world's light.
    assert abs(centre[..., :3].mean() - level) < 8


def test_alpha_is_straight(tmp_path: Path) -> None:
    pose = cameras.look_at(cameras.spherical_position(20, 10, 2.8))
    with studio(tmp_path, 0.9, samples=64) as photographer:
        rgba = photographer.colour(camera(pose), 0).astype(int)
    edge = (rgba[..., 3] > 60) & (rgba[..., 3] < 200)
    assert edge.sum() > 20
    # Premultiplied, a half covered pixel of this nearly white cube would be half as bright.
    assert rgba[edge][:, :3].min() > 200


def test_lamps_light_and_are_not_seen(tmp_path: Path) -> None:
    # A lamp between camera and cube, out of the middle; the camera looks over its back and its edge.
    lamp = AreaLight((0.0, -2.0, 0.8), 0.5, 60.0, (1.0, 1.0, 1.0))
    pose = cameras.look_at(np.array([0.0, -3.0, 0.0]))
    with studio(tmp_path, lights=Lights(0.0, (lamp,))) as photographer:
        lit = photographer.colour(camera(pose), 0)
        behind = photographer.colour(camera(cameras.look_at(np.array([0.0, 3.0, 0.0]))), 0)
    with studio(tmp_path) as photographer:
        assert abs(photographer.colour(camera(pose), 0)[..., 3].astype(int) - lit[..., 3]).max() <= 8
    assert lit[24:40, 24:40, :3].mean() > 60 and behind[24:40, 24:40, :3].mean() < 5


def test_a_pass_does_not_disturb_the_next(tmp_path: Path) -> None:
    poses = [cameras.look_at(cameras.spherical_position(a, 20, 2.8)) for a in (0, 50)]
    with studio(tmp_path) as photographer:
        first = [photographer.colour(camera(pose), 1) for pose in poses]
        depth = photographer.geometry(camera(poses[1])).depth
        assert np.array_equal(photographer.colour(camera(poses[0]), 1), first[0])
        assert np.array_equal(photographer.geometry(camera(poses[1])).depth, depth)
    with studio(tmp_path) as photographer:
        assert np.array_equal(photographer.colour(camera(poses[1]), 1), first[1])


def test_any_pinhole_camera_is_rendered_as_its_numbers_say(tmp_path: Path) -> None:
    # Off the middle, pixels that are not square in angle either way, rolled: every hit still lies on the cube.
    pose = cameras.look_at(cameras.spherical_position(35, 25, 2.7), roll_deg=20)
    with studio(tmp_path) as photographer:
        for lens in ([1.3, 0.9, 0.42, 0.56], [0.9, 1.2, 0.55, 0.4]):
            depth = photographer.geometry(Camera(pose, np.array(lens))).depth
            hit = depth > 0
            assert hit.mean() > 0.1
            points = cameras.backproject(cameras.pixel_centres(SIZE, SIZE)[hit], depth[hit], pose, np.array(lens))
            # Shorter lenses than above, so coarser pixels, within a hundredth of which rays are spread.
            assert np.allclose(abs(points).max(axis=1), 1 / np.sqrt(3), atol=4e-5)
