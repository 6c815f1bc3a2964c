"""Where a ray is sampled: its part inside the field's region, equal steps of it, and more samples where something was found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Generators = torch.Generator | Sequence[torch.Generator]
"""What draws random numbers: one for all, or one an object, so that an object's are the same in whatever company it is."""


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


def sample_distances(
    origins: Tensor, directions: Tensor, samples: int, region: str, generator: Generators | None
) -> tuple[Tensor, Tensor]:
    """Rays (..., 3) -> distances (..., samples) of the samples and the length (...) of a step; 0 for a ray that misses."""
    near, far = clip(origins, directions, region)
    steps = (far - near) / samples
    shape = (*steps.shape, samples)
    offsets = torch.arange(samples, device=origins.device, dtype=origins.dtype)
    if generator is None:
        offsets = (offsets + 0.5).expand(shape)
    else:
        offsets = offsets + uniform(shape, generator, origins)
    return torch.addcmul(near[..., None], offsets, steps[..., None]), steps


def importance_distances(weights: Tensor, count: int, jitter: Tensor | None) -> Tensor:
    """Shares (..., count) of a ray's way that lie densely where light is absorbed: Mildenhall et al. 2020, "NeRF", section 5.2.

    The weights (..., S) of equal steps are taken as a histogram, and its distribution function is inverted at evenly spaced
    values, each jittered within its share by `jitter` (..., count) in [0, 1). About a hundredth of the samples is spread evenly
    in any case; on a ray that sees nothing all are.
    """
    steps = weights.shape[-1]
    histogram = weights + (0.01 * weights.mean(dim=-1, keepdim=True) + 1e-6)
    upto = F.pad(histogram.cumsum(dim=-1), (1, 0))
    upto = upto / upto[..., -1:]
    even = torch.arange(count, device=weights.device, dtype=weights.dtype)
    value = (even + (0.5 if jitter is None else jitter)).expand(*weights.shape[:-1], count).contiguous() / count
    step = (torch.searchsorted(upto, value, right=True) - 1).clamp_(0, steps - 1)
    low, high = upto.gather(-1, step), upto.gather(-1, step + 1)
    return (step + ((value - low) / (high - low)).clamp(0, 1)) / steps


def merged(near: Tensor, far: Tensor, *distances: Tensor) -> tuple[Tensor, Tensor]:
    """Several sets (..., n) of samples of the same rays (...) as one, sorted, and the span that each stands for.

    That is what lies nearer to it than to its neighbours, from the ray's entry `near` to its exit `far`.
    """
    together = torch.cat(distances, dim=-1).sort(dim=-1).values
    middles = (together[..., 1:] + together[..., :-1]) / 2
    edges = torch.cat([near[..., None], middles, far[..., None]], dim=-1)
    return together, edges.diff(dim=-1)


def uniform(shape: tuple[int, ...], generator: Generators, like: Tensor) -> Tensor:
    """Numbers in [0, 1) on the device and of the type of `like`. Of several generators each draws its slice of dimension 0."""
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
    return torch.cat([uniform((1, *shape[1:]), one, like) for one in generator])
