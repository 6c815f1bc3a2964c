"""Textures: what covers a texel, the colour it gets, where the photo is believed, and what a viewer reads between texels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from model import mesh, texture
from model.mesh import Mesh, TexturedMesh
from model.raster import rasterise
from model.texture import Photo
from turntable import cameras
from turntable.errors import UserError

PLANES = torch.zeros(1, 3, 1, 16, 16)


@dataclass
class Balls:
    """Two hard balls one behind the other on the y axis; their colour is where they are."""

    centres: tuple[float, float] = (-0.5, 0.4)
    radii: tuple[float, float] = (0.12, 0.4)

    def project(self, planes: Tensor, density_only: bool = False) -> None:
        return None

    def evaluate_density(self, table: None, points: Tensor, owners: int) -> Tensor:
        depths = [
            radius - (points - torch.tensor([0, centre, 0])).norm(dim=-1)
            for centre, radius in zip(self.centres, self.radii, strict=True)
        ]
        return 10 * torch.exp((torch.maximum(*depths) / 0.004).clamp(max=30))

    def evaluate(self, table: None, points: Tensor, owners: int) -> tuple[Tensor, Tensor]:
        return self.evaluate_density(table, points, owners), (points + 1) / 2


@pytest.fixture(scope="module")
def balls() -> Mesh:
    return mesh.simplified(mesh.extract(Balls(), PLANES, 64), 3000)


def read(textured: TexturedMesh, count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random points of the surface, their normals, and the texture's colours there, read bilinearly as a viewer does."""
    rng = np.random.default_rng(0)
    face = rng.integers(len(textured.uv_faces), size=count)
    weights = rng.dirichlet(np.ones(3), count)[:, :, None]
    corners = textured.surface.faces[face]
    points, normals = (
        (weights * each[corners]).sum(axis=1) for each in (textured.surface.vertices, textured.surface.normals())
    )
    place = (weights * textured.uv[textured.uv_faces[face]]).sum(axis=1) * len(textured.texture) - 0.5
    low = np.floor(place).astype(int)
    share, found = place - low, np.zeros((count, 3))
    for right, down in np.ndindex(2, 2):
        part = np.abs(1 - right - share[:, 0]) * np.abs(1 - down - share[:, 1])
        column, row = (low + np.array([right, down])).clip(0, len(textured.texture) - 1).T
        found += part[:, None] * textured.texture[row, column]
    return points, normals, found / 255


def test_rasterised_triangles_cover_the_centres_that_lie_in_them():
    rng = np.random.default_rng(0)
    corners, depth = rng.uniform(-5, 25, (40, 3, 2)), rng.uniform(1, 2, (40, 3))
    raster = rasterise(corners, 20, 16, depth)
    expected = {}
    for row, column in np.ndindex(16, 20):
        for number, (a, b, c) in enumerate(corners):
            # Solved, not by areas.
            s, t = np.linalg.solve(np.stack([b - a, c - a], axis=1), np.array([column + 0.5, row + 0.5]) - a)
            if min(s, t, 1 - s - t) >= 0:
                near = depth[number] @ [1 - s - t, s, t]
                expected[row * 20 + column] = min(expected.get(row * 20 + column, (9, 0)), (near, number))
    assert raster.pixels.tolist() == sorted(expected)
    assert raster.faces.tolist() == [expected[pixel][1] for pixel in sorted(expected)]
    np.testing.assert_allclose(
        raster.interpolate(depth[..., None])[:, 0], [expected[pixel][0] for pixel in sorted(expected)], atol=1e-9
    )


def test_batches_of_rows_change_nothing(monkeypatch):
    corners = np.random.default_rng(1).uniform(0, 64, (30, 3, 2))
    whole = rasterise(corners, 64, 64)
    monkeypatch.setattr("model.raster.CANDIDATES", 50)
    pieces = rasterise(corners, 64, 64)
    np.testing.assert_array_equal(whole.pixels, pieces.pixels)
    np.testing.assert_array_equal(whole.faces, pieces.faces)


def test_the_unwrapping_keeps_the_surface_and_no_two_charts_overlap(balls):
    uv, uv_vertices, uv_faces = texture.unwrapped(balls, 256)
    np.testing.assert_array_equal(uv_vertices[uv_faces], balls.faces)
    assert uv.min() >= 0 and uv.max() <= 1
    a, b, c = (uv[uv_faces] * 256).astype(np.float64).swapaxes(0, 1)
    areas = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2
    # Every texel inside charts is counted once: overlaps would make the areas larger than what is covered.
    assert len(rasterise(uv[uv_faces] * 256, 256, 256).pixels) == pytest.approx(areas, rel=0.01)
    groups = texture.neighbourhoods(balls, 500)
    assert max(map(len, groups)) <= 500
    assert sorted(np.concatenate(groups)) == list(range(len(balls.faces)))


def test_a_viewer_reads_the_fields_colours_from_the_texture(balls):
    textured = texture.bake(balls, Balls(), PLANES, 512)
    assert isinstance(textured, TexturedMesh)
    points, _, found = read(textured)
    # Read up to 0.03 below the surface, which is 0.015 of colour; 8 bits; half a texel of half a hundredth.
    error = np.abs(found - (points + 1) / 2).max(axis=1)
    assert error.mean() < 0.01
    # Not even across seams is there a foreign colour.
    assert error.max() < 0.05
    np.testing.assert_allclose(textured.surface.colours, (balls.vertices + 1) / 2, atol=0.02)


def front_photo() -> Photo:
    """All red, from the front (-y)."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[...] = [255, 0, 0, 255]
    return Photo(picture, cameras.look_at(np.array([0.0, -3.0, 0.0])), cameras.intrinsics_from_fov(40.0))


def test_the_photo_colours_what_it_sees_and_nothing_behind(balls):
    textured = texture.bake(balls, Balls(), PLANES, 512, front_photo())
    points, normals, found = read(textured)
    red = np.abs(found - [1, 0, 0]).max(axis=1) < 0.05
    own = np.abs(found - (points + 1) / 2).max(axis=1) < 0.06
    towards = np.array([0, -3, 0]) - points
    facing = (normals * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
    first = points[:, 1] < -0.2
    assert red[first & (facing > 0.75)].all()
    assert own[facing < 0.15].all()
    # The small ball hides the middle of the large one: 0.12 / 2.5 from its centre, as tangents.
    off = np.linalg.norm(points[:, [0, 2]], axis=1) / (3 + points[:, 1])
    assert own[~first & (off < 0.04)].all()
    clear = ~first & (off > 0.065) & (facing > 0.7)
    assert red[clear].all() and clear.sum() > 50


def test_the_photo_passes_over_into_the_field_without_a_step(balls):
    _, trust = texture.seen_by(front_photo(), balls, balls.vertices, balls.normals())
    # Along the front of the first ball from its middle outward.
    angle = np.linspace(0, np.pi / 2, 200)
    way = np.stack([0 * angle, -0.5 - 0.12 * np.cos(angle), 0.12 * np.sin(angle)], axis=1)
    _, along = texture.seen_by(front_photo(), balls, way, (way - [0, -0.5, 0]) / 0.12)
    assert along[0] == 1 and along[-1] == 0
    assert np.abs(np.diff(along)).max() < 0.1
    assert ((trust >= 0) & (trust <= 1)).all()


def test_transparent_parts_of_the_photo_are_not_believed(balls):
    photo = front_photo()
    photo.rgba[..., 3] = 0
    _, trust = texture.seen_by(photo, balls, balls.vertices, balls.normals())
    assert trust.max() == 0


def test_no_texture_and_absurd_sizes(balls):
    plain = texture.bake(balls, Balls(), PLANES, 0)
    assert isinstance(plain, Mesh)
    for size in (-1, 8, 100_000):
        with pytest.raises(UserError, match=f"16 to 4096 texels a side, or 0 for none; got {size}"):
            texture.bake(balls, Balls(), PLANES, size)


def test_padding_takes_the_nearest_colour():
    covered = np.zeros((9, 9), bool)
    covered[2, 2] = covered[7, 6] = True
    picture = np.zeros((9, 9, 3), np.uint8)
    picture[2, 2], picture[7, 6] = 50, 200
    padded = texture.padded(picture, covered.reshape(-1))
    rows, columns = np.indices((9, 9))
    first, second = np.hypot(rows - 2, columns - 2), np.hypot(rows - 7, columns - 6)
    # OpenCV's distances are right to 2 %.
    clear = np.abs(first - second) > 0.5
    np.testing.assert_array_equal(padded[..., 0][clear], np.where(first < second, 50, 200)[clear])
