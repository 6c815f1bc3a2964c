"""The self-test's verdict: whether mattes and cameras agree, and every way to pass and to fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from train.selftest import LEAST_COVERAGE, Findings, agreement, judge
from turntable import cameras

GOOD = Findings(coverage=0.99, white=14.0, seen=30.0, held_out=26.0)


def test_mattes_agree_with_their_own_cameras_and_not_with_others() -> None:
    """A bar, seen from twelve sides."""
    rng = np.random.default_rng(0)
    bar = rng.uniform(-1, 1, (4000, 3)) * [0.9, 0.1, 0.15]
    poses = np.stack([
        cameras.look_at(cameras.spherical_position(30 * k, rng.uniform(-10, 50), 2.5)) for k in range(12)
    ])  # fmt: skip
    lenses = np.tile(cameras.intrinsics_from_fov(50.0), (12, 1))
    mattes = []
    for pose, lens in zip(poses, lenses, strict=True):
        column, row = (cameras.project(bar, pose, lens)[0] * 64).astype(int).T
        matte = np.zeros((64, 64), bool)
        matte[row, column] = True
        mattes.append(ndimage.binary_closing(matte, iterations=2))
    assert agreement(mattes, poses, lenses) > 0.99
    assert agreement(mattes, np.roll(poses, 4, axis=0), lenses) < LEAST_COVERAGE - 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "in order"),
        ({"coverage": 0.4}, "contradict one another"),
        ({"seen": 16.0}, "not learned"),
        ({"held_out": 15.0}, "pictures, not a body"),
        ({"held_out": None}, "in order"),
    ],
)
def test_the_verdict(change: dict[str, float], says: str) -> None:
    verdict = judge(replace(GOOD, **change))
    assert says in verdict.reason
    assert verdict.passed == (says == "in order")
