"""Volume rendering of a field (Max 1995, "Optical models for direct volume rendering": absorption and emission).

A ray is cut to the field's region and divided into equal steps; each sample stands for its step. Samples outside the
occupancy are dropped before the field sees them. Colour, opacity and depth of a ray are sums over its samples of
w = T (1 - exp(-σ δ)), T being the light that reaches the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from turntable import cameras


class Field(Protocol):
    """What can be rendered. `TriplaneField` is one."""

    @property
    def region(self) -> Literal["ball", "box"]:
        """Where density can be above 0: the unit ball or [-1, 1]³."""

    @property
    def optical_path(self) -> Literal["length", "unit"]:
        """What a density is multiplied by along a ray: lengths, or shares of its part in the region."""

    def project(self, planes: Tensor) -> Any:
        """Whatever of the planes is computed once for all points."""

    def evaluate(self, table: Any, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Points (M, 3) of objects (M,) -> density (M,) in 1 / object unit, colour (M, 3)."""


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

    def _lookup(self, points: Tensor) -> Tensor:
        n = self.grid.shape[-1]
        index = ((points + 1) * (n / 2)).long().clamp_(0, n - 1)
        flat = (index[..., 0] * n + index[..., 1]) * n + index[..., 2]
        return self.grid.flatten(1).gather(1, flat)


@dataclass(frozen=True)
class Rendering:
    """What rays see."""

    colour: Tensor
    """(B, R, 3) over the background."""
    opacity: Tensor
    """(B, R) in [0, 1]."""
    depth: Tensor
    """(B, R) mean distance along the ray of what it sees, in object units; 0 where it sees nothing. Not planar depth."""


def render(
    field: Field,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    background: float = 1.0,
    occupancy: Occupancy | None = None,
    generator: torch.Generator | None = None,
) -> Rendering:
    """Renders rays of B objects; the views of an object are flattened into its rays.

    planes (B, …); origins and unit directions (B, R, 3). `generator` jitters each sample within its step; without one the
    samples are the steps' middles. Computes in float32 (float64 where the rays are) under autocast too.
    """
    with torch.autocast(origins.device.type, enabled=False):
        return _render(field, planes, origins, directions, samples, background, occupancy, generator)


def _render(
    field: Field,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    background: float,
    occupancy: Occupancy | None,
    generator: torch.Generator | None,
) -> Rendering:
    b, r, _ = origins.shape
    distances, steps = sample_distances(origins, directions, samples, field.region, generator)
    kept = (steps > 0)[..., None].expand_as(distances)
    if occupancy is not None:
        kept = kept & occupancy.along(origins, directions, distances)
    # The one place where the host waits: how many samples are left.
    index = kept.reshape(-1).nonzero()[:, 0]
    ray = torch.div(index, samples, rounding_mode="floor")
    flat_distances = distances.view(-1)
    # A ray that misses has no samples left.
    paths = steps.view(-1) if field.optical_path == "length" else steps.new_full((b * r,), 1 / samples)
    points = torch.addcmul(origins.reshape(-1, 3)[ray], flat_distances[index, None], directions.reshape(-1, 3)[ray])
    density, colour = field.evaluate(field.project(planes), points, torch.div(ray, r, rounding_mode="floor"))
    thickness = density.new_zeros(b * r * samples).index_put((index,), density * paths[ray])
    weights = sample_weights(thickness.view(b * r, samples))
    opacity = weights.sum(dim=1)
    seen = (weights * distances.view(b * r, samples)).sum(dim=1)
    light = colour.new_zeros(b * r, 3).index_add(0, ray, weights.view(-1)[index, None] * colour)
    return Rendering(
        colour=(light + background * (1 - opacity)[:, None]).view(b, r, 3),
        opacity=opacity.view(b, r),
        depth=(seen / opacity.clamp(min=1e-6)).view(b, r),
    )


def sample_weights(thickness: Tensor) -> Tensor:
    """Optical thickness σ δ of the samples (R, S), near to far -> weights (R, S): light that arrives times what is absorbed."""
    # Not the sum less the sample's own: of a very dense sample nothing would be left of what lies before it.
    before = F.pad(thickness[:, :-1].cumsum(dim=1), (1, 0))
    return torch.exp(-before) * -torch.expm1(-thickness)


def sample_distances(
    origins: Tensor, directions: Tensor, samples: int, region: str, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Rays (..., 3) -> distances (..., samples) of the samples and the length (...) of a step; 0 for a ray that misses."""
    near, far = clip(origins, directions, region)
    steps = (far - near) / samples
    shape = (*steps.shape, samples)
    offsets = torch.arange(samples, device=origins.device, dtype=origins.dtype)
    if generator is None:
        offsets = (offsets + 0.5).expand(shape)
    else:
        jitter = torch.rand(shape, generator=generator, device=generator.device, dtype=origins.dtype)
        offsets = offsets + jitter.to(origins.device)
    return torch.addcmul(near[..., None], offsets, steps[..., None]), steps


def clip(origins: Tensor, directions: Tensor, region: str) -> tuple[Tensor, Tensor]:
    """Rays (..., 3) with unit directions -> distances (...) at which they enter and leave the region; equal when they miss."""
    if region == "ball":
        middle = -(origins * directions).sum(-1)
        nearest = origins + middle[..., None] * directions
        half = (1 - nearest.square().sum(-1)).clamp(min=0).sqrt()
        near, far = middle - half, middle + half
    else:
        # Kay and Kajiya 1986, slabs. A ray parallel to a wall divides by 0 and gets ±inf, as it should.
        inverse = 1 / torch.where(directions == 0, directions.new_tensor(1e-20), directions)
        walls = torch.stack([(-1 - origins) * inverse, (1 - origins) * inverse])
        near, far = walls.amin(0).amax(-1), walls.amax(0).amin(-1)
    near = near.clamp(min=0)
    return near, torch.maximum(far, near)


@torch.no_grad()
def render_view(
    field: Field,
    planes: Tensor,
    world_from_camera: np.ndarray | Tensor,
    intrinsics: np.ndarray | Tensor,
    size: int,
    samples: int,
    chunk: int = 8192,
    background: float = 1.0,
    occupancy: Occupancy | None = None,
) -> Rendering:
    """One picture of one object, without gradients: planes (1, …), camera (3, 4) and (4,) -> fields of shape (size, size, …).

    `chunk` is the number of rays at a time; rays that cannot meet the occupancy are not rendered. `planar_depth` turns the
    depth into the convention of shards.
    """
    uv, pose, lens = (
        torch.as_tensor(value, dtype=torch.float32, device=planes.device)
        for value in (cameras.pixel_centres(size, size).reshape(-1, 2), world_from_camera, intrinsics)
    )
    origins, directions = cameras.rays(uv, pose, lens)
    result = torch.zeros(len(uv), 5, device=planes.device)
    result[:, :3] = background
    hit = torch.arange(len(uv), device=planes.device)
    if occupancy is not None:
        hit = occupancy.may_meet(origins[None], directions[None], field.region)[0].nonzero()[:, 0]
    for rays in hit.split(chunk):
        part = render(field, planes, origins[rays][None], directions[rays][None], samples, background, occupancy)
        result[rays] = torch.cat([part.colour[0], part.opacity[0, :, None], part.depth[0, :, None]], dim=1)
    picture = result.view(size, size, 5)
    return Rendering(picture[..., :3], picture[..., 3], picture[..., 4])


def planar_depth(distance: Tensor, intrinsics: np.ndarray | Tensor) -> Tensor:
    """(H, W) distance along the rays of a camera's pixels -> (H, W) planar depth."""
    height, width = distance.shape
    uv = torch.as_tensor(cameras.pixel_centres(width, height), dtype=distance.dtype, device=distance.device)
    lens = torch.as_tensor(intrinsics, dtype=distance.dtype, device=distance.device)
    return distance / cameras.camera_directions(uv, lens).norm(dim=-1)
