"""Drawings of meshes against rays traced through them by trimesh, and against what is known of a ball."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from model.drawing import draw, shown
from model.mesh import Mesh, TexturedMesh
from turntable import cameras

LENS = cameras.intrinsics_from_fov(45.0)


def plain(body: trimesh.Trimesh) -> Mesh:
    vertices = np.asarray(body.vertices, np.float32)
    return Mesh(vertices, np.asarray(body.faces, np.int64), ((vertices + 1) / 2).clip(0, 1))


@pytest.mark.parametrize("body", [trimesh.creation.box((1.0, 0.6, 0.4)), trimesh.creation.torus(0.6, 0.2)])
def test_depth_is_where_rays_meet_the_surface(body):
    pose, size = cameras.look_at(cameras.spherical_position(30, 25, 2.5)), 48
    seen = draw(plain(body), pose, LENS, size)
    origins, directions = cameras.rays(cameras.pixel_centres(size, size).reshape(-1, 2), pose, LENS)
    place, ray, _ = body.ray.intersects_location(origins, directions, multiple_hits=False)
    depth = np.zeros(size * size)
    depth[ray] = cameras.project(place, pose, LENS)[1]
    depth = depth.reshape(size, size)
    # On a silhouette a ray through an edge may count for either.
    assert ((depth > 0) != seen.hit).mean() < 0.002
    both = (depth > 0) & seen.hit
    assert both.mean() > 0.05
    assert np.abs(depth - seen.depth)[both].max() < 1e-4


def test_normals_and_colours_of_a_ball_are_those_of_its_points():
    ball = trimesh.creation.icosphere(4, 0.8)
    pose, size = cameras.look_at(cameras.spherical_position(-50, -10, 2.0)), 64
    seen = draw(plain(ball), pose, LENS, size)
    points = cameras.backproject(cameras.pixel_centres(size, size), seen.depth, pose, LENS)[seen.hit]
    # The triangles' sides are 0.05 long, so they lie 4e-4 inside the ball and their normals are off by 1e-2 at most.
    np.testing.assert_allclose(seen.normal[seen.hit], points / 0.8, atol=0.02)
    # Colours run linearly with position, so this is exact but for float32: it would not be without division by depth.
    np.testing.assert_allclose(seen.colour[seen.hit], (points + 1) / 2, atol=1e-5)
    assert (seen.normal[~seen.hit] == 0).all() and (seen.depth[~seen.hit] == 0).all()


def test_a_texture_is_laid_as_its_uv_say():
    """A square that looks at the camera, with a texture of four colours."""
    corners = np.array([[-1, 0, 1], [1, 0, 1], [1, 0, -1], [-1, 0, -1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 3, 2]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    texture = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    surface = TexturedMesh(Mesh(corners, faces, np.zeros((4, 3), np.float32)), uv, np.arange(4), faces, texture)
    pose = cameras.look_at(np.array([0.0, -4.0, 0.0]))
    seen = draw(surface, pose, cameras.intrinsics_from_fov(2 * np.rad2deg(np.arctan(0.25))), 8)
    assert seen.hit.all()
    np.testing.assert_allclose(seen.colour[[1, 1, 6, 6], [1, 6, 1, 6]] * 255, texture.reshape(4, 3))


def test_what_lies_behind_the_camera_is_not_drawn():
    body = trimesh.creation.box((0.2, 0.2, 0.2))
    pose = cameras.look_at(np.array([0.0, -2.0, 0.0]))
    away = pose.copy()
    away[:, :3] = pose[:, :3] @ np.diag([-1.0, 1, -1])
    assert draw(plain(body), pose, LENS, 32).hit.any()
    assert not draw(plain(body), away, LENS, 32).hit.any()


def test_a_picture_of_a_mesh_is_white_around_it():
    picture = shown(plain(trimesh.creation.icosphere(2, 0.5)), cameras.look_at(np.array([0, -2.5, 0])), LENS, 32)
    assert picture.dtype == np.uint8 and (picture[0] == 255).all() and picture[16, 16].max() < 255
