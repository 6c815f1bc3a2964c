"""How merciless a figure is on an object: what a shape that is almost the true one scores.

IoU of thin things falls far for a shift that nobody sees. Beside a model's figures stand those of the true shape itself, moved,
enlarged, or known from three silhouettes only.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import ndimage

from datasets.samples import TargetView
from train.metrics import ious
from turntable import cameras, geometry
from turntable.geometry import Geometry

SCALE = 1.03


def ceilings(true: Geometry, views: list[TargetView], canonical_from_world: np.ndarray) -> dict[str, dict[str, float]]:
    """Row name -> IoU. `views` are the true pictures that the object is judged by."""
    return {
        "ceiling: truth moved by a voxel": ious(np.roll(true.solid, (1, 1), axis=(0, 1)), true.solid),
        "ceiling: truth 3 % larger": ious(enlarged(true.solid, SCALE), true.solid),
        "ceiling: hull of three silhouettes": ious(silhouette_hull(views, canonical_from_world), true.solid),
    }


def enlarged(solid: np.ndarray, scale: float) -> np.ndarray:
    """(n, n, n) bool scaled about the grid's centre, by nearest voxels."""
    middle = (len(solid) - 1) / 2
    offset = middle * (1 - 1 / scale)
    return ndimage.affine_transform(solid.astype(np.uint8), np.full(3, 1 / scale), offset, order=0).astype(bool)


def silhouette_hull(views: list[TargetView], canonical_from_world: np.ndarray, resolution: int = 128) -> np.ndarray:
    """(n, n, n) bool, world frame: the voxels whose centres lie behind the mattes of the three views that differ most in direction."""
    world_from_canonical = cameras.invert(canonical_from_world)
    centres = geometry.voxel_centres(resolution).astype(np.float64)
    kept = np.arange(len(centres))
    for view in _most_different(views):
        pose = cameras.compose(world_from_canonical, view.world_from_camera)
        uv, _ = cameras.project(centres[kept], pose, view.intrinsics)
        height, width = view.alpha.shape
        column, row = np.floor(uv * [width, height]).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        hit = np.zeros(len(kept), dtype=bool)
        hit[inside] = view.alpha[row[inside], column[inside]] > 0.5
        kept = kept[hit]
    hull = np.zeros(len(centres), dtype=bool)
    hull[kept] = True
    return hull.reshape((resolution,) * 3)


def _most_different(views: list[TargetView]) -> list[TargetView]:
    """Three views whose directions span the largest volume; all where there are fewer."""
    if len(views) <= 3:
        return views
    directions = np.stack([view.world_from_camera[:, 2] for view in views])
    triples = list(combinations(range(len(views)), 3))
    volumes = [abs(float(np.linalg.det(directions[list(triple)]))) for triple in triples]
    return [views[index] for index in triples[int(np.argmax(volumes))]]
