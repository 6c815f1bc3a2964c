"""The field that interpolates projected texels, against the plain reading: interpolate, concatenate, run the MLP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.decoder import sincos_positions
from model.lrm import FieldConfig, TriplaneConfig
from model.triplane import PlaneUpsampler, TriplaneField, bent, corners, gather, straightened


def plain_field(field: TriplaneField, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Planes (B, 3, C, R, R), points (B, N, 3) as torch's own interpolation has it."""
    features = []
    for plane, (column, row) in enumerate(zip(field.axes[::2], field.axes[1::2], strict=True)):
        uv = points[..., [column, row]][:, None]
        sampled = F.grid_sample(planes[:, plane], uv, mode="bilinear", padding_mode="zeros", align_corners=False)
        features.append(sampled[:, :, 0].transpose(1, 2))
    joined = torch.cat(features, dim=-1)
    if field.config.heads == "joint":
        raw = field.joint(joined)
    else:
        raw = torch.cat([field.density_head(joined), field.colour_head(joined)], dim=-1)
    shifted = raw[..., 0] + field.config.density_bias
    density = shifted.exp() if field.config.density == "exp" else F.softplus(shifted)
    reach = points.norm(dim=-1) if field.region == "ball" else points.abs().amax(-1)
    margin = field.config.colour_margin
    return density * (reach <= 1), raw[..., 1:].sigmoid() * (1 + 2 * margin) - margin


@pytest.mark.parametrize("heads", ["joint", "split"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize(("density", "region"), [("exp", "ball"), ("softplus", "box")])
def test_agrees_with_interpolating_first(heads, activation, density, region):
    torch.manual_seed(0)
    config = FieldConfig(heads, 16, 2, 2, activation, density, region=region)
    field = TriplaneField(config, TriplaneConfig(channels=5, axes=((0, 1), (0, 2), (1, 2)))).double()
    planes = torch.randn(2, 3, 5, 7, 7, dtype=torch.float64, requires_grad=True)
    # Beyond the box too, where the planes end and zeros begin; and exactly on its walls.
    points = torch.rand(2, 300, 3, dtype=torch.float64) * 2.4 - 1.2
    points[:, :20] = points[:, :20].sign()
    found, expected = field(planes, points), plain_field(field, planes, points)
    parameters = [planes, *field.parameters()]
    for ours, theirs in zip(found, expected, strict=True):
        # Doubles; only the order of sums differs.
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        weights = torch.randn_like(theirs)
        ours_by = torch.autograd.grad((ours * weights).sum(), parameters, retain_graph=True, allow_unused=True)
        theirs_by = torch.autograd.grad((theirs * weights).sum(), parameters, retain_graph=True, allow_unused=True)
        for a, b, parameter in zip(ours_by, theirs_by, parameters, strict=True):
            # None: the other head's parameters have no part in this output.
            a, b = (torch.zeros_like(parameter) if g is None else g for g in (a, b))
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(field.density(planes, points), expected[0], rtol=1e-10, atol=1e-10)


def test_points_have_gradients_too():
    torch.manual_seed(0)
    field = TriplaneField(FieldConfig(width=8), TriplaneConfig(channels=3)).double()
    planes = torch.randn(1, 3, 3, 5, 5, dtype=torch.float64)
    points = (torch.rand(1, 6, 3, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: field.density(planes, p), (points,))


@pytest.mark.parametrize("table_rows", [50, 40_000])
def test_gather_is_a_weighted_sum_and_so_is_its_gradient(table_rows):
    """Both widths of the sorting key."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(table_rows, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    rows = torch.randint(table_rows, (90, 12), generator=generator)
    weights = torch.rand(90, 12, dtype=torch.float64, generator=generator)
    upstream = torch.randn(90, 4, dtype=torch.float64, generator=generator)
    expected = (table[rows] * weights[..., None]).sum(1)
    torch.testing.assert_close(gather(table, rows, weights), expected)
    (ours,) = torch.autograd.grad((gather(table, rows, weights) * upstream).sum(), table)
    (theirs,) = torch.autograd.grad((expected * upstream).sum(), table)
    torch.testing.assert_close(ours, theirs)


def test_gather_of_no_points_has_a_gradient_of_zeros():
    table = torch.randn(6, 2, requires_grad=True)
    result = gather(table, torch.zeros(0, 12, dtype=torch.int64), torch.zeros(0, 12))
    assert result.shape == (0, 2)
    result.sum().backward()
    assert table.grad is not None and not table.grad.any()


def test_corner_weights_sum_to_one_inside_the_texel_centres():
    points = torch.rand(200, 3, dtype=torch.float64) * 1.7 - 0.85
    _, weights = corners(points, 8, 0, [0, 1, 0, 2, 2, 1])
    torch.testing.assert_close(weights.view(-1, 3, 4).sum(-1), torch.ones(200, 3, dtype=torch.float64))


@pytest.mark.parametrize("axes", [((0, 1), (0, 2), (2, 1)), ((0, 1), (0, 2), (1, 2))])
def test_a_texel_is_read_at_its_own_place(axes):
    """One texel of one plane set: the field changes where its columns and rows say, and nowhere else."""
    field = TriplaneField(FieldConfig(region="box"), TriplaneConfig(channels=1, axes=axes))
    planes = torch.zeros(1, 3, 1, 4, 4)
    planes[0, 2, 0, 3, 1] = 5.0
    centre = torch.zeros(3)
    column, row = axes[2]
    centre[column], centre[row] = -0.25, 0.75
    elsewhere = centre.clone()
    elsewhere[column] = 0.75
    nothing = field.density(torch.zeros_like(planes), torch.zeros(1, 1, 3))
    changed = field.density(planes, torch.stack([centre, elsewhere])[None])[0]
    assert changed[0] != nothing and changed[1] == nothing


def test_a_frame_of_its_own_is_the_field_turned():
    """TripoSR's: its input camera is on its +x, ours on our -y."""
    torch.manual_seed(0)
    turned, plain = (
        TriplaneField(FieldConfig(width=8, region="box"), TriplaneConfig(channels=3, frame=frame)).double()
        for frame in (("-y", "x", "z"), ("x", "y", "z"))
    )
    plain.load_state_dict(turned.state_dict())
    planes = torch.randn(1, 3, 3, 6, 6, dtype=torch.float64)
    points = torch.rand(1, 200, 3, dtype=torch.float64) * 2 - 1
    x, y, z = points.unbind(-1)
    for ours, theirs in zip(turned(planes, points), plain(planes, torch.stack([-y, x, z], -1)), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="frame must name each"):
        TriplaneConfig(frame=("x", "-x", "z"))


def test_density_neither_overflows_nor_dies():
    field = TriplaneField(FieldConfig(region="box"), TriplaneConfig(channels=1))
    raw = torch.tensor([-200.0, 0.0, 300.0], requires_grad=True)
    density = field._density(raw, torch.zeros(3, 3))
    assert torch.isfinite(density).all()
    density.sum().backward()
    assert torch.isfinite(raw.grad).all() and raw.grad[2] > 0


def test_half_precision_planes_are_read_in_float32():
    field = TriplaneField(FieldConfig(), TriplaneConfig(channels=3))
    planes, points = torch.randn(1, 3, 3, 8, 8).bfloat16(), torch.rand(1, 10, 3)
    density, colour = field(planes, points)
    assert density.dtype == colour.dtype == torch.float32
    torch.testing.assert_close(density, field(planes.float(), points)[0])


def test_each_token_becomes_its_own_patch():
    upsampler = PlaneUpsampler(TriplaneConfig(upsample=2, channels=3), width=8)
    tokens = torch.zeros(1, 3 * 4 * 4, 8)
    blank = upsampler(tokens)
    assert blank.shape == (1, 3, 3, 8, 8)
    tokens[0, 16 + 4 * 2 + 1] = 1.0  # second plane, third row, second column
    changed = ((upsampler(tokens) - blank).abs().amax(dim=2) > 0)[0]
    assert changed[1, 4:6, 2:4].all()
    assert changed.sum() == 4


def test_overlapping_patches_reach_half_into_their_neighbours():
    upsampler = PlaneUpsampler(TriplaneConfig(upsample=4, channels=3, overlap=2), width=8)
    tokens = torch.zeros(1, 3 * 4 * 4, 8)
    blank = upsampler(tokens)
    assert blank.shape == (1, 3, 3, 16, 16)
    tokens[0, 4 * 2 + 1] = 1.0
    changed = ((upsampler(tokens) - blank).abs().amax(dim=2) > 0)[0]
    assert changed[0, 6:14, 2:10].all()
    assert changed.sum() == 64
    with pytest.raises(ValueError, match="must be at least 1 and"):
        TriplaneConfig(upsample=3, overlap=2)


def test_sincos_positions_tell_columns_and_rows_apart():
    positions = sincos_positions(12, 128)
    assert positions.shape == (3 * 144, 128)
    plane = positions[:144]
    distances = torch.cdist(plane, plane) + torch.eye(144) * 9
    assert distances.min() > 0.1
    assert torch.equal(plane, positions[144:288])


def test_the_ball_stays_in_the_box_when_a_camera_s_rays_are_straightened() -> None:
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=1, keepdim=True) * torch.rand(2000, 1) ** 0.1
    moved = straightened(points, 2.7)
    across = moved[:, [0, 2]].norm(dim=1)
    assert 0.99 < float(across.max()) <= 1 + 1e-6  # the cone around the ball has become the cylinder around it
    torch.testing.assert_close(bent(moved, 2.7), points)
    assert straightened(points, 0.0) is points
