"""Cameras around an object, drawn from (seed, uid, view): the same on any worker, in any order, for any number of views."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from turntable import cameras

CLEARANCE = 1.015
"""The nearest camera keeps the unit sphere within 1 / CLEARANCE of the picture, so that no filter bleeds over the border."""


@dataclass(frozen=True)
class Shell:
    """Cameras in a spherical shell, looking at the object's centre. Object units: the bounding sphere has radius 1.

    The heights span the elevations of LRM's rig (height -0.75 … 1.60 at radius 1.5 … 3.0) at our mean distance; the distances
    are such that the bounding sphere is never cut off.
    """

    fov_deg: float = 50.0
    """Horizontal field of view, degrees."""
    distance: tuple[float, float] = (2.45, 3.0)
    """Nearest and farthest camera, object units from the centre."""
    height: tuple[float, float] = (-0.9, 1.95)
    """Lowest and highest camera above the object's centre, object units."""

    def __post_init__(self) -> None:
        if not 0 < self.fov_deg < 120:
            raise ValueError(f"fov_deg must lie in (0, 120), got {self.fov_deg}")
        nearest = CLEARANCE / np.sin(np.deg2rad(self.fov_deg / 2))
        near, far = self.distance
        if not nearest <= near <= far:
            raise ValueError(
                f"distance must be (near, far) with near at least {nearest:.3f}, or a field of view of {self.fov_deg}° cuts "
                f"the object off; got {self.distance}"
            )
        low, high = self.height
        if not -near < low <= high < near:
            raise ValueError(f"height must be (low, high) within ±{near}, the nearest distance; got {self.height}")


def stream(seed: int, uid: str, purpose: str) -> np.random.Generator:
    """The random stream that (seed, uid) has for one purpose; streams of other uids or purposes are independent."""
    key = hashlib.sha256(f"{purpose}\0{uid}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(key[:16], "<u4").tolist()])


def shell_camera(shell: Shell, seed: int, uid: str, view: int) -> np.ndarray:
    """world_from_camera (3, 4) of one view.

    A view alone is uniform over the shell's part of the sphere. The views of one object are a low-discrepancy sequence from
    a random start, so that a dozen of them already leave no side of the object unseen; the first is like the others.
    """
    # Roberts 2018, "The unreasonable effectiveness of quasirandom sequences": the R3 sequence.
    step = 1.2207440846057596 ** -np.arange(1.0, 4.0)
    azimuth, height, distance = (stream(seed, uid, "cameras").random(3) + view * step) % 1
    radius = shell.distance[0] + distance * (shell.distance[1] - shell.distance[0])
    z = shell.height[0] + height * (shell.height[1] - shell.height[0])
    position = cameras.spherical_position(360 * azimuth, np.rad2deg(np.arcsin(z / radius)), radius)
    return cameras.look_at(position)
