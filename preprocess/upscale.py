"""Upscaling of pictures before they are stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from turntable.errors import UserError


def _unchanged(rgba: np.ndarray) -> np.ndarray:
    return rgba


UPSCALERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": _unchanged}
"""Name for --upscale -> function from an RGBA picture to a larger one."""


def find(how: str) -> Callable[[np.ndarray], np.ndarray]:
    """The upscaler called `how`."""
    if how not in UPSCALERS:
        raise UserError(f"--upscale {how}: no such upscaler; there is {', '.join(sorted(UPSCALERS))}")
    return UPSCALERS[how]


def upscale(rgba: np.ndarray, how: str) -> np.ndarray:
    """(H, W, 4) uint8 straight alpha, sRGB -> (k·H, k·W, 4) of the same kind, k being the upscaler's own factor."""
    return find(how)(rgba)
