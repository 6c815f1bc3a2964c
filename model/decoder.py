"""The transformer that turns position tokens into triplane tokens by looking at the image's tokens.

A block is (Hong et al. 2024, "LRM", section 3.2) modulated norm and cross-attention to the image, modulated norm and
self-attention, modulated norm and MLP, each added to what goes in. TripoSR's attends to itself first, knows no camera, and
adds the whole transformer to its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import Attention, GatedLinear, run_block
from model.lift import Lift
from model.triplane import TriplaneConfig

CAMERA_NUMBERS = 16
"""12 of the 3×4 canonical world_from_camera, row by row, and fx, fy, cx, cy of the framed picture, normalised."""
GROUPS = 32
"""Groups of the group norm of `ends="residual"`."""


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
    """Width of the camera embedding that shifts and scales the norms; 0: the network is not told the camera."""
    image_gain: float = 1.0
    """What the image adds to a token at the start is this squared times torch's own start. With 1 it is a fortieth of what the
    token's place gives, and a short training on several objects first learns their mean."""
    camera_start: float = 0.0
    """Standard deviation of the first weights that shift and scale the norms by the camera; 0 starts as plain norms."""
    positions: Literal["learned", "sincos"] = "learned"
    """What the tokens start as: free parameters, or sines and cosines of where they lie plus a vector a plane."""
    lift: int = 0
    """Points of each token's column at whose projections image tokens are read and added to the token's start; 0: none are."""
    order: Literal["cross-self", "self-cross"] = "cross-self"
    """Which attention of a block comes first: to the image, or to the tokens themselves."""
    mlp: Literal["gelu", "geglu"] = "gelu"
    """The blocks' hidden layer, plain or gated."""
    out_bias: bool = False
    """Whether the layer that mixes an attention's heads has a bias."""
    ends: Literal["norm", "residual"] = "norm"
    """What lies around the blocks: a norm behind them; or group norm and linear layer in front, linear layer behind, and all of
    it added to the tokens."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads {self.heads}, got {self.width}")
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(f"width must be a multiple of 4 for sincos positions, got {self.width}")
        if self.ends == "residual" and self.width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS} with residual ends, got {self.width}")


class ModulatedNorm(nn.Module):
    """Layer norm whose output is scaled and shifted by the camera; a plain one with `camera_width` 0."""

    def __init__(self, width: int, camera_width: int, start: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(camera_width, 2 * width) if camera_width else None
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight, std=start)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, camera: Tensor | None) -> Tensor:
        """tokens (B, T, W), camera embedding (B, E) -> (B, T, W)."""
        if self.modulation is None or camera is None:
            return self.norm(tokens)
        shift, scale = self.modulation(F.silu(camera))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(tokens), 1 + scale)


class Block(nn.Module):
    """Cross-attention, self-attention (or the other way round), MLP, each behind a norm that the camera may modulate."""

    def __init__(self, config: DecoderConfig, context_width: int) -> None:
        super().__init__()
        width, hidden = config.width, config.width * config.mlp_ratio
        self.order = config.order
        self.norms = nn.ModuleList(ModulatedNorm(width, config.camera_width, config.camera_start) for _ in range(3))
        self.cross_attention = Attention(width, context_width, config.heads, out_bias=config.out_bias)
        self.cross_attention.to_key_value.weight.data[width:] *= config.image_gain
        self.cross_attention.to_out.weight.data *= config.image_gain
        self.self_attention = Attention(width, width, config.heads, out_bias=config.out_bias)
        if config.mlp == "geglu":
            self.mlp = nn.Sequential(GatedLinear(width, hidden), nn.Linear(hidden, width))
        else:
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, context: Tensor, camera: Tensor | None) -> Tensor:
        """tokens (B, T, W), image tokens (B, K, E), camera embedding (B, C) -> (B, T, W)."""
        for norm, step in zip(self.norms, self.order.split("-"), strict=False):
            normed = norm(tokens, camera)
            attended = self.self_attention(normed, normed) if step == "self" else self.cross_attention(normed, context)
            tokens = tokens + attended
        return tokens + self.mlp(self.norms[2](tokens, camera))


class ResidualEnds(nn.Module):
    """Group norm and linear layer in front of the blocks, linear layer behind (Rombach et al. 2022's spatial transformer)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.linear_in = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)

    def front(self, tokens: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W). A group's mean and deviation are taken over its channels and all tokens."""
        return self.linear_in(self.norm(tokens.transpose(1, 2)).transpose(1, 2))

    def back(self, before: Tensor, after: Tensor) -> Tensor:
        """Tokens before `front` and behind the blocks -> what is handed on."""
        return before + self.linear_out(after)


class TriplaneDecoder(nn.Module):
    """Image tokens and camera to triplane tokens."""

    positions: Tensor

    def __init__(self, config: DecoderConfig, context_width: int, planes: TriplaneConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether training computes the blocks again instead of keeping what they compute, see `run_block`."""
        self.camera_embedding = _camera_embedding(config.camera_width) if config.camera_width else None
        count = 3 * config.tokens**2
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(count, config.width) / math.sqrt(config.width))
            self.plane_vectors = None
        else:
            with torch.device("cpu"):  # real also where the parameters are on `meta`
                positions = sincos_positions(config.tokens, config.width)
            self.register_buffer("positions", positions, persistent=False)
            self.plane_vectors = nn.Parameter(torch.randn(3, 1, config.width) * 0.5)
        self.lift = Lift(context_width, config.width, config.tokens, config.lift, planes) if config.lift else None
        self.blocks = nn.ModuleList(Block(config, context_width) for _ in range(config.layers))
        self.ends = ResidualEnds(config.width) if config.ends == "residual" else None
        self.norm = nn.LayerNorm(config.width) if self.ends is None else nn.Identity()

    def forward(self, image_tokens: Tensor, camera: Tensor) -> Tensor:
        """image tokens (B, K, E), camera (B, 16) -> (B, 3 · tokens², width), plane by plane, row by row."""
        embedding = None if self.camera_embedding is None else self.camera_embedding(camera)
        tokens = self.positions
        if self.plane_vectors is not None:
            tokens = (tokens.unflatten(0, (3, -1)) + self.plane_vectors).flatten(0, 1)
        start = tokens.expand(len(image_tokens), -1, -1)
        if self.lift is not None:
            start = start + self.lift(image_tokens, camera)
        tokens = start if self.ends is None else self.ends.front(start)
        for block in self.blocks:
            tokens = run_block(block, self.recompute, tokens, image_tokens, embedding)
        return self.norm(tokens) if self.ends is None else self.ends.back(start, tokens)


def _camera_embedding(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(CAMERA_NUMBERS, width), nn.SiLU(), nn.Linear(width, width))


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
