"""Where an object stands in a world that is not its own: its centre and size by the outlines of its mattes.

Every edge of every outline rules out what lies beyond it; what is left is a convex body that holds the object, and holds it
the more tightly the more views there are. The object also touches every one of those edges, which says how far it reaches
at least; each side of its upright box is taken half way between. The box's centre becomes the origin, the body's farthest
corner is at distance 1: nothing of the object is outside the field's box. Up is an axis by convention; azimuths are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

from preprocess.colmap import Frame
from preprocess.poses import convex_hull, half_spaces, outline_coverage
from preprocess.squares import Outline
from turntable.geometry import sample_surface

UP_AXES: dict[str, np.ndarray] = {
    "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "-x": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "-y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "z": np.eye(3),
    "-z": np.diag([1.0, -1, -1]),
}
"""The world's axis that points up -> rotation (3, 3) to a world with +z up."""
MOST_UNCERTAIN = 0.3
"""Half the distance between where a side of the object is at least and at most, object units."""
SPOTS = 4000
"""Places on a body's surface at which it is looked at."""
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
    planes = [half_spaces(frame, shape) for frame, shape in views]
    edges = np.concatenate(planes)
    body = convex_hull(np.concatenate([walls, edges]))
    if body is None:
        raise ValueError("the mattes of its views have no place in common: cameras or mattes are wrong")
    if np.linalg.norm(body - positions.mean(axis=0), axis=1).max() > 10 * reach:
        raise ValueError("its views do not enclose it: the mattes leave open how far away it ends")
    coverage = float(np.median([outline_coverage(body, frame, shape) for frame, shape in views]))
    if coverage < LEAST_COVERAGE:
        raise ValueError(
            f"its views contradict one another: of an outline {coverage:.0%} remain when all have cut their part away"
        )
    axes = np.concatenate([UP_AXES[up], -UP_AXES[up]])
    pixels = [_pixel_at(frame, body.mean(axis=0)) for frame, _ in views]
    slack = np.repeat(pixels, [len(part) for part in planes])
    least, most = ends(body, edges, slack, axes)
    placed = (least + most) / 2
    centre = (placed[:3] - placed[3:]) / 2
    radius = float(np.linalg.norm(body @ UP_AXES[up].T - centre, axis=1).max())
    similarity = np.concatenate([UP_AXES[up], -centre[:, None]], axis=1) / radius
    uncertain = float((most - least).max() / 2 / radius)
    if uncertain > MOST_UNCERTAIN:
        raise ValueError(f"its views leave open by {uncertain:.0%} of its size where it ends")
    record = {"method": "mattes", "up": up, "object_from_world": similarity.tolist()}
    return Whereabouts(similarity, {**record, "coverage": round(coverage, 4), "uncertain": round(uncertain, 4)})


def _pixel_at(frame: Frame, point: np.ndarray) -> float:
    """How large a pixel of a frame is at a point's distance."""
    return float(np.linalg.norm(point - frame.world_from_camera[:, 3]) / frame.lens.focal)


def ends(
    body: np.ndarray, edges: np.ndarray, slack: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far, at least and at most, the object inside a body (N, 3) reaches in directions (D, 3); both (D,).

    At most as far as the body. The object touches every plane (K, 4) of an outline's edge, or comes as near as `slack` (K,),
    somewhere on that strip of the body: so it reaches at least as far as the nearest spot of the farthest such strip.
    """
    hull = ConvexHull(body)
    spots, _ = sample_surface(body, hull.simplices, SPOTS, np.random.default_rng(0))
    spots = np.concatenate([body, spots])
    along = spots @ directions.T
    most = along.max(axis=0)
    least = np.full(len(directions), -np.inf)
    for plane, near in zip(edges, slack, strict=True):
        strip = spots @ plane[:3] + plane[3] > -near
        if strip.any():
            least = np.maximum(least, along[strip].min(axis=0))
    return np.where(np.isfinite(least), np.minimum(least, most), most), most
