"""Points and what is inside: a ball is told from what is not one, and thin things get their points too."""

from __future__ import annotations

import numpy as np
import trimesh

from datasets import solids
from turntable.geometry import Geometry, describe, voxel_indices


def shape_of(mesh: trimesh.Trimesh) -> Geometry:
    return describe(mesh.vertices, mesh.faces, np.random.default_rng(0))


def test_a_ball_s_points_are_judged_by_their_distance() -> None:
    solid = solids.reduced(shape_of(trimesh.creation.icosphere(4, 0.6)))
    points, within = solids.draw_points(np.random.default_rng(1), solid, 4000)
    distance = np.linalg.norm(points, axis=1)
    assert distance.max() <= 1 + 1e-6
    voxel = 2 / 128 * 3**0.5  # nearer to the surface than a voxel's diagonal, the grid decides
    assert within[distance < 0.6 - voxel].all() and not within[distance > 0.6 + voxel].any()
    # Uniform in the ball: of that half, 0.6³ lie inside; four deviations of a count of 2,000.
    uniform = within[2000:].mean()
    assert abs(uniform - 0.6**3) < 4 * (0.6**3 * (1 - 0.6**3) / 2000) ** 0.5 + 0.02


def test_packed_voxels_are_the_grid_s_own() -> None:
    rng = np.random.default_rng(2)
    grid = rng.random((128, 128, 128)) < 0.3
    shape = Geometry(rng.random((10, 3), np.float32), np.zeros((10, 3), np.float32), grid)
    points = rng.uniform(-1, 1, (500, 3))
    expected = grid[tuple(voxel_indices(points, 128).T)]
    assert (solids.inside(solids.reduced(shape), points) == expected).all()


def test_half_of_the_points_lie_near_a_thin_rod() -> None:
    rod = trimesh.creation.box((0.02, 0.02, 1.8))
    points, within = solids.draw_points(np.random.default_rng(3), solids.reduced(shape_of(rod)), 2000)
    # Two deviations of 0.03 and 0.12 in turn; the rod's volume is a six-thousandth of the ball's.
    assert (np.linalg.norm(points[:1000, :2], axis=1) < 0.3).mean() > 0.9
    assert within[:1000].mean() > 0.05 > 0.01 > within[1000:].mean()
