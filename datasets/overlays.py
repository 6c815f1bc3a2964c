"""What shows whether cameras, pictures and shape belong together: frusta, coloured points, and figures of their agreement.

Cameras are (3, 4) `world_from_camera` and (4,) normalised intrinsics, points (N, 3) in object units and the world frame,
pictures (H, W, 4) uint8 with straight alpha. A wrong convention makes nonsense of everything here: points miss the matte,
colours smear, depth leaves the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from turntable import cameras, framing
from turntable.geometry import visual_hull

MATTE_THRESHOLD = 8
"""Alpha from which a pixel counts as touched by the object, as in `framing.matte_box`."""
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
"""uv of a picture's corners: top left, top right, bottom right, bottom left."""
HULL_RESOLUTION = 129
"""Voxels along a side of [-1, 1]³; a multiple of 3."""
ON, OFF = (40, 190, 90), (230, 40, 40)
"""Colours of points that lie on a matte, and that miss it."""


@dataclass(frozen=True)
class Agreement:
    """How well a view's matte and the surface agree. Right cameras give nearly 1 and 1."""

    on_matte: float
    """Share of the surface points in the picture that lie on the matte or within a pixel of it; 0 where none is in it."""
    covered: float
    """Share of the matte's pixels that have a surface point near; near is as far as the points lie apart."""


@dataclass(frozen=True)
class PicturePlane:
    """Where a picture stands in the world, at some depth before its camera."""

    centre: np.ndarray
    """(3,) world position of the picture's middle."""
    rotation: np.ndarray
    """(3, 3) the camera's axes in the world: right, up, back."""
    width: float
    """Object units."""
    height: float
    """Object units."""


def corners(world_from_camera: np.ndarray, intrinsics: np.ndarray, depth: float) -> np.ndarray:
    """(4, 3) world positions of the picture's corners, as `CORNERS` runs, at planar depth `depth`."""
    return cameras.backproject(CORNERS, np.full(4, depth), world_from_camera, intrinsics)


def frustum(world_from_camera: np.ndarray, intrinsics: np.ndarray, depth: float) -> np.ndarray:
    """(10, 2, 3) line segments: the camera's four edges, the picture's outline, and a roof that says where its top is."""
    eye = world_from_camera[:, 3]
    outline = corners(world_from_camera, intrinsics, depth)
    top = outline[:2].mean(axis=0) + 0.2 * (outline[:2].mean(axis=0) - outline[2:].mean(axis=0))
    edges = [(eye, corner) for corner in outline]
    edges += [(outline[i], outline[(i + 1) % 4]) for i in range(4)]
    return np.array([*edges, (outline[0], top), (top, outline[1])])


def picture_plane(world_from_camera: np.ndarray, intrinsics: np.ndarray, depth: float) -> PicturePlane:
    """The picture at planar depth `depth`. Exact for any principal point; pixels and what they show are in line with the camera."""
    fx, fy = intrinsics[:2]
    centre = cameras.backproject(np.array([0.5, 0.5]), np.array(depth), world_from_camera, intrinsics)
    return PicturePlane(centre, world_from_camera[:, :3], depth / float(fx), depth / float(fy))


def fitting_fov(intrinsics: np.ndarray, aspect: float) -> float:
    """Vertical field of view in radians at which a window of `aspect` (width over height) with its axis in the middle shows
    the whole of a picture."""
    directions = np.abs(cameras.camera_directions(CORNERS, intrinsics))
    return float(2 * np.arctan(max(directions[:, 1].max(), directions[:, 0].max() / aspect)))


def agreement(
    points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, alpha: np.ndarray
) -> Agreement:
    """Compares surface points with the matte (H, W) uint8 of one view."""
    matte = alpha >= MATTE_THRESHOLD
    inside, hits = on_matte(points, world_from_camera, intrinsics, alpha)
    if not inside.any() or not matte.any():
        return Agreement(0.0, 0.0)
    # Points are as far apart as the square of matte that each of them has.
    radius = int(np.ceil(np.sqrt(matte.sum() / inside.sum()))) + 1
    seen = _near(_drawn(points[inside], world_from_camera, intrinsics, matte.shape), radius)
    behind = cameras.project(points, world_from_camera, intrinsics)[1] <= 0
    return Agreement(float(hits.sum() / (inside | behind).sum()), float(seen[matte].mean()))


def on_matte(
    points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool: the point is in the picture; (N,) bool: it also lies on the matte or within a pixel of it."""
    pixels, inside = _pixels(points, world_from_camera, intrinsics, alpha.shape)
    hits = np.zeros(len(points), dtype=bool)
    # A point on the outline may lie in a pixel of which the object covers next to nothing.
    hits[inside] = _near(alpha >= MATTE_THRESHOLD, 1)[tuple(pixels[inside].T)]
    return inside, hits


def _pixels(
    points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) int row and column of every point, and (N,) bool whether it is before the camera and in the picture."""
    with np.errstate(divide="ignore", invalid="ignore"):
        uv, depth = cameras.project(points, world_from_camera, intrinsics)
        spot = np.floor(uv[:, ::-1] * shape[:2])
        inside = (depth > 0) & (spot >= 0).all(axis=1) & (spot < shape[:2]).all(axis=1)
    return np.where(inside[:, None], spot, 0).astype(np.int64), inside


def _drawn(
    points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """(H, W) bool: pixels in which a point lies."""
    pixels, inside = _pixels(points, world_from_camera, intrinsics, shape)
    drawn = np.zeros(shape, dtype=bool)
    drawn[tuple(pixels[inside].T)] = True
    return drawn


def _near(mask: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) bool: pixels with one of `mask` no more than `radius` rows and columns away."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def overlay(points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, rgba: np.ndarray) -> np.ndarray:
    """(H, 2W, 3) uint8: the picture on white; beside it its matte with the surface points over it, those off the matte in red."""
    pixels, inside = _pixels(points, world_from_camera, intrinsics, rgba.shape)
    _, hits = on_matte(points, world_from_camera, intrinsics, rgba[..., 3])
    picture = (framing.on_background(rgba) * 255).round().astype(np.uint8)
    matte = np.repeat((255 - rgba[..., 3:] // 2), 3, axis=2)
    for colour, chosen in ((ON, inside & hits), (OFF, inside & ~hits)):
        matte[tuple(pixels[chosen].T)] = colour
    return np.concatenate([picture, matte], axis=1)


def normal_colours(normals: np.ndarray) -> np.ndarray:
    """(N, 3) unit normals -> (N, 3) uint8: x, y, z as red, green, blue."""
    return ((normals + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def picture_colours(
    points: np.ndarray,
    normals: np.ndarray | None,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    pictures: Sequence[np.ndarray],
) -> np.ndarray:
    """(N, 3) uint8: the colour that the pictures have where a point is seen, mean over views; grey where none sees it.

    Cameras (V, 3, 4) and (V, 4), V pictures. A point is seen where no other lies well before it; views that see its surface
    frontally count more.
    """
    sums, weights = np.zeros((len(points), 3)), np.full(len(points), 1e-9)
    for pose, lens, rgba in zip(world_from_camera, intrinsics, pictures, strict=True):
        pixels, inside = _pixels(points, pose, lens, rgba.shape)
        sample = rgba[tuple(pixels.T)].astype(np.float64)
        weight = (sample[:, 3] / 255) * inside * unhidden(points, pose, lens)
        if normals is not None:
            weight = weight * _frontal(points, normals, pose) ** 2
        sums += sample[:, :3] * weight[:, None]
        weights += weight
    grey = np.full(3, 128.0)
    return np.where(weights[:, None] > 1e-3, sums / weights[:, None], grey).round().astype(np.uint8)


def _frontal(points: np.ndarray, normals: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """(N,) |cosine| between a surface's normal and the way to the camera; normals' signs are not to be trusted."""
    way = world_from_camera[:, 3] - points
    return np.abs((way * normals).sum(axis=1)) / np.maximum(np.linalg.norm(way, axis=1), 1e-9)


def unhidden(points: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(N,) bool: no other point lies well before it in the same cell of a coarse picture of the points themselves."""
    # Cells a few points wide, so that a front surface has no gaps; the slack is what a slanted surface climbs within one.
    side = int(np.clip(np.sqrt(len(points)) / 3, 8, 128))
    pixels, inside = _pixels(points, world_from_camera, intrinsics, (side, side))
    depth = cameras.project(points, world_from_camera, intrinsics)[1]
    nearest = np.full((side, side), np.inf)
    np.minimum.at(nearest, tuple(pixels[inside].T), depth[inside])
    slack = 4 * np.abs(depth) / (side * min(intrinsics[:2]))
    return inside & (depth <= nearest[tuple(pixels.T)] + slack)


def depth_points(
    depth: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, rgba: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """A depth pass (H, W) taken back into the world: at most `count` evenly chosen points (N, 3), and their colours in the
    picture (N, 3) uint8."""
    height, width = depth.shape
    rows, columns = np.nonzero(depth > 0)
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
    rows, columns = rows[chosen], columns[chosen]
    uv = (np.stack([columns, rows], axis=1) + 0.5) / [width, height]
    points = cameras.backproject(uv, depth[rows, columns].astype(np.float64), world_from_camera, intrinsics)
    spot = (uv * [rgba.shape[1], rgba.shape[0]]).astype(np.int64)
    return points, rgba[spot[:, 1], spot[:, 0], :3]


def off_surface(points: np.ndarray, surface: np.ndarray) -> float:
    """The distance, in object units, within which 95 % of `points` have a surface point; NaN without points."""
    return float(np.percentile(cKDTree(surface).query(points)[0], 95)) if len(points) else float("nan")


def hull_points(world_from_camera: np.ndarray, intrinsics: np.ndarray, mattes: list[np.ndarray]) -> np.ndarray:
    """(N, 3) points on the border of what lies on every matte: a stand-in for the surface of objects without one.

    Few or none where the mattes contradict each other, as they do when cameras are wrong.
    """
    binary = [(matte >= MATTE_THRESHOLD).astype(np.uint8) for matte in mattes]
    # The hull of `visual_hull` is fat on purpose; it says where to look closer.
    grid = visual_hull(binary, world_from_camera, intrinsics, HULL_RESOLUTION // 3)
    grid = grid.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    kept = np.flatnonzero(grid)
    centres = _centres(kept)
    for pose, lens, matte in zip(world_from_camera, intrinsics, binary, strict=True):
        inside, hits = on_matte(centres, pose, lens, matte * 255)
        kept, centres = kept[hits | ~inside], centres[hits | ~inside]
    solid = np.zeros(HULL_RESOLUTION**3, dtype=bool)
    solid[kept] = True
    padded = np.pad(solid.reshape(grid.shape), 1)
    core = slice(1, -1)
    buried = np.logical_and.reduce([np.roll(padded, s, a)[core, core, core] for a in range(3) for s in (-1, 1)])
    return _centres(np.flatnonzero(solid & ~buried.reshape(-1)))


def _centres(voxels: np.ndarray) -> np.ndarray:
    """(N,) flat indices, as `grid.reshape(-1)` runs -> (N, 3) float64 centres."""
    places = np.stack(np.unravel_index(voxels, (HULL_RESOLUTION,) * 3), axis=1)
    return (places + 0.5) * (2 / HULL_RESOLUTION) - 1


def box_lines() -> np.ndarray:
    """(12, 2, 3) edges of [-1, 1]³."""
    ends = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
    return np.array([(a, b) for i, a in enumerate(ends) for b in ends[i:] if (a != b).sum() == 1])


def sphere_lines() -> np.ndarray:
    """(3 · 72, 2, 3) the unit sphere's three great circles about the axes."""
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    circles = [np.roll(circle, shift, axis=1) for shift in range(3)]
    return np.concatenate([np.stack([c[:-1], c[1:]], axis=1) for c in circles])
