"""Triangles to pixels, in numpy: which triangle covers each pixel's centre, and where in it the centre lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CANDIDATES = 1 << 19
"""Pixels of triangles' bounding boxes looked at together."""

_NOTHING = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class Raster:
    """The covered pixels of a picture."""

    pixels: np.ndarray
    """(P,) int64, row × width + column, ascending."""
    faces: np.ndarray
    """(P,) int64, the triangle that covers each; the nearest where several do."""
    weights: np.ndarray
    """(P, 3) barycentric coordinates of the pixel's centre in the picture."""

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """(F, 3, K) values at the triangles' corners -> (P, K) at the covered pixels' centres."""
        return np.einsum("pc,pck->pk", self.weights, corners[self.faces])


def rasterise(corners: np.ndarray, width: int, height: int, depth: np.ndarray | None = None) -> Raster:
    """Triangles (F, 3, 2) in pixels, from the picture's top left corner -> what covers each pixel's centre.

    Where triangles overlap, the one with the least depth there, from positive depths (F, 3) at the corners, or the first.
    Interpolation is linear in the picture.
    """
    corners = np.asarray(corners, np.float64)
    nearest = np.full(width * height, _NOTHING, np.uint64)
    for faces, columns, rows in _candidates(corners, width, height):
        weights = _barycentric(corners, faces, columns, rows)
        inside = (weights >= 0).all(axis=1)
        faces, weights = faces[inside], weights[inside]
        near = np.zeros(len(faces), np.float32)
        if depth is not None:
            near = (weights * depth[faces]).sum(axis=1).astype(np.float32)
        # Positive floats sort as their bits do: depth above, the triangle's number below.
        key = near.view(np.uint32).astype(np.uint64) << np.uint64(32) | faces.astype(np.uint64)
        np.minimum.at(nearest, (rows * width + columns)[inside], key)
    pixels = np.flatnonzero(nearest != _NOTHING)
    faces = (nearest[pixels] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return Raster(pixels, faces, _barycentric(corners, faces, pixels % width, pixels // width))


def _candidates(corners: np.ndarray, width: int, height: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of triangle, column and row, (N,) each: the pixels in the triangles' bounding boxes. A row is never cut."""
    low = np.ceil(corners.min(axis=1) - 0.5).clip(0, [width, height]).astype(np.int64)
    high = (np.floor(corners.max(axis=1) - 0.5) + 1).clip(0, [width, height]).astype(np.int64)
    across, down = np.maximum(high - low, 0).T
    face, row = _counted(np.where(across > 0, down, 0))
    batch = np.cumsum(across[face]) // CANDIDATES
    for part in np.split(np.arange(len(face)), np.flatnonzero(np.diff(batch)) + 1):
        line, column = _counted(across[face[part]])
        faces = face[part][line]
        yield faces, low[faces, 0] + column, low[faces, 1] + row[part][line]


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """counts (N,) -> owner and number, (sum,) each: 0 … counts[i] - 1 for each i."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _barycentric(corners: np.ndarray, faces: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """(N, 3) barycentric coordinates of pixels' centres in triangles; negative outside, and everywhere in one without area."""
    a, b, c = corners[faces].swapaxes(0, 1)
    p = np.stack([column + 0.5, row + 0.5], axis=1)
    area = _cross(b - a, c - a)
    flat = area == 0
    area = np.where(flat, 1, area)
    weights = np.stack([_cross(c - b, p - b), _cross(a - c, p - c), _cross(b - a, p - a)], axis=1) / area[:, None]
    weights[flat] = -1
    return weights


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
