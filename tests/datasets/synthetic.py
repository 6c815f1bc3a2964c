"""Captures of analytic scenes, ray-cast with numpy: every pixel's colour, depth and normal is known from a formula.

A scene is a box and a ball in object units whose surface colour encodes its own position, so that a pixel says where it
must have come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.captures import Capture, View, capture_path, write_capture
from datasets.pictures import encode_depth, encode_normal, encode_png
from turntable import cameras, framing, report
from turntable.geometry import SOLID_RESOLUTION, Geometry, voxel_centres

DEPTH_SCALE = 1e-4
"""Object units a step."""


@dataclass(frozen=True)
class Scene:
    """A box standing on end with a ball on top; no two seeds are alike."""

    half_extent: np.ndarray
    """(3,) half sides of the box, centred at `box_centre`."""
    box_centre: np.ndarray
    ball_centre: np.ndarray
    ball_radius: float
    tint: np.ndarray
    """(3,) added to the colour, so that objects differ."""


def scene(seed: int) -> Scene:
    """The scene of `seed`, inside the unit ball."""
    rng = np.random.default_rng([seed, 77])
    half = rng.uniform(0.2, 0.42, 3)
    radius = rng.uniform(0.18, 0.28)
    ball = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), 0.35])
    return Scene(half, np.array([0.0, 0.0, -0.2]), ball, radius, rng.uniform(0, 0.3, 3))


def cast(
    world: Scene, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rays (N, 3) with unit directions -> hit (N,) bool, distance (N,), normal (N, 3), colour (N, 3) in [0, 1]."""
    box_t, box_normal = _cast_box(world, origins, directions)
    ball_t, ball_normal = _cast_ball(world, origins, directions)
    nearer_ball = ball_t < box_t
    t = np.where(nearer_ball, ball_t, box_t)
    hit = np.isfinite(t)
    points = origins + np.where(hit, t, 0)[:, None] * directions
    normal = np.where(nearer_ball[:, None], ball_normal, box_normal)
    return hit, t, normal, colour_at(world, points)


def colour_at(world: Scene, points: np.ndarray) -> np.ndarray:
    """(N, 3) surface points -> (N, 3) colours: the position itself, mapped into [0.1, 0.9]."""
    return (0.1 + 0.5 * (points + 1) / 2 + world.tint).clip(0, 1)


def _cast_box(world: Scene, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The slab method, Kay & Kajiya 1986.
    with np.errstate(divide="ignore", invalid="ignore"):
        low = (world.box_centre - world.half_extent - origins) / directions
        high = (world.box_centre + world.half_extent - origins) / directions
    near, far = np.minimum(low, high), np.maximum(low, high)
    enter, leave = near.max(axis=1), far.min(axis=1)
    hit = (enter < leave) & (enter > 0)
    axis = near.argmax(axis=1)
    normal = np.zeros_like(directions)
    rows = np.arange(len(axis))
    normal[rows, axis] = -np.sign(directions[rows, axis])
    return np.where(hit, enter, np.inf), normal


def _cast_ball(world: Scene, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offset = origins - world.ball_centre
    b = (offset * directions).sum(axis=1)
    discriminant = b**2 - (offset**2).sum(axis=1) + world.ball_radius**2
    t = np.where(discriminant > 0, -b - np.sqrt(np.maximum(discriminant, 0)), np.inf)
    points = offset + np.where(np.isfinite(t), t, 0)[:, None] * directions
    return t, points / world.ball_radius


def render(
    world: Scene, pose: np.ndarray, intrinsics: np.ndarray, resolution: int, supersampling: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgba (S, S, 4) uint8 anti-aliased, depth (S, S) planar and normal (S, S, 3) at the pixels' centres."""
    side = resolution * supersampling
    uv = cameras.pixel_centres(side, side).reshape(-1, 2)
    hit, _, _, colour = cast(world, *cameras.rays(uv, pose, intrinsics))
    fine = np.concatenate([colour * hit[:, None], hit[:, None]], axis=1)
    blocks = fine.reshape(resolution, supersampling, resolution, supersampling, 4).mean(axis=(1, 3))
    straight = np.where(blocks[..., 3:] > 0, blocks[..., :3] / np.maximum(blocks[..., 3:], 1e-9), 0)
    rgba = np.round(np.concatenate([straight, blocks[..., 3:]], axis=-1) * 255).astype(np.uint8)
    uv = cameras.pixel_centres(resolution, resolution).reshape(-1, 2)
    origins, directions = cameras.rays(uv, pose, intrinsics)
    hit, t, normal, _ = cast(world, origins, directions)
    planar = t * -(directions @ pose[:, 2])
    shape = (resolution, resolution)
    return rgba, np.where(hit, planar, 0).reshape(shape), np.where(hit[:, None], normal, 0).reshape(*shape, 3)


def solid(world: Scene, resolution: int = SOLID_RESOLUTION) -> np.ndarray:
    """(resolution,)*3 bool: voxels whose centre lies in the box or the ball."""
    centres = voxel_centres(resolution)
    in_box = (np.abs(centres - world.box_centre) <= world.half_extent).all(axis=1)
    in_ball = ((centres - world.ball_centre) ** 2).sum(axis=1) <= world.ball_radius**2
    return (in_box | in_ball).reshape((resolution,) * 3)


def surface(world: Scene, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` points and normals of the outer surface, found by rays from around; not uniform by area."""
    position = rng.normal(size=(4 * count, 3))
    position *= 2 / np.linalg.norm(position, axis=1, keepdims=True)
    aim = rng.uniform(-0.6, 0.6, position.shape) - position
    direction = aim / np.linalg.norm(aim, axis=1, keepdims=True)
    hit, t, normal, _ = cast(world, position, direction)
    chosen = np.flatnonzero(hit)[:count]
    return (position + t[:, None] * direction)[chosen], normal[chosen]


def shell_cameras(views: int, seed: int, fov_deg: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    """world_from_camera (V, 3, 4) on a shell around the object, and intrinsics (V, 4); view 0 looks at the front."""
    rng = np.random.default_rng([seed, 78])
    poses = []
    for view in range(views):
        azimuth = 360 * view / views + rng.uniform(-10, 10)
        position = cameras.spherical_position(azimuth, rng.uniform(-15, 50), rng.uniform(2.5, 3.0))
        poses.append(cameras.look_at(position, roll_deg=rng.uniform(-3, 3)))
    return np.stack(poses), np.tile(cameras.intrinsics_from_fov(fov_deg), (views, 1))


def make_capture(uid: str, seed: int, views: int, resolution: int, points: int = 2000) -> Capture:
    """The capture of scene `seed`."""
    world = scene(seed)
    poses, intrinsics = shell_cameras(views, seed)
    made, pictures = [], []
    for pose, lens in zip(poses, intrinsics, strict=True):
        rgba, depth, normal = render(world, pose, lens, resolution)
        images = {
            "rgba": encode_png(rgba),
            "depth": encode_depth(depth, DEPTH_SCALE),
            "normal": encode_normal(normal, depth > 0),
        }
        made.append(View(pose, lens, images, {"coverage": float((rgba[..., 3] > 0).mean())}))
        pictures.append((framing.on_background(rgba) * 255).round().astype(np.uint8))
    where, normals = surface(world, np.random.default_rng([seed, 79]), points)
    geometry = Geometry(where.astype(np.float32), normals.astype(np.float32), solid(world))
    preview = report.encode_picture(report.contact_sheet(pictures, columns=4))
    record = {
        "seed": seed,
        "source": "synthetic",
        "lvis_class": "lamp",
        "licence": "cc0",
        "name": f"Scene {seed}",
        "creator": "tests",
        "source_url": "",
    }
    return Capture(uid, resolution, resolution, DEPTH_SCALE, made, geometry, preview, record)


def uid_of(number: int, seed: int = 0) -> str:
    """The uid of the `number`-th capture that `write_captures` writes: 32 hexadecimal digits."""
    return f"{number:02x}{seed:06x}".ljust(32, "5")


def write_captures(folder: Path, count: int, views: int = 6, resolution: int = 64, seed: int = 0) -> list[Path]:
    """Writes `count` captures below `folder` and returns their paths, in the order of their uids."""
    paths = []
    for number in range(count):
        uid = uid_of(number, seed)
        write_capture(capture_path(folder, uid), make_capture(uid, 1000 * seed + number, views, resolution))
        paths.append(capture_path(folder, uid))
    return paths
