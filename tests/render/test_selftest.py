"""The self-test passes on what renders rightly, and names what does not."""

from __future__ import annotations

import os
import subprocess
import sys

import bpy
import pytest

from render import devices, selftest
from tests.conftest import ROOT


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
def test_eevee_draws_what_it_should() -> None:
    # In a process of its own: without a display's driver EEVEE ends the process that asks for it.
    environment = {**os.environ, "LP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "render.selftest", "cpu", "auto", "eevee"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    if "EGL context" in result.stderr:
        pytest.skip(f"needs OpenGL without a display ({result.stderr.strip().splitlines()[-1]})")
    assert result.returncode == 0, result.stderr
    assert "eevee renders as it should on the CPU" in result.stdout


@pytest.mark.gpu
def test_a_gpu_renders_what_it_should() -> None:
    backend, ids = devices.available()
    if not ids:
        pytest.skip("needs a GPU that Blender can use")
    for gpu in range(len(ids)):
        selftest.check(gpu)
    assert bpy.context.preferences.addons["cycles"].preferences.compute_device_type == backend
