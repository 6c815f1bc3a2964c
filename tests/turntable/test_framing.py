"""Framing: what a projected point's pixel is before and after, and that no colour leaks from under the matte."""

from __future__ import annotations

import numpy as np
import pytest

from turntable import cameras, framing


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """(H, W, 4): a grey disc, hard edged; colour under alpha 0 is loud so that leaks show."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    return np.where(inside[..., None], np.array([90, 120, 150, 255]), np.array([255, 0, 255, 0])).astype(np.uint8)


def test_matte_box_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        alpha = (rng.random((9, 13)) < 0.03).astype(np.uint8) * 200
        lit = [(r, c) for r in range(9) for c in range(13) if alpha[r, c] >= 8]
        box = framing.matte_box(alpha)
        if not lit:
            assert box is None
            continue
        rows, columns = zip(*lit, strict=True)
        expected = (min(columns) / 13, min(rows) / 9, (max(columns) + 1) / 13, (max(rows) + 1) / 9)
        assert box == pytest.approx(expected)


def test_matte_box_ignores_what_is_barely_there() -> None:
    alpha = np.zeros((10, 10), np.uint8)
    alpha[0, 0], alpha[5, 5] = 7, 8
    assert framing.matte_box(alpha) == pytest.approx((0.5, 0.5, 0.6, 0.6))


@pytest.mark.parametrize(("height", "width"), [(100, 160), (160, 100), (128, 128)])
@pytest.mark.parametrize("centre", [(50, 60), (3, 5), (97, 96)])
def test_a_projected_point_lands_on_the_same_content(height: int, width: int, centre: tuple[float, float]) -> None:
    """The framed intrinsics are exact: a point's pixel before framing, moved into the square, is its pixel after."""
    rgba = disc(height, width, centre, 12)
    lens = np.array([1.1, 1.1 * width / height, 0.48, 0.53])
    pose = cameras.look_at(np.array([0.3, -2.4, 0.5]))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (30, 3))
    before, _ = cameras.project(points, pose, lens)
    square = framing.square_around(framing.matte_box(rgba[..., 3]) or (0, 0, 1, 1), width, height)
    after, _ = cameras.project(points, pose, framing.frame_intrinsics(lens, square, width, height))
    expected = (before * [width, height] - [square.left, square.top]) / square.side
    np.testing.assert_allclose(after, expected, atol=1e-12)


def test_framing_moves_pixels_as_it_moves_rays() -> None:
    """Each pixel's colour is its own place; in the framed picture (same scale) it must say the same ray."""
    size = 96
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    alpha = np.where((np.abs(column - 30) < 20) & (np.abs(row - 50) < 15), 255, 0)
    rgba = np.stack([column, row, column * 0, alpha], axis=-1).astype(np.uint8)
    lens = cameras.intrinsics_from_fov(50)
    square = framing.square_around(framing.matte_box(rgba[..., 3]) or (0, 0, 1, 1), size, size)
    framed, framed_lens = framing.frame(rgba, lens, square.side)  # no rescaling: colours stay exact
    lit = framed[..., 3] > 0
    directions_after = cameras.camera_directions(cameras.pixel_centres(square.side, square.side)[lit], framed_lens)
    before = (framed[lit][:, :2] + 0.5) / size
    np.testing.assert_allclose(directions_after, cameras.camera_directions(before, lens), atol=1e-12)


@pytest.mark.parametrize("fill", [0.5, 0.85, 1.0])
def test_the_longer_side_fills_its_share_and_is_centred(fill: float) -> None:
    rgba = disc(200, 200, (120, 70), 30)
    framed, _ = framing.frame(rgba, cameras.intrinsics_from_fov(50), 256, fill)
    x0, y0, x1, y1 = framing.matte_box(framed[..., 3]) or (0, 0, 0, 0)
    # The square is of whole pixels of a picture in which the disc is 60 wide: one pixel is 1/60 of its size.
    assert max(x1 - x0, y1 - y0) == pytest.approx(fill, abs=fill / 60 + 2 / 256)
    assert (x0 + x1) / 2 == pytest.approx(0.5, abs=1 / 60)
    assert (y0 + y1) / 2 == pytest.approx(0.5, abs=1 / 60)


def test_cut_beyond_the_border_is_transparent_and_elsewhere_a_copy() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(1, 255, (7, 9, 4), dtype=np.uint8)
    for left, top, side in [(-3, -2, 6), (5, 4, 8), (-5, -5, 30), (20, 20, 4), (2, 1, 3)]:
        result = framing.cut(rgba, framing.Square(left, top, side))
        for y in range(side):
            for x in range(side):
                inside = 0 <= top + y < 7 and 0 <= left + x < 9
                expected = rgba[top + y, left + x] if inside else np.zeros(4)
                np.testing.assert_array_equal(result[y, x], expected)


def test_shrinking_is_the_mean_of_premultiplied_pixels() -> None:
    """The slow version: every 2×2 block, colours weighted by their alpha."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgba[:2, :2, 3] = 0
    small = framing.resize(rgba, 4, 4).astype(float)
    for y in range(4):
        for x in range(4):
            block = rgba[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 4).astype(float)
            alpha = block[:, 3].mean()
            colour = (block[:, :3] * block[:, 3:]).sum(axis=0) / max(block[:, 3].sum(), 1e-9)
            # Half a step of rounding.
            np.testing.assert_allclose(small[y, x], [*(colour if alpha else [0, 0, 0]), alpha], atol=0.51)


@pytest.mark.parametrize("size", [40, 333])
def test_no_colour_leaks_from_under_the_matte(size: int) -> None:
    rgba = disc(100, 100, (50, 50), 30)  # grey on transparent magenta
    out = framing.resize(rgba, size, size)
    lit = out[..., 3] > 8
    # One colour in, one colour out: only rounding remains.
    assert np.abs(out[lit][:, :3].astype(int) - [90, 120, 150]).max() <= 1
    composed = framing.on_background(out) * 255
    assert composed[..., 1].min() > 110  # magenta would pull green to 0


def test_resizing_to_the_same_size_changes_nothing() -> None:
    rgba = disc(50, 50, (20, 20), 10)
    assert framing.resize(rgba, 50, 50) is rgba


def test_only_a_channel_that_says_something_is_a_matte() -> None:
    rgba = disc(20, 20, (10, 10), 5)
    assert framing.has_matte(rgba)
    assert not framing.has_matte(rgba[..., :3])
    assert not framing.has_matte(np.full((4, 4, 4), 255, np.uint8))


def test_compositing_is_porter_and_duffs_over() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    np.testing.assert_allclose(framing.on_background(rgba)[0], [[1, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]], atol=1e-6)
    np.testing.assert_allclose(framing.on_background(rgba, 0.5)[0, 1], [0.5, 0.5, 0.5])


def test_nothing_to_frame_and_impossible_fills_are_errors() -> None:
    with pytest.raises(ValueError, match="empty"):
        framing.frame(np.zeros((10, 10, 4), np.uint8), cameras.intrinsics_from_fov(50), 8)
    for fill in (0, 1.01, -1):
        with pytest.raises(ValueError, match="fill"):
            framing.square_around((0, 0, 1, 1), 10, 10, fill)
