"""Where a field lies whose network supposes one camera for every picture, when the picture's true camera is known.

Such a network (TripoSR, OpenLRM as it is used) answers in a frame of its own: origin on the ray through the picture's middle,
and of such a size that the supposed camera sees the picture. The true camera sees the same picture when the field is turned
onto its own middle ray, put where the object is, and scaled until it appears as large. What is left is the
difference of perspective between the two distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from turntable import cameras
from turntable.errors import UserError


@dataclass(frozen=True)
class SupposedCamera:
    """A camera at (0, -distance, 0) that looks along +y, its up along +z."""

    distance: float
    """In the field's units."""
    focal: float
    """In picture sides."""

    @property
    def pose(self) -> np.ndarray:
        """(3, 4) field_from_camera."""
        return cameras.look_at(np.array([0.0, -self.distance, 0.0]))

    @property
    def intrinsics(self) -> np.ndarray:
        """(4,) normalised."""
        return np.array([self.focal, self.focal, 0.5, 0.5])


def supposed_camera(extra: dict[str, Any]) -> SupposedCamera:
    """What a checkpoint's `extra` supposes of a picture of which nothing is known."""
    values = []
    for name in ("camera_distance", "camera_focal"):
        try:
            values.append(float(extra[name]))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"the checkpoint does not say its typical {name}; give both --fov and --distance of the picture"
            ) from None
    return SupposedCamera(*values)


def object_from_field(object_from_camera: np.ndarray, intrinsics: np.ndarray, supposed: SupposedCamera) -> np.ndarray:
    """(3, 4) similarity (its left part is a scale times a rotation) from the field's frame to the object's.

    object_from_camera (3, 4) and intrinsics (4,) are the true ones of the framed picture; the object's centre is at 0.
    """
    turn, position = object_from_camera[:, :3], object_from_camera[:, 3]
    middle = turn @ cameras.camera_directions(np.array([0.5, 0.5]), np.asarray(intrinsics, np.float64))
    middle = middle / np.linalg.norm(middle)
    up = turn[:, 1] - middle * (turn[:, 1] @ middle)
    up = up / np.linalg.norm(up)
    along = -position @ middle
    # Sizes in a picture go with the depth along the camera's axis, not along the ray.
    depth = along * -(middle @ turn[:, 2])
    scale = supposed.focal / supposed.distance * depth / np.sqrt(intrinsics[0] * intrinsics[1])
    rotation = np.stack([np.cross(middle, up), middle, up], axis=-1)
    return np.concatenate([scale * rotation, (position + middle * along)[:, None]], axis=-1)


def camera_in_field(object_from_camera: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """(3, 4) pose in the object's frame -> in the field's, which `similarity` (3, 4) takes to the object's."""
    scale = np.cbrt(np.linalg.det(similarity[:, :3]))
    rotation = similarity[:, :3] / scale
    turned = rotation.T @ object_from_camera[:, :3]
    return np.concatenate([turned, rotation.T @ (object_from_camera[:, 3:] - similarity[:, 3:]) / scale], axis=-1)
