"""What importers are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from render import importers, scene


def test_of_a_triangle_given_twice_the_first_stays() -> None:
    a, b, same, other_way = [4, 2, 7], [2, 4, 8], [2, 7, 4], [4, 7, 2]
    given = np.array([*a, *b, *same, *other_way], dtype=np.uint32)
    assert importers.once_each(given).tolist() == [*a, *b]
    assert importers.once_each(given[:6]).tolist() == [*a, *b]
    assert len(importers.once_each(given[:0])) == 0


def test_a_model_whose_triangles_are_there_both_ways_round_has_one_side(tmp_path: Path) -> None:
    # All of a ball's triangles again, inside out: whichever of two Blender kept, some normals would point inwards.
    ball = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    both = trimesh.Trimesh(ball.vertices, np.concatenate([ball.faces, ball.faces[::-1, ::-1]]), process=False)
    path = tmp_path / "ball.glb"
    both.export(path)
    _, vertices, faces, record = scene.load(path)
    assert record["triangles"] == len(faces) == len(ball.faces)
    corners = vertices[faces]
    outwards = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fi,fi->f", outwards, corners.mean(axis=1)) > 0).all()
