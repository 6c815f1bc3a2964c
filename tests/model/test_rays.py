"""Where rays are sampled a second time."""

from __future__ import annotations

import pytest
import torch

from model import rays


def test_importance_samples_are_distributed_as_the_weights():
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0]], dtype=torch.float64)
    shares = rays.importance_distances(weights, 1000, None)
    count = torch.histc(shares, 4, 0, 1)
    # A hundredth is spread evenly; what lies on an edge may count to either side.
    expected = torch.tensor([2.5, 745.0, 2.5, 250.0], dtype=torch.float64)
    torch.testing.assert_close(count, expected, atol=3, rtol=0)
    assert (shares.diff() > 0).all()
    # Within a step they are even.
    inside = shares[(shares > 0.25) & (shares < 0.5)]
    torch.testing.assert_close(inside.diff(), inside.diff().mean().expand(len(inside) - 1), rtol=1e-6, atol=0)


def test_importance_samples_of_a_ray_that_sees_nothing_are_even():
    shares = rays.importance_distances(torch.zeros(2, 5, 7), 4, None)
    torch.testing.assert_close(shares, torch.tensor([1, 3, 5, 7]).div(8).expand(2, 5, 4))


def test_jitter_moves_an_importance_sample_within_its_share_only():
    weights = torch.rand(3, 6, dtype=torch.float64)
    first, last = (rays.importance_distances(weights, 5, torch.full((3, 5), end)) for end in (0.0, 0.999999))
    jitter = torch.rand(3, 5, dtype=torch.float64)
    shares = rays.importance_distances(weights, 5, jitter)
    assert (first <= shares).all() and (shares <= last).all()
    torch.testing.assert_close(last[:, :-1], first[:, 1:], atol=1e-5, rtol=0)  # the shares lie side by side


@pytest.mark.parametrize("count", [1, 5])
def test_merged_samples_divide_the_ray_among_them(count):
    near, far = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 3.0])
    sets = [near[:, None] + (far - near)[:, None] * torch.rand(3, count) for _ in range(2)]
    distances, spans = rays.merged(near, far, *sets)
    assert (distances.diff() >= 0).all() and (spans >= 0).all()
    torch.testing.assert_close(spans.sum(1), far - near)
    edges = near[:, None] + spans.cumsum(1)
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    torch.testing.assert_close(edges[:, :-1], middles)
