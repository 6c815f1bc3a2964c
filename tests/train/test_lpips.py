"""LPIPS against an independent evaluation of the same weights in the published files' own names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from train import lpips
from turntable.errors import UserError

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Places of VGG-16's convolutions in torchvision's `features`."""
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
LAST_OF_STAGE = {2: 0, 7: 1, 14: 2, 21: 3, 28: 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout."""
    folder = tmp_path_factory.mktemp("lpips")
    generator = torch.Generator().manual_seed(0)
    backbone, channels = {"classifier.0.weight": torch.zeros(1)}, 3
    for place, width in zip(CONVOLUTIONS, WIDTHS, strict=True):
        scale = (2 / (channels * 9)) ** 0.5
        backbone[f"features.{place}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) * scale
        backbone[f"features.{place}.bias"] = torch.randn(width, generator=generator) * 0.1
        channels = width
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for i, width in enumerate((64, 128, 256, 512, 512))
    }
    torch.save(backbone, folder / lpips.BACKBONE_FILE)
    torch.save(heads, folder / lpips.HEADS_FILE)
    return folder


def slow_lpips(weights: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    backbone = torch.load(weights / lpips.BACKBONE_FILE, weights_only=True)
    heads = torch.load(weights / lpips.HEADS_FILE, weights_only=True)
    total = 0.0
    x, y = ((p * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) for p in (a, b))
    x, y = (p / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1) for p in (x, y))
    for place in CONVOLUTIONS:
        if place in (5, 10, 17, 24):
            x, y = (functional.max_pool2d(p[None], 2)[0] for p in (x, y))
        kernel, bias = backbone[f"features.{place}.weight"], backbone[f"features.{place}.bias"]
        x, y = (functional.conv2d(p[None], kernel, bias, padding=1)[0].clamp(min=0) for p in (x, y))
        if place in LAST_OF_STAGE:
            head = heads[f"lin{LAST_OF_STAGE[place]}.model.1.weight"].view(-1, 1, 1)
            difference = x / (x.norm(dim=0) + 1e-10) - y / (y.norm(dim=0) + 1e-10)
            total += float((difference**2 * head).sum(dim=0).mean())
    return total


def test_equals_the_slow_version(weights: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)
    distances = lpips.load(weights)(a, b)
    for i in range(2):
        # float32 sums over 13 layers in another order
        assert float(distances[i]) == pytest.approx(slow_lpips(weights, a[i], b[i]), rel=1e-4)


def test_equal_pictures_are_at_distance_zero_and_gradients_reach_the_picture(weights: Path) -> None:
    model = lpips.load(weights)
    a = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert float(model(a, a)) == 0
    b = (a * 0.5).requires_grad_()
    model(a, b).sum().backward()
    assert b.grad is not None and b.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())


def test_missing_weights_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth.*--lpips-weights"):
        lpips.load(tmp_path)


def test_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / lpips.HEADS_FILE).write_bytes((weights / lpips.HEADS_FILE).read_bytes())
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / lpips.BACKBONE_FILE)
    with pytest.raises(UserError, match="lacks what"):
        lpips.load(tmp_path)
    (tmp_path / lpips.BACKBONE_FILE).write_text("<html>")
    with pytest.raises(UserError, match="not a weights file"):
        lpips.load(tmp_path)
