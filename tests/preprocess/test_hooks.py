"""Mattes and upscaling: what is used as it is, what is refused, what an unknown name says."""

from __future__ import annotations

import numpy as np
import pytest

from preprocess import matte, upscale
from turntable.errors import UserError


def cut_out() -> np.ndarray:
    rgba = np.full((6, 8, 4), 90, np.uint8)
    rgba[..., 3] = 0
    rgba[2:4, 2:5, 3] = 255
    return rgba


def test_a_true_matte_is_used_as_it_is() -> None:
    rgba = cut_out()
    np.testing.assert_array_equal(matte.matte(rgba, "alpha"), rgba)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (cut_out()[..., :3], "no alpha channel"),
        (np.full((6, 8, 4), 255, np.uint8), "opaque everywhere"),
    ],
)
def test_a_picture_without_a_matte_needs_another_way(picture: np.ndarray, found: str) -> None:
    with pytest.raises(matte.MatteError, match=rf"{found}.*--matte"):
        matte.matte(picture, "alpha")


@pytest.mark.parametrize(
    "picture", [np.zeros((6, 8), np.uint8), np.zeros((6, 8, 4), np.float32), np.zeros((6, 8, 2), np.uint8)]
)
def test_other_arrays_are_no_pictures(picture: np.ndarray) -> None:
    with pytest.raises(matte.MatteError, match="must be"):
        matte.matte(picture, "alpha")


def test_no_upscaling_changes_nothing() -> None:
    rgba = cut_out()
    assert upscale.find("none")(rgba) is rgba


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"--matte magic: no such way .* there is alpha"):
        matte.matte(cut_out(), "magic")
    with pytest.raises(UserError, match="--upscale magic: no such upscaler; there is none, real"):
        upscale.find("magic")
