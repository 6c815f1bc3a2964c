"""What a reconstruction looks like: rendered views of its field, side by side with the picture it came from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import video, volume
from model.pipeline import Reconstruction
from turntable import cameras, framing
from turntable.report import contact_sheet

ELEVATION = 20.0
"""Degrees from which the turntable's cameras look down."""


def whole_view(distance: float) -> np.ndarray:
    """(4,) intrinsics that show the whole bounding sphere, and so the object from any side, at a distance above 1."""
    return cameras.intrinsics_from_fov(2 * np.rad2deg(np.arcsin(1 / distance)))


def ring(result: Reconstruction, count: int) -> list[np.ndarray]:
    """`count` cameras (3, 4), in the field's canonical frame, around the upright object at the input camera's distance."""
    canonical_from_upright = cameras.invert(result.framed.upright_from_canonical)
    return video.ring(count, ELEVATION, result.framed.distance, canonical_from_upright)


def turntable_frames(result: Reconstruction, count: int, size: int, samples: int) -> Iterator[np.ndarray]:
    """(size, size, 3) uint8 frames of one turn, made as they are asked for."""
    lens = whole_view(result.framed.distance)
    views = video.render_ring(result.field, result.planes, ring(result, count), lens, size, samples, result.occupancy)
    return map(video.picture, views)


def preview(result: Reconstruction, size: int, samples: int) -> np.ndarray:
    """(H, W, 3) uint8: the input, the reconstruction from the input's camera and from four sides, and its normals."""
    framed = result.framed
    poses = [framed.canonical_from_camera, *ring(result, 4)]
    lenses = [framed.intrinsics] + [whole_view(framed.distance)] * 4
    views = [
        volume.render_view(result.field, result.planes, pose, lens, size, samples, occupancy=result.occupancy)
        for pose, lens in zip(poses, lenses, strict=True)
    ]
    shown = (framing.on_background(framing.resize(framed.rgba, size, size)) * 255).round().astype(np.uint8)
    colours = [video.picture(view) for view in views]
    normals = [video.normal_picture(*parts) for parts in zip(views, poses, lenses, strict=True)]
    captions = ["input", "input camera", "front", "right", "back", "left", "", *["normals"] * 5]
    return contact_sheet([shown, *colours, np.full_like(shown, 255), *normals], 6, captions)
