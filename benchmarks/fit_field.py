"""A triplane fitted to one captured model, for benchmarks: `python -m benchmarks.fit_field CAPTURE.zip --out chair.safetensors`.

No network is involved: the planes' texels and the field's heads are optimised until the rendered rays look like the capture's
pictures. The last views are held out, and their PSNR is printed and kept. What is written is what a network of that size
answers at best, and so what meshing, rendering and texturing are measured on.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from datasets.objects import Objects, StoredObject
from model import volume
from model.checkpoints import write_tensors
from model.lrm import SIZES, LRMConfig, config_from_json
from model.tensors import read_tensors
from model.triplane import TriplaneField
from train.metrics import decibels
from turntable import cameras, config, framing, geometry
from turntable.errors import UserError


@dataclass(frozen=True)
class FitConfig:
    """What to fit, and for how long."""

    capture: tyro.conf.Positional[Path]
    """A capture."""
    out: Path
    """Where the field goes, a .safetensors."""
    model: str = "small"
    """A key of `model.lrm.SIZES`: the planes' and the field's size."""
    steps: int = 600
    rays: int = 2048
    """Rays a step."""
    samples: int = 96
    """Samples a ray."""
    rate: float = 0.02
    """Learning rate of the planes; the heads' is a fifth."""
    held_out: int = 2
    """Views at the end that only judge."""
    size: int = 256
    """Pixels, the side of the pictures that are fitted."""
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in SIZES:
            raise ValueError(f"model must be one of {', '.join(SIZES)}, got {self.model}")
        if min(self.steps, self.rays, self.samples, self.held_out, self.size) < 1:
            raise ValueError(f"steps, rays, samples, held_out and size must be at least 1, got {self}")


@dataclass(frozen=True)
class FittedField:
    """A field and its planes, in the object's world frame."""

    field: TriplaneField
    planes: Tensor
    """(1, 3, C, R, R) float32."""
    config: LRMConfig
    """The network that would make such planes."""
    about: dict[str, Any]
    """Capture, uid, steps, held-out PSNR."""


def load(path: Path) -> FittedField:
    """A field as this command writes it."""
    tensors, metadata = read_tensors(path)
    settings = config_from_json(json.loads(metadata["config"]))
    field = TriplaneField(settings.field, settings.triplane)
    planes = tensors.pop("planes")
    field.load_state_dict(tensors)
    return FittedField(field.eval().requires_grad_(False), planes, settings, json.loads(metadata["about"]))


def save(path: Path, fitted: FittedField) -> None:
    tensors = {"planes": fitted.planes.detach(), **fitted.field.state_dict()}
    metadata = {"config": json.dumps(asdict(fitted.config)), "about": json.dumps(fitted.about)}
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


@dataclass(frozen=True)
class Pixels:
    """All pixels of several views, whose rays pass the field's box."""

    origins: Tensor
    """(N, 3)."""
    directions: Tensor
    """(N, 3), unit."""
    colour: Tensor
    """(N, 3) on white."""
    alpha: Tensor
    """(N,)."""


def read_pixels(item: StoredObject, views: range, size: int) -> Pixels:
    parts = []
    for view in views:
        rgba = item.rgba(view, size)
        height, width = rgba.shape[:2]
        uv = cameras.pixel_centres(width, height).reshape(-1, 2)
        origins, directions = cameras.rays(uv, item.world_from_camera[view], item.intrinsics[view])
        colour = framing.on_background(rgba).reshape(-1, 3)
        parts.append((origins, directions, colour, rgba[..., 3].reshape(-1) / 255))
    joined = (torch.tensor(np.concatenate(part), dtype=torch.float32) for part in zip(*parts, strict=True))
    return Pixels(*joined)


def fit(item: StoredObject, settings: FitConfig) -> FittedField:
    """Adam on the planes and the heads; samples outside the mattes' visual hull are skipped."""
    torch.manual_seed(settings.seed)
    lrm = SIZES[settings.model]
    field = TriplaneField(lrm.field, lrm.triplane)
    planes = torch.nn.Parameter(0.1 * torch.randn(1, 3, lrm.triplane.channels, lrm.resolution, lrm.resolution))
    views = range(len(item.world_from_camera) - settings.held_out)
    pixels = read_pixels(item, views, settings.size)
    alphas = [item.rgba(view, settings.size)[..., 3] for view in views]
    hull = torch.from_numpy(
        geometry.visual_hull(alphas, item.world_from_camera[: len(views)], item.intrinsics[: len(views)])
    )
    occupancy = volume.Occupancy(hull[None], torch.eye(3)[None])
    # Rays that miss the hull are white by construction.
    met = occupancy.may_meet(pixels.origins[None], pixels.directions[None], field.region)[0].nonzero()[:, 0]
    outside = torch.from_numpy(geometry.voxel_centres(hull.shape[0]))[~hull.reshape(-1)]
    optimiser = torch.optim.Adam(
        [{"params": [planes], "lr": settings.rate}, {"params": field.parameters(), "lr": settings.rate / 5}],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1, (step + 1) / 20) * (0.02 + 0.98 * math.cos(0.5 * math.pi * step / settings.steps)),
    )
    generator = torch.Generator().manual_seed(settings.seed)
    progress = tqdm(range(settings.steps), desc=item.uid[:8], unit="step")
    for _ in progress:
        chosen = met[torch.randint(len(met), (settings.rays,), generator=generator)]
        empty = outside[torch.randint(len(outside), (1024,), generator=generator)][None]
        seen = volume.render(
            field,
            planes,
            pixels.origins[chosen][None],
            pixels.directions[chosen][None],
            settings.samples,
            occupancy=occupancy,
            generator=generator,
        )
        error = (seen.colour[0] - pixels.colour[chosen]).square().mean()
        mask = (seen.opacity[0] - pixels.alpha[chosen]).square().mean()
        haze = -torch.expm1(-0.1 * field.density(planes, empty)).mean()
        optimiser.zero_grad()
        (error + 0.1 * mask + 0.1 * haze).backward()
        optimiser.step()
        schedule.step()
        progress.set_postfix(psnr=f"{-10 * math.log10(float(error.detach())):.1f}", refresh=False)
    return FittedField(field.eval().requires_grad_(False), planes.detach(), lrm, {})


def judge(fitted: FittedField, item: StoredObject, settings: FitConfig) -> float:
    """PSNR over the whole pictures of the held-out views."""
    total = len(item.world_from_camera)
    figures = []
    for view in range(total - settings.held_out, total):
        true = framing.on_background(item.rgba(view, settings.size))
        seen = volume.render_view(
            fitted.field,
            fitted.planes,
            item.world_from_camera[view],
            item.intrinsics[view],
            settings.size,
            settings.samples,
        )
        figures.append(decibels(float(((seen.colour.numpy() - true) ** 2).mean())))
    return float(np.mean(figures))


def main() -> int:
    settings = config.parse(FitConfig, __doc__ or "")
    torch.set_num_threads(settings.threads)
    if settings.out.is_file():
        print(f"{settings.out} is there already")
        return 0
    item = Objects(settings.capture).open(0)
    if len(item.world_from_camera) <= settings.held_out:
        raise UserError(f"{settings.capture}: {len(item.world_from_camera)} views, none left to fit; lower --held-out")
    start = time.perf_counter()
    fitted = fit(item, settings)
    seconds = time.perf_counter() - start
    about = {"uid": item.uid, "steps": settings.steps, "held_out_psnr": judge(fitted, item, settings)}
    fitted.about.update(about)
    save(settings.out, fitted)
    print(f"{settings.out}: {about['held_out_psnr']:.2f} dB on {settings.held_out} held-out views, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    config.run(main)
