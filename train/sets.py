"""What a run trains on: the shards it draws from, the objects among them, how often and in which order."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.catalogue import read_weights
from datasets.order import Order
from datasets.shards import ShardError, ShardSet, found
from turntable import cameras
from turntable.errors import UserError
from turntable.files import location

Stored = Literal["depth", "normal", "geometry"]
log = logging.getLogger(__name__)


def mixture(shards: Path, mix: tuple[str, ...]) -> dict[Path, float]:
    """Shards -> how often they are drawn from, relative to one another. `mix`: SHARDS=SHARE for each further set."""
    sets: dict[Path, float] = {shards: 1.0}
    for text in mix:
        place, _, share = text.rpartition("=")
        if not (place and re.fullmatch(r"[0-9]*\.?[0-9]+", share) and float(share) > 0):
            raise ValueError(f"--mix {text}: write SHARDS=SHARE with a share above 0, such as mvimgnet/shards=3")
        if location(place) in sets:
            raise ValueError(f"--mix {text}: these shards are named already")
        sets[location(place)] = float(share)
    return sets


def draw_order(
    shards: ShardSet, indices: list[int], sets: dict[Path, float], uids: Path | None, window: int, seed: int
) -> Order:
    """In which order and how often the objects `indices` of all `sets` are drawn; `uids` may weigh them."""
    held_by = np.array([shards.shard_of(index) for index in indices])
    ends = np.cumsum([len(found(place)) for place in sets])
    pools = np.searchsorted(ends, held_by, side="right")
    listed = read_weights(uids) if uids else {}
    weights = np.array([listed.get(shards.uids[index], 1.0) for index in indices])
    for pool, (place, share) in enumerate(sets.items()):
        mine = pools == pool
        if not mine.any():
            raise UserError(f"{place}: none of its objects is chosen; leave it out of --mix or --uids")
        weights[mine] *= share / weights[mine].sum()
    even = bool(np.allclose(weights, weights[0], rtol=1e-9))
    return Order(len(indices), seed, None if even else weights, held_by, pools, window)


def chosen_objects(shards: ShardSet, uids: Path | None, without: Path | None = None, first: int = 0) -> list[int]:
    """Indices of the objects in the list `uids` (None: all), less those in the list `without`; the first N, where `first` is given.

    An unknown uid or nothing left is a UserError.
    """
    if len(shards) == 0:
        raise UserError("the shards hold no object; preprocess captures into them first")
    indices = shards.listed(uids)
    if without is not None:
        left_out = set(shards.listed(without))
        asked = len(indices)
        indices = [index for index in indices if index not in left_out]
        if not indices:
            raise UserError(
                f"{without}: names all {asked} objects of {uids or 'the shards'}, which leaves none to train on; name fewer"
            )
    return indices[:first] if first else indices


def fingerprint(shards: ShardSet, indices: list[int]) -> str:
    """Tells one list of objects from another: their order is what an exact continuation depends on."""
    return hashlib.sha256("\n".join(shards.uids[index] for index in indices).encode()).hexdigest()[:16]


def warn_of_repetition(shards: ShardSet, indices: list[int], views: int, held_out: int) -> None:
    """Says so where objects have fewer views to supervise than a sample asks for."""
    counts = [shards.view_count(index) - held_out for index in indices]
    few = sum(count < views for count in counts)
    if few:
        log.warning(
            "%d of %d objects have fewer than the %d views a sample asks for (the fewest: %d); theirs are drawn more than once",
            few, len(counts), views, min(counts),
        )  # fmt: skip


def require(shards: ShardSet, indices: list[int], loss: str, stored: Stored) -> None:
    """A loss needs shards that store its truth; a set without it (videos, say) is a UserError that says what to do."""
    first: dict[int, int] = {}
    for index in indices:
        first.setdefault(shards.shard_of(index), index)
    for index in first.values():
        try:
            shards.geometry(index) if stored == "geometry" else getattr(shards, stored)(index, 0)
        except ShardError as error:
            raise UserError(f"the {loss} loss was asked for and {error}; train without it: --{loss} 0") from error


def camera_defaults(shards: ShardSet, indices: list[int], fill: float) -> dict[str, Any]:
    """Median distance, elevation and framed focal length of the training cameras: what `model.reconstruct` assumes of a photo."""
    distances, focals, elevations = [], [], []
    for index in indices[:200]:
        poses, intrinsics = shards.cameras(index)
        boxes = shards.matte_boxes(index)
        distances += np.linalg.norm(poses[:, :, 3], axis=1).tolist()
        elevations += [cameras.elevation_deg(pose) for pose in poses]
        longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        # Framing cuts a square in which the box's longer side fills `fill`: the focal length grows by the same factor.
        focals += (intrinsics[longer > 0, 0] * fill / longer[longer > 0]).tolist()
    return {
        "camera_distance": float(np.median(distances)),
        "camera_focal": float(np.median(focals)),
        "camera_elevation": float(np.median(elevations)),
    }


def licences(shards: ShardSet, indices: list[int]) -> list[str]:
    """The licences of the objects, each once."""
    return sorted({str(shards.record(index).get("licence", "unknown")) for index in indices})
