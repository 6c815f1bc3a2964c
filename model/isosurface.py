"""Where a field's density crosses a level: found coarse to fine, followed until it closes, cut into triangles.

The lattice is the voxels' centres of a cube, n a side, with one more layer of air around it, so that a body that reaches the
walls is closed there. Densities are compared by their logarithm over the level's, which runs straighter across a surface than
the density does.

1. Cells of a coarse lattice, about a texel of the planes wide, are kept where the surface may pass: where a corner's value is
   no farther from the level than `MARGIN` times the steepest step between neighbouring points there. Kept cells are halved,
   and halved again until they are voxels. Of the last halving only the eighths are looked at that a straight run between the
   corners would cross, and the one nearest to the level.
2. From the voxels that the surface crosses it is followed through their faces into the next, until it closes.
3. The crossed voxels go through scikit-image's marching cubes (Lewiner et al. 2003), block by block; vertices on the blocks'
   borders are told by the lattice's edge that they lie on, and made one.

What this guarantees: every connected part of the surface that is found is complete, closed, and within `NEAREST` voxels of
where the dense lattice has it. A part that is missed is missed as a whole: one that lies between the points of a coarse lattice
and shows at none of them. In fields fitted to models these are flecks of a few voxels; `benchmarks/mesh_speed.py` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from model.sparse import BLOCK, CORNERS, Lattice, SparseGrid
from turntable.errors import UserError

MARGIN = 1.0
"""A quadratic rises over its values at a cell's corners by at most 3/8 of the steepest step around; planes have kinks as well."""

LAST_MARGIN = 0.5
"""The same before the last halving, where cells are a fraction of a texel wide."""

LOWEST = np.log(np.float32(0.03))
"""Below that share of the level all air is the same: of density 1e-9 it would pull the crossing inward by its logarithm."""

FAINT = np.log(np.float32(1e-3))
"""The same while the surface is searched for."""

NEAREST = 0.01
"""Voxels: vertices stay so far from the points of the lattice, and no triangle is a needle."""

CELLS = 1 << 17
"""Cells looked at together."""

PACKED = 16
"""Blocks along the side of the array that goes through marching cubes."""

Density = Callable[[np.ndarray], np.ndarray]
"""(N, 3) float32 points in [-1, 1]³ -> (N,) float32 density."""


class EmptyMeshError(UserError):
    """The density nowhere reaches the level."""

    reason = "empty"


def isosurface(density: Density, resolution: int, level: float, texel: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 in [-1, 1]³ and faces (F, 3) int64, counter-clockwise seen from where the density is lower.

    `resolution` voxels a side; `texel`, in object units, is the width below which the density has little detail.
    """
    if not level > 0:
        raise UserError(f"the mesh's level is a density and must be above 0, got {level}")
    steps = strides(resolution, texel)
    lattices = [_lattice(density, resolution, level, stride) for stride in steps]
    cells = np.indices((lattices[0].side - 1,) * 3, np.int32).reshape(3, -1)
    for coarse, fine in pairwise(lattices):
        last = fine is lattices[-1]
        cells = _kept(coarse, cells, LAST_MARGIN if last else MARGIN)
        cells = _halved(cells, fine.side - 1, _likely(coarse, cells) if last else None)
    crossed = followed(lattices[-1], cells)
    if not crossed.shape[1]:
        highest = max(lattice.highest() for lattice in lattices)
        densest = level * np.exp(highest)
        lower = f"--level {densest / 2:.2g} would give one" if densest > 0 else "no level would give one"
        raise EmptyMeshError(
            f"there is no surface: the density reaches {densest:.3g} at most, below the level {level:g}; {lower}. Look at the"
            " rendered views first: a checkpoint that has hardly been trained, or has seen nothing of this kind, gives a haze"
        )
    vertices, faces = triangles(lattices[-1], crossed)
    return ((vertices - 0.5) * (2 / resolution) - 1).clip(-1, 1).astype(np.float32), faces


def strides(resolution: int, texel: float) -> list[int]:
    """Steps of the lattices, in voxels, from the largest power of two that is no wider than 1.5 texels down to 1."""
    widest = int(np.log2(max(1.5 * texel * resolution / 2, 1)))
    return [1 << power for power in range(widest, -1, -1)]


def _lattice(density: Density, resolution: int, level: float, stride: int) -> Lattice:
    """Every `stride`-th point of voxels and air around: the logarithm of density over level."""

    def values(points: np.ndarray) -> np.ndarray:
        index = points * stride
        inside = ((index > 0) & (index <= resolution)).all(axis=0)
        found = np.zeros(len(inside), np.float32)
        # Point 1 is the first voxel's centre.
        if inside.any():
            found[inside] = density(((index[:, inside].T - 0.5) * (2 / resolution) - 1).astype(np.float32))
        if not np.isfinite(found).all():
            raise UserError(
                "the field's density is not a number everywhere: its planes are broken, and there is no mesh"
            )
        return np.log(np.maximum(found / np.float32(level), 1e-9))

    return Lattice(-(-(resolution + 1) // stride) + 1, values)


def _parts(cells: np.ndarray) -> Iterator[np.ndarray]:
    """(3, N) -> the same, so many at a time."""
    return (cells[:, start : start + CELLS] for start in range(0, cells.shape[1], CELLS))


def _halved(cells: np.ndarray, side: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """(3, N) cells -> those of the lattice twice as fine, of `side` cells, that they consist of; of these the `chosen` (8, N)."""
    finer = 2 * cells[:, None] + CORNERS[..., None]
    finer = finer.reshape(3, -1) if chosen is None else finer[:, chosen]
    return finer[:, (finer < side).all(axis=0)]


def _likely(lattice: Lattice, cells: np.ndarray) -> np.ndarray:
    """(3, N) cells -> (8, N) bool: their eighths that the surface crosses if it runs straight, and the one with most hope."""
    parts = [np.zeros((8, 0), bool)]
    for part in _parts(cells):
        values = lattice.corners(part)
        nearest = np.abs(values).reshape(8, -1).argmin(axis=0)
        for axis in range(3):
            low, high = np.split(values, 2, axis)
            values = np.concatenate([low, (low + high) / 2, high], axis)
        eighths = [values[i : i + 2, j : j + 2, k : k + 2] > 0 for i, j, k in CORNERS.T]
        parts.append(np.stack([_differ(inside) for inside in eighths]) | (np.arange(8)[:, None] == nearest))
    return np.concatenate(parts, axis=1)


def _kept(lattice: Lattice, cells: np.ndarray, margin: float) -> np.ndarray:
    """Those of the cells that the surface may pass."""
    steepness, lows, highs = SparseGrid(lattice.side), [], []
    for part in _parts(cells):
        values = np.maximum(lattice.corners(part), FAINT)
        lows.append(values.min(axis=(0, 1, 2)))
        highs.append(values.max(axis=(0, 1, 2)))
        steps = [np.abs(np.diff(values, axis=axis)).max(axis=(0, 1, 2)) for axis in range(3)]
        steepness.set(part, np.maximum.reduce(steps))
    kept = []
    for part, low, high in zip(_parts(cells), lows, highs, strict=True):
        reach = margin * steepness.largest_around(part)
        kept.append(part[:, (low <= reach) & (high >= -reach)])
    return np.concatenate(kept, axis=1) if kept else cells


def followed(lattice: Lattice, seeds: np.ndarray) -> np.ndarray:
    """(3, N) the cells that the surface crosses: those among the seeds, and all that it reaches from there."""
    seen = SparseGrid(lattice.side)
    crossed, frontier = [seeds[:, :0]], seeds
    while frontier.shape[1]:
        seen.set(frontier, 1)
        ahead = [seeds[:, :0]]
        for cells in _parts(frontier):
            inside = lattice.corners(cells) > 0
            mixed = _differ(inside)
            cells, inside = cells[:, mixed], inside[..., mixed]
            crossed.append(cells)
            for axis, end in np.ndindex(3, 2):
                through = _differ(np.take(inside, end, axis))
                ahead.append(cells[:, through] + (2 * end - 1) * np.eye(3, dtype=np.int32)[:, axis, None])
        frontier = seen.unset(np.concatenate(ahead, axis=1))
    return np.concatenate(crossed, axis=1)


def _differ(inside: np.ndarray) -> np.ndarray:
    """(…, N) bool -> (N,) whether some are True and some are not."""
    corners = tuple(range(inside.ndim - 1))
    return inside.any(axis=corners) & ~inside.all(axis=corners)


def triangles(lattice: Lattice, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crossed cells (3, N) -> vertices (V, 3) float64 in steps of the lattice, and faces (F, 3) int64."""
    blocks, owner = np.unique(_number(cells // BLOCK, lattice.side), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    cells, owner = cells[:, order], owner[order]
    keys, places, faces, count = [], [], [], 0
    for start in range(0, len(blocks), PACKED**3):
        low, high = np.searchsorted(owner, [start, start + PACKED**3])
        key, place, corners = _cut(lattice, cells[:, low:high], owner[low:high] - start)
        keys.append(key)
        places.append(place)
        faces.append(corners + count)
        count += len(key)
    _, first, index = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    return np.concatenate(places)[first], index.reshape(-1)[np.concatenate(faces)]


def _number(points: np.ndarray, side: int) -> np.ndarray:
    """(3, …) -> (…) int64, another one for each point."""
    i, j, k = points.astype(np.int64)
    return (i * side + j) * side + k


def _cut(lattice: Lattice, cells: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Marching cubes on the crossed cells (3, N) of blocks `owner` (N,), ascending and below `PACKED`³.

    -> keys (V,) and places (V, 3) of vertices, and faces (F, 3). Vertices with one key are the same.
    """
    try:
        from skimage import measure
    except ImportError as error:
        raise UserError("a mesh needs scikit-image: pip install -e .[model]") from error
    # The blocks lie side by side in one array, each with the points of its far borders.
    pitch = BLOCK + 1
    origins = np.zeros((3, PACKED**3), np.int32)
    origins[:, owner] = cells // BLOCK * BLOCK
    packed_cells = np.stack(np.unravel_index(owner, (PACKED,) * 3)) * pitch + cells % BLOCK
    packed = np.full((PACKED * pitch,) * 3, -1, np.float32)
    packed[tuple(packed_cells[:, None] + CORNERS[..., None])] = lattice.corners(cells).reshape(8, -1)
    packed = np.maximum(packed, LOWEST)
    # A value of almost 0 would put a vertex on a point of the lattice, where it does not tell which edge it is of.
    tie = 1e-4 * np.ptp(packed)
    packed = np.where(np.abs(packed) < tie, np.where(packed > 0, tie, -tie), packed)
    crossed = np.zeros(packed.shape, bool)
    # scikit-image looks for a cell's mask at its last corner.
    crossed[tuple(packed_cells + 1)] = True
    found, faces, _, _ = measure.marching_cubes(packed, 0, gradient_direction="ascent", mask=crossed)
    block, within = np.divmod(found.T.astype(np.float64), pitch)
    start = origins[:, np.ravel_multi_index(tuple(block.astype(np.int64)), (PACKED,) * 3)]
    low = np.floor(within)
    fractions = within - low
    point = start + low.astype(np.int32)
    # A vertex on no edge is the middle of an ambiguous cell.
    axis = np.where((fractions > 0).sum(axis=0) == 1, fractions.argmax(axis=0), 3)
    places = np.where(axis == 3, start + within, _crossings(lattice, point, axis))
    return _number(point, lattice.side) * 4 + axis, places.T, faces.astype(np.int64)


def _crossings(lattice: Lattice, points: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(3, N) points and axes (N,) -> (3, N) where the value is 0 on the way to the next point along the axis."""
    step = np.eye(3, 4, dtype=np.int32)[:, axes]
    here, there = (np.maximum(lattice.get(end), LOWEST).astype(np.float64) for end in (points, points + step))
    share = here / np.where(here == there, 1, here - there)
    return points + step * share.clip(NEAREST, 1 - NEAREST)
