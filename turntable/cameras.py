"""Cameras: one convention, converted at the edge, in operators that take numpy arrays and torch tensors alike.

In memory and in shards a camera is
- `world_from_camera` (..., 3, 4): OpenGL and Blender axes, x right, y up, looking along -z; the world is right-handed, +z up;
- `intrinsics` (..., 4): (fx, fy, cx, cy) divided by (width, height, width, height); the centre of the top left pixel of a
  picture of `width` pixels lies at 0.5 / width, so the middle of the picture is (0.5, 0.5).

Picture coordinates `uv` run from (0, 0) at the top left corner to (1, 1) at the bottom right. Depth is planar: the
distance along the camera's -z axis, not along the ray.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any
"""A numpy array or a torch tensor; the result is of the argument's library, type and device."""

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
"""(3, 3): camera axes x right, y down, looking along +z (COLMAP, OpenCV) to ours."""


def _library(array: Array) -> Any:
    """numpy or torch, whichever made the array. torch is never imported here: whoever holds a tensor has done so."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _norm(vector: Array) -> Array:
    """(..., 3) -> (..., 1) Euclidean length."""
    return (vector * vector).sum(-1)[..., None] ** 0.5


def invert(b_from_a: Array) -> Array:
    """(..., 3, 4) rigid transform b_from_a -> (..., 3, 4) a_from_b."""
    rotation_ab = b_from_a[..., :3, :3].swapaxes(-1, -2)
    return _library(b_from_a).concatenate([rotation_ab, -rotation_ab @ b_from_a[..., :3, 3:]], -1)


def compose(c_from_b: Array, b_from_a: Array) -> Array:
    """(..., 3, 4) and (..., 3, 4) -> (..., 3, 4) c_from_a."""
    rotation = c_from_b[..., :3, :3] @ b_from_a[..., :3, :3]
    translation = c_from_b[..., :3, :3] @ b_from_a[..., :3, 3:] + c_from_b[..., :3, 3:]
    return _library(c_from_b).concatenate([rotation, translation], -1)


def transform(b_from_a: Array, points_a: Array) -> Array:
    """(3, 4) and (..., 3) points in frame a -> (..., 3) points in frame b."""
    return points_a @ b_from_a[:3, :3].swapaxes(-1, -2) + b_from_a[:3, 3]


def look_at(position: np.ndarray, target: np.ndarray | None = None, roll_deg: float = 0.0) -> np.ndarray:
    """world_from_camera (3, 4) of a camera at `position` looking at `target` (default: the origin), world +z up in the picture.

    Looking straight up or down, where +z gives no direction, world +y is up. `roll_deg` turns the camera counter-clockwise
    about its viewing axis.
    """
    position = np.asarray(position, dtype=np.float64)
    back = position - (np.zeros(3) if target is None else np.asarray(target, dtype=np.float64))
    distance = np.linalg.norm(back)
    if distance < 1e-9:
        raise ValueError(f"camera position and target coincide at {position.tolist()}; no viewing direction")
    back = back / distance
    up = np.array([0.0, 0.0, 1.0]) if np.hypot(back[0], back[1]) > 1e-6 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(back, right), back], axis=-1)
    angle = np.deg2rad(roll_deg)
    roll = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return np.concatenate([rotation @ roll, position[:, None]], axis=-1)


def spherical_position(azimuth_deg: float, elevation_deg: float, distance: float) -> np.ndarray:
    """(3,) world position. Azimuth 0 looks at the asset's -y side (Blender's front), growing counter-clockwise seen from +z."""
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    x, y = np.sin(azimuth), -np.cos(azimuth)
    return distance * np.array([x * np.cos(elevation), y * np.cos(elevation), np.sin(elevation)])


def elevation_deg(world_from_camera: np.ndarray) -> float:
    """Elevation of a camera's position above the world's xy plane, seen from the origin."""
    x, y, z = np.asarray(world_from_camera)[:3, 3]
    return float(np.rad2deg(np.arctan2(z, np.hypot(x, y))))


def intrinsics_from_fov(fov_deg: float, aspect: float = 1.0) -> np.ndarray:
    """(4,) normalised intrinsics for square pixels, centred. `fov_deg` is the horizontal field of view, aspect = width / height."""
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg must lie in (0, 180), got {fov_deg}")
    focal = 0.5 / np.tan(np.deg2rad(fov_deg) / 2)
    return np.array([focal, focal * aspect, 0.5, 0.5])


def pixel_intrinsics(intrinsics: Array, width: int, height: int) -> Array:
    """(..., 4) normalised -> (..., 4) in pixels, the convention of `transforms.json` (fl_x, fl_y, cx, cy)."""
    scale = np.array([width, height, width, height], dtype=np.float64)
    return intrinsics * (scale if _library(intrinsics) is np else intrinsics.new_tensor(scale))


def normalised_intrinsics(intrinsics_px: np.ndarray, width: int, height: int) -> np.ndarray:
    """(..., 4) in pixels (centre of the top left pixel at 0.5) -> (..., 4) normalised."""
    return np.asarray(intrinsics_px, dtype=np.float64) / np.array([width, height, width, height])


def world_from_opengl(matrix: Any) -> np.ndarray:
    """A 4×4 `transform_matrix` of `transforms.json` (NeRF convention: OpenGL axes) -> (3, 4) float64."""
    pose = np.asarray(matrix, dtype=np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValueError(f"transform_matrix must be a finite 4×4 with last row (0, 0, 0, 1), got {pose.tolist()}")
    return pose[:3]


def homogeneous(pose: np.ndarray) -> np.ndarray:
    """(3, 4) -> (4, 4) with last row (0, 0, 0, 1)."""
    return np.concatenate([pose, [[0.0, 0.0, 0.0, 1.0]]])


def pixel_centres(width: int, height: int) -> np.ndarray:
    """(height, width, 2) float64 uv of every pixel's centre."""
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.stack([u, v], axis=-1)


def camera_directions(uv: Array, intrinsics: Array) -> Array:
    """uv (..., 2), intrinsics (..., 4) broadcastable -> (..., 3) directions in the camera frame with z = -1."""
    x = (uv[..., 0] - intrinsics[..., 2]) / intrinsics[..., 0]
    y = -(uv[..., 1] - intrinsics[..., 3]) / intrinsics[..., 1]
    return _library(uv).stack([x, y, x * 0 - 1], -1)


def rays(uv: Array, world_from_camera: Array, intrinsics: Array) -> tuple[Array, Array]:
    """uv (..., R, 2), world_from_camera (..., 3, 4), intrinsics (..., 4) -> world origins and unit directions (..., R, 3)."""
    in_camera = camera_directions(uv, intrinsics[..., None, :])
    directions = in_camera @ world_from_camera[..., :3, :3].swapaxes(-1, -2)
    origins = world_from_camera[..., None, :3, 3] + directions * 0
    return origins, directions / _norm(directions)


def project(points_world: Array, world_from_camera: Array, intrinsics: Array) -> tuple[Array, Array]:
    """(N, 3) world points -> uv (N, 2) and planar depth (N,), negative behind the camera."""
    p_camera = transform(invert(world_from_camera), points_world)
    depth = -p_camera[..., 2]
    u = p_camera[..., 0] / depth * intrinsics[0] + intrinsics[2]
    v = -p_camera[..., 1] / depth * intrinsics[1] + intrinsics[3]
    return _library(points_world).stack([u, v], -1), depth


def backproject(uv: Array, depth: Array, world_from_camera: Array, intrinsics: Array) -> Array:
    """uv (..., 2) and planar depth (...) of one camera -> (..., 3) world points. The inverse of `project`."""
    return transform(world_from_camera, camera_directions(uv, intrinsics) * depth[..., None])


def canonical_from_world(world_from_camera: np.ndarray) -> np.ndarray:
    """(3, 4) rotation about the object's centre that takes the input camera's position to (0, -d, 0), its up along +z.

    d stays the camera's true distance. A camera that does not look at the centre keeps that offset in its canonical pose.
    """
    position = world_from_camera[:, 3]
    distance = np.linalg.norm(position)
    if distance < 1e-9:
        raise ValueError("the input camera sits at the object's centre; it has no canonical view")
    back = position / distance
    up = world_from_camera[:, 1] - back * (world_from_camera[:, 1] @ back)
    if np.linalg.norm(up) < 1e-6:
        raise ValueError("the input camera looks at right angles to the object's centre; it has no canonical view")
    up = up / np.linalg.norm(up)
    # Rows: canonical x, y, z axes in the world. Canonical -y points from the object to the camera.
    rotation = np.stack([np.cross(up, back), -back, up])
    return np.concatenate([rotation, np.zeros((3, 1))], axis=-1)
