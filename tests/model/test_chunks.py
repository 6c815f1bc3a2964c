"""Points a chunk at a time: the same results and gradients in chunks of any size, also when memory runs out on the way."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from model.chunks import evaluated, in_chunks
from model.triplane import FieldConfig, Table, TriplaneConfig, TriplaneField


class Greedy(TriplaneField):
    """A field on a machine whose memory holds `limit` points."""

    limit = 10**9

    def evaluate(self, table: Table, points: Tensor, owners: Tensor | int) -> tuple[Tensor, Tensor]:
        if len(points) > self.limit:
            raise torch.OutOfMemoryError(f"{len(points)} points")
        self.calls = [*getattr(self, "calls", []), len(points)]
        return super().evaluate(table, points, owners)


@pytest.fixture
def field():
    torch.manual_seed(0)
    config = FieldConfig("joint", 8, density_layers=2, density="softplus", region="box")
    return Greedy(config, TriplaneConfig(channels=4)).double()


def gradients(field: Greedy, chunk: int, moving_points: bool = False) -> list[Tensor]:
    """Values, and gradients with respect to planes, parameters and (where they move) points."""
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(2, 3, 4, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    points = torch.rand(50, 3, generator=generator, dtype=torch.float64) * 2 - 1
    points.requires_grad_(moving_points)
    owners = torch.arange(50) % 2
    density, colour = evaluated(field, field.evaluate, field.project(planes), points, owners, chunk)
    loss = (density * torch.arange(50)).sum() + (colour * torch.tensor([1.0, -2.0, 3.0])).square().sum()
    wanted = [planes, *field.parameters()] + ([points] if moving_points else [])
    return [density.detach(), colour.detach(), *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("moving_points", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 49])
def test_chunks_change_neither_values_nor_gradients(field, chunk, moving_points):
    whole, parts = gradients(field, 50, moving_points), gradients(field, chunk, moving_points)
    assert all(value.abs().max() > 0 for value in whole)
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs)  # doubles, summed in another order


def test_frozen_parameters_need_no_gradients(field):
    field.requires_grad_(False)
    planes = torch.randn(1, 3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    points, owners = torch.rand(20, 3, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    found = []
    for chunk in (20, 6):
        density, _ = evaluated(field, field.evaluate, field.project(planes), points, owners, chunk)
        found.append(torch.autograd.grad(density.sum(), planes)[0])
    torch.testing.assert_close(*found)


def test_a_chunk_that_does_not_fit_is_halved_forward_and_backward(field, caplog):
    whole = gradients(field, 50)
    field.limit, field.calls = 9, []
    with caplog.at_level(logging.WARNING):
        halved = gradients(field, 40)
    for ours, theirs in zip(halved, whole, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert max(field.calls) <= 9 and sum(field.calls) == 100  # every point forward and backward
    assert "out of memory: going on with chunks of 5" in caplog.text


def test_a_single_point_that_does_not_fit_is_an_error(field):
    field.limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        gradients(field, 40)


def test_slices_follow_each_other_when_they_shrink():
    limit = 4

    def work(part: slice) -> range:
        if part.stop - part.start > limit:
            raise torch.OutOfMemoryError
        return range(part.start, part.stop)

    assert [i for part in in_chunks(work, 23, 16) for i in part] == list(range(23))
    assert list(in_chunks(work, 0, 16)) == []
