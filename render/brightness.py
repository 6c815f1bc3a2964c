"""How bright light is where it is seen: on a white matt unit sphere around the object's centre. Pure numbers, linear RGB.

All kinds of light are scaled by what this sphere shows, so that a white object neither blows out nor stays black.
"""

from __future__ import annotations

import numpy as np

from turntable import cameras

KELVIN_RANGE = (1667.0, 25000.0)
"""Where Kim's cubics hold."""
# IEC 61966-2-1: linear sRGB from CIE XYZ, white D65.
_RGB_FROM_XYZ = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def kelvin_rgb(kelvin: float) -> np.ndarray:
    """(3,) linear sRGB of a black body, brightest channel 1; what lies outside of sRGB is clipped.

    Chromaticity by the cubics of Kim, Kim, Kim and Chung 2002, "Design of advanced color temperature control system for
    HDTV applications", within 1e-3 of the Planckian locus.
    """
    if not KELVIN_RANGE[0] <= kelvin <= KELVIN_RANGE[1]:
        raise ValueError(f"a colour temperature must lie in {KELVIN_RANGE} kelvin, got {kelvin}")
    cool = kelvin > 4000
    of_x = (
        (-3.0258469e9, 2.1070379e6, 0.2226347e3, 0.240390)
        if cool
        else (-0.2661239e9, -0.2343589e6, 0.8776956e3, 0.17991)
    )
    x = np.polyval(of_x, 1 / kelvin)
    if cool:
        of_y = (3.0817580, -5.87338670, 3.75112997, -0.37001483)
    elif kelvin > 2222:
        of_y = (-0.9549476, -1.37418593, 2.09137015, -0.16748867)
    else:
        of_y = (-1.1063814, -1.34811020, 2.18555832, -0.20219683)
    y = np.polyval(of_y, x)
    rgb = np.maximum(_RGB_FROM_XYZ @ [x / y, 1, (1 - x - y) / y], 0)
    return rgb / rgb.max()


def sphere_points(count: int = 1000) -> np.ndarray:
    """(count, 3) unit vectors, evenly spread: a Fibonacci lattice."""
    index = np.arange(count) + 0.5
    z, angle = 1 - 2 * index / count, index * np.pi * (3 - 5**0.5)
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)


def under_areas(positions: np.ndarray, sizes: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(M, N) radiance of the sphere at `normals` (M, 3) under each of N one-sided square lights of power 1 that face its centre.

    positions (N, 3), sizes (N,): sides. A light of power P and area A has the radiance P / (π A); a matt surface of irradiance
    E shows the radiance E / π. Each light is taken as 6 × 6 small ones.
    """
    steps = (np.arange(6) + 0.5) / 6 - 0.5
    seen = []
    for position, size in zip(positions, sizes, strict=True):
        pose = cameras.look_at(position)
        spots = position + size * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) @ pose[:, :2].T
        towards = spots[None] - normals[:, None]
        length = np.linalg.norm(towards, axis=2)
        at_surface = np.maximum((towards * normals[:, None]).sum(2) / length, 0)
        at_light = np.maximum(towards @ pose[:, 2] / length, 0)
        seen.append((at_surface * at_light / length**2).mean(axis=1) / np.pi**2)
    return np.stack(seen, axis=1)


def panorama_directions(height: int, width: int) -> np.ndarray:
    """(height, width, 3) unit vectors of the pixels of a picture of all directions, top row up, its middle towards +y, right
    of that +x."""
    up = np.pi / 2 - (np.arange(height) + 0.5) * np.pi / height
    around = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    level = np.cos(up)[:, None]
    return np.stack([level * np.sin(around), level * np.cos(around), np.tile(np.sin(up)[:, None], (1, width))], axis=-1)


def under_panorama(radiance: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(M, 3) radiance of the sphere at `normals` (M, 3) under the light `radiance` (H, W, 3) of `panorama_directions`."""
    height, width = radiance.shape[:2]
    directions = panorama_directions(height, width).reshape(-1, 3)
    solid_angle = np.sqrt(1 - directions[:, 2] ** 2) * (np.pi / height) * (2 * np.pi / width)
    weights = np.maximum(normals @ directions.T, 0) * solid_angle
    return weights @ radiance.reshape(-1, 3).astype(np.float64) / np.pi


def balance_sun(
    sky: np.ndarray, to_sun: np.ndarray, sun_colour: np.ndarray, ground: float, level: float, share: float
) -> tuple[float, float, np.ndarray]:
    """Strengths of a sky, of a sun and of the grey ground they light, such that the sphere's brightest point shows `level`.

    sky (H, W, 3): radiance of every direction above the horizon at strength 1. ground: albedo. The sky, with the ground it
    lights, gives `share` of `level` where it is strongest -> the sky's strength, the sun's irradiance at right angles to it,
    and the ground's radiance (3,).
    """
    above = np.where(panorama_directions(*sky.shape[:2])[..., 2:] > 0, sky, 0)
    normals = sphere_points()
    sees_ground = (1 - normals[:, 2:]) / 2
    # A horizontal matt white surface of irradiance E shows E / π; the ground shows `ground` times that.
    lit_by_sky = ground * under_panorama(above, np.array([[0.0, 0, 1]]))[0]
    lit_by_sun = ground * max(to_sun[2], 0) * sun_colour / np.pi
    by_sky = under_panorama(above, normals) + lit_by_sky * sees_ground
    by_sun = np.maximum(normals @ to_sun, 0)[:, None] * sun_colour / np.pi + lit_by_sun * sees_ground
    strength = share * level / by_sky.max()
    # As strong a sun as leaves no channel anywhere above the level.
    irradiance = ((level - strength * by_sky) / np.maximum(by_sun, 1e-9)).min()
    return float(strength), float(irradiance), strength * lit_by_sky + irradiance * lit_by_sun
