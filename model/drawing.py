"""Pictures of a mesh, drawn in numpy: what it looks like in a viewer, and its exact depth and normals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from model.mesh import Mesh, TexturedMesh
from model.raster import Raster, rasterise
from turntable import cameras

NEAREST = 1e-3
"""Object units: a triangle with a corner nearer to the camera's plane, or behind it, is not drawn."""


@dataclass(frozen=True)
class Drawing:
    """What a camera's pixels see of a mesh, each through its centre."""

    hit: np.ndarray
    """(S, S) bool."""
    depth: np.ndarray
    """(S, S) float64 planar depth, 0 where nothing is hit."""
    normal: np.ndarray
    """(S, S, 3) float64 unit normals in the mesh's frame, smooth across triangles; 0 where nothing is hit."""
    colour: np.ndarray
    """(S, S, 3) float64 sRGB in [0, 1]; 0 where nothing is hit."""


def draw(surface: Mesh | TexturedMesh, world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int) -> Drawing:
    """Draws a mesh for a camera (3, 4), (4,) in the mesh's frame, unlit."""
    shape = surface.surface if isinstance(surface, TexturedMesh) else surface
    uv, depth = cameras.project(shape.vertices.astype(np.float64), world_from_camera, intrinsics)
    before = np.flatnonzero((depth[shape.faces] > NEAREST).all(axis=1))
    faces = shape.faces[before]
    # What is linear in the picture is 1 / z, not z; this grows with z and is never negative.
    nearness = 1 / NEAREST - 1 / depth[faces]
    raster = _in_space(rasterise(uv[faces] * size, size, size, nearness), depth[faces])
    normals = raster.interpolate(shape.normals().astype(np.float64)[faces])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def spread(values: np.ndarray) -> np.ndarray:
        picture = np.zeros((size * size, *values.shape[1:]), values.dtype)
        picture[raster.pixels] = values
        return picture.reshape(size, size, *values.shape[1:])

    return Drawing(
        spread(np.ones(len(raster.pixels), bool)),
        spread(raster.interpolate(depth[faces][..., None])[:, 0]),
        spread(normals),
        spread(_colours(surface, shape, raster, before)),
    )


def _in_space(raster: Raster, depth: np.ndarray) -> Raster:
    """Weights of the picture -> weights on the triangle: each divided by its corner's depth (perspective-correct)."""
    weights = raster.weights / depth[raster.faces]
    return replace(raster, weights=weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30))


def _colours(surface: Mesh | TexturedMesh, shape: Mesh, raster: Raster, before: np.ndarray) -> np.ndarray:
    """(P, 3) of the raster's pixels, whose triangles are those of `before` (indices of faces); nearest texel."""
    if not isinstance(surface, TexturedMesh):
        return raster.interpolate(shape.colours.astype(np.float64)[shape.faces[before]])
    uv = raster.interpolate(surface.uv.astype(np.float64)[surface.uv_faces[before]])
    side = len(surface.texture)
    column, row = np.floor(uv * side).astype(np.int64).clip(0, side - 1).T
    return surface.texture[row, column] / 255.0


def shown(
    surface: Mesh | TexturedMesh, world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int, plain: bool = False
) -> np.ndarray:
    """(size, size, 3) uint8 on white, smoothed, lit from the camera so that the shape is seen; `plain`: in grey."""
    drawing = draw(surface, world_from_camera, intrinsics, 2 * size)
    cosine = np.abs(drawing.normal @ world_from_camera[:, 2])[..., None]
    grey = np.full_like(drawing.colour, 0.75)
    lit = grey * (0.3 + 0.7 * cosine) if plain else drawing.colour * (0.65 + 0.35 * cosine)
    picture = np.where(drawing.hit[..., None], lit, 1.0)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return (small.clip(0, 1) * 255).round().astype(np.uint8)
