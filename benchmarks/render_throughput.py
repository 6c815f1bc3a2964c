"""Objects an hour: `python -m benchmarks.render_throughput --cache ../shared/objaverse`.

The same assets, cameras, lights and machine, one after the other in one run:
A. a process an asset with objaverse-xl's settings (128 samples, adaptive 0.01, accurate denoiser, PNG), the way its renderer works;
B. `python -m render.objaverse` at preset `train`, start included, which also writes depth, normals, surface points and the solid.
Both are judged by PSNR against the same scenes at 1,024 samples, not denoised, in the first views of each asset: over the pixels
that the reference covers, colours on black, 8-bit sRGB. Prints a table and writes `benchmarks/results/render_throughput.json`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import CaptureReader, capture_path
from datasets.objaverse import DEFAULT_CACHE, Objaverse
from datasets.pictures import decode_png
from render.settings import Settings, complete
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK
from turntable.files import write_json

REFERENCE = ["--quality", "final", "--samples", "1024", "--no-denoise", "--passes", "rgba"]


@dataclass(frozen=True)
class ThroughputBenchmark:
    """What to measure."""

    cache: Path = DEFAULT_CACHE
    """Objaverse cache whose assets are rendered."""
    assets: int = 20
    """Evenly spread over the catalogue's uids in order."""
    views: int = 12
    """Cameras an asset."""
    resolution: int = 256
    """Pixels a side."""
    reference_views: int = 2
    """Views of each asset, the first ones, that are also rendered with 1,024 samples to judge the others by."""
    out: Path = Path("benchmarks/results/render_throughput.json")


def main() -> int:
    """The command."""
    options = config.parse(
        ThroughputBenchmark, "Compare objects an hour with a process an asset at objaverse-xl's settings."
    )
    catalogue = Objaverse(options.cache)
    uids = catalogue.select(None)
    uids = [uids[index * len(uids) // options.assets] for index in range(options.assets)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = folder / "list.txt"
        listed.write_text("".join(f"{uid}\n" for uid in uids))
        print(
            f"{len(uids)} assets, {options.views} views of {options.resolution}², {len(os.sched_getaffinity(0))} cores"
        )
        seconds_a = process_per_asset(options, catalogue, uids, folder / "a")
        seconds_b = ours(options, listed, folder / "b", ["--views", str(options.views)])
        ours(options, listed, folder / "reference", ["--views", str(options.reference_views), *REFERENCE])
        rows = [
            row(
                "A: a process an asset, objaverse-xl's settings",
                len(uids),
                seconds_a,
                judged(options, uids, folder, loose),
            ),
            row("B: render.objaverse, preset train", len(uids), seconds_b, judged(options, uids, folder, captured)),
        ]
        wanted = len(uids) * options.views
        found = sum(1 for _ in (folder / "a").rglob("*.png")), sum(1 for _ in (folder / "b").rglob("*.zip"))
    ratio = rows[1]["objects_per_hour"] / rows[0]["objects_per_hour"]
    print(f"B / A: {ratio:.2f}")
    write_json(
        options.out,
        {"command": shlex.join(sys.orig_argv[1:]), "machine": machine(), "rows": rows, "ratio": round(ratio, 2)},
    )
    return EXIT_OK if found == (wanted, len(uids)) else EXIT_ITEMS_FAILED


def process_per_asset(options: ThroughputBenchmark, catalogue: Objaverse, uids: Sequence[str], folder: Path) -> float:
    """Seconds for all, one process after the other; a renderer of one asset uses all cores itself."""
    settings = config.resolved(complete(Settings(views=options.views, resolution=options.resolution)))
    folder.mkdir()
    started = time.perf_counter()
    for uid in uids:
        job = {"uid": uid, "asset": str(catalogue.fetch(uid)), "out": str(folder / uid), "settings": settings}
        (folder / f"{uid}.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "benchmarks.process_per_asset", str(folder / f"{uid}.json")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def ours(options: ThroughputBenchmark, listed: Path, out: Path, extra: Sequence[str]) -> float:
    """Seconds of the command, from its start to its end."""
    command = [sys.executable, "-m", "render.objaverse", "--uids", listed, "--cache", options.cache, "--out", out]
    words = [*map(str, command), "--gpus", "0", "--resolution", str(options.resolution), *extra]
    started = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - started


def loose(folder: Path, uid: str, view: int) -> np.ndarray:
    """A's picture, (H, W, 4) uint8."""
    return decode_png((folder / "a" / uid / f"{view:03d}.png").read_bytes())


def captured(folder: Path, uid: str, view: int, run: str = "b") -> np.ndarray:
    """B's or the reference's picture, (H, W, 4) uint8."""
    with CaptureReader(capture_path(folder / run, uid)) as capture:
        return capture.picture("rgba", view)


def judged(
    options: ThroughputBenchmark, uids: Sequence[str], folder: Path, picture: Callable[[Path, str, int], np.ndarray]
) -> list[float]:
    """PSNR of every judged view, dB."""
    views = [(uid, view) for uid in uids for view in range(options.reference_views)]
    return [foreground_psnr(picture(folder, *v), captured(folder, *v, run="reference")) for v in views]


def foreground_psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    """dB over the pixels that `reference` covers at all; straight colours are put on black, 0 … 255."""
    on_black = [p[..., :3].astype(np.float64) * p[..., 3:] / 255 for p in (picture, reference)]
    error = np.square(on_black[0] - on_black[1])[reference[..., 3] > 0].mean()
    return 10 * math.log10(255**2 / max(error, 1e-9))


def row(name: str, assets: int, seconds: float, psnrs: list[float]) -> dict[str, Any]:
    """One line of the table, printed."""
    rate = 3600 * assets / seconds
    print(f"{name:50s} {seconds:8.1f} s  {rate:7.1f} objects/h  PSNR {np.mean(psnrs):.1f} dB, worst {min(psnrs):.1f}")
    worst = {"psnr_mean": round(float(np.mean(psnrs)), 2), "psnr_worst": round(min(psnrs), 2)}
    return {"name": name, "seconds": round(seconds, 1), "objects_per_hour": round(rate, 1), **worst}


def machine() -> dict[str, Any]:
    """Where this was measured."""
    import bpy

    cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "blender": bpy.app.version_string,
    }


if __name__ == "__main__":
    config.run(main)
