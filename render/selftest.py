"""Whether the chosen device renders what it should: `python -m render.selftest cpu auto cycles`.

A few pixels of two squares before the camera, one that gives off light and one that is lit evenly from all sides: their colours,
distance and normal are known without any renderer. Every worker renders them before its first asset, so that a driver that
computes nonsense, or a GPU's kernels that have to be compiled, cost no asset anything.
"""

from __future__ import annotations

import sys

import bpy
import numpy as np

from render import devices
from render.devices import DeviceError
from render.lights import Lights
from render.passes import Seen, Studio
from render.rigs import Camera
from render.settings import Settings
from turntable import cameras
from turntable.errors import EXIT_OK, EXIT_USAGE
from turntable.jobs import ItemError

DISTANCE = 3.0
GLOW, GREY = 0.2, 0.5
"""Linear: light that the left square gives off, and the right one's matt albedo under a sky of radiance 1."""
EXPECTED = {"glowing": 124, "lit": 188}
"""The same in 8-bit sRGB."""
TOLERANCE = {"cycles": 4.0, "eevee": 8.0}
"""8-bit levels: a few samples' noise; EEVEE's sky is coarse."""
SOFTWARE = ("llvmpipe", "softpipe", "swiftshader")
"""Names of drivers that draw on the CPU."""


def check(gpu: int | None, backend: str = "auto", engine: str = "cycles") -> None:
    """Renders the squares on a GPU, or the CPU (None). Raises `DeviceError` unless every value is right."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    device = devices.choose(gpu, backend)
    name = devices.describe(gpu, backend)
    _add_squares()
    settings = Settings(views=1, resolution=16, samples=16 if engine == "cycles" else 1, engine=engine)  # type: ignore[arg-type]
    camera = Camera(cameras.look_at(np.array([0.0, -DISTANCE, 0.0])), cameras.intrinsics_from_fov(50.0))
    try:
        with Studio(settings, Lights(1.0, ()), device) as studio:
            if engine == "eevee":
                bpy.context.scene.world.probe_resolution = "128"
            problems = _problems(studio.colour(camera, 0), studio.geometry(camera), TOLERANCE[engine])
    except ItemError as error:
        problems = [str(error)]
    if engine == "eevee" and gpu is not None and any(word in eevee_device().lower() for word in SOFTWARE):
        problems.append(
            f"EEVEE draws in software ({eevee_device()}), not on a GPU; install the GPU driver's EGL library"
        )
    if problems:
        advice = ["try another --backend", "render on the CPU (--gpus 0)"] if gpu is not None else []
        advice += ["--engine cycles"] if engine == "eevee" else []
        raise DeviceError(
            f"the self-test of {engine} on {name} fails: {'; '.join(problems)}; update its driver, or install Blender again"
            + "".join(f", or {words}" for words in advice)
        )


def eevee_device() -> str:
    """What EEVEE draws on, as its driver says; known once it has drawn."""
    import gpu

    return gpu.platform.renderer_get()


def _add_squares() -> None:
    for name, left in (("glowing", -2.0), ("lit", 0.0)):
        mesh = bpy.data.meshes.new(name)
        corners = [(left, 0, -2), (left + 2, 0, -2), (left + 2, 0, 2), (left, 0, 2)]
        mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
        mesh.materials.append(_material(name))
        bpy.context.scene.collection.objects.link(bpy.data.objects.new(name, mesh))


def _material(name: str) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    shader = tree.nodes.new("ShaderNodeEmission" if name == "glowing" else "ShaderNodeBsdfDiffuse")
    value = GLOW if name == "glowing" else GREY
    shader.inputs["Color"].default_value = (value, value, value, 1)
    tree.links.new(shader.outputs[0], tree.nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    return material


def _problems(rgba: np.ndarray, seen: Seen, tolerance: float) -> list[str]:
    """What of the pictures (16, 16) is not as it must be; away from the squares' common edge."""
    found = {"glowing": float(rgba[4:12, 2:6, :3].mean()), "lit": float(rgba[4:12, 10:14, :3].mean())}
    problems = [
        f"the {name} square's colour is {found[name]:.1f} instead of {EXPECTED[name]}"
        for name in EXPECTED
        if not abs(found[name] - EXPECTED[name]) <= tolerance
    ]
    if not (rgba[..., 3] == 255).all():
        problems.append("it is not opaque")
    # float32 over a distance of 3.
    if not np.allclose(seen.depth, DISTANCE, atol=1e-4):
        problems.append(f"its distance is {seen.depth.min():.4f} to {seen.depth.max():.4f} instead of {DISTANCE}")
    if not np.allclose(seen.normal, [0, -1, 0], atol=1e-3):
        problems.append("its normal does not face the camera")
    return problems


def main() -> int:
    """Exit code 0 when the device renders as it should."""
    device, backend, engine = (sys.argv[1:] + ["cpu", "auto", "cycles"][len(sys.argv) - 1 :])[:3]
    gpu = None if device == "cpu" else int(device)
    try:
        check(gpu, backend, engine)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    print(f"{engine} renders as it should on {devices.describe(gpu, backend)}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
