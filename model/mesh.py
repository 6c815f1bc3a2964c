"""A surface cut from a field, its colours, and what is done to it: floaters dropped, triangles made fewer, moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from model.chunks import in_chunks
from model.isosurface import EmptyMeshError as EmptyMeshError
from model.isosurface import isosurface
from model.simplification import fewer_faces
from turntable import cameras
from turntable.errors import UserError

DEFAULT_LEVEL = 10.0
"""Density of the surface, in 1 / object unit: what halves the light within 0.07 units, about two steps of the renderer in training.

Fixed before anything was judged by it. A wall as thin as a step can only be seen as solid by being much denser, and a haze
that the pictures do not show is much thinner, so the surface hardly moves between 5 and 30; far above, thin parts go missing.
"""


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour a vertex."""

    vertices: np.ndarray
    """(V, 3) float32, object units, canonical or world frame as its maker says."""
    faces: np.ndarray
    """(F, 3) int64 vertex indices, counter-clockwise seen from outside."""
    colours: np.ndarray
    """(V, 3) float32 sRGB in [0, 1]."""

    def normals(self) -> np.ndarray:
        """(V, 3) float32 unit vertex normals, pointing out: the faces' normals weighted by their area."""
        a, b, c = self.vertices[self.faces].swapaxes(0, 1).astype(np.float64)
        weighted = np.cross(b - a, c - a)
        flat, count = self.faces.reshape(-1), len(self.vertices)
        total = np.stack([np.bincount(flat, np.repeat(weighted[:, k], 3), count) for k in range(3)], axis=-1)
        length = np.linalg.norm(total, axis=-1, keepdims=True)
        return np.where(length > 0, total / np.maximum(length, 1e-30), [0.0, 0.0, 1.0]).astype(np.float32)


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with a picture wrapped around it. Seams cut the picture, not the surface: what was watertight stays so."""

    surface: Mesh
    """The triangles; its colours are those of the texture at the vertices, for formats that know no pictures."""
    uv: np.ndarray
    """(U, 2) float32 in [0, 1], from the texture's top left corner; a vertex on a seam has several."""
    uv_vertices: np.ndarray
    """(U,) int64, the vertex of `surface` that each belongs to."""
    uv_faces: np.ndarray
    """(F, 3) int64 into `uv`; `uv_vertices[uv_faces]` is `surface.faces`."""
    texture: np.ndarray
    """(S, S, 3) uint8 sRGB."""


Surface = TypeVar("Surface", bound=Mesh | TexturedMesh)


def transformed(surface: Surface, b_from_a: np.ndarray) -> Surface:
    """A mesh in frame a -> the same in frame b, by a rigid transform or a similarity (3, 4)."""
    if isinstance(surface, TexturedMesh):
        return replace(surface, surface=transformed(surface.surface, b_from_a))
    vertices = cameras.transform(np.asarray(b_from_a, np.float64), surface.vertices)
    return replace(surface, vertices=vertices.astype(np.float32))


def without_floaters(surface: Mesh, share: float = 0.01) -> Mesh:
    """The mesh without the pieces whose area is below `share` of the largest piece's."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    a, b, c = surface.vertices[surface.faces].swapaxes(0, 1).astype(np.float64)
    piece = pieces(surface)
    area = np.bincount(piece[surface.faces[:, 0]], np.linalg.norm(np.cross(b - a, c - a), axis=1))
    return kept_faces(surface, (area >= share * area.max())[piece[surface.faces[:, 0]]])


def pieces(surface: Mesh) -> np.ndarray:
    """(V,) int: which connected piece of the surface each vertex belongs to."""
    from scipy import sparse

    a, b, c = surface.faces.T
    edges = np.concatenate([a, b]), np.concatenate([b, c])
    count = len(surface.vertices)
    graph = sparse.coo_matrix((np.ones(len(edges[0]), np.int8), edges), (count, count))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def kept_faces(surface: Mesh, kept: np.ndarray) -> Mesh:
    """The faces where `kept` (F,) is True and the vertices that they need."""
    faces = surface.faces[kept]
    needed, index = np.unique(faces, return_inverse=True)
    return Mesh(surface.vertices[needed], index.reshape(-1, 3), surface.colours[needed])


def simplified(surface: Mesh, faces: int) -> Mesh:
    """The mesh with at most `faces` triangles, closed if it was; raises UserError where it cannot be, and below 4.

    Colours are those of the nearest vertex before; `coloured` reads them from the field anew.
    """
    if faces < 4:
        raise UserError(f"a closed surface has at least 4 triangles, {faces} were asked for; ask for more")
    if len(surface.faces) <= faces:
        return surface
    vertices, triangles = fewer_faces(surface.vertices, surface.faces, faces)
    nearest = cKDTree(surface.vertices).query(vertices)[1]
    return Mesh(vertices.astype(np.float32), triangles.astype(np.int64), surface.colours[nearest])


class MeshableField(Protocol):
    """What a mesh can be made of. `TriplaneField` is one."""

    def project(self, planes: Tensor, density_only: bool = False) -> Any:
        """Whatever of the planes is computed once for all points."""

    def evaluate(self, table: Any, points: Tensor, owners: int) -> tuple[Tensor, Tensor]:
        """Points (M, 3) -> density (M,), colour (M, 3)."""

    def evaluate_density(self, table: Any, points: Tensor, owners: int) -> Tensor:
        """Points (M, 3) -> density (M,), from a table made with `density_only`."""


@torch.no_grad()
def extract(
    field: MeshableField,
    planes: Tensor,
    resolution: int = 128,
    level: float = DEFAULT_LEVEL,
    chunk: int = 1 << 17,
) -> Mesh:
    """The surface of one object's field (planes (1, 3, C, R, R)) at a density level, in the field's frame: closed, also at the
    box's walls. `model.isosurface` says what it guarantees.

    `resolution` is the number of grid points along the box's side, `chunk` the number of points evaluated at a time.
    """
    table = field.project(planes, density_only=True)

    def density(points: np.ndarray) -> np.ndarray:
        def densities(part: slice) -> Tensor:
            here = torch.from_numpy(points[part]).to(planes.device)
            return field.evaluate_density(table, here, 0).float().cpu()

        return torch.cat([torch.zeros(0), *in_chunks(densities, len(points), chunk)]).numpy()

    vertices, faces = isosurface(density, resolution, level, 2 / planes.shape[-1])
    return Mesh(vertices, faces, colours_at(field, planes, vertices, chunk))


def coloured(surface: Mesh, field: MeshableField, planes: Tensor) -> Mesh:
    """The mesh, in the field's frame, with the field's colours at its vertices."""
    return replace(surface, colours=colours_at(field, planes, surface.vertices))


@torch.no_grad()
def colours_at(field: MeshableField, planes: Tensor, points: np.ndarray, chunk: int = 1 << 17) -> np.ndarray:
    """(N, 3) points in the field's frame -> (N, 3) float32 sRGB in [0, 1]."""
    table = field.project(planes)

    def colours(part: slice) -> Tensor:
        here = torch.from_numpy(points[part].astype(np.float32)).to(planes.device)
        return field.evaluate(table, here, 0)[1].clamp(0, 1).float().cpu()

    return torch.cat([torch.zeros(0, 3), *in_chunks(colours, len(points), chunk)]).numpy()


@torch.no_grad()
def density_grid(
    field: MeshableField, planes: Tensor, resolution: int, level: float, chunk: int = 1 << 17
) -> np.ndarray:
    """(n, n, n) float32 density at the centres of voxels, exact wherever a surface at `level` can be.

    A coarse grid, no wider than half a texel of the planes, finds the blocks near a density of a tenth of the level; only
    these are evaluated at full resolution. Elsewhere the coarse value stands.
    """
    table = field.project(planes, density_only=True)

    def density(indices: np.ndarray, n: int) -> np.ndarray:
        parts = [
            field.evaluate_density(table, torch.from_numpy(points).to(planes.device), 0).float().cpu().numpy()
            for points in _centres(indices, n, chunk)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    factor = _coarsening(resolution, 2 * planes.shape[-1])
    coarse_n = resolution // factor
    coarse = density(np.arange(coarse_n**3), coarse_n).reshape((coarse_n,) * 3)
    if factor == 1:
        return coarse
    grid = coarse.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    indices = np.flatnonzero(_near_surface(coarse, level).repeat(factor, 0).repeat(factor, 1).repeat(factor, 2))
    grid.reshape(-1)[indices] = density(indices, resolution)
    return grid


def _coarsening(resolution: int, at_least: int) -> int:
    """The largest whole factor that leaves a grid of `at_least` points a side."""
    return max((f for f in range(1, 9) if resolution % f == 0 and resolution // f >= at_least), default=1)


def _near_surface(coarse: np.ndarray, level: float) -> np.ndarray:
    """Blocks that are neither, with all their neighbours, far below the level nor, with all of them, above it."""
    highest = ndimage.maximum_filter(coarse, 3, mode="nearest")
    # The walls count as outside, so that a body cut by one is closed there.
    lowest = ndimage.minimum_filter(coarse, 3, mode="constant", cval=0.0)
    return (highest > 0.1 * level) & (lowest < 2 * level)


def _centres(indices: np.ndarray, n: int, chunk: int) -> Iterator[np.ndarray]:
    """Flat voxel indices of an n³ grid -> batches of their centres, (≤ chunk, 3) float32."""
    for start in range(0, len(indices), chunk):
        xyz = np.stack(np.unravel_index(indices[start : start + chunk], (n,) * 3), axis=-1)
        yield ((xyz + 0.5) * (2 / n) - 1).astype(np.float32)
