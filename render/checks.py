"""What can be said of a picture without a person: how much is object, cut off, too dark, blown out; and what of it is doubtful."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Thresholds:
    """Beyond which a view is doubtful. Nothing is thrown away for it, unless the command is told `--strict`."""

    min_coverage: float = 0.005
    """Share of the pixels that must be object."""
    max_coverage: float = 0.85
    """Share of the pixels that may be object: more is a camera inside it, or too near."""
    max_black: float = 0.5
    """Share of the object's pixels that may be black."""
    max_blown: float = 0.5
    """Share of the object's pixels that may be blown out."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_coverage < self.max_coverage <= 1:
            raise ValueError(f"0 ≤ min_coverage < max_coverage ≤ 1, got {self.min_coverage} and {self.max_coverage}")
        for name in ("max_black", "max_blown"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def check_view(rgba: np.ndarray, depth: np.ndarray | None, thresholds: Thresholds = Thresholds()) -> dict[str, Any]:
    """The checks of one view: rgba (H, W, 4) uint8 straight alpha, depth (H, W) object units, 0 = nothing hit. JSON values.
    Without a depth (None), any opacity counts as hit.

    `coverage`: share of pixels that are object. `seen`: share that is not wholly transparent. `hit`: share with a depth. `border`:
    whether the object touches the picture's border. `black`, `blown`: shares of the object's pixels whose channels are all below
    8, all above 252. `brightness`: mean of the object's pixels over all channels, 0 … 255. `doubts`: which of them the
    thresholds mark.
    """
    alpha = rgba[..., 3]
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    inside = rgba[alpha >= 128][:, :3]
    count = max(len(inside), 1)
    found = {
        "coverage": _rounded((alpha >= 128).mean()),
        "seen": _rounded((alpha >= 8).mean()),
        "hit": _rounded(((alpha if depth is None else depth) > 0).mean()),
        "border": bool((edge >= 8).any()),
        "black": _rounded((inside < 8).all(axis=1).sum() / count),
        "blown": _rounded((inside > 252).all(axis=1).sum() / count),
        "brightness": _rounded(inside.sum() / (3 * count)),
    }
    return {**found, "doubts": view_doubts(found, thresholds)}


def view_doubts(found: dict[str, Any], thresholds: Thresholds) -> list[str]:
    """Names of what is doubtful about one view's checks."""
    doubts = {
        "small": found["coverage"] < thresholds.min_coverage,
        "large": found["coverage"] > thresholds.max_coverage,
        "border": found["border"],
        "black": found["black"] > thresholds.max_black,
        "blown": found["blown"] > thresholds.max_blown,
    }
    return [name for name, doubtful in doubts.items() if doubtful]


DOUBT_WORDS = {
    "small": "views show almost nothing",
    "large": "views are filled by it",
    "border": "views touch the border",
    "black": "views are mostly black",
    "blown": "views are mostly blown out",
}
"""A view's doubt -> what is said of an asset that has such views."""


def asset_doubts(views: Sequence[dict[str, Any]], asset: dict[str, Any]) -> list[str]:
    """Sentences on what is doubtful about an asset: its views' doubts counted, and textures that its file lacks."""
    counts = Counter(doubt for view in views for doubt in view.get("doubts", []))
    sentences = [f"{counts[name]} of {len(views)} {words}" for name, words in DOUBT_WORDS.items() if counts[name]]
    missing = asset.get("textures_missing", [])
    if missing:
        sentences.append(f"{len(missing)} textures are missing ({', '.join(map(str, missing[:3]))})")
    return sentences


def _rounded(value: float) -> float:
    return round(float(value), 5)
