"""Fewer triangles for a closed surface, closed again: Garland and Heckbert 1997 through fast-simplification, and its repair.

Collapsing edges may fold a thin part flat, so that four triangles meet at an edge; programs that look for two call such a
surface open. Two triangles back to back are dropped, and of two sheets that touch along an edge one gets a corner of its own
in the middle of it.
"""

from __future__ import annotations

import numpy as np

from turntable.errors import UserError

AGGRESSIVENESS = (3.0, 5.0, 7.0, 10.0, 14.0)
"""How quickly fast-simplification lets the error grow, from careful to what reaches any number; the first that suffices is taken."""


def fewer_faces(vertices: np.ndarray, faces: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed surface (V, 3), (F, 3) -> one of at most `budget` triangles. Raises UserError where there is none."""
    try:
        import fast_simplification
    except ImportError as error:
        raise UserError(
            "fewer faces need fast-simplification: pip install -e .[model], or ask for all faces"
        ) from error
    # Room for what the repair adds.
    target, corners = max(budget - budget // 400, 4), faces.astype(np.int32)
    for aggressiveness in AGGRESSIVENESS:
        for _ in range(3):
            found = fast_simplification.simplify(vertices, corners, target_count=target, agg=aggressiveness)
            places, triangles = closed(*found)
            if 0 < len(triangles) <= budget:
                return places, triangles
            if len(found[1]) > target or not len(triangles):
                break
            # The repair of a few edges took a few triangles.
            target = max(target - 2 * (len(triangles) - budget), 4)
    raise UserError(
        f"{len(faces):,} triangles cannot become {budget:,}: their pieces are too many; drop small pieces first, or allow more"
    )


def closed(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A surface whose edges all have two, four, … triangles, half of them either way round -> one whose edges have two."""
    vertices, faces = np.asarray(vertices, np.float64), _without_backs(np.asarray(faces, np.int64))
    while len(crowded := _crowded_edges(faces)):
        busy: set[int] = set()
        split: list[np.ndarray] = []
        middles: list[np.ndarray] = []
        for here, there in crowded:
            forward, backward = (_running(faces, a, b) for a, b in ((here, there), (there, here)))
            pair = {*forward[-1:].tolist(), *backward[-1:].tolist()}
            if len(pair) == 2 and busy.isdisjoint(pair):
                busy.update(pair)
                middle = len(vertices) + len(middles)
                middles.append((vertices[here] + vertices[there]) / 2)
                split += [_halves(faces[face], here, there, middle) for face in pair]
        if not middles:
            break
        vertices = np.concatenate([vertices, middles])
        faces = _without_backs(np.concatenate([np.delete(faces, list(busy), axis=0), *split]))
    used, index = np.unique(faces, return_inverse=True)
    return vertices[used], index.reshape(-1, 3)


def _without_backs(faces: np.ndarray) -> np.ndarray:
    """Without triangles that have the same corners, two by two the one way round and the other; what has no area goes as well."""
    ordered = np.sort(faces, axis=1)
    flat = (ordered[:, :-1] == ordered[:, 1:]).any(axis=1)
    _, group = np.unique(ordered, axis=0, return_inverse=True)
    # A triangle turned round is an odd number of swaps away from its ascending order.
    turned = ((faces[:, 0] > faces[:, 1]) ^ (faces[:, 1] > faces[:, 2]) ^ (faces[:, 0] > faces[:, 2])).astype(np.int64)
    group = group.reshape(-1)
    surplus = np.bincount(group, 1 - 2 * turned).astype(np.int64)
    kept = np.zeros(len(faces), bool)
    for way, sign in ((0, 1), (1, -1)):
        among = np.flatnonzero((turned == way) & ~flat & (surplus[group] * sign > 0))
        kept[among[np.unique(group[among], return_index=True)[1]]] = True
    return faces[kept]


def _crowded_edges(faces: np.ndarray) -> np.ndarray:
    """(N, 2) the edges of more than two triangles."""
    edges, count = np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0, return_counts=True)
    return edges[count > 2]


def _running(faces: np.ndarray, here: int, there: int) -> np.ndarray:
    """The triangles that go round from the one corner to the other."""
    return np.flatnonzero(((faces == here) & (np.roll(faces, -1, axis=1) == there)).any(axis=1))


def _halves(face: np.ndarray, here: int, there: int, middle: int) -> np.ndarray:
    """A triangle (3,) cut in two, (2, 3), by a corner in the middle of an edge."""
    return np.stack([np.where(face == end, middle, face) for end in (there, here)])
