"""Volume rendering of a field (Max 1995, "Optical models for direct volume rendering": absorption and emission).

A ray is cut to the field's region and divided into equal steps; each sample stands for its step, or, with importance samples
among them, for what is nearer to it than to its neighbours. Colour, opacity and depth of a ray are sums over its samples of
w = T (1 - exp(-σ δ)), T being the light that reaches the sample.

Nearly all the time goes into the field's network, so what counts is how few samples it sees with gradients:

- Samples outside the occupancy are dropped unseen.
- A first pass without gradients marches along the rays, a few samples at a time, by density alone, and ends a ray where too
  little light is left. Samples of hardly any weight are then dropped too; only the others are evaluated with colour and
  gradients. How little that is, `march.Cut` says. A picture changes by at most samples × cut.weight + cut.light. The gradient of
  a sample's colour is its weight, and that of what density is the exponential (or softplus) of is at most its weight times
  the range of colours behind it, so that both are bounded likewise.
- In a haze every sample matters and the first pass would be wasted. A few rays tell beforehand (`march.FirstPass`).
- Activations are kept of one chunk of points at most; of more they are computed again in the backward pass (`chunks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import fused, trial
from model.chunks import default_chunk, evaluated, in_chunks
from model.march import GRADIENT_CUT, PICTURE_CUT, Field, FirstPass, Marcher, Rays, sample_weights
from model.occupancy import Occupancy
from model.rays import Generators, clip, sample_distances
from model.triplane import Table, TriplaneField
from turntable import cameras
from turntable.errors import UserError

__all__ = ["Field", "Occupancy", "Rendering", "clip", "planar_depth", "render", "render_view", "sample_distances"]

NORMAL_STEP = 1 / 64
"""Object units to both sides over which the density's gradient is taken: half a texel of planes 64 wide."""
NORMAL_WEIGHT = 1e-3
"""Samples of less weight say nothing about the normal."""

Kernel = Literal["auto", "plain", "fused"]


@dataclass(frozen=True)
class Rendering:
    """What rays see."""

    colour: Tensor
    """(B, R, 3) over the background."""
    opacity: Tensor
    """(B, R) in [0, 1]."""
    depth: Tensor
    """(B, R) mean distance along the ray of what it sees, in object units; 0 where it sees nothing. Not planar depth."""
    normal: Tensor | None = None
    """(B, R, 3) unit, in the rays' frame, against the mean of the density's gradient over what the ray sees; 0 where it sees
    nothing. Only when asked for."""


def render(
    field: Field,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    background: float = 1.0,
    occupancy: Occupancy | None = None,
    generator: Generators | None = None,
    *,
    importance: int = 0,
    first_pass: FirstPass = "auto",
    normals: bool = False,
    chunk: int | None = None,
    kernel: Kernel = "auto",
) -> Rendering:
    """Renders rays of B objects; the views of an object are flattened into its rays.

    planes (B, …); origins and unit directions (B, R, 3). `generator`, one or one an object, jitters each sample within its step;
    without one the samples are the steps' middles. `importance` samples a ray are added where the first ones find something;
    where they lie has no gradient. `first_pass` decides whether samples that hardly matter are found and left out (see the
    module). `chunk` is the number of points evaluated at a time, and of points whose activations are kept for the backward pass;
    it changes no result. Computes in float32 (float64 where the rays are) under autocast too.

    `kernel` decides what runs: the code of this module ("plain"), or the kernels of `model.fused`, which raise UserError
    where they cannot ("fused"). By default those run on CUDA, where they can, agree with the plain path on a few rays
    (`model.trial`, once a device and kind of field), and no normals are asked for. They need no first pass.

    On CUDA the plain path waits for the device where samples are dropped, since how many are left decides the shapes of all
    that follows: once a chunk of rays for an occupancy, and some times more for a first pass. Without either it never waits.
    """
    with torch.autocast(origins.device.type, enabled=False):
        table = field.project(planes)
        graded = torch.is_grad_enabled() and any(t.requires_grad for t in (table.rows, *field.parameters()))
        cut = GRADIENT_CUT if graded else PICTURE_CUT
        marcher = Marcher(field, table, occupancy, chunk or default_chunk(origins.device), cut)
        rays = marcher.sampled(origins, directions, samples, importance, generator)
        if _runs_fused(kernel, marcher, rays, normals):
            light, opacity, seen = _fused_sums(marcher, rays)
            normal = None
        else:
            light, opacity, seen, normal = _plain_sums(marcher, rays, first_pass, normals)
    return Rendering(
        colour=light + background * (1 - opacity)[..., None],
        opacity=opacity,
        depth=seen / opacity.clamp(min=1e-6),
        normal=normal,
    )


def _runs_fused(kernel: Kernel, marcher: Marcher, rays: Rays, normals: bool) -> bool:
    rows = marcher.table.rows
    if kernel == "plain" or (kernel == "auto" and (normals or not rows.is_cuda)):
        return False
    reason = fused.why_not(marcher.field, rows, rays.origins, rays.directions)
    if normals:
        reason = "the kernels give no normals"
    if kernel == "fused" and reason:
        raise UserError(f'kernel="fused" cannot render this: {reason}; ask for kernel="plain", or "auto"')
    if kernel == "auto" and reason is None:
        reason = _fault_of_kernels(marcher, rays)
    return reason is None


def _fault_of_kernels(marcher: Marcher, rays: Rays) -> str | None:
    """What is wrong with the kernels on this device, by a few of these rays; see `model.trial`."""
    assert isinstance(marcher.field, TriplaneField)
    some = rays[:: -(-rays.origins.shape[1] // trial.RAYS)]
    kind = (rays.origins.device, marcher.field.config, marcher.field.directions, marcher.occupancy is None)

    def plain(table: Table) -> trial.Sums:
        return _plain_sums(replace(marcher, table=table), some, "never", normals=False)[:3]

    def kernels(table: Table) -> trial.Sums:
        return _fused_sums(replace(marcher, table=table), some)

    return trial.fault(kind, marcher.table, plain, kernels)


def _fused_sums(marcher: Marcher, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """As `_plain_sums`, by the fused kernels."""
    assert isinstance(marcher.field, TriplaneField)
    return fused.march(
        marcher.field,
        marcher.table,
        rays.origins,
        rays.directions,
        rays.distances,
        rays.paths,
        marcher.occupancy,
        marcher.cut.light,
    )


def _plain_sums(
    marcher: Marcher, rays: Rays, first_pass: FirstPass, normals: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Light (B, R, 3), opacity (B, R), Σ weight × distance (B, R); and normals (B, R, 3) or None."""
    b, r, s = rays.distances.shape
    index = marcher.chosen(rays, first_pass)
    points, owners, paths = rays.at(index)
    density, colour = evaluated(marcher.field, marcher.field.evaluate, marcher.table, points, owners, marcher.chunk)
    thickness = density.new_zeros(b * r * s).index_put((index,), density * paths)
    weights = sample_weights(thickness.view(b * r, s)).view(b, r, s)
    ray = torch.div(index, s, rounding_mode="floor")
    own = weights.view(-1)[index, None]
    light = colour.new_zeros(b * r, 3).index_add(0, ray, own * colour)
    normal = None
    if normals:
        telling = (own[:, 0] > NORMAL_WEIGHT).nonzero()[:, 0]
        rising = _density_gradient(marcher, points[telling], owners[telling])
        total = torch.zeros_like(light).index_add(0, ray[telling], own[telling] * rising)
        normal = -F.normalize(total, dim=1).view(b, r, 3)
    return light.view(b, r, 3), weights.sum(dim=2), (weights * rays.distances).sum(dim=2), normal


def _density_gradient(marcher: Marcher, points: Tensor, owners: Tensor) -> Tensor:
    """(M, 3) by central differences: smoother than the planes' own, which leaps from texel to texel, and differentiable."""
    offsets = NORMAL_STEP * torch.cat([torch.eye(3), -torch.eye(3)]).to(points)
    around = (points[:, None] + offsets).view(-1, 3)
    ahead, behind = marcher.density(around, owners.repeat_interleave(6)).view(-1, 2, 3).unbind(dim=1)
    return (ahead - behind) / (2 * NORMAL_STEP)


@torch.no_grad()
def render_view(
    field: Field,
    planes: Tensor,
    world_from_camera: np.ndarray | Tensor,
    intrinsics: np.ndarray | Tensor,
    size: int,
    samples: int,
    chunk: int = 1 << 15,
    background: float = 1.0,
    occupancy: Occupancy | None = None,
    *,
    importance: int = 0,
    normals: bool = False,
    kernel: Kernel = "auto",
) -> Rendering:
    """One picture of one object, without gradients: planes (1, …), camera (3, 4) and (4,) -> fields of shape (size, size, …).

    `chunk` is the number of rays at a time, halved when the GPU's memory runs out; rays that cannot meet the occupancy are not
    rendered. `planar_depth` turns the depth into the convention of shards. The rest is as in `render`.
    """
    uv, pose, lens = (
        torch.as_tensor(value, dtype=torch.float32, device=planes.device)
        for value in (cameras.pixel_centres(size, size).reshape(-1, 2), world_from_camera, intrinsics)
    )
    origins, directions = cameras.rays(uv, pose, lens)
    result = torch.zeros(len(uv), 8, device=planes.device)
    result[:, :3] = background
    hit = torch.arange(len(uv), device=planes.device)
    if occupancy is not None:
        hit = occupancy.may_meet(origins[None], directions[None], field.region)[0].nonzero()[:, 0]

    def seen(part: slice) -> Tensor:
        o, d = origins[hit[part]][None], directions[hit[part]][None]
        found = render(
            field,
            planes,
            o,
            d,
            samples,
            background,
            occupancy,
            importance=importance,
            normals=normals,
            kernel=kernel,
        )
        columns = [found.colour[0], found.opacity[0, :, None], found.depth[0, :, None]]
        return torch.cat(columns if found.normal is None else [*columns, found.normal[0]], dim=1)

    if len(hit):
        values = torch.cat(list(in_chunks(seen, len(hit), chunk)))
        result[hit, : values.shape[1]] = values
    picture = result.view(size, size, 8)
    return Rendering(picture[..., :3], picture[..., 3], picture[..., 4], picture[..., 5:] if normals else None)


def planar_depth(distance: Tensor, intrinsics: np.ndarray | Tensor) -> Tensor:
    """(H, W) distance along the rays of a camera's pixels -> (H, W) planar depth."""
    height, width = distance.shape
    uv = torch.as_tensor(cameras.pixel_centres(width, height), dtype=distance.dtype, device=distance.device)
    lens = torch.as_tensor(intrinsics, dtype=distance.dtype, device=distance.device)
    return distance / cameras.camera_directions(uv, lens).norm(dim=-1)
