"""OpenLRM 1.1's checkpoints (He and Wang 2023): `config.json` and `model.safetensors`.

Its frame is ours: the input camera sits at (0, -d, 0) and looks along +y, +z is up, the field is the box [-1, 1]³. It is told a
camera; for a picture of which nothing is known its authors suppose d = 2 and a focal length of 0.75 picture sides, and they
frame the object so that it fills 0.8 of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.conversion import Origin, Sizes, Table, both, origin
from model.encoder_weights import dinov2_table
from model.families import Extra, Family, read_settings
from model.lrm import DecoderConfig, EncoderConfig, FieldConfig, LRMConfig, TriplaneConfig
from model.tensors import CheckpointError

HEAD_WIDTH = 64
"""Of every published model, encoder and decoder alike."""
INPUT_SIZES = {512: 224, 768: 336, 1024: 448}
"""Width of the decoder -> side of the input picture. No file states it: these are the published small, base and large."""
OTHER_INPUT_SIZE = 224
"""Side of the input picture for a decoder of another width."""
CAMERA: Extra = {"camera_distance": 2.0, "camera_focal": 0.75}
"""The supposed camera."""


def describe(sizes: Sizes, folder: Path) -> tuple[LRMConfig, Extra]:
    """The network in a file, from its tensors' shapes; `config.json` beside it must agree and gives the number of heads."""
    settings = read_settings(folder / "config.json")
    decoder, triplane = _decoder(sizes, settings), _triplane(sizes)
    encoder = _encoder(sizes, INPUT_SIZES.get(decoder.width, OTHER_INPUT_SIZE))
    config = LRMConfig(encoder, decoder, triplane, _field(sizes), fill=0.8, level=3.0, camera="supposed")
    stated = {
        "camera_embed_dim": decoder.camera_width,
        "transformer_dim": decoder.width,
        "transformer_layers": decoder.layers,
        "triplane_low_res": decoder.tokens,
        "triplane_high_res": config.resolution,
        "triplane_dim": triplane.channels,
        "encoder_type": "dinov2",
        "encoder_feat_dim": encoder.hidden,
    }
    sizes.check(settings, stated, "config.json")
    return config, CAMERA | {"samples": settings.get("rendering_samples_per_ray", 96)}


def _decoder(sizes: Sizes, settings: Mapping[str, Any]) -> DecoderConfig:
    _, places, width = sizes.of("pos_embed", 3)
    heads = settings.get("transformer_heads", width // HEAD_WIDTH)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(
            f"{sizes.file}: {width} wide tokens cannot be divided among {heads!r} heads (config.json)"
        )
    return DecoderConfig(
        layers=sizes.count("transformer.layers."),
        width=width,
        heads=heads,
        mlp_ratio=sizes.of("transformer.layers.0.mlp.0.weight", 2)[0] // width,
        tokens=sizes.square("pos_embed", places // 3),
        camera_width=sizes.of("camera_embedder.mlp.0.weight", 2)[0],
    )


def _encoder(sizes: Sizes, image_size: int) -> EncoderConfig:
    own = "encoder.model."
    hidden = sizes.of(own + "cls_token", 3)[2]
    if hidden % HEAD_WIDTH:
        raise CheckpointError(f"{sizes.file}: DINOv2's tokens are a multiple of {HEAD_WIDTH} wide, these are {hidden}")
    patch = sizes.of(own + "patch_embed.proj.weight", 4)[3]
    side = sizes.square(own + "pos_embed", sizes.of(own + "pos_embed", 3)[1] - 1)
    return EncoderConfig(
        "dinov2_with_registers",
        image_size=image_size // patch * patch,
        patch_size=patch,
        hidden=hidden,
        layers=sizes.count(own + "blocks."),
        heads=hidden // HEAD_WIDTH,
        mlp_ratio=sizes.of(own + "blocks.0.mlp.fc1.weight", 2)[0] // hidden,
        position_size=side * patch,
        registers=sizes.of(own + "register_tokens", 3)[1],
    )


def _triplane(sizes: Sizes) -> TriplaneConfig:
    _, channels, upsample, _ = sizes.of("upsampler.weight", 4)
    return TriplaneConfig(upsample=upsample, channels=channels)


def _field(sizes: Sizes) -> FieldConfig:
    head = "synthesizer.decoder.net."
    return FieldConfig(
        "joint",
        width=sizes.of(head + "0.weight", 2)[0],
        # Linear layers stand at even numbers, activations between them; the last gives the output.
        density_layers=max(sizes.count(head) // 2, 1),
        density="softplus",
        region="box",
    )


def table(config: LRMConfig, tensors: Mapping[str, Tensor]) -> Table:
    """Our tensors in OpenLRM's file. Cross-attention has one fused matrix where encoder and decoder are equally wide."""
    own: Table = {"decoder.positions": Origin(("pos_embed",), layout="batch")}
    own |= both("decoder.camera_embedding.0", "camera_embedder.mlp.0")
    own |= both("decoder.camera_embedding.2", "camera_embedder.mlp.2")
    own |= both("decoder.norm", "transformer.norm") | both("upsampler.deconvolution", "upsampler")
    for layer in range(config.decoder.layers):
        own |= _block(f"decoder.blocks.{layer}.", f"transformer.layers.{layer}.", tensors)
    for step in range(0, 2 * config.field.density_layers + 2, 2):
        own |= both(f"field.joint.{step}", f"synthesizer.decoder.net.{step}")
    return own | dinov2_table(config.encoder.layers, "encoder.", "encoder.model.")


def _block(own: str, other: str, tensors: Mapping[str, Tensor]) -> Table:
    table: Table = {}
    for index in range(3):
        table |= both(f"{own}norms.{index}.norm", f"{other}norm{index + 1}.norm")
        table |= both(f"{own}norms.{index}.modulation", f"{other}norm{index + 1}.mlp.1")
    table |= both(own + "mlp.0", other + "mlp.0") | both(own + "mlp.2", other + "mlp.3")
    table |= _fused(own + "self_attention.", other + "self_attn.")
    if other + "cross_attn.q_proj_weight" not in tensors:
        return table | _fused(own + "cross_attention.", other + "cross_attn.")
    cross = other + "cross_attn."
    return table | {
        own + "cross_attention.to_query.weight": origin(cross + "q_proj_weight"),
        own + "cross_attention.to_key_value.weight": origin(cross + "k_proj_weight", cross + "v_proj_weight"),
        own + "cross_attention.to_out.weight": origin(cross + "out_proj.weight"),
    }


def _fused(own: str, other: str) -> Table:
    return {
        own + "to_query.weight": origin(other + "in_proj_weight", rows=(0, 1, 3)),
        own + "to_key_value.weight": origin(other + "in_proj_weight", rows=(1, 3, 3)),
        own + "to_out.weight": origin(other + "out_proj.weight"),
    }


FAMILY = Family("OpenLRM", "camera_embedder.mlp.0.weight", describe, table, ("encoder.model.mask_token",))
