"""ESRGAN's networks a second time, in plain torch functions over tensors by name, after their papers.

RRDBNet: Wang et al. 2018, "ESRGAN", figure 4; with pixel-unshuffle before it: Wang et al. 2021, "Real-ESRGAN", section 3.3.
The compact network is Real-ESRGAN's SRVGGNetCompact: a plain chain of convolutions, then pixel-shuffle, over the enlarged input.
Tensors are named as the published files name them.
"""

from __future__ import annotations

import torch
from torch.nn import functional

Tensors = dict[str, torch.Tensor]
GROWTH = 32
"""Channels that each convolution of a dense block adds; the same in every published file."""


def _convolve(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, 0.2)


def _dense_block(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    known = x
    for step in range(1, 5):
        known = torch.cat([known, _leaky(_convolve(tensors, f"{name}.conv{step}", known))], dim=1)
    return x + 0.2 * _convolve(tensors, f"{name}.conv5", known)


def rrdbnet(tensors: Tensors, x: torch.Tensor, scale: int) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 3, scale·H, scale·W), scale 4 or 2 (H and W even)."""
    features = _convolve(tensors, "conv_first", functional.pixel_unshuffle(x, 4 // scale))
    deep = features
    for block in range(count(tensors, "body")):
        inner = deep
        for part in (1, 2, 3):
            inner = _dense_block(tensors, f"body.{block}.rdb{part}", inner)
        deep = deep + 0.2 * inner
    features = features + _convolve(tensors, "conv_body", deep)
    for step in (1, 2):
        doubled = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        features = _leaky(_convolve(tensors, f"conv_up{step}", doubled))
    return _convolve(tensors, "conv_last", _leaky(_convolve(tensors, "conv_hr", features)))


def compact(tensors: Tensors, x: torch.Tensor, scale: int) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 3, scale·H, scale·W)."""
    features, last = x, count(tensors, "body") - 1
    for layer in range(0, last, 2):
        features = functional.prelu(_convolve(tensors, f"body.{layer}", features), tensors[f"body.{layer + 1}.weight"])
    shuffled = functional.pixel_shuffle(_convolve(tensors, f"body.{last}", features), scale)
    return shuffled + x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def count(tensors: Tensors, prefix: str) -> int:
    """How many numbered parts `prefix` has."""
    return 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith(f"{prefix}."))


def random_rrdbnet(features: int = 64, blocks: int = 23, scale: int = 4, seed: int = 0) -> Tensors:
    """Tensors of an RRDBNet with random weights; the defaults are the layout of RealESRGAN_x4plus."""
    shapes = {"conv_first": (3 * (4 // scale) ** 2, features), "conv_body": (features, features)}
    shapes |= dict.fromkeys(("conv_up1", "conv_up2", "conv_hr"), (features, features)) | {"conv_last": (features, 3)}
    for block in range(blocks):
        for part in (1, 2, 3):
            for step in range(1, 6):
                outputs = GROWTH if step < 5 else features
                shapes[f"body.{block}.rdb{part}.conv{step}"] = (features + (step - 1) * GROWTH, outputs)
    return _random(shapes, seed)


def random_compact(features: int = 64, layers: int = 32, scale: int = 4, seed: int = 0) -> Tensors:
    """Tensors of a compact network with random weights; the defaults are the layout of realesr-general-x4v3."""
    shapes = {"body.0": (3, features)} | {f"body.{2 * layer}": (features, features) for layer in range(1, layers + 1)}
    tensors = _random(shapes | {f"body.{2 * layers + 2}": (features, 3 * scale * scale)}, seed)
    tensors |= {f"body.{2 * layer + 1}.weight": torch.full((features,), 0.25) for layer in range(layers + 1)}
    return tensors


def _random(shapes: dict[str, tuple[int, int]], seed: int) -> Tensors:
    """Weights and biases of 3×3 convolutions, as He et al. 2015 draw them, so that signals keep their size."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in shapes.items():
        spread = (2 / (9 * inputs)) ** 0.5
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.01
    return tensors
