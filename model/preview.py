"""What a reconstruction looks like: its picture, the rendered field, the normals and the mesh, side by side; and the turntable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from model import drawing, video, volume
from model.photograph import Framed
from model.pipeline import Reconstruction
from turntable import cameras, framing
from turntable.report import contact_sheet

ELEVATION = 20.0
"""Degrees from which the turntable's cameras look down."""
FIELD_CAPTIONS = ["input", "input camera", "front", "right", "back", "left", "matte, framed", *["normals"] * 5]


def whole_view(distance: float, radius: float = 1.0) -> np.ndarray:
    """(4,) intrinsics that show the whole sphere around the origin, and so the object from any side, from outside of it."""
    return cameras.intrinsics_from_fov(2 * np.rad2deg(np.arcsin(radius / distance)))


def reach(result: Reconstruction) -> float:
    """The object's bounding sphere around the origin: 1, or more where a field fills its box's corners."""
    return max(float(np.linalg.norm(result.shape.vertices, axis=1).max()), 1.0)


def ring(framed: Framed, count: int, radius: float = 1.0) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` cameras (3, 4), in the field's canonical frame, around the upright object; and the (4,) intrinsics that show it whole.

    They stand as far away as the input camera, or as the object's radius asks for.
    """
    distance = max(framed.distance, 1.2 * radius)
    poses = video.ring(count, ELEVATION, distance, cameras.invert(framed.upright_from_canonical))
    return poses, whole_view(distance, radius)


def turntable_frames(result: Reconstruction, count: int, size: int, samples: int) -> Iterator[np.ndarray]:
    """(size, size, 3) uint8 frames of one turn, made as they are asked for."""
    poses, lens = ring(result.framed, count, reach(result))
    views = video.render_ring(result.field, result.planes, poses, lens, size, samples, result.occupancy)
    return map(video.picture, views)


def preview(result: Reconstruction, size: int, samples: int) -> np.ndarray:
    """(H, W, 3) uint8: the picture and its matte; from the input's camera and four sides the rendered field, its normals, the mesh."""
    framed = result.framed
    poses, lenses = preview_cameras(framed, reach(result))
    rows = field_rows(result.field, result.planes, framed, size, samples, (poses, lenses), result.occupancy)
    upright = [cameras.compose(framed.upright_from_canonical, pose) for pose in poses]
    plain = drawing.shown(result.surface, upright[0], lenses[0], size, plain=True)
    rows += [plain, *(drawing.shown(result.surface, *camera, size) for camera in zip(upright, lenses, strict=True))]
    captions = [*FIELD_CAPTIONS, f"mesh, {len(result.shape.faces):,} triangles", *["mesh"] * 5]
    return contact_sheet(rows, 6, captions)


def preview_without_surface(field: volume.Field, planes: Tensor, framed: Framed, size: int, samples: int) -> np.ndarray:
    """(H, W, 3) uint8: the preview of a field that has no surface."""
    return contact_sheet(
        field_rows(field, planes, framed, size, samples, preview_cameras(framed, 1.0), None), 6, FIELD_CAPTIONS
    )


def preview_cameras(framed: Framed, radius: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Poses (3, 4) in the canonical frame and intrinsics (4,): the input's camera and four sides."""
    sides, lens = ring(framed, 4, radius)
    return [framed.canonical_from_camera, *sides], [framed.intrinsics, lens, lens, lens, lens]


def field_rows(
    field: volume.Field,
    planes: Tensor,
    framed: Framed,
    size: int,
    samples: int,
    seen_from: tuple[list[np.ndarray], list[np.ndarray]],
    occupancy: volume.Occupancy | None,
) -> list[np.ndarray]:
    """Twelve pictures (size, size, 3) uint8: the input and the rendered field, the matte and the field's normals."""
    poses, lenses = seen_from
    views = [
        volume.render_view(field, planes, pose, lens, size, samples, occupancy=occupancy)
        for pose, lens in zip(poses, lenses, strict=True)
    ]
    normals = [video.normal_picture(*parts) for parts in zip(views, poses, lenses, strict=True)]
    colours = [video.picture(view) for view in views]
    return [whole(framed.original, size), *colours, on_squares(framed.rgba, size), *normals]


def whole(picture: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> (size, size, 3) uint8: all of it, on white, its proportions kept."""
    rgba = picture if picture.shape[2] == 4 else np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    height, width = rgba.shape[:2]
    scale = size / max(height, width)
    small = framing.resize(rgba, max(round(width * scale), 1), max(round(height * scale), 1))
    result = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - small.shape[0]) // 2, (size - small.shape[1]) // 2
    result[top : top + small.shape[0], left : left + small.shape[1]] = (framing.on_background(small) * 255).round()
    return result


def on_squares(rgba: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 4) uint8 -> (size, size, 3) uint8 over squares of two greys, so that transparency is seen as such."""
    small = framing.resize(rgba, size, size)
    y, x = np.mgrid[:size, :size] // max(size // 16, 1)
    ground = np.where((x + y) % 2, 0.80, 0.92)[..., None]
    share = small[..., 3:] / 255
    return ((small[..., :3] / 255 * share + ground * (1 - share)) * 255).round().astype(np.uint8)
