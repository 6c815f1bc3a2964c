"""A triplane renderer that spares nothing, for comparison: what OpenLRM's does, by its description in our notes, in plain torch.

Every sample is evaluated by the whole network, on rays that miss the box too, and masked afterwards. Planes are repeated for each
view, the features of all samples are sampled and kept in float32, half the samples are even and half are importance samples,
both passes have gradients, and their union is composited by the midpoint rule between neighbours. The density grid of a mesh is
evaluated densely, colours and all.

It reads the same `TriplaneField` (one joint head, softplus) as the renderer that it is compared with.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.rays import clip
from model.triplane import TriplaneField, straightened

Quadrature = Literal["midpoint", "spans"]
"""Between neighbouring samples, with the mean of their densities and colours; or each sample for the span nearest to it."""


class Picture(NamedTuple):
    """What rays see."""

    colour: Tensor
    """(V, R, 3) over the background."""
    opacity: Tensor
    """(V, R)."""
    depth: Tensor
    """(V, R) along the ray."""


class Answers(NamedTuple):
    """What the network says at samples."""

    distances: Tensor
    """(V, R, S)."""
    density: Tensor
    """(V, R, S)."""
    colour: Tensor
    """(V, R, S, 3)."""


def render(
    field: TriplaneField,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    background: float = 1.0,
    distances: Tensor | None = None,
    quadrature: Quadrature = "midpoint",
) -> Picture:
    """V views of one object: planes (1, 3, C, R, R), rays (V, R, 3).

    `distances` (V, R, S), where given, are the samples; otherwise half are even and half are importance samples.
    """
    views = planes.repeat(len(origins), 1, 1, 1, 1)
    near, far = _limits(origins, directions)
    if distances is not None:
        found = _ask(field, views, origins, directions, distances)
    else:
        even = _even(near, far, samples - samples // 2)
        coarse = _ask(field, views, origins, directions, even)
        weights, _ = _midpoints(coarse)
        more = _importance(even, weights.detach(), samples // 2)
        found = _merge(coarse, _ask(field, views, origins, directions, more))
    weights, answers = _midpoints(found) if quadrature == "midpoint" else _spans(found, near, far)
    opacity = weights.sum(-1)
    colour = (weights[..., None] * answers.colour).sum(-2) + background * (1 - opacity)[..., None]
    depth = (weights * answers.distances).sum(-1) / opacity.clamp(min=1e-6)
    return Picture(colour, opacity, depth)


def density_grid(
    field: TriplaneField, planes: Tensor, resolution: int, chunk: int = 1 << 17, centres: bool = False
) -> Tensor:
    """(n, n, n) density at points from wall to wall of the box, or at voxels' centres; each with its colour, thrown away."""
    line = torch.linspace(-1, 1, resolution)
    if centres:
        line = line * (1 - 1 / resolution)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)
    parts = [_network(field, planes, part[None])[0][0] for part in grid.split(chunk)]
    return torch.cat(parts).view(resolution, resolution, resolution)


def _limits(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (V, R, 3) enter and leave the box; a ray that misses gets the limits of those that do not."""
    near, far = clip(origins, directions, "box")
    hit = far > near
    if hit.any():
        near = torch.where(hit, near, near[hit].min())
        far = torch.where(hit, far, far[hit].max())
    return near, far


def _even(near: Tensor, far: Tensor, count: int) -> Tensor:
    share = (torch.arange(count, device=near.device, dtype=near.dtype) + 0.5) / count
    return near[..., None] + (far - near)[..., None] * share


def _ask(field: TriplaneField, planes: Tensor, origins: Tensor, directions: Tensor, distances: Tensor) -> Answers:
    points = origins[..., None, :] + distances[..., None] * directions[..., None, :]
    density, colour = _network(field, planes, points.flatten(1, 2))
    return Answers(distances, density.view(distances.shape), colour.view(*distances.shape, 3))


def _network(field: TriplaneField, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """planes (V, 3, C, R, R), points (V, N, 3) -> density (V, N), 0 outside the box, and colour (V, N, 3)."""
    v, _, c, r, _ = planes.shape
    points = straightened(points, field.perspective)
    uv = points[..., list(field.axes)].view(v, -1, 3, 2).permute(0, 2, 1, 3).reshape(v * 3, -1, 1, 2)
    read = F.grid_sample(planes.view(v * 3, c, r, r).float(), uv.float(), padding_mode="zeros", align_corners=False)
    features = read[..., 0].view(v, 3, c, -1).permute(0, 3, 1, 2).reshape(-1, 3 * c)
    x = features
    for layer in field.joint:
        # Not in place: every layer's outputs are kept.
        x = F.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
    margin = field.config.colour_margin
    inside = (points.abs().amax(-1) <= 1 + 1e-5).view(-1)
    density = F.softplus(x[:, 0] + field.config.density_bias) * inside
    colour = x[:, 1:].sigmoid() * (1 + 2 * margin) - margin
    return density.view(v, -1), colour.view(v, -1, 3)


def _midpoints(answers: Answers) -> tuple[Tensor, Answers]:
    """Max 1995, with the mean of two neighbours between them: weights (V, R, S - 1) and what they weigh."""
    middle = Answers(
        (answers.distances[..., 1:] + answers.distances[..., :-1]) / 2,
        (answers.density[..., 1:] + answers.density[..., :-1]) / 2,
        (answers.colour[..., 1:, :] + answers.colour[..., :-1, :]) / 2,
    )
    return _weights(middle.density * answers.distances.diff(dim=-1)), middle


def _spans(answers: Answers, near: Tensor, far: Tensor) -> tuple[Tensor, Answers]:
    edges = (answers.distances[..., 1:] + answers.distances[..., :-1]) / 2
    edges = torch.cat([near[..., None], edges, far[..., None]], dim=-1)
    return _weights(answers.density * edges.diff(dim=-1)), answers


def _weights(thickness: Tensor) -> Tensor:
    absorbed = 1 - torch.exp(-thickness)
    through = torch.cumprod(torch.cat([torch.ones_like(absorbed[..., :1]), 1 - absorbed + 1e-10], dim=-1), dim=-1)
    return absorbed * through[..., :-1]


def _importance(distances: Tensor, weights: Tensor, count: int) -> Tensor:
    """(V, R, count) samples distributed as the weights (V, R, S - 1) between distances (V, R, S) are."""
    histogram = weights + 1e-5
    upto = F.pad((histogram / histogram.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    value = (torch.arange(count, device=weights.device) + 0.5) / count
    value = value.expand(*weights.shape[:-1], count).contiguous()
    bin_ = (torch.searchsorted(upto, value, right=True) - 1).clamp(0, weights.shape[-1] - 1)
    low, high = upto.gather(-1, bin_), upto.gather(-1, bin_ + 1)
    start, end = distances.gather(-1, bin_), distances.gather(-1, bin_ + 1)
    return start + (end - start) * (value - low) / (high - low).clamp(min=1e-8)


def _merge(a: Answers, b: Answers) -> Answers:
    """Both passes' answers, near to far."""
    order = torch.cat([a.distances, b.distances], dim=-1).argsort(dim=-1)
    distances, density = (
        torch.cat(pair, dim=-1).gather(-1, order) for pair in ((a.distances, b.distances), (a.density, b.density))
    )
    colour = torch.cat([a.colour, b.colour], dim=-2).gather(-2, order[..., None].expand(*order.shape, 3))
    return Answers(distances, density, colour)
