"""Pictures of the current scene by Cycles: colour, and the geometry seen at every pixel's centre.

Colour is filtered, lit and denoised. Depth and normals come from a second render of the same camera with one sample a pixel, a
filter a hundredth of a pixel wide and no light: no mixture across an edge, and a depth that belongs to the pixel's own ray.
Blender hands pixels over by way of files only; ours has no name and lives in memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from datasets.captures import decode_png
from render.lights import AreaLight, Lights
from render.rigs import Camera
from render.settings import Settings
from turntable import cameras
from turntable.jobs import ItemError

_NOTHING_HIT = 1e9
"""Cycles' depth is 1e10 where nothing is hit."""


class Studio:
    """Camera, lights and render settings around the asset in the current scene."""

    def __init__(self, settings: Settings, lights: Lights, device: str, threads: int = 0) -> None:
        """`device` is `cpu` or `gpu`, already chosen in Blender's preferences by `render.devices`; `threads` 0 = all cores."""
        self.settings = settings
        self.scene = bpy.context.scene
        self._scratch = tempfile.TemporaryFile(dir=_memory_folder())  # noqa: SIM115 - closed with the studio
        self.path = Path(f"/dev/fd/{self._scratch.fileno()}")
        self._camera = _add_camera()
        _light_scene(lights)
        _set_up(self.scene, settings.resolution, device)
        self.scene.render.threads_mode = "FIXED" if threads else "AUTO"
        self.scene.render.threads = threads or 1

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def colour(self, camera: Camera, noise_seed: int) -> np.ndarray:
        """(H, W, 4) uint8, straight alpha, sRGB."""
        cycles, image = self.scene.cycles, self.scene.render.image_settings
        cycles.samples, cycles.seed = self.settings.samples, noise_seed
        cycles.use_denoising = self.settings.denoise
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        cycles.max_bounces = 6
        self.scene.use_nodes = False
        image.file_format, image.color_mode, image.color_depth, image.compression = "PNG", "RGBA", "8", 0
        self._render(camera)
        return decode_png(self.path.read_bytes())

    def geometry(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Planar depth (H, W) float32 in object units, 0 where nothing is hit, and shading normals (H, W, 3) in the world frame."""
        cycles, image = self.scene.cycles, self.scene.render.image_settings
        cycles.samples, cycles.seed, cycles.use_denoising = 1, 0, False
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
        cycles.max_bounces = 0
        _hand_over_geometry(self.scene)
        image.file_format, image.color_mode, image.color_depth, image.exr_codec = "OPEN_EXR", "RGBA", "32", "NONE"
        self._render(camera)
        normal_and_depth = _read_floats(self.path)
        depth = normal_and_depth[..., 3]
        hit = (depth > 0) & (depth < _NOTHING_HIT)
        return np.where(hit, depth, 0), normal_and_depth[..., :3] * hit[..., None]

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


def _light_scene(lights: Lights) -> None:
    world = bpy.data.worlds.new("world")
    bpy.context.scene.world = world
    world.use_nodes = True
    background = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (1, 1, 1, 1)
    background.inputs["Strength"].default_value = lights.world
    for light in lights.areas:
        _add_area(light)


def _add_area(light: AreaLight) -> None:
    data = bpy.data.lights.new("area", "AREA")
    data.shape, data.size, data.energy, data.color = "SQUARE", light.size, light.power, light.colour
    lamp = bpy.data.objects.new("area", data)
    # An area light shines along its -z, as a camera looks.
    lamp.matrix_world = Matrix(cameras.homogeneous(cameras.look_at(np.array(light.position))).tolist())
    lamp.visible_camera = False
    bpy.context.scene.collection.objects.link(lamp)


def _set_up(scene: bpy.types.Scene, resolution: int, device: str) -> None:
    """All that both passes share."""
    render, cycles = scene.render, scene.cycles
    render.engine, cycles.device = "CYCLES", device.upper()
    render.resolution_x = render.resolution_y = resolution
    render.resolution_percentage = 100
    render.film_transparent, render.dither_intensity = True, 0.0
    render.use_file_extension, render.use_persistent_data = False, True
    render.use_compositing, render.compositor_precision = True, "FULL"
    scene.display_settings.display_device = "sRGB"
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0.0, 1.0
    cycles.use_adaptive_sampling = False
    cycles.denoiser, cycles.denoising_quality = "OPENIMAGEDENOISE", "FAST"
    cycles.denoising_input_passes, cycles.denoising_prefilter = "RGB_ALBEDO_NORMAL", "FAST"
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = True


def _hand_over_geometry(scene: bpy.types.Scene) -> None:
    """The compositor puts the normals into the picture's colour and the depth into its alpha: one plain EXR holds both."""
    scene.use_nodes = True
    tree = scene.node_tree
    if any(node.type == "SET_ALPHA" for node in tree.nodes):
        return
    tree.nodes.clear()
    layers, pack = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeSetAlpha")
    result = tree.nodes.new("CompositorNodeComposite")
    pack.mode = "REPLACE_ALPHA"
    tree.links.new(layers.outputs["Normal"], pack.inputs["Image"])
    tree.links.new(layers.outputs["Depth"], pack.inputs["Alpha"])
    tree.links.new(pack.outputs["Image"], result.inputs["Image"])


def _read_floats(path: Path) -> np.ndarray:
    """(H, W, 4) float32 of a picture file, top row first."""
    image = bpy.data.images.load(str(path), check_existing=False)
    try:
        image.colorspace_settings.is_data = True
        width, height = image.size
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    return pixels.reshape(height, width, 4)[::-1]
