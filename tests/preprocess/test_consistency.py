"""Disagreement of neighbouring views: none where a painted sphere is drawn twice, some where a view is given its own details."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from preprocess import consistency
from turntable import cameras

INTRINSICS = cameras.intrinsics_from_fov(40.0)


def sphere(world_from_camera: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere with smooth colours painted on it -> its picture (size, size, 4) uint8 and its planar depth."""
    uv = cameras.pixel_centres(size, size).reshape(-1, 2)
    origins, rays = cameras.rays(uv, world_from_camera, INTRINSICS)
    b, c = (origins * rays).sum(axis=-1), (origins**2).sum(axis=-1) - 1
    hit = b**2 > c
    distance = np.where(hit, -b - np.sqrt(np.maximum(b**2 - c, 0)), 0)
    points = origins + rays * distance[:, None]
    rgba = np.zeros((size * size, 4), np.uint8)
    rgba[..., :3] = np.round(127.5 + 120 * np.sin(3 * points + [0, 1, 2]))
    rgba[..., 3] = hit * 255
    rgba[~hit] = 0
    depth = -cameras.transform(cameras.invert(world_from_camera), points)[:, 2]
    return rgba.reshape(size, size, 4), np.where(hit, depth, 0).reshape(size, size).astype(np.float32)


POSES = np.stack(
    [cameras.look_at(cameras.spherical_position(a, e, 3.5)) for a, e in ((0, 0), (20, 10), (180, 0), (205, 5))]
)


def test_neighbours_are_those_that_look_from_the_same_side() -> None:
    assert consistency.neighbours(POSES) == [(0, 1), (2, 3)]
    assert consistency.neighbours(POSES[:1]) == []


def test_points_are_those_that_both_views_see() -> None:
    depths = [sphere(pose, 96)[1] for pose in POSES]
    for pair in consistency.pairs(POSES, np.tile(INTRINSICS, (4, 1)), depths):
        assert len(pair.uv_first) > 1500
        for view, uv in ((pair.first, pair.uv_first), (pair.second, pair.uv_second)):
            column, row = (uv * 96).astype(int).T
            depth = depths[view][row, column]
            assert (depth > 0).all()
        # The same points, and none from behind: on the unit sphere, on either camera's side of it.
        pixels = (pair.uv_first * 96).astype(int)
        points = cameras.backproject(
            pair.uv_first, depths[pair.first][pixels[:, 1], pixels[:, 0]].astype(float), POSES[pair.first], INTRINSICS
        )
        np.testing.assert_allclose(
            cameras.project(points, POSES[pair.second], INTRINSICS)[0], pair.uv_second, atol=1e-9
        )
        towards = POSES[pair.second, :, 3] - points
        assert ((points * towards).sum(axis=-1) > -0.05).all()


def test_what_is_hidden_is_not_compared() -> None:
    """Opposite views of a sphere share nothing."""
    opposite = POSES[[0, 2]]
    assert consistency.pairs(opposite, np.tile(INTRINSICS, (2, 1)), [sphere(pose, 64)[1] for pose in opposite]) == []


@pytest.fixture
def views() -> tuple[list[np.ndarray], consistency.Comparison]:
    drawn = [sphere(pose, 96) for pose in POSES]
    return [rgba for rgba, _ in drawn], consistency.Comparison(
        POSES, np.tile(INTRINSICS, (4, 1)), [depth for _, depth in drawn]
    )


def test_what_is_drawn_larger_disagrees_no_more(views: tuple[list[np.ndarray], consistency.Comparison]) -> None:
    pictures, comparison = views
    for view, picture in enumerate(pictures):
        comparison.see(view, picture, sphere(POSES[view], 384)[0])
    figures = comparison.figures()
    # Colours are smooth: linear interpolation is off by a few thousandths at 96², by a sixteenth of that at 384².
    assert 0 < figures["after"] <= figures["before"] < 0.004
    assert figures["pairs"] == 2 and figures["points"] > 3000


def test_details_that_each_view_makes_up_are_told(views: tuple[list[np.ndarray], consistency.Comparison]) -> None:
    pictures, comparison = views
    for view, picture in enumerate(pictures):
        noise = np.random.default_rng(view).normal(0, 20, (384, 384, 1))
        larger = cv2.resize(picture[..., :3], (384, 384), interpolation=cv2.INTER_CUBIC) + noise
        comparison.see(view, picture, larger.clip(0, 255).astype(np.uint8))
    figures = comparison.figures()
    # Two views' noise of 20 each, sampled linearly (which takes about a third): |difference| is 2/√π·20·⅔ ≈ 15 of 255.
    assert figures["before"] < 0.004 and 0.03 < figures["after"] < 0.09


def test_a_shift_by_half_a_pixel_is_told(views: tuple[list[np.ndarray], consistency.Comparison]) -> None:
    """What an upscaler with its pixels' centres in the wrong place would do, in one view of each pair."""
    pictures, comparison = views
    for view, picture in enumerate(pictures):
        larger = sphere(POSES[view], 384)[0]
        comparison.see(view, picture, np.roll(larger, 2 * (view % 2), axis=1))
    assert comparison.figures()["after"] > 2 * comparison.figures()["before"]


def test_without_depth_there_is_no_figure_but_a_reason() -> None:
    comparison = consistency.Comparison(POSES, np.tile(INTRINSICS, (4, 1)), None)
    comparison.see(0, np.zeros((4, 4, 4), np.uint8), np.zeros((8, 8, 4), np.uint8))
    assert comparison.figures() == {"before": None, "after": None, "reason": "no depth"}
