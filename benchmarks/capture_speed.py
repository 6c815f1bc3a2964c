"""How fast captures become shards, and in how much memory: `python -m benchmarks.capture_speed --captures captures/`.

Captures are linked into folders of several sizes; each run over one of them is a process of its own. Were memory to grow with the
number of captures, the last run would show it. Prints a table and writes `benchmarks/results/capture_speed.json`.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import child
from datasets.captures import CaptureReader, capture_paths
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import write_json


@dataclass(frozen=True)
class CaptureBenchmark:
    """What to measure."""

    captures: Path
    """Folder of captures, as `render` writes it."""
    counts: tuple[int, ...] = (40, 160, 640)
    """Captures of each run; all there are where there are fewer."""
    threads: tuple[int, ...] = (1, 2)
    """Captures worked on at the same time; the runs with the first number are done for every count, the others for the last."""
    limit_growth: float = 1.15
    """Peak memory of the last run over that of the run before."""
    out: Path = Path("benchmarks/results/capture_speed.json")


def linked(paths: Sequence[Path], folder: Path) -> int:
    """Links captures into a folder of the same layout -> the number of their views."""
    views = 0
    for path in paths:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
        with CaptureReader(path) as capture:
            views += len(capture)
    return views


def measure(paths: Sequence[Path], threads: int) -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        views = linked(paths, Path(folder) / "captures")
        words = ["--captures", f"{folder}/captures", "--out", f"{folder}/shards", "--threads", threads]
        used = child.run("preprocess.captures", words)
        size = sum(path.stat().st_size for path in Path(folder, "shards").glob("shard-*.h5"))
    return {
        "captures": len(paths),
        "views": views,
        "threads": threads,
        "views_per_second": round(views / used.seconds, 2),
        "views_per_core_second": round(views / used.cpu_seconds, 2),
        "peak_mb": round(used.peak_mb),
        "shard_mb": round(size / 1e6, 1),
    }


def main() -> int:
    """The command."""
    options = config.parse(CaptureBenchmark, "Measure how fast captures become shards, and in how much memory.")
    paths = capture_paths(options.captures)
    if not paths:
        raise UserError(f"--captures {options.captures}: no capture in it")
    counts = sorted({min(count, len(paths)) for count in options.counts})
    with CaptureReader(paths[0]) as capture:
        side = capture.width
    print(f"captures of {side}×{side} pixels")
    print("captures  views  threads  views/s  views/s a core  peak MiB  shards MB")
    rows = []
    plan = itertools.chain(
        ((count, options.threads[0]) for count in counts), ((counts[-1], threads) for threads in options.threads[1:])
    )
    for count, threads in plan:
        row = measure(paths[:count], threads)
        rows.append(row)
        cells = (row[name] for name in ("captures", "views", "threads", "views_per_second"))
        print(
            "{:8}  {:5}  {:7}  {:7}".format(*cells),
            f"{row['views_per_core_second']:15} {row['peak_mb']:9}  {row['shard_mb']:9}",
        )
    single = rows[: len(counts)]
    growth = single[-1]["peak_mb"] / single[-2]["peak_mb"] if len(single) > 1 else 1.0
    print(f"{counts[-1]} captures' peak is {growth:.2f} of the run before (limit {options.limit_growth})")
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "opencv-python", "h5py")}
    machine = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    result = {"command": shlex.join(sys.orig_argv[1:]), "side": side, "growth": round(growth, 3), "rows": rows}
    write_json(options.out, {**result, "machine": machine, "versions": versions})
    return EXIT_OK if growth <= options.limit_growth else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    config.run(main)
