"""What is saved comes back; what is no checkpoint of ours is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import FILE_NAME, CheckpointError, load_checkpoint, load_model, save_model, write_tensors
from model.lrm import LRM, SIZES, DecoderConfig, EncoderConfig, FieldConfig, LRMConfig, TriplaneConfig
from tests.model import foreign

SMALL = LRMConfig(
    EncoderConfig("vit", 32, 16, 16, 1, 2, weights="somewhere/that-is-gone"),
    DecoderConfig(1, 16, 2, tokens=2, camera_width=8),
    TriplaneConfig(2, 4),
    FieldConfig(width=8),
)


@pytest.fixture
def lrm() -> LRM:
    torch.manual_seed(0)
    return LRM(SMALL, load_weights=False)


@pytest.fixture
def saved(lrm, tmp_path):
    path = tmp_path / FILE_NAME
    save_model(path, lrm, {"step": 12, "licences": ["by"], "camera_distance": 2.1})
    return path


def rewrite(path, change_tensors=lambda tensors: tensors, **change_metadata):
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file(change_tensors(load_file(path)), path, {**metadata, **change_metadata})


def test_what_is_saved_comes_back(lrm, saved):
    loaded, extra = load_checkpoint(saved)
    assert loaded.config == SMALL
    assert extra == {"step": 12, "licences": ["by"], "camera_distance": 2.1}
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    image, camera = torch.rand(1, 3, 32, 32), torch.rand(1, 16)
    assert torch.equal(loaded.planes(image, camera), lrm.planes(image, camera))
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("dialect", [4, 5])
def test_version_1_had_transformers_names_and_still_loads(lrm, saved, dialect):
    """Of whichever version of transformers wrote it; and its configuration lacked what is newer."""
    old = {
        "cls_token": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "patches": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "blocks.0.attention_norm": "0.layernorm_before",
        "blocks.0.mlp_norm": "0.layernorm_after",
        "blocks.0.attention.to_query": ("0.attention.attention.query", "0.attention.q_proj"),
        "blocks.0.attention.to_out": ("0.attention.output.dense", "0.attention.o_proj"),
        "blocks.0.mlp.0": ("0.intermediate.dense", "0.mlp.fc1"),
        "blocks.0.mlp.2": ("0.output.dense", "0.mlp.fc2"),
    }
    pair = {
        4: ("0.attention.attention.key", "0.attention.attention.value"),
        5: ("0.attention.k_proj", "0.attention.v_proj"),
    }
    layers = "encoder.network." + ("encoder.layer." if dialect == 4 else "layers.")

    def renamed(tensors):
        result = {name: t for name, t in tensors.items() if not name.startswith("encoder.")}
        for name, tensor in tensors.items():
            stem, _, part = name.removeprefix("encoder.").rpartition(".")
            if name.startswith("encoder.") and "to_key_value" in name:
                for other, half in zip(pair[dialect], tensor.chunk(2), strict=True):
                    result[f"{layers}{other}.{part}"] = half.clone()
            elif name.startswith("encoder."):
                other = old.get(stem) or old[part]
                other = other if isinstance(other, str) else other[dialect - 4]
                whole = f"{layers}{other}" if other[0] == "0" else f"encoder.network.{other}"
                result[f"{whole}.{part}" if stem else whole] = tensor
        return result

    config = dataclasses.asdict(SMALL)
    for part, field in [("encoder", "registers"), ("decoder", "order"), ("decoder", "mlp"), ("decoder", "ends")]:
        del config[part][field]
    for field in ("background", "level", "camera"):
        del config[field]
    del config["triplane"]["frame"], config["field"]["optical_path"], config["decoder"]["out_bias"]
    rewrite(saved, renamed, version="1", config=json.dumps(config))
    loaded = load_model(saved)
    assert loaded.config == SMALL
    assert all(torch.equal(tensor, lrm.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    rewrite(saved, lambda t: {**t, "encoder.network.stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unexpected encoder\.network\.stranger"):
        load_model(saved)


def test_a_folder_is_searched_for_its_model(saved):
    assert load_model(saved.parent).config == SMALL
    saved.rename(saved.with_name("only.safetensors"))
    assert load_model(saved.parent).config == SMALL
    (saved.parent / "other.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"only\.safetensors.*name one"):
        load_model(saved.parent)


def test_every_size_comes_back_whole(tmp_path):
    """Constants that no file holds (normalisation, sines of positions) are there too."""
    torch.manual_seed(0)
    tiny = LRM(SIZES["tiny"])
    save_model(tmp_path / FILE_NAME, tiny, {})
    image, camera = torch.rand(1, 3, 128, 128), torch.rand(1, 16)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).planes(image, camera), tiny.planes(image, camera))


def test_a_loaded_network_can_be_saved_again(tmp_path):
    """Parameters cut from one fused matrix share no memory, which safetensors would refuse; half precision becomes single."""
    folder = foreign.write_openlrm(tmp_path / "x", foreign.openlrm_config(64))
    halves = {name: tensor.half() for name, tensor in load_file(folder / FILE_NAME).items()}
    save_file(halves, folder / FILE_NAME)
    lrm, extra = load_checkpoint(folder)
    assert {tensor.dtype for tensor in lrm.state_dict().values()} == {torch.float32}
    save_model(tmp_path / "own" / FILE_NAME, lrm, extra)
    again, extra_again = load_checkpoint(tmp_path / "own")
    assert again.config == lrm.config and extra_again == extra
    assert all(torch.equal(tensor, lrm.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path / "a")
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "decoder.norm.bias"}, r"missing decoder\.norm\.bias \(16,\)"),
        (lambda t: {**t, "stranger": torch.zeros(3)}, r"unexpected stranger \(3,\)"),
        (lambda t: {**t, "decoder.norm.bias": torch.zeros(17)}, r"decoder\.norm\.bias is \(17,\), expected \(16,\)"),
        (lambda t: {**t, "decoder.norm.bias": torch.full((16,), torch.nan)}, r"decoder\.norm\.bias.*not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "diffusers"}, "not a checkpoint of ours.*diffusers"),
        ({"version": "9"}, "version 9, this code reads 1 and 2"),
        ({"config": "{}"}, "configuration in it cannot be read"),
        ({"config": "[1"}, "configuration in it cannot be read"),
        ({"config": "[1]"}, "configuration in it cannot be read"),
        ({"config": json.dumps({"encoder": {"kind": "resnet"}})}, "configuration in it cannot be read"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(saved, metadata, message):
    rewrite(saved, **metadata)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["html", "empty", "text", "truncated", "truncated header", "zip", "pickle"])
def test_files_that_are_no_checkpoints(saved, kind, tmp_path):
    content, trap = saved.read_bytes(), tmp_path / "sprung"
    torch.save({"a": Trap(trap)}, tmp_path / "pickle.pt")
    replaced = {
        "html": b"<!doctype html><title>404</title>",
        "empty": b"",
        "text": b"hello there, this is no checkpoint at all",
        "truncated": content[: len(content) // 2],
        "truncated header": content[:20],
        "zip": (tmp_path / "pickle.pt").read_bytes(),
        "pickle": pickle.dumps({"a": Trap(trap)}),
    }[kind]
    saved.write_bytes(replaced)
    named = {"html": "an HTML page", "empty": "an empty file", "zip": "a pickle", "pickle": "a pickle"}.get(
        kind, "bytes"
    )
    with pytest.raises(CheckpointError, match=f"{named}.*not a whole safetensors file"):
        load_model(saved)
    assert not trap.exists()


def test_another_familys_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of ours"):
        load_model(tmp_path / "x.safetensors")


def test_a_checkpoint_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640
