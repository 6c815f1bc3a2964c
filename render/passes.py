"""Pictures of the current scene: colour by Cycles or EEVEE, and the surface seen at every pixel's centre, by Cycles.

Colour is filtered, lit and denoised. All other passes come from a second render of the same camera with one sample a pixel, a
filter a hundredth of a pixel wide and no light: no mixture across an edge, and a depth that belongs to the pixel's own ray.
Blender hands pixels over by way of files only; ours has no name and lives in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import OpenEXR
from mathutils import Matrix

from datasets.pictures import (
    decode_png,
    encode_albedo,
    encode_depth,
    encode_mask,
    encode_material,
    encode_normal,
    encode_png,
    encode_position,
)
from render import devices, lamps, surfaces
from render.lights import Lights
from render.quality import Quality
from render.rigs import Camera
from render.settings import Settings
from turntable import cameras
from turntable.jobs import ItemError

_NOTHING_HIT = 1e9
"""Cycles' depth is 1e10 where nothing is hit."""
_LEAVES = 128
"""Transparent surfaces that a ray may pass before it is given up: a tree's leaves are cut out of rectangles."""


@dataclass(frozen=True)
class Seen:
    """What lies behind the centre of every pixel."""

    depth: np.ndarray
    """(H, W) float32, planar, object units, 0 where nothing is hit."""
    normal: np.ndarray
    """(H, W, 3) float32, unit shading normals in the world frame, 0 where nothing is hit."""
    albedo: np.ndarray
    """(H, W, 3) float32, base colour, linear; 0 unless asked for, as the next two."""
    metallic: np.ndarray
    """(H, W) float32."""
    roughness: np.ndarray
    """(H, W) float32."""

    @property
    def hit(self) -> np.ndarray:
        """(H, W) bool."""
        return self.depth > 0


class Studio:
    """Camera, lights and render settings around the asset in the current scene. Geometry comes after the last colour picture:
    it makes materials binary (see `render.surfaces`)."""

    def __init__(self, settings: Settings, lights: Lights, device: str, threads: int = 0) -> None:
        """`device` is `cpu` or `gpu`, already chosen in Blender's preferences by `render.devices`; `threads` 0 = all cores."""
        self.settings = settings
        self.scene = bpy.context.scene
        self._scratch = tempfile.TemporaryFile(dir=_memory_folder())  # noqa: SIM115 - closed with the studio
        self.path = Path(f"/dev/fd/{self._scratch.fileno()}")
        self._camera = _add_camera()
        self._lit: lamps.Installed | None = None
        self.light(lights)
        _set_up(self.scene, settings.resolution, device)
        self.scene.render.threads_mode = "FIXED" if threads else "AUTO"
        self.scene.render.threads = threads or 1
        self._exposed = False

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def light(self, lights: Lights) -> None:
        """Lights the colour pictures that follow by `lights` alone."""
        if self._lit:
            lamps.remove(self._lit)
        self._lit = lamps.install(lights, self.path)

    @property
    def light_record(self) -> dict[str, Any]:
        """What the capture says of the lights. JSON values."""
        assert self._lit
        return self._lit.record

    def colour(self, camera: Camera, noise_seed: int, quality: Quality | None = None) -> np.ndarray:
        """(H, W, 4) uint8, straight alpha, sRGB; of the settings' quality unless another is given."""
        image = self.scene.render.image_settings
        _use_quality(self.scene, quality or self.settings.colour_quality, self.settings.engine)
        self.scene.cycles.seed = noise_seed
        self._show_lights(True)
        image.file_format, image.color_mode, image.color_depth, image.compression = "PNG", "RGBA", "8", 0
        self._render(camera)
        return decode_png(self.path.read_bytes())

    def geometry(self, camera: Camera) -> Seen:
        """What lies behind every pixel's centre, with the surface's values where the settings ask for them."""
        self._prepare_geometry()
        self._render(camera)
        with OpenEXR.File(str(self.path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}

        def layer(name: str, parts: str) -> np.ndarray:
            return np.stack([channels[f"{self.scene.view_layers[0].name}.{name}.{part}"] for part in parts], axis=-1)

        depth = layer("Depth", "Z")[..., 0]
        hit = (depth > 0) & (depth < _NOTHING_HIT)
        normal = layer("Normal", "XYZ") * hit[..., None]
        asked = self.settings.needs_values
        albedo = layer(surfaces.ALBEDO, "RGB") if asked else np.zeros_like(normal)
        material = layer(surfaces.MATERIAL, "RGB") if asked else np.zeros_like(normal)
        return Seen(np.where(hit, depth, 0), normal, albedo, metallic=material[..., 2], roughness=material[..., 1])

    def _prepare_geometry(self) -> None:
        scene, image = self.scene, self.scene.render.image_settings
        if not self._exposed:
            surfaces.expose(bpy.data.objects, self.settings.needs_values)
            for name in (surfaces.ALBEDO, surfaces.MATERIAL) if self.settings.needs_values else ():
                scene.view_layers[0].aovs.add().name = name
            self._exposed = True
        scene.render.engine = "CYCLES"
        cycles = scene.cycles
        cycles.samples, cycles.seed, cycles.use_denoising, cycles.use_adaptive_sampling = 1, 0, False, False
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
        cycles.max_bounces, cycles.transparent_max_bounces = 0, _LEAVES
        self._show_lights(False)
        image.file_format, image.color_mode, image.color_depth = "OPEN_EXR_MULTILAYER", "RGBA", "32"
        image.exr_codec = "NONE"

    def _show_lights(self, on: bool) -> None:
        """Light takes half of the geometry render's time, for a picture that nobody looks at."""
        assert self._lit
        world = self._lit.world if on else None
        if self.scene.world == world:
            return  # setting what is set makes Cycles work the world out again
        for lamp in self._lit.lamps:
            lamp.hide_render = not on
        self.scene.world = world

    def _render(self, camera: Camera) -> None:
        _aim(self._camera, camera)
        self.scene.render.filepath = str(self.path)
        try:
            bpy.ops.render.render(write_still=True)
        except RuntimeError as error:
            memory = "out of memory" in str(error).lower()
            raise ItemError("out-of-memory" if memory else "crash", f"Cycles: {str(error).strip()}") from error


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _add_camera() -> bpy.types.Object:
    data = bpy.data.cameras.new("camera")
    data.sensor_fit = "HORIZONTAL"
    # Nearer than `fitting.NEAREST` and farther than any rig goes.
    data.clip_start, data.clip_end = 0.01, 2000.0
    camera = bpy.data.objects.new("camera", data)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    return camera


def _aim(blender_camera: bpy.types.Object, camera: Camera) -> None:
    """Pose and lens of our camera. Where a pixel is not square in angle (fx and fy differ), Blender's pixel aspect says so."""
    fx, fy, cx, cy = camera.intrinsics.tolist()
    data, render = blender_camera.data, bpy.context.scene.render
    render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, fy / fx), max(1.0, fx / fy)
    data.lens = fx * data.sensor_width
    # A shift moves the window over the world, so the principal point goes the other way; both are in sensor widths.
    data.shift_x, data.shift_y = 0.5 - cx, (cy - 0.5) * fx / fy
    blender_camera.matrix_world = Matrix(cameras.homogeneous(camera.world_from_camera).tolist())


def _set_up(scene: bpy.types.Scene, resolution: int, device: str) -> None:
    """All that both passes share."""
    render, cycles = scene.render, scene.cycles
    render.engine, cycles.device = "CYCLES", device.upper()
    render.resolution_x = render.resolution_y = resolution
    render.resolution_percentage = 100
    render.film_transparent, render.dither_intensity = True, 0.0
    render.use_file_extension, render.use_persistent_data = False, True
    render.use_compositing = render.use_sequencer = False
    scene.display_settings.display_device = "sRGB"
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0.0, 1.0
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = True


def _use_quality(scene: bpy.types.Scene, quality: Quality, engine: str) -> None:
    cycles = scene.cycles
    scene.render.engine = "CYCLES" if engine == "cycles" else devices.eevee()
    cycles.samples = quality.samples
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = quality.adaptive > 0, quality.adaptive
    cycles.use_denoising, cycles.denoiser = quality.denoise != "none", "OPENIMAGEDENOISE"
    if quality.denoise != "none":
        cycles.denoising_quality = quality.denoise.upper()
    cycles.denoising_input_passes, cycles.denoising_prefilter = "RGB_ALBEDO_NORMAL", quality.prefilter.upper()
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    cycles.max_bounces = quality.bounces
    cycles.caustics_reflective = cycles.caustics_refractive = quality.caustics
    cycles.use_light_tree, cycles.sampling_pattern = quality.light_tree, quality.pattern
    scene.eevee.taa_render_samples = quality.samples
    # Light weaker than this EEVEE leaves out; its own value loses most of a faint lamp. 0 loses everything.
    scene.eevee.light_threshold = 1e-5


def encode_view(
    passes: Sequence[str], rgba: np.ndarray, seen: Seen | None, camera: Camera, depth_scale: float
) -> dict[str, bytes]:
    """Pass -> PNG, of the `passes` asked for; `seen` may only be None where that is colour alone."""
    images = {"rgba": encode_png(rgba)}
    if seen is None:
        return images
    encoders: dict[str, Callable[[], bytes]] = {
        "depth": lambda: encode_depth(seen.depth, depth_scale),
        "normal": lambda: encode_normal(seen.normal, seen.hit),
        "albedo": lambda: encode_albedo(seen.albedo, seen.hit),
        "position": lambda: encode_position(_positions(seen.depth, camera), seen.hit),
        "material": lambda: encode_material(seen.metallic, seen.roughness, seen.hit),
        "mask": lambda: encode_mask(seen.hit),
    }
    return images | {name: encoders[name]() for name in passes if name in encoders}


def _positions(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W, 3) world points of a depth picture: exactly what a reader would make of it."""
    uv = cameras.pixel_centres(depth.shape[1], depth.shape[0])
    return cameras.backproject(uv, depth, camera.world_from_camera, camera.intrinsics)
