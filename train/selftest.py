"""`--overfit N`: whether data, cameras and training are in order, told from how well a few objects are learned by heart.

A model that sees little must learn it. Where it does not, the pictures contradict one another (cameras that belong to other
pictures, mattes of other objects) or training is at fault; where it learns the views it is shown and other views of the same
object look like nothing, it has learned pictures instead of a body.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from datasets.shards import ShardSet
from train.metrics import decibels
from turntable import cameras, framing
from turntable.geometry import visual_hull, voxel_centres

HULL = 64
"""Voxels along a side of the hull that the mattes are compared with."""
LEAST_COVERAGE = 0.95
"""Of a matte. Of 20 rendered models true cameras leave all of it, cameras of other views 66 to 90 %; a body that looks alike from
everywhere does not tell."""
LEAST_GAIN = 3.0
"""dB above a white picture: less is no object."""


@dataclass(frozen=True)
class Findings:
    """What the self-test saw, means over objects."""

    coverage: float
    """Share of a matte that is left when every view's matte has cut away what it does not show, in [0, 1]."""
    white: float
    """PSNR of a white picture, dB: what knowing nothing is worth."""
    seen: float | None = None
    """PSNR on the views that were trained on, dB; None where the views contradict one another, which nothing is trained on."""
    held_out: float | None = None
    """PSNR on other views of the same objects, dB; None where none were held out."""

    @property
    def contradictory(self) -> bool:
        """Whether the views contradict one another: there is no body that all of them show."""
        return self.coverage < LEAST_COVERAGE

    def __str__(self) -> str:
        agree = f"the mattes agree on {self.coverage:.0%} of an outline"
        if self.seen is None:
            return f"{agree}; nothing was trained on them"
        others = "" if self.held_out is None else f", others {self.held_out:.1f} dB"
        return f"views it was shown {self.seen:.1f} dB{others}; white {self.white:.1f} dB; {agree}"


@dataclass(frozen=True)
class SelfTest:
    """The verdict."""

    passed: bool
    reason: str


def judge(findings: Findings) -> SelfTest:
    """What the findings mean."""
    if findings.contradictory:
        return SelfTest(
            False,
            "the views contradict one another: cameras and pictures do not belong together, or mattes are not of one object."
            " Look at them with datasets.browse",
        )
    if findings.seen is None or findings.seen < findings.white + LEAST_GAIN:
        return SelfTest(
            False,
            "the views that it was shown are not learned. Give it more --minutes; if that does not help, another --learning-rate",
        )
    if findings.held_out is not None and findings.held_out < findings.white + LEAST_GAIN / 2:
        return SelfTest(
            False,
            "it learns the views that it was shown, but other views look like nothing: pictures, not a body. Give it more views an"
            " object, or check the cameras of the views held out",
        )
    return SelfTest(True, "data, cameras and training are in order")


def look(shards: ShardSet, indices: list[int], size: int) -> Findings:
    """What is seen before anything is trained."""
    return Findings(
        coverage=float(np.mean([coverage(shards, index, size) for index in indices])),
        white=float(np.mean([_white(shards, index, size) for index in indices])),
    )


def completed(findings: Findings, held_out_views: int, summary: dict[str, Any]) -> Findings:
    """With what an evaluation (`train.evaluate`'s summary) of the objects that were trained on has found."""
    rows = summary["rows"]
    seen = rows.get("model, supervised views", rows["model"])["psnr"]["mean"]
    held_out = rows["model"]["psnr"]["mean"] if held_out_views else None
    return replace(findings, seen=float(seen), held_out=None if held_out is None else float(held_out))


def _white(shards: ShardSet, index: int, size: int) -> float:
    views = range(shards.view_count(index))
    pictures = (framing.on_background(shards.picture(index, view, size)) for view in views)
    return float(np.mean([decibels(float(((1 - picture) ** 2).mean())) for picture in pictures]))


def coverage(shards: ShardSet, index: int, size: int) -> float:
    """How far an object's mattes and cameras agree, in [0, 1]."""
    mattes = [shards.picture(index, view, size)[..., 3] > 127 for view in range(shards.view_count(index))]
    return agreement(mattes, *shards.cameras(index))


def agreement(mattes: list[np.ndarray], poses: np.ndarray, intrinsics: np.ndarray) -> float:
    """Median over views of the share of a matte (H, W) bool behind which the hull of all views has a voxel."""
    hull = visual_hull([matte.astype(np.uint8) for matte in mattes], poses, intrinsics, HULL)
    body = voxel_centres(HULL)[hull.reshape(-1)].astype(np.float64)
    shares = [_covered(body, *view) for view in zip(mattes, poses, intrinsics, strict=True) if view[0].any()]
    return float(np.median(shares)) if shares else 0.0


def _covered(body: np.ndarray, matte: np.ndarray, pose: np.ndarray, lens: np.ndarray) -> float:
    height, width = matte.shape
    uv, depth = cameras.project(body, pose, lens)
    column, row = np.floor(uv * [width, height]).T
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    shown = np.zeros_like(matte)
    shown[row[inside].astype(np.int64), column[inside].astype(np.int64)] = True
    # Voxels lie apart in a picture by their own width.
    apart = 2 / HULL * lens[0] * width / max(float(np.linalg.norm(pose[:, 3])) - 1, 0.2)
    near = ndimage.distance_transform_edt(~shown) <= apart if shown.any() else shown
    return float((near & matte).sum() / matte.sum())
