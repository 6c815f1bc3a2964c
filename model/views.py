"""A reconstruction as a capture: rendered views with depth, normals and shape, which every command that reads captures reads.

Colour and alpha are the rendered field's; depth, normals, surface points and the solid are the mesh's. As for any asset, the
mesh is centred and scaled to the unit sphere first, and cameras with it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.captures import Capture, View, capture_path, write_capture
from datasets.pictures import encode_depth, encode_normal, encode_png
from model import drawing, mesh, volume
from model.mesh import Mesh
from model.pipeline import Reconstruction
from model.preview import whole_view
from turntable import cameras, framing, geometry, report

LOWEST, HIGHEST = -15.0, 50.0
"""Degrees between which the cameras look down."""
PREVIEW_SIDE = 128
CLEAR = 0.02
"""Opacity below which nothing is seen: a haze that a matte would make visible."""


def view_poses(count: int, distance: float) -> list[np.ndarray]:
    """`count` cameras (3, 4) looking at the centre from all around, heights spread by the golden ratio, the first in front."""
    low, high = np.sin(np.deg2rad([LOWEST, HIGHEST]))
    golden = (5**0.5 - 1) / 2
    heights = [low + (high - low) * ((0.5 + index * golden) % 1) for index in range(count)]
    return [
        cameras.look_at(cameras.spherical_position(360 * index / count, np.rad2deg(np.arcsin(height)), distance))
        for index, height in enumerate(heights)
    ]


def unit_sphere(vertices: np.ndarray) -> tuple[np.ndarray, float]:
    """(3,) centre of the bounding box of (V, 3), and the distance of the farthest vertex from it."""
    centre = (vertices.min(axis=0) + vertices.max(axis=0)).astype(np.float64) / 2
    return centre, float(np.linalg.norm(vertices - centre, axis=1).max())


def write_views(
    folder: Path, uid: str, result: Reconstruction, count: int, size: int, samples: int, record: dict[str, Any]
) -> Path:
    """Writes `folder/<uid[:2]>/<uid>.zip` with `count` views of `size`² pixels; returns its path."""
    centre, radius = unit_sphere(result.shape.vertices)
    object_from_upright = np.concatenate([np.eye(3), -centre[:, None]], axis=1) / radius
    shape = mesh.transformed(result.shape, object_from_upright)
    distance = max(result.framed.distance, 1.5)
    lens = whole_view(distance)
    poses = view_poses(count, distance)
    depth_scale = (distance + 1) / 65535
    pictures = [rendered(result, pose, lens, size, samples, centre, radius) for pose in poses]
    views = [
        View(pose, lens, *_passes(rgba, shape, pose, lens, depth_scale))
        for pose, rgba in zip(poses, pictures, strict=True)
    ]
    solid = geometry.describe(shape.vertices, shape.faces, np.random.default_rng(0))
    small = [framing.resize(rgba, PREVIEW_SIDE, PREVIEW_SIDE) for rgba in pictures]
    sheet = report.contact_sheet([(framing.on_background(rgba) * 255).round().astype(np.uint8) for rgba in small], 6)
    record = record | {"normalisation": {"object_from_asset": object_from_upright.tolist()}}
    path = capture_path(folder, uid)
    write_capture(path, Capture(uid, size, size, depth_scale, views, solid, report.encode_picture(sheet), record))
    return path


def rendered(
    result: Reconstruction,
    object_from_camera: np.ndarray,
    lens: np.ndarray,
    size: int,
    samples: int,
    centre: np.ndarray,
    radius: float,
) -> np.ndarray:
    """(size, size, 4) uint8 straight alpha: the field from a camera in the unit sphere's frame around `centre`."""
    upright = object_from_camera.copy()
    upright[:, 3] = upright[:, 3] * radius + centre
    pose = cameras.compose(cameras.invert(result.framed.upright_from_canonical), upright)
    view = volume.render_view(
        result.field, result.planes, pose, lens, size, samples, background=0.0, occupancy=result.occupancy
    )
    alpha = torch.where(view.opacity < CLEAR, 0.0, view.opacity)
    # Over black the colour is premultiplied.
    colour = view.colour / alpha.clamp(min=CLEAR)[..., None] * (alpha > 0)[..., None]
    rgba = torch.cat([colour, alpha[..., None]], dim=-1).clamp(0, 1)
    return (rgba * 255).round().to(torch.uint8).cpu().numpy()


def _passes(
    rgba: np.ndarray, shape: Mesh, pose: np.ndarray, lens: np.ndarray, depth_scale: float
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A view's encoded pictures, and what is known of it."""
    seen = drawing.draw(shape, pose, lens, len(rgba))
    images = {
        "rgba": encode_png(rgba),
        "depth": encode_depth(seen.depth, depth_scale),
        "normal": encode_normal(seen.normal, seen.hit),
    }
    return images, {"coverage": float((rgba[..., 3] > 127).mean())}


def uid_of(*parts: Any) -> str:
    """32 hexadecimal digits that depend on the JSON values given, and on nothing else."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
