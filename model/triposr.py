"""TripoSR's checkpoint (Tochilkin et al. 2024): `config.yaml` and `model.ckpt`, and the encoder's own `vit_config.json`.

Its world has the input camera on +x, +z up: our -y is its x, our x is its y. Its box is [-0.87, 0.87]³; ours is [-1, 1]³, so that
its lengths are 0.87 of ours. It is told no camera: to it every picture was taken from a distance of 1.9 with a field of
view of 40 degrees, the object filling 0.85 of a picture on middle grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.conversion import Origin, Sizes, Table, both, origin
from model.encoder_weights import UNUSED, transformers_table
from model.families import Extra, Family, read_settings
from model.lrm import DecoderConfig, EncoderConfig, FieldConfig, LRMConfig, TriplaneConfig

RADIUS = 0.87
"""Half the side of its box, in its units."""
DISTANCE, FOV_DEG = 1.9, 40.0
"""Of the supposed camera, in its units."""
IMAGE_SIZE = 512
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_VITB16 = {"hidden_size": 768, "num_attention_heads": 12}
"""What facebook/dino-vitb16's own configuration says, for where `vit_config.json` is not there."""
_VIT = "image_tokenizer.model."


def describe(sizes: Sizes, folder: Path) -> tuple[LRMConfig, Extra]:
    """The network in a file, from its tensors' shapes; the configuration files beside it must agree and give what shapes do not."""
    settings = read_settings(folder / "config.yaml")
    encoder, decoder = _encoder(sizes, folder, settings), _decoder(sizes, settings)
    _, channels, upsample, _ = sizes.of("post_processor.upsample.weight", 4)
    triplane = TriplaneConfig(upsample, channels, axes=((0, 1), (0, 2), (1, 2)), frame=("-y", "x", "z"))
    field = _field(sizes)
    config = LRMConfig(encoder, decoder, triplane, field, fill=0.85, background=0.5, level=25.0, camera="supposed")
    for section, stated in _stated(config).items():
        sizes.check(_part(settings, section), stated, f"{section} in config.yaml")
    renderer = _part(settings, "renderer")
    distance = DISTANCE / float(renderer.get("radius", RADIUS))
    focal = 0.5 / math.tan(math.radians(FOV_DEG) / 2)
    samples = renderer.get("num_samples_per_ray", 128)
    return config, {"camera_distance": distance, "camera_focal": focal, "samples": samples}


def _stated(config: LRMConfig) -> dict[str, dict[str, object]]:
    """What config.yaml would say of a network, section by section."""
    decoder, triplane, field = config.decoder, config.triplane, config.field
    return {
        "tokenizer": {"plane_size": decoder.tokens, "num_channels": decoder.width},
        "backbone": {
            "in_channels": decoder.width,
            "num_layers": decoder.layers,
            "attention_head_dim": decoder.width // decoder.heads,
            "cross_attention_dim": config.encoder.hidden,
            "activation_fn": "geglu",
        },
        "post_processor": {"in_channels": decoder.width, "out_channels": triplane.channels},
        "decoder": {
            "in_channels": 3 * triplane.channels,
            "n_neurons": field.width,
            "n_hidden_layers": field.density_layers,
            "activation": "silu",
        },
        "renderer": {
            "feature_reduction": "concat",
            "density_activation": "exp",
            "density_bias": -1.0,
            "color_activation": "sigmoid",
        },
    }


def _part(settings: Mapping[str, Any], section: str) -> dict[str, Any]:
    part = settings.get(section, {})
    return part if isinstance(part, dict) else {}


def _encoder(sizes: Sizes, folder: Path, settings: Mapping[str, Any]) -> EncoderConfig:
    hidden = sizes.of(_VIT + "embeddings.cls_token", 3)[2]
    patch = sizes.of(_VIT + "embeddings.patch_embeddings.projection.weight", 4)[3]
    places = sizes.of(_VIT + "embeddings.position_embeddings", 3)[1] - 1
    vit = read_settings(folder / "vit_config.json") or DINO_VITB16
    config = EncoderConfig(
        "vit",
        image_size=int(settings.get("cond_image_size", IMAGE_SIZE)),
        patch_size=patch,
        hidden=hidden,
        layers=sizes.count(_VIT + "encoder.layer."),
        heads=int(vit.get("num_attention_heads", 12)),
        mlp_ratio=sizes.of(_VIT + "encoder.layer.0.intermediate.dense.weight", 2)[0] // hidden,
        position_size=sizes.square(_VIT + "embeddings.position_embeddings", places) * patch,
        mean=IMAGENET_MEAN,
        deviation=IMAGENET_DEVIATION,
    )
    stated = {
        "hidden_size": hidden,
        "num_hidden_layers": config.layers,
        "intermediate_size": hidden * config.mlp_ratio,
        "patch_size": patch,
        "image_size": config.position_size,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "qkv_bias": True,
    }
    sizes.check(vit, stated, "vit_config.json")
    return config


def _decoder(sizes: Sizes, settings: Mapping[str, Any]) -> DecoderConfig:
    _, width, side, _ = sizes.of("tokenizer.embeddings", 4)
    first = sizes.of("backbone.transformer_blocks.0.ff.net.2.weight", 2)
    return DecoderConfig(
        layers=sizes.count("backbone.transformer_blocks."),
        width=width,
        heads=int(_part(settings, "backbone").get("num_attention_heads", width // 64)),
        mlp_ratio=first[1] // width,
        tokens=side,
        camera_width=0,
        order="self-cross",
        mlp="geglu",
        out_bias=True,
        ends="residual",
    )


def _field(sizes: Sizes) -> FieldConfig:
    return FieldConfig(
        "joint",
        width=sizes.of("decoder.layers.0.weight", 2)[0],
        density_layers=max(sizes.count("decoder.layers.") // 2, 1),
        activation="silu",
        density="exp",
        colour_margin=0.0,
        region="box",
        optical_path="unit",
    )


def table(config: LRMConfig, tensors: Mapping[str, Tensor]) -> Table:
    """Our tensors in TripoSR's file."""
    own: Table = {"decoder.positions": Origin(("tokenizer.embeddings",), layout="planes")}
    own |= both("decoder.ends.norm", "backbone.norm")
    own |= both("decoder.ends.linear_in", "backbone.proj_in") | both("decoder.ends.linear_out", "backbone.proj_out")
    own |= both("upsampler.deconvolution", "post_processor.upsample")
    for layer in range(config.decoder.layers):
        own |= _block(f"decoder.blocks.{layer}.", f"backbone.transformer_blocks.{layer}.")
    for step in range(0, 2 * config.field.density_layers + 2, 2):
        own |= both(f"field.joint.{step}", f"decoder.layers.{step}")
    return own | transformers_table("vit", config.encoder.layers, "encoder.", _VIT)


def _block(own: str, other: str) -> Table:
    table: Table = {}
    for index in range(3):
        table |= both(f"{own}norms.{index}.norm", f"{other}norm{index + 1}")
    for name, attention in (("self_attention", f"{other}attn1."), ("cross_attention", f"{other}attn2.")):
        table[f"{own}{name}.to_query.weight"] = origin(attention + "to_q.weight")
        table[f"{own}{name}.to_key_value.weight"] = origin(attention + "to_k.weight", attention + "to_v.weight")
        table |= both(f"{own}{name}.to_out", attention + "to_out.0")
    table |= both(own + "mlp.0.value_and_gate", other + "ff.net.0.proj")
    return table | both(own + "mlp.1", other + "ff.net.2")


FAMILY = Family("TripoSR", "tokenizer.embeddings", describe, table, tuple(_VIT + name for name in UNUSED))
