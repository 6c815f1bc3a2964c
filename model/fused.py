"""A field's rays rendered by one kernel a pass: sampling, MLP and compositing fused, forward and backward (`model.kernels`).

What is gathered. The kernel reads the table of `TriplaneField.project`, where the first linear layer is applied already,
not the planes. A row has 64 numbers for every published model and for ours, while planes have 24, 32, 40, 48 or 80 channels,
which a matrix product in Triton would round up to 32, 64 or 128 of each of three planes. Only with 32 channels would the planes
be half the bytes; a third of the arithmetic and its part of the backward pass are saved, and the table's own gradient reaches
planes and first layer through autograd, exactly as on the plain path.

Precision. float32; products in full float32 unless `torch.set_float32_matmul_precision` allows less ("high": TF32).

Limits. Fields of other classes, widths other than 16, 32, 64 or 128, float64, gradients of rays, second derivatives, GPUs older
than compute capability 8.0 and deterministic gradients (theirs are added in any order) are the plain path's; `why_not` says which
it is. One kernel is compiled for each configuration of a field, not for each size.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.triplane import Table, TriplaneField
from turntable.errors import UserError

STOP = 1e-4
"""The share of a ray's light below which what follows is not looked at."""
BLOCK, WARPS = 16, 8
"""Rays a program, and its warps. With OpenLRM's MLP the forward pass fits into an sm_90's registers; of larger blocks it does
not. The backward pass spills a few hundred bytes a thread. (By the compiler's report; `benchmarks.kernel_speed` prints it.)"""
COPIES = 32
"""Of the MLP's gradient, so that programs seldom add to the same number."""
RAW = 16
"""Columns of the heads' output, padded."""


class Voxels(Protocol):
    """Where samples are evaluated; elsewhere density counts as 0. `model.volume.Occupancy` is it."""

    @property
    def grid(self) -> Tensor:
        """(B, n, n, n) bool over [-1, 1]³, indexed [x, y, z]."""

    @property
    def grid_from_points(self) -> Tensor:
        """(B, 3, 3) rotation from the rays' frame to the grid's."""


def why_not(field: Any, planes: Tensor, origins: Tensor, directions: Tensor) -> str | None:
    """Why the fused kernels cannot render this, or None where they can. `planes`, or their table's rows."""
    if not isinstance(field, TriplaneField):
        return f"there are kernels for TriplaneField only, not for {type(field).__name__}"
    if field.perspective:
        return "its planes lie in a camera's straightened space"
    if field.config.width not in (16, 32, 64, 128):
        return f"the kernels' layers are 16, 32, 64 or 128 wide, this field's {field.config.width}"
    if torch.float64 in (planes.dtype, origins.dtype):
        return "the kernels compute in float32, and this is float64"
    if origins.requires_grad or directions.requires_grad:
        return "the kernels give no gradients of rays"
    if importlib.util.find_spec("triton") is None:
        return "triton is missing, which GPU builds of torch bring; install it with: pip install triton"
    if planes.requires_grad and torch.are_deterministic_algorithms_enabled():
        return "the kernels add gradients in any order, and deterministic algorithms are asked for"
    return _why_not_on(planes.device)


def _why_not_on(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None if interpreted() else f"the kernels run on CUDA devices, and the planes are on {device}"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < (8, 0):
        return f"the kernels need a GPU of compute capability 8.0, and {device} has {capability[0]}.{capability[1]}"
    return None


def interpreted() -> bool:
    """Whether kernels run on the CPU, in Triton's interpreter: slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def march(
    field: TriplaneField,
    table: Table,
    origins: Tensor,
    directions: Tensor,
    distances: Tensor,
    paths: Tensor,
    occupancy: Voxels | None = None,
    stop: float = STOP,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays of B objects -> light (B, R, 3) without background, opacity (B, R), and Σ weight × distance (B, R).

    table: `field.project(planes)`; origins and unit directions (B, R, 3); distances (B, R, S) of the samples, near to far;
    paths (B, R, S), or (B, R, 1) where all steps of a ray are alike: what their densities are multiplied by, 0 to leave one
    out. A ray ends where less than `stop` of its light is left. Differentiable in the table and the field's parameters.
    """
    reason = why_not(field, table.rows, origins, directions)
    if reason:
        raise UserError(f"the fused kernels cannot render this: {reason}; use the plain path")
    rays = [origins, directions]
    if occupancy is not None:
        turn = occupancy.grid_from_points.transpose(1, 2).to(origins.dtype)
        rays += [origins @ turn, directions @ turn]
    sums = _March.apply(
        table.rows,
        packed(field),
        torch.cat(rays, dim=-1).float(),
        distances.float().contiguous(),
        paths.float().contiguous(),
        None if occupancy is None else occupancy.grid.contiguous().view(torch.uint8),
        table.resolution,
        {"STOP": stop, **settings_of(field)},
    )
    return sums[..., 1:4], sums[..., 0], sums[..., 4]


def settings_of(field: TriplaneField) -> dict[str, Any]:
    """What a kernel is compiled for."""
    config = field.config
    return {
        "AXES": field.axes,
        "SIGNS": tuple(sign for _, sign in field.directions),
        "BALL": config.region == "ball",
        "SPLIT": config.heads == "split",
        "W": config.width,
        "LAYERS": config.density_layers - 1,
        "COLOUR_LAYERS": config.colour_layers - 1,
        "SILU": config.activation == "silu",
        "EXP": config.density == "exp",
        "BIAS": config.density_bias,
        "MARGIN": config.colour_margin,
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "BLOCK": BLOCK,
        "num_warps": WARPS,
    }


def packed(field: TriplaneField) -> Tensor:
    """The heads' weights in one row of numbers, in the order that `model.kernels` states; differentiable."""
    heads = [field.joint] if field.config.heads == "joint" else [field.density_head, field.colour_head]
    parts: list[Tensor] = []
    biases: list[Tensor] = []
    used = 0
    for head in heads:
        first, *hidden, last = [layer for layer in head if isinstance(layer, nn.Linear)]
        parts.append(first.bias)
        parts += [number for layer in hidden for number in (layer.weight.t().reshape(-1), layer.bias)]
        parts.append(F.pad(last.weight.t(), (used, RAW - used - last.out_features)).reshape(-1))
        biases.append(last.bias)
        used += last.out_features
    return torch.cat([*parts, F.pad(torch.cat(biases), (0, RAW - used))]).float()


class _March(torch.autograd.Function):
    """The two kernels."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        table: Tensor,
        mlp: Tensor,
        rays: Tensor,
        distances: Tensor,
        paths: Tensor,
        grid: Tensor | None,
        size: int,
        settings: dict[str, Any],
    ) -> Tensor:
        from model import kernels

        b, r, samples = distances.shape
        cells = 0 if grid is None else grid.shape[-1]
        ctx.numbers = (r, samples, size, cells)
        ctx.settings = {"PATH": paths.shape[-1] > 1, "RAY": rays.shape[-1], "GRID": grid is not None, **settings}
        # Without a grid nothing is read through its pointer.
        inputs = (rays, distances, paths, table.contiguous(), mlp, rays if grid is None else grid)
        sums = rays.new_empty(b, r, 5)
        with _current(rays.device):
            kernels.march[_programs(b, r)](sums, *inputs, *ctx.numbers, **ctx.settings)
        ctx.save_for_backward(sums, *inputs)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from model import kernels

        sums, *inputs = ctx.saved_tensors
        table, mlp = inputs[3:5]
        table_gradient, mlp_gradient = torch.zeros_like(table), mlp.new_zeros(COPIES, len(mlp))
        gradients = (change.contiguous(), sums, table_gradient, mlp_gradient)
        with _current(table.device):
            kernels.march_backward[_programs(*sums.shape[:2])](
                *gradients, *inputs, *ctx.numbers, COPIES=COPIES, **ctx.settings
            )
        return table_gradient, mlp_gradient.sum(dim=0), *[None] * 6


def _programs(objects: int, rays: int) -> tuple[int, int]:
    return -(-rays // BLOCK), objects


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
