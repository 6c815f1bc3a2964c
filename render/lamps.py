"""Puts drawn lights into Blender's scene, and finds the strengths that only Blender's own sky can tell."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np
import OpenEXR
from mathutils import Matrix

from render.brightness import balance_sun, panorama_directions
from render.lights import AreaLight, Lights, Sky, Surroundings
from turntable import cameras
from turntable.files import sha256
from turntable.jobs import ItemError

_SKY_HEIGHT = 128
"""Pixels of the picture that a sky is; its sun is a lamp, so nothing in it is small."""
_LIGHT_MAP = 512
"""Columns, each 0.7° wide: about the sun."""


@dataclass(frozen=True)
class Installed:
    """Lights that are in the scene."""

    world: bpy.types.World
    lamps: tuple[bpy.types.Object, ...]
    record: dict[str, Any]
    """What the capture says of them. JSON values."""


def remove(installed: Installed) -> None:
    """Takes them out of Blender."""
    for lamp in installed.lamps:
        bpy.data.lights.remove(lamp.data)
    for node in installed.world.node_tree.nodes:
        if node.type == "TEX_ENVIRONMENT" and node.image.source == "GENERATED":
            bpy.data.images.remove(node.image)
    bpy.data.worlds.remove(installed.world)


def install(lights: Lights, scratch: Path) -> Installed:
    """Adds `lights` to the current scene. `scratch` is a file to hand pixels over in."""
    world = bpy.data.worlds.new("turntable")
    bpy.context.scene.world = world
    world.use_nodes = True
    record = lights.record()
    lamps = [_add_area(light) for light in lights.areas]
    if lights.sky:
        sun, measured = _add_sky(world, lights.sky, scratch)
        lamps.append(sun)
        record["sky"] = record["sky"] | measured
    elif lights.surroundings:
        _add_surroundings(world, lights.surroundings)
    else:
        _background(world).inputs["Color"].default_value = (1, 1, 1, 1)
        _background(world).inputs["Strength"].default_value = lights.world
    return Installed(world, tuple(lamps), record)


def _background(world: bpy.types.World) -> Any:
    return next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")


def _add_lamp(kind: str, from_where: np.ndarray) -> bpy.types.Object:
    lamp = bpy.data.objects.new("turntable", bpy.data.lights.new("turntable", kind))
    # A light shines along its -z, as a camera looks.
    lamp.matrix_world = Matrix(cameras.homogeneous(cameras.look_at(from_where)).tolist())
    lamp.visible_camera = False
    bpy.context.scene.collection.objects.link(lamp)
    return lamp


def _add_area(light: AreaLight) -> bpy.types.Object:
    lamp = _add_lamp("AREA", np.array(light.position))
    data = lamp.data
    data.shape, data.size, data.energy, data.color = "SQUARE", light.size, light.power, light.colour
    return lamp


def _add_sky(world: bpy.types.World, sky: Sky, scratch: Path) -> tuple[bpy.types.Object, dict[str, Any]]:
    """The sun, and what was measured of the sky."""
    tree = world.node_tree
    texture = _sky_texture(tree, sky)
    tree.links.new(texture.outputs["Color"], _background(world).inputs["Color"])
    to_sun = cameras.spherical_position(sky.sun_azimuth_deg, sky.sun_elevation_deg, 1.0)
    colour = np.array(sky.sun_colour)
    seen = _panorama(world, scratch)
    coarse = cv2.resize(seen, (64, 32), interpolation=cv2.INTER_AREA)
    strength, irradiance, ground = balance_sun(coarse, to_sun, colour, sky.ground, sky.level, sky.share)
    tree.nodes.remove(texture)
    # The sky is handed over as a picture: Cycles would work Blender's own out again for every view. It is black below the
    # horizon, where an even ground takes its place.
    above = panorama_directions(*seen.shape[:2])[..., 2:] > 0
    _show_picture(world, _picture_of(np.where(above, strength * seen, ground)), 0.0, 1.0)
    sun = _add_lamp("SUN", to_sun)
    data = sun.data
    data.energy, data.angle, data.color = irradiance, float(np.deg2rad(sky.sun_size_deg)), sky.sun_colour
    return sun, {"sky_strength": strength, "sun_irradiance": irradiance, "ground_radiance": ground.tolist()}


def _sky_texture(tree: Any, sky: Sky) -> Any:
    """Blender's sky without its sun, which is a lamp of ours: so both engines show it, and its strength is ours to set."""
    texture = tree.nodes.new("ShaderNodeTexSky")
    types = [item.identifier for item in texture.bl_rna.properties["sky_type"].enum_items]
    # The same model; Blender 5.0 renamed it, and dust with it.
    texture.sky_type = "NISHITA" if "NISHITA" in types else "SINGLE_SCATTERING"
    texture.sun_disc = False
    texture.sun_elevation = float(np.deg2rad(sky.sun_elevation_deg))
    # Blender's rotation 0 is +y, growing clockwise seen from above; our azimuth 0 is -y, growing counter-clockwise.
    texture.sun_rotation = float(np.deg2rad(180 - sky.sun_azimuth_deg))
    texture.air_density = sky.air
    setattr(texture, "dust_density" if hasattr(texture, "dust_density") else "aerosol_density", sky.dust)
    return texture


def _picture_of(radiance: np.ndarray) -> bpy.types.Image:
    """A picture of all directions, as `brightness.panorama_directions` orders them, for an environment texture."""
    height, width = radiance.shape[:2]
    image = bpy.data.images.new("turntable sky", width, height, float_buffer=True, is_data=True)
    # An environment's middle column looks along +x, a quarter left of where +x is in ours; its first row is the lowest.
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = np.roll(radiance, -width // 4, axis=1)[::-1]
    image.pixels.foreach_set(rgba.reshape(-1))
    return image


def _add_surroundings(world: bpy.types.World, surroundings: Surroundings) -> None:
    path = Path(surroundings.folder) / surroundings.file
    try:
        stat = path.stat()
        found = _hash(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ItemError("no-light", f"{path}: {error.strerror}; every worker needs the folder of --hdri") from error
    if found != surroundings.sha256:
        raise ItemError("no-light", f"{path}: changed since the run began (SHA-256 {found[:12]}…); use another --out")
    picture = bpy.data.images.load(str(path), check_existing=True)
    _show_picture(world, picture, surroundings.rotation_deg, surroundings.strength)


def _show_picture(world: bpy.types.World, image: bpy.types.Image, rotation_deg: float, strength: float) -> None:
    tree = world.node_tree
    picture, turn = tree.nodes.new("ShaderNodeTexEnvironment"), tree.nodes.new("ShaderNodeMapping")
    direction = tree.nodes.new("ShaderNodeTexCoord")
    picture.image = image
    # The picture turns one way when the directions that look it up turn the other.
    turn.inputs["Rotation"].default_value = (0, 0, -float(np.deg2rad(rotation_deg)))
    tree.links.new(direction.outputs["Generated"], turn.inputs["Vector"])
    tree.links.new(turn.outputs["Vector"], picture.inputs["Vector"])
    tree.links.new(picture.outputs["Color"], _background(world).inputs["Color"])
    _background(world).inputs["Strength"].default_value = strength
    # The map of where light comes from is made for every view; at the picture's own size it would cost more than the view.
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", _LIGHT_MAP


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, modified_ns: int, size: int) -> str:
    return sha256(path)


def _panorama(world: bpy.types.World, scratch: Path) -> np.ndarray:
    """(H, 2H, 3) radiance of `world` in all directions, see `brightness.panorama_directions`; without anything before it."""
    scene = bpy.data.scenes.new("turntable probe")
    data = bpy.data.cameras.new("turntable probe")
    camera = bpy.data.objects.new("turntable probe", data)
    try:
        scene.collection.objects.link(camera)
        scene.camera, scene.world = camera, world
        world.cycles.sampling_method = "NONE"  # it lights nothing yet
        data.type, data.panorama_type = "PANO", "EQUIRECTANGULAR"
        camera.rotation_euler = (np.pi / 2, 0, 0)  # looks along +y, +z up
        _set_up_probe(scene, scratch)
        bpy.ops.render.render(write_still=True, scene=scene.name)
        with OpenEXR.File(str(scratch)) as file:
            return np.array(file.channels()["RGB"].pixels)
    finally:
        bpy.data.scenes.remove(scene)
        bpy.data.cameras.remove(data)


def _set_up_probe(scene: bpy.types.Scene, scratch: Path) -> None:
    """One sample a pixel, in its middle, always by the CPU: no noise, the same numbers on every machine."""
    render, cycles, image = scene.render, scene.cycles, scene.render.image_settings
    render.engine, cycles.device = "CYCLES", "CPU"
    render.resolution_x, render.resolution_y, render.resolution_percentage = 2 * _SKY_HEIGHT, _SKY_HEIGHT, 100
    render.film_transparent, render.use_file_extension, render.filepath = False, False, str(scratch)
    cycles.samples, cycles.use_adaptive_sampling, cycles.use_denoising = 1, False, False
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
    scene.view_settings.view_transform = "Standard"
    image.file_format, image.color_mode, image.color_depth, image.exr_codec = "OPEN_EXR", "RGB", "32", "NONE"
