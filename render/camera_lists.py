"""Lists of a user's own cameras (`--rig list --cameras FILE`): a JSON file of poses or directions, or a `transforms.json`.

A camera is 16 numbers: world_from_camera (3×4) row by row, then the normalised (fx, fy, cx, cy). An entry of the list is one of

    {"azimuth_deg": 30, "elevation_deg": 20, "distance": 2.6, "fov_deg": 50}        looks at the object's centre
    {"world_from_camera": [3 or 4 rows of 4], "fov_deg": 50}                        OpenGL axes, object units
    {"world_from_camera": …, "intrinsics": [fx, fy, cx, cy]}                        divided by width and height

`fov_deg` may be left out where the command gives it. Of a `transforms.json`, the frames and its own lens are taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from turntable import cameras
from turntable.errors import UserError
from turntable.files import read_json

MAX_CAMERAS = 10_000
FARTHEST = 1000.0
"""Object units; beyond it single precision no longer holds a picture of the object together."""
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


class CameraListError(UserError):
    """A list of cameras that cannot be used."""


def read(path: Path, fov_deg: float) -> tuple[tuple[float, ...], ...]:
    """The cameras in `path`, 16 numbers each. `fov_deg` is for entries that state no lens."""
    content = read_json(path)
    shared: dict[str, Any] = {}
    entries = content
    if isinstance(content, dict):
        shared, entries = content, content.get("frames", content.get("cameras"))
    if not isinstance(entries, list) or not entries:
        raise CameraListError(
            f"{path}: no cameras in it; a JSON list of cameras, or an object with a list named `frames`, was expected"
        )
    if len(entries) > MAX_CAMERAS:
        raise CameraListError(f"{path}: {len(entries)} cameras, more than {MAX_CAMERAS}; split the list")
    return tuple(_entry(path, index, entry, shared, fov_deg) for index, entry in enumerate(entries))


def _entry(path: Path, index: int, entry: Any, shared: dict[str, Any], fov_deg: float) -> tuple[float, ...]:
    try:
        if not isinstance(entry, dict):
            raise ValueError(f"an object was expected, found {entry!r:.60}")
        pose, lens = _pose(entry), _lens({**shared, **entry}, fov_deg)
    except ValueError as error:
        raise CameraListError(f"{path}, camera {index} (the first is 0): {error}") from error
    return (*pose.reshape(-1).tolist(), *lens.tolist())


def _pose(entry: dict[str, Any]) -> np.ndarray:
    """(3, 4) world_from_camera."""
    matrix = entry.get("world_from_camera", entry.get("transform_matrix"))
    if matrix is None:
        azimuth, elevation, distance = (_number(entry, k) for k in ("azimuth_deg", "elevation_deg", "distance"))
        if not 0 < distance <= FARTHEST:
            raise ValueError(f"distance must lie in (0, {FARTHEST:g}] object units, found {distance}")
        if abs(elevation) > 90:
            raise ValueError(f"elevation_deg must lie in [-90, 90], found {elevation}")
        return cameras.look_at(cameras.spherical_position(azimuth, elevation, distance))
    pose = _matrix(matrix)
    rotation = pose[:, :3]
    # 1e-3: matrices written with four decimals pass, a scaled or sheared one does not.
    if abs(rotation.T @ rotation - np.eye(3)).max() > 1e-3:
        raise ValueError("its left 3×3 part is no rotation (columns of length 1 at right angles); take out any scale")
    if np.linalg.det(rotation) < 0:
        raise ValueError("its left 3×3 part mirrors; OpenGL axes were expected (x right, y up, looking along -z)")
    if np.linalg.norm(pose[:, 3]) > FARTHEST:
        raise ValueError(f"it is {np.linalg.norm(pose[:, 3]):.4g} object units from the centre, at most {FARTHEST:g}")
    # Sheared a little by rounding, the nearest rotation is meant.
    left, _, right = np.linalg.svd(rotation)
    return np.concatenate([left @ right, pose[:, 3:]], axis=1)


def _matrix(matrix: Any) -> np.ndarray:
    """(3, 4) float64 of 3 or 4 rows of 4 numbers."""
    rows = matrix if isinstance(matrix, list) and all(isinstance(row, list) for row in matrix) else []
    if len(rows) not in (3, 4) or any(len(row) != 4 for row in rows):
        raise ValueError(f"its matrix must be 3 or 4 rows of 4 numbers, found {matrix!r:.80}")
    pose = np.array([[_finite("its matrix", value) for value in row] for row in rows])
    if len(pose) == 4 and not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValueError(f"its matrix's last row must be 0 0 0 1, found {pose[3].tolist()}")
    return pose[:3]


def _lens(entry: dict[str, Any], fov_deg: float) -> np.ndarray:
    """(4,) normalised intrinsics of an entry and what its file states for all."""
    bent = [name for name in _DISTORTION if entry.get(name)]
    if bent:
        raise ValueError(f"its lens distorts ({', '.join(bent)} are not 0); give a pinhole camera")
    if "intrinsics" in entry:
        values = entry["intrinsics"]
        if not isinstance(values, list) or len(values) != 4:
            raise ValueError(f"intrinsics must be [fx, fy, cx, cy] divided by width and height, found {values!r:.80}")
        lens = np.array([_finite("intrinsics", value) for value in values])
    elif "fl_x" in entry:
        lens = _lens_in_pixels(entry)
    elif "camera_angle_x" in entry:
        lens = cameras.intrinsics_from_fov(float(np.rad2deg(_number(entry, "camera_angle_x"))))
    else:
        lens = cameras.intrinsics_from_fov(_number(entry, "fov_deg") if "fov_deg" in entry else fov_deg)
    if not (lens[:2] > 0.01).all() or not (lens[:2] < 100).all():
        raise ValueError(
            f"focal lengths divided by the picture's size must lie in (0.01, 100), found {lens[:2].tolist()}"
        )
    if not (lens[2:] > 0).all() or not (lens[2:] < 1).all():
        raise ValueError(f"the principal point must lie in the picture, (0, 1) across, found {lens[2:].tolist()}")
    return lens


def _lens_in_pixels(entry: dict[str, Any]) -> np.ndarray:
    width, height = _number(entry, "w"), _number(entry, "h")
    if width <= 0 or height <= 0:
        raise ValueError(f"w and h must be positive, found {width}, {height}")
    focal = _number(entry, "fl_x")
    values = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2}
    pixels = [_number(entry, name) if name in entry else value for name, value in values.items()]
    return cameras.normalised_intrinsics(np.array(pixels), width, height)  # type: ignore[arg-type]


def _number(entry: dict[str, Any], name: str) -> float:
    if name not in entry:
        raise ValueError(f"{name} is missing; it has {sorted(entry)[:8]}")
    return _finite(name, entry[name])


def _finite(name: str, value: Any) -> float:
    # A JSON integer may be too large for any float; 1e300 is more than enough.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{name} must be a finite number, found {value!r:.40}")
    return float(value)
