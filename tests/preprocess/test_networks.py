"""Networks: spandrel computes what the papers say, and nothing but sound weights becomes a network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from preprocess import networks
from preprocess.networks import NetworkError
from tests.conftest import ROOT
from tests.preprocess import esrgan


def saved(path: Path, tensors: object) -> Path:
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("tensors", "reference", "scale", "reach"),
    [
        # Reach: 15 convolutions a block, one before the blocks, four after them where nothing is enlarged yet counted as such.
        (esrgan.random_rrdbnet(8, 2, 4), esrgan.rrdbnet, 4, 30 + 6),
        (esrgan.random_rrdbnet(8, 2, 2), esrgan.rrdbnet, 2, 2 * (30 + 6)),
        (esrgan.random_compact(8, 3, 4), esrgan.compact, 4, 5),
        (esrgan.random_compact(8, 3, 2), esrgan.compact, 2, 5),
    ],
    ids=["RRDBNet x4", "RRDBNet x2", "compact x4", "compact x2"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_computes_what_its_paper_says(
    tmp_path: Path, tensors: esrgan.Tensors, reference: object, scale: int, reach: int, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        saved(path, {"params_ema": tensors})  # as the official files have it
    else:
        save_file(tensors, path)
    network = networks.load(path)
    picture = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    assert (network.scale, network.reach) == (scale, reach)
    # The same convolutions in the same order; libraries may add up in another one.
    torch.testing.assert_close(network.module(picture), reference(tensors, picture, scale), rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_the_official_layouts_are_known(tmp_path: Path) -> None:
    """All tensors of RealESRGAN_x2plus and realesr-general-x4v3 are named and shaped as spandrel expects them."""
    path = saved(tmp_path / "x2plus.pth", {"params_ema": esrgan.random_rrdbnet(64, 23, 2)})
    assert path.stat().st_size == pytest.approx(
        67_061_725, rel=0.002
    )  # the official file's; names and padding differ a little
    network = networks.load(path)
    assert (network.scale, network.architecture, network.reach) == (2, "ESRGAN", 702)
    path = saved(tmp_path / "x4v3.pth", {"params": esrgan.random_compact(64, 32, 4)})
    assert path.stat().st_size == pytest.approx(4_885_111, rel=0.005)
    network = networks.load(path)
    assert (network.scale, network.architecture, network.reach) == (4, "Compact", 34)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled_but_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "bomb.pth", {"params": Bomb(tmp_path / "exploded")})
    with pytest.raises(NetworkError, match=r"bomb\.pth: cannot be read as weights"):
        networks.load(path)
    assert not (tmp_path / "exploded").exists()


def bad_files(folder: Path) -> dict[str, Path]:
    """What is wrong -> a file in which it is."""
    good = esrgan.random_compact(4, 2, 2)
    whole = saved(folder / "whole.pth", good).read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "text.safetensors").write_text("no weights")
    with zipfile.ZipFile(folder / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2 << 20))
    vast = torch.zeros(1).expand(1 << 29)
    return {
        "cannot be read as weights": folder / "half.pth",
        "cannot be read as weights ": folder / "text.safetensors",
        "more than 1048576 bytes; refused": folder / "deflated.pth",
        "say that they hold more than": saved(folder / "vast.pth", {**good, "body.0.weight": vast}),
        "no network is as deep": saved(folder / "deep.pth", {**good, "body.99999999.weight": torch.zeros(1)}),
        "values that are not finite": saved(folder / "nan.pth", {**good, "body.0.bias": torch.full((4,), torch.nan)}),
        "is a int, not a tensor": saved(folder / "number.pth", {**good, "body.0.bias": 3}),
        "holds a list": saved(folder / "list.pth", [1, 2]),
        "not the weights of a known network": saved(folder / "other.pth", {"conv.weight": torch.zeros(3, 3, 3, 3)}),
        "not the weights of a known network ": saved(
            folder / "shape.pth", {**good, "body.2.weight": torch.zeros(4, 5, 3, 3)}
        ),
        "no such file": folder / "absent.pth",
        "are read from .pth and .safetensors files": folder / "weights.onnx",
    }


def test_bad_files_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "MAX_FILE_BYTES", 1 << 20)
    for complaint, path in bad_files(tmp_path).items():
        with pytest.raises(NetworkError, match=complaint.strip()) as caught:
            networks.load(path)
        assert path.name in str(caught.value)


def test_a_torchvision_that_does_not_fit_is_no_hindrance(tmp_path: Path) -> None:
    """spandrel imports two functions of torchvision that no network of ours needs."""
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = saved(tmp_path / "weights.pth", esrgan.random_compact(4, 2, 2))
    code = f"from pathlib import Path; from preprocess import networks; print(networks.load(Path({str(path)!r})).scale)"
    code += "; import sys; assert 'torchvision' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "2", result.stderr


def test_a_missing_spandrel_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", esrgan.random_compact(4, 2, 2))
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(NetworkError, match=r"\[preprocess\].*realesrgan"):
        networks.load(path)
