"""The sparse surface against scikit-image on the whole lattice, for fields that are smooth, thin, noisy, cut off or ambiguous."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import measure

from model import isosurface
from model.isosurface import EmptyMeshError, strides
from turntable import geometry
from turntable.errors import UserError


def of_grid(grid: np.ndarray, order: int = 3):
    """A density (N, 3) -> (N,) read from an (n, n, n) grid of voxels, smoothly between them."""
    n = grid.shape[0]
    return lambda points: ndimage.map_coordinates(
        grid, ((points + 1) * (n / 2) - 0.5).T, order=order, mode="nearest"
    ).astype(np.float32)


def dense(density, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """What marching cubes makes of every voxel."""
    floor = 0.03 * level
    grid = np.log(np.maximum(density(geometry.voxel_centres(n)).reshape(n, n, n), floor))
    padded = np.pad(grid, 1, constant_values=np.log(floor))
    vertices, faces, _, _ = measure.marching_cubes(padded, np.log(level), gradient_direction="ascent")
    return ((vertices - 0.5) * (2 / n) - 1).clip(-1, 1), faces


def closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    body = trimesh.Trimesh(vertices, faces)
    return body.is_watertight and body.is_winding_consistent


def assert_same(found, expected, n: int, missed: int = 0) -> None:
    """The same surface, but for so many parts of at most 8 voxels that may be missing as a whole."""
    # Vertices are kept 0.01 of a voxel from the lattice's points, in float32.
    near = 0.012 * 2 / n
    assert cKDTree(expected[0]).query(found[0])[0].max() < near
    gone = cKDTree(found[0]).query(expected[0])[0] > near
    parts = trimesh.Trimesh(expected[0], expected[1][gone[expected[1]].any(axis=1)]).split(only_watertight=False)
    assert len(parts) <= missed
    assert all(part.is_watertight and abs(part.volume) < 8 * (2 / n) ** 3 for part in parts)
    assert len(expected[1]) - len(found[1]) == sum(len(part.faces) for part in parts)


@pytest.mark.parametrize("seed", range(3))
def test_several_bodies_cut_by_the_walls_come_out_as_on_the_dense_lattice(seed):
    rng = np.random.default_rng(seed)
    density = of_grid(np.exp(3 * ndimage.gaussian_filter(rng.normal(size=(24,) * 3), 1.5, mode="nearest") / 0.1))
    found, n = isosurface.isosurface(density, 64, 30.0, 2 / 24), 64
    assert_same(found, dense(density, n, 30.0), n, missed=2)
    assert closed(*found)
    assert trimesh.Trimesh(*found).body_count > 3
    assert np.abs(found[0]).max() == 1


@pytest.mark.parametrize("packed", [16, 1])
def test_noise_with_every_ambiguous_cell_is_closed_across_the_blocks(monkeypatch, packed):
    monkeypatch.setattr(isosurface, "PACKED", packed)
    density, n = of_grid(np.exp(np.random.default_rng(0).normal(size=(21,) * 3)), order=0), 21
    found = isosurface.isosurface(density, n, 1.0, 0.01)
    assert closed(*found)
    assert_same(found, dense(density, n, 1.0), n)


def test_values_that_are_the_level_leave_no_hole():
    """There scikit-image alone leaves some: github.com/scikit-image/scikit-image/issues/8116."""
    density = of_grid(np.random.default_rng(0).integers(0, 3, (20, 20, 20)).astype(np.float32), order=0)
    assert closed(*isosurface.isosurface(density, 20, 1.0, 0.01))


def test_a_full_box_is_a_cube():
    vertices, faces = isosurface.isosurface(lambda points: np.full(len(points), 1e6, np.float32), 20, 1.0, 0.25)
    assert closed(vertices, faces)
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(8, rel=0.01)  # bevelled by half a voxel


@pytest.mark.parametrize("radius", [0.03, 0.015])
def test_a_rod_of_a_voxel_is_followed_from_end_to_end(radius):
    """Its diameter is a texel of the planes, and half of one; the lattice's step is 0.021."""
    start, end = np.array([-0.7, -0.61, -0.52]), np.array([0.66, 0.43, 0.71])

    def density(points):
        along = np.clip(((points - start) @ (end - start)) / ((end - start) ** 2).sum(), 0, 1)
        off = np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)
        return (10 * np.exp((radius - off) / 0.01)).astype(np.float32)

    found = isosurface.isosurface(density, 96, 10.0, 2 / 32)
    assert_same(found, dense(density, 96, 10.0), 96)
    assert closed(*found)


def test_few_points_are_looked_at():
    looked = 0

    def density(points):
        nonlocal looked
        looked += len(points)
        return (10 * np.exp((0.7 - np.linalg.norm(points, axis=1)) / 0.03)).astype(np.float32)

    vertices, faces = isosurface.isosurface(density, 192, 10.0, 2 / 64)
    assert closed(vertices, faces)
    assert looked < 0.08 * 192**3
    # Every vertex has two points of the lattice to itself and its neighbours: there is not much less to look at.
    assert looked < 6 * len(vertices)


def test_a_fleck_between_the_points_may_be_missed_but_nothing_else_with_it():
    def density(points):
        ball = np.exp((0.4 - np.linalg.norm(points, axis=1)) / 0.02)
        fleck = np.exp((0.005 - np.linalg.norm(points - [0.713, 0.713, 0.713], axis=1)) / 0.002)
        return (ball + fleck).astype(np.float32)

    vertices, faces = isosurface.isosurface(density, 128, 1.0, 2 / 32)
    assert closed(vertices, faces)
    assert np.linalg.norm(vertices, axis=1).max() < 0.41


@pytest.mark.parametrize(
    ("resolution", "texel", "expected"),
    [
        (384, 2 / 64, [8, 4, 2, 1]),
        (256, 2 / 64, [4, 2, 1]),
        (64, 2 / 64, [1]),
        (32, 2 / 64, [1]),
        (48, 2 / 16, [4, 2, 1]),
    ],
)
def test_the_coarsest_lattice_is_as_fine_as_the_planes(resolution, texel, expected):
    assert strides(resolution, texel) == expected


def test_nothing_there_and_no_numbers_are_told_apart():
    with pytest.raises(EmptyMeshError, match=r"reaches 0\.5 at most, below the level 1"):
        isosurface.isosurface(lambda points: np.full(len(points), 0.5, np.float32), 16, 1.0, 0.1)
    with pytest.raises(UserError, match="not a number"):
        isosurface.isosurface(lambda points: np.full(len(points), np.nan, np.float32), 16, 1.0, 0.1)
