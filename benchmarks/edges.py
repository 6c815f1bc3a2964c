"""Which colours soft edges should keep: `python -m benchmarks.edges --shards shards/`.

Renders, whose colours are known also where they are half transparent, are laid over textures and cut out again with their
own matte, once as they are and once with an edge blurred to the width that a network draws. The error at a soft pixel is
alpha · |F' − F| in levels of 255, which is how far it errs on white and on black alike. Compared: colours as seen, colours
bled outward from where the matte is solid, `preprocess.cutout`, and pymatting's multi-level estimate, which rembg uses.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.shards import ShardSet
from preprocess.cutout import cut_out
from train.composites import TEXTURES
from turntable import config as command_line
from turntable.errors import EXIT_OK
from turntable.files import write_json

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EdgesBenchmark:
    """What to measure on."""

    shards: Path
    """Folder of shards of renders."""
    objects: int = 10
    """Evenly spread over the set."""
    out: Path = Path("benchmarks/results/edges.json")
    """The result."""


def as_seen(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """No correction."""
    return rgb


def bled(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours of the solid inside, spread outward by a Gaussian of two pixels."""
    solid = (alpha >= 250).astype(np.float32)[..., None]
    weight = cv2.GaussianBlur(solid, (0, 0), 2)[..., None]
    spread = cv2.GaussianBlur(rgb * solid, (0, 0), 2) / np.maximum(weight, 1e-4)
    return np.where((solid > 0) | (weight < 1e-3), rgb, spread)


def fused(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What `preprocess.cutout` does."""
    return cut_out(rgb, alpha)[..., :3]


def multi_level(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """pymatting's estimate (Germer et al. 2020)."""
    from pymatting.foreground.estimate_foreground_ml import estimate_foreground_ml

    return estimate_foreground_ml(rgb / 255.0, alpha / 255.0) * 255


WAYS: dict[str, Estimate] = {"as seen": as_seen, "bled": bled, "preprocess.cutout": fused, "pymatting": multi_level}


def widened(colour: np.ndarray, share: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The object with an edge blurred by `sigma` pixels: its true straight colour (H, W, 3) and share (H, W)."""
    if sigma == 0:
        return colour, share
    blurred = cv2.GaussianBlur(share, (0, 0), sigma)
    return cv2.GaussianBlur(colour * share[..., None], (0, 0), sigma) / np.maximum(blurred, 1e-3)[..., None], blurred


def measure(options: EdgesBenchmark, sigma: float) -> dict[str, dict[str, float]]:
    """Way -> mean error in levels, milliseconds a picture."""
    shards, rng = ShardSet(options.shards), np.random.default_rng(0)
    errors: dict[str, list[float]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number, index in enumerate(np.linspace(0, len(shards) - 1, options.objects).astype(int)):
        rgba = shards.picture(int(index), 0, 256).astype(np.float32)
        colour, share = widened(rgba[..., :3], rgba[..., 3] / 255, sigma)
        behind = TEXTURES[number % len(TEXTURES)](rng, 256).clip(0, 1) * 255
        alpha = (share * 255).round().astype(np.uint8)
        share = alpha[..., None] / 255
        seen = (share * colour + (1 - share) * behind).clip(0, 255).round().astype(np.uint8)
        edge = (alpha > 4) & (alpha < 251)
        for name, estimate in WAYS.items():
            start = time.process_time()
            found = estimate(seen, alpha).astype(np.float32)
            seconds[name].append(time.process_time() - start)
            errors[name].append(float(np.abs(share * (found - colour))[edge].mean()))
    return {
        name: {"error": float(np.mean(errors[name])), "milliseconds": 1000 * float(np.median(seconds[name]))}
        for name in WAYS
    }


def main() -> int:
    """The command."""
    options = command_line.parse(EdgesBenchmark, "Measure the colours of soft edges.")
    cv2.setNumThreads(1)
    tables = {"as rendered": measure(options, 0.0), "blurred by 2 px": measure(options, 2.0)}
    for edge, table in tables.items():
        for name, row in table.items():
            print(f"{edge:16s} {name:18s} {row['error']:6.2f} levels {row['milliseconds']:7.1f} ms a 256² picture")
    write_json(
        options.out,
        {
            "command": "python -m benchmarks.edges " + " ".join(sys.argv[1:]),
            "machine": {"cores": len(os.sched_getaffinity(0)), "system": platform.system()},
            "edges": tables,
        },
    )
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
