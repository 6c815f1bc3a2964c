"""The first pass: what it leaves out does not show, in pictures or gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model import march
from model.triplane import FieldConfig, TriplaneConfig, TriplaneField
from model.volume import render
from tests.model.test_volume import Recorder, rays, small_field, turned_occupancy


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


def test_a_first_pass_is_made_where_few_samples_matter_and_not_in_a_haze(monkeypatch):
    monkeypatch.setattr(march, "FEWEST", 400 * 64)
    origins, directions = rays(1, 400, seed=2)
    planes = torch.zeros(1)
    for density, skips in ((0.05, False), (500.0, True)):
        field = Counter(density)
        render(field, planes, origins, directions, 64)
        assert field.asked < 64 * 400
        hit = field.asked / (64 * int((march.clip(origins, directions, "box")[1] > 0).sum()))
        assert (hit < 0.2) == skips, hit


class Counter(Recorder):
    """Counts the points that it was asked for with colour."""

    asked = 0

    def evaluate(self, table, points, owners):
        self.asked += len(points)
        return super().evaluate(table, points, owners)

    def evaluate_density(self, table, points, owners):
        return Recorder.evaluate(self, table, points, owners)[0]


def test_what_lies_behind_an_opaque_wall_is_not_looked_at():
    field = Recorder(1e3)
    seen: list[torch.Tensor] = []

    def watched(table, points, owners):
        seen.append(points)
        return Recorder.evaluate(field, table, points, owners)[0]

    field.evaluate_density = watched  # type: ignore[method-assign]
    origins, directions = torch.tensor([[[0.0, -3.0, 0.2]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    result = render(field, torch.zeros(1), origins, directions, 600, first_pass="always")
    assert result.opacity.item() == pytest.approx(1, abs=march.PICTURE_CUT.light)
    assert torch.cat(seen)[:, 1].max() < -1 + 2 / march.ROUNDS
    assert field.points[:, 1].max() < -1 + 2 * 10 / 600  # 10 samples of thickness 3.3 leave nothing


def test_a_field_that_has_all_but_vanished_keeps_its_gradients():
    field = small_field(3, "ball")
    field.config = dataclasses.replace(field.config, density_bias=-14.0)  # a hundred-thousandth
    planes = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(1, 40, seed=4)
    found = {}
    for first_pass in ("always", "never"):
        opacity = render(field, planes, origins, directions, 16, first_pass=first_pass).opacity
        assert 0 < opacity.max() < 1e-3
        found[first_pass] = torch.autograd.grad(opacity.sum(), planes)[0]
    assert found["never"].abs().max() > 0
    torch.testing.assert_close(found["always"], found["never"], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("region", ["ball", "box"])
@pytest.mark.parametrize("chunk", [40, 700])
def test_chunks_of_samples_change_no_result(region, chunk):
    field = solid_field(region)
    planes = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(2, 30, seed=5)
    found = []
    for size in (10**6, chunk):
        seen = render(
            field,
            planes,
            origins,
            directions,
            20,
            occupancy=turned_occupancy(2, seed=6),
            generator=torch.Generator().manual_seed(3),
            importance=8,
            first_pass="always",
            chunk=size,
        )
        loss = seen.colour.square().sum() + seen.depth.sum()
        found.append([seen.colour, seen.depth, *torch.autograd.grad(loss, [planes, *field.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("first_pass", ["never", "always"])
def test_no_rays_are_no_picture(first_pass):
    nothing = torch.zeros(2, 0, 3)
    seen = render(Recorder(1.0), torch.zeros(2), nothing, nothing, 8, importance=4, first_pass=first_pass)
    assert seen.colour.shape == (2, 0, 3) and seen.depth.shape == (2, 0)


def test_what_is_not_a_number_is_not_left_out():
    class Broken(Recorder):
        def evaluate(self, table, points, owners):
            density, colour = super().evaluate(table, points, owners)
            return density + 0 / (points[:, 1] < 0.5).to(density), colour

    origins, directions = torch.tensor([[[0.0, -3.0, 0.2]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    assert render(Broken(0.1), torch.zeros(1), origins, directions, 40, first_pass="always").colour.isnan().all()
