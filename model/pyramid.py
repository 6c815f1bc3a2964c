"""Convolutions from the picture down to the encoder's patches, and back up to features of half the picture's size.

A patch's linear layer must learn from nothing what an edge is, place by place; convolutions that halve the picture step by step
learn it once (Xiao et al. 2021, "Early convolutions help transformers see better"). On the way back the encoder's tokens, which
have seen the whole picture, are spread over what the way down kept at every size (Ronneberger et al. 2015, "U-Net"), so that what
is read at a texel (`model.lift.DetailLift`) knows both its outline and its object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PyramidConfig:
    """Levels between the picture and the encoder's patches."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Features at a half, a quarter, … of the picture's side. The level behind the last is the encoder's, of its width."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be at least one number, each at least 1, got {self.channels}")

    @property
    def patch_size(self) -> int:
        """Pixels along a side of the patches that it ends in."""
        return int(2 ** (len(self.channels) + 1))


class PicturePyramid(nn.Module):
    """A picture to patches (`down`), and tokens and what lay between to features (`up`)."""

    def __init__(self, config: PyramidConfig, width: int) -> None:
        """`width` of the encoder's tokens."""
        super().__init__()
        sizes = [*config.channels, width]
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise([3, *sizes]))
        self.refined = nn.ModuleList(ResidualBlock(size) for size in sizes)
        self.narrowings = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(sizes))
        self.mixed = nn.ModuleList(ResidualBlock(size) for size in config.channels)
        for number, halving in enumerate(self.halvings):
            _begin(halving, 1.0 if number else 0.35)  # pictures are mostly background, two deviations from grey
        for narrowing in self.narrowings:
            _begin(narrowing, 0.35)  # what is added has the size of what it is added to, or less

    def down(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, S, S) in [0, 1] -> features (B, C, S / 2, S / 2), …, and last the patches (B, W, S / P, S / P)."""
        # Channels beside one another in memory, as a CPU likes them. Only of what is computed: FSDP wants weights as they are.
        features = ((image - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = []
        for halving, refined in zip(self.halvings, self.refined, strict=True):
            features = refined(halving(F.relu(features) if levels else features))
            levels.append(features)
        return levels

    def up(self, levels: list[Tensor], tokens: Tensor) -> Tensor:
        """`down`'s levels, the encoder's tokens (B, 1 + s², W), class token first -> (B, C, S / 2, S / 2)."""
        features = tokens[:, 1:].transpose(1, 2).unflatten(2, levels[-1].shape[-2:])
        ways = list(zip(levels, self.narrowings, self.mixed, strict=False))
        for level, narrowing, mixed in reversed(ways):
            wider = F.interpolate(narrowing(features), scale_factor=2, mode="bilinear", align_corners=False)
            features = mixed(level + wider)
        return features


class ResidualBlock(nn.Module):
    """Two convolutions, added to what goes in (He et al. 2016, "Identity mappings": the activation comes first)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        _begin(self.first)
        _begin(self.second, 0.3)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return features + self.second(F.relu(self.first(F.relu(features))))


def _begin(convolution: nn.Module, share: float = 1.0) -> None:
    """He et al. 2015's start for what rectifiers follow, or a share of it; no bias."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    convolution.weight.data *= share
    nn.init.zeros_(convolution.bias)
