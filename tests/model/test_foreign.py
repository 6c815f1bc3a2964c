"""Published layouts: what fits is used to the last tensor; what does not is refused, and the reason named."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import hub, openlrm, tensors, triposr
from model.checkpoints import CheckpointError, load_checkpoint
from model.conversion import Origin, Sizes
from model.lrm import SIZES
from model.tensors import read_tensors
from tests.datasets import mirror
from tests.model import foreign
from turntable.download import Policy
from turntable.errors import UserError


@pytest.mark.parametrize("width", [64, 128])
def test_an_openlrm_folder_is_its_network(tmp_path, width):
    config = foreign.openlrm_config(width)
    lrm, extra = load_checkpoint(foreign.write_openlrm(tmp_path / "x", config))
    assert lrm.config == config and not lrm.training
    assert extra == {"family": "OpenLRM", "camera_distance": 2.0, "camera_focal": 0.75, "samples": 48}
    theirs, ours = load_file(tmp_path / "x" / "model.safetensors"), lrm.state_dict()
    qkv = theirs["encoder.model.blocks.0.attn.qkv.weight"]
    assert torch.equal(ours["encoder.blocks.0.attention.to_query.weight"], qkv[:64])
    assert torch.equal(ours["encoder.blocks.0.attention.to_key_value.weight"], qkv[64:])
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())


def test_a_triposr_folder_is_its_network(tmp_path):
    config = foreign.triposr_config()
    lrm, extra = load_checkpoint(foreign.write_triposr(tmp_path / "x", config))
    assert lrm.config == config
    assert extra["family"] == "TripoSR" and extra["camera_focal"] == pytest.approx(1.3737, abs=1e-4)
    theirs, ours = read_tensors(tmp_path / "x" / "model.ckpt")[0], lrm.state_dict()
    # The token of plane 1, row 2, column 3 of four.
    assert torch.equal(ours["decoder.positions"][16 + 2 * 4 + 3], theirs["tokenizer.embeddings"][1, :, 2, 3])
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())


@pytest.mark.parametrize(
    "where",
    [
        Origin(("a",)),
        Origin(("a", "b")),
        Origin(("a",), rows=(1, 3, 3)),
        Origin(("a",), layout="batch"),
        Origin(("a",), layout="planes"),
    ],
)
def test_shapes_and_what_is_taken_agree(where):
    ours = (12, 5)
    theirs = {name: torch.randn(shape) for name, shape in where.shapes(ours).items()}
    taken = where.take(theirs)
    assert tuple(taken.shape) == ours
    assert set(taken.flatten().tolist()) <= {value for t in theirs.values() for value in t.flatten().tolist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.norm.bias"), r"missing transformer\.norm\.bias \(128,\)"),
        (lambda t: t.update(stranger=torch.zeros(3)), r"unexpected stranger \(3,\)"),
        (
            lambda t: t.update({"transformer.layers.0.mlp.3.weight": torch.zeros(512, 128)}),
            r"transformer\.layers\.0\.mlp\.3\.weight is \(512, 128\), expected \(128, 512\)",
        ),
        (lambda t: t.pop("pos_embed"), r"pos_embed is missing, expected 3 dimensions"),
        (lambda t: t.update(pos_embed=torch.zeros(1, 50, 128)), r"pos_embed has 16 places|pos_embed is \(1, 50, 128\)"),
        (lambda t: t.update(pos_embed=torch.zeros(1, 51, 128)), r"pos_embed has 17 places, which are no square"),
        (lambda t: t["upsampler.bias"].fill_(torch.nan), r"upsampler\.bias \(1 tensors\) are not finite"),
        (lambda t: t["upsampler.bias"].fill_(torch.inf), r"upsampler\.bias \(1 tensors\) are not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named_as_in_the_file(tmp_path, change, message):
    file = foreign.write_openlrm(tmp_path / "x") / "model.safetensors"
    content = load_file(file)
    change(content)
    save_file(content, file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(file)


def test_known_tensors_without_a_part_are_no_strangers(tmp_path):
    file = foreign.write_triposr(tmp_path / "x") / "model.ckpt"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"image_tokenizer.model.pooler.dense.bias": torch.zeros(24)}, file)
    load_checkpoint(file)
    torch.save(content | {"image_tokenizer.model.pooler.dense.other": torch.zeros(24)}, file)
    with pytest.raises(CheckpointError, match=r"unexpected image_tokenizer\.model\.pooler\.dense\.other"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformer_layers": 12}, r"contradicts config\.json.*transformer_layers is 12 there, 1 here"),
        ({"encoder_type": "dino"}, r"encoder_type is 'dino' there"),
        ({"transformer_heads": 5}, r"128 wide tokens cannot be divided among 5 heads"),
        ({"transformer_heads": "two"}, r"cannot be divided among 'two' heads"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_told(tmp_path, settings, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(foreign.write_openlrm(tmp_path / "x", **settings))


def test_triposrs_configuration_is_read_without_trust(tmp_path):
    folder = foreign.write_triposr(tmp_path / "x", num_layers=16)
    with pytest.raises(CheckpointError, match=r"contradicts backbone in config\.yaml.*num_layers is 16 there, 2 here"):
        load_checkpoint(folder)
    sprung = tmp_path / "sprung"
    for content, message in (
        (f"a: !!python/object/apply:os.mkdir ['{sprung}']", "not a readable YAML file"),
        ("a: [1", "not a readable YAML file"),
        ("- 1", "holds no settings by name"),
        ("backbone: {num_attention_heads: many}", "invalid literal"),
        ("backbone: {num_attention_heads: 0}", "width must be a multiple of heads 0"),
        ("backbone: {num_attention_heads: 2}\nrenderer: {radius: 0}", "configuration beside it cannot be read"),
        (
            "backbone: {num_attention_heads: 2}\nrenderer: {density_activation: relu}",
            "density_activation is 'relu' there",
        ),
        (" " * (1 << 17), "more than a configuration has"),
    ):
        (folder / "config.yaml").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)
    assert not sprung.exists()


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        import os

        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_in_it_is_refused_by_name(tmp_path, legacy):
    file, trap = foreign.write_triposr(tmp_path / "x") / "model.ckpt", tmp_path / "sprung"
    content = torch.load(file, weights_only=True) | {"a": Trap(trap)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"model\.ckpt: a pickle with more in it than tensors.*refused \(.*mkdir"):
        load_checkpoint(file)
    file.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(CheckpointError, match=r"model\.ckpt: "):
        load_checkpoint(file)
    assert not trap.exists()


def test_files_of_pytorch_that_are_no_checkpoints(tmp_path):
    file = foreign.write_triposr(tmp_path / "x") / "model.ckpt"
    whole = file.read_bytes()
    for content in (b"", b"<html></html>", b"hello", whole[: len(whole) // 2], whole[:100], b"\x80\x02K\x01."):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.ckpt: "):
            load_checkpoint(file)
    for value, message in (
        ({"state_dict": {"a": torch.zeros(1)}}, "holds state_dict, not one tensor a name"),
        ([1, 2], "holds list"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "claim .* bytes, but it holds"),
    ):
        torch.save(value, file)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(file)


def test_size_is_looked_at_before_anything_is_unpacked(tmp_path, monkeypatch):
    file = foreign.write_triposr(tmp_path / "x") / "model.ckpt"
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("model/zeros", bytes(1 << 22))
    monkeypatch.setattr(tensors, "MAX_BYTES", 1 << 21)
    assert packed.stat().st_size < 1 << 21
    with pytest.raises(CheckpointError, match=r"unpacks to .* bytes, more than 2,097,152"):
        load_checkpoint(packed)
    monkeypatch.setattr(tensors, "MAX_BYTES", 1 << 10)
    with pytest.raises(CheckpointError, match=r"bytes, more than 1,024"):
        load_checkpoint(file)


def test_what_is_neither_ours_nor_theirs_is_told(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"nor one in the layout of OpenLRM or TripoSR.*it has weight"):
        load_checkpoint(tmp_path / "x.safetensors")
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"photo\.png: not a file of tensors"):
        load_checkpoint(tmp_path / "photo.png")
    with pytest.raises(CheckpointError, match=r"no such checkpoint.*openlrm:mix-base-1\.1.*triposr"):
        load_checkpoint("openlrm:mix-huge-1.1")


@pytest.fixture
def the_hub(tmp_path, monkeypatch) -> Iterator[mirror.Mirror]:
    """A hub on this machine that has one repository."""
    foreign.write_openlrm(tmp_path / "hub" / "zxhezexin" / "openlrm-mix-base-1.1" / "resolve" / "main")
    server = mirror.Mirror(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("TURNTABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PATIENCE", Policy(tries=2, backoff_s=0.01, timeout_s=2.0))
    yield server
    server.server.shutdown()


def test_a_published_name_is_downloaded_once_and_resumed(the_hub, tmp_path, monkeypatch):
    path = "/zxhezexin/openlrm-mix-base-1.1/resolve/main/model.safetensors"
    the_hub.script[path] = [mirror.breaks_after(3000)]
    lrm, extra = load_checkpoint("openlrm:mix-base-1.1")
    assert the_hub.ranges(path) == [None, "bytes=3000-"]
    assert extra["name"] == "openlrm:mix-base-1.1" and extra["licences"] == ["CC-BY-NC-4.0"]
    assert lrm.config == foreign.openlrm_config()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    load_checkpoint(Path("openlrm:mix-base-1.1"))
    with pytest.raises(UserError) as caught:
        load_checkpoint("triposr")
    folder = tmp_path / "cache" / "weights" / "stabilityai--TripoSR"
    for needed in (str(folder / "config.yaml"), "http://127.0.0.1:9/stabilityai/TripoSR/resolve/main/config.yaml"):
        assert needed in str(caught.value)
    assert hub.PUBLISHED["triposr"].sha256["model.ckpt"].startswith("429e2c6b")
    # Files laid there by hand are used; what is still missing is named.
    foreign.write_triposr(folder)
    assert load_checkpoint("triposr")[1]["licences"] == ["MIT"]
    (folder / "model.ckpt").unlink()
    with pytest.raises(UserError, match=r"resolve/main/model\.ckpt"):
        load_checkpoint("triposr")


@pytest.mark.parametrize(("size", "gigabytes"), [("small", 0.446), ("base", 1.04), ("large", 1.81)])
def test_openlrms_published_sizes(size, gigabytes):
    """Its model card gives files of 446 MB, 1.04 GB and 1.81 GB; nothing but single-precision tensors is in them."""
    config = replace(SIZES[size], fill=0.8, level=3.0, camera="supposed")
    shapes = foreign.shapes(config, openlrm.FAMILY)
    published = 4 * sum(math.prod(shape) for shape in shapes.values()) / 1e9
    assert published == pytest.approx(gigabytes, abs=0.5 * 10 ** (-3 if size == "small" else -2))
    found = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert openlrm.describe(Sizes(Path("x"), found), Path("nowhere"))[0] == config


def test_triposrs_published_size():
    """549 tensors in 1,677,246,742 bytes, of which an archive's own part is at most 500 a tensor."""
    shapes = foreign.shapes(foreign.TRIPOSR, triposr.FAMILY)
    pooler = {"weight": (768, 768), "bias": (768,)}
    shapes |= {f"image_tokenizer.model.pooler.dense.{name}": shape for name, shape in pooler.items()}
    assert len(shapes) == 549
    numbers = 4 * sum(math.prod(shape) for shape in shapes.values())
    assert 0 < 1_677_246_742 - numbers < 549 * 500
    found = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert triposr.describe(Sizes(Path("x"), found), Path("nowhere"))[0] == foreign.TRIPOSR


def test_every_published_name_is_a_repository_of_the_hub():
    assert len(hub.PUBLISHED) == 7
    assert json.dumps(sorted(hub.PUBLISHED)).count("openlrm:mix") == 3
