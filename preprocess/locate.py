"""The object of a video: found by its masks and COLMAP's points, and judged by the gates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocess import poses
from preprocess.colmap import Frame, Model
from preprocess.filling import Unusable
from preprocess.gates import Figures, Gates, complaints
from preprocess.scenes import Scene
from preprocess.squares import Outline, outline

SEEN_IN_MASK = 0.5
"""A mask into which fewer of the object's points fall than this share shows something else, or half of it; its frame is left out."""


@dataclass(frozen=True)
class View:
    """A frame with a usable matte."""

    frame: Frame
    matte: np.ndarray
    """(h, w) uint8 at its own size."""
    outline: Outline


@dataclass(frozen=True)
class Found:
    """A scene's object, and what was measured on the way."""

    views: list[View]
    up: poses.Up
    box: poses.Box
    figures: Figures


def locate(
    scene: Scene,
    model: Model,
    mattes: dict[str, np.ndarray],
    left_out: dict[str, str],
    gates: Gates,
    mattes_are_made: bool = False,
) -> Found:
    """Finds the object of a scene. Raises Unusable when a gate says so; frames that are not used get their reason in `left_out`.

    Where the dataset's masks contradict each other, the poses are to blame. A network's mattes are not trusted so far: what all
    the others rule out is taken off each.
    """
    views = list(_outlined(model, mattes, left_out))
    sights = [poses.sights(view.frame, view.matte, model.points) for view in views]
    none = np.zeros(len(model.points), np.int64)
    seen, inside = sum((s for s, _ in sights), none), sum((i for _, i in sights), none)
    is_object, is_around = poses.split_points(seen, inside)
    kept = []
    for view, (s, i) in zip(views, sights, strict=True):
        share = (i & is_object).sum() / max((s & is_object).sum(), 1)
        if is_object.any() and share < SEEN_IN_MASK:
            left_out[view.frame.name] = f"{share:.0%} of the object's points fall into its mask"
        else:
            kept.append(view)
    counts = {
        "frames_in_video": max(scene.picture_count(), len(model.frames)),
        "registered": len(model.frames),
        "used": len(kept),
        "points": len(model.points),
        "object_points": int(is_object.sum()),
    }
    _judge(scene, Figures(**counts), gates, left_out)
    up = poses.up_axis(model, is_object, is_around, np.random.default_rng(0))
    box = _box(kept, model.points[is_object], up)
    stray = None
    if mattes_are_made:
        kept, stray = _trimmed(kept, box)
        box = _box(kept, model.points[is_object], up)
    figures = Figures(
        **counts,
        track=float(model.track_lengths()[is_object].mean()),
        reprojection=_reprojection(kept, model.points, is_object),
        object_side=float(np.median([_side(view) for view in kept])),
        border=float(np.mean([view.outline.cut_off for view in kept])),
        stray=stray,
        coverage=float(np.median([poses.outline_coverage(box.body, view.frame, view.outline) for view in kept])),
        disagreement=box.disagreement,
        up_disagreement=up.disagreement_deg if up.method == "ground-plane" else None,
        level_spread=up.level_spread,
    )
    _judge(scene, figures, gates, left_out)
    return Found(kept, up, box, figures)


def _box(views: list[View], points: np.ndarray, up: poses.Up) -> poses.Box:
    planes = [poses.half_spaces(view.frame, view.outline) for view in views]
    return poses.upright_box(points, np.concatenate(planes), up)


def _side(view: View) -> float:
    """Longer side of the object's outline, pixels of the frame."""
    return float(np.ptp(view.outline.slopes, axis=0).max() * view.frame.lens.focal)


def _trimmed(views: list[View], box: poses.Box) -> tuple[list[View], float]:
    """The views without what of their mattes lies outside the hull, and the share of the mattes that this was, median over views."""
    trimmed, strays = [], []
    for view in views:
        matte = np.where(poses.hull_silhouette(box, view.frame, view.matte.shape), view.matte, 0).astype(np.uint8)
        shape = outline(matte, view.frame.lens)
        strays.append(1 - float(matte.sum(dtype=np.int64) / max(view.matte.sum(dtype=np.int64), 1)))
        trimmed.append(View(view.frame, matte, shape) if shape else view)
    return trimmed, float(np.median(strays))


def _outlined(model: Model, mattes: dict[str, np.ndarray], left_out: dict[str, str]) -> Iterator[View]:
    for frame in model.frames:
        if frame.name in mattes:
            shape = outline(mattes[frame.name], frame.lens)
            if shape is None:
                left_out[frame.name] = "an empty mask"
            else:
                yield View(frame, mattes[frame.name], shape)


def _reprojection(views: list[View], points: np.ndarray, is_object: np.ndarray) -> float:
    """Mean distance, pixels, between where the object's points were seen and where they project to."""
    errors = [np.zeros(0)]
    for frame in (view.frame for view in views):
        rows = is_object[frame.points]
        errors.append(np.linalg.norm(frame.project(points[frame.points[rows]]) - frame.pixels[rows], axis=1))
    found = np.concatenate(errors)
    return float(found.mean()) if len(found) else 0.0


def _judge(scene: Scene, figures: Figures, gates: Gates, left_out: dict[str, str]) -> None:
    found = complaints(figures, gates)
    if found:
        text = "; ".join(sentence for _, sentence in found)
        raise Unusable(found[0][0], f"{scene.folder}: {text}{left_out_text(left_out)}")


def left_out_text(left_out: dict[str, str]) -> str:
    """Which frames were left out and why, for a message; three of them."""
    if not left_out:
        return ""
    examples = ", ".join(f"{name}: {why}" for name, why in sorted(left_out.items())[:3])
    return f" ({len(left_out)} frames left out: {examples}{', …' if len(left_out) > 3 else ''})"
