"""Presets: more work is nearer the truth, and what is said on the command line goes before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.render_quality import LADDER, psnr, summarise
from render import lights, scene
from render.passes import Studio
from render.quality import PRESETS, Quality
from render.rigs import Camera
from render.settings import Settings
from tests.render.models import bracket
from turntable import cameras


def test_each_preset_is_nearer_the_truth_than_the_one_before(tmp_path: Path) -> None:
    scene.load(bracket().write(tmp_path / "bracket.glb"))
    camera = Camera(cameras.look_at(cameras.spherical_position(30, 25, 2.6)), cameras.intrinsics_from_fov(50.0))
    with Studio(Settings(resolution=64), lights.draw(lights.Lighting(), 0, "bracket"), "cpu") as studio:
        truth = studio.colour(camera, 7, Quality(samples=1024, denoise="none", bounces=12))
        found = {name: psnr(studio.colour(camera, 0, quality), truth) for name, quality in PRESETS.items()}
    assert found["draft"] + 1 < found["train"] < found["final"] - 1, found


def test_what_is_asked_for_goes_before_the_preset() -> None:
    asked = Settings(quality="final", samples=5, denoise=False).colour_quality
    assert (asked.samples, asked.denoise, asked.bounces) == (5, "none", PRESETS["final"].bounces)
    assert Settings().colour_quality == PRESETS["train"]
    assert Settings(passes=("mask", "depth")).passes == ("rgba", "depth", "mask")  # type: ignore[arg-type]


def test_psnr_is_of_the_foreground_on_black() -> None:
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[1:3, 1:3] = [100, 100, 100, 255]
    picture = truth.copy()
    picture[0, 0] = 255  # outside the foreground
    picture[1:3, 1:3, :3] = 110
    assert psnr(picture, truth) == pytest.approx(20 * np.log10(255 / 10))
    # Half as opaque is half as bright: 50 levels off.
    picture[1:3, 1:3] = [100, 100, 100, 127]
    assert psnr(picture, truth) == pytest.approx(20 * np.log10(255 / 50), abs=0.05)


def test_times_are_compared_with_the_first_setting() -> None:
    first, second = list(LADDER)[:2]
    rows = [
        {"setting": name, "psnr": level, "seconds": seconds}
        for name, level, seconds in ((first, 40.0, 4.0), (second, 30.0, 1.0), (second, 36.0, 1.0))
    ]
    table = summarise(rows, [first, second])
    assert [row["times_as_fast"] for row in table] == [1.0, 4.0]
    assert (table[1]["psnr_mean"], table[1]["psnr_worst"]) == (33.0, 30.0)
