"""The encoder against transformers; weights given to it are used or refused by name; transformers imports beside our `datasets`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import hub
from model.encoder import EncoderConfig, ImageEncoder
from model.encoder_weights import stable_name, transformers_table
from turntable.download import Policy
from turntable.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("vit", "dinov2", "dinov2_with_registers")
SMALL = EncoderConfig("vit", image_size=28, patch_size=14, hidden=32, layers=2, heads=2, position_size=42)


def transformers_network(kind: str, **changes):
    """An independent implementation with random weights; skips where it cannot be imported."""
    try:
        from transformers import (
            Dinov2Config,
            Dinov2Model,
            Dinov2WithRegistersConfig,
            Dinov2WithRegistersModel,
            ViTConfig,
            ViTModel,
        )
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs transformers, which cannot be imported here ({error})")
    shared = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 14,
    } | changes
    torch.manual_seed(1)
    if kind == "vit":
        network = ViTModel(ViTConfig(intermediate_size=128, **shared))
    elif kind == "dinov2":
        network = Dinov2Model(Dinov2Config(**shared))
    else:
        network = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shared))
    for parameter in network.parameters():  # biases and scales too, which begin at 0 and 1
        parameter.data += torch.randn_like(parameter) * 0.1
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [28, 42, 56])
def test_tokens_are_those_of_transformers(kind, size, tmp_path):
    """The same file of weights, positions interpolated down, not at all, and up."""
    network = transformers_network(kind)
    network.save_pretrained(tmp_path)
    ours = ImageEncoder(replace(SMALL, kind=kind, image_size=size, weights=str(tmp_path)))
    image = torch.rand(2, 3, size, size)
    with torch.no_grad():
        interpolates = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        expected = network(pixel_values=image, **interpolates).last_hidden_state
        registers = 4 if kind == "dinov2_with_registers" else 0
        expected = torch.cat([expected[:, :1], expected[:, 1 + registers :]], dim=1)
        # float32; sums in another order.
        torch.testing.assert_close(ours(image), expected, rtol=1e-4, atol=1e-4)


def written(folder: Path, config: EncoderConfig, **changes) -> Path:
    """A folder in the layout of transformers' published files, without transformers."""
    torch.manual_seed(3)
    shapes = {}
    network = ImageEncoder(config)
    for name, where in transformers_table(config.kind, config.layers).items():
        shapes |= where.shapes(tuple(network.state_dict()[name].shape))
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()} | changes
    tensors["pooler.dense.weight"] = torch.zeros(1)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": config.heads}))
    return folder


@pytest.fixture
def weights(tmp_path) -> Path:
    return written(tmp_path / "weights", SMALL)


def test_weights_from_a_folder_are_the_ones_used(weights):
    torch.manual_seed(2)
    first, second = (ImageEncoder(replace(SMALL, weights=str(weights))) for _ in range(2))
    image = torch.rand(1, 3, 28, 28)
    assert torch.equal(first(image), second(image))
    assert not torch.equal(first(image), ImageEncoder(SMALL)(image))
    assert ImageEncoder(replace(SMALL, image_size=56, weights=str(weights)))(torch.rand(1, 3, 56, 56)).shape == (
        1,
        17,
        32,
    )


@pytest.mark.parametrize(
    "name",
    [
        ("layers.1.attention.k_proj.weight", "encoder.layer.1.attention.attention.key.weight"),
        ("encoder.layer.0.attention.o_proj.bias", "encoder.layer.0.attention.output.dense.bias"),
        ("layers.0.mlp.fc2.bias", "encoder.layer.0.output.dense.bias"),
        ("layers.0.layernorm_before.bias", "encoder.layer.0.layernorm_before.bias"),
        ("embeddings.cls_token", "embeddings.cls_token"),
    ],
)
def test_a_tensor_has_one_name_whatever_transformers_calls_it(name):
    assert stable_name(name[0], "vit") == stable_name(name[1], "vit") == name[1]
    assert stable_name("encoder.layer.0.mlp.fc1.bias", "dinov2") == "encoder.layer.0.mlp.fc1.bias"


def test_weights_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TURNTABLE_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "PATIENCE", Policy(tries=1))
    with pytest.raises(UserError, match=r"nowhere.*neither a folder.*owner/name|nowhere.*give a local"):
        ImageEncoder(replace(SMALL, weights=str(tmp_path / "nowhere")))
    with pytest.raises(
        UserError, match=r"facebook/dino-vitb16.*give a local\s+folder.*127\.0\.0\.1:9/facebook/dino-vitb16/resolve"
    ):
        ImageEncoder(replace(SMALL, weights="facebook/dino-vitb16"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, r"missing encoder\.layer\.2"),
        ({"hidden": 64}, r"is \(1, 1, 32\), expected \(1, 1, 64\)"),
        ({"heads": 4}, r"num_attention_heads is 2 there, 4 here"),
        ({"kind": "dinov2"}, r"missing encoder\.layer\.0\.norm1"),
    ],
)
def test_weights_of_another_size_are_never_filled_up_at_random(weights, change, message):
    with pytest.raises(UserError, match=rf"do not fit.*{message}"):
        ImageEncoder(replace(SMALL, weights=str(weights), **change))


def test_a_picture_is_normalised_as_configured():
    torch.manual_seed(0)
    plain = ImageEncoder(SMALL)
    shifted = ImageEncoder(replace(SMALL, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4)))
    shifted.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 28, 28)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(shifted(image), plain((image - mean) / deviation))


@pytest.mark.parametrize("package", ["transformers", "accelerate", "peft"])
def test_hugging_face_packages_import_beside_our_datasets(package):
    """They probe for a package called `datasets`; in our checkout that is ours."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    uses = {
        "transformers": "import transformers; transformers.ViTModel; transformers.Dinov2WithRegistersModel",
        "accelerate": "import accelerate; accelerate.Accelerator",
        "peft": "import peft; peft.LoraConfig",
    }[package]
    code = f"import datasets, pathlib; assert pathlib.Path(datasets.__file__).parent.parent.samefile('.'); {uses}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
