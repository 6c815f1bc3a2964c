"""Near-duplicates: objects whose surfaces are the same but for size, place, a rotation or a mirror, whatever their colours.

Two steps. Each object gets a signature that does not change under any of these: the quantiles of its surface points'
distances from their centroid and from each other, its size taken out (shape distributions: Osada et al. 2002, D1 and D2).
Moving every point by d moves no quantile by more than a small multiple of d on average, so pairs whose signatures differ by more
than `SIGNATURE_LIMIT` cannot be near. The others are laid over each other (the 48 ways in which a cube falls on itself, then
turns about the up axis, upright and mirrored; refined by least squares) and compared point by point.

Everything is measured in units of a shape's root mean square distance from its centroid, about 0.6 of the bounding sphere.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from turntable import cameras
from turntable.geometry import umeyama

QUANTILES = 64
"""Numbers in each half of a signature."""
SIGNATURE_POINTS = 100_000
"""Points, and pairs of points, that a signature is made of: two samples of one surface differ by 0.002 then."""
SIGNATURE_LIMIT = 0.015
"""Largest root mean square difference of signatures of near-duplicates."""
COARSE_LIMIT = 0.15
"""Mean distance of a few points, before refinement, beyond which a pose is not worth refining: 7.5° off the true pose gives 0.1."""
YAW_STEPS = 24
"""Turns about the up axis that are tried where no rotation of the cube fits: every 15°, refined from there."""


@dataclass(frozen=True)
class Limits:
    """When two shapes are near-duplicates."""

    distance: float = 0.04
    """How far a point may lie from the other surface, in root mean square radii."""
    share: float = 0.96
    """Share of either surface's points that must lie as near as that, in (0, 1]."""

    def __post_init__(self) -> None:
        if not (self.distance > 0 and 0 < self.share <= 1):
            raise ValueError(f"distance must be positive and share in (0, 1], got {self.distance} and {self.share}")


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates."""

    first: int
    second: int
    share: float
    """Share of points of the one surface within the distance of the other; the smaller of both directions."""
    distance: float
    """Mean distance of points to the other surface, both ways, in root mean square radii."""


def normalised(points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> the same about their centroid, of root mean square distance 1 from it."""
    centred = np.asarray(points, np.float64) - points.mean(axis=0, dtype=np.float64)
    return centred / max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-12)


def signature(points: np.ndarray) -> np.ndarray:
    """(N, 3) surface points, uniform by area -> (128,) float32 that size, place, rotation and mirror do not change."""
    rng = np.random.default_rng(0)
    shape = normalised(points)
    some = shape[rng.integers(0, len(shape), SIGNATURE_POINTS)]
    others = shape[rng.integers(0, len(shape), SIGNATURE_POINTS)]
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    from_centre = np.quantile(np.linalg.norm(some, axis=1), levels)
    apart = np.quantile(np.linalg.norm(some - others, axis=1), levels)
    return np.concatenate([from_centre, apart]).astype(np.float32)


def candidates(signatures: np.ndarray, limit: float = SIGNATURE_LIMIT) -> np.ndarray:
    """(O, 128) signatures -> (P, 2) pairs, in order, whose signatures are near enough that the shapes may be."""
    tree = cKDTree(signatures / np.sqrt(signatures.shape[1]))
    pairs = tree.query_pairs(limit, output_type="ndarray")
    return pairs[np.lexsort(pairs.T[::-1])]


@functools.cache
def cube_symmetries() -> np.ndarray:
    """(48, 3, 3) orthogonal matrices that map a cube's axes to its axes: 24 rotations and their mirrors, the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            found.append(np.eye(3)[list(order)] * np.array(signs)[:, None])
    return np.stack(sorted(found, key=lambda m: (np.linalg.det(m) < 0, -np.trace(m))))


@functools.cache
def yaw_turns() -> np.ndarray:
    """(48, 3, 3) turns about the up axis and their mirrors."""
    angles = np.arange(YAW_STEPS) * (2 * np.pi / YAW_STEPS)
    turns = np.stack([[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in angles])
    return np.concatenate([turns, turns * [-1, 1, 1]])


class Shape:
    """A surface made ready for comparing: normalised points and trees over many and few of them."""

    def __init__(self, points: np.ndarray) -> None:
        order = np.random.default_rng(1).permutation(len(points))
        self.points = normalised(points)[order][:40_000]
        self.tree = cKDTree(self.points)
        self.few = self.points[:250]
        self.coarse_tree = cKDTree(self.points[:4000])


def compare(a: Shape, b: Shape, limits: Limits) -> tuple[float, float]:
    """Share of points near the other surface (the smaller of both ways) and mean distance, in the best pose that was found."""
    best = (0.0, np.inf)
    for turns in (cube_symmetries(), yaw_turns()):
        for turn in _promising(a, b, turns):
            found = _measure(a, b, _refined(a, b, turn), limits)
            best = max(best, found, key=lambda result: (result[0], -result[1]))
            if best[0] >= limits.share:
                return best
    return best


def _promising(a: Shape, b: Shape, turns: np.ndarray, count: int = 2) -> np.ndarray:
    """The turns that bring few points of either shape nearest to the other's; none where no turn brings them near."""
    turned = np.einsum("tij,nj->tni", turns, a.few)
    forth = b.coarse_tree.query(turned.reshape(-1, 3))[0].reshape(len(turns), -1).mean(axis=1)
    back = np.einsum("tji,nj->tni", turns, b.few)
    back_distance = a.coarse_tree.query(back.reshape(-1, 3))[0].reshape(len(turns), -1).mean(axis=1)
    distance = (forth + back_distance) / 2
    best = np.argsort(distance, kind="stable")[:count]
    return turns[best[distance[best] <= COARSE_LIMIT]]


def _refined(a: Shape, b: Shape, turn: np.ndarray, iterations: int = 60) -> np.ndarray:
    """(3, 4) b_from_a near `turn`, by iterated closest points (Besl & McKay 1992) on a thousand of them."""
    some = a.points[:1000] @ turn.T
    similarity, before = np.eye(3, 4), np.inf
    for _ in range(iterations):
        distance, nearest = b.tree.query(cameras.transform(similarity, some))
        similarity = umeyama(some, b.points[nearest])
        if before - distance.mean() < 1e-4:
            break
        before = distance.mean()
    return np.concatenate([similarity[:, :3] @ turn, similarity[:, 3:]], axis=1)


def _measure(a: Shape, b: Shape, b_from_a: np.ndarray, limits: Limits, count: int = 3000) -> tuple[float, float]:
    rotation, shift = b_from_a[:, :3], b_from_a[:, 3]
    to_b = b.tree.query(a.points[:count] @ rotation.T + shift)[0]
    scale = np.cbrt(np.abs(np.linalg.det(rotation)))
    to_a = a.tree.query((b.points[:count] - shift) @ np.linalg.inv(rotation).T)[0] * scale
    share = min((to_b <= limits.distance).mean(), (to_a <= limits.distance).mean())
    return float(share), float((to_b.mean() + to_a.mean()) / 2)


def near_duplicates(
    points: Callable[[int], np.ndarray],
    numbers: Sequence[int],
    limits: Limits = Limits(),
    signatures: np.ndarray | None = None,
) -> Iterator[Pair]:
    """Every pair of near-duplicates among `numbers`, whose surface points (N, 3) `points` gives, one object at a time.

    `signatures`: (len(numbers), 128), where they are known. Pairs that others already tie together are not compared: of a
    hundred copies 99 pairs come out. What is kept in memory is a signature an object, and 64 shapes.
    """
    if len(numbers) < 2:
        return
    pairs = candidates(np.stack([signature(points(n)) for n in numbers]) if signatures is None else signatures)
    shape = functools.lru_cache(maxsize=64)(lambda place: Shape(points(numbers[place])))
    groups = Groups(len(numbers))
    for first, second in pairs.tolist():
        if groups.root(first) == groups.root(second):
            continue
        share, distance = compare(shape(first), shape(second), limits)
        if share >= limits.share:
            groups.join(first, second)
            yield Pair(numbers[first], numbers[second], share, distance)


class Groups:
    """Things that are tied together, directly or through others (union-find; Tarjan 1975)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, number: int) -> int:
        """The group's smallest member."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def join(self, first: int, second: int) -> None:
        """Ties two together."""
        low, high = sorted((self.root(first), self.root(second)))
        self._parent[high] = low

    def members(self) -> list[list[int]]:
        """All groups, each in order, in the order of their smallest members."""
        found: dict[int, list[int]] = {}
        for number in range(len(self._parent)):
            found.setdefault(self.root(number), []).append(number)
        return list(found.values())
