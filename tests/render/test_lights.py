"""Lights: drawn from (seed, uid[, view]) within their ranges, bright enough and never too bright."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from render.brightness import sphere_points, under_areas
from render.lights import Lighting, draw
from turntable.config import resolved, restored

PICTURES = (("a.hdr", "0" * 64, 2.0), ("b.exr", "1" * 64, 0.5))


def lighting(light: Any, **fields: Any) -> Lighting:
    if light == "hdri":
        fields |= {"hdri": Path("folder"), "hdris": PICTURES}
    return Lighting(light=light, **fields)


@pytest.mark.parametrize("light", ["studio", "sun", "hdri"])
def test_lights_depend_on_seed_uid_and_view_only(light: str) -> None:
    kind = lighting(light)
    assert draw(kind, 0, "a") == draw(kind, 0, "a")
    assert len({str(draw(kind, s, u, v)) for s in (0, 1) for u in "abc" for v in (None, 0, 1)}) == 18


def test_a_studio_keeps_to_its_ranges_and_to_the_stated_brightness() -> None:
    kind = lighting("studio", light_kelvin=(3000.0, 9000.0))
    for uid in map(str, range(60)):
        lights = draw(kind, 0, uid)
        assert kind.lights[0] <= len(lights.areas) <= kind.lights[1]
        where = np.array([light.position for light in lights.areas])
        size, power = np.array([(light.size, light.power) for light in lights.areas]).T
        distance = np.linalg.norm(where, axis=1)
        assert (distance >= 4).all() and (distance <= 7).all() and (size >= 1.5).all() and (size <= 4).all()
        strength = power / distance**2
        assert strength.max() / strength.min() < 4.001  # intensity 0.25 … 1
        seen = under_areas(where, size, sphere_points()) * power @ np.array([light.colour for light in lights.areas])
        assert lights.world + seen.max() == pytest.approx(kind.white_level)
        assert all(3000 <= light.kelvin <= 9000 and max(light.colour) == 1 for light in lights.areas)


def test_suns_keep_to_their_ranges() -> None:
    drawn = [draw(lighting("sun"), 0, str(uid)).sky for uid in range(300)]
    for name, (low, high) in {"sun_elevation_deg": (15, 70), "sun_size_deg": (0.5, 4), "ground": (0.2, 0.5)}.items():
        values = [getattr(sky, name) for sky in drawn]
        # 300 uniform draws come within 5 % of both ends but for one time in 10⁶.
        assert low <= min(values) < low + 0.05 * (high - low) and high - 0.05 * (high - low) < max(values) <= high
    assert {int(sky.sun_azimuth_deg // 90) for sky in drawn if sky} == {0, 1, 2, 3}


def test_pictures_are_chosen_and_turned_at_random_and_made_as_bright_as_stated() -> None:
    drawn = [draw(lighting("hdri"), 0, str(uid)).surroundings for uid in range(100)]
    assert {s.file: s.strength for s in drawn if s} == {"a.hdr": 0.45, "b.exr": 1.8}
    assert {int(s.rotation_deg // 90) for s in drawn if s} == {0, 1, 2, 3}


@pytest.mark.parametrize("light", ["studio", "sun", "hdri", "white"])
def test_everything_drawn_is_json_and_lighting_survives_it(light: str) -> None:
    kind = lighting(light)
    record = draw(kind, 0, "a").record()
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, allow_nan=False))
    assert "folder" not in record.get("hdri", {})
    assert restored(Lighting, json.loads(json.dumps(resolved(kind)))) == kind


@pytest.mark.parametrize(
    "fields",
    [
        {"lights": (0, 2)},
        {"world_share": 0.0},
        {"light_distance": (1.0, 2.0)},
        {"light_kelvin": (1000.0, 5000.0)},
        {"sun_elevation_deg": (40.0, 20.0)},
        {"light": "hdri"},
        {"hdri": Path("folder")},
    ],
)
def test_lighting_that_cannot_work_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Lighting(**fields)
