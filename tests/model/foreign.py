"""Small files in the layouts of published families, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model import openlrm, triposr
from model.families import Family
from model.lrm import DecoderConfig, EncoderConfig, FieldConfig, LRMConfig, TriplaneConfig, without_weights

TRIPOSR = LRMConfig(
    EncoderConfig(
        "vit", 512, 16, 768, 12, 12, 4, 224, mean=triposr.IMAGENET_MEAN, deviation=triposr.IMAGENET_DEVIATION
    ),
    DecoderConfig(16, 1024, 16, 4, 32, 0, order="self-cross", mlp="geglu", out_bias=True, ends="residual"),
    TriplaneConfig(2, 40, axes=((0, 1), (0, 2), (1, 2)), frame=("-y", "x", "z")),
    FieldConfig("joint", 64, 9, 2, "silu", "exp", colour_margin=0.0, region="box", optical_path="unit"),
    fill=0.85,
    background=0.5,
    level=25.0,
    camera="supposed",
)
"""The published one, as facts about it say."""


def openlrm_config(width: int = 128) -> LRMConfig:
    """Cross-attention is fused where `width` is the encoder's, 64."""
    return LRMConfig(
        EncoderConfig("dinov2_with_registers", 224, 14, 64, 1, 1, position_size=42),
        DecoderConfig(1, width, width // 64, tokens=4, camera_width=8),
        TriplaneConfig(2, 4),
        FieldConfig("joint", 8, density_layers=3, density="softplus", region="box"),
        fill=0.8,
        level=3.0,
        camera="supposed",
    )


def triposr_config() -> LRMConfig:
    """All that makes a TripoSR, small."""
    decoder = DecoderConfig(2, 32, 2, 4, 4, 0, order="self-cross", mlp="geglu", out_bias=True, ends="residual")
    return LRMConfig(
        EncoderConfig("vit", 32, 16, 24, 1, 3, 4, 48, mean=triposr.IMAGENET_MEAN, deviation=triposr.IMAGENET_DEVIATION),
        decoder,
        TriplaneConfig(2, 4, axes=((0, 1), (0, 2), (1, 2)), frame=("-y", "x", "z")),
        FieldConfig("joint", 8, 4, 2, "silu", "exp", colour_margin=0.0, region="box", optical_path="unit"),
        fill=0.85,
        background=0.5,
        level=25.0,
        camera="supposed",
    )


def shapes(config: LRMConfig, family: Family) -> dict[str, tuple[int, ...]]:
    """The family's names and their tensors' shapes."""
    split = {f"transformer.layers.{i}.cross_attn.q_proj_weight": torch.zeros(0) for i in range(config.decoder.layers)}
    table = family.table(config, split if config.decoder.width != config.encoder.hidden else {})
    ours, result = without_weights(config).state_dict(), {}
    for name, where in table.items():
        result |= where.shapes(tuple(ours[name].shape))
    return result


def tensors(config: LRMConfig, family: Family, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of the right shapes under the family's names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes(config, family).items()}


def write_openlrm(folder: Path, config: LRMConfig | None = None, **settings: object) -> Path:
    """`config.json` and `model.safetensors`; returns the folder."""
    config = config or openlrm_config()
    folder.mkdir(parents=True, exist_ok=True)
    # "pt" is what Hugging Face's libraries write there.
    save_file(tensors(config, openlrm.FAMILY), folder / "model.safetensors", {"format": "pt"})
    stated = {
        "transformer_dim": config.decoder.width,
        "transformer_heads": config.decoder.heads,
        "encoder_type": "dinov2",
        "rendering_samples_per_ray": 48,
    }
    (folder / "config.json").write_text(json.dumps(stated | settings))
    return folder


def write_triposr(folder: Path, config: LRMConfig | None = None, **backbone: object) -> Path:
    """`config.yaml`, `vit_config.json` and `model.ckpt`; returns the folder."""
    config = config or triposr_config()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(config, triposr.FAMILY), folder / "model.ckpt")
    stated = {
        "cond_image_size": config.encoder.image_size,
        "backbone": {"num_attention_heads": config.decoder.heads, "num_layers": config.decoder.layers} | backbone,
        "renderer": {"radius": 0.87, "density_activation": "exp", "num_samples_per_ray": 128},
    }
    (folder / "config.yaml").write_text(json.dumps(stated))  # JSON is YAML
    vit = {"num_attention_heads": config.encoder.heads, "hidden_size": config.encoder.hidden}
    (folder / "vit_config.json").write_text(json.dumps(vit))
    return folder
