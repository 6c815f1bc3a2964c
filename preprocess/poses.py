"""Where the object of a video stands: its centre, its size and which way is up, from COLMAP's points, cameras and the masks.

- *Object points* are those that fall into nearly every mask in which they could be seen.
- *Up* is the normal of the plane that the object stands on, fitted to the points around it; where there is no such plane, the
  direction to which all the cameras' horizontal axes are at right angles (people hold a camera level).
- *Hull*: every edge of every outline rules out what lies beyond it. What is left, cut off at the ground, is a convex body that
  holds the object.
- *Box*: upright, turned so that it covers the least ground. Each face lies between where the outermost object points are and where the
  hull ends: nearer to the hull, the better some view looks along that face.

Everything is in COLMAP's world and unit until `object_from_colmap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection, QhullError

from preprocess.colmap import Frame, Model
from preprocess.squares import MATTE_THRESHOLD, Outline
from turntable import cameras

OBJECT_SHARE = 0.8
"""A point is the object's when it falls into this share of the masks in which it could be seen. After Real3D (Jiang et al. 2024)."""
FEWEST_SIGHTS = 3
"""… and could be seen in as many frames."""
STRAY_PERCENT = 0.5
"""Percentage of the object points, at either end of each axis, that are taken for strays."""
PLANE_TOLERANCE = 0.05
"""Distance from a plane, in radii of the object's points, up to which a point belongs to it."""
POINTS_ERROR = 0.02
"""How far the outermost points are from the object's end, as a share of its diagonal: no edge has a point on every inch."""
HULL_MARGIN = 0.05
"""How far, in halves of its longer side, a made matte may reach beyond the hull."""
UNEVEN = 0.1
"""`Up.level_spread` above which the cameras are not held level, or hardly move."""
LEVEL_DEG = 25.0
"""A plane leaning farther than this from level is a wall or chance, not the ground."""


@dataclass(frozen=True)
class Up:
    """Which way is up."""

    direction: np.ndarray
    """(3,) unit vector."""
    method: Literal["ground-plane", "level-cameras"]
    ground: float | None
    """Height of the ground along `direction`, where there is one."""
    support: int
    """Points on the ground plane, or cameras."""
    disagreement_deg: float
    """Angle between the two methods' answers."""
    level_spread: float
    """How far the cameras' axes are from lying in one plane, 0 … 1: 0 is level, above `UNEVEN` they do not tell."""


@dataclass(frozen=True)
class Box:
    """Where the object is."""

    axes: np.ndarray
    """(3, 3) its axes as rows, the last is up."""
    low: np.ndarray
    """(3,) along the axes."""
    high: np.ndarray
    """(3,) along the axes."""
    radius: float
    """Farthest point of the object from the box's centre."""
    points_low: np.ndarray
    """(3,) where the outermost object points are."""
    points_high: np.ndarray
    """(3,)."""
    body: np.ndarray | None
    """(N, 3) corners of the hull; None where outlines leave nothing, so that they contradict each other."""

    @property
    def centre(self) -> np.ndarray:
        """(3,) COLMAP's world."""
        return (self.low + self.high) / 2 @ self.axes

    @property
    def size(self) -> np.ndarray:
        """(3,) along the axes."""
        return self.high - self.low

    @property
    def disagreement(self) -> float:
        """How far apart points and outlines place the box's faces, at the worst, as a share of its diagonal."""
        gaps = np.abs(np.stack([self.points_low - self.low, self.high - self.points_high]))
        return float(gaps.max() / np.linalg.norm(self.size))


def sights(frame: Frame, matte: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (N, 3) points, which project into the frame, and which into its matte (h, w): both (N,) bool."""
    pixels = frame.project(points)
    with np.errstate(invalid="ignore"):
        seen = ((pixels >= 0) & (pixels < [frame.lens.width, frame.lens.height])).all(axis=1)
    height, width = matte.shape
    column, row = (pixels[seen] * [width / frame.lens.width, height / frame.lens.height]).astype(np.int64).T
    inside = np.zeros(len(points), bool)
    inside[seen] = matte[row, column] >= MATTE_THRESHOLD
    return seen, inside


def split_points(seen: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) frames that could show a point and masks that it falls into -> the object's points and those around it, (N,) bool."""
    share = inside / np.maximum(seen, 1)
    enough = seen >= FEWEST_SIGHTS
    return enough & (share >= OBJECT_SHARE), enough & (share <= 1 - OBJECT_SHARE)


def up_axis(model: Model, is_object: np.ndarray, is_around: np.ndarray, rng: np.random.Generator) -> Up:
    """Which way is up. The two masks are `split_points`'."""
    points = model.points[is_object]
    centre = np.median(points, axis=0)
    radius = _radius(points)
    level, spread = _level_axis(model.frames, centre)
    positions = np.stack([frame.world_from_camera[:, 3] for frame in model.frames])
    around = model.points[is_around]
    near = around[np.linalg.norm(around - centre, axis=1) < 5 * radius]
    plane = _ground_plane(near, points, positions, level if spread <= UNEVEN else None, PLANE_TOLERANCE * radius, rng)
    if plane is None:
        return Up(level, "level-cameras", None, len(model.frames), 0.0, spread)
    normal, height, support = plane
    angle = np.rad2deg(np.arccos(np.clip(normal @ level, -1, 1)))
    return Up(normal, "ground-plane", height, support, float(angle) if spread <= UNEVEN else 0.0, spread)


def _radius(points: np.ndarray) -> float:
    """A robust size of a cloud: 90 % of the points are within it of their median."""
    return float(np.percentile(np.linalg.norm(points - np.median(points, axis=0), axis=1), 90))


def _level_axis(frames: tuple[Frame, ...], centre: np.ndarray) -> tuple[np.ndarray, float]:
    """The direction to which the cameras' horizontal axes are at right angles, pointing up, and `level_spread`.

    In frames that lie on their side the picture's vertical axis is the horizontal one. Up is up in upright pictures; in
    others, or where the cameras are not held level, it is where the cameras are, seen from the object's `centre`.
    """
    rotations = np.stack([frame.world_from_camera[:, :3] for frame in frames])
    spreads, found = [], []
    for axes in (rotations[:, :, 0], rotations[:, :, 1]):
        values, vectors = np.linalg.eigh(axes.T @ axes)
        spreads.append(min(float(values[0] / max(values[1], 1e-12)), 1.0))
        found.append(vectors[:, 0])
    upright = spreads[0] <= 2 * spreads[1]
    axis, spread = (found[0], spreads[0]) if upright else (found[1], spreads[1])
    positions = np.stack([frame.world_from_camera[:, 3] for frame in frames])
    above = rotations[:, :, 1].mean(axis=0) if upright and spread <= UNEVEN else positions.mean(axis=0) - centre
    return axis * (-1.0 if axis @ above < 0 else 1.0), spread


def _ground_plane(
    around: np.ndarray,
    points: np.ndarray,
    positions: np.ndarray,
    level: np.ndarray | None,
    tolerance: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float, int] | None:
    """Normal, height along it and number of points of the plane under the object; None where there is none. RANSAC, then a fit.

    It must have object and cameras above it. Fischler & Bolles 1981.
    """
    fewest = max(20, len(around) // 10)
    if len(around) < fewest:
        return None
    triples = around[rng.integers(0, len(around), (1000, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals, triples = normals[lengths > 1e-12] / lengths[lengths > 1e-12, None], triples[lengths > 1e-12]
    normals *= np.where(normals @ (positions.mean(axis=0) - around.mean(axis=0)) < 0, -1, 1)[:, None]
    heights = (normals * triples[:, 0]).sum(axis=1)
    allowed = (np.percentile(points @ normals.T, 5, axis=0) > heights - 2 * tolerance) & (
        (positions @ normals.T).min(axis=0) > heights
    )
    if level is not None:
        allowed &= normals @ level > np.cos(np.deg2rad(LEVEL_DEG))
    if not allowed.any():
        return None
    normals, heights = normals[allowed], heights[allowed]
    best = (np.abs(around @ normals.T - heights) < tolerance).sum(axis=0).argmax()
    normal, height = normals[best], heights[best]
    for _ in range(5):
        on_plane = around[np.abs(around @ normal - height) < tolerance]
        if len(on_plane) < fewest:
            return None
        fitted = np.linalg.svd(on_plane - on_plane.mean(axis=0), full_matrices=False)[2][2]
        normal = fitted * np.sign(fitted @ normal)
        height = float(np.median(on_plane @ normal))
    return normal, height, len(on_plane)


def half_spaces(frame: Frame, shape: Outline) -> np.ndarray:
    """(K, 4) unit normals n and offsets c of the planes through the camera and an outline's edges: n·x + c ≤ 0 is the object's side.

    Edges along the frame's border rule nothing out and are left away.
    """
    ahead = np.concatenate([shape.slopes, np.ones((len(shape.slopes), 1))], axis=1)
    rays = ahead @ cameras.OPENGL_FROM_OPENCV @ frame.world_from_camera[:, :3].T
    normals = np.cross(rays, np.roll(rays, -1, axis=0))
    lengths = np.linalg.norm(normals, axis=1)
    kept = ~shape.at_border & (lengths > 1e-9)
    normals = normals[kept] / lengths[kept, None]
    normals *= -np.sign(normals @ rays.mean(axis=0))[:, None]
    return np.concatenate([normals, -(normals @ frame.world_from_camera[:, 3])[:, None]], axis=1)


def convex_hull(planes: np.ndarray) -> np.ndarray | None:
    """(N, 3) corners of the body n·x + c ≤ 0 of the planes (K, 4); None where it is empty or open."""
    # The centre of the largest ball inside, Boyd & Vandenberghe 2004, section 8.5.
    rows = np.concatenate([planes[:, :3], np.linalg.norm(planes[:, :3], axis=1)[:, None]], axis=1)
    free = [(None, None)] * 3
    ball = linprog([0, 0, 0, -1], rows, -planes[:, 3], bounds=[*free, (0, None)], method="highs")
    if ball.status != 0 or ball.x[3] < 1e-9:
        return None
    try:
        corners = HalfspaceIntersection(planes, ball.x[:3]).intersections
    except QhullError:
        return None
    return corners if np.isfinite(corners).all() else None


def upright_box(points: np.ndarray, planes: np.ndarray, up: Up) -> Box:
    """The box around the object, from its points (N, 3) and its outlines' `half_spaces` (K, 4), which may be none."""
    faces = _bounded(points, planes, up)
    body = convex_hull(faces)
    axes = _box_axes(points if body is None else body, up.direction)
    across = points @ axes.T
    points_low, points_high = np.percentile(across, [STRAY_PERCENT, 100 - STRAY_PERCENT], axis=0)
    if body is None:
        low, high = points_low, points_high
    else:
        diagonal = float(np.linalg.norm(points_high - points_low))
        ends, trust = _ends(body, faces, np.concatenate([-axes, axes]), diagonal)
        outermost = np.concatenate([-points_low, points_high])
        placed = outermost + trust * (ends - outermost)
        low, high = -placed[:3], placed[3:]
    centre = (low + high) / 2 @ axes
    walls = np.concatenate([np.concatenate([-axes, axes]), np.concatenate([low, -high])[:, None]], axis=1)
    corners = convex_hull(np.concatenate([faces, walls]))
    if corners is None:
        corners = points[((across >= low) & (across <= high)).all(axis=1)]
    radius = float(np.linalg.norm(corners - centre, axis=1).max())
    return Box(axes, low, high, radius, points_low, points_high, body)


def outline_coverage(body: np.ndarray | None, frame: Frame, shape: Outline) -> float:
    """The share of a frame's outline that a hull with corners `body` (N, 3) covers, in [0, 1]; 0 without one or where it reaches
    behind the camera. Below 1, other outlines cut away what this one shows.
    """
    if body is None:
        return 0.0
    x, y, z = (cameras.transform(cameras.invert(frame.world_from_camera), body) @ cameras.OPENGL_FROM_OPENCV).T
    if (z <= 0).any():
        return 0.0
    seen = cv2.convexHull(np.stack([x / z, y / z], axis=1).astype(np.float32))
    return min(float(cv2.contourArea(seen) / cv2.contourArea(shape.slopes.astype(np.float32))), 1.0)


def hull_silhouette(box: Box, frame: Frame, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool, the frame at this size: where the hull, widened by `HULL_MARGIN`, is seen. Everywhere, without a hull."""
    seen = np.full((1, 2), np.nan) if box.body is None else frame.project(box.body)
    if not np.isfinite(seen).all():
        return np.ones(shape, bool)
    around = cv2.convexHull((seen * [shape[1] / frame.lens.width, shape[0] / frame.lens.height]).astype(np.float32))
    margin = HULL_MARGIN * float(np.ptp(around[:, 0], axis=0).max()) / 2
    silhouette = cv2.fillConvexPoly(np.zeros(shape, np.uint8), np.round(around).astype(np.int32), (1,))
    return cv2.distanceTransform(1 - silhouette, cv2.DIST_L2, 5) <= margin


def _bounded(points: np.ndarray, planes: np.ndarray, up: Up) -> np.ndarray:
    """(K, 4) outlines, the ground, and walls far outside, so that no hull is open."""
    outward = np.concatenate([np.eye(3), -np.eye(3)])
    walls = -(outward @ np.median(points, axis=0) + 10 * _radius(points))
    ground = [] if up.ground is None else [np.append(-up.direction, up.ground)[None]]
    return np.concatenate([planes, np.concatenate([outward, walls[:, None]], axis=1), *ground])


def _ends(
    body: np.ndarray, faces: np.ndarray, directions: np.ndarray, diagonal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where a hull with corners `body` (N, 3) and `faces` (K, 4) ends in directions (D, 3), and how far to trust that, in [0, 1].

    A face that leans by an angle from the direction may leave the object by its tangent times the object's reach across; the nearest
    face at the end counts, against `POINTS_ERROR` by their inverse variances.
    """
    ends, trust = [], []
    for direction in directions:
        along = body @ direction
        last = body[along.argmax()]
        at_end = np.abs(faces[:, :3] @ last + faces[:, 3]) < 1e-3 * diagonal
        cosine = float((faces[at_end, :3] @ direction).max(initial=1e-3))
        across = body - along[:, None] * direction
        reach = np.linalg.norm(across - across.mean(axis=0), axis=1).max()
        leaves = reach * np.sqrt(max(1 / cosine**2 - 1, 0.0))
        ends.append(along.max())
        trust.append((POINTS_ERROR * diagonal) ** 2 / ((POINTS_ERROR * diagonal) ** 2 + leaves**2))
    return np.array(ends), np.array(trust)


def _box_axes(cloud: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(3, 3) rows: the axes of the upright box over a cloud (N, 3) that covers the least ground."""
    helper = np.eye(3)[np.abs(up).argmin()]
    x = np.cross(helper, up)
    x /= np.linalg.norm(x)
    flat = np.stack([x, np.cross(up, x)])
    (_, _), _, angle = cv2.minAreaRect(((cloud - cloud.mean(axis=0)) @ flat.T).astype(np.float32))
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.concatenate([np.array([[c, s], [-s, c]]) @ flat, up[None]])


def object_from_colmap(box: Box, front: np.ndarray) -> np.ndarray:
    """(3, 4) similarity to object units: the box's centre to the origin, its farthest point to distance 1, up to +z.

    A video has no front: `front`, a camera's position (3,), comes to azimuth 0, the -y side.
    """
    up = box.axes[2]
    towards = front - box.centre
    back = towards - up * (towards @ up)
    if np.linalg.norm(back) < 1e-6 * np.linalg.norm(towards):
        back = box.axes[0]
    y = -back / np.linalg.norm(back)
    rotation = np.stack([np.cross(y, up), y, up]) / box.radius
    return np.concatenate([rotation, -(rotation @ box.centre)[:, None]], axis=1)


def moved(similarity: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """A pose (3, 4) in the world after a similarity (3, 4) of that world: rotation stays a rotation."""
    scale = np.cbrt(np.linalg.det(similarity[:, :3]))
    rotation = similarity[:, :3] @ world_from_camera[:, :3] / scale
    position = cameras.transform(similarity, world_from_camera[:, 3])
    return np.concatenate([rotation, position[:, None]], axis=1)


def inverse(similarity: np.ndarray) -> np.ndarray:
    """(3, 4) similarity b_from_a -> (3, 4) a_from_b."""
    back = np.linalg.inv(similarity[:, :3])
    return np.concatenate([back, -(back @ similarity[:, 3:])], axis=1)
