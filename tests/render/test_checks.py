"""What is said of a picture, on pictures where the answer is plain."""

from __future__ import annotations

import numpy as np
import pytest

from render.checks import Thresholds, asset_doubts, check_view


def picture(level: int, rows: slice) -> np.ndarray:
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[rows, 2:8] = (level, level, level, 255)
    return rgba


def test_coverage_border_and_brightness() -> None:
    depth = np.zeros((10, 10))
    depth[2:4, 2:8] = 2.0
    found = check_view(picture(100, slice(2, 7)), depth)
    assert found.pop("doubts") == []
    assert found == {
        "coverage": 0.3,
        "seen": 0.3,
        "hit": 0.12,
        "border": False,
        "black": 0.0,
        "blown": 0.0,
        "brightness": 100.0,
    }
    assert check_view(picture(100, slice(0, 5)), depth)["border"]


def test_black_and_blown() -> None:
    half = picture(3, slice(2, 4)) + picture(254, slice(4, 8))
    found = check_view(half, np.zeros((10, 10)))
    assert (found["black"], found["blown"]) == (0.33333, 0.66667)
    assert found["doubts"] == ["blown"]


def test_an_empty_picture_has_checks_too() -> None:
    found = check_view(np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4)))
    assert found["coverage"] == 0 and found["doubts"] == ["small"]


@pytest.mark.parametrize(
    ("rgba", "doubts"),
    [
        (picture(100, slice(2, 7)), []),
        (picture(2, slice(2, 7)), ["black"]),
        (picture(100, slice(0, 7)), ["border"]),
        (np.full((10, 10, 4), 100 | 128, np.uint8), ["large", "border"]),
    ],
)
def test_each_doubt_has_its_name(rgba: np.ndarray, doubts: list[str]) -> None:
    assert check_view(rgba, np.zeros((10, 10)))["doubts"] == doubts


def test_an_asset_sums_up_its_views() -> None:
    views = [{"doubts": ["border"]}, {"doubts": []}, {"doubts": ["border", "black"]}]
    assert asset_doubts(views, {"textures_missing": ["wood.png"]}) == [
        "2 of 3 views touch the border",
        "1 of 3 views are mostly black",
        "1 textures are missing (wood.png)",
    ]
    assert asset_doubts([{"doubts": []}], {}) == []


def test_thresholds_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="min_coverage"):
        Thresholds(min_coverage=0.5, max_coverage=0.4)
    with pytest.raises(ValueError, match="max_black"):
        Thresholds(max_black=1.5)
