"""`python -m datasets.stats shards/`: what a folder of shards holds.

Objects, views, classes, licences, sources, bytes by pass and size, and how the cameras and mattes are spread: distance from
the object, elevation, field of view, the share of the picture that the matte's box takes. Reads tables and records, no picture.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tyro

from datasets.filter import class_of
from datasets.shards import ShardSet
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_OK

BARS = " ▁▂▃▄▅▆▇█"
_EDGES = {
    "elevation, degrees": np.linspace(-90, 90, 19),
    "distance, object units": np.linspace(0, 6, 25),
    "field of view, degrees": np.linspace(0, 120, 25),
    "matte box over picture": np.linspace(0, 1, 21),
}
"""Histogram -> the edges of its bins; what lies beyond counts in the last ones."""


@dataclass(frozen=True)
class StatsConfig:
    """Says what shards hold."""

    shards: tyro.conf.Positional[Location]
    """A folder of shards or one shard, here or at a URL."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass
class Range:
    """How one figure of the views is spread. Takes numbers as they come and keeps none of them."""

    edges: np.ndarray
    counts: np.ndarray = field(init=False)
    low: float = np.inf
    high: float = -np.inf

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        """(N,) more numbers."""
        if len(values):
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            self.counts += np.histogram(np.clip(values, self.edges[0], self.edges[-1]), self.edges)[0]

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        if not self.counts.any():
            return {}
        bins = {"edges": self.edges.round(6).tolist(), "counts": self.counts.tolist()}
        return {"smallest": round(self.low, 4), "largest": round(self.high, 4), **bins}


def elevations(world_from_camera: np.ndarray) -> np.ndarray:
    """(V, 3, 4) cameras -> (V,) degrees above the object's centre."""
    position = world_from_camera[:, :, 3]
    return np.degrees(np.arctan2(position[:, 2], np.linalg.norm(position[:, :2], axis=1)))


def statistics(shards: ShardSet) -> dict[str, Any]:
    """What a set holds, as JSON values."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("classes", "licences", "sources")}
    ranges = {name: Range(edges) for name, edges in _EDGES.items()}
    views: Counter[int] = Counter()
    stored: Counter[str] = Counter()
    empty = doubtful = 0
    for index in range(len(shards)):
        record = shards.record(index)
        counts["classes"][class_of(record)] += 1
        counts["licences"][str(record.get("licence", "unknown"))] += 1
        counts["sources"][str(record.get("source", "unknown"))] += 1
        doubtful += bool(record.get("doubts"))
        poses, intrinsics = shards.cameras(index)
        boxes = shards.matte_boxes(index)
        seen = boxes.any(axis=1)
        views[len(poses)] += 1
        empty += int((~seen).sum())
        found = (
            elevations(poses),
            np.linalg.norm(poses[:, :, 3], axis=1),
            np.degrees(2 * np.arctan(0.5 / intrinsics[:, 0])),
            (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))[seen],
        )
        for spread, values in zip(ranges.values(), found, strict=True):
            spread.add(values)
    geometry = 0
    for reader in shards.readers():
        stored.update({f"{name}/{size}": count for (name, size), count in reader.stored_bytes().items()})
        geometry += len(reader) if reader.has_geometry else 0
    return {
        "objects": len(shards),
        "views": sum(number * count for number, count in views.items()),
        "shards": len(shards.paths),
        "bytes": sum(reader.file_bytes for reader in shards.readers()),
        "views_an_object": {str(number): count for number, count in sorted(views.items())},
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        "doubtful_objects": doubtful,
        "objects_with_geometry": geometry,
        "empty_views": empty,
        "picture_bytes": dict(sorted(stored.items())),
        "ranges": {name: spread.summary() for name, spread in ranges.items()},
    }


def text(found: dict[str, Any], most: int = 15) -> str:
    """The same for a person; of long lists the `most` frequent."""
    lines = [
        f"{found['objects']} objects, {found['views']} views in {found['shards']} shards, {found['bytes'] / 1e9:.2f} GB; "
        f"{found['objects_with_geometry']} with geometry, {found['doubtful_objects']} doubtful, {found['empty_views']} empty views"
    ]
    for name in ("classes", "licences", "sources", "views_an_object"):
        counts = list(found[name].items())
        rest = f", {len(counts) - most} more" if len(counts) > most else ""
        lines.append(f"{name.replace('_', ' '):24}" + ", ".join(f"{k} {n}" for k, n in counts[:most]) + rest)
    views = max(found["views"], 1)
    for name, count in found["picture_bytes"].items():
        lines.append(f"{name:24}{count / 1e9:.3f} GB, {count / views / 1024:.1f} KiB a view")
    for name, spread in found["ranges"].items():
        if spread:
            lines.append(f"{name:24}{spread['smallest']:.2f} … {spread['largest']:.2f}  {sparkline(spread)}")
    return "\n".join(lines)


def sparkline(spread: dict[str, Any]) -> str:
    """A histogram as one line: from its first edge to its last."""
    counts, edges = np.array(spread["counts"]), spread["edges"]
    heights = np.ceil(counts / counts.max() * (len(BARS) - 1)).astype(int)
    return f"{edges[0]:g} ▏{''.join(BARS[h] for h in heights)}▕ {edges[-1]:g}"


def main() -> int:
    config = command_line.parse(StatsConfig, "Say what shards hold.")
    found = statistics(ShardSet(config.shards))
    print(json.dumps(found, indent=2, ensure_ascii=False) if config.json else text(found))
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
