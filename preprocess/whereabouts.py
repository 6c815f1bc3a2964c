"""Where an object stands in a world that is not its own: its centre and size by the outlines of its mattes.

Every edge of every outline rules out what lies beyond it; what is left is a convex body that holds the object, and holds it
the more tightly the more views there are. Its upright box gives the centre, its farthest corner the unit: an object found so
is never larger than the field's box, and a little smaller than one whose surface was measured. A world has an up axis by
convention and keeps its azimuths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from preprocess.colmap import Frame
from preprocess.poses import convex_hull, half_spaces
from preprocess.squares import Outline
from turntable import cameras

UP_AXES: dict[str, np.ndarray] = {
    "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "-x": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "-y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "z": np.eye(3),
    "-z": np.diag([1.0, -1, -1]),
}
"""The world's axis that points up -> rotation (3, 3) to a world with +z up."""
LEAST_COVERAGE = 0.9
"""Median share of an outline that the body covers; below it, mattes and cameras contradict one another."""


@dataclass(frozen=True)
class Whereabouts:
    """The way from a world to object units."""

    object_from_world: np.ndarray
    """(3, 4) similarity."""
    record: dict[str, Any]
    """How it was found, JSON values."""


def find_object(views: Sequence[tuple[Frame, Outline]], up: str = "z") -> Whereabouts:
    """The object that frames and the outlines they saw have in common. Raises ValueError when there is none."""
    positions = np.stack([frame.world_from_camera[:, 3] for frame, _ in views])
    reach = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    if reach <= 0:
        raise ValueError(f"all {len(views)} cameras stand at one place, from where no size can be told")
    # Walls far outside all cameras, so that no body is open.
    outward = np.concatenate([np.eye(3), -np.eye(3)])
    walls = np.concatenate([outward, -(outward @ positions.mean(axis=0) + 20 * reach)[:, None]], axis=1)
    body = convex_hull(np.concatenate([walls, *(half_spaces(frame, shape) for frame, shape in views)]))
    if body is None:
        raise ValueError("the mattes of its views have no place in common: cameras or mattes are wrong")
    turned = body @ UP_AXES[up].T
    centre = (turned.min(axis=0) + turned.max(axis=0)) / 2
    radius = float(np.linalg.norm(turned - centre, axis=1).max())
    if radius > 10 * reach:
        raise ValueError("its views do not enclose it: the mattes leave open how far away it ends")
    coverage = float(np.median([covered(body, frame.world_from_camera, shape) for frame, shape in views]))
    if coverage < LEAST_COVERAGE:
        raise ValueError(
            f"its views contradict one another: of an outline {coverage:.0%} remain when all have cut their part away"
        )
    similarity = np.concatenate([UP_AXES[up], -centre[:, None]], axis=1) / radius
    record = {"method": "mattes", "up": up, "object_from_world": similarity.tolist(), "coverage": round(coverage, 4)}
    return Whereabouts(similarity, record)


def covered(body: np.ndarray, pose: np.ndarray, shape: Outline) -> float:
    """The share of an outline that a body (N, 3) covers as a camera sees it, in [0, 1]; 0 where the body reaches behind it."""
    x, y, z = (cameras.transform(cameras.invert(pose), body) @ cameras.OPENGL_FROM_OPENCV).T
    if (z <= 0).any():
        return 0.0
    seen = cv2.convexHull(np.stack([x / z, y / z], axis=1).astype(np.float32))
    return min(float(cv2.contourArea(seen) / cv2.contourArea(shape.slopes.astype(np.float32))), 1.0)
