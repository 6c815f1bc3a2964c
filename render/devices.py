"""Cycles devices: which GPUs Blender can render on, and the choice of one of them, or of the CPU, for this process.

`python -m render.devices` prints the GPUs as JSON. The command asks it in a process of its own, since whoever drives workers
must not load Blender.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from turntable.errors import UserError

BACKENDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
"""In order of preference."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""


def gpu_ids(backend: str) -> list[str]:
    """Blender's ids of the GPUs of one backend; empty where it has none."""
    import bpy

    preferences = bpy.context.preferences.addons["cycles"].preferences
    try:
        preferences.compute_device_type = backend
    except TypeError:  # not in this build
        return []
    preferences.refresh_devices()
    return [device.id for device in preferences.devices if device.type == backend]


def available(backend: str = "auto") -> tuple[str, list[str]]:
    """A backend that has GPUs, the preferred one unless it is named, and their ids; ("NONE", []) without any."""
    for name in BACKENDS if backend == "auto" else (backend.upper(),):
        ids = gpu_ids(name)
        if ids:
            return name, ids
    return "NONE", []


def choose(gpu: int | None, backend: str = "auto") -> str:
    """Has Cycles render on the `gpu`-th GPU alone, or on the CPU (None) -> `gpu` or `cpu`. Never another than asked for."""
    import bpy

    preferences = bpy.context.preferences.addons["cycles"].preferences
    if gpu is None:
        preferences.compute_device_type = "NONE"
        return "cpu"
    found, ids = available(backend)
    if gpu >= len(ids):
        raise DeviceError(_too_few(gpu + 1, len(ids), backend))
    preferences.compute_device_type = found
    for device in preferences.devices:
        device.use = device.type == found and device.id == ids[gpu]
    used = [device.id for device in preferences.devices if device.use]
    if used != [ids[gpu]] or not preferences.has_active_device():
        raise DeviceError(f"Cycles uses {used} instead of GPU {gpu} ({ids[gpu]}); render with --gpus 0 (CPU)")
    return "gpu"


def describe(gpu: int | None, backend: str = "auto") -> str:
    """The device's name, for messages."""
    import bpy

    if gpu is None:
        return "the CPU"
    found, ids = available(backend)
    devices = bpy.context.preferences.addons["cycles"].preferences.devices
    name = next((device.name for device in devices if gpu < len(ids) and device.id == ids[gpu]), "not there")
    return f"GPU {gpu} ({name}, {found})"


def eevee() -> str:
    """The name that EEVEE goes by in this Blender."""
    import bpy

    names = [item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items_static]
    return next(name for name in ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE") if name in names)


def wheel(module: str, *words: str) -> list[str]:
    """The command that runs a module in this Python, with Blender's wheel; `render.full_blender.command` is the other way."""
    return [sys.executable, "-m", module, *words]


def require(gpus: int, backend: str = "auto", program: Callable[..., list[str]] = wheel) -> None:
    """Raises `DeviceError` unless Blender, asked in a process of its own, finds at least `gpus` GPUs of the backend."""
    probe = _asked(program("render.devices", backend))
    if probe.returncode:
        raise DeviceError(f"Blender cannot be asked for its GPUs: {_last(probe.stderr)}; run python -m render.system")
    # A full Blender greets and says goodbye around our line.
    answer = next(line for line in reversed(probe.stdout.splitlines()) if line.startswith("{"))
    found = len(json.loads(answer)["gpus"])
    if found < gpus:
        raise DeviceError(_too_few(gpus, found, backend))


def require_eevee(gpus: int, backend: str = "auto", program: Callable[..., list[str]] = wheel) -> None:
    """Raises `DeviceError` unless EEVEE, in a process of its own, draws as it should: without a display it ends the process."""
    probe = _asked(program("render.selftest", "0" if gpus else "cpu", backend, "eevee"))
    if probe.returncode:
        raise DeviceError(
            f"--engine eevee: it cannot draw here: {_last(probe.stderr)}. It needs a driver that offers OpenGL without a display "
            "(EGL: the GPU driver's own, or Mesa's libegl1); or say --engine cycles"
        )


def _asked(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _too_few(wanted: int, found: int, backend: str) -> str:
    instead = f"--gpus {found}, or --gpus 0 for the CPU" if found else "--gpus 0 to render on the CPU"
    of = "" if backend == "auto" else f" by --backend {backend}"
    return f"--gpus {wanted}: Blender finds {found or 'no'} GPU{'s' if found > 1 else ''} it can use here{of}; say {instead}"


def main() -> int:
    """The probe."""
    backend, ids = available(*sys.argv[1:2])
    print(json.dumps({"backend": backend, "gpus": ids}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
