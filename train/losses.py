"""What training minimises: pictures, mattes, empty space, depth, and (asked for by name) perceptual distance.

Every term is a mean over objects, each object's own mean; and every random number comes from its object's own seed. So the
loss of a batch is the mean of the losses of its halves, and a step is the same however its objects are shared out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model import rays, volume
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
    solid: float = 0.0
    """Mean binary cross-entropy of whether points lie in the object; the surface is where the density is the model's `level`. Needs
    stored geometry. It tells the shape directly, at a point's cost instead of a ray's."""
    normal: float = 0.0
    """Mean 1 - n·n' between the field's normals and the true ones where a ray hits. Needs the normal pass, and makes a step a good
    deal dearer: the density's gradient takes six more evaluations a sample."""
    variation: float = 0.0
    """Mean squared difference of neighbouring texels of the planes (total variation, as EG3D has it for its planes' densities):
    smoother planes, fewer floaters."""
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


class Objective(nn.Module):
    """A model and what is asked of it: batch of samples (`datasets.samples`) -> loss and its terms.

    A module of its own, so that whatever wraps it sees every use of the model's parameters.
    """

    def __init__(
        self,
        lrm: LRM,
        weights: LossWeights,
        lpips: LPIPS | None = None,
        region_side: int = 0,
    ) -> None:
        """The first `region_side`² rays of a view are a square region in row order; LPIPS looks at these."""
        super().__init__()
        self.lrm, self.weights, self.region_side = lrm, weights, region_side
        # In a tuple: no part of the module, so that its frozen weights are neither shared out nor saved.
        self._lpips = (lpips,)

    def forward(self, batch: dict[str, Tensor], settings: RenderSettings) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss, and its terms (detached, unweighted)."""
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=settings.bf16):
            planes = self.lrm.planes(batch["image"], batch["camera"])
        planes = planes.float()
        origins, directions = cameras.rays(batch["uv"], batch["world_from_camera"], batch["intrinsics"])
        occupancy = volume.Occupancy(batch["hull"], batch["world_from_canonical"])
        generators = [torch.Generator(planes.device).manual_seed(int(seed)) for seed in batch["seed"].cpu()]
        rendering = volume.render(
            self.lrm.field,
            planes,
            origins.flatten(1, 2),
            directions.flatten(1, 2),
            settings.samples,
            occupancy=occupancy,
            generator=generators,
            normals=self.weights.normal > 0,
        )
        terms = self._terms(batch, planes, rendering)
        if self.weights.empty:
            terms["empty"] = _empty_density(self.lrm, planes, occupancy, settings.empty_points, generators)
        loss = sum((getattr(self.weights, name) * term for name, term in terms.items()), planes.new_zeros(()))
        return loss, {name: term.detach() for name, term in terms.items()}

    def _terms(self, batch: dict[str, Tensor], planes: Tensor, rendering: volume.Rendering) -> dict[str, Tensor]:
        weights, (lpips,) = self.weights, self._lpips
        colour = rendering.colour.view_as(batch["rgb"])
        terms = {
            "colour": (colour - batch["rgb"]).square().mean(),
            "mask": (rendering.opacity.view_as(batch["alpha"]) - batch["alpha"]).square().mean(),
        }
        if weights.depth:
            terms["depth"] = _depth_error(rendering.depth.view_as(batch["depth"]), batch)
        if weights.solid:
            terms["solid"] = _solid_error(self.lrm, planes, batch)
        if weights.normal:
            terms["normal"] = _normal_error(rendering, batch)
        if weights.variation:
            terms["variation"] = _variation(planes)
        if weights.lpips and lpips is not None:
            predicted, true = _regions(colour, self.region_side), _regions(batch["rgb"], self.region_side)
            terms["lpips"] = lpips(predicted, true).mean()
        return terms


def _empty_density(
    lrm: LRM, planes: Tensor, occupancy: volume.Occupancy, count: int, generators: Sequence[torch.Generator]
) -> Tensor:
    points = rays.uniform((len(planes), count, 3), generators, planes) * 2 - 1
    if lrm.field.region == "ball":  # drawn in the box, half of them would lie where density is 0 anyhow
        norm = points.norm(dim=-1, keepdim=True)
        points = points * points.abs().amax(dim=-1, keepdim=True) / norm.clamp(min=1e-9)
    outside = ~occupancy.contains(points)
    opacity = -torch.expm1(-lrm.field.density(planes, points) * _EMPTY_LENGTH)
    return _object_mean(opacity, outside)


def _depth_error(distance: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Distances (B, V, R) along the rays against the batch's planar depth, where a ray hits and its pixel is all object."""
    along = cameras.camera_directions(batch["uv"], batch["intrinsics"][:, :, None]).norm(dim=-1)
    hit = (batch["depth"] > 0) & (batch["alpha"] > 0.99)
    return _object_mean((distance - batch["depth"] * along).abs(), hit)


def _solid_error(lrm: LRM, planes: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy at points (B, P, 3). How surely a point is inside is the logarithm of its density over the surface's."""
    # Densities that are nothing (beyond the ball, or below 1e-6) have no logarithm worth a gradient.
    surely = (lrm.field.density(planes, batch["points"]).clamp(min=1e-6) / lrm.config.level).log()
    return functional.binary_cross_entropy_with_logits(surely, batch["solid"])


def _normal_error(rendering: volume.Rendering, batch: dict[str, Tensor]) -> Tensor:
    """How far the field's normals are from the true ones, in [0, 2], where a ray hits and is not let through."""
    assert rendering.normal is not None
    agreement = (rendering.normal.view_as(batch["normal"]) * batch["normal"]).sum(dim=-1)
    solid = rendering.opacity.view_as(batch["alpha"]).detach() > 0.5
    return _object_mean(1 - agreement, solid & (batch["alpha"] > 0.99) & (batch["normal"].square().sum(dim=-1) > 0.5))


def _variation(planes: Tensor) -> Tensor:
    """(B, 3, C, R, R) -> mean squared difference of neighbours along rows and along columns."""
    return planes.diff(dim=-1).square().mean() + planes.diff(dim=-2).square().mean()


def _object_mean(values: Tensor, counted: Tensor) -> Tensor:
    """values (B, …), counted (B, …) bool -> mean over objects of each one's mean over what counts, 0 where nothing does."""
    return ((values * counted).flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1).clamp(min=1)).mean()


def _regions(pixels: Tensor, side: int) -> Tensor:
    """(B, V, R, 3) -> (B·V, 3, side, side), the first side² rays of every view."""
    square = pixels[:, :, : side * side].unflatten(2, (side, side)).flatten(0, 1)
    return square.permute(0, 3, 1, 2)
