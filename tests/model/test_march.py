"""The first pass: what it leaves out does not show, in pictures or gradients."""

from __future__ import annotations

import pytest
import torch

from model import march
from model.triplane import FieldConfig, TriplaneConfig, TriplaneField
from model.volume import render
from tests.model.test_volume import rays, turned_occupancy


def solid_field(region, heads="split", optical_path="length", density="exp") -> TriplaneField:
    """Mostly empty, with some dense parts: as a trained field is."""
    torch.manual_seed(4)
    config = FieldConfig(heads, 8, density=density, region=region, density_bias=-1.0, optical_path=optical_path)
    field = TriplaneField(config, TriplaneConfig(channels=4)).double()
    last = (field.joint if heads == "joint" else field.density_head)[-1]
    last.weight.data[:1] *= 20  # sharp borders
    return field


@pytest.mark.parametrize("importance", [0, 16])
@pytest.mark.parametrize("region", ["ball", "box"])
@pytest.mark.parametrize(
    ("heads", "optical_path", "density"), [("split", "length", "exp"), ("joint", "unit", "softplus")]
)
def test_what_is_left_out_does_not_show(region, heads, optical_path, density, importance):
    field = solid_field(region, heads, optical_path, density)
    planes = (4 * torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)).requires_grad_()
    origins, directions = rays(2, 100, seed=1)
    occupancy = turned_occupancy(2, seed=2)
    results = {}
    for first_pass in ("never", "always"):
        generator = torch.Generator().manual_seed(0)
        seen = render(
            field,
            planes,
            origins,
            directions,
            32,
            0.7,
            occupancy,
            generator,
            importance=importance,
            first_pass=first_pass,
        )
        loss = (seen.colour * torch.tensor([1.0, -1.0, 2.0])).square().sum() + seen.opacity.square().sum()
        results[first_pass] = (seen, torch.autograd.grad(loss, [planes, *field.parameters()]))
    (exact, exact_gradients), (thrifty, gradients) = results["never"], results["always"]
    assert 0.02 < exact.opacity.mean() < 0.95
    bound = (32 + importance) * march.GRADIENT_CUT.weight + march.GRADIENT_CUT.light
    assert 0 < (exact.colour - thrifty.colour).abs().max() < bound
    assert (exact.opacity - thrifty.opacity).abs().max() < bound
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
