"""The same model through every format: the same shape, and where the format carries it, the same colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render import formats, lights, rigs, scene
from render.importers import IMPORTERS
from render.passes import Studio
from render.settings import Settings
from tests.render.exported import bracket_points, build, export
from tests.render.test_scene import same_points
from turntable import cameras

PLAIN = {".stl", ".abc"}
"""Formats without colour: Alembic has attributes, but no materials."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Suffix -> the bracket in that format, in a folder of its own."""
    folder = tmp_path_factory.mktemp("formats")
    made = {}
    for suffix in formats.SUFFIXES:
        (folder / suffix[1:]).mkdir()
        build(folder / suffix[1:])
        made[suffix] = export(folder / suffix[1:] / f"model{suffix}")
    return made


def colour() -> np.ndarray:
    """Mean straight colour, 0 … 255, of the current scene's object, in even white light."""
    settings = Settings(resolution=32, samples=4, denoise=False)
    camera = rigs.Camera(cameras.look_at(np.array([1.5, -2.0, 1.5])), cameras.intrinsics_from_fov(50))
    with Studio(settings, lights.Lights(0.9, ()), "cpu", 1) as studio:
        rgba = studio.colour(camera, 0)
    assert 0.05 < (rgba[..., 3] == 255).mean() < 0.9
    return rgba[rgba[..., 3] == 255][:, :3].mean(axis=0)


def test_there_is_an_importer_for_every_suffix() -> None:
    assert set(IMPORTERS) == set(formats.SUFFIXES)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_every_format_gives_the_same_model(models: dict[str, Path], suffix: str) -> None:
    """All writers were told nothing about axes: each turns the model into its format's frame, and its reader back."""
    normalisation, vertices, faces, record = scene.load(models[suffix])
    points = bracket_points()
    expected = points @ normalisation.object_from_asset[:3, :3].T + normalisation.object_from_asset[:3, 3]
    # Text formats keep six digits.
    assert same_points(vertices, expected, 1e-5) and len(faces) == 36
    assert np.allclose(
        [record["bounding_box"]["low"], record["bounding_box"]["high"]], [points.min(0), points.max(0)], atol=1e-5
    )
    textured = suffix not in (*PLAIN, ".ply")
    assert (record["textures"], record["textures_missing"]) == (int(textured), [])
    assert record["format"] == suffix[1:] and record["file_bytes"] == models[suffix].stat().st_size
    red, green, blue = colour()
    if suffix in PLAIN:
        assert max(red, green, blue) - min(red, green, blue) < 3
    else:
        # The paint is (231, 89, 89) in sRGB; reflections of the white world and of one arm in another shift it a little.
        assert red > green + 60 and abs(green - blue) < 12
