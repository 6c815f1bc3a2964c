"""What render_throughput compares with: one Blender process renders one asset, with objaverse-xl's settings, into loose PNG files.

Import, normalisation, cameras and lights are ours, so that the pictures can be compared. Started by `benchmarks.render_throughput`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy

from render import devices, fitting, lights, rigs, scene
from render.passes import Studio
from render.settings import Settings
from turntable.config import restored


def settle(cycles: bpy.types.bpy_struct) -> None:
    """objaverse-xl's blender_script.py: samples, adaptive threshold, bounces, denoiser as Blender has it by default."""
    cycles.samples, cycles.seed = 128, 0
    cycles.use_adaptive_sampling, cycles.adaptive_threshold, cycles.adaptive_min_samples = True, 0.01, 0
    cycles.diffuse_bounces = cycles.glossy_bounces = 1
    cycles.transparent_max_bounces = cycles.transmission_bounces = 3
    cycles.max_bounces = 12
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_quality, cycles.denoising_prefilter = "HIGH", "ACCURATE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5


def main() -> None:
    """`python -m benchmarks.process_per_asset JOB.json`."""
    job = json.loads(Path(sys.argv[1]).read_text())
    settings = restored(Settings, job["settings"])
    _, vertices, *_ = scene.load(Path(job["asset"]))
    drawn = rigs.draw(settings.rig, settings.view_count, settings.seed, job["uid"])
    fitted = fitting.fitted(settings.rig, drawn, vertices, settings.resolution)
    lighting = lights.draw(settings.lighting, settings.seed, job["uid"])
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    render = bpy.context.scene.render
    with Studio(settings, lighting, devices.choose(None)) as studio:
        settle(bpy.context.scene.cycles)
        bpy.context.scene.use_nodes = render.use_persistent_data = False
        render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
        for index, (camera, _) in enumerate(fitted):
            studio.aim(camera)
            render.filepath = str(out / f"{index:03d}.png")
            bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main()
