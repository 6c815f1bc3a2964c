"""Triangles to pixels, in numpy: which triangle covers each pixel's centre, and where in it the centre lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANDIDATES = 1 << 21
"""Pixels of triangles' bounding boxes looked at together."""


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
    low = np.ceil(corners.min(axis=1) - 0.5).clip(0, [width, height]).astype(np.int64)
    high = (np.floor(corners.max(axis=1) - 0.5) + 1).clip(0, [width, height]).astype(np.int64)
    extent = np.maximum(high - low, 0)
    counts = extent.prod(axis=1)
    best = np.full(width * height, np.iinfo(np.uint64).max, np.uint64)
    batch = np.cumsum(counts) // CANDIDATES
    for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(batch)) + 1):
        face = np.repeat(part, counts[part])
        within = np.arange(len(face)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        row, column = np.divmod(within, np.maximum(extent[face, 0], 1))
        column, row = column + low[face, 0], row + low[face, 1]
        weights = _barycentric(corners, face, column, row)
        inside = (weights >= 0).all(axis=1)
        face, pixel, weights = face[inside], (row * width + column)[inside], weights[inside]
        near = np.zeros(len(face), np.float32) if depth is None else (weights * depth[face]).sum(axis=1)
        # Positive floats sort as their bits do.
        key = near.astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32) | face.astype(np.uint64)
        np.minimum.at(best, pixel, key)
    pixels = np.flatnonzero(best != np.iinfo(np.uint64).max)
    faces = (best[pixels] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return Raster(pixels, faces, _barycentric(corners, faces, pixels % width, pixels // width))


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
