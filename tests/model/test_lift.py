"""Lifting: a token reads the picture where its column projects, by the same projection as everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoints import load_model, save_model
from model.lift import DetailLift, Lift, columns, projected
from model.lrm import LRM, SIZES, camera_numbers
from model.triplane import TriplaneConfig, corners, straightened
from turntable import cameras

POSE = cameras.look_at(cameras.spherical_position(-90.0, 20.0, 2.6))
LENS = np.array([1.1, 1.2, 0.48, 0.53])


def camera() -> torch.Tensor:
    return camera_numbers(torch.from_numpy(POSE), torch.from_numpy(LENS)).float()[None]


def test_points_project_as_cameras_say() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    expected, depth = cameras.project(points, POSE, LENS)
    assert depth.min() > 0.1
    found = projected(torch.from_numpy(points).float(), camera())[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_token_s_column_is_what_reads_its_texel() -> None:
    """Every point of a column lies in the middle of its own token's texel of its own plane, also where axes are turned."""
    for config in (TriplaneConfig(), TriplaneConfig(frame=("-x", "z", "y"))):
        side, count = 4, 3
        points = columns(side, count, config)
        for token, column in enumerate(points):
            plane, row, place = token // side**2, token // side % side, token % side
            (column_axis, column_sign), (row_axis, row_sign) = config.directions[2 * plane : 2 * plane + 2]
            centre = torch.tensor([place, row]) * (2 / side) + 1 / side - 1
            torch.testing.assert_close(column_sign * column[:, column_axis], centre[0].expand(count))
            torch.testing.assert_close(row_sign * column[:, row_axis], centre[1].expand(count))
            assert len(set(column[:, 3 - column_axis - row_axis].tolist())) == count


def test_a_mark_in_the_picture_reaches_the_tokens_before_and_behind_it_only() -> None:
    torch.manual_seed(0)
    side, tokens = 8, 8
    lift = Lift(1, 1, tokens, 4, TriplaneConfig())
    torch.nn.init.ones_(lift.linear.weight)
    torch.nn.init.zeros_(lift.linear.bias)
    marked = torch.zeros(1, 1 + side**2, 1)
    marked[0, 1 + 3 * side + 5] = 1.0  # row 3, column 5
    with torch.no_grad():
        read = lift(marked, camera())[0, :, 0].unflatten(0, (3, -1))
    reached = projected(lift.points.flatten(0, 1), camera())[0].unflatten(0, lift.points.shape[:2])
    # Bilinear reading reaches one patch around the marked one's centre.
    near = ((reached - torch.tensor([5.5, 3.5]) / side).abs().amax(-1) < 1 / side).any(dim=1).unflatten(0, (3, -1))
    assert bool((read[near] > 0).all()) and float(read[~near].abs().max()) == 0 and 0 < int(near.sum()) < near.numel()


def test_in_a_camera_s_straightened_space_a_column_is_its_ray() -> None:
    config = TriplaneConfig(perspective=2.5)
    camera = camera_numbers(torch.from_numpy(cameras.look_at(np.array([0.0, -2.5, 0.0]))), torch.from_numpy(LENS))
    points = columns(6, 5, config).unflatten(0, (3, -1))
    uv = projected(points[1].flatten(0, 1), camera.float()[None])[0].unflatten(0, (-1, 5))
    torch.testing.assert_close(uv, uv[:, :1].expand_as(uv), atol=1e-5, rtol=0)
    assert (
        float(projected(points[0].flatten(0, 1), camera.float()[None])[0].unflatten(0, (-1, 5)).std(dim=1).max()) > 0.1
    )


@pytest.mark.parametrize("perspective", [0.0, 2.7])
def test_the_field_reads_the_planes_as_the_columns_lie(perspective: float) -> None:
    config, side = TriplaneConfig(upsample=1, channels=1, perspective=perspective), 4
    points = columns(side, 3, config)
    axes = [axis for axis, _ in config.directions]
    for token in (0, 5, 21, 47):
        rows, weights = corners(straightened(points[token], perspective), side, 0, axes)
        own = (weights * (rows == token)).sum(dim=1)  # beyond the border rows repeat, with nothing
        torch.testing.assert_close(own, torch.ones(3))


def test_a_pixel_changes_the_texels_that_see_it_and_no_others() -> None:
    torch.manual_seed(0)
    size, texels = 64, 24
    lift = DetailLift(texels, TriplaneConfig(channels=5, detail=8))
    picture = torch.full((1, 3, size, size), 0.8)
    marked = picture.clone()
    marked[0, :, 20, 40] = 0.0
    with torch.no_grad():
        before, after = lift(picture, camera()), lift(marked, camera())
    assert before.shape == (1, 3, 5, texels, texels)
    changed = ((after - before).abs().amax(dim=2)[0] > 1e-6).flatten()
    reached = projected(lift.points.flatten(0, 1), camera())[0].unflatten(0, lift.points.shape[:2])
    away = (reached - torch.tensor([40.5, 20.5]) / size).abs().amax(-1).amin(dim=1) * size
    # Three convolutions of 3 texels, two of them at half the size, and bilinear reading between two features: 1 + 2 + 2 + 2 pixels.
    assert bool(changed[away < 1].all()) and not changed[away > 8].any() and 0 < int(changed.sum()) < changed.numel()


def test_a_network_with_both_is_written_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lrm = LRM(SIZES["mini"]).eval()
    assert lrm.decoder.lift is not None and lrm.detail is not None
    save_model(tmp_path / "mini.safetensors", lrm, {})
    again = load_model(tmp_path / "mini.safetensors")
    picture = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        # The same numbers elsewhere in memory: matrix products may add them up in another order.
        torch.testing.assert_close(lrm.planes(picture, camera()), again.planes(picture, camera()), atol=1e-5, rtol=1e-4)
