"""Lights: drawn from (seed, uid), bright enough and never too bright."""

from __future__ import annotations

import numpy as np
import pytest

from render.lights import Lighting, brightest, draw


def test_lights_depend_on_seed_and_uid_only() -> None:
    assert draw(Lighting(), 0, "a") == draw(Lighting(), 0, "a")
    assert len({str(draw(Lighting(), s, u)) for s in (0, 1) for u in "abc"}) == 6


def test_a_draw_keeps_to_its_ranges_and_to_the_stated_brightness() -> None:
    lighting = Lighting()
    for uid in map(str, range(100)):
        lights = draw(lighting, 0, uid)
        assert lighting.lights[0] <= len(lights.areas) <= lighting.lights[1]
        where = np.array([light.position for light in lights.areas])
        distance = np.linalg.norm(where, axis=1)
        assert (distance >= 4).all() and (distance <= 7).all()
        total = lights.world + brightest(where, np.array([light.power for light in lights.areas]))
        assert total == pytest.approx(lighting.white_level)
        assert all(max(light.colour) == 1 and min(light.colour) > 0.85 for light in lights.areas)


def test_brightness_of_one_light_by_hand() -> None:
    # One light straight above at distance 5: the top of the sphere is nearest and faces it, 4 away. E = P / (π 4²), L = E / π.
    assert brightest(np.array([[0.0, 0.0, 5.0]]), np.array([100.0])) == pytest.approx(100 / (np.pi**2 * 16), rel=2e-3)


@pytest.mark.parametrize("fields", [{"lights": (0, 2)}, {"world_share": 0.0}, {"light_distance": (1.0, 2.0)}])
def test_lighting_that_cannot_work_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Lighting(**fields)  # type: ignore[arg-type]
