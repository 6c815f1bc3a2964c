"""Simplified surfaces are closed, small enough, and where they were."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from model import mesh
from model.mesh import Mesh
from model.simplification import closed
from turntable.errors import UserError


def bumpy(count: int = 4) -> Mesh:
    """A sphere of 5,120 faces with thin folds."""
    body = trimesh.creation.icosphere(subdivisions=count)
    vertices = body.vertices * (0.5 + 0.2 * np.abs(np.sin(6 * body.vertices[:, :1])) * np.sign(body.vertices[:, 1:2]))
    return Mesh(vertices.astype(np.float32), body.faces.astype(np.int64), (body.vertices + 1).astype(np.float32) / 2)


def sheets(*bodies: Mesh) -> Mesh:
    counts = np.cumsum([0, *(len(body.vertices) for body in bodies)])
    faces = [body.faces + count for body, count in zip(bodies, counts, strict=False)]
    return Mesh(*map(np.concatenate, ([b.vertices for b in bodies], faces, [b.colours for b in bodies])))


def edges(faces: np.ndarray) -> np.ndarray:
    """How many triangles each edge has."""
    return np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0, return_counts=True)[1]


@pytest.mark.parametrize("budget", [4000, 1000, 200, 50])
def test_a_simplified_surface_is_closed_and_within_its_budget(budget):
    small = mesh.simplified(bumpy(), budget)
    assert 0.9 * budget <= len(small.faces) <= budget
    body = trimesh.Trimesh(small.vertices, small.faces)
    assert body.is_watertight and body.is_winding_consistent


def test_a_simplified_ball_stays_where_it_was_and_keeps_its_colours():
    ball = trimesh.creation.icosphere(subdivisions=5)
    surface = Mesh(ball.vertices.astype(np.float32), ball.faces, ((ball.vertices + 1) / 2).astype(np.float32))
    small = mesh.simplified(surface, 1000)
    # A thousand equal triangles on a unit ball have edges of 0.17: their chords cut 0.004 off.
    assert np.abs(np.linalg.norm(small.vertices, axis=1) - 1).max() < 0.01
    np.testing.assert_allclose(small.colours, (small.vertices + 1) / 2, atol=0.05)


def test_enough_faces_change_nothing_and_too_few_are_refused():
    surface = bumpy(2)
    assert mesh.simplified(surface, len(surface.faces)) is surface
    with pytest.raises(UserError, match="at least 4 triangles, 3 were asked for"):
        mesh.simplified(surface, 3)
    many = sheets(*(mesh.transformed(bumpy(1), np.c_[np.eye(3) * 0.1, [x, 0, 0]]) for x in np.linspace(-0.9, 0.9, 9)))
    with pytest.raises(UserError, match="cannot become 8: their pieces are too many; drop small pieces first"):
        mesh.simplified(many, 8)


def test_bodies_that_touch_along_an_edge_are_told_apart():
    """Two tetrahedra with a common edge: four triangles meet there."""
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0.2, 0.5], [1, -0.2, 0.5], [-1, 0.2, 0.5], [-1, -0.2, 0.5]])
    first = [[0, 1, 2], [1, 0, 3], [0, 2, 3], [1, 3, 2]]
    second = [[0, 1, 5], [1, 0, 4], [0, 5, 4], [1, 4, 5]]
    before = trimesh.Trimesh(vertices, first + second, process=False)
    assert sorted(set(edges(before.faces))) == [2, 4]
    places, faces = closed(vertices, before.faces)
    after = trimesh.Trimesh(places, faces)
    assert set(edges(after.faces)) == {2} and after.is_winding_consistent
    assert after.volume == pytest.approx(before.volume)


def test_triangles_back_to_back_vanish():
    ball = trimesh.creation.icosphere(subdivisions=1)
    flap = np.array([[0, 1, 40], [0, 40, 1]])
    _, faces = closed(ball.vertices, np.concatenate([ball.faces, flap, [[3, 3, 5]]]))
    assert len(faces) == len(ball.faces) and set(edges(faces)) == {2}


def test_floaters_below_their_share_go_and_the_rest_is_untouched():
    large, small = bumpy(3), mesh.transformed(bumpy(2), np.c_[np.eye(3) * 0.05, [0.9, 0, 0]])
    both = sheets(small, large)
    kept = mesh.without_floaters(both, 0.01)
    np.testing.assert_array_equal(kept.vertices[kept.faces], large.vertices[large.faces])
    np.testing.assert_array_equal(kept.colours[kept.faces], large.colours[large.faces])
    assert len(mesh.without_floaters(both, 1e-6).faces) == len(both.faces)
    assert cKDTree(kept.vertices).query(small.vertices)[0].min() > 0.1
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 2"):
        mesh.without_floaters(both, 2)
