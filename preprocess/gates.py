"""Which videos are good enough to train on: figures of a scene, and the limits that they must keep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits of a scene's figures; each has its reason. A limit of 0 (of `max_…`: a large one) lets everything pass."""

    min_frames: int = 10
    """Frames with a pose, a picture and a mask that can be used: fewer do not show an object from its sides."""
    min_registered: float = 0.75
    """Share of the video's frames that COLMAP registered: where it lost a quarter, the rest is seldom good."""
    min_points: int = 50
    """COLMAP points on the object: centre and size hang on the outermost of them."""
    min_track: float = 3.0
    """Frames that see a point of the object, in the mean: a point of two frames has no check on its depth."""
    max_reprojection: float = 2.0
    """Pixels, mean over the object's points; COLMAP itself throws points out above 4."""
    min_object_side: float = 64.0
    """Pixels, the longer side of the object's outline, median over frames: below, there is nothing to learn from."""
    max_border: float = 0.5
    """Share of frames whose border cuts the object off."""
    max_stray: float = 0.5
    """Share of made mattes that other frames' mattes rule out, median over frames: a network that finds more of something else."""
    min_coverage: float = 0.85
    """Share of an outline that all outlines together leave of it, median over frames: wrong poses cut each other's object away."""
    max_disagreement: float = 0.15
    """Distance between where points and outlines see the end of the object, in diagonals of its box."""
    max_up_disagreement: float = 15.0
    """Degrees between the ground's normal and the cameras' level axis."""
    max_level_spread: float = 0.1
    """Where there is no ground: how far from level the cameras may be held, see `preprocess.poses.Up.level_spread`."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is measured of a scene. None: not measured, since an earlier figure kept it from being."""

    frames_in_video: int
    """Pictures in the scene's folder, or frames of the model where that has more."""
    registered: int
    """Frames with a pose."""
    used: int
    """Frames that are stored."""
    points: int
    """COLMAP's points."""
    object_points: int
    """Those on the object."""
    track: float | None = None
    """Mean number of frames that see a point of the object."""
    reprojection: float | None = None
    """Mean distance of the object's observations from their points' projections, pixels of the frame."""
    object_side: float | None = None
    """Longer side of the object's outline, median over frames, pixels of the frame."""
    border: float | None = None
    """Share of the used frames whose border cuts the object off."""
    stray: float | None = None
    """Share of the mattes that others rule out, median over frames; None for the dataset's own masks, which are not trimmed."""
    coverage: float | None = None
    """See `preprocess.poses.outline_coverage`; median over frames."""
    disagreement: float | None = None
    """See `preprocess.poses.Box.disagreement`."""
    up_disagreement: float | None = None
    """Degrees between the two ways of finding up; None where there is one only."""
    level_spread: float | None = None
    """See `preprocess.poses.Up`."""

    def record(self) -> dict[str, Any]:
        """As JSON values, rounded to what they are worth."""
        values = dataclasses.asdict(self).items()
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values}


def complaints(figures: Figures, gates: Gates) -> list[tuple[str, str]]:
    """(reason, sentence) of every gate that a scene does not pass, the gravest first. Figures that are None are not judged."""
    share = figures.registered / max(figures.frames_in_video, 1)
    lost = f"{figures.registered} of {figures.frames_in_video} frames registered"
    checks = [
        ("few-frames", figures.used < gates.min_frames, f"{figures.used} usable frames, {gates.min_frames} are needed"),
        ("few-registered", share < gates.min_registered, f"{lost}, {gates.min_registered:.0%} are needed"),
        (
            "few-points",
            figures.object_points < gates.min_points,
            f"{figures.object_points} of {figures.points} points lie on the object, {gates.min_points} are needed ({lost})",
        ),
        *_limits(figures, gates),
    ]
    return [(reason, sentence) for reason, fails, sentence in checks if fails]


def _limits(figures: Figures, gates: Gates) -> list[tuple[str, bool, str]]:
    """The gates of figures that may be missing."""
    limits = [
        ("short-tracks", figures.track, gates.min_track, "{:.1f} frames see a point of the object, {:g} are needed"),
        (
            "small-object",
            figures.object_side,
            gates.min_object_side,
            "the object is {:.0f} pixels long, {:g} are needed",
        ),
        ("bad-outlines", figures.coverage, gates.min_coverage, "outlines leave {:.2f} of each other, {:g} are needed"),
    ]
    ceilings = [
        (
            "reprojection",
            figures.reprojection,
            gates.max_reprojection,
            "points reproject {:.2f} pixels off, at most {:g}",
        ),
        ("stray-mattes", figures.stray, gates.max_stray, "{:.0%} of the mattes is ruled out by others, at most {:.0%}"),
        (
            "cut-off",
            figures.border,
            gates.max_border,
            "the border cuts the object off in {:.0%} of frames, at most {:.0%}",
        ),
        (
            "points-disagree",
            figures.disagreement,
            gates.max_disagreement,
            "points and outlines end {:.2f} diagonals apart, at most {:g}",
        ),
        (
            "up-uncertain",
            figures.up_disagreement,
            gates.max_up_disagreement,
            "ground and cameras disagree about up by {:.1f} degrees, at most {:g}",
        ),
        (
            "up-uncertain",
            figures.level_spread if figures.up_disagreement is None else None,
            gates.max_level_spread,
            "there is no ground, and the cameras are not held level ({:.2f}, at most {:g})",
        ),
    ]
    below = [(r, v is not None and v < limit, text.format(v or 0.0, limit)) for r, v, limit, text in limits]
    above = [(r, v is not None and v > limit, text.format(v or 0.0, limit)) for r, v, limit, text in ceilings]
    return below + above
