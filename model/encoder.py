"""The image encoder: a vision transformer from the transformers library, from scratch or from given weights.

The picture goes in as (B, 3, S, S) in [0, 1] on white and comes out as tokens (B, T, hidden): the class token and one token
a patch. Register tokens are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from turntable.errors import UserError


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
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from red, green, blue in [0, 1] before the network."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Red, green, blue are divided by it."""
    weights: str | None = None
    """A folder or a name on the Hugging Face hub to begin from; None begins at random."""

    def __post_init__(self) -> None:
        for side in (self.image_size, self.position_size or self.image_size):
            if side <= 0 or side % self.patch_size:
                raise ValueError(f"picture side must be a multiple of patch_size {self.patch_size}, got {side}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden must be a multiple of heads {self.heads}, got {self.hidden}")


class ImageEncoder(nn.Module):
    """Picture to tokens. `load_weights=False` leaves `config.weights` alone: a checkpoint's own tensors follow."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: EncoderConfig, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        self.network = (
            _pretrained(config) if config.weights and load_weights else _classes(config)[0](_network_config(config))
        )
        # Not used by us, and DDP complains of parameters without gradients.
        for name in ("pooler",):
            if getattr(self.network, name, None) is not None:
                setattr(self.network, name, None)
        mask_token = getattr(self.network.embeddings, "mask_token", None)
        if mask_token is not None:
            mask_token.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(config.deviation).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, 1 + (S / patch)², hidden)."""
        size = self.config.image_size
        if image.shape[-3:] != (3, size, size):
            raise ValueError(f"the encoder takes (B, 3, {size}, {size}), got {tuple(image.shape)}")
        pixels = (image - self.mean) / self.deviation
        interpolates = {"interpolate_pos_encoding": True} if self._interpolates() else {}
        tokens = self.network(pixel_values=pixels, **interpolates).last_hidden_state
        registers = getattr(self.network.config, "num_register_tokens", 0)
        return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1) if registers else tokens

    def _interpolates(self) -> bool:
        # DINOv2's classes interpolate by themselves; ViT's only when told.
        config = self.config
        return config.kind == "vit" and (config.position_size or config.image_size) != config.image_size


def _classes(config: EncoderConfig) -> tuple[Any, Any]:
    """The model and configuration classes of `config.kind`. Imported here: transformers takes a second to import."""
    import transformers

    return {
        "vit": (transformers.ViTModel, transformers.ViTConfig),
        "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config),
        "dinov2_with_registers": (
            transformers.Dinov2WithRegistersModel,
            transformers.Dinov2WithRegistersConfig,
        ),
    }[config.kind]


def _network_config(config: EncoderConfig) -> Any:
    shared: dict[str, Any] = {
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.position_size or config.image_size,
        "patch_size": config.patch_size,
        "attn_implementation": "sdpa",
    }
    if config.kind == "vit":
        shared["intermediate_size"] = config.hidden * config.mlp_ratio
    else:
        shared["mlp_ratio"] = config.mlp_ratio
    return _classes(config)[1](**shared)


def _pretrained(config: EncoderConfig) -> Any:
    """The network with the weights that `config.weights` names; anything missing or of another shape is a `UserError`."""
    source, network_class = config.weights, _classes(config)[0]
    try:
        network, report = network_class.from_pretrained(
            source, config=_network_config(config), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"encoder weights {source!r} ({config.kind}): neither a folder with config.json and model.safetensors nor a"
            f" model that could be had from the Hugging Face hub ({first_line}); give a local folder, or no weights to"
            " begin at random"
        ) from error
    # ViTModel's pooler is absent in DINO's weights and unused here.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler"))
    misshaped = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if missing or misshaped:
        raise UserError(
            f"encoder weights {source!r} do not fit {config}: {len(missing)} tensors missing {missing[:4]},"
            f" {len(misshaped)} of another shape {misshaped[:4]}; choose the size that the weights belong to"
        )
    return network
