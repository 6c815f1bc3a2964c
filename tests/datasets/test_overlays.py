"""What the page draws, as numbers: right cameras make it fit, each wrong convention is told apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from datasets import overlays
from tests.datasets import synthetic
from turntable import cameras

SIZE = 96
Poses = np.ndarray


@pytest.fixture(scope="module")
def views() -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Poses (6, 3, 4), intrinsics (6, 4), pictures and depths of scene 3. Principal points are off the middle."""
    poses, lenses = synthetic.shell_cameras(6, seed=3)
    lenses = lenses + np.array([0, 0.05, 0.06, -0.04])
    drawn = [synthetic.render(synthetic.scene(3), p, k, SIZE) for p, k in zip(poses, lenses, strict=True)]
    return poses, lenses, [rgba for rgba, _, _ in drawn], [depth for _, depth, _ in drawn]


@pytest.fixture(scope="module")
def surface() -> tuple[np.ndarray, np.ndarray]:
    """Points and normals of scene 3."""
    return synthetic.surface(synthetic.scene(3), np.random.default_rng(5), 8000)


def turned(pose: np.ndarray, axes: tuple[float, float, float]) -> np.ndarray:
    """The pose with some of the camera's axes reversed."""
    return np.concatenate([pose[:, :3] * axes, pose[:, 3:]], axis=1)


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "y points down": lambda pose: turned(pose, (1, -1, 1)),
    "OpenCV axes": lambda pose: turned(pose, (1, -1, -1)),
    "x points left": lambda pose: turned(pose, (-1, 1, 1)),
    "camera_from_world": cameras.invert,
    "world is y up": lambda pose: np.stack([pose[0], pose[2], -pose[1]]),
    "azimuth runs backwards": lambda pose: pose * [[-1, 1, 1, -1], [1, -1, -1, 1], [1, -1, -1, 1]],
}


def test_surface_points_lie_on_every_matte(views, surface) -> None:
    for pose, lens, rgba in zip(*views[:3], strict=True):
        found = overlays.agreement(surface[0], pose, lens, rgba[..., 3])
        # Every point projects into a pixel that the object touches; 8,000 of them leave next to no gap.
        assert found.on_matte == 1.0
        assert found.covered > 0.98


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_convention_is_told(views, surface, name: str) -> None:
    found = [
        overlays.agreement(surface[0], WRONG[name](pose), lens, rgba[..., 3])
        for pose, lens, rgba in zip(*views[:3], strict=True)
    ]
    assert min(min(a.on_matte, a.covered) for a in found) < 0.9


def test_a_principal_point_in_the_middle_that_is_not_there_is_told(views, surface) -> None:
    poses, lenses, pictures, _ = views
    centred = lenses[0] * [1, 1, 0, 0] + [0, 0, 0.5, 0.5]
    assert overlays.agreement(surface[0], poses[0], centred, pictures[0][..., 3]).on_matte < 0.9


def test_nothing_seen_is_no_agreement(views, surface) -> None:
    poses, lenses, pictures, _ = views
    empty = np.zeros((SIZE, SIZE), np.uint8)
    assert overlays.agreement(surface[0], poses[0], lenses[0], empty) == overlays.Agreement(0.0, 0.0)
    nothing = np.zeros((0, 3))
    assert overlays.agreement(nothing, poses[0], lenses[0], pictures[0][..., 3]) == overlays.Agreement(0.0, 0.0)


def colour_error(views, surface, wrong: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean difference between a point's colour out of the pictures and by the scene's formula, of 255."""
    poses = np.stack([wrong(pose) for pose in views[0]])
    drawn = overlays.picture_colours(*surface, poses, views[1], views[2])
    return float(np.abs(drawn - 255 * synthetic.colour_at(synthetic.scene(3), surface[0])).mean())


def test_points_take_their_colours_from_the_pictures(views, surface) -> None:
    # A pixel is 0.03 units wide there, over which the colour changes by 2 of 255.
    assert colour_error(views, surface, lambda pose: pose) < 3
    # The scene's colours are within 60 of one another: points that nothing sees are grey, and that alone is 14 off.
    assert all(colour_error(views, surface, wrong) > 9 for wrong in WRONG.values())


def test_depth_taken_back_lies_on_the_surface(views, surface) -> None:
    poses, lenses, pictures, depths = views
    points, colours = overlays.depth_points(depths[1], poses[1], lenses[1], pictures[1], 500)
    assert len(points) == 500 and colours.dtype == np.uint8
    # Surface points are 0.02 apart on this side.
    assert overlays.off_surface(points, surface[0]) < 0.05
    wrong, _ = overlays.depth_points(depths[1], WRONG["y points down"](poses[1]), lenses[1], pictures[1], 500)
    assert overlays.off_surface(wrong, surface[0]) > 0.1


def test_points_behind_others_are_hidden(views) -> None:
    pose, lens = views[0][0], views[1][0]
    uv = cameras.pixel_centres(30, 30).reshape(-1, 2)
    front, back = (cameras.backproject(uv, np.full(len(uv), d), pose, lens) for d in (2.0, 3.0))
    seen = overlays.unhidden(np.concatenate([front, back]), pose, lens)
    assert seen[: len(uv)].all() and not seen[len(uv) :].any()


def test_a_hull_stands_in_for_a_surface(views) -> None:
    poses, lenses, pictures, _ = views
    mattes = [picture[..., 3] for picture in pictures]
    hull = overlays.hull_points(poses, lenses, mattes)
    assert all(overlays.agreement(hull, p, k, m).covered > 0.99 for p, k, m in zip(poses, lenses, mattes, strict=True))
    wrong = np.stack([WRONG["y points down"](pose) for pose in poses])
    hull = overlays.hull_points(wrong, lenses, mattes)
    covered = [overlays.agreement(hull, p, k, m).covered for p, k, m in zip(wrong, lenses, mattes, strict=True)]
    assert min(covered) < 0.9


def test_the_frustum_and_the_picture_are_where_the_camera_says(views) -> None:
    pose, lens = views[0][2], views[1][2]
    lines = overlays.frustum(pose, lens, 0.4)
    uv, depth = cameras.project(lines[:4, 1], pose, lens)
    assert np.allclose(lines[:4, 0], pose[:, 3]) and np.allclose(depth, 0.4)
    assert np.allclose(uv, overlays.CORNERS)
    roof, roof_depth = cameras.project(lines[8:, :].reshape(-1, 3), pose, lens)
    assert roof[:, 1].min() < 0 and np.allclose(roof_depth, 0.4)
    plane = overlays.picture_plane(pose, lens, 0.4)
    right, up = plane.rotation[:, 0] * plane.width / 2, plane.rotation[:, 1] * plane.height / 2
    ends = np.array([plane.centre - right + up, plane.centre + right - up])
    assert np.allclose(cameras.project(ends, pose, lens)[0], [[0, 0], [1, 1]])


def test_the_overlay_marks_points_off_the_matte(views, surface) -> None:
    poses, lenses, pictures, _ = views
    right = overlays.overlay(surface[0], poses[0], lenses[0], pictures[0])
    wrong = overlays.overlay(surface[0], WRONG["y points down"](poses[0]), lenses[0], pictures[0])
    assert right.shape == (SIZE, 2 * SIZE, 3)
    assert not (right == overlays.OFF).all(axis=2).any() and (right == overlays.ON).all(axis=2).any()
    assert (wrong == overlays.OFF).all(axis=2).sum() > 100


def test_a_window_of_any_shape_shows_the_whole_picture() -> None:
    lens = cameras.intrinsics_from_fov(50.0) + np.array([0, 0, 0.1, 0])
    for aspect in (0.5, 1.0, 2.0):
        half = np.tan(overlays.fitting_fov(lens, aspect) / 2)
        directions = np.abs(cameras.camera_directions(overlays.CORNERS, lens))
        reach = directions[:, :2].max(axis=0) / [half * aspect, half]
        # As near as can be: one side touches the window's border.
        assert reach.max() == pytest.approx(1.0)
