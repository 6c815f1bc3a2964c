"""Materials of furniture: wood, metal, cloth, leather, paint, plastic and stone as physically based parameters and small textures."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

TEXTURE_SIDE = 192
"""Pixels."""

WOODS = {
    "oak": (0.74, 0.57, 0.38),
    "pine": (0.86, 0.70, 0.47),
    "beech": (0.82, 0.63, 0.46),
    "birch": (0.88, 0.78, 0.62),
    "walnut": (0.40, 0.26, 0.17),
    "cherry": (0.60, 0.31, 0.18),
    "mahogany": (0.42, 0.17, 0.11),
    "teak": (0.62, 0.41, 0.22),
    "wenge": (0.22, 0.15, 0.12),
    "ash grey": (0.62, 0.58, 0.52),
}
"""sRGB."""
METALS = {
    "steel": (0.70, 0.71, 0.72, 0.35),
    "chrome": (0.86, 0.87, 0.88, 0.12),
    "brass": (0.83, 0.65, 0.32, 0.28),
    "copper": (0.80, 0.48, 0.36, 0.30),
    "black steel": (0.08, 0.08, 0.09, 0.45),
    "bronze": (0.42, 0.31, 0.20, 0.40),
}
"""sRGB and roughness."""


@dataclass(frozen=True)
class Material:
    """One physically based material, metallic-roughness."""

    name: str
    """As it is called in the file; a piece of furniture has one material of a name."""
    colour: tuple[float, float, float]
    """sRGB 0 … 1; the whole base colour, or white where a texture holds it."""
    metallic: float = 0.0
    """0 … 1."""
    roughness: float = 0.6
    """0 … 1."""
    texture: np.ndarray | None = None
    """(H, W, 3) uint8 sRGB base colour that repeats without a seam; columns run along a part's length."""
    tile_m: float = 0.5
    """Metres that one repetition of the texture covers."""


def _noise(rng: np.random.Generator, side: int, along: float, across: float) -> np.ndarray:
    """(side, side) noise that repeats without a seam, mean 0, deviation 1, smooth over `along` × `across` pixels."""
    frequency = np.fft.fftfreq(side)
    falloff = np.exp(-2 * np.pi**2 * ((frequency[None] * along) ** 2 + (frequency[:, None] * across) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * falloff).real
    return (field - field.mean()) / field.std()


def _tinted(colour: tuple[float, float, float], brightness: np.ndarray) -> np.ndarray:
    """(H, W) factors around 1 -> (H, W, 3) uint8."""
    return np.round(255 * np.clip(np.asarray(colour) * brightness[..., None], 0, 1)).astype(np.uint8)


def _varied(rng: np.random.Generator, colour: tuple[float, ...], amount: float) -> tuple[float, float, float]:
    r, g, b = np.clip(
        np.asarray(colour[:3]) * rng.uniform(1 - amount, 1 + amount) + rng.uniform(-0.02, 0.02, 3), 0.02, 0.97
    )
    return float(r), float(g), float(b)


def wood(rng: np.random.Generator, name: str = "wood") -> Material:
    """A plank's grain: growth rings drawn out along it, fine pores, darker streaks."""
    species = sorted(WOODS)[rng.integers(len(WOODS))]
    side = TEXTURE_SIDE
    warp = _noise(rng, side, 60, 9)
    rings = np.sin(2 * np.pi * rng.integers(5, 11) * np.arange(side)[:, None] / side + rng.uniform(0.8, 2.0) * warp)
    pores = _noise(rng, side, 14, 0.7)
    grain = 1 + 0.09 * rings * rng.uniform(0.6, 1.3) + 0.05 * pores + 0.04 * _noise(rng, side, 40, 5)
    texture = _tinted(_varied(rng, WOODS[species], 0.08), grain)
    return Material(f"{name} ({species})", (1, 1, 1), 0.0, float(rng.uniform(0.35, 0.65)), texture, tile_m=0.55)


def paint(rng: np.random.Generator, name: str = "paint") -> Material:
    """Lacquer: white and greys often, else any colour."""
    hue, value = rng.uniform(), rng.uniform(0.25, 0.9)
    saturation = rng.choice([0.0, rng.uniform(0.25, 0.8)], p=[0.4, 0.6])
    colour = colorsys.hsv_to_rgb(hue, saturation, value if saturation else rng.choice([0.93, 0.93, 0.35, 0.1]))
    return Material(name, colour, 0.0, float(rng.uniform(0.25, 0.55)))


def plastic(rng: np.random.Generator, name: str = "plastic") -> Material:
    """Smooth and evenly coloured."""
    colour = colorsys.hsv_to_rgb(rng.uniform(), rng.choice([0.05, 0.6, 0.8]), rng.uniform(0.3, 0.9))
    return Material(name, colour, 0.0, float(rng.uniform(0.2, 0.4)))


def metal(rng: np.random.Generator, name: str = "metal") -> Material:
    """Polished, brushed or blackened."""
    kind = sorted(METALS)[rng.integers(len(METALS))]
    *colour, roughness = METALS[kind]
    return Material(
        f"{name} ({kind})", _varied(rng, tuple(colour), 0.04), 1.0, float(roughness * rng.uniform(0.8, 1.25))
    )


def cloth(rng: np.random.Generator, name: str = "fabric") -> Material:
    """A weave in one colour, or with stripes, checks or a melange."""
    colour = cloth_colour(rng)
    side, y, x = TEXTURE_SIDE, *np.indices((TEXTURE_SIDE, TEXTURE_SIDE))
    over = ((x // 3 + y // 3) % 2).astype(float)
    thread = np.where(over > 0, np.sin(np.pi * (y % 3 + 0.5) / 3), np.sin(np.pi * (x % 3 + 0.5) / 3))
    brightness = 0.90 + 0.12 * thread + 0.04 * _noise(rng, side, 2, 2)
    bands = side // int(rng.choice([4, 6, 8]))
    stripe, check = (x // (bands // 2)) % 2, (x // (bands // 2)) % 2 + (y // (bands // 2)) % 2
    pattern = rng.choice(["plain", "stripes", "checks", "melange"], p=[0.5, 0.18, 0.14, 0.18])
    shade = float(rng.choice([-0.35, 0.3]))
    marks = {"plain": 0.0 * x, "stripes": stripe, "checks": check / 2, "melange": 0.35 * _noise(rng, side, 5, 1)}[
        pattern
    ]
    texture = _tinted(colour, brightness * (1 + shade * marks))
    return Material(f"{name} ({pattern})", (1, 1, 1), 0.0, float(rng.uniform(0.8, 0.98)), texture, tile_m=0.24)


def cloth_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """Dyed, or a natural pale or grey."""
    if rng.uniform() < 0.35:
        return _varied(rng, (0.78, 0.74, 0.68) if rng.uniform() < 0.6 else (0.42, 0.43, 0.45), 0.15)
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.3, 0.75), rng.uniform(0.3, 0.8))


def leather(rng: np.random.Generator, name: str = "leather") -> Material:
    """Brown, black, cream or a deep colour, with a faint mottle."""
    hides = [
        (0.36, 0.20, 0.12),
        (0.10, 0.09, 0.09),
        (0.62, 0.38, 0.20),
        (0.80, 0.74, 0.64),
        (0.35, 0.08, 0.09),
        (0.12, 0.22, 0.20),
    ]
    brightness = 1 + 0.05 * _noise(rng, TEXTURE_SIDE, 9, 9) + 0.03 * _noise(rng, TEXTURE_SIDE, 1.5, 1.5)
    texture = _tinted(_varied(rng, hides[rng.integers(len(hides))], 0.1), brightness)
    return Material(name, (1, 1, 1), 0.0, float(rng.uniform(0.35, 0.5)), texture, tile_m=0.5)


def stone(rng: np.random.Generator, name: str = "stone") -> Material:
    """Marble: veins where a smooth field changes sign."""
    base = [(0.90, 0.89, 0.87), (0.20, 0.21, 0.22), (0.55, 0.60, 0.55)][rng.integers(3)]
    field = _noise(rng, TEXTURE_SIDE, 24, 14) + 0.25 * _noise(rng, TEXTURE_SIDE, 5, 5)
    vein = np.exp(-(np.abs(field) / 0.07)) * (0.35 if base[0] < 0.4 else -0.3)
    texture = _tinted(base, 1 + vein + 0.03 * _noise(rng, TEXTURE_SIDE, 10, 10))
    return Material(name, (1, 1, 1), 0.0, 0.2, texture, tile_m=0.9)


def linen(rng: np.random.Generator, name: str = "linen") -> Material:
    """Bed sheets: nearly white."""
    return Material(name, _varied(rng, (0.90, 0.89, 0.86), 0.05), 0.0, 0.9)


FRAME_MATERIALS = (wood, paint, metal)
UPHOLSTERY = (cloth, leather)
