"""The fused kernels beside a plain twin: `TRITON_INTERPRET=1 python -m tests.model.fused_agreement` prints errors as JSON.

A process of its own, because Triton looks at TRITON_INTERPRET when it is imported, and any test may have imported it before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model import fused, volume
from model.triplane import FieldConfig, TriplaneConfig, TriplaneField

Sums = tuple[Tensor, Tensor, Tensor]
OPENLRM = TriplaneConfig(channels=5)
TRIPOSR = TriplaneConfig(channels=5, axes=((0, 1), (0, 2), (1, 2)), frame=("y", "-x", "z"))


@dataclass(frozen=True)
class Case:
    """A field and how it is rendered."""

    field: FieldConfig
    triplane: TriplaneConfig = OPENLRM
    samples: int = 4
    jitter: bool = False
    spans: bool = False
    """A path a sample, some of them 0, rather than one a ray; and the last samples beyond the region."""
    occupied: bool = False
    stop: float = 0.0
    objects: int = 1


CASES = {
    "tiny": Case(FieldConfig("split", 32, 1, 2, density_bias=1.0), jitter=True, occupied=True, objects=2),
    "openlrm": Case(FieldConfig("joint", 64, 3, density="softplus", region="box"), spans=True),
    "triposr": Case(
        FieldConfig("joint", 16, 4, 1, "silu", optical_path="unit", region="box", density_bias=2.0), TRIPOSR
    ),
    "split silu": Case(FieldConfig("split", 16, 2, 1, "silu", "softplus", 1.0), TRIPOSR, occupied=True, spans=True),
    # Dense enough that most rays end early, and one or two samples are left out.
    "dark": Case(FieldConfig("split", 16, 1, 1, density_bias=2.5, region="box"), samples=6, stop=0.05),
}


def plain(
    field: TriplaneField,
    planes: Tensor,
    origins: Tensor,
    directions: Tensor,
    distances: Tensor,
    paths: Tensor,
    occupancy: volume.Occupancy | None,
    stop: float,
) -> Sums:
    """What `fused.march` says, with every sample of every ray evaluated and kept."""
    points = origins[:, :, None] + distances[..., None] * directions[:, :, None]
    density, colour = field(planes, points.flatten(1, 2))
    thickness = density.view(distances.shape) * paths
    if occupancy is not None:
        thickness = thickness * occupancy.contains(points.flatten(1, 2)).view(distances.shape)
    before = thickness.cumsum(dim=-1) - thickness
    weights = torch.exp(-before) * (1 - torch.exp(-thickness)) * (torch.exp(-before) > stop)
    light = (weights[..., None] * colour.view(*distances.shape, 3)).sum(dim=2)
    return light, weights.sum(dim=-1), (weights * distances).sum(dim=-1)


def fused_sums(field: TriplaneField, planes: Tensor, *others: Any) -> Sums:
    return fused.march(field, field.project(planes), *others)


def inputs(case: Case, rays: int = 19) -> tuple[TriplaneField, list[Tensor], volume.Occupancy | None]:
    """A field; planes, origins, directions, distances and paths. The rays fill no block, and the last of each object misses."""
    generator, objects = torch.Generator().manual_seed(0), case.objects

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    torch.manual_seed(0)
    field = TriplaneField(case.field, case.triplane)
    planes = drawn(objects, 3, case.triplane.channels, 6, 6)
    origins = torch.nn.functional.normalize(drawn(objects, rays, 3), dim=-1) * 2.5
    directions = torch.nn.functional.normalize(0.4 * drawn(objects, rays, 3) - origins, dim=-1)
    directions[:, -1] = -directions[:, -1]
    jitter = generator if case.jitter else None
    distances, steps = volume.sample_distances(origins, directions, case.samples, case.field.region, jitter)
    paths = steps if case.field.optical_path == "length" else (steps > 0) / case.samples
    paths = paths[..., None]
    if case.spans:
        distances = distances * 1.15
        paths = paths * torch.rand(distances.shape, generator=generator).sub(0.2).clamp(min=0) * 2
    occupancy = None
    if case.occupied:
        grid = torch.rand(objects, 8, 8, 8, generator=generator) < 0.5
        occupancy = volume.Occupancy(grid, torch.linalg.qr(drawn(objects, 3, 3))[0])
    return field, [planes, origins, directions, distances, paths], occupancy


def errors(case: Case, device: str) -> dict[str, float]:
    """Of the sums, the largest difference to the twin in doubles; of gradients, that of the worst tensor, relative to its norm."""
    field, tensors, occupancy = inputs(case)
    weights = [torch.randn(tensors[1].shape[:2], generator=torch.Generator().manual_seed(1)) for _ in range(5)]

    def outcome(render: Callable[..., Sums], device: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        copy = deepcopy(field).to(device, dtype)
        given = [tensor.to(device, dtype) for tensor in tensors]
        given[0].requires_grad_()
        grid = None
        if occupancy is not None:
            grid = volume.Occupancy(occupancy.grid.to(device), occupancy.grid_from_points.to(device))
        light, opacity, seen = render(copy, *given, grid, case.stop)
        sums = [*light.unbind(-1), opacity, seen]
        loss = sum((part * weight.to(device, dtype)).sum() for part, weight in zip(sums, weights, strict=True))
        gradients = torch.autograd.grad(loss, [given[0], *copy.parameters()])
        return [part.detach().cpu().double() for part in sums], [part.cpu().double() for part in gradients]

    ours, our_gradients = outcome(fused_sums, device, torch.float32)
    theirs, their_gradients = outcome(plain, "cpu", torch.float64)
    assert all(gradient.norm() > 0 for gradient in their_gradients)
    pairs = zip(our_gradients, their_gradients, strict=True)
    return {
        "sums": max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)),
        "gradients": max(float((a - b).norm() / b.norm()) for a, b in pairs),
        "mean opacity": float(theirs[3].mean()),
    }


def renderer_difference(device: str) -> float:
    """What `volume.render` gives by the kernels and by the plain path: the largest difference of colour, opacity and depth."""
    case = CASES["dark"]
    field, tensors, _ = inputs(case)
    planes, origins, directions = (tensor.to(device) for tensor in tensors[:3])

    def rendered(kernel: volume.Kernel) -> Tensor:
        seen = volume.render(field.to(device), planes, origins, directions, case.samples, 0.7, kernel=kernel)
        return torch.cat([seen.colour, seen.opacity[..., None], seen.depth[..., None]], dim=-1)

    with torch.no_grad():
        return float((rendered("fused") - rendered("plain")).abs().max())


def fault() -> str | None:
    """What the trial before the first use (`model.trial`) finds wrong with the kernels."""
    case = CASES["tiny"]
    field, (planes, origins, directions, *_), occupancy = inputs(case)
    marcher = volume.Marcher(field, field.project(planes), occupancy, 1 << 16, volume.PICTURE_CUT)
    rays = marcher.sampled(origins, directions, case.samples, 0, None)
    return volume._fault_of_kernels(marcher, rays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: errors(case, "cpu") for name, case in CASES.items()}
    json.dump(found | {"renderer": renderer_difference("cpu"), "fault": fault()}, sys.stdout, indent=2)
