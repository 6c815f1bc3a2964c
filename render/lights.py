"""Lights around an object, drawn from (seed, uid): several soft area lights and an even grey world.

Brightness is set where it is seen: a white matt sphere around the object, lit by all lights together, reaches a stated
linear value at its brightest point and keeps the world's share of it in every shadow. So white objects do not blow out and
no side is black, whatever the draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from render.rigs import stream
from turntable import cameras


@dataclass(frozen=True)
class Lighting:
    """The distribution that lights are drawn from."""

    lights: tuple[int, int] = (3, 5)
    """Fewest and most area lights."""
    light_distance: tuple[float, float] = (4.0, 7.0)
    """Object units from the object's centre."""
    light_size: tuple[float, float] = (1.5, 4.0)
    """Side of the square lights, object units: larger is softer."""
    white_level: float = 0.9
    """Linear value of a white matt surface where the light is strongest; 1 is the picture's white."""
    world_share: float = 0.4
    """Part of `white_level` that comes evenly from all directions; the rest comes from the lights."""

    def __post_init__(self) -> None:
        if not 1 <= self.lights[0] <= self.lights[1]:
            raise ValueError(f"lights must be (fewest, most) with at least one light, got {self.lights}")
        if not 0 < self.world_share <= 1:
            raise ValueError(f"world_share must lie in (0, 1], got {self.world_share}")
        if not 1.5 <= self.light_distance[0] <= self.light_distance[1]:
            raise ValueError(f"light_distance must be (near, far), at least 1.5, got {self.light_distance}")
        if not (0 < self.light_size[0] <= self.light_size[1] and self.white_level > 0):
            raise ValueError(f"light_size {self.light_size} and white_level {self.white_level} must be positive")


@dataclass(frozen=True)
class AreaLight:
    """One square light that faces the object's centre."""

    position: tuple[float, float, float]
    """World frame, object units."""
    size: float
    """Side, object units."""
    power: float
    """Blender's watts: what it emits over its lit side."""
    colour: tuple[float, float, float]
    """Linear RGB, brightest channel 1."""


@dataclass(frozen=True)
class Lights:
    """All light of one object; the same for all of its views."""

    world: float
    """Radiance from every direction, linear, grey."""
    areas: tuple[AreaLight, ...]

    def record(self) -> dict[str, Any]:
        """As JSON values, for the capture."""
        return {"world": self.world, "areas": [vars(light) for light in self.areas]}


def draw(lighting: Lighting, seed: int, uid: str) -> Lights:
    """The lights of one object."""
    rng = stream(seed, uid, "lights")
    count = int(rng.integers(lighting.lights[0], lighting.lights[1] + 1))
    # Spread around by golden-ratio steps from a random start, jittered: never all on one side.
    azimuth = 360 * ((rng.random() + np.arange(count) * 0.618034 + rng.uniform(-0.08, 0.08, count)) % 1)
    elevation = rng.uniform(-10, 75, count)
    distance = rng.uniform(*lighting.light_distance, count)
    size = rng.uniform(*lighting.light_size, count)
    strength = rng.uniform(0.25, 1, count)
    warmth = rng.uniform(-0.06, 0.06, count)
    positions = np.stack([cameras.spherical_position(*p) for p in zip(azimuth, elevation, distance, strict=True)])
    power = strength * distance**2
    scale = lighting.white_level * (1 - lighting.world_share) / brightest(positions, power)
    colours = np.stack([1 + np.minimum(warmth, 0), np.ones(count) - abs(warmth) / 2, 1 - np.maximum(warmth, 0)], axis=1)
    areas = tuple(
        AreaLight(tuple(p.tolist()), float(s), float(w * scale), tuple((c / c.max()).tolist()))
        for p, s, w, c in zip(positions, size, power, colours, strict=True)
    )
    return Lights(lighting.white_level * lighting.world_share, areas)


def brightest(positions: np.ndarray, power: np.ndarray, samples: int = 2000) -> float:
    """Largest radiance of a white matt unit sphere lit by small one-sided lights (N, 3) of `power` (N,) that face its centre.

    A light of power P has the radiant intensity P cos / π; a matt surface of irradiance E shows the radiance E / π.
    """
    index = np.arange(samples) + 0.5
    z, angle = 1 - 2 * index / samples, index * np.pi * (3 - 5**0.5)
    points = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)
    towards = positions[None] - points[:, None]
    length = np.linalg.norm(towards, axis=2)
    at_surface = np.maximum((towards * points[:, None]).sum(2) / length, 0)
    at_light = np.maximum((towards * positions[None]).sum(2) / length / np.linalg.norm(positions, axis=1), 0)
    return float((power * at_surface * at_light / length**2).sum(1).max() / np.pi**2)
