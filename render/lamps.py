"""Puts drawn lights into Blender's scene, and finds the strengths that only Blender's own sky can tell."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import OpenEXR
from mathutils import Matrix

from render.brightness import balance_sun
from render.lights import AreaLight, Lights, Sky, Surroundings
from turntable import cameras
from turntable.files import sha256
from turntable.jobs import ItemError

_NAME = "turntable light"
_PROBE_HEIGHT = 32
"""Pixels of the picture that a sky is measured by; its sun is a lamp, so nothing in it is small."""


def install(lights: Lights, scratch: Path) -> dict[str, Any]:
    """Lights the current scene by `lights` alone -> what the capture says of them. `scratch` is a file to hand pixels over in."""
    _remove()
    world = bpy.data.worlds.new(_NAME)
    bpy.context.scene.world = world
    world.use_nodes = True
    record = lights.record()
    if lights.sky:
        record["sky"] = record["sky"] | _add_sky(world, lights.sky, scratch)
    elif lights.surroundings:
        _add_surroundings(world, lights.surroundings)
    else:
        _background(world).inputs["Color"].default_value = (1, 1, 1, 1)
        _background(world).inputs["Strength"].default_value = lights.world
    for light in lights.areas:
        _add_area(light)
    return record


def _remove() -> None:
    """What an earlier `install` left in the scene."""
    for obj in [obj for obj in bpy.data.objects if obj.name.startswith(_NAME)]:
        bpy.data.lights.remove(obj.data)
    for world in [world for world in bpy.data.worlds if world.name.startswith(_NAME)]:
        bpy.data.worlds.remove(world)


def _background(world: bpy.types.World) -> Any:
    return next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")


def _add_lamp(kind: str, from_where: np.ndarray) -> bpy.types.Light:
    data = bpy.data.lights.new(_NAME, kind)
    lamp = bpy.data.objects.new(_NAME, data)
    # A light shines along its -z, as a camera looks.
    lamp.matrix_world = Matrix(cameras.homogeneous(cameras.look_at(from_where)).tolist())
    lamp.visible_camera = False
    bpy.context.scene.collection.objects.link(lamp)
    return data


def _add_area(light: AreaLight) -> None:
    data = _add_lamp("AREA", np.array(light.position))
    data.shape, data.size, data.energy, data.color = "SQUARE", light.size, light.power, light.colour


def _add_sky(world: bpy.types.World, sky: Sky, scratch: Path) -> dict[str, Any]:
    """The sky's own strengths, measured."""
    tree, links = world.node_tree, world.node_tree.links
    texture = _sky_texture(tree, sky)
    background = _background(world)
    links.new(texture.outputs["Color"], background.inputs["Color"])
    to_sun = cameras.spherical_position(sky.sun_azimuth_deg, sky.sun_elevation_deg, 1.0)
    colour = np.array(sky.sun_colour)
    seen = _panorama(world, scratch)
    strength, irradiance, ground = balance_sun(seen, to_sun, colour, sky.ground, sky.level, sky.share)
    _add_ground(tree, texture, background, strength, ground)
    data = _add_lamp("SUN", to_sun)
    data.energy, data.angle, data.color = irradiance, float(np.deg2rad(sky.sun_size_deg)), sky.sun_colour
    return {"sky_strength": strength, "sun_irradiance": irradiance, "ground_radiance": ground.tolist()}


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


def _add_ground(tree: Any, texture: Any, background: Any, strength: float, ground: np.ndarray) -> None:
    """Below the horizon, where Blender's sky is black, an even ground; above it the sky at its strength."""
    direction, split = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new("ShaderNodeSeparateXYZ")
    above, mix = tree.nodes.new("ShaderNodeMath"), tree.nodes.new("ShaderNodeMix")
    above.operation, mix.data_type = "GREATER_THAN", "RGBA"
    above.inputs[1].default_value = 0.0
    factor, below, sky = (next(i for i in mix.inputs if i.identifier == n) for n in _MIX_INPUTS)
    below.default_value = (*(ground / strength).tolist(), 1.0)
    tree.links.new(direction.outputs["Generated"], split.inputs["Vector"])
    tree.links.new(split.outputs["Z"], above.inputs[0])
    tree.links.new(above.outputs["Value"], factor)
    tree.links.new(texture.outputs["Color"], sky)
    tree.links.new(next(o for o in mix.outputs if o.identifier == "Result_Color"), background.inputs["Color"])
    background.inputs["Strength"].default_value = strength


_MIX_INPUTS = ("Factor_Float", "A_Color", "B_Color")
"""Blender's mix node has a set of sockets a type, of the same names."""


def _add_surroundings(world: bpy.types.World, surroundings: Surroundings) -> None:
    path = Path(surroundings.folder) / surroundings.file
    try:
        stat = path.stat()
        found = _hash(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ItemError("no-light", f"{path}: {error.strerror}; every worker needs the folder of --hdri") from error
    if found != surroundings.sha256:
        raise ItemError("no-light", f"{path}: changed since the run began (SHA-256 {found[:12]}…); use another --out")
    tree = world.node_tree
    picture, turn = tree.nodes.new("ShaderNodeTexEnvironment"), tree.nodes.new("ShaderNodeMapping")
    direction = tree.nodes.new("ShaderNodeTexCoord")
    picture.image = bpy.data.images.load(str(path), check_existing=True)
    # The picture turns one way when the directions that look it up turn the other.
    turn.inputs["Rotation"].default_value = (0, 0, -float(np.deg2rad(surroundings.rotation_deg)))
    tree.links.new(direction.outputs["Generated"], turn.inputs["Vector"])
    tree.links.new(turn.outputs["Vector"], picture.inputs["Vector"])
    tree.links.new(picture.outputs["Color"], _background(world).inputs["Color"])
    _background(world).inputs["Strength"].default_value = surroundings.strength


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
    render.resolution_x, render.resolution_y, render.resolution_percentage = 2 * _PROBE_HEIGHT, _PROBE_HEIGHT, 100
    render.film_transparent, render.use_file_extension, render.filepath = False, False, str(scratch)
    cycles.samples, cycles.use_adaptive_sampling, cycles.use_denoising = 1, False, False
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
    scene.view_settings.view_transform = "Standard"
    image.file_format, image.color_mode, image.color_depth, image.exr_codec = "OPEN_EXR", "RGB", "32", "NONE"
