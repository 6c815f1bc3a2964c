"""Squares cut from distorted frames: pixels are where their cameras say, to a fraction of a pixel, for every lens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from preprocess.colmap import Lens
from preprocess.squares import Cut, outline, square_of
from tests.preprocess.test_colmap import LENSES
from turntable import cameras
from turntable.framing import Square


def lens_of(model: str, width: int = 640, height: int = 360) -> Lens:
    return Lens(model, width, height, tuple(map(float, LENSES[model])))


def coordinates(lens: Lens, scale: float = 1.0) -> np.ndarray:
    """(H, W, 2) float32: a picture of the frame in which every pixel's value is the place of its own centre, frame pixels."""
    centres = cameras.pixel_centres(round(lens.width * scale), round(lens.height * scale))
    return (centres * [lens.width, lens.height]).astype(np.float32)


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize(("side", "size"), [(200, 200), (200, 128), (250, 64)])
def test_a_stored_pixel_shows_the_place_that_its_camera_says(model: str, side: int, size: int) -> None:
    """Read back from the pixels themselves: the frame is a picture of its own coordinates."""
    cut = Cut(lens_of(model), Square(240, 60, side), size)
    uv = cameras.pixel_centres(size, size).reshape(-1, 2)
    # The stored camera's own ray, not the cut's arithmetic.
    directions = cameras.camera_directions(uv, cut.intrinsics) @ cameras.OPENGL_FROM_OPENCV
    expected = cut.lens.pixels(directions[:, :2] / directions[:, 2:])
    shown = cut.means(coordinates(cut.lens)).reshape(-1, 2)
    kept = ((expected > 3) & (expected < [637, 357])).all(axis=1)
    assert kept.sum() > 0.8 * len(kept)
    # OpenCV looks up to 1/32 px, so off by 1/64 at most before the mean; the lens's bend within a pixel adds far less.
    assert np.abs(shown - expected)[kept].max() < 1 / 64 + 0.005


def test_half_a_pixel_would_be_seen() -> None:
    """The check above fails for the mistakes it is there for."""
    cut = Cut(lens_of("SIMPLE_RADIAL"), Square(240, 60, 200), 128)
    expected = cut.frame_pixels(cameras.pixel_centres(128, 128).reshape(-1, 2))
    wrong = coordinates(cut.lens) + np.float32(0.5)
    assert np.abs(cut.means(wrong).reshape(-1, 2) - expected).min() > 0.4
    straight = dataclasses.replace(cut, lens=Lens("SIMPLE_PINHOLE", 640, 360, (500.0, 320.0, 180.0)))
    assert np.abs(straight.means(coordinates(cut.lens)).reshape(-1, 2) - expected).max() > 0.5


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_mask_of_another_size_lies_on_its_frame(scale: float) -> None:
    cut = Cut(lens_of("SIMPLE_RADIAL"), Square(240, 60, 200), 100)
    shown = cut.means(coordinates(cut.lens, scale)).reshape(-1, 2)
    expected = cut.frame_pixels(cameras.pixel_centres(100, 100).reshape(-1, 2))
    assert np.abs(shown - expected).max() < 1 / 64 / min(scale, 1) + 0.005


def test_two_focal_lengths_become_square_pixels() -> None:
    cut = Cut(lens_of("PINHOLE"), Square(200, 50, 200), 100)
    fx, fy, _, _ = cut.intrinsics
    assert fx == fy == pytest.approx(490 / 200)


def test_nothing_aliases() -> None:
    """A chequered frame, far finer than the stored pixels, becomes an even grey; looked up once a pixel it would not."""
    rows, columns = np.indices((360, 640))
    picture = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    cut = Cut(lens_of("SIMPLE_RADIAL"), Square(160, 20, 320), 64)
    rgba, _ = cut.resample(picture, np.full((180, 320), 255, np.uint8))
    assert rgba[..., :3].astype(float).std() < 10
    sparse = picture[2:322:5, 162:482:5]
    assert sparse.astype(float).std() > 100


def test_what_the_frame_does_not_show_is_transparent_and_counted() -> None:
    lens = Lens("SIMPLE_PINHOLE", 640, 360, (500.0, 320.0, 180.0))
    picture, matte = np.full((360, 640, 3), 200, np.uint8), np.full((180, 320), 255, np.uint8)
    rgba, shown = Cut(lens, Square(-50, -25, 200), 100).resample(picture, matte)
    assert shown == pytest.approx(0.75 * 0.875)
    assert not rgba[:12, :, 3].any() and not rgba[:, :25, 3].any()
    assert (rgba[13:, 25:] == [200, 200, 200, 255]).all()


def test_a_lens_that_turns_back_shows_the_frame_once() -> None:
    """Far outside, strong negative distortion leads back into the frame."""
    lens = Lens("SIMPLE_RADIAL", 640, 360, (500.0, 320.0, 180.0, -0.2))
    lens.check()
    far = np.array([[1.9, 0.0]])
    x, y = lens.pixels(far)[0]
    assert 0 < x < 640 and 0 < y < 360  # so it does
    uv = (far * lens.focal + lens.principal_point - [-2000, -2000]) / 4000
    assert np.isnan(Cut(lens, Square(-2000, -2000, 4000), 64).frame_pixels(uv)).all()


def test_the_square_holds_the_outline_with_its_margin() -> None:
    lens = lens_of("SIMPLE_RADIAL")
    matte = np.zeros((180, 320), np.uint8)
    matte[40:120, 100:140] = 255
    shape = outline(matte, lens)
    assert shape is not None and not shape.cut_off
    square = square_of(shape, lens)
    ideal = shape.slopes * lens.focal + lens.principal_point
    assert square.side == pytest.approx(1.5 * np.ptp(ideal, axis=0).max(), abs=1)
    middle = (ideal.min(axis=0) + ideal.max(axis=0)) / 2
    np.testing.assert_allclose(middle, [square.left + square.side / 2, square.top + square.side / 2], atol=1)
    larger = square_of(shape, lens, 512)
    assert larger.side == 512
    np.testing.assert_allclose(middle, [larger.left + 256, larger.top + 256], atol=1.5)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_an_object_that_the_border_cuts_off_is_told(side: str) -> None:
    matte = np.zeros((180, 320), np.uint8)
    whole = {
        "top": np.s_[:90, 100:200],
        "bottom": np.s_[90:, 100:200],
        "left": np.s_[40:90, :90],
        "right": np.s_[40:90, 200:],
    }
    matte[whole[side]] = 255
    shape = outline(matte, lens_of("SIMPLE_RADIAL"))
    assert shape is not None and shape.cut_off
    assert shape.at_border.sum() < len(shape.at_border)


@pytest.mark.parametrize("matte", [np.zeros((90, 160), np.uint8), np.eye(2, dtype=np.uint8) * 255])
def test_a_mask_without_an_object_has_no_outline(matte: np.ndarray) -> None:
    assert outline(matte, lens_of("SIMPLE_RADIAL")) is None
