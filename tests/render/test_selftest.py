"""The self-test passes on what renders rightly, and names what does not."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest

from render import devices, scene, selftest
from render.lights import AreaLight, Lights
from render.passes import Studio
from render.rigs import Camera
from render.settings import Settings
from tests.render.models import boxes
from turntable import cameras


def test_the_cpu_renders_what_it_should() -> None:
    selftest.check(None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GREY", 0.4, "the lit square's colour is 1"),
        ("GLOW", 0.3, "the glowing square's colour is 149"),
        ("DISTANCE", 2.5, "its distance is 3.0000 to 3.0000 instead of 2.5"),
    ],
)
def test_wrong_values_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: float, words: str) -> None:
    if name == "DISTANCE":
        # The camera stays where it was: the renderer's answer, not the question, is what must differ.
        camera = selftest.cameras.look_at
        monkeypatch.setattr(selftest.cameras, "look_at", lambda position: camera(position * 3.0 / 2.5))
    monkeypatch.setattr(selftest, name, value)
    with pytest.raises(devices.DeviceError) as error:
        selftest.check(None)
    assert words in str(error.value) and "on the CPU fails" in str(error.value)


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(devices.DeviceError, match=r"--gpus 100: Blender finds .* by --backend cuda; say --gpus"):
        selftest.check(99, "cuda")


def test_eevee_without_opengl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # glvnd then finds no vendor's EGL; Blender ends its process over it.
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    with pytest.raises(devices.DeviceError, match=r"--engine eevee: it cannot draw here.*EGL.*or say --engine cycles"):
        devices.require_eevee(0)


@pytest.mark.slow
def test_eevee_draws_what_it_should_and_agrees_with_cycles(tmp_path: Path) -> None:
    try:
        devices.require_eevee(0)
    except devices.DeviceError as error:
        if "EGL context" in str(error):
            pytest.skip(f"needs OpenGL without a display ({error})")
        raise
    # A faint lamp from the side, far away: by its own settings EEVEE leaves out two thirds of its light.
    lamp = AreaLight((-3.6, -1.8, -0.6), 2.0, 24.0, (1.0, 1.0, 1.0))
    camera = Camera(cameras.look_at(cameras.spherical_position(30, 25, 2.8)), cameras.intrinsics_from_fov(50.0))
    colours, depths = [], []
    for engine, samples in (("cycles", 64), ("eevee", 1)):
        scene.load(boxes([((-1, -1, -1), (1, 1, 1), (0.5, 0.5, 0.5))]).write(tmp_path / "cube.glb"))
        settings = Settings(resolution=16, engine=engine, samples=samples)  # type: ignore[arg-type]
        with Studio(settings, Lights(0.3, (lamp,)), "cpu") as studio:
            bpy.context.scene.world.probe_resolution = "128"
            rgba = studio.colour(camera, 0)
            depths.append(studio.geometry(camera).depth)
        colours.append(rgba[5:11, 5:11, :3].mean())
    assert abs(colours[0] - colours[1]) < 4, colours  # levels of 255
    assert np.array_equal(depths[0], depths[1])


@pytest.mark.gpu
def test_a_gpu_renders_what_it_should() -> None:
    backend, ids = devices.available()
    if not ids:
        pytest.skip("needs a GPU that Blender can use")
    for gpu in range(len(ids)):
        selftest.check(gpu)
    assert bpy.context.preferences.addons["cycles"].preferences.compute_device_type == backend
