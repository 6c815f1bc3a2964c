"""What is said of pictures whose matte is doubtful, and of those that give none."""

from __future__ import annotations

import numpy as np
import pytest

from model.lrm import LRM
from model.photograph import (
    NoSubjectError,
    Photograph,
    doubts,
    find_object,
    frame_object,
    small,
    typical_elevation,
    without_faint_islands,
)
from preprocess.matte import MatteError
from tests.model.test_reconstruct import SMALL, TYPICAL
from turntable.errors import UserError


def matte(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    alpha = np.zeros((120, 180), np.uint8)
    alpha[top:bottom, left:right] = 255
    return alpha


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (matte(30, 30, 90, 150), ""),
        (matte(0, 30, 90, 150), "touches the top border"),
        (matte(30, 0, 90, 180), "touches the left and right border"),
        (matte(0, 0, 120, 180), "touches all four borders: the matte may be the background"),
        (matte(10, 10, 12, 12), "only 2 pixels large"),
    ],
)
def test_a_doubtful_matte_is_said(alpha, said):
    found = "; ".join(doubts(alpha))
    assert said in found and bool(found) == bool(said)


def test_a_background_taken_for_the_object_is_said_when_framed():
    """An inverted matte: opaque all round, a hole where the object is."""
    rgba = np.dstack([np.full((120, 180, 3), 90, np.uint8), 255 - matte(30, 30, 90, 150)])
    framed = frame_object(rgba, Photograph(), LRM(SMALL), TYPICAL)
    assert any("all four borders" in note for note in framed.notes)


@pytest.mark.parametrize("value", [0, 5])
def test_a_matte_with_nothing_in_it_is_no_subject(value):
    rgba = np.full((20, 20, 4), value, np.uint8)  # 5 of 255 is noise, see framing.matte_box
    with pytest.raises(NoSubjectError, match="transparent") as raised:
        frame_object(rgba, Photograph(), LRM(SMALL), TYPICAL)
    assert raised.value.reason == "no-subject"


def test_an_opaque_alpha_says_what_to_do():
    with pytest.raises(MatteError, match=r"opaque everywhere.*--matte.*rembg:u2net") as raised:
        find_object(np.full((20, 20, 4), 255, np.uint8), Photograph())
    assert raised.value.reason == "no-matte"


def test_one_pixel_is_framed_and_said():
    framed = frame_object(np.full((1, 1, 4), 200, np.uint8), Photograph(), LRM(SMALL), TYPICAL)
    size = SMALL.encoder.image_size
    assert framed.rgba.shape == (size, size, 4) and framed.rgba[size // 2, size // 2, 3] == 200
    assert any("only 1 pixel" in note for note in framed.notes)


def test_faint_islands_of_a_networks_matte_do_not_move_the_frame():
    clean = np.dstack([np.full((120, 180, 3), 90, np.uint8), matte(40, 60, 90, 130)])
    clean[40:90, 57:60, 3] = 60  # a soft edge belongs to the object
    noisy = clean.copy()
    noisy[5:15, 5:30, 3] = 45
    noisy[100:103, 170:175, 3] = 3  # fainter than what framing sees
    found = without_faint_islands(noisy)
    np.testing.assert_array_equal(found[..., 3] >= 8, clean[..., 3] >= 8)
    np.testing.assert_array_equal(found[40:90, 57:130], clean[40:90, 57:130])
    # A matte that is faint everywhere is left for what comes after to judge.
    faint = np.dstack([np.zeros((120, 180, 3), np.uint8), matte(40, 60, 90, 130) // 4])
    np.testing.assert_array_equal(without_faint_islands(faint), faint)
    np.testing.assert_array_equal(without_faint_islands(0 * faint), 0 * faint)


@pytest.mark.parametrize("value", ["north", 120.0, None, [1]])
def test_a_typical_elevation_that_is_none_is_refused(value):
    with pytest.raises(UserError, match="give --elevation"):
        typical_elevation({"camera_elevation": value})


def test_the_elevation_is_what_the_user_says_or_the_checkpoint_knows():
    rgba = np.dstack([np.zeros((120, 180, 3), np.uint8), matte(30, 30, 90, 150)])
    for extra, given, expected in [({}, None, 0.0), ({"camera_elevation": 12.0}, None, 12.0), ({}, -30.0, -30.0)]:
        framed = frame_object(rgba, Photograph(elevation=given), LRM(SMALL), TYPICAL | extra)
        assert framed.elevation == expected


def test_a_small_copy_keeps_the_proportions():
    assert small(np.zeros((1000, 2000, 3), np.uint8)).shape == (256, 512, 3)
    assert small(np.zeros((3, 5000, 4), np.uint8)).shape == (1, 512, 4)
    assert small(np.zeros((30, 50, 4), np.uint8)).shape == (30, 50, 4)
