"""The camera-modulated transformer that turns position tokens into triplane tokens by looking at the image's tokens.

A block is (Hong et al. 2024, "LRM", section 3.2) modulated norm and cross-attention to the image, modulated norm and
self-attention, modulated norm and MLP, each added to what goes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CAMERA_NUMBERS = 16
"""12 of the 3×4 canonical world_from_camera, row by row, and fx, fy, cx, cy of the framed picture, normalised."""


@dataclass(frozen=True)
class DecoderConfig:
    """A transformer over 3 · tokens² tokens."""

    layers: int = 2
    width: int = 128
    """Width of a token."""
    heads: int = 4
    mlp_ratio: int = 4
    """Width of the blocks' hidden layer over `width`."""
    tokens: int = 12
    """Tokens along a side of each plane."""
    camera_width: int = 128
    """Width of the camera embedding that shifts and scales the norms."""
    image_gain: float = 1.0
    """What the image adds to a token at the start is this squared times torch's own start. With 1 it is a fortieth of what the
    token's place gives, and a short training on several objects first learns their mean."""
    camera_start: float = 0.0
    """Standard deviation of the first weights that shift and scale the norms by the camera; 0 starts as plain norms."""
    positions: Literal["learned", "sincos"] = "learned"
    """What the tokens start as: free parameters, or sines and cosines of where they lie plus a vector a plane."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads {self.heads}, got {self.width}")
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(f"width must be a multiple of 4 for sincos positions, got {self.width}")


class ModulatedNorm(nn.Module):
    """Layer norm whose output is scaled and shifted by the camera."""

    def __init__(self, width: int, camera_width: int, start: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(camera_width, 2 * width)
        nn.init.normal_(self.modulation.weight, std=start)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        """tokens (B, T, W), camera embedding (B, E) -> (B, T, W)."""
        shift, scale = self.modulation(F.silu(camera))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(tokens), 1 + scale)


class Attention(nn.Module):
    """Multi-head attention without biases; keys and values come from `context`."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, T, W), context (B, K, E) -> (B, T, W)."""
        query = self._split(self.to_query(tokens))
        key, value = (self._split(part) for part in self.to_key_value(context).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, T, W) -> (B, heads, T, W / heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Cross-attention, self-attention, MLP, each behind a camera-modulated norm."""

    def __init__(self, config: DecoderConfig, context_width: int) -> None:
        super().__init__()
        width, hidden = config.width, config.width * config.mlp_ratio
        self.norms = nn.ModuleList(ModulatedNorm(width, config.camera_width, config.camera_start) for _ in range(3))
        self.cross_attention = Attention(width, context_width, config.heads)
        self.cross_attention.to_key_value.weight.data[width:] *= config.image_gain
        self.cross_attention.to_out.weight.data *= config.image_gain
        self.self_attention = Attention(width, width, config.heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, context: Tensor, camera: Tensor) -> Tensor:
        """tokens (B, T, W), image tokens (B, K, E), camera embedding (B, C) -> (B, T, W)."""
        tokens = tokens + self.cross_attention(self.norms[0](tokens, camera), context)
        normed = self.norms[1](tokens, camera)
        tokens = tokens + self.self_attention(normed, normed)
        return tokens + self.mlp(self.norms[2](tokens, camera))


class TriplaneDecoder(nn.Module):
    """Image tokens and camera to triplane tokens."""

    positions: Tensor

    def __init__(self, config: DecoderConfig, context_width: int) -> None:
        super().__init__()
        self.config = config
        self.camera_embedding = nn.Sequential(
            nn.Linear(CAMERA_NUMBERS, config.camera_width),
            nn.SiLU(),
            nn.Linear(config.camera_width, config.camera_width),
        )
        count = 3 * config.tokens**2
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(count, config.width) / math.sqrt(config.width))
            self.plane_vectors = None
        else:
            self.register_buffer("positions", sincos_positions(config.tokens, config.width), persistent=False)
            self.plane_vectors = nn.Parameter(torch.randn(3, 1, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config, context_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, image_tokens: Tensor, camera: Tensor) -> Tensor:
        """image tokens (B, K, E), camera (B, 16) -> (B, 3 · tokens², width), plane by plane, row by row."""
        embedding = self.camera_embedding(camera)
        tokens = self.positions
        if self.plane_vectors is not None:
            tokens = (tokens.unflatten(0, (3, -1)) + self.plane_vectors).flatten(0, 1)
        tokens = tokens.expand(len(image_tokens), -1, -1)
        for block in self.blocks:
            tokens = block(tokens, image_tokens, embedding)
        return self.norm(tokens)


def sincos_positions(side: int, width: int) -> Tensor:
    """(3 · side², width): sines and cosines of column and row, the same on the three planes (Vaswani et al. 2017, 3.5).

    Wavelengths run from 4 tokens to 64. Text's run to 60,000, and with most waves flat over a dozen tokens the network
    takes twice as long to learn to tell its tokens apart.
    """
    count = width // 4
    frequencies = math.pi / 2 * torch.exp(-math.log(16.0) * torch.arange(count) / max(count - 1, 1))
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).repeat(3, 1)
