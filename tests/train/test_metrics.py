"""Figures on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from train import metrics
from turntable import cameras, geometry


def ball(
    radius: float = 0.8, centre: tuple[float, float, float] = (0, 0, 0), points: int = 100_000
) -> geometry.Geometry:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return geometry.describe(shape.vertices + np.array(centre), shape.faces, np.random.default_rng(0), points)


def test_psnr_of_a_known_error() -> None:
    true = np.full((16, 16, 3), 0.5)
    alpha = np.zeros((16, 16))
    alpha[:8] = 1
    predicted = true.copy()
    predicted[:8] += 0.1
    figures = metrics.picture_metrics(predicted, true, alpha)
    assert figures["psnr_foreground"] == pytest.approx(20)
    assert figures["psnr"] == pytest.approx(20 + 10 * math.log10(2))
    assert metrics.picture_metrics(true, true, alpha)["ssim"] == pytest.approx(1)


def test_a_shape_agrees_with_itself() -> None:
    figures = metrics.shape_metrics(ball(), ball())
    assert figures["iou128"] == 1 and figures["f@0.05"] == 1 and figures["chamfer"] < 1e-6


def test_a_shifted_ball() -> None:
    figures = metrics.shape_metrics(ball(), ball(centre=(0.05, 0, 0)))
    # The distance from a point of a sphere to the sphere shifted by t is |t cos|, t / 2 on average; the spacing of the
    # 100,000 points (0.009) adds a little to it.
    assert figures["chamfer"] == pytest.approx(0.025, rel=0.1)
    assert figures["f@0.1"] == 1
    assert figures["normals"] > 0.98
    # Two balls of radius r at distance d overlap in a lens: V = pi (2r - d)² (d² + 4dr) / (12 d).
    r, d = 0.8, 0.05
    lens = math.pi * (2 * r - d) ** 2 * (d * d + 4 * d * r) / (12 * d)
    expected = lens / (2 * 4 / 3 * math.pi * r**3 - lens)
    # the surface voxels make both balls half a voxel fatter
    assert figures["iou128"] == pytest.approx(expected, abs=0.01)


def test_an_empty_shape_scores_nothing() -> None:
    figures = metrics.shape_metrics(None, ball())
    assert math.isnan(figures["chamfer"])
    assert figures["iou32"] == figures["f@0.05"] == figures["normals"] == 0


def test_alignment_undoes_a_turn_a_scale_and_a_shift() -> None:
    parts = [trimesh.creation.box((1.0, 0.2, 0.2)), trimesh.creation.box((0.2, 0.5, 0.6))]
    parts[1].apply_translation((0.4, 0.2, 0.3))
    points = np.asarray(trimesh.util.concatenate(parts).sample(3000, seed=0))
    angle = np.deg2rad(130)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = 0.8 * points @ turn.T + [0.1, -0.05, 0.02]
    restored = cameras.transform(geometry.align_upright(moved, points), moved)
    # The same points are in both sets, so ICP can end at the exact answer.
    assert np.abs(restored - points).max() < 1e-3


def test_bootstrap_covers_the_mean_and_leaves_out_missing_values() -> None:
    values = [*np.random.default_rng(0).normal(5, 1, 50).tolist(), float("nan")]
    interval = metrics.bootstrap(values, np.random.default_rng(1))
    assert interval.mean == pytest.approx(np.mean(values[:-1]))
    assert interval.low < interval.mean < interval.high
    # half width of a 95 % interval of a mean of 50: 1.96 / sqrt(50) = 0.28
    assert interval.high - interval.low == pytest.approx(0.55, abs=0.15)
