"""How much neighbouring views of an object disagree: whether upscaling each by itself has given them details that contradict.

Two views disagree by the mean absolute difference of their colours at points of the surface that both see. Shading that depends
on the direction (gloss) makes that more than 0 in the best of pictures; what counts is whether it grows. Points are centres of one
view's pixels, brought to the other by depth and cameras, so that nothing is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from turntable import cameras

POINTS = 4000
"""At most so many points a pair of views."""
TOLERANCE = 0.005
"""Share of the depth within which two depths are of the same point."""


@dataclass(frozen=True)
class Pair:
    """What two views both see."""

    first: int
    second: int
    uv_first: np.ndarray
    """(N, 2) float64, 0 … 1."""
    uv_second: np.ndarray
    """(N, 2) the same points in the other view."""


def pairs(world_from_camera: np.ndarray, intrinsics: np.ndarray, depths: Sequence[np.ndarray]) -> list[Pair]:
    """Each view with the one nearest to it, by (V, 3, 4) poses, (V, 4) intrinsics and V planar depths (H, W), 0 = nothing hit.

    Depths are in object units. Pairs that share no point are left out.
    """
    found = []
    for first, second in neighbours(world_from_camera):
        poses, lenses = world_from_camera[[first, second]], intrinsics[[first, second]]
        uv = _shared(depths[first], depths[second], poses, lenses)
        if len(uv[0]):
            found.append(Pair(first, second, *uv))
    return found


def neighbours(world_from_camera: np.ndarray) -> list[tuple[int, int]]:
    """Each of (V, 3, 4) views with the one whose direction from the object's centre is nearest to its own; no pair twice."""
    directions = world_from_camera[:, :, 3] / np.linalg.norm(world_from_camera[:, :, 3], axis=1, keepdims=True)
    likeness = directions @ directions.T
    np.fill_diagonal(likeness, -np.inf)
    if len(likeness) < 2:
        return []
    return sorted({(min(view, int(near)), max(view, int(near))) for view, near in enumerate(likeness.argmax(axis=1))})


def _shared(
    depth_a: np.ndarray, depth_b: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the surface inside both silhouettes, as uv (N, 2) in either."""
    height, width = depth_a.shape
    nearest, farthest = _around(depth_a)
    # Three pixels of a surface that is tilted by less than 60° or so; across a silhouette depth jumps.
    inside = np.flatnonzero((nearest > 0) & (farthest - nearest < 4 * farthest / (intrinsics[0, 0] * width)))
    inside = inside[:: max(-(-len(inside) // POINTS), 1)]
    uv_a = cameras.pixel_centres(width, height).reshape(-1, 2)[inside]
    points = cameras.backproject(uv_a, depth_a.reshape(-1)[inside].astype(float), world_from_camera[0], intrinsics[0])
    uv_b, depth = cameras.project(points, world_from_camera[1], intrinsics[1])
    in_picture = ((uv_b >= 0) & (uv_b < 1)).all(axis=1) & (depth > 0)
    height, width = depth_b.shape
    column, row = (np.where(in_picture[:, None], uv_b, 0) * [width, height]).astype(int).T
    nearest, farthest = (values[row, column] for values in _around(depth_b))
    same = (depth > nearest * (1 - TOLERANCE)) & (depth < farthest * (1 + TOLERANCE))
    seen = in_picture & (nearest > 0) & same
    return uv_a[seen], uv_b[seen]


def _around(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) -> the least and the greatest of each pixel and its eight neighbours; the least is 0 where one hits nothing."""
    square = np.ones((3, 3), np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return cv2.erode(depth, square, **border), cv2.dilate(depth, square)  # type: ignore[call-overload]


def sample(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(H, W, ≥ 3) uint8 and uv (N, 2) -> (N, 3) float32 colours, linear between pixels' centres."""
    height, width = picture.shape[:2]
    places = (uv * [width, height] - 0.5).astype(np.float32)
    colours = picture[..., :3].astype(np.float32)
    return cv2.remap(colours, places[:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]  # type: ignore[call-overload]


class Disagreement:
    """Takes an object's pictures one after the other, in any order and at any size, and keeps only what it needs of them."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs
        self._colours: dict[tuple[int, int], np.ndarray] = {}

    def see(self, view: int, picture: np.ndarray) -> None:
        """(H, W, 4) uint8, straight alpha: what `view` shows."""
        for number, pair in enumerate(self._pairs):
            for which, uv in ((pair.first, pair.uv_first), (pair.second, pair.uv_second)):
                if which == view:
                    self._colours[number, view] = sample(picture, uv)

    def mean(self) -> float:
        """Mean absolute difference over all points, pairs and channels, 0 … 1 of sRGB."""
        differences = [
            np.abs(self._colours[number, pair.first] - self._colours[number, pair.second])
            for number, pair in enumerate(self._pairs)
        ]
        return float(np.concatenate(differences).mean() / 255)


class Comparison:
    """The disagreement of an object's views before and after something was done to each of them."""

    def __init__(
        self, world_from_camera: np.ndarray, intrinsics: np.ndarray, depths: Sequence[np.ndarray] | None
    ) -> None:
        self._pairs = pairs(world_from_camera, intrinsics, depths) if depths is not None else []
        self._reason = "no two views see the same points" if depths is not None else "no depth"
        self._before, self._after = Disagreement(self._pairs), Disagreement(self._pairs)

    def see(self, view: int, before: np.ndarray, after: np.ndarray) -> None:
        """One view's picture (H, W, 4) uint8 and what became of it (k·H, k·W, 4)."""
        self._before.see(view, before)
        self._after.see(view, after)

    def figures(self) -> dict[str, Any]:
        """JSON values: `before`, `after`, and how many pairs and points they are means of; or null, and why."""
        if not self._pairs:
            return {"before": None, "after": None, "reason": self._reason}
        points = sum(len(pair.uv_first) for pair in self._pairs)
        means = {"before": round(self._before.mean(), 6), "after": round(self._after.mean(), 6)}
        return {**means, "pairs": len(self._pairs), "points": points}
