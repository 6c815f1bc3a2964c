"""Upscaling of pictures before they are stored.

    upscaler = upscale.find("realesrgan-x4plus", device="cuda")
    larger = upscaler(rgba)          # (H, W, 4), or (N, H, W, 4) for several views at once

An upscaler multiplies both sides by its whole `scale` and shifts nothing, so normalised intrinsics stay as they are.
"""

from __future__ import annotations

import importlib.metadata
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from preprocess import networks, tiles, weights
from turntable import download, files
from turntable.errors import UserError

FAINT = 32
"""Alpha below which a pixel's own colour counts less: it may be little more than rounding."""
MAX_SIDE = 16384
"""Pixels: a larger result is refused."""


class UpscaleError(UserError):
    """An upscaler that does not exist or cannot be had, or a picture that it cannot enlarge."""


class Upscaler(Protocol):
    """Enlarges pictures. May be called by several threads."""

    @property
    def scale(self) -> int:
        """Pixels of the result a pixel of the picture, along each side."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its result, for a shard's configuration: name, SHA-256 of the weights, versions. JSON values."""

    def __call__(self, rgba: np.ndarray) -> np.ndarray:
        """(H, W, 4) or (N, H, W, 4) uint8 straight alpha, sRGB -> (…, k·H, k·W, 4) of the same kind, k being `scale`."""


@dataclass(frozen=True)
class Unchanged:
    """`--upscale none`: pictures as they are."""

    scale: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """See `Upscaler`."""
        return {"name": "none"}

    def __call__(self, rgba: np.ndarray) -> np.ndarray:
        """The very picture."""
        return rgba


UPSCALERS = ("none", *weights.OFFICIAL)
"""Names for --upscale; a file of weights is the other way."""


class NetworkUpscaler:
    """Enlarges colour by a network, and alpha by a cubic filter."""

    def __init__(self, path: Path, name: str, device: str, tile: int, precision: tiles.Precision) -> None:
        network = networks.load(path)
        self._tiled = tiles.Tiled(network, device, precision, tile)
        self._sha256 = files.sha256(path)
        self._name = name
        self._lock = threading.Lock()

    @property
    def scale(self) -> int:
        """See `Upscaler`."""
        return self._tiled.network.scale

    @property
    def identity(self) -> dict[str, Any]:
        """See `Upscaler`."""
        return {
            "name": self._name,
            "sha256": self._sha256,
            "scale": self.scale,
            "precision": self._tiled.precision,
            "spandrel": importlib.metadata.version("spandrel"),
        }

    def __call__(self, rgba: np.ndarray) -> np.ndarray:
        """See `Upscaler`. The network runs for one caller at a time, and only where something is to be seen."""
        pictures = rgba if rgba.ndim == 4 else rgba[None]
        if rgba.ndim not in (3, 4) or rgba.shape[-1] != 4 or rgba.dtype != np.uint8 or 0 in rgba.shape:
            raise UpscaleError(f"pictures must be (H, W, 4) or (N, H, W, 4) uint8, got {rgba.shape} {rgba.dtype}")
        if max(pictures.shape[1:3]) * self.scale > MAX_SIDE:
            height, width = pictures.shape[1:3]
            raise UpscaleError(f"a picture of {width}×{height}, {self.scale} times as large, passes {MAX_SIDE} a side")
        larger = self._enlarged(pictures)
        return larger if rgba.ndim == 4 else larger[0]

    def _enlarged(self, pictures: np.ndarray) -> np.ndarray:
        count, height, width, _ = pictures.shape
        result = np.zeros((count, self.scale * height, self.scale * width, 4), np.uint8)
        seen = np.flatnonzero(pictures[..., 3].any(axis=(1, 2)))
        if len(seen):
            area = _visible(pictures[..., 3])
            colour = np.stack([bleed(picture) for picture in pictures[seen]])
            with self._lock:
                result[seen, ..., :3] = self._tiled(colour, area)
            for view in seen:
                result[view, ..., 3] = resize_alpha(pictures[view, ..., 3], self.scale)
            result[result[..., 3] == 0] = 0
        return result


def _visible(alpha: np.ndarray) -> tiles.Area:
    """The area, in pixels, in which any of (N, H, W) mattes is seen, and as much more as the cubic filter spreads it."""
    rows, columns = alpha.any(axis=(0, 2)).nonzero()[0], alpha.any(axis=(0, 1)).nonzero()[0]
    box = tiles.Area(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    return box.grown(2, 1, *alpha.shape[1:])


def bleed(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 straight alpha -> (H, W, 3) uint8: colour as it is, carried on smoothly where nothing is seen.

    A network mixes neighbouring pixels: what lies under transparent ones shows along the edge. Push-pull, Gortler et al. 1996,
    "The Lumigraph", section 3.4: averages over ever larger squares, of what is known in them, fill what is not known.
    """
    known = np.minimum(rgba[..., 3:].astype(np.float32) / FAINT, 1)
    return np.round(_pushed_and_pulled(rgba[..., :3].astype(np.float32), known)).clip(0, 255).astype(np.uint8)


def _pushed_and_pulled(colour: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, 3) colours and (H, W, 1) how far each is known, 0 … 1 -> (H, W, 3) colours, all known."""
    height, width = known.shape[:2]
    if known.min() >= 1 or max(height, width) == 1:
        return colour
    smaller = (width + 1) // 2, (height + 1) // 2
    weight = cv2.resize(known, smaller, interpolation=cv2.INTER_AREA)[..., None]
    mean = cv2.resize(colour * known, smaller, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)
    filled = _pushed_and_pulled(mean, np.minimum(4 * weight, 1))  # a square of four is known where one pixel of it is
    behind = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    return colour * known + behind * (1 - known)


def resize_alpha(alpha: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) uint8 -> (scale·H, scale·W) by the cubic filter with which `framing.resize` enlarges; centres stay where they are."""
    if scale == 1:
        return alpha
    larger = cv2.resize(alpha.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.round(larger).clip(0, 255).astype(np.uint8)


def check(name: str) -> None:
    """Raises `UpscaleError` for a name that `find` cannot know. Loads and downloads nothing."""
    if name in UPSCALERS:
        return
    path = Path(name)
    if path.suffix not in networks.SUFFIXES:
        there = ", ".join(UPSCALERS)
        raise UpscaleError(
            f"--upscale {name}: no such upscaler; there is {there}, or give a {' or '.join(networks.SUFFIXES)} file"
        )
    if not path.is_file():
        raise UpscaleError(f"--upscale {name}: no such file")


def find(name: str, device: str = "auto", tile: int = 0, precision: tiles.Precision = "auto") -> Upscaler:
    """The upscaler called `name`, or the one in a file of that name, ready for use. Raises `UserError`.

    `device` is `auto`, `cpu`, `cuda` or `cuda:1`. `tile` is the side, in pixels of the input and with the overlap, of the square
    that goes through the network at once; 0: as memory allows. `precision` `auto` is float16 on a GPU and float32 on the CPU.
    """
    check(name)
    if name == "none":
        return Unchanged()
    official = weights.OFFICIAL.get(name)
    path = weights.obtain(official, download.weights_folder()) if official else Path(name)
    return NetworkUpscaler(path, name if official else path.name, device, tile, precision)
