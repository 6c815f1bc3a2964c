"""A surface from a field: density on a grid, coarse to fine, marching cubes, colours, and a .glb that viewers show right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from turntable import cameras
from turntable.errors import UserError
from turntable.files import atomic_path

DEFAULT_LEVEL = 10.0
"""Density of the surface, in 1 / object unit: what halves the light within 0.07 units, about two steps of the renderer in training.

Fixed before anything was judged by it. A wall as thin as a step can only be seen as solid by being much denser, and a haze
that the pictures do not show is much thinner, so the surface hardly moves between 5 and 30; far above, thin parts go missing.
"""

GLTF_FROM_WORLD = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""(3, 4): our +z up to glTF's +y up, Blender's front (-y) to glTF's front (+z)."""


class EmptyMeshError(UserError):
    """The density nowhere reaches the level."""


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


def transformed(mesh: Mesh, b_from_a: np.ndarray) -> Mesh:
    """A mesh in frame a -> the same in frame b, by a rigid transform or a similarity (3, 4)."""
    vertices = cameras.transform(np.asarray(b_from_a, np.float64), mesh.vertices)
    return replace(mesh, vertices=vertices.astype(np.float32))


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
    """The surface of one object's field (planes (1, 3, C, R, R)) at a density level, in the field's frame.

    `resolution` is the number of grid points along the box's side, `chunk` the number of points evaluated at a time.
    """
    grid = density_grid(field, planes, resolution, level, chunk)
    vertices, faces = marching_cubes(grid, level)
    table = field.project(planes)
    points = torch.from_numpy(vertices).to(planes.device)
    colours = [field.evaluate(table, part, 0)[1] for part in points.split(chunk)]
    return Mesh(vertices, faces, torch.cat(colours).clamp(0, 1).float().cpu().numpy())


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


@torch.no_grad()
def occupied(field: MeshableField, planes: Tensor, resolution: int = 128, threshold: float = 0.2) -> Tensor:
    """(n, n, n) bool, for `Occupancy`: voxels where the density, or a neighbour's, is above `threshold`.

    At the default, what is dropped dims a ray by a few per cent at most; rendering without gradients gets several times faster.
    """
    grid = density_grid(field, planes, resolution, threshold)
    return torch.from_numpy(ndimage.maximum_filter(grid, 3) > threshold).to(planes.device)


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


def marching_cubes(grid: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Density (n, n, n) at voxel centres -> vertices (V, 3) float32 in [-1, 1]³ and faces (F, 3), closed at the walls.

    Lorensen and Cline 1987, through scikit-image. It interpolates the density's logarithm, which runs straighter across a
    surface than the density does. Raises `EmptyMeshError` when nothing reaches the level.
    """
    from skimage import measure

    if not level > 0:
        raise UserError(f"the mesh's level is a density and must be above 0, got {level}")
    highest = float(grid.max())
    if not highest > level:
        raise EmptyMeshError(
            f"the mesh is empty: the density reaches {highest:.3g} at most, below the level {level:g}; give a lower level, or"
            " look at the rendered views: a checkpoint that has hardly been trained has no surface yet"
        )
    # Air of density 1e-9 would pull the crossing inward by its logarithm; below the floor all air is the same.
    floor = level * 0.03
    logarithm = np.pad(np.log(np.maximum(grid, floor)), 1, constant_values=np.log(floor))
    index, faces, _, _ = measure.marching_cubes(logarithm, np.log(level), gradient_direction="ascent")
    vertices = (index - 0.5) * (2 / grid.shape[0]) - 1
    return vertices.clip(-1, 1).astype(np.float32), faces.astype(np.int64)


def linear_from_srgb(colours: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: sRGB in [0, 1] to linear in [0, 1]."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def write_glb(path: Path, mesh: Mesh) -> None:
    """Writes a mesh in our world (+z up) as .glb: +y up, normals, linear vertex colours, a matt material."""
    import trimesh

    turned = transformed(mesh, GLTF_FROM_WORLD)
    shape = trimesh.Trimesh(turned.vertices, turned.faces, vertex_normals=turned.normals(), process=False)
    # trimesh would round colours to 8 linear bits, too few in the dark; as an attribute of ours they stay float32.
    shape.vertex_attributes["colour"] = linear_from_srgb(mesh.colours).astype(np.float32)
    content = trimesh.exchange.gltf.export_glb(
        trimesh.Scene(shape), include_normals=True, tree_postprocessor=_name_colours
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _name_colours(tree: dict[str, Any]) -> None:
    """Makes our attribute glTF's COLOR_0 and gives the mesh a material; without one it would be shown as metal."""
    tree["materials"] = [{"name": "field", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}]
    for primitive in (primitive for mesh in tree["meshes"] for primitive in mesh["primitives"]):
        primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_colour")
        primitive["material"] = 0
