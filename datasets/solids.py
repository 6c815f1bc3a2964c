"""Points and whether they lie in an object: what a shape is, told directly, where shards store it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from turntable.geometry import SOLID_RESOLUTION, Geometry, voxel_indices

KEPT_POINTS = 8192
"""Surface points kept of an object; a sample draws from these."""
KEPT_BYTES = KEPT_POINTS * 3 * 4 + SOLID_RESOLUTION**3 // 8
"""Memory of an object's `Solid`."""
NEAR = (0.03, 0.12)
"""Deviations, object units, by which points near the surface are off it: two voxels of the solid, and a chair's leg or two."""


class Solid(NamedTuple):
    """An object's shape, as small as it is needed."""

    points: np.ndarray
    """(n, 3) float32 surface points, uniform by area, world frame."""
    packed: np.ndarray
    """The solid's (128, 128, 128) voxels, eight a byte."""


def reduced(shape: Geometry) -> Solid:
    """Every k-th surface point, and the packed solid. The stored points lie in no order."""
    step = max(len(shape.points) // KEPT_POINTS, 1)
    return Solid(np.ascontiguousarray(shape.points[::step][:KEPT_POINTS]), np.packbits(shape.solid))


def draw_points(rng: np.random.Generator, solid: Solid, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) float32 of the unit ball, world frame, and whether each lies in the solid, (count,) bool.

    Half are uniform in the ball; half lie near the surface, where a thin leg would else get none.
    """
    near = count // 2
    chosen = solid.points[rng.integers(len(solid.points), size=near)]
    deviations = rng.choice(NEAR, size=(near, 1))
    scattered = rng.normal(size=(count - near, 3))
    scattered *= (rng.random((count - near, 1)) ** (1 / 3)) / np.linalg.norm(scattered, axis=1, keepdims=True)
    points = np.concatenate([chosen + deviations * rng.normal(size=(near, 3)), scattered])
    points /= np.maximum(
        np.linalg.norm(points, axis=1, keepdims=True), 1.0
    )  # those that left the ball, back to its border
    return points.astype(np.float32), inside(solid, points)


def inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether points (N, 3) lie in a voxel of the solid."""
    side = round((len(solid.packed) * 8) ** (1 / 3))
    x, y, z = voxel_indices(points, side).T
    place = (x * side + y) * side + z
    # numpy packs the first of eight into the highest bit.
    return (solid.packed[place >> 3] >> (7 - (place & 7))) & 1 > 0
