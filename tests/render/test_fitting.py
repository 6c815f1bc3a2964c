"""Cameras that go back until the asset fits: never clipping, never farther than needed."""

from __future__ import annotations

import numpy as np
import pytest

from render.fitting import fitted, needed_retreat, refit
from render.rigs import Camera, Rig, draw
from turntable import cameras

MARGIN = 0.01


def asset(rng: np.random.Generator) -> np.ndarray:
    """(40, 3) points of a lopsided shape in object units."""
    points = rng.normal(size=(40, 3)) * rng.uniform(0.05, 1, 3)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    return points / np.linalg.norm(points, axis=1).max()


def camera(rng: np.random.Generator) -> Camera:
    """Anywhere, inside the asset too; off the middle, looking past the centre, rolled."""
    position = cameras.spherical_position(rng.uniform(0, 360), rng.uniform(-89, 89), rng.uniform(0.1, 4))
    pose = cameras.look_at(position, rng.uniform(-0.3, 0.3, 3), rng.uniform(-180, 180))
    focal = rng.uniform(0.3, 4)
    return Camera(pose, np.array([focal, focal * rng.uniform(0.8, 1.25), *rng.uniform(0.3, 0.7, 2)]))


def inside(at: Camera, points: np.ndarray, slack: float = 0.0) -> bool:
    uv, depth = cameras.project(points, at.world_from_camera, at.intrinsics)
    return bool((depth > 0).all() and uv.min() >= MARGIN - slack and uv.max() <= 1 - MARGIN + slack)


def back(at: Camera, distance: float) -> Camera:
    pose = at.world_from_camera.copy()
    pose[:, 3] += distance * pose[:, 2]
    return Camera(pose, at.intrinsics)


def test_the_distance_is_what_a_slow_search_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        points, start = asset(rng), camera(rng)
        near, far = -20.0, 200.0  # inside is monotonous in the distance: farther is always smaller
        while far - near > 1e-7:
            middle = (near + far) / 2
            near, far = (near, middle) if inside(back(start, middle), points) else (middle, far)
        retreat = needed_retreat(start, points, MARGIN)
        # The search knows nothing of the nearest depth, which never binds for a lens that is not extremely wide.
        assert retreat == pytest.approx(far, abs=1e-5)


def test_every_vertex_is_inside_and_one_step_nearer_it_is_not() -> None:
    rng = np.random.default_rng(1)
    enlarged = 0
    for _ in range(300):
        points, start = asset(rng), camera(rng)
        moved, factor = refit(start, points, MARGIN)
        assert inside(moved, points, 1e-9) and factor >= 1
        assert np.array_equal(moved.world_from_camera[:, :3], start.world_from_camera[:, :3])
        assert np.array_equal(moved.intrinsics, start.intrinsics)
        if factor > 1:
            enlarged += 1
            assert not inside(back(moved, -1e-6), points, 1e-9)
        else:
            assert moved is start and inside(start, points)
    assert 100 < enlarged < 300


def test_the_factor_is_the_growth_of_the_distance() -> None:
    points = asset(np.random.default_rng(2))
    (start,) = draw(Rig(rig="ring", distance=(0.7, 0.7), elevation_deg=(30.0,)), 1, 0, "a")
    moved, factor = refit(start, points, MARGIN)
    assert factor > 1.5
    assert np.linalg.norm(moved.world_from_camera[:, 3]) == pytest.approx(0.7 * factor)


def test_fitting_always_fills_the_stated_share() -> None:
    rng = np.random.default_rng(3)
    for fill in (0.5, 0.9):
        rig = Rig(rig="hammersley", fit="always", fill=fill)
        points = asset(rng)
        for moved, _ in fitted(rig, draw(rig, 20, 0, "a"), points, 256):
            uv, _ = cameras.project(points, moved.world_from_camera, moved.intrinsics)
            assert 2 * abs(uv - 0.5).max() == pytest.approx(fill)


def test_fitting_is_off_for_lists_and_where_asked() -> None:
    points = asset(np.random.default_rng(4))
    near = draw(Rig(rig="ring", distance=(0.5, 0.5)), 4, 0, "a")
    numbers = tuple((*c.world_from_camera.reshape(-1).tolist(), *c.intrinsics.tolist()) for c in near)
    for rig in (Rig(rig="ring", distance=(0.5, 0.5), fit="off"), Rig(rig="list", listed=numbers)):
        for (kept, factor), start in zip(fitted(rig, near, points, 256), near, strict=True):
            assert factor == 1 and np.array_equal(kept.world_from_camera, start.world_from_camera)
    assert all(factor > 1 for _, factor in fitted(Rig(rig="list", listed=numbers, fit="enlarge"), near, points, 256))


def test_no_room_for_the_margin() -> None:
    pose = cameras.look_at(np.array([0.0, -3.0, 0.0]))
    with pytest.raises(ValueError, match="must leave room"):
        needed_retreat(Camera(pose, np.array([1.0, 1.0, 0.05, 0.5])), np.zeros((1, 3)), 0.1)


def test_small_pictures_keep_whole_pixels_free() -> None:
    points = asset(np.random.default_rng(5))
    rig = Rig(rig="ring", fit="always", fill=1.0)
    for moved, _ in fitted(rig, draw(rig, 8, 0, "a"), points, 32):
        uv, _ = cameras.project(points, moved.world_from_camera, moved.intrinsics)
        assert uv.min() == pytest.approx(2 / 32) or uv.max() == pytest.approx(1 - 2 / 32)
