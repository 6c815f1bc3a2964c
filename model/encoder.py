"""The image encoder: a vision transformer (Dosovitskiy et al. 2021), from scratch or from given weights.

One network serves DINO's ViT, DINOv2 and DINOv2 with registers; they differ in how attention's output is scaled, in register
tokens, and in how positions are interpolated. It is written here, and not taken from transformers, because that library's
parameter names change with its version (ViT's did between 4 and 5), and a checkpoint must outlive that.

The picture goes in as (B, 3, S, S) in [0, 1] and comes out as tokens (B, T, hidden): the class token and one token a patch.
Register tokens are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import Attention, run_block


@dataclass(frozen=True)
class EncoderConfig:
    """A vision transformer."""

    kind: Literal["vit", "dinov2", "dinov2_with_registers"] = "vit"
    """Architecture: `vit` is what DINO uses."""
    image_size: int = 128
    """Pixels, the side of the square input picture."""
    patch_size: int = 16
    """Pixels, the side of a patch."""
    hidden: int = 128
    """Width of a token."""
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    """Width of the blocks' hidden layer over `hidden`."""
    position_size: int | None = None
    """Pixels: picture side of the stored position table, interpolated to `image_size`; None: `image_size` itself."""
    position_start: float = 0.02
    """Standard deviation that the position table begins with. Patches of a picture with values in [0, 1] give tokens of about half:
    with 0.02 a short training hardly knows where they are from."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from red, green, blue in [0, 1] before the network."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Red, green, blue are divided by it."""
    weights: str | None = None
    """A folder or a name on the Hugging Face hub to begin from; None begins at random."""
    registers: int = 4
    """Register tokens (Darcet et al. 2024); only `dinov2_with_registers` has them."""

    def __post_init__(self) -> None:
        for side in (self.image_size, self.position_size or self.image_size):
            if side <= 0 or side % self.patch_size:
                raise ValueError(f"picture side must be a multiple of patch_size {self.patch_size}, got {side}")
        if self.heads < 1 or self.hidden % self.heads:
            raise ValueError(f"hidden must be a multiple of heads {self.heads}, got {self.hidden}")

    @property
    def position_side(self) -> int:
        """Patches along a side of the stored position table."""
        return (self.position_size or self.image_size) // self.patch_size


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each behind a norm; DINOv2 scales what they add channel by channel (Touvron et al. 2021)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, hidden = config.hidden, config.hidden * config.mlp_ratio
        epsilon = _norm_epsilon(config)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.attention = Attention(width, width, config.heads, bias=True)
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        scaled = config.kind != "vit"
        self.attention_scale = nn.Parameter(torch.ones(width)) if scaled else None
        self.mlp_scale = nn.Parameter(torch.ones(width)) if scaled else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        normed = self.attention_norm(tokens)
        tokens = tokens + _scaled(self.attention(normed, normed), self.attention_scale)
        return tokens + _scaled(self.mlp(self.mlp_norm(tokens)), self.mlp_scale)


class ImageEncoder(nn.Module):
    """Picture, or patches that others made of it, to tokens. `load_weights=False` leaves `config.weights` alone: a checkpoint's own
    tensors follow."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: EncoderConfig, load_weights: bool = True, patches: bool = True) -> None:
        """Without `patches` it is given patches, not pictures."""
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether training computes the blocks again instead of keeping what they compute, see `run_block`."""
        width = config.hidden
        registers = config.registers if config.kind == "dinov2_with_registers" else 0
        self.patches = nn.Conv2d(3, width, config.patch_size, config.patch_size) if patches else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.position_side**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, eps=_norm_epsilon(config))
        with torch.device("cpu"):  # Constants that no checkpoint brings: real also where the parameters are on `meta`.
            mean, deviation = torch.tensor(config.mean), torch.tensor(config.deviation)
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", deviation.view(3, 1, 1), persistent=False)
        self._begin_at_random()
        if config.weights and load_weights:
            from model.encoder_weights import load_encoder

            load_encoder(self, config.weights)

    def _begin_at_random(self) -> None:
        """Truncated normals of deviation 0.02, as DINO and DINOv2 begin; the positions' is the configuration's."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=self.config.position_start)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1], or without `patches` those, (B, hidden, S / patch, S / patch) -> (B, 1 + (S / patch)², hidden)."""
        size = self.config.image_size
        expected = (
            (3, size, size) if self.patches is not None else (self.config.hidden, *[size // self.config.patch_size] * 2)
        )
        if picture.shape[-3:] != expected:
            raise ValueError(f"the encoder takes (B, {', '.join(map(str, expected))}), got {tuple(picture.shape)}")
        made = picture if self.patches is None else self.patches((picture - self.mean) / self.deviation)
        patches = made.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(made), -1, -1), patches], dim=1) + self._interpolated_positions()
        registers = 0
        if self.register_tokens is not None:
            registers = self.register_tokens.shape[1]
            extra = self.register_tokens.expand(len(made), -1, -1)
            tokens = torch.cat([tokens[:, :1], extra, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = run_block(block, self.recompute, tokens)
        tokens = self.norm(tokens)
        return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1) if registers else tokens

    def _interpolated_positions(self) -> Tensor:
        """(1, 1 + patches, W) for pictures of `image_size`; the class token's is left as it is."""
        stored, side = self.config.position_side, self.config.image_size // self.config.patch_size
        if stored == side:
            return self.positions
        table = self.positions[:, 1:].unflatten(1, (stored, stored)).permute(0, 3, 1, 2).float()
        antialias = self.config.kind == "dinov2_with_registers"
        resized = F.interpolate(table, (side, side), mode="bicubic", align_corners=False, antialias=antialias)
        return torch.cat([self.positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def _norm_epsilon(config: EncoderConfig) -> float:
    return 1e-12 if config.kind == "vit" else 1e-6


def _scaled(tokens: Tensor, scale: Tensor | None) -> Tensor:
    return tokens if scale is None else tokens * scale
