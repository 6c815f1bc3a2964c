"""Frames as they were taken become object-centred squares of an ideal pinhole's picture, in one resampling.

The ideal picture has its lens's principal point and (mean) focal length and no distortion; the camera's pose stays. A stored pixel
is the mean of its own area: so many rays through it as the frame has pixels there, each looked up in the frame between the
four nearest pixels. So nothing aliases, and nothing is interpolated twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.colmap import Lens
from preprocess.cutout import cut_out
from turntable import cameras, framing
from turntable.framing import Square

MATTE_THRESHOLD = 128
"""Values of a mask from here on are object where a yes or no is needed."""


@dataclass(frozen=True)
class Cut:
    """A square of a frame's ideal picture, stored at `size` pixels."""

    lens: Lens
    square: Square
    """In whole pixels of the ideal picture; may reach beyond what the frame shows."""
    size: int
    """Pixels a side."""

    @property
    def intrinsics(self) -> np.ndarray:
        """(4,) of the square, normalised. Exact."""
        lens = self.lens
        pixels = np.array([lens.focal, lens.focal, *lens.principal_point])
        whole = cameras.normalised_intrinsics(pixels, lens.width, lens.height)
        return framing.frame_intrinsics(whole, self.square, lens.width, lens.height)

    def frame_pixels(self, uv: np.ndarray) -> np.ndarray:
        """(N, 2) places in the square, 0 … 1 -> (N, 2) pixels of the distorted frame; nan where the lens shows nothing."""
        ideal = uv * self.square.side + [self.square.left, self.square.top]
        slopes = (ideal - self.lens.principal_point) / self.lens.focal
        pixels = self.lens.pixels(slopes)
        # Beyond the frame a polynomial of distortion may turn back and show the frame a second time.
        reach = 1.05 * np.linalg.norm(self.lens.slopes(self.lens.border()), axis=1).max()
        return np.where(np.linalg.norm(slopes, axis=1)[:, None] <= reach, pixels, np.nan)

    def resample(self, picture: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, float]:
        """The square, (size, size, 4) uint8 straight alpha, and the share of it that the frame shows.

        picture: (height, width, 3) uint8 as the lens took it; matte: (h, w) uint8 of the same frame at whatever size.
        What the frame does not show is transparent.
        """
        x, y = self._sample_places()
        shown = (x >= 0) & (x < self.lens.width) & (y >= 0) & (y < self.lens.height)
        colour = self._means(_look_up(picture, self.lens, x, y))
        alpha = self._means(_look_up(matte, self.lens, x, y) * shown)
        return cut_out(colour, alpha), float(shown.mean())

    def means(self, picture: np.ndarray) -> np.ndarray:
        """What `resample` does with colour: (h, w, C) of the frame at whatever size, uint8 or float32 -> (size, size, C)."""
        return self._means(_look_up(picture, self.lens, *self._sample_places()))

    def _means(self, samples: np.ndarray) -> np.ndarray:
        """The rays' values (size·n, size·n, …) -> (size, size, …), the mean of each pixel's."""
        return cv2.resize(samples, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def _sample_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the n² rays of every stored pixel meet the frame: x and y, (size·n, size·n) float32 pixels."""
        count = self.size * max(-(-self.square.side // self.size), 1)
        # A lens bends so little within four samples that every fourth is enough: 0.002 px for a fisheye.
        step = next(step for step in (4, 2, 1) if count % step == 0)
        nodes = (np.arange(-1, count // step + 1) + 0.5) * step / count
        uv = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
        places = np.nan_to_num(self.frame_pixels(uv), nan=-1e6).astype(np.float32).reshape(len(nodes), len(nodes), 2)
        fine = cv2.resize(places, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
        fine = fine[step : step + count, step : step + count]
        return fine[..., 0], fine[..., 1]


def _look_up(picture: np.ndarray, lens: Lens, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A picture of the whole frame, at whatever size, at (x, y) pixels of the frame, centres at 0.5. Bilinear.

    OpenCV counts from the first pixel's centre; it places a sample to 1/32 of a pixel.
    """
    across, down = picture.shape[1] / lens.width, picture.shape[0] / lens.height
    half = np.float32(0.5)
    columns, rows = x * np.float32(across) - half, y * np.float32(down) - half
    return cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Outline:
    """The convex outline of a frame's object, undistorted."""

    slopes: np.ndarray
    """(K, 2) x/z, y/z of its corners, once around, OpenCV axes."""
    at_border: np.ndarray
    """(K,) bool: the edge from a corner to the next runs along the frame's border, which cut the object off."""

    @property
    def cut_off(self) -> bool:
        """Whether the frame's border cuts the object off along more than a fiftieth of its length."""
        edges = np.linalg.norm(np.roll(self.slopes, -1, axis=0) - self.slopes, axis=1)
        return bool(edges[self.at_border].sum() > 0.02 * np.ptp(self.slopes, axis=0).max())


def outline(matte: np.ndarray, lens: Lens) -> Outline | None:
    """The outline of a matte (h, w) uint8 of a frame of this lens; None where it is empty or no more than a few pixels."""
    solid = matte >= MATTE_THRESHOLD
    rows = np.flatnonzero(solid.any(axis=1))
    if len(rows) < 3 or solid.any(axis=0).sum() < 3:
        return None
    first = solid[rows].argmax(axis=1)
    last = solid.shape[1] - solid[rows, ::-1].argmax(axis=1)
    corners = [(side, row) for side in (first, last) for row in (rows, rows + 1)]
    pixels = np.concatenate([np.stack(corner, axis=1) for corner in corners]).astype(np.float64)
    height, width = solid.shape
    near_border = ((pixels <= 1) | (pixels >= np.array([width, height]) - 1)).any(axis=1)
    slopes = lens.slopes(pixels * [lens.width / width, lens.height / height])
    if not np.isfinite(slopes).all():
        return None
    around = cv2.convexHull(slopes.astype(np.float32), returnPoints=False)[:, 0]
    ends = near_border[around]
    return Outline(slopes[around], ends & np.roll(ends, -1))


def square_of(shape: Outline, lens: Lens, least: int = 1) -> Square:
    """The square with its margin around an object's outline, in pixels of the ideal picture, no smaller than `least`."""
    ideal = shape.slopes * lens.focal + lens.principal_point
    low, high = ideal.min(axis=0), ideal.max(axis=0)
    box = np.concatenate([low, high]) / [lens.width, lens.height, lens.width, lens.height]
    return framing.margin_square(box, lens.width, lens.height, least)
