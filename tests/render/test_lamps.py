"""Lights as Blender renders them: a white matt sphere is as bright as stated, the same from run to run, never in the alpha."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np
import pytest

from render import lamps
from render.brightness import panorama_directions
from render.lights import Lighting, Lights, draw
from render.passes import Studio
from render.rigs import Camera
from render.settings import Settings
from turntable import cameras
from turntable.jobs import ItemError

SIZE = 32
DISTANCE = 4.0
LENS = cameras.intrinsics_from_fov(36.0)


def white_sphere() -> None:
    """A matt white unit sphere, alone in a fresh scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=64, ring_count=32, radius=1)
    material = bpy.data.materials.new("white")
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    matt, out = tree.nodes.new("ShaderNodeBsdfDiffuse"), tree.nodes.new("ShaderNodeOutputMaterial")
    matt.inputs["Color"].default_value = (1, 1, 1, 1)
    tree.links.new(matt.outputs["BSDF"], out.inputs["Surface"])
    bpy.context.object.data.materials.append(material)
    for face in bpy.context.object.data.polygons:
        face.use_smooth = True


def from_all_sides() -> list[Camera]:
    spots = [
        *np.eye(3),
        *-np.eye(3),
        *(np.array([x, y, z]) / 3**0.5 for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)),
    ]
    return [Camera(cameras.look_at(DISTANCE * spot), LENS) for spot in spots]


SETTINGS = Settings(views=1, resolution=SIZE, samples=64)


def linear(rgba: np.ndarray) -> np.ndarray:
    """sRGB bytes -> linear, IEC 61966-2-1."""
    value = rgba[..., :3] / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def seen(lights: Lights) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Linear pictures and alphas of the white sphere from all sides."""
    white_sphere()
    with Studio(SETTINGS, lights, "cpu") as studio:
        pictures = [studio.colour(camera, 0) for camera in from_all_sides()]
    return [linear(picture) for picture in pictures], [picture[..., 3] for picture in pictures]


def levels(pictures: list[np.ndarray], alphas: list[np.ndarray]) -> tuple[float, float]:
    """Brightest and darkest channel of the sphere, but for its rim."""
    whole = [cv2.erode((alpha == 255).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0 for alpha in alphas]
    inside = np.concatenate([p[where] for p, where in zip(pictures, whole, strict=True)])
    return float(inside.max()), float(inside.min())


def write_surrounding(path: Path, sun: tuple[float, float] = (120.0, 40.0)) -> None:
    """A bluish sky over a brown ground with a soft warm sun at (azimuth from +y to +x, elevation)."""
    directions = panorama_directions(64, 128)
    azimuth, elevation = np.deg2rad(sun)
    to_sun = [np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)]
    glow = np.exp(40 * (directions @ np.array(to_sun) - 1))[..., None]
    base = np.where(directions[..., 2:] > 0, [0.3, 0.4, 0.6], [0.2, 0.15, 0.1])
    radiance = (7 * (base + glow * [30, 25, 18])).astype(np.float32)
    # Equirectangular pictures have +x in their middle, and +y a quarter left of it; ours has +y in the middle.
    cv2.imwrite(str(path), np.roll(radiance, -32, axis=1)[..., ::-1])


@pytest.fixture(scope="module")
def hdri_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hdri")
    write_surrounding(folder / "noon.hdr")
    return folder


def kind(light: Any, folder: Path) -> Lighting:
    return Lighting(light=light, hdri=folder if light == "hdri" else None)


@pytest.mark.parametrize(
    ("light", "uid", "darkest"),
    [
        ("studio", "a", 0.2),
        ("studio", "c", 0.2),
        ("sun", "a", 0.04),
        ("sun", "b", 0.04),
        ("hdri", "a", 0.02),
        ("white", "a", 0.8),
    ],
)
def test_a_white_sphere_is_as_bright_as_stated(light: str, uid: str, darkest: float, hdri_folder: Path) -> None:
    pictures, alphas = seen(draw(kind(light, hdri_folder), 0, uid))
    high, low = levels(pictures, alphas)
    # 64 noisy samples, denoised, in steps of 1 / 255 of sRGB: 5 %.
    assert high == pytest.approx(0.9, rel=0.05)
    assert low > darkest
    # What lights is never in the picture: nothing around the sphere, and the sphere covers what it covers in any light.
    assert all((alpha[0] == 0).all() and (alpha[:, -1] == 0).all() for alpha in alphas)
    share = np.mean([(alpha / 255).mean() for alpha in alphas])
    radius = LENS[0] / np.sqrt(DISTANCE**2 - 1)  # of the sphere's outline, in picture sides
    assert share == pytest.approx(np.pi * radius**2, rel=0.02)


def brightest_direction(lights: Lights) -> np.ndarray:
    """Where the sphere's brightest points face, from its pictures."""
    total = np.zeros(3)
    for camera, picture in zip(from_all_sides(), seen(lights)[0], strict=True):
        value = picture.mean(axis=2)
        rows, columns = np.nonzero(value > 0.85)
        uv = cameras.pixel_centres(SIZE, SIZE)[rows, columns]
        origins, directions = cameras.rays(uv, camera.world_from_camera, camera.intrinsics)
        along = -(origins * directions).sum(1)
        reach = along**2 - (origins**2).sum(1) + 1
        points = origins + (along - np.sqrt(np.maximum(reach, 0)))[:, None] * directions
        total += (points * ((value[rows, columns] - 0.85) * (reach > 0))[:, None]).sum(axis=0)
    return total / np.linalg.norm(total)


def test_a_picture_s_sun_shines_from_where_it_is_turned_to(tmp_path: Path) -> None:
    # In the picture the sun is at 120° from +y towards +x; counter-clockwise, seen from above, is the other way.
    write_surrounding(tmp_path / "noon.hdr")
    lights = draw(kind("hdri", tmp_path), 0, "a")
    assert lights.surroundings
    turned = dataclasses.replace(lights, surroundings=dataclasses.replace(lights.surroundings, rotation_deg=75.0))
    azimuth, elevation = np.deg2rad([120 - 75, 40])
    expected = [np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)]
    # The sky adds a little from above.
    assert np.rad2deg(np.arccos(brightest_direction(turned) @ expected)) < 12


def test_the_sky_is_brightest_around_its_sun(tmp_path: Path) -> None:
    for uid in "abc":
        lights = draw(Lighting(light="sun"), 0, uid)
        assert lights.sky
        bpy.ops.wm.read_factory_settings(use_empty=True)
        installed = lamps.install(lights, tmp_path / "probe.exr")
        image = next(n.image for n in installed.world.node_tree.nodes if n.type == "TEX_ENVIRONMENT")
        pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
        image.pixels.foreach_get(pixels)
        sky = np.roll(
            pixels.reshape(image.size[1], image.size[0], 4)[::-1, :, :3].sum(axis=2), image.size[0] // 4, axis=1
        )
        directions = panorama_directions(*sky.shape)
        level = abs(directions[..., 2] - np.sin(np.deg2rad(lights.sky.sun_elevation_deg))) < 0.05
        brightest = directions[level][sky[level].argmax()]
        to_sun = cameras.spherical_position(lights.sky.sun_azimuth_deg, lights.sky.sun_elevation_deg, 1.0)
        assert np.rad2deg(np.arccos(brightest @ to_sun)) < 10
        (sun,) = installed.lamps
        assert np.allclose(np.array(sun.matrix_world)[:3, 2], to_sun, atol=1e-5)
        measured = installed.record["sky"]
        assert np.allclose(sky[directions[..., 2] < 0], sum(measured["ground_radiance"]), rtol=1e-5)


def test_new_lights_replace_the_old_and_leave_nothing(hdri_folder: Path) -> None:
    white_sphere()
    camera = from_all_sides()[5]
    lights = {light: draw(kind(light, hdri_folder), 0, "a") for light in ("studio", "sun", "hdri", "white")}
    with Studio(SETTINGS, lights["studio"], "cpu") as studio:
        first = studio.colour(camera, 0)
        for light in ("sun", "hdri", "white"):
            studio.light(lights[light])
            assert not np.array_equal(studio.colour(camera, 0), first)
        assert not [obj for obj in bpy.data.objects if obj.type == "LIGHT"] and len(bpy.data.worlds) == 1
        studio.light(lights["studio"])
        assert np.array_equal(studio.colour(camera, 0), first)
        assert len(bpy.data.worlds) == 1 and len(bpy.data.scenes) == 1
        assert not [image for image in bpy.data.images if image.source == "GENERATED"]


def test_a_surrounding_that_changed_or_went_is_named(tmp_path: Path) -> None:
    write_surrounding(tmp_path / "noon.hdr")
    lights = draw(kind("hdri", tmp_path), 0, "a")
    write_surrounding(tmp_path / "noon.hdr", sun=(0.0, 10.0))
    for words in ("changed since", "No such file"):
        with pytest.raises(ItemError, match=words) as caught:
            lamps.install(lights, tmp_path / "probe.exr")
        assert caught.value.reason == "no-light" and "noon.hdr" in str(caught.value)
        (tmp_path / "noon.hdr").unlink(missing_ok=True)
