"""Where a field is worth evaluating: a grid of voxels that rays look up before the field sees their samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import default_chunk, in_chunks
from model.rays import sample_distances


@dataclass(frozen=True)
class Occupancy:
    """Where samples are worth evaluating, for instance a visual hull; everywhere else density counts as 0."""

    grid: Tensor
    """(B, n, n, n) bool, indexed [x, y, z] in the grid's frame; voxel i covers [-1 + 2i/n, -1 + 2(i+1)/n]."""
    grid_from_points: Tensor
    """(B, 3, 3) rotation from the frame of the rays to the grid's."""

    def contains(self, points: Tensor) -> Tensor:
        """(B, N, 3) points in the frame of the rays -> (B, N) bool."""
        in_grid = points @ self.grid_from_points.transpose(1, 2).to(points.dtype)
        return self._lookup(in_grid)

    def along(self, origins: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
        """Rays (B, R, 3) and distances (B, R, S) -> (B, R, S) bool. Turning rays is cheaper than turning samples."""
        turn = self.grid_from_points.transpose(1, 2).to(origins.dtype)
        points = torch.addcmul((origins @ turn)[:, :, None], distances[..., None], (directions @ turn)[:, :, None])
        return self._lookup(points.flatten(1, 2)).view(distances.shape)

    def may_meet(self, origins: Tensor, directions: Tensor, region: str) -> Tensor:
        """Rays (B, R, 3) -> (B, R) bool: False where a ray surely meets no occupied voxel. Costs a few samples a ray."""
        blocks = max(self.grid.shape[-1] // 8, 1)
        pooled = F.adaptive_max_pool3d(self.grid.float(), blocks)
        coarse = Occupancy(F.max_pool3d(pooled, 3, stride=1, padding=1) > 0, self.grid_from_points)
        # Steps shorter than a block, and blocks widened by one: nothing is stepped over. A ray in the box is at most √12 long.
        distances, steps = sample_distances(origins, directions, 2 * blocks, region, None)
        return coarse.along(origins, directions, distances).any(dim=-1) & (steps > 0)

    def of(self, index: int) -> Occupancy:
        """Of one object, as a batch of one."""
        return Occupancy(self.grid[index : index + 1], self.grid_from_points[index : index + 1])

    def _lookup(self, points: Tensor) -> Tensor:
        n = self.grid.shape[-1]
        index = ((points + 1) * (n / 2)).long().clamp_(0, n - 1)
        flat = (index[..., 0] * n + index[..., 1]) * n + index[..., 2]
        return self.grid.flatten(1).gather(1, flat)


class DensityField(Protocol):
    """What an occupancy can be made of. `TriplaneField` is one."""

    def project(self, planes: Tensor, density_only: bool = False) -> Any:
        """Whatever of the planes is computed once for all points."""

    def evaluate_density(self, table: Any, points: Tensor, owners: Tensor) -> Tensor:
        """Points (M, 3) of objects (M,) -> density (M,)."""


THRESHOLD = 0.01
"""Density, 1 / object unit, that counts as something: a haze thinner than this dims the longest ray by 3 % at most."""


@torch.no_grad()
def occupied(
    field: DensityField, planes: Tensor, resolution: int | None = None, threshold: float = THRESHOLD
) -> Occupancy:
    """Where the density of B objects' planes (B, 3, C, R, R) is above `threshold`, for rendering many views of them.

    The density is taken at the centres of voxels, by default as many a side as the planes have texels, and what is found is
    widened by a voxel to all sides: between two texels the features run straight, and the density does not leap far.
    """
    n = resolution or planes.shape[-1]
    table = field.project(planes, density_only=True)
    axis = (torch.arange(n, device=planes.device) + 0.5) * (2 / n) - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    grids = []
    for owner in range(len(planes)):

        def above(part: slice, owner: int = owner) -> Tensor:
            owners = torch.full((part.stop - part.start,), owner, device=planes.device)
            return field.evaluate_density(table, points[part], owners) > threshold

        found = torch.cat(list(in_chunks(above, len(points), default_chunk(planes.device))))
        grids.append(F.max_pool3d(found.view(1, 1, n, n, n).float(), 3, stride=1, padding=1)[0, 0] > 0)
    turn = torch.eye(3, device=planes.device).expand(len(planes), 3, 3)
    return Occupancy(torch.stack(grids), turn)
