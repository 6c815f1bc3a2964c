"""Framing a picture around its matte: one square, the same for training samples and for the photo given to the model.

Pictures are (H, W, 4) uint8, straight alpha, sRGB. Filters run on premultiplied colour, so no fringe comes from colour
under transparent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

DEFAULT_FILL = 0.85
"""Share of the square's side that the matte's longer side fills."""

MARGIN_FILL = 2 / 3
"""The same share in stored squares of video frames: half the object's size again, so that a frame of `DEFAULT_FILL` fits in."""
LEAST_ALPHA = 8
"""Of 255: fainter pixels are no part of the object."""


@dataclass(frozen=True)
class Square:
    """A square region of a picture, in whole pixels of that picture; it may reach beyond the picture's border."""

    left: int
    top: int
    side: int


def matte_box(alpha: np.ndarray, threshold: int = LEAST_ALPHA) -> tuple[float, float, float, float] | None:
    """(H, W) uint8 matte -> (x0, y0, x1, y1) in [0, 1] of the picture's width and height, or None without any object."""
    columns = np.flatnonzero((alpha >= threshold).any(axis=0))
    rows = np.flatnonzero((alpha >= threshold).any(axis=1))
    if len(columns) == 0:
        return None
    height, width = alpha.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def square_around(
    box: tuple[float, float, float, float] | np.ndarray, width: int, height: int, fill: float = DEFAULT_FILL
) -> Square:
    """The square centred on a matte box (normalised, as `matte_box` gives it) in which its longer side fills `fill`."""
    if not 0 < fill <= 1:
        raise ValueError(f"fill must lie in (0, 1], got {fill}")
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64) * [width, height, width, height]
    side = max(int(round(max(x1 - x0, y1 - y0) / fill)), 1)
    return Square(int(round((x0 + x1 - side) / 2)), int(round((y0 + y1 - side) / 2)), side)


def margin_square(
    box: tuple[float, float, float, float] | np.ndarray, width: int, height: int, least: int = 1
) -> Square:
    """The square in which a frame of a video is stored: `MARGIN_FILL` of it is matte, or less, so that it has `least` pixels."""
    square = square_around(box, width, height, MARGIN_FILL)
    more = max(least - square.side, 0)
    return Square(square.left - more // 2, square.top - more // 2, square.side + more)


def frame_intrinsics(intrinsics: np.ndarray, square: Square, width: int, height: int) -> np.ndarray:
    """(4,) normalised intrinsics of a picture -> those of the square cut from it. Exact; size does not matter."""
    fx, fy, cx, cy = np.asarray(intrinsics, dtype=np.float64) * [width, height, width, height]
    return np.array([fx, fy, cx - square.left, cy - square.top]) / square.side


def cut(rgba: np.ndarray, square: Square) -> np.ndarray:
    """(H, W, 4) -> (side, side, 4); what lies beyond the picture is transparent black."""
    height, width = rgba.shape[:2]
    result = np.zeros((square.side, square.side, rgba.shape[2]), dtype=rgba.dtype)
    x0, y0 = max(square.left, 0), max(square.top, 0)
    x1, y1 = min(square.left + square.side, width), min(square.top + square.side, height)
    if x1 > x0 and y1 > y0:
        result[y0 - square.top : y1 - square.top, x0 - square.left : x1 - square.left] = rgba[y0:y1, x0:x1]
    return result


def resize(rgba: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 4) uint8 straight alpha -> (height, width, 4): area filter when shrinking, cubic when growing, premultiplied."""
    if rgba.shape[:2] == (height, width):
        return rgba
    colour: np.ndarray = rgba.astype(np.float32)
    colour[..., :3] *= colour[..., 3:] / 255
    shrinks = width < rgba.shape[1] or height < rgba.shape[0]
    colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    # The cubic filter overshoots alpha and premultiplied colour alike: their ratio stays right only before clipping.
    alpha = colour[..., 3:]
    straight = np.where(alpha > 0.5, colour[..., :3] * (255 / np.maximum(alpha, 0.5)), 0)
    return np.concatenate([straight, alpha], axis=-1).clip(0, 255).round().astype(np.uint8)


def frame(
    rgba: np.ndarray, intrinsics: np.ndarray, size: int, fill: float = DEFAULT_FILL
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its intrinsics -> (size, size, 4) picture framed around its matte, and the framed intrinsics.

    Raises ValueError when the matte is empty.
    """
    box = matte_box(rgba[..., 3])
    if box is None:
        raise ValueError("the matte is empty; there is nothing to frame")
    height, width = rgba.shape[:2]
    square = square_around(box, width, height, fill)
    return resize(cut(rgba, square), size, size), frame_intrinsics(intrinsics, square, width, height)


def has_matte(rgba: np.ndarray) -> bool:
    """Whether an alpha channel says anything: one that is opaque everywhere is not a matte."""
    return rgba.ndim == 3 and rgba.shape[2] == 4 and bool((rgba[..., 3] < 255).any())


def on_background(rgba: np.ndarray, colour: float = 1.0) -> np.ndarray:
    """(H, W, 4) uint8 straight alpha -> (H, W, 3) float32 in [0, 1] over a grey `colour`. Porter & Duff 1984, "over"."""
    # A plane at a time: numpy is ten times as slow over a last axis of three.
    *planes, alpha = (plane.astype(np.float32) / 255 for plane in cv2.split(np.ascontiguousarray(rgba)))
    behind = colour * (1 - alpha)
    return cv2.merge([plane * alpha + behind for plane in planes])
