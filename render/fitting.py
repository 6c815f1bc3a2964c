"""Distance that fits the asset: a camera is moved along its own viewing axis until nothing of the asset is cut off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from render.rigs import Camera, Rig, settled

NEAREST = 0.05
"""Object units that everything keeps before the camera's plane, however it is fitted."""
BORDER_PX = 2.0
"""Pixels at every border that a fitted asset leaves free: the colour filter spreads it by less than one, the denoiser by one."""


def needed_retreat(camera: Camera, points: np.ndarray, margin: float) -> float:
    """Object units (negative: forwards) by which `camera` must go back for all `points` (N, 3) to lie within the picture less
    `margin` (share of its side) at every border; one of them then lies exactly there.

    Going back by s leaves a point's camera coordinates x and y as they are and adds s to its depth, so that each border
    is one linear bound on s: x fx ≤ (1 - margin - cx) (depth + s), and so on. It holds for points beside and behind
    the camera too, and the largest of all bounds is the answer.
    """
    fx, fy, cx, cy = camera.intrinsics
    room = np.array([1 - margin - cx, cx - margin, cy - margin, 1 - margin - cy])
    if room.min() <= 0:
        raise ValueError(f"margin {margin} must leave room around the principal point ({cx:.3f}, {cy:.3f})")
    right, left, up, down = 1 / room
    # In the camera's frame depth is -z: a bound is sideways × focal length / room + z.
    bounds = np.array([[fx * right, 0, 1], [-fx * left, 0, 1], [0, fy * up, 1], [0, -fy * down, 1], [0, 0, 1]])
    in_world = bounds @ camera.world_from_camera[:, :3].T
    # A bound at a time: a matrix of all of them would be several times the size of the asset.
    reach = np.array([float((points @ direction).max()) for direction in in_world])
    retreats = reach - in_world @ camera.world_from_camera[:, 3]
    retreats[-1] += NEAREST
    return float(retreats.max())


def refit(camera: Camera, points: np.ndarray, margin: float, shrink: bool = False) -> tuple[Camera, float]:
    """`camera` moved back along its viewing axis as little as keeps `points` (N, 3, object units) clear of the picture's borders
    by `margin`, and the factor by which its distance from the object's centre grew.

    A camera that has room to spare stays where it is (factor 1), unless `shrink` asks for it to come as near as it can.
    """
    retreat = needed_retreat(camera, points, margin)
    if not shrink:
        retreat = max(retreat, 0.0)
    if retreat == 0:
        return camera, 1.0
    pose = camera.world_from_camera.copy()
    distance = max(float(np.linalg.norm(pose[:, 3])), 1e-6)
    pose[:, 3] += retreat * pose[:, 2]
    return Camera(pose, camera.intrinsics), (distance + retreat) / distance


def fitted(rig: Rig, drawn: Sequence[Camera], points: np.ndarray, resolution: int) -> list[tuple[Camera, float]]:
    """Every camera as `rig.fit` says, and its factor, for pictures of `resolution` pixels a side."""
    rig = settled(rig)
    assert rig.fill
    if rig.fit == "off":
        return [(camera, 1.0) for camera in drawn]
    margin = max((1 - rig.fill) / 2, BORDER_PX / resolution)
    return [refit(camera, points, margin, rig.fit == "always") for camera in drawn]
