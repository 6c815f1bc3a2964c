"""A small ESRGAN of one's own: `python -m benchmarks.train_upscaler --captures captures/ --out small.safetensors`.

Trains an RRDBNet in the official layout (4 times, few channels, one block) to undo shrinking of rendered views, for some minutes on
the CPU. It is no rival of the published networks: it is something true to try `--upscale` with where those cannot be had, and its
result is judged here on views it has not seen, beside the cubic filter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from datasets.captures import CaptureReader, capture_paths
from preprocess import upscale
from tests.preprocess import esrgan
from turntable import config, framing
from turntable.errors import EXIT_OK, UserError

SCALE = 4


@dataclass(frozen=True)
class Training:
    """What to train on, and for how long."""

    captures: Path
    """Folder of captures; every eighth is kept for judging."""
    out: Path
    """File of weights (.safetensors)."""
    minutes: float = 4.0
    features: int = 16
    """Channels."""
    batch: int = 8
    crop: int = 24
    """Side of a training picture before enlarging, pixels."""
    seed: int = 0
    start: Path | None = None
    """Weights of an earlier training to go on from."""


def views(paths: list[Path], count: int) -> list[np.ndarray]:
    """The first `count` views of each capture, (S, S, 4) uint8, S a multiple of `SCALE`."""
    pictures = []
    for path in paths:
        with CaptureReader(path) as capture:
            side = capture.width // SCALE * SCALE
            pictures += [capture.picture("rgba", view)[:side, :side] for view in range(min(count, len(capture)))]
    return pictures


def shrunk(picture: np.ndarray) -> np.ndarray:
    """(S, S, C) uint8 -> (S / SCALE, …): means of squares, so that pixels' squares stay where they are."""
    side = picture.shape[0] // SCALE
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def beginning(features: int, seed: int) -> esrgan.Tensors:
    """Tensors of a network that repeats pixels, and a little chance: it has only to learn what repeating lacks."""
    tensors = {name: value / 10 for name, value in esrgan.random_rrdbnet(features, 1, SCALE, seed).items()}
    for name in ("conv_first", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        tensors[f"{name}.weight"][range(3), range(3), 1, 1] += 1
    return tensors


def batch(pictures: list[np.ndarray], options: Training, generator: np.random.Generator) -> list[torch.Tensor]:
    """Small pictures (B, 3, crop, crop) and what they were (B, 3, SCALE·crop, SCALE·crop), in [0, 1], from places with an object."""
    small, large = [], []
    while len(small) < options.batch:
        picture = pictures[generator.integers(len(pictures))]
        side = options.crop * SCALE
        top, left = generator.integers(0, (len(picture) - side) // SCALE + 1, 2) * SCALE
        part = picture[top : top + side, left : left + side]
        if (part[..., 3] > 0).mean() > 0.3:
            part = np.rot90(part, generator.integers(4))
            colour = np.ascontiguousarray(upscale.bleed(np.ascontiguousarray(part)))
            large.append(colour)
            small.append(shrunk(colour))
    return [torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float() / 255 for parts in (small, large)]


def train(pictures: list[np.ndarray], options: Training) -> esrgan.Tensors:
    """Adam on the mean absolute difference, its rate falling to nothing over the minutes."""
    first = load_file(options.start) if options.start else beginning(options.features, options.seed)
    tensors = {name: value.requires_grad_() for name, value in first.items()}
    optimiser = torch.optim.Adam(tensors.values())
    generator = np.random.default_rng(options.seed)
    start, step, last_said = time.monotonic(), 0, 0.0
    while (passed := (time.monotonic() - start) / 60 / options.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10) * (1 - passed)
        small, large = batch(pictures, options, generator)
        loss = (esrgan.rrdbnet(tensors, small, SCALE) - large).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if passed > last_said + 0.1:
            print(f"step {step}: mean absolute difference {loss.item() * 255:.2f} of 255", flush=True)
            last_said = passed
    return {name: value.detach().clone() for name, value in tensors.items()}


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio on white, dB, where the object is."""
    seen = truth[..., 3] > 0
    difference = framing.on_background(found)[seen] - framing.on_background(truth)[seen]
    return float(-10 * np.log10((difference**2).mean()))


def main() -> int:
    """The command."""
    options = config.parse(Training, "Train a small upscaler on rendered views.")
    paths = capture_paths(options.captures)
    if len(paths) < 8:
        raise UserError(f"--captures {options.captures}: {len(paths)} captures; at least 8 are needed")
    tensors = train(views([path for number, path in enumerate(paths) if number % 8], 12), options)
    save_file(tensors, options.out)
    upscaler = upscale.find(str(options.out), device="cpu")
    held_out = views(paths[::8], 2)
    small = [framing.resize(picture, len(picture) // SCALE, len(picture) // SCALE) for picture in held_out]
    ours = np.mean([psnr(upscaler(s), picture) for s, picture in zip(small, held_out, strict=True)])
    cubic = np.mean([psnr(framing.resize(s, *p.shape[1::-1]), p) for s, p in zip(small, held_out, strict=True)])
    print(f"{len(held_out)} views of unseen objects, {SCALE} times: {ours:.2f} dB, the cubic filter {cubic:.2f} dB")
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
