"""How much memory a render worker holds after many assets: `python -m benchmarks.render_memory --cache ../shared/objaverse`.

One worker that is never recycled renders assets spread over the catalogue, at a low resolution: what grows is what importing
leaves behind, not pictures. Prints a table, the slope of a line through all but the first assets, and writes
`benchmarks/results/render_memory.json`.
"""

from __future__ import annotations

import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import capture_path
from datasets.objaverse import DEFAULT_CACHE, Objaverse
from render.command import RenderConfig, job_maker
from render.settings import Settings
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK
from turntable.files import write_json
from turntable.jobs import ItemError, Limits, Worker


@dataclass(frozen=True)
class MemoryBenchmark:
    """What to measure."""

    cache: Path = DEFAULT_CACHE
    """Objaverse cache whose assets are rendered."""
    assets: int = 300
    """Evenly spread over the catalogue's uids in order."""
    resolution: int = 64
    """Pixels a side."""
    samples: int = 1
    """Light paths a pixel."""
    views: int = 4
    """Pictures an asset."""
    settling: int = 30
    """Assets before memory is expected to settle; the slope is taken after them."""
    limit_gb: float = 0.7
    """GiB that the worker may hold in the end."""
    limit_slope: float = 0.2
    """MiB an asset that the worker's memory may grow."""
    out: Path = Path("benchmarks/results/render_memory.json")


def measure(options: MemoryBenchmark, folder: Path) -> list[dict[str, Any]]:
    """A row an asset: file size, seconds, GiB resident afterwards."""
    catalogue = Objaverse(options.cache)
    uids = catalogue.select(None)
    chosen = [uids[index * len(uids) // options.assets] for index in range(options.assets)]
    settings = Settings(views=options.views, resolution=options.resolution, samples=options.samples)
    make = job_maker(RenderConfig(out=folder, settings=settings), catalogue)
    worker = Worker(
        [sys.executable, "-m", "render.worker", "cpu", "0"],
        folder / "worker.log",
        Limits(recycle_gb=1000, recycle_items=10**6),
    )
    worker.start()
    rows = [{"uid": "", "megabytes": 0.0, "seconds": 0.0, "resident_gb": worker.resident_gb(), "outcome": "started"}]
    for uid in chosen:
        started, outcome = time.perf_counter(), "done"
        try:
            worker.do(make(uid))
        except ItemError as error:
            outcome = error.reason
        seconds = round(time.perf_counter() - started, 2)
        size = catalogue.fetch(uid).stat().st_size / 1e6
        capture_path(folder, uid).unlink(missing_ok=True)
        row = {"uid": uid, "megabytes": round(size, 2), "seconds": seconds, "resident_gb": worker.resident_gb()}
        rows.append({**row, "outcome": outcome})
        print(
            f"{len(rows) - 1:4d}  {uid}  {size:7.2f} MB  {seconds:6.2f} s  {rows[-1]['resident_gb']:.3f} GiB  {outcome}"
        )
    worker.close()
    return rows


def main() -> int:
    """The command."""
    options = config.parse(MemoryBenchmark, "Measure how much memory a render worker holds after many assets.")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    last, peak = rows[-1]["resident_gb"], max(row["resident_gb"] for row in rows)
    slope = growth([row["resident_gb"] * 1024 for row in rows[1 + options.settling :]])
    seconds = statistics.median(row["seconds"] for row in rows[1:])
    done = sum(row["outcome"] == "done" for row in rows)
    summary = {
        "resident_gb": round(last, 3),
        "peak_gb": round(peak, 3),
        "slope_mb_an_asset": round(slope, 3),
        "done": done,
    }
    machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    result = {"command": shlex.join(sys.orig_argv[1:]), **summary, "median_seconds": seconds, "versions": machine}
    write_json(options.out, {**result, "rows": [{**row, "resident_gb": round(row["resident_gb"], 3)} for row in rows]})
    print(
        f"{done} of {options.assets} assets done; {last:.3f} GiB resident at the end, {peak:.3f} at most between assets; "
        f"after the first {options.settling}, {slope:.3f} MiB more with every asset"
    )
    return EXIT_OK if last <= options.limit_gb and slope <= options.limit_slope else EXIT_ITEMS_FAILED


def growth(values: Sequence[float]) -> float:
    """Slope of the least-squares line through `values`, a step apart; 0 for fewer than two."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


if __name__ == "__main__":
    config.run(main)
