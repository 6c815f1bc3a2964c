"""Closed solids that furniture is put together from: rounded boxes, prisms, lathe work and sweeps.

Lengths are metres; +z is up, the front of a piece faces -y. Every solid is watertight and its faces run counter-clockwise seen
from outside. Solids carry no normals: `datasets.furniture.glb` derives them from the angles between faces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Point = Sequence[float]
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Solid:
    """One closed body."""

    vertices: np.ndarray
    """(V, 3) float64, metres; no position occurs twice."""
    faces: np.ndarray
    """(F, 3) int64, outward."""

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
        """Shifted by metres."""
        return Solid(self.vertices + np.array([x, y, z]), self.faces)

    def turned(self, axis: Point, degrees: float, about: Point = (0.0, 0.0, 0.0)) -> Solid:
        """Turned counter-clockwise about a unit axis through the point `about`."""
        vertices = (self.vertices - about) @ _rotation(axis, degrees).T + about
        return Solid(vertices, self.faces)

    def mirrored(self) -> Solid:
        """Mirrored left to right (x to -x), still facing outward."""
        return Solid(self.vertices * [-1, 1, 1], self.faces[:, ::-1])

    def bent(self, field: Callable[[np.ndarray], np.ndarray]) -> Solid:
        """Every vertex moved by `field`: (V, 3) positions -> (V, 3) positions. The field must not fold space."""
        return Solid(field(self.vertices), self.faces)


def _rotation(axis: Point, degrees: float) -> np.ndarray:
    """(3, 3), Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _welded(vertices: np.ndarray, faces: np.ndarray) -> Solid:
    """Joins vertices at one position and drops the faces that collapse by it."""
    # Adding zero turns -0.0 into 0.0, which would count as another position.
    unique, index = np.unique(np.round(vertices, 9) + 0.0, axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return Solid(unique, faces[whole])


def _quads(index: np.ndarray) -> np.ndarray:
    """A grid of vertex indices (N, M) -> (2(N-1)(M-1), 3) triangles, counter-clockwise where rows run x and columns run y."""
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def box(size: Point, radius: float = 0.0, segments: int = 1, divisions: int = 1) -> Solid:
    """A box centred on the origin with edges rounded by `radius`, in `segments` steps a half edge.

    `divisions` cuts its flat faces, for `bent`.
    """
    half = np.asarray(size, dtype=np.float64) / 2
    radius = min(radius, float(half.min()))
    tangents, sides = _edge_parameters(radius, segments, divisions)
    vertices, faces, count = [], [], 0
    for axis in range(3):
        for sign in (-1.0, 1.0):
            direction, side = np.empty((2, len(sides), len(sides), 3))
            direction[..., axis] = side[..., axis] = sign
            for other, view in (((axis + 1) % 3, (slice(None), None)), ((axis + 2) % 3, (None, slice(None)))):
                direction[..., other], side[..., other] = tangents[view], sides[view]
            direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
            vertices.append((side * (half - radius) + direction * radius).reshape(-1, 3))
            grid = np.arange(count, count + len(sides) ** 2).reshape(len(sides), -1)
            faces.append(_quads(grid)[:, :: int(sign)])
            count += grid.size
    return _welded(np.concatenate(vertices), np.concatenate(faces))


def _edge_parameters(radius: float, segments: int, divisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one side of a face: tangent of the angle by which the surface has turned, and place -1 … 1 on the inner box."""
    flat = np.linspace(-1, 1, divisions + 1)
    if radius <= 0:
        return flat * 0, flat
    turn = np.tan(np.linspace(0, np.pi / 4, segments + 1))
    tangents = np.concatenate([-turn[:0:-1], flat * 0, turn[1:]])
    return tangents, np.concatenate([-np.ones(segments), flat, np.ones(segments)])


def cushion(size: Point, softness: float = 1.0, divisions: int = 6) -> Solid:
    """A stuffed cushion centred on the origin: round edges, bulging faces. `softness` 0 is a block of foam, 1 a seat cushion."""
    width, depth, _ = size
    radius = min(0.45, 0.3 + 0.15 * softness) * min(size)

    def bulge(p: np.ndarray) -> np.ndarray:
        dome = (1 - (2 * p[:, :1] / width) ** 2) * (1 - (2 * p[:, 1:2] / depth) ** 2)
        return p * np.concatenate([np.ones((len(p), 2)), 1 + 0.22 * softness * np.clip(dome, 0, 1)], axis=1)

    return box(size, radius, segments=3, divisions=divisions).bent(bulge)


def pillow(size: Point) -> Solid:
    """A bed pillow centred on the origin: thick in the middle, thin towards its edges, corners drawn out."""
    width, depth, height = size

    def shape(p: np.ndarray) -> np.ndarray:
        u, v = np.clip(2 * p[:, 0] / width, -1, 1), np.clip(2 * p[:, 1] / depth, -1, 1)
        full = 0.25 + 0.75 * np.sqrt((1 - u**4) * (1 - v**4))
        waist = 1 - 0.07 * np.stack([1 - v**2, 1 - u**2], axis=1) * np.stack([u**2, v**2], axis=1)
        return np.concatenate([p[:, :2] * waist, (p[:, 2] * full)[:, None]], axis=1)

    return box(size, 0.42 * height, segments=2, divisions=10).bent(shape)


def lathe(profile: Sequence[tuple[float, float]], segments: int = 24) -> Solid:
    """A body of revolution about z. `profile`: (radius, z) from bottom to top; ends of radius > 0 are closed by a disc."""
    points = list(profile)
    below = [(0.0, points[0][1])] if points[0][0] > 0 else []
    above = [(0.0, points[-1][1])] if points[-1][0] > 0 else []
    points = below + points + above
    radius, z = np.array(points).T
    angle = np.arange(segments + 1) % segments * (2 * np.pi / segments) + np.pi / segments
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    vertices = np.concatenate(
        [radius[None, :, None] * ring[:, None], np.broadcast_to(z[None, :, None], (segments + 1, len(z), 1))], axis=-1
    )
    return _welded(vertices.reshape(-1, 3), _quads(np.arange(vertices.size // 3).reshape(segments + 1, -1)))


def rod(radius: float, length: float, taper: float = 1.0, segments: int = 16, edge: float = 0.002) -> Solid:
    """A round bar on z from 0 to `length`, radius `radius` at the top and `radius * taper` at the foot, edges broken."""
    foot = radius * taper
    return lathe([(foot - edge, 0), (foot, edge), (radius, length - edge), (radius - edge, length)], segments)


def _offset(outline: np.ndarray, inset: float) -> np.ndarray:
    """(N, 2) counter-clockwise outline moved inwards by `inset` along its mitred corners."""
    edges = np.roll(outline, -1, axis=0) - outline
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1, keepdims=True)
    before = np.roll(normals, 1, axis=0)
    return outline - inset * (normals + before) / (1 + (normals * before).sum(1, keepdims=True))


def prism(outline: np.ndarray, height: float, edge: float = 0.003, dome: float = 0.0) -> Solid:
    """An upright prism from z = 0 to `height` over `outline`, edges rounded by `edge`, its top raised by `dome` in the middle.

    `outline`: (N, 2) counter-clockwise, seen whole from its mean point.
    """
    steps = np.deg2rad([0, 45, 90]) if edge > 0.006 else np.deg2rad([0, 90])
    rings = [(_offset(outline, edge * (1 - np.sin(a))), edge * (1 - np.cos(a))) for a in steps] if edge else []
    rings += [(ring, height - z) for ring, z in rings[::-1]] if edge else [(outline, 0.0), (outline, height)]
    if dome:
        top, centre = rings[-1][0], outline.mean(axis=0)
        rings += [(centre + s * (top - centre), height + dome * (1 - s**2)) for s in (0.85, 0.65, 0.4, 0.2)]
    return _stacked([np.column_stack([ring, np.full(len(ring), z)]) for ring, z in rings], outline.mean(axis=0), dome)


def _stacked(rings: list[np.ndarray], centre: np.ndarray, dome: float) -> Solid:
    count = len(rings[0])
    grid = np.arange(len(rings) * count).reshape(len(rings), count)
    sides = _quads(np.concatenate([grid, grid[:, :1]], axis=1).T)
    bottom, top = len(rings) * count, len(rings) * count + 1
    first, last = grid[0], grid[-1]
    caps = [
        np.stack([np.full(count, bottom), np.roll(first, -1), first], axis=1),
        np.stack([np.full(count, top), last, np.roll(last, -1)], axis=1),
    ]
    ends = [[*centre, rings[0][0, 2]], [*centre, rings[-1][0, 2] + dome * 0.04]]
    return _welded(np.concatenate([*rings, ends]), np.concatenate([sides, *caps]))


def sweep(
    path: Sequence[Point] | np.ndarray,
    section: np.ndarray,
    scale: float | Sequence[float] | np.ndarray = 1.0,
    up: Point = Z,
    closed: bool = False,
) -> Solid:
    """`section` drawn along `path`.

    `path`: (N, 3). `section`: (M, 2) counter-clockwise, first axis sideways, second along `up` as far as the path allows.
    `scale`: of the section, one or (N,) or (N, 2). A `closed` path returns to its start and has no ends.
    """
    points = np.asarray(path, dtype=np.float64)
    side, over = _frames(points, np.asarray(up, dtype=np.float64), closed)
    scales = np.asarray(scale, dtype=np.float64)
    if scales.ndim < 2:
        scales = np.broadcast_to(scales.reshape(-1, 1), (len(points), 2))
    flat = section[None] * scales[:, None]
    rings = points[:, None] + flat[..., :1] * side[:, None] + flat[..., 1:] * over[:, None]
    count = len(section)
    grid = np.arange(rings.size // 3).reshape(len(points), count)
    around = np.concatenate([grid, grid[:, :1]], axis=1)
    if closed:
        return _welded(rings.reshape(-1, 3), _quads(np.concatenate([around, around[:1]]).T))
    start, end = rings.size // 3, rings.size // 3 + 1
    caps = [
        np.stack([np.full(count, start), np.roll(grid[0], -1), grid[0]], axis=1),
        np.stack([np.full(count, end), grid[-1], np.roll(grid[-1], -1)], axis=1),
    ]
    vertices = np.concatenate([rings.reshape(-1, 3), [points[0], points[-1]]])
    return _welded(vertices, np.concatenate([_quads(around.T), *caps]))


def _frames(points: np.ndarray, up: np.ndarray, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sideways and upward unit vectors (N, 3) along a path, the upward one carried on from point to point."""
    ahead = np.roll(points, -1, axis=0) - points
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-12)
    behind = np.roll(ahead, 1, axis=0)
    if not closed:
        ahead[-1], behind[0] = behind[-1], ahead[0]
    tangents = ahead + behind
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    over = np.empty_like(points)
    for i, tangent in enumerate(tangents):
        # Starting along the path itself gives no direction; any other one will do then.
        start = up if abs(up @ tangent) < 0.99 else np.array([0.0, 1.0, 0.0]) if abs(tangent[1]) < 0.9 else np.array(X)
        before = start if i == 0 else over[i - 1]
        over[i] = before - (before @ tangent) * tangent
        over[i] /= np.linalg.norm(over[i])
    return np.cross(over, tangents), over


def circle(radius: float, segments: int = 12) -> np.ndarray:
    """(segments, 2) outline of a circle, a flat facing each axis."""
    angle = (np.arange(segments) + 0.5) * (2 * np.pi / segments)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rectangle(width: float, depth: float, radius: float = 0.0, segments: int = 4) -> np.ndarray:
    """(N, 2) outline of a rectangle with corners rounded by `radius`."""
    radius = min(radius, 0.499 * min(width, depth))
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width / 2, depth / 2]
    if radius <= 0:
        return corners
    arc = np.linspace(0, np.pi / 2, segments + 1)
    quarter = radius * np.stack([np.cos(arc), np.sin(arc)], axis=1)
    turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in np.arange(4) * np.pi / 2]
    return np.concatenate([c - np.sign(c) * radius + quarter @ t for c, t in zip(corners, turns, strict=True)])


def superellipse(width: float, depth: float, power: float = 2.0, segments: int = 48) -> np.ndarray:
    """(segments, 2) outline |2x/width|^power + |2y/depth|^power = 1: an ellipse at power 2, boxier above. Lamé 1818."""
    angle = (np.arange(segments) + 0.5) * (2 * np.pi / segments)
    cos, sin = np.cos(angle), np.sin(angle)
    unit = np.stack([np.sign(cos) * abs(cos) ** (2 / power), np.sign(sin) * abs(sin) ** (2 / power)], axis=1)
    return unit * [width / 2, depth / 2]


def corner_share(outline: np.ndarray) -> float:
    """The largest k for which the corners of the outline's box, scaled by k, lie within it: 1 for a rectangle, 0.71 for an ellipse."""
    half = (outline.max(0) - outline.min(0)) / 2
    relative = (outline - outline.mean(0)) / half
    angles, radius = np.arctan2(relative[:, 1], relative[:, 0]), np.hypot(*relative.T)
    order = np.argsort(angles)
    corners = np.interp(np.deg2rad([-135, -45, 45, 135]), angles[order], radius[order], period=2 * np.pi)
    return float(corners.min() / np.sqrt(2))


def filleted(corners: Sequence[Point], radius: float, segments: int = 4, closed: bool = False) -> np.ndarray:
    """(N, 3) path through `corners` with each bend replaced by a curve that begins `radius` before it (a quadratic Bézier)."""
    points = np.asarray(corners, dtype=np.float64)
    count = len(points)
    path = []
    for i in range(count):
        if not closed and i in (0, count - 1):
            path.append(points[i : i + 1])
            continue
        before, here, after = points[i - 1], points[i], points[(i + 1) % count]
        reach = [min(radius, 0.49 * float(np.linalg.norm(p - here))) for p in (before, after)]
        start, end = (
            here + r * (p - here) / np.linalg.norm(p - here) for r, p in zip(reach, (before, after), strict=True)
        )
        t = np.linspace(0, 1, segments + 1)[:, None]
        path.append((1 - t) ** 2 * start + 2 * t * (1 - t) * here + t**2 * end)
    return np.concatenate(path)
