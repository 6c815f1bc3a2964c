"""Triplane tokens to planes, and the field that reads density and colour from planes at points.

The first layer of a head is linear, and so is interpolation; so the layer is applied to the planes' texels, once, and its
result is interpolated (`TriplaneField.project`). There are far fewer texels than points, and what is read at a point is then
one weighted sum of twelve rows: the three planes' four corners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Direction = Literal["x", "y", "z", "-x", "-y", "-z"]
Frame = tuple[Direction, Direction, Direction]


@dataclass(frozen=True)
class TriplaneConfig:
    """Three square planes over the box [-1, 1]³."""

    upsample: int = 4
    """Texels a token's side becomes: a plane has decoder tokens × upsample texels a side."""
    channels: int = 24
    """Features a texel."""
    overlap: int = 1
    """Neighbouring tokens' patches overlap so many deep: 1, side by side (LRM), leaves seams in a thin surface; 2, by half."""
    detail: int = 0
    """Features of the picture, read where each texel's column projects and added to the planes; 0: none are."""
    detail_points: int = 4
    """Points of a column at which they are read."""
    axes: Axes = ((0, 1), (0, 2), (2, 1))
    """Axes (0 x, 1 y, 2 z) of the planes' own frame along each plane's columns and rows."""
    perspective: float = 0.0
    """The planes lie in the space that the rays of a camera at (0, -distance, 0), so many object units away, straighten: a column
    across its view is one of its rays, and what it shows lies in one texel (see `straightened`); 0: in the space itself."""
    frame: Frame = ("x", "y", "z")
    """Where the planes' own x, y and z point in the canonical frame of the input view."""

    def __post_init__(self) -> None:
        if self.overlap < 1 or (self.overlap - 1) * self.upsample % 2:
            raise ValueError(f"overlap must be at least 1 and (overlap - 1) × upsample even, got {self.overlap}")
        if self.perspective and not self.perspective > 1:
            raise ValueError(f"perspective must be 0 or a distance above 1, outside the object, got {self.perspective}")
        if sorted(direction[-1] for direction in self.frame) != ["x", "y", "z"]:
            raise ValueError(f"frame must name each of x, y and z once, got {self.frame}")

    @property
    def directions(self) -> list[tuple[int, float]]:
        """Of the three planes' columns and rows, six in all: the canonical axis, and -1 where they run against it."""
        turned = [self.frame[axis] for plane in self.axes for axis in plane]
        return [("xyz".index(direction[-1]), -1.0 if direction[0] == "-" else 1.0) for direction in turned]


@dataclass(frozen=True)
class FieldConfig:
    """The heads that turn plane features into density and colour."""

    heads: Literal["joint", "split"] = "split"
    """One MLP for density and colour, or one for each."""
    width: int = 32
    """Width of the hidden layers."""
    density_layers: int = 1
    """Hidden layers of the density head; of the one head when joint."""
    colour_layers: int = 2
    """Hidden layers of the colour head; unused when joint."""
    activation: Literal["relu", "silu"] = "relu"
    density: Literal["exp", "softplus"] = "exp"
    """What makes the density of the head's output, in 1 / object unit."""
    density_bias: float = -1.0
    """Added to the head's output before `density`."""
    optical_path: Literal["length", "unit"] = "length"
    """What a density is multiplied by along a ray: the length in object units; or, in TripoSR, its share of the ray's part in
    the region, which counts as 1 however long it is."""
    colour_margin: float = 0.001
    """Colours reach this far beyond [0, 1], so that black and white are within the sigmoid's reach."""
    region: Literal["ball", "box"] = "ball"
    """Where there is a field: the unit ball that holds every object, or the whole box. Outside the density is 0."""

    def __post_init__(self) -> None:
        if min(self.width, self.density_layers, self.colour_layers) < 1:
            raise ValueError(f"width and layers must be at least 1, got {self}")


class PlaneUpsampler(nn.Module):
    """Tokens (B, 3 · t², W) to planes (B, 3, C, R, R), R = t × upsample: each token becomes a patch, and patches add up."""

    def __init__(self, config: TriplaneConfig, width: int) -> None:
        super().__init__()
        stride, kernel = config.upsample, config.upsample * config.overlap
        self.deconvolution = nn.ConvTranspose2d(width, config.channels, kernel, stride, padding=(kernel - stride) // 2)
        # torch's start grows with the kernel's area; where patches overlap, that many times less reaches each texel.
        self.deconvolution.weight.data *= config.overlap

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens plane by plane, row by row -> planes, rows along dimension 3, columns along 4."""
        side = round((tokens.shape[1] / 3) ** 0.5)
        maps = tokens.reshape(-1, side, side, tokens.shape[-1]).permute(0, 3, 1, 2)
        return self.deconvolution(maps).unflatten(0, (-1, 3))


class _TruncatedExp(torch.autograd.Function):
    """exp with the gradient of exp held below 15 (Müller et al. 2022, "Instant NGP"): nothing overflows, nothing dies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        # Beyond 80 a sum over a ray's samples would leave float32; far before it no light passes.
        return x.clamp(max=80).exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * x.clamp(max=15).exp()


DENSITY: dict[str, Callable[[Tensor], Tensor]] = {"exp": _TruncatedExp.apply, "softplus": F.softplus}
ACTIVATION: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class TriplaneField(nn.Module):
    """Density and colour at points, from planes."""

    signs: Tensor | None

    def __init__(self, config: FieldConfig, triplane: TriplaneConfig) -> None:
        super().__init__()
        self.config = config
        self.directions = tuple(triplane.directions)
        self.axes = tuple(axis for axis, _ in self.directions)
        self.perspective = triplane.perspective
        signs = [sign for _, sign in self.directions]
        with torch.device("cpu"):  # real also where the parameters are on `meta`
            self.register_buffer("signs", torch.tensor(signs) if min(signs) < 0 else None, persistent=False)
        inputs = 3 * triplane.channels
        if config.heads == "joint":
            self.joint = _mlp(inputs, config.width, config.density_layers, 4, config.activation)
        else:
            self.density_head = _mlp(inputs, config.width, config.density_layers, 1, config.activation)
            self.colour_head = _mlp(inputs, config.width, config.colour_layers, 3, config.activation)

    @property
    def region(self) -> Literal["ball", "box"]:
        """Where there is a field."""
        return self.config.region

    @property
    def optical_path(self) -> Literal["length", "unit"]:
        """What a density is multiplied by along a ray."""
        return self.config.optical_path

    def forward(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """planes (B, 3, C, R, R), points (B, N, 3) -> density (B, N) in 1 / object unit, colour (B, N, 3) sRGB."""
        density, colour = self.evaluate(self.project(planes), points.flatten(0, 1), _owners(points))
        return density.view(points.shape[:2]), colour.view(points.shape)

    def density(self, planes: Tensor, points: Tensor) -> Tensor:
        """planes (B, 3, C, R, R), points (B, N, 3) -> density (B, N). Colour is not computed."""
        table = self.project(planes, density_only=True)
        return self.evaluate_density(table, points.flatten(0, 1), _owners(points)).view(points.shape[:2])

    def project(self, planes: Tensor, density_only: bool = False) -> Table:
        """The planes with the heads' first layer applied to every texel."""
        planes = planes.to(torch.promote_types(planes.dtype, torch.float32))
        b, _, c, r, _ = planes.shape
        weight = torch.cat([_first(head).weight for head in self._heads(density_only)]).to(planes.dtype)
        # One matrix product a plane: (R², C) @ (C, H).
        texels = planes.flatten(3).transpose(2, 3) @ weight.view(-1, 3, c).permute(1, 2, 0)
        return Table(texels.reshape(b * 3 * r * r, -1), r)

    def evaluate(self, table: Table, points: Tensor, owners: Tensor | int) -> tuple[Tensor, Tensor]:
        """Points (M, 3) of objects `owners` (M,) of the table's batch -> density (M,), colour (M, 3)."""
        hidden = self._first_layer(table, points, owners, density_only=False)
        if self.config.heads == "joint":
            raw_density, raw_colour = self.joint[2:](hidden).split([1, 3], dim=1)
        else:
            for_density, for_colour = hidden.split(self.config.width, dim=1)
            raw_density, raw_colour = self.density_head[2:](for_density), self.colour_head[2:](for_colour)
        margin = self.config.colour_margin
        return self._density(raw_density.squeeze(1), points), raw_colour.sigmoid() * (1 + 2 * margin) - margin

    def evaluate_density(self, table: Table, points: Tensor, owners: Tensor | int) -> Tensor:
        """As `evaluate`, without the colour. The table may have been projected with `density_only` or not."""
        hidden = self._first_layer(table, points, owners, density_only=True)
        return self._density(self._heads(True)[0][2:](hidden)[:, 0], points)

    def _heads(self, density_only: bool) -> list[nn.Sequential]:
        if self.config.heads == "joint":
            return [self.joint]
        return [self.density_head] if density_only else [self.density_head, self.colour_head]

    def _first_layer(self, table: Table, points: Tensor, owners: Tensor | int, density_only: bool) -> Tensor:
        points = straightened(points, self.perspective)
        rows, weights = corners(points, table.resolution, owners, self.axes, self.signs)
        bias = torch.cat([_first(head).bias for head in self._heads(density_only)])
        activation = self._heads(density_only)[0][1]
        read = table.rows[:, : len(bias)].contiguous()  # the density's come first
        # In place: this is the largest array of a step, and fresh memory for it is dear.
        return activation(gather(read, rows, weights).add_(bias))

    def _density(self, raw: Tensor, points: Tensor) -> Tensor:
        density = DENSITY[self.config.density](raw + self.config.density_bias)
        reach = points.square().sum(-1) if self.region == "ball" else points.abs().amax(-1)
        # A ray's first and last points lie on the border but for rounding.
        return density * (reach <= 1 + 1e-5)


@dataclass(frozen=True)
class Table:
    """Planes as rows to gather from."""

    rows: Tensor
    """(B · 3 · R², H): object by object, plane by plane, row by row."""
    resolution: int
    """R."""


def _owners(points: Tensor) -> Tensor:
    """(B, N, 3) -> (B · N,): the object that each point belongs to."""
    return torch.arange(len(points), device=points.device).repeat_interleave(points.shape[1])


def _first(head: nn.Sequential) -> nn.Linear:
    layer = head[0]
    assert isinstance(layer, nn.Linear)
    return layer


def _mlp(inputs: int, width: int, hidden: int, outputs: int, activation: str) -> nn.Sequential:
    """`hidden` layers of `width`, an activation behind each, and a linear layer to `outputs`."""
    sizes = [inputs] + [width] * hidden
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), ACTIVATION[activation](inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def straightened(points: Tensor, distance: float) -> Tensor:
    """Canonical points (..., 3) -> where the rays of a camera at (0, -distance, 0) run along y; the unit ball stays in [-1, 1]³.

    y stays; x and z are divided by how far away the point is, and multiplied so that the cone around the ball becomes a
    cylinder of radius 1. With distance 0 the points stay.
    """
    return points if not distance else _scaled_across(points, _spread(points[..., 1], distance).reciprocal())


def bent(points: Tensor, distance: float) -> Tensor:
    """The inverse of `straightened`."""
    return points if not distance else _scaled_across(points, _spread(points[..., 1], distance))


def _spread(y: Tensor, distance: float) -> Tensor:
    """Radius of the cone around the unit ball at y."""
    return (y + distance) / (distance**2 - 1) ** 0.5


def _scaled_across(points: Tensor, factor: Tensor) -> Tensor:
    return torch.stack([points[..., 0] * factor, points[..., 1], points[..., 2] * factor], dim=-1)


def corners(
    points: Tensor, resolution: int, owners: Tensor | int, axes: Sequence[int], signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Points (M, 3) -> table rows (M, 12) int32 and bilinear weights (M, 12) of the four texels around them on each plane.

    `axes` and `signs`, six each: the points' coordinates along the planes' columns and rows, and the signs they are read with
    (None: as they are). Texel i's centre lies at -1 + (2i + 1) / R (grid_sample's align_corners=False); beyond the planes
    there are zeros.
    """
    # (6, M): runs along a point's coordinates, rather than between them, are what the processor is fast at.
    texel = points.t()[list(axes)]
    if signs is not None:
        texel = texel * signs.to(texel.dtype)[:, None]
    texel = texel * (resolution / 2) + (resolution / 2 - 0.5)
    low = texel.detach().floor()
    high_weight = texel - low
    weight = torch.stack(
        [
            (1 - high_weight) * ((low >= 0) & (low < resolution)),
            high_weight * ((low >= -1) & (low < resolution - 1)),
        ]
    )
    index = low.clamp_(-1, resolution).to(torch.int32)
    index = torch.stack([index, index + 1]).clamp_(0, resolution - 1)
    plane = torch.arange(3, device=points.device, dtype=torch.int32)[:, None]
    if isinstance(owners, int):
        plane = plane + 3 * owners
    else:
        plane = plane + 3 * owners.to(torch.int32)
    # (2 neighbours, 3 planes, M) each.
    column, row = index[:, 0::2], index[:, 1::2] * resolution + plane * resolution**2
    rows = row[:, None] + column[None]
    weights = weight[:, None, 1::2] * weight[None, :, 0::2]
    return rows.permute(3, 2, 0, 1).reshape(-1, 12), weights.permute(3, 2, 0, 1).reshape(-1, 12)


def gather(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """table (T, H), rows (M, K) integers, weights (M, K) -> (M, H): row m is the weighted sum of K rows of the table."""
    if weights.requires_grad:
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    return _Gather.apply(table, rows, weights)


class _Gather(torch.autograd.Function):
    """`embedding_bag` whose backward is an `embedding_bag` too, over the transposed lists: on a CPU, half the time of its own."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weights)
        ctx.table_rows = len(table)
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, weights = ctx.saved_tensors
        # A short key sorts faster.
        key = rows.reshape(-1).to(torch.int16 if ctx.table_rows < 2**15 else torch.int32)
        counts = torch.bincount(rows.reshape(-1), minlength=ctx.table_rows)
        order = key.argsort()
        points = torch.div(order, rows.shape[1], rounding_mode="floor")
        starts = counts.cumsum(0) - counts
        by_row = weights.reshape(-1)[order]
        result = F.embedding_bag(points, gradient.contiguous(), starts, per_sample_weights=by_row, mode="sum")
        return result, None, None
