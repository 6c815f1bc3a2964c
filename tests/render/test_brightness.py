"""Light on a white matt sphere, against what can be worked out by hand, and colours of black bodies, against Planck."""

from __future__ import annotations

import numpy as np
import pytest

from render.brightness import (
    balance_sun,
    kelvin_rgb,
    panorama_directions,
    sphere_points,
    under_areas,
    under_panorama,
)


def planck_rgb(kelvin: float) -> np.ndarray:
    """Planck's law seen by the CIE 1931 observer in the analytic form of Wyman, Sloan and Shirley 2013."""
    wave = np.arange(380.0, 781.0)

    def lobe(peak: float, centre: float, below: float, above: float) -> np.ndarray:
        return peak * np.exp(-0.5 * ((wave - centre) * np.where(wave < centre, below, above)) ** 2)

    x = lobe(0.362, 442.0, 0.0624, 0.0374) + lobe(1.056, 599.8, 0.0264, 0.0323) + lobe(-0.065, 501.1, 0.0490, 0.0382)
    y = lobe(0.821, 568.8, 0.0213, 0.0247) + lobe(0.286, 530.9, 0.0613, 0.0322)
    z = lobe(1.217, 437.0, 0.0845, 0.0278) + lobe(0.681, 459.0, 0.0385, 0.0725)
    radiance = wave**-5 / np.expm1(1.4388e7 / (wave * kelvin))
    to_rgb = np.linalg.inv([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    rgb = np.maximum(to_rgb @ np.array([radiance @ x, radiance @ y, radiance @ z]), 0)
    return rgb / rgb.max()


@pytest.mark.parametrize("kelvin", [1700, 2200, 2300, 3000, 3999, 4001, 5500, 6504, 8000, 12000, 25000])
def test_colours_of_black_bodies(kelvin: float) -> None:
    # Cubics and the analytic observer are each within a few thousandths of chromaticity; 0.04 of the brightest channel.
    assert np.allclose(kelvin_rgb(kelvin), planck_rgb(kelvin), atol=0.04)


def test_white_is_white_and_the_range_is_checked() -> None:
    assert kelvin_rgb(6504).min() > 0.93
    with pytest.raises(ValueError, match="must lie"):
        kelvin_rgb(1000)


def test_one_light_by_hand() -> None:
    # A small light straight above at distance 5: the sphere's top is 4 away and faces it. E = P / (π 4²), L = E / π.
    seen = under_areas(np.array([[0.0, 0.0, 5.0]]), np.array([0.01]), np.array([[0.0, 0, 1], [0, 0, -1]]))
    assert seen[:, 0] == pytest.approx([1 / (np.pi**2 * 16), 0], rel=1e-4)


def test_a_large_light_by_hand() -> None:
    # Irradiance on the axis of a square light of side 2a at distance d (both facing): 4 L F with the view factor of a quarter,
    # F = (1 / 2π) · 2 · a / √(a² + d²) · atan(a / √(a² + d²)).
    a, d = 2.0, 3.0
    ratio = a / np.hypot(a, d)
    irradiance = 4 * (1 / (np.pi * 4 * a * a)) * ratio * np.arctan(ratio)
    seen = under_areas(np.array([[0.0, 0.0, 1 + d]]), np.array([2 * a]), np.array([[0.0, 0, 1]]))
    assert seen[0, 0] == pytest.approx(irradiance / np.pi, rel=0.01)


def test_even_and_half_surroundings_by_hand() -> None:
    up = panorama_directions(32, 64)[..., 2:] > 0
    normals = sphere_points(50)
    assert np.allclose(under_panorama(np.full((32, 64, 3), 0.7), normals), 0.7, rtol=0.005)
    # A surface tilted by the angle of its normal's z sees (1 + z) / 2 of an even sky.
    assert np.allclose(under_panorama(np.where(up, [1.0, 2.0, 3.0], 0), normals)[:, 1], 1 + normals[:, 2], atol=0.01)


def test_directions_of_a_panorama() -> None:
    directions = panorama_directions(32, 64)
    assert np.allclose(np.linalg.norm(directions, axis=-1), 1)
    middle = (directions[15, 31] + directions[16, 32]) / 2
    assert np.allclose(middle, [0, 1, 0], atol=0.01) and np.allclose(directions[16, 48], [1, 0, 0], atol=0.1)
    assert directions[0, :, 2].min() > 0.99


def test_a_balanced_sun_reaches_the_level_and_no_more() -> None:
    sky = np.where(panorama_directions(32, 64)[..., 2:] > 0, [0.2, 0.4, 0.8], 0.0)
    elevation = np.deg2rad(40)
    to_sun, colour = np.array([0, np.cos(elevation), np.sin(elevation)]), np.array([1.0, 0.9, 0.7])
    strength, irradiance, ground = balance_sun(sky, to_sun, colour, 0.3, 0.9, 0.4)
    normals = sphere_points(3000)
    down = np.where(panorama_directions(32, 64)[..., 2:] > 0, strength * sky, ground)
    total = under_panorama(down, normals) + np.maximum(normals @ to_sun, 0)[:, None] * irradiance * colour / np.pi
    assert total.max() == pytest.approx(0.9, rel=0.01)
    # The ground gives back 0.3 of what a level surface gets from sky and sun.
    level = under_panorama(strength * sky, np.array([[0.0, 0, 1]]))[0] + irradiance * np.sin(elevation) * colour / np.pi
    assert np.allclose(ground, 0.3 * level)
