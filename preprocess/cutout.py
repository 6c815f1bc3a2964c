"""What every way of making mattes shares: its error, what a picture is, and cutting the object out along a soft edge."""

from __future__ import annotations

import cv2
import numpy as np

from turntable.errors import UserError

BLUR_SIDES = ((31, 1 / 8), (5, 1 / 50))
"""Sides of the two boxes over which colours are averaged: at least so many pixels, or so much of the picture's shorter side. The
first reaches across the wide edges that networks draw, the second is local. Chosen by `benchmarks/edges.py`."""


class MatteError(UserError):
    """A picture without a usable matte, or a way to make mattes that does not exist. `reason` is its short name.

    no-matte       the picture has no alpha channel, or one that says nothing; or the mask covers the whole picture
    no-subject     nothing in the picture stands out as the object
    missing-mask   there is no mask file for the picture
    bad-mask       the mask file cannot be read, or is not of the picture's shape
    no-model       the network's file is not there, is not what it should be, or does not load
    network-failed the network ended in an error on this picture (out of memory, most likely)
    no-device      the network cannot run where it was asked to
    unknown        no such way, or no such network
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_picture(picture: np.ndarray) -> None:
    """Raises MatteError for what is not (H, W, 3 or 4) uint8."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise MatteError("no-matte", f"a picture must be (H, W, 3 or 4) uint8, got {picture.shape} {picture.dtype}")


def cut_out(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 picture, (H, W) uint8 matte -> (H, W, 4) straight alpha, without the background's colour at soft edges.

    A pixel at the edge shows C = aF + (1 - a)B; kept as the object's colour F it would bring the old background along.
    Forte 2021, "Approximate fast foreground colour estimation" (blur fusion, twice): B and F are first guessed as averages
    weighted by the matte, then F takes up what the guess leaves unexplained. Fully transparent pixels become black.
    """
    share = alpha.astype(np.float32)[..., None] / 255
    seen = rgb[..., :3].astype(np.float32)
    front = back = seen
    for least, part in BLUR_SIDES:
        front, back = _fused(seen, front, back, share, max(int(part * min(alpha.shape)), least) | 1)
    colour = np.where(share == 1, seen, front.clip(0, 255)) * (share > 0)
    return np.concatenate([colour.round().astype(np.uint8), alpha[..., None]], axis=-1)


def _fused(
    seen: np.ndarray, front: np.ndarray, back: np.ndarray, share: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """One round of blur fusion: better colours of the object and of what is behind it, (H, W, 3) each."""
    weight = _box(share, side)
    front = _box(front * share, side) / (weight + 1e-5)
    back = _box(back * (1 - share), side) / (1 - weight + 1e-5)
    return front + share * (seen - share * front - (1 - share) * back), back


def _box(values: np.ndarray, side: int) -> np.ndarray:
    blurred = cv2.blur(values, (side, side))
    return blurred if blurred.ndim == 3 else blurred[..., None]
