"""Cycles devices: which GPUs Blender can render on, and the choice of one of them, or of the CPU, for this process.

`python -m render.devices` prints the GPUs as JSON. The command asks it in a process of its own, since whoever drives workers
must not load Blender.
"""

from __future__ import annotations

import json
import subprocess
import sys

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


def available() -> tuple[str, list[str]]:
    """The preferred backend that has GPUs, and their ids; ("NONE", []) without any."""
    for backend in BACKENDS:
        ids = gpu_ids(backend)
        if ids:
            return backend, ids
    return "NONE", []


def choose(gpu: int | None) -> str:
    """Has Cycles render on the `gpu`-th GPU alone, or on the CPU (None) -> `gpu` or `cpu`. Never another than asked for."""
    import bpy

    preferences = bpy.context.preferences.addons["cycles"].preferences
    if gpu is None:
        preferences.compute_device_type = "NONE"
        return "cpu"
    backend, ids = available()
    if gpu >= len(ids):
        raise DeviceError(_too_few(gpu + 1, len(ids)))
    preferences.compute_device_type = backend
    for device in preferences.devices:
        device.use = device.type == backend and device.id == ids[gpu]
    used = [device.id for device in preferences.devices if device.use]
    if used != [ids[gpu]] or not preferences.has_active_device():
        raise DeviceError(f"Cycles uses {used} instead of GPU {gpu} ({ids[gpu]}); render with --gpus 0 (CPU)")
    return "gpu"


def eevee() -> str:
    """The name that EEVEE goes by in this Blender."""
    import bpy

    names = [item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items_static]
    return next(name for name in ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE") if name in names)


def require(gpus: int) -> None:
    """Raises `DeviceError` unless Blender, asked in a process of its own, finds at least `gpus` GPUs."""
    command = [sys.executable, "-m", "render.devices"]
    probe = subprocess.run(command, capture_output=True, text=True)
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DeviceError(f"Blender cannot be asked for its GPUs: {last}; run python -m render.system")
    found = len(json.loads(probe.stdout.splitlines()[-1])["gpus"])
    if found < gpus:
        raise DeviceError(_too_few(gpus, found))


def _too_few(wanted: int, found: int) -> str:
    instead = f"--gpus {found}, or --gpus 0 for the CPU" if found else "--gpus 0 to render on the CPU"
    return (
        f"--gpus {wanted}: Blender finds {found or 'no'} GPU{'s' if found > 1 else ''} it can use here; say {instead}"
    )


def main() -> int:
    """The probe."""
    backend, ids = available()
    print(json.dumps({"backend": backend, "gpus": ids}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
