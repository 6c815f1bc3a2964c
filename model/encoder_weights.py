"""Weights of vision transformers as others name them: transformers' folders, and DINOv2's own.

transformers names parameters differently in its versions 4 and 5, in memory and (version 4's names) in files; `stable_name`
makes one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from model import hub
from model.conversion import CheckpointError, Origin, Sizes, Table, both, load, origin
from model.encoder import ImageEncoder
from model.tensors import SUFFIXES, read_tensors
from turntable.errors import UserError
from turntable.files import read_json

UNUSED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")
"""Tensors of transformers' networks that have no part in an image's tokens."""
_RENAMED = (
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
)
_RENAMED_VIT = ((r"mlp\.fc1\.", "intermediate.dense."), (r"mlp\.fc2\.", "output.dense."))


def stable_name(name: str, kind: str) -> str:
    """A parameter's name in any version of transformers -> its name in published files."""
    for pattern, replacement in _RENAMED + (_RENAMED_VIT if kind == "vit" else ()):
        name = re.sub(pattern, replacement, name)
    return name


def transformers_table(kind: str, layers: int, ours: str = "", theirs: str = "") -> Table:
    """Our encoder's tensors in a file of transformers' ViTModel, Dinov2Model or Dinov2WithRegistersModel."""
    table = {
        "cls_token": origin("embeddings.cls_token"),
        "positions": origin("embeddings.position_embeddings"),
        **both("patches", "embeddings.patch_embeddings.projection"),
        **both("norm", "layernorm"),
    }
    if kind == "dinov2_with_registers":
        table["register_tokens"] = origin("embeddings.register_tokens")
    plain = kind == "vit"
    names = {
        "attention_norm": "layernorm_before" if plain else "norm1",
        "attention.to_out": "attention.output.dense",
        "mlp_norm": "layernorm_after" if plain else "norm2",
        "mlp.0": "intermediate.dense" if plain else "mlp.fc1",
        "mlp.2": "output.dense" if plain else "mlp.fc2",
    }
    for layer in range(layers):
        own, other = f"blocks.{layer}", f"encoder.layer.{layer}"
        for name, named in names.items():
            table |= both(f"{own}.{name}", f"{other}.{named}")
        parts = f"{other}.attention.attention"
        for kind_of in ("weight", "bias"):
            table[f"{own}.attention.to_query.{kind_of}"] = origin(f"{parts}.query.{kind_of}")
            pair = origin(f"{parts}.key.{kind_of}", f"{parts}.value.{kind_of}")
            table[f"{own}.attention.to_key_value.{kind_of}"] = pair
        if not plain:
            table[f"{own}.attention_scale"] = origin(f"{other}.layer_scale1.lambda1")
            table[f"{own}.mlp_scale"] = origin(f"{other}.layer_scale2.lambda1")
    return _prefixed(table, ours, theirs)


def dinov2_table(layers: int, ours: str = "", theirs: str = "") -> Table:
    """Our encoder's tensors in a file of DINOv2 with registers as its authors name them."""
    table = {
        "cls_token": origin("cls_token"),
        "positions": origin("pos_embed"),
        "register_tokens": origin("register_tokens"),
        **both("patches", "patch_embed.proj"),
        **both("norm", "norm"),
    }
    names = {
        "attention_norm": "norm1",
        "attention.to_out": "attn.proj",
        "mlp_norm": "norm2",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    for layer in range(layers):
        own = f"blocks.{layer}"
        for name, named in names.items():
            table |= both(f"{own}.{name}", f"{own}.{named}")
        for part in ("weight", "bias"):
            table[f"{own}.attention.to_query.{part}"] = origin(f"{own}.attn.qkv.{part}", rows=(0, 1, 3))
            table[f"{own}.attention.to_key_value.{part}"] = origin(f"{own}.attn.qkv.{part}", rows=(1, 3, 3))
        table[f"{own}.attention_scale"] = origin(f"{own}.ls1.gamma")
        table[f"{own}.mlp_scale"] = origin(f"{own}.ls2.gamma")
    return _prefixed(table, ours, theirs)


def _prefixed(table: Table, ours: str, theirs: str) -> Table:
    return {
        ours + name: Origin(tuple(theirs + other for other in where.names), where.rows, where.layout)
        for name, where in table.items()
    }


def load_encoder(encoder: ImageEncoder, weights: str) -> None:
    """Fills an encoder with the weights that its configuration names: a folder, or a repository on the hub."""
    config = encoder.config
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        folder = _from_hub(weights)
    files = [folder / f"{stem}{suffix}" for stem in ("model", "pytorch_model") for suffix in SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"encoder weights {weights!r}: {folder} holds no model.safetensors and no pytorch_model.bin")
    found = read_tensors(file)[0]
    tensors = {stable_name(name, config.kind): tensor for name, tensor in found.items()}
    try:
        _check_heads(folder, config.heads)
        load(encoder, tensors, transformers_table(config.kind, config.layers), file, UNUSED)
    except CheckpointError as error:
        raise UserError(f"encoder weights {weights!r} do not fit {config}: {error}") from error


def _from_hub(name: str) -> Path:
    try:
        return hub.obtain(hub.Repository(name, ("config.json", "model.safetensors")))
    except UserError as error:
        raise UserError(
            f"encoder weights {name!r}: no such folder, and nothing that could be had from the Hugging Face hub; give a local"
            f" folder with config.json and model.safetensors, or no weights to begin at random. {error}"
        ) from error


def _check_heads(folder: Path, heads: int) -> None:
    """The one size of a transformer that its tensors do not show."""
    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    Sizes(folder, {}).check(settings, {"num_attention_heads": heads}, "config.json")


def renamed(tensors: Mapping[str, Tensor], kind: str, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix` get their stable names behind it; the others keep theirs."""
    return {
        prefix + stable_name(name[len(prefix) :], kind) if name.startswith(prefix) else name: tensor
        for name, tensor in tensors.items()
    }
