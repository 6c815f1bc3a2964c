"""What training minimises: pictures, mattes, empty space, and (asked for by name) perceptual distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model import volume
from model.lrm import LRM
from train.lpips import LPIPS
from turntable import cameras

_EMPTY_LENGTH = 0.1
"""Object units of path whose opacity the empty-space loss looks at: it saturates, so that no single point dominates."""


@dataclass(frozen=True)
class LossWeights:
    """Each term's weight; 0 leaves it out."""

    colour: float = 1.0
    """Mean squared error of colours on the background, [0, 1] sRGB."""
    mask: float = 0.5
    """Mean squared error of opacity against the matte, [0, 1]."""
    empty: float = 0.1
    """Mean opacity of a tenth of a unit at random points outside the mattes' visual hull: what no picture shows is nothing."""
    depth: float = 0.1
    """Mean distance, object units, between where an opaque ray ends and where it truly ends. Needs the depth pass. It tells a
    surface from a deeper one of the same colour, which pictures alone cannot."""
    lpips: float = 0.0
    """LPIPS (VGG) of the square regions; needs its weights, see --lpips-weights."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"the weight {name} must not be negative, got {value}")


@dataclass(frozen=True)
class RenderSettings:
    """How supervised rays are rendered."""

    samples: int = 48
    """Samples a ray, stratified between the ray's entry into and exit from the unit sphere."""
    empty_points: int = 2048
    """Random points an object at which the density outside the hull is pushed down."""
    bf16: bool = False
    """Compute the planes in bfloat16. Rendering stays float32: its sums of exponentials lose too much otherwise."""


def reconstruction_loss(
    lrm: LRM,
    batch: dict[str, Tensor],
    weights: LossWeights,
    settings: RenderSettings,
    generator: torch.Generator,
    lpips: LPIPS | None = None,
    region_side: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss of a batch of samples (`datasets.samples`), and its terms (detached, unweighted).

    `generator` (on the batch's device) draws the samples along the rays and the points in empty space. The first
    `region_side`² rays of a view are a square region in row order; LPIPS looks at these.
    """
    with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=settings.bf16):
        planes = lrm.planes(batch["image"], batch["camera"])
    planes = planes.float()
    origins, directions = cameras.rays(batch["uv"], batch["world_from_camera"], batch["intrinsics"])
    occupancy = volume.Occupancy(batch["hull"], batch["world_from_canonical"])
    rendering = volume.render(
        lrm.field,
        planes,
        origins.flatten(1, 2),
        directions.flatten(1, 2),
        settings.samples,
        occupancy=occupancy,
        generator=generator,
    )
    colour = rendering.colour.view_as(batch["rgb"])
    terms = {
        "colour": (colour - batch["rgb"]).square().mean(),
        "mask": (rendering.opacity.view_as(batch["alpha"]) - batch["alpha"]).square().mean(),
    }
    if weights.empty:
        terms["empty"] = _empty_density(lrm, planes, occupancy, settings.empty_points, generator)
    if weights.depth:
        terms["depth"] = _depth_error(rendering.depth.view_as(batch["depth"]), batch)
    if weights.lpips and lpips is not None:
        predicted, true = _regions(colour, region_side), _regions(batch["rgb"], region_side)
        terms["lpips"] = lpips(predicted, true).mean()
    loss = sum((getattr(weights, name) * term for name, term in terms.items()), torch.zeros((), device=colour.device))
    return loss, {name: term.detach() for name, term in terms.items()}


def _empty_density(
    lrm: LRM, planes: Tensor, occupancy: volume.Occupancy, count: int, generator: torch.Generator
) -> Tensor:
    points = torch.rand((len(planes), count, 3), generator=generator, device=planes.device) * 2 - 1
    if lrm.field.region == "ball":  # drawn in the box, half of them would lie where density is 0 anyhow
        norm = points.norm(dim=-1, keepdim=True)
        points = points * points.abs().amax(dim=-1, keepdim=True) / norm.clamp(min=1e-9)
    outside = ~occupancy.contains(points)
    opacity = -torch.expm1(-lrm.field.density(planes, points) * _EMPTY_LENGTH)
    return (opacity * outside).sum() / outside.sum().clamp(min=1)


def _depth_error(distance: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Distances (B, V, R) along the rays against the batch's planar depth, where a ray hits and its pixel is all object."""
    along = cameras.camera_directions(batch["uv"], batch["intrinsics"][:, :, None]).norm(dim=-1)
    hit = (batch["depth"] > 0) & (batch["alpha"] > 0.99)
    return ((distance - batch["depth"] * along).abs() * hit).sum() / hit.sum().clamp(min=1)


def _regions(pixels: Tensor, side: int) -> Tensor:
    """(B, V, R, 3) -> (B·V, 3, side, side), the first side² rays of every view."""
    square = pixels[:, :, : side * side].unflatten(2, (side, side)).flatten(0, 1)
    return square.permute(0, 3, 1, 2)
