"""Shapes: surface samples, the solid on a voxel grid, the visual hull, and metrics between two shapes.

Everything is in object units: the asset's bounding sphere has radius 1, so no rotation takes it out of [-1, 1]³. A grid of
resolution n is indexed [x, y, z]; voxel i covers [-1 + 2i/n, -1 + 2(i+1)/n] along its axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from turntable import cameras

SOLID_RESOLUTION = 128
SURFACE_POINTS = 100_000


@dataclass(frozen=True)
class Geometry:
    """What is stored of a shape beside its pictures."""

    points: np.ndarray
    """(N, 3) float32, surface points uniform by area, object units, world frame."""
    normals: np.ndarray
    """(N, 3) float32, unit face normals at `points`; their sign follows the asset's winding and is not to be trusted."""
    solid: np.ndarray
    """(128, 128, 128) bool, see `solid_grid`."""


def describe(
    vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator, count: int = SURFACE_POINTS
) -> Geometry:
    """The geometry of a triangle mesh: (V, 3) vertices in object units and (F, 3) vertex indices.

    Raises ValueError when no face has an area.
    """
    points, normals = sample_surface(vertices, faces, count, rng)
    return Geometry(points.astype(np.float32), normals.astype(np.float32), solid_grid(vertices, faces))


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points uniform by area on a triangle mesh and the unit normals of their faces, both (count, 3)."""
    corners = np.asarray(vertices, dtype=np.float64)[np.asarray(faces)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled_area = np.linalg.norm(cross, axis=1)
    cumulative = np.cumsum(doubled_area)
    if len(cumulative) == 0 or not cumulative[-1] > 0:
        raise ValueError(f"a surface without area cannot be sampled ({len(faces)} faces)")
    chosen = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    # Turk 1990, "Generating random points in triangles": the square root makes them uniform by area.
    root, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = corners[chosen, 0], corners[chosen, 1], corners[chosen, 2]
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    return points, cross[chosen] / doubled_area[chosen, None]


def voxel_indices(points: np.ndarray, resolution: int) -> np.ndarray:
    """(N, 3) points -> (N, 3) int voxel indices; points on the box's far walls belong to the last voxel."""
    return np.clip(((np.asarray(points) + 1) * (resolution / 2)).astype(np.int64), 0, resolution - 1)


def voxel_centres(resolution: int) -> np.ndarray:
    """(resolution³, 3) float32 centres, x slowest, as `grid.reshape(-1)` runs."""
    axis = (np.arange(resolution, dtype=np.float32) + 0.5) * (2 / resolution) - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def surface_grid(vertices: np.ndarray, faces: np.ndarray, resolution: int = SOLID_RESOLUTION) -> np.ndarray:
    """(resolution,)*3 bool: the voxels that the surface passes through, found by points every half voxel."""
    grid = np.zeros((resolution,) * 3, dtype=bool)
    corners = np.asarray(vertices, dtype=np.float64)[np.asarray(faces)]
    spacing = 1.0 / resolution
    for start in range(0, len(corners), 50_000):
        for points in _scan_lines(corners[start : start + 50_000], spacing):
            grid[tuple(voxel_indices(points, resolution).T)] = True
    return grid


def _scan_lines(corners: np.ndarray, spacing: float, budget: int = 4_000_000):
    """Points that cover triangles (F, 3, 3) no farther apart than `spacing`, in batches of about `budget`.

    A triangle is cut into lines parallel to its longest edge, a line into points: a sliver costs its length, not its square.
    """
    edges = np.roll(corners, -1, axis=1) - corners
    lengths = np.linalg.norm(edges, axis=2)
    first = lengths.argmax(axis=1)
    order = (first[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(corners, order[:, :, None], axis=1).swapaxes(0, 1)
    longest = lengths.max(axis=1)
    doubled_area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    height = doubled_area / np.maximum(longest, 1e-12)
    lines = np.ceil(height / spacing).astype(np.int64) + 1
    triangle, t = _fractions(lines)
    starts, ends = a[triangle] + t * (c - a)[triangle], b[triangle] + t * (c - b)[triangle]
    counts = np.ceil(np.linalg.norm(ends - starts, axis=1) / spacing).astype(np.int64) + 1
    batch = np.cumsum(counts) // budget
    for cut in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(batch)) + 1):
        line, s = _fractions(counts[cut])
        yield starts[cut][line] + s * (ends - starts)[cut][line]


def _fractions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """counts (N,) -> owner (sum,) and (sum, 1) fractions 0 … 1, `counts[i]` of them evenly for owner i."""
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, (within / np.maximum(counts[owner] - 1, 1))[:, None]


def solid_grid(vertices: np.ndarray, faces: np.ndarray, resolution: int = SOLID_RESOLUTION) -> np.ndarray:
    """(resolution,)*3 bool: surface voxels, and what a flood fill from outside does not reach after gaps of two voxels are closed.

    Assets are rarely watertight; closing lets a body with small holes still count as solid.
    """
    surface = surface_grid(vertices, faces, resolution)
    # Two voxels of margin: the closing must not treat the box's walls as matter, and the fill starts outside everything.
    closed = ~_spread(~_spread(np.pad(surface, 2)))
    regions, _ = ndimage.label(~closed)
    reached = regions == regions[0, 0, 0]
    return surface | ~reached[2:-2, 2:-2, 2:-2]


def _spread(grid: np.ndarray) -> np.ndarray:
    """(n, n, n) bool: voxels of which any of the 27 around and including them is set. An axis at a time: 20 times as quick as
    `ndimage.binary_dilation` with a cube."""
    for axis in range(3):
        low, high = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        wider = grid.copy()
        wider[high] |= grid[low]
        wider[low] |= grid[high]
        grid = wider
    return grid


def coarsen(solid: np.ndarray, resolution: int) -> np.ndarray:
    """A solid on a coarser grid: a voxel is solid where any of the finer ones it covers is."""
    factor, rest = divmod(solid.shape[0], resolution)
    if rest or factor < 1:
        raise ValueError(f"resolution must divide {solid.shape[0]}, got {resolution}")
    return solid.reshape(resolution, factor, resolution, factor, resolution, factor).any(axis=(1, 3, 5))


def pack_solid(solid: np.ndarray) -> np.ndarray:
    """(128, 128, 128) bool -> (262144,) uint8, eight voxels a byte, z fastest, first voxel in the highest bit."""
    return np.packbits(solid.reshape(-1))


def unpack_solid(packed: np.ndarray) -> np.ndarray:
    """The inverse of `pack_solid`."""
    return np.unpackbits(np.asarray(packed)).astype(bool).reshape((SOLID_RESOLUTION,) * 3)


def visual_hull(
    mattes: list[np.ndarray], world_from_camera: np.ndarray, intrinsics: np.ndarray, resolution: int = 64
) -> np.ndarray:
    """(resolution,)*3 bool: the voxels that no matte rules out, fattened so that no part of the object is lost.

    mattes: V arrays (H, W), anything above 0 is object; cameras (V, 3, 4) and (V, 4). A voxel stays when its projection,
    widened by the voxel's own half diagonal, meets the matte in every view in which its centre is inside the picture.
    """
    centres = voxel_centres(resolution).astype(np.float64)
    kept = np.arange(len(centres))
    radius = np.sqrt(3) / resolution
    for matte, pose, lens in zip(mattes, world_from_camera, intrinsics, strict=True):
        height, width = matte.shape
        uv, depth = cameras.project(centres[kept], np.asarray(pose, np.float64), np.asarray(lens, np.float64))
        # The nearest voxel is the widest in the picture; one radius for the whole view keeps this a single dilation.
        pixels = radius * max(lens[0] * width, lens[1] * height) / max(np.linalg.norm(pose[:, 3]) - 1, 0.2) + 1
        near = ndimage.distance_transform_edt(matte == 0) <= pixels if (matte > 0).any() else matte > 0
        column, row = np.floor(uv * [width, height]).T
        seen = np.flatnonzero((depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height))
        spot = row[seen].astype(np.int64), column[seen].astype(np.int64)
        kept = np.delete(kept, seen[~near[spot]])
    inside = np.zeros(len(centres), dtype=bool)
    inside[kept] = True
    return inside.reshape((resolution,) * 3)


def iou(solid_a: np.ndarray, solid_b: np.ndarray) -> float:
    """Intersection over union of two bool grids; two empty grids agree (1)."""
    union = np.logical_or(solid_a, solid_b).sum()
    return float(np.logical_and(solid_a, solid_b).sum() / union) if union else 1.0


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces given by points and normals. Units: those of the points."""

    chamfer: float
    """Mean over both directions of the mean Euclidean distance to the nearest point of the other surface."""
    f_score: dict[float, float]
    """Threshold -> harmonic mean of the shares of points closer than it, both ways, in [0, 1]."""
    normal_consistency: float
    """Mean |n·n'| of nearest neighbours, both ways, in [0, 1]."""


def surface_distance(
    points_a: np.ndarray,
    normals_a: np.ndarray,
    points_b: np.ndarray,
    normals_b: np.ndarray,
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.2),
) -> SurfaceDistance:
    """Chamfer distance, F-scores and normal consistency of two surfaces, each (N, 3) points and (N, 3) unit normals."""
    a_to_b, nearest_b = cKDTree(points_b).query(points_a, workers=-1)
    b_to_a, nearest_a = cKDTree(points_a).query(points_b, workers=-1)
    f_score = {}
    for threshold in thresholds:
        precision, recall = (a_to_b < threshold).mean(), (b_to_a < threshold).mean()
        f_score[threshold] = float(2 * precision * recall / max(precision + recall, 1e-12))
    agreement_a = np.abs((normals_a * normals_b[nearest_b]).sum(axis=1)).mean()
    agreement_b = np.abs((normals_b * normals_a[nearest_a]).sum(axis=1)).mean()
    return SurfaceDistance(float((a_to_b.mean() + b_to_a.mean()) / 2), f_score, float((agreement_a + agreement_b) / 2))


def align_upright(points: np.ndarray, target: np.ndarray, yaw_steps: int = 24, iterations: int = 20) -> np.ndarray:
    """(3, 4) similarity target_from_points: rotation about the up axis by search, then rotation, scale and shift by ICP.

    What comes out is never farther from the target than the points as they were.
    points and target: (N, 3) and (M, 3) surface samples; a few thousand are enough.
    """
    tree = cKDTree(target)

    def disagreement(similarity: np.ndarray) -> float:
        """Chamfer distance: one-sided, a shape shrunk onto a part of the target would look perfect."""
        placed = cameras.transform(similarity, points)
        return tree.query(placed)[0].mean() + cKDTree(placed).query(target)[0].mean()

    centred = points - points.mean(axis=0)
    scale = np.sqrt((target - target.mean(axis=0)).var() / max(centred.var(), 1e-12))
    candidates = [np.eye(3, 4)]
    for angle in np.arange(yaw_steps) * (2 * np.pi / yaw_steps):
        c, s = np.cos(angle), np.sin(angle)
        rotation = scale * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        shift = target.mean(axis=0) - rotation @ points.mean(axis=0)
        candidates.append(np.concatenate([rotation, shift[:, None]], axis=1))
    similarity = min(candidates, key=disagreement)
    steps = [similarity]
    for _ in range(iterations):
        nearest = target[tree.query(cameras.transform(similarity, points))[1]]
        similarity = umeyama(points, nearest)
        steps.append(similarity)
    return min(steps, key=disagreement)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(3, 4) least-squares similarity between paired points (N, 3). Umeyama 1991."""
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = (singular * sign).sum() / max((a**2).sum() / len(a), 1e-12)
    rotation = scale * (u * sign) @ vt
    return np.concatenate([rotation, (mean_target - rotation @ mean_source)[:, None]], axis=1)
