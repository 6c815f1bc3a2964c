"""Objects of which the pictures show soft white dots at known points: where a dot's centre of mass lies is where a camera
that claims to have taken the picture must see the point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.shard_writer import ShardObject, ShardWriter
from datasets.shards import encode_rgba
from turntable import cameras, framing
from turntable.geometry import SOLID_RESOLUTION, Geometry

POINTS = np.array(
    [[0.7, 0, 0], [-0.6, 0.2, 0.3], [0, 0.7, -0.4], [0.1, -0.6, 0.5], [-0.2, -0.1, -0.75], [0.2, 0.3, 0.7]]
)
"""(6, 3) object units."""
SIGMA = 1.7
"""Pixels: wide enough that eight bits place a dot within 0.005 pixel, narrow enough that its tails end."""


def dots(pose: np.ndarray, lens: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 4) uint8: every point a white Gaussian dot in alpha."""
    uv, _ = cameras.project(POINTS, pose, lens)
    grid = cameras.pixel_centres(size, size) * size
    alpha = np.zeros((size, size))
    for centre in uv * size:
        alpha = np.maximum(alpha, 240 * np.exp(-((grid - centre) ** 2).sum(axis=-1) / (2 * SIGMA**2)))
    return np.concatenate([np.full((size, size, 3), 255.0), np.round(alpha)[..., None]], axis=-1).astype(np.uint8)


def measured(alpha: np.ndarray, expected: np.ndarray, others: np.ndarray, radius: int = 8) -> np.ndarray | None:
    """(2,) centre of mass, pixels, of what lies around `expected`; None where another dot or the border is too near."""
    side = len(alpha)
    near_other = (np.abs(others - expected).max(axis=1) < 2.2 * radius).sum() > 1  # itself
    if near_other or (expected < radius + 2).any() or (expected > side - radius - 2).any():
        return None
    column, row = np.floor(expected).astype(int)
    window = alpha[row - radius : row + radius + 1, column - radius : column + radius + 1].astype(float)
    offset = np.arange(-radius, radius + 1) + 0.5
    return np.array([(window.sum(0) * offset).sum(), (window.sum(1) * offset).sum()]) / window.sum() + [column, row]


def lenses(views: int, rng: np.random.Generator, one_lens: bool) -> tuple[np.ndarray, np.ndarray]:
    """Poses (V, 3, 4) and intrinsics (V, 4): one lens, or cameras that look past the centre and squares cut off centre."""
    poses, intrinsics = [], []
    for view in range(views):
        position = cameras.spherical_position(40 * view + 7, rng.uniform(-20, 60), rng.uniform(2.6, 3.2))
        if one_lens:
            poses.append(cameras.look_at(position, roll_deg=5))
            intrinsics.append([1.1, 1.15, 0.49, 0.52])
            continue
        target, roll = rng.uniform(-0.35, 0.35, 3), rng.uniform(-40, 40)
        poses.append(cameras.look_at(position, target, roll))
        lens = cameras.intrinsics_from_fov(rng.uniform(40, 60), aspect=1.5)
        wide = framing.Square(*rng.integers(190, 210, 2), int(rng.integers(520, 640)))
        # As if cut out of a video frame of 900×600 around the dots.
        uv, _ = cameras.project(POINTS, poses[-1], lens)
        low, high = uv.min(axis=0), uv.max(axis=0)
        square = framing.square_around(np.r_[low, high], 900, 600, fill=520 / wide.side * 0.8)
        intrinsics.append(framing.frame_intrinsics(lens, square, 900, 600))
    return np.stack(poses), np.stack([np.asarray(lens, dtype=np.float64) for lens in intrinsics])


def write_shard(
    path: Path, objects: int = 2, views: int = 6, size: int = 200, one_lens: bool = True, **record: object
) -> None:
    """A shard of such objects, `blob-0` and so on, with their points as geometry."""
    writer = ShardWriter(path, {})
    for number in range(objects):
        poses, intrinsics = lenses(views, np.random.default_rng(number), one_lens)
        pictures = [dots(pose, lens, size) for pose, lens in zip(poses, intrinsics, strict=True)]
        boxes = np.array([framing.matte_box(rgba[..., 3]) for rgba in pictures])
        solid = np.zeros((SOLID_RESOLUTION,) * 3, dtype=bool)
        solid[60:68] = True
        normals = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
        shape = Geometry(POINTS.astype(np.float32), normals.astype(np.float32), solid)
        known = {"uid": f"blob-{number}", "licence": "by", "creator": "Ada", "name": f"Dots {number}", **record}
        images = {("rgba", size): [encode_rgba(rgba) for rgba in pictures]}
        writer.add(ShardObject(known, poses, intrinsics, boxes, images, shape))
    writer.close()
