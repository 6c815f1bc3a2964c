"""Voxels made from a field: rendering with them looks the same, and asks for far less."""

from __future__ import annotations

import torch

from model import occupancy
from model.triplane import Table
from model.volume import render
from tests.model.test_volume import Recorder, rays


class Ball(Recorder):
    """A dense ball of radius 0.3 at (0.4, 0, 0), denser for a second object; the density falls to 0 over 0.06."""

    def project(self, planes: torch.Tensor, density_only: bool = False) -> Table:
        return super().project(planes)

    def evaluate(self, table, points, owners):
        _, colour = super().evaluate(table, points, owners)
        distance = (points - points.new_tensor([0.4, 0, 0])).norm(dim=-1)
        return self.value * (1 + owners) * ((0.36 - distance) / 0.06).clamp(0, 1), colour


def test_a_field_is_occupied_where_it_is_dense_and_a_voxel_around():
    field, planes = Ball(20.0), torch.zeros(2, 3, 1, 32, 32)
    found = occupancy.occupied(field, planes)
    assert found.grid.shape == (2, 32, 32, 32)
    points = torch.rand(2, 20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = (points - torch.tensor([0.4, 0, 0])).norm(dim=-1)
    inside = found.contains(points)
    assert inside[distance < 0.36].all()
    # A voxel is 1/16 wide, its diagonal 0.11; one more all around.
    assert not inside[distance > 0.36 + 2 * 0.11].any()


def test_a_picture_through_occupied_voxels_is_the_same():
    field, planes = Ball(20.0), torch.zeros(2, 3, 1, 32, 32)
    origins, directions = rays(2, 200, seed=0, dtype=torch.float32)
    whole = render(field, planes, origins, directions, 64, first_pass="never")
    asked = len(field.points)
    part = render(
        field, planes, origins, directions, 64, occupancy=occupancy.occupied(field, planes), first_pass="never"
    )
    assert 0 < len(field.points) < 0.2 * asked
    assert whole.opacity.max() > 0.99
    # Nothing of the ball lies outside: the very same samples.
    torch.testing.assert_close(part.colour, whole.colour)
    torch.testing.assert_close(part.depth, whole.depth)
