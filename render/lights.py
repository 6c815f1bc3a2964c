"""Lights around an object, drawn from (seed, uid): a studio of soft area lights, sun and sky, a photographed surrounding, or white.

Brightness is set where it is seen: a white matt sphere around the object shows a stated linear value at its brightest point
(see `render.brightness`). `render.lamps` puts what is drawn here into Blender's scene.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from render import hdri
from render.brightness import KELVIN_RANGE, kelvin_rgb, sphere_points, under_areas
from render.rigs import stream
from turntable import cameras


@dataclass(frozen=True)
class Lighting:
    """The distribution that lights are drawn from."""

    light: Literal["studio", "sun", "hdri", "white"] = "studio"
    """studio: area lights in an even grey world. sun: sun, sky and ground. hdri: pictures of surroundings, see --hdri. white:
    the same light from everywhere."""
    light_per_view: bool = False
    """Whether every view has lights of its own; else all views of an asset have the same."""
    white_level: float = 0.9
    """Linear value of a white matt surface where the light is strongest; 1 is the picture's white."""
    world_share: float = 0.4
    """Part of `white_level` that comes from all around: in the studio evenly, outdoors from sky and ground where they are
    brightest. The rest comes from the lights, or from the sun."""
    lights: tuple[int, int] = (3, 5)
    """Fewest and most area lights of the studio."""
    light_distance: tuple[float, float] = (4.0, 7.0)
    """Of the studio's lights, object units from the object's centre."""
    light_size: tuple[float, float] = (1.5, 4.0)
    """Side of the studio's square lights, object units: larger is softer."""
    light_intensity: tuple[float, float] = (0.25, 1.0)
    """Weakest and strongest light of the studio, relative to one another."""
    light_kelvin: tuple[float, float] = (5500.0, 7500.0)
    """Colour temperature of the studio's lights, kelvin; 6500 is the picture's white, less is warmer."""
    sun_elevation_deg: tuple[float, float] = (15.0, 70.0)
    """Lowest and highest sun, degrees."""
    sun_size_deg: tuple[float, float] = (0.5, 4.0)
    """Angle across the sun, degrees: larger is softer."""
    sun_kelvin: tuple[float, float] = (4500.0, 6000.0)
    """Colour temperature of the sun, kelvin."""
    sky_air: tuple[float, float] = (0.7, 2.0)
    """Density of air, 1 = clear day; more is yellower."""
    sky_dust: tuple[float, float] = (0.3, 4.0)
    """Density of dust, 1 = clear day; more is hazier."""
    ground: tuple[float, float] = (0.2, 0.5)
    """Share of light that the ground below sun and sky gives back."""
    hdri: Path | None = None
    """Folder of surroundings for --light hdri: .hdr and .exr, equirectangular (twice as wide as high), chosen and turned at
    random."""
    hdris: Annotated[tuple[tuple[str, str, float], ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """What --hdri holds: file name, SHA-256, brightness (see `hdri.Surrounding`); see `settled`."""

    def __post_init__(self) -> None:
        if not 1 <= self.lights[0] <= self.lights[1]:
            raise ValueError(f"lights must be (fewest, most) with at least one light, got {self.lights}")
        if not 0 < self.world_share <= 1 or not self.white_level > 0:
            raise ValueError(
                f"world_share must lie in (0, 1], white_level must be positive, got {self.world_share}, {self.white_level}"
            )
        for name, (low, high) in RANGES.items():
            ends = getattr(self, name)
            if not low <= ends[0] <= ends[1] <= high:
                raise ValueError(f"{name} must be (least, most) within [{low:g}, {high:g}], got {ends}")
        if (self.light == "hdri") != bool(self.hdri):
            raise ValueError("--light hdri and --hdri FOLDER must be given together")


RANGES: dict[str, tuple[float, float]] = {
    "light_distance": (1.5, 1000),
    "light_size": (1e-3, 1000),
    "light_intensity": (1e-3, 1e3),
    "light_kelvin": KELVIN_RANGE,
    "sun_elevation_deg": (1, 90),
    "sun_size_deg": (0.01, 90),
    "sun_kelvin": KELVIN_RANGE,
    "sky_air": (0, 10),
    "sky_dust": (0, 10),
    "ground": (0, 1),
}
"""Field -> what it may be; the sky's are Blender's own."""


def settled(lighting: Lighting) -> Lighting:
    """`lighting` with the folder of surroundings read: all that decides its lights. Workers need the folder's files alone."""
    if not lighting.hdri or lighting.hdris:
        return lighting
    found = tuple((s.file, s.sha256, s.brightest) for s in hdri.listing(lighting.hdri))
    return dataclasses.replace(lighting, hdri=lighting.hdri.expanduser().absolute(), hdris=found)


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
    kelvin: float = 6504.0
    """The colour's temperature."""


@dataclass(frozen=True)
class Sky:
    """Sun, sky and ground. `render.lamps` finds their strengths, since only Blender knows its sky."""

    sun_azimuth_deg: float
    """As a camera's: 0 is the asset's front."""
    sun_elevation_deg: float
    sun_size_deg: float
    sun_kelvin: float
    sun_colour: tuple[float, float, float]
    """Linear RGB, brightest channel 1."""
    air: float
    dust: float
    ground: float
    """Albedo."""
    level: float
    """Linear value that the brightest point of a white matt sphere is to show."""
    share: float
    """Part of `level` that sky and ground give where they are brightest."""


@dataclass(frozen=True)
class Surroundings:
    """A picture of a surrounding, turned about the world's +z."""

    folder: str
    file: str
    sha256: str
    rotation_deg: float
    """Counter-clockwise seen from above."""
    strength: float
    """Factor of the picture's radiance."""


@dataclass(frozen=True)
class Lights:
    """All light of one object, or of one of its views."""

    world: float
    """Radiance from every direction, linear, grey; 0 where a sky or a picture takes its place."""
    areas: tuple[AreaLight, ...] = ()
    sky: Sky | None = None
    surroundings: Surroundings | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values, for the capture."""
        record: dict[str, Any] = {"world": self.world, "areas": [vars(light) for light in self.areas]}
        if self.sky:
            record["sky"] = vars(self.sky)
        if self.surroundings:
            record["hdri"] = {k: v for k, v in vars(self.surroundings).items() if k != "folder"}
        return record


def draw(lighting: Lighting, seed: int, uid: str, view: int | None = None) -> Lights:
    """The lights of one object, or of one of its views."""
    rng = stream(seed, uid, "lights" if view is None else f"lights {view}")
    if lighting.light == "white":
        return Lights(lighting.white_level)
    if lighting.light == "sun":
        return Lights(0.0, sky=_draw_sky(lighting, rng))
    if lighting.light == "hdri":
        return Lights(0.0, surroundings=_draw_surroundings(settled(lighting), rng))
    return Lights(lighting.white_level * lighting.world_share, _draw_areas(lighting, rng))


def _draw_areas(lighting: Lighting, rng: np.random.Generator) -> tuple[AreaLight, ...]:
    count = int(rng.integers(lighting.lights[0], lighting.lights[1] + 1))
    # Spread around by golden-ratio steps from a random start, jittered: never all on one side.
    azimuth = 360 * ((rng.random() + np.arange(count) * 0.618034 + rng.uniform(-0.08, 0.08, count)) % 1)
    elevation = rng.uniform(-10, 75, count)
    distance = rng.uniform(*lighting.light_distance, count)
    size = rng.uniform(*lighting.light_size, count)
    strength = rng.uniform(*lighting.light_intensity, count)
    kelvin = rng.uniform(*lighting.light_kelvin, count)
    positions = np.stack([cameras.spherical_position(*p) for p in zip(azimuth, elevation, distance, strict=True)])
    power, colours = strength * distance**2, np.array([kelvin_rgb(k) for k in kelvin])
    seen = under_areas(positions, size, sphere_points()) * power @ colours
    power *= lighting.white_level * (1 - lighting.world_share) / seen.max()
    return tuple(
        AreaLight(tuple(p.tolist()), float(s), float(w), tuple(c.tolist()), float(k))
        for p, s, w, c, k in zip(positions, size, power, colours, kelvin, strict=True)
    )


def _draw_sky(lighting: Lighting, rng: np.random.Generator) -> Sky:
    ranges = ("sun_elevation_deg", "sun_size_deg", "sun_kelvin", "sky_air", "sky_dust", "ground")
    azimuth = 360 * float(rng.random())
    elevation, size, kelvin, air, dust, ground = (float(rng.uniform(*getattr(lighting, name))) for name in ranges)
    colour = tuple(kelvin_rgb(kelvin).tolist())
    return Sky(azimuth, elevation, size, kelvin, colour, air, dust, ground, lighting.white_level, lighting.world_share)


def _draw_surroundings(lighting: Lighting, rng: np.random.Generator) -> Surroundings:
    file, sha256, brightest = lighting.hdris[int(rng.integers(len(lighting.hdris)))]
    rotation = 360 * float(rng.random())
    return Surroundings(str(lighting.hdri), file, sha256, rotation, lighting.white_level / brightest)
