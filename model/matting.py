"""A small network that tells the object from its background, in the form of rembg's `u2net_custom`.

rembg shrinks any picture to 320², without keeping its aspect, divides by its maximum, normalises by ImageNet's mean and
deviation, and takes the first output as the object's probability. `ForRembg` is that form; inside it `MattingNet`, a
U-Net (Ronneberger et al. 2015), sees half that side, since most of its time goes into its finest level.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turntable.errors import UserError
from turntable.files import atomic_path

REMBG_SIZE = 320
"""Pixels, the side of what rembg's u2net sessions give to a network."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, RGB in [0, 1], as rembg's u2net sessions apply them."""


@dataclass(frozen=True)
class MattingConfig:
    """Size of the network."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 96)
    """Channels of each level, the finest first; each level has half the side of the one before."""

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"widths must be two or more positive numbers, got {self.widths}")


def normalised(rgb: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> what the network sees, as rembg does it: the brightest value of each picture becomes 1."""
    brightest = rgb.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (rgb / brightest - rgb.new_tensor(MEAN)[:, None, None]) / rgb.new_tensor(DEVIATION)[:, None, None]


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class MattingNet(nn.Module):
    """(N, 3, S, S) normalised -> (N, 1, S, S) logits of being the object; S a multiple of 2 ** (levels - 1)."""

    def __init__(self, config: MattingConfig = MattingConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.first = _convolution(3, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(above, width), _convolution(width, width))
            for above, width in itertools.pairwise(widths)
        )
        # What the object is depends on the whole picture: a gate by the picture's mean, as in squeeze-and-excitation (Hu et al. 2018).
        self.gate = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.Sigmoid())
        self.up = nn.ModuleList(_convolution(below + width, width) for width, below in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        levels = [self.first(image)]
        for block in self.down:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        x = x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
        for block in reversed(self.up):
            enlarged = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([enlarged, levels.pop()], dim=1))
        return self.last(x)


class ForRembg(nn.Module):
    """(1, 3, 320, 320) normalised -> (1, 1, 320, 320) probability."""

    def __init__(self, net: MattingNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits = self.net(F.avg_pool2d(image, 2))
        return torch.sigmoid(F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False))


def export(net: MattingNet, path: Path) -> None:
    """Writes `path` (.onnx) for `--matte rembg:u2net_custom=PATH`, complete or not at all."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; `pip install onnx onnxscript` (the extra [dev])") from error
    example = torch.zeros(1, 3, REMBG_SIZE, REMBG_SIZE)
    program = torch.onnx.export(
        ForRembg(net).eval(), (example,), input_names=["image"], output_names=["matte"], dynamo=True, verbose=False
    )
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary)
