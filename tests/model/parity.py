"""The published families' own outputs against ours: `python -m tests.model.parity ../shared/parity`.

The folder holds small models with random weights in the published layouts, with inputs and the reference implementations' outputs
in float32 (`io.safetensors`). Prints the largest errors; exit code 1 where one is beyond what is expected: 1e-4 of the largest
value for planes and values at points, 40 dB for pictures.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model import triposr, volume
from model.checkpoints import load_model
from model.lrm import LRM
from model.triplane import TriplaneField
from turntable import cameras

TENSOR_LIMIT = 1e-4
"""Relative to the largest value; float32 on another machine, sums in another order."""
PICTURE_LIMIT = 40.0
"""dB. The references are rendered with 1,024 samples a ray, half of them where the others found something; ours are spaced evenly."""
OPENLRM_SAMPLES = 512


@dataclass(frozen=True)
class Row:
    """One tensor's agreement."""

    model: str
    tensor: str
    error: float
    """Relative to the largest value; or dB for a picture."""
    picture: bool = False

    @property
    def agrees(self) -> bool:
        """Whether it is as close as `facts` expects."""
        return self.error >= PICTURE_LIMIT if self.picture else self.error <= TENSOR_LIMIT

    def __str__(self) -> str:
        value = f"{self.error:.1f} dB" if self.picture else f"{self.error:.1e}"
        return f"{self.model:<20}{self.tensor:<22}{value:>10}  {'' if self.agrees else 'BEYOND ITS LIMIT'}".rstrip()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found - expected).abs().max() / expected.abs().max())


def decibels(found: Tensor, expected: Tensor, largest: float = 1.0) -> float:
    """PSNR for values up to `largest`."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return -10 * math.log10(float((found - expected).square().mean()) / largest**2)


def with_input_size(lrm: LRM, size: int) -> LRM:
    """The same network for pictures of another size; no tensor depends on it."""
    encoder = dataclasses.replace(lrm.config.encoder, image_size=size)
    resized = LRM(dataclasses.replace(lrm.config, encoder=encoder), load_weights=False)
    resized.load_state_dict(lrm.state_dict())
    return resized.eval()


def values(field: TriplaneField, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Density (N,) and colour (N, 3) at points (N, 3), also beyond the box, where the references read on and ours say 0.

    A plane with a border of zeros, read at points drawn in by as much, is what reading beyond a plane gives.
    """
    border = planes.shape[-1] // 4
    padded = torch.nn.functional.pad(planes, (border,) * 4)
    density, colour = field(padded, points[None] * (planes.shape[-1] / padded.shape[-1]))
    return density[0], colour[0]


@torch.no_grad()
def openlrm(folder: Path) -> list[Row]:
    """One OpenLRM model."""
    io, lrm = load_file(folder / "io.safetensors"), load_model(folder)
    lrm = with_input_size(lrm, io["image"].shape[-1])
    planes = lrm.planes(io["image"], io["source_camera"])
    density, colour = values(lrm.field, io["planes"], io["points"][0])
    line = torch.linspace(-1, 1, io["grid_sigma"].shape[1])
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(1, -1, 3)
    rows = [
        Row(folder.name, "planes", relative_error(planes, io["planes"])),
        Row(folder.name, "points_sigma", relative_error(density, io["points_sigma"][0, :, 0])),
        Row(folder.name, "points_rgb", relative_error(colour, io["points_rgb"][0])),
        Row(
            folder.name,
            "grid_sigma",
            relative_error(lrm.field.density(io["planes"], grid), io["grid_sigma"].view(1, -1)),
        ),
    ]
    return rows + _openlrm_pictures(folder.name, lrm, io)


def _openlrm_pictures(name: str, lrm: LRM, io: dict[str, Tensor]) -> list[Row]:
    views = [_openlrm_view(lrm, io, view) for view in range(io["render_cameras"].shape[1])]
    colour, opacity, depth = (torch.stack(part) for part in zip(*views, strict=True))
    expected = io["images_depth"][0, :, 0]
    seen = io["images_weight"][0, :, 0] > 0.1
    return [
        Row(name, "images_rgb", decibels(colour, io["images_rgb"][0].permute(0, 2, 3, 1)), True),
        Row(name, "images_weight", decibels(opacity, io["images_weight"][0, :, 0]), True),
        Row(name, "images_depth", decibels(depth[seen], expected[seen], float(expected[seen].max())), True),
    ]


def _openlrm_view(lrm: LRM, io: dict[str, Tensor], view: int) -> tuple[Tensor, Tensor, Tensor]:
    """(H, W, 3), (H, W), (H, W): the region whose corner is at `anchors` (row, column) of a picture of `resolutions` pixels."""
    camera, whole = io["render_cameras"][0, view], float(io["resolutions"][0, view, 0])
    height, width = io["images_rgb"].shape[-2:]
    pose, lens = camera[:16].view(4, 4)[:3], camera[16:].view(3, 3)
    pixels = torch.tensor(cameras.pixel_centres(width, height) * [width, height], dtype=torch.float32)
    uv = (pixels + io["anchors"][0, view].flip(0)).view(-1, 2) / whole
    origins, directions = cameras.rays(uv, pose, torch.stack([lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]]))
    background = float(io["bg_colors"][0, view, 0])
    seen = volume.render(lrm.field, io["planes"], origins[None], directions[None], OPENLRM_SAMPLES, background)
    return seen.colour.view(height, width, 3), seen.opacity.view(height, width), seen.depth.view(height, width)


OURS_FROM_TRIPOSR = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Its input camera is on +x, ours on -y."""


@torch.no_grad()
def tripo(folder: Path) -> list[Row]:
    """One TripoSR model. Its points and rays are in its world, so this also says in which frame and scale ours has the field.

    Its rays do not make pictures of anything (those of a view lie in a plane), but they are rays.
    """
    io, lrm = load_file(folder / "io.safetensors"), load_model(folder)
    turn = OURS_FROM_TRIPOSR.T / triposr.RADIUS
    planes = lrm.planes(io["image"].permute(0, 3, 1, 2), torch.zeros(1, 16))
    density, colour = values(lrm.field, io["planes"], io["points"] @ turn)
    origins, directions = (io[name].view(1, -1, 3) @ OURS_FROM_TRIPOSR.T for name in ("rays_o", "rays_d"))
    seen = volume.render(lrm.field, io["planes"], origins / triposr.RADIUS, directions, 128)
    logarithms = density.log(), io["points_density"][:, 0].log()
    return [
        Row(folder.name, "planes", relative_error(planes, io["planes"])),
        Row(folder.name, "log points_density", relative_error(*logarithms)),
        Row(folder.name, "points_rgb", relative_error(colour, io["points_rgb"])),
        Row(folder.name, "images_rgb", decibels(seen.colour.view(io["images_rgb"].shape), io["images_rgb"]), True),
    ]


def rows(folder: Path) -> list[Row]:
    """All of them."""
    return openlrm(folder / "openlrm-split-qkv") + openlrm(folder / "openlrm-fused-qkv") + tripo(folder / "triposr")


def main() -> int:
    found = rows(Path(sys.argv[1]))
    print("\n".join(map(str, found)))
    return 0 if all(row.agrees for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
