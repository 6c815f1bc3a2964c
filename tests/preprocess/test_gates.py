"""Every gate lets a good scene through and, alone, stops one that is just beyond it."""

from __future__ import annotations

import dataclasses

import pytest

from preprocess.gates import Figures, Gates, complaints

GOOD = Figures(
    frames_in_video=30,
    registered=30,
    used=30,
    points=5000,
    object_points=800,
    track=6.0,
    reprojection=0.8,
    object_side=500.0,
    border=0.1,
    stray=0.05,
    coverage=0.97,
    disagreement=0.03,
    up_disagreement=1.0,
    level_spread=0.01,
)


def test_a_good_scene_passes() -> None:
    assert complaints(GOOD, Gates()) == []


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"used": 9}, "few-frames"),
        ({"registered": 22}, "few-registered"),
        ({"object_points": 49}, "few-points"),
        ({"track": 2.9}, "short-tracks"),
        ({"reprojection": 2.1}, "reprojection"),
        ({"object_side": 63.0}, "small-object"),
        ({"border": 0.51}, "cut-off"),
        ({"stray": 0.51}, "stray-mattes"),
        ({"coverage": 0.84}, "bad-outlines"),
        ({"disagreement": 0.16}, "points-disagree"),
        ({"up_disagreement": 15.1}, "up-uncertain"),
        ({"up_disagreement": None, "level_spread": 0.11}, "up-uncertain"),
    ],
)
def test_each_gate_stops_what_is_just_beyond_it(figures: dict[str, float | None], reason: str) -> None:
    (found,) = complaints(dataclasses.replace(GOOD, **figures), Gates())  # type: ignore[arg-type]
    assert found[0] == reason
    assert any(character.isdigit() for character in found[1])


def test_level_cameras_are_not_asked_for_where_there_is_a_ground() -> None:
    assert complaints(dataclasses.replace(GOOD, level_spread=0.9), Gates()) == []


def test_figures_that_were_not_measured_are_not_judged() -> None:
    early = Figures(frames_in_video=30, registered=30, used=30, points=10, object_points=2)
    assert [reason for reason, _ in complaints(early, Gates())] == ["few-points"]
    assert early.record()["coverage"] is None
