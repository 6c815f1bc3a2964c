"""What is said of a picture, on pictures where the answer is plain."""

from __future__ import annotations

import numpy as np

from render.checks import check_view


def picture(level: int, rows: slice) -> np.ndarray:
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[rows, 2:8] = (level, level, level, 255)
    return rgba


def test_coverage_border_and_brightness() -> None:
    depth = np.zeros((10, 10))
    depth[2:4, 2:8] = 2.0
    found = check_view(picture(100, slice(2, 7)), depth)
    assert found == {"coverage": 0.3, "hit": 0.12, "border": False, "black": 0.0, "blown": 0.0, "brightness": 100.0}
    assert check_view(picture(100, slice(0, 5)), depth)["border"]


def test_black_and_blown() -> None:
    half = picture(3, slice(2, 4)) + picture(254, slice(4, 8))
    found = check_view(half, np.zeros((10, 10)))
    assert (found["black"], found["blown"]) == (0.33333, 0.66667)


def test_an_empty_picture_has_checks_too() -> None:
    assert check_view(np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4)))["coverage"] == 0
