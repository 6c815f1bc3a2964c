"""A model handed on in half precision: half the bytes, the same answers but for rounding, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoints import load_checkpoint, save_model
from model.lrm import LRM, SIZES
from train.export import ExportConfig, export
from turntable.errors import UserError


def saved(folder: Path, name: str, seed: int = 0) -> LRM:
    torch.manual_seed(seed)
    lrm = LRM(SIZES["tiny"]).eval()
    save_model(folder / name, lrm, {"step": 7, "licences": ["by"]})
    return lrm


def test_half_the_size_and_the_same_planes(tmp_path: Path) -> None:
    lrm = saved(tmp_path / "run", "model.safetensors")
    export(ExportConfig(tmp_path / "run", tmp_path / "out.safetensors", name="ours", level=4.0))
    assert (tmp_path / "out.safetensors").stat().st_size < 0.55 * (tmp_path / "run/model.safetensors").stat().st_size
    halves, extra = load_checkpoint(tmp_path / "out.safetensors")
    assert extra == {"step": 7, "licences": ["by"], "name": "ours"}
    assert halves.config.level == 4.0 != lrm.config.level
    assert {tensor.dtype for tensor in halves.state_dict().values()} == {torch.float32}
    image, camera = torch.rand(1, 3, 128, 128), torch.rand(1, 16)
    with torch.no_grad():
        one, other = lrm.planes(image, camera), halves.planes(image, camera)
    # Each weight is off by 2^-12 of itself at most; a few layers of them.
    assert float((one - other).abs().max()) < 0.01 * float(one.std())


def test_the_best_goes_before_the_newest(tmp_path: Path) -> None:
    saved(tmp_path / "run", "model.safetensors", 0)
    best = saved(tmp_path / "run", "best.safetensors", 1)
    export(ExportConfig(tmp_path / "run", tmp_path / "out.safetensors"))
    weight = load_checkpoint(tmp_path / "out.safetensors")[0].encoder.patches.weight
    assert torch.allclose(weight, best.encoder.patches.weight, atol=1e-3)


def test_what_half_precision_does_not_hold_is_named(tmp_path: Path) -> None:
    lrm = saved(tmp_path, "small.safetensors")
    with torch.no_grad():
        lrm.upsampler.deconvolution.weight[0, 0, 0, 0] = 1e6
    save_model(tmp_path / "large.safetensors", lrm, {})
    with pytest.raises(UserError, match=r"upsampler\.deconvolution\.weight: beyond what half precision"):
        export(ExportConfig(tmp_path / "large.safetensors", tmp_path / "out.safetensors"))
    with pytest.raises(UserError, match="the model that is to be read"):
        export(ExportConfig(tmp_path / "small.safetensors", tmp_path / "small.safetensors"))
