"""What a colour picture's quality costs: `python -m benchmarks.render_quality --cache ../shared/objaverse`.

Every setting renders the same views of the same assets, lit by the default lights, one setting after the other for each asset, so
that a busy machine slows all alike: read the ratios. PSNR is against 1,024 samples without denoising: over the pixels whose alpha
is above 0 in the reference, 8-bit sRGB, straight colour put on black by alpha. Prints a table and writes
`benchmarks/results/render_quality.json`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from datasets.objaverse import DEFAULT_CACHE, Objaverse
from render import devices, fitting, lights, rigs, scene
from render.passes import Studio
from render.quality import PRESETS, Quality
from render.settings import Settings
from turntable import config
from turntable.errors import EXIT_OK
from turntable.files import write_json
from turntable.jobs import ItemError

REFERENCE = Quality(samples=1024, denoise="none", bounces=12, light_tree=True)
OBJAVERSE_XL = Quality(samples=128, adaptive=0.01, denoise="high", prefilter="accurate", bounces=12, light_tree=True)
"""objaverse-xl's script: samples, adaptive threshold and denoiser; Blender's own values for the rest."""
TRAIN = PRESETS["train"]
LADDER = {
    "objaverse-xl": OBJAVERSE_XL,
    **{f"preset {name}": quality for name, quality in PRESETS.items()},
    **{f"{samples} samples": replace(TRAIN, samples=samples) for samples in (8, 16, 24, 32, 48, 64)},
    "train, not denoised": replace(TRAIN, denoise="none"),
    "train, denoiser high": replace(TRAIN, denoise="high"),
    "train, guides as they are": replace(TRAIN, prefilter="none"),
    "train, guides accurate": replace(TRAIN, prefilter="accurate"),
    "train, no light tree": replace(TRAIN, light_tree=False),
    "train, 3 bounces": replace(TRAIN, bounces=3),
    "train, no caustics": replace(TRAIN, caustics=False),
    "train, blue noise": replace(TRAIN, pattern="BLUE_NOISE"),
    "64, adaptive 0.1": replace(TRAIN, samples=64, adaptive=0.1),
}
"""Name -> setting; times are compared with the first."""


@dataclass(frozen=True)
class QualityBenchmark:
    """What to measure."""

    cache: Path = DEFAULT_CACHE
    """Objaverse cache whose assets are rendered."""
    assets: int = 20
    """Evenly spread over the catalogue's uids in order."""
    views: int = 2
    """Pictures an asset."""
    resolution: int = 256
    """Pixels a side."""
    only: tuple[str, ...] = ()
    """Names of the settings to measure beside the first; default: all."""
    threads: int = 0
    """Of Cycles; 0 = all cores."""
    out: Path = Path("benchmarks/results/render_quality.json")

    def __post_init__(self) -> None:
        unknown = set(self.only) - set(LADDER)
        if unknown or min(self.assets, self.views) < 1:
            raise ValueError(f"assets and views must be at least 1, and only some of {list(LADDER)}; got {self}")

    @property
    def ladder(self) -> dict[str, Quality]:
        """The settings to measure."""
        first = next(iter(LADDER))
        return {name: quality for name, quality in LADDER.items() if not self.only or name in (first, *self.only)}


def psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    """Over the reference's foreground; both (H, W, 4) uint8, straight alpha, sRGB."""
    inside = reference[..., 3] > 0
    a, b = (p[inside][:, :3] * (p[inside][:, 3:] / 255.0) for p in (picture, reference))
    return float(10 * np.log10(255**2 / max(float(((a - b) ** 2).mean()), 1e-6)))


def measure_asset(path: Path, uid: str, options: QualityBenchmark) -> Iterator[dict[str, Any]]:
    """A row a view and setting: seconds and PSNR."""
    _, vertices, _, _ = scene.load(path)
    settings = Settings(views=options.views, resolution=options.resolution)
    lighting = lights.draw(settings.lighting, settings.seed, uid)
    drawn = rigs.draw(settings.rig, options.views, settings.seed, uid)
    poses = [camera for camera, _ in fitting.fitted(settings.rig, drawn, vertices, options.resolution)]
    with Studio(settings, lighting, devices.choose(None), options.threads) as studio:
        # Another seed: no setting shares its noise.
        references = [studio.colour(pose, 12345 + index, REFERENCE) for index, pose in enumerate(poses)]
        for name, quality in options.ladder.items():
            # What a change of settings costs the scene is no view's cost.
            studio.colour(poses[0], 0, replace(quality, samples=1))
            for index, (pose, reference) in enumerate(zip(poses, references, strict=True)):
                started = time.perf_counter()
                picture = studio.colour(pose, index, quality)
                seconds = time.perf_counter() - started
                yield {"uid": uid, "view": index, "setting": name, "seconds": seconds, "psnr": psnr(picture, reference)}


def summarise(rows: list[dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """A row a setting: mean and worst PSNR, seconds a view, and how often it goes into objaverse-xl's time."""
    table = []
    for name in names:
        of = [row for row in rows if row["setting"] == name]
        seconds = statistics.mean(row["seconds"] for row in of)
        level = [row["psnr"] for row in of]
        table.append(
            {"setting": name, "psnr_mean": statistics.mean(level), "psnr_worst": min(level), "seconds": seconds}
        )
    return [{**row, "times_as_fast": table[0]["seconds"] / row["seconds"]} for row in table]


def main() -> int:
    """The command."""
    options = config.parse(QualityBenchmark, "Measure what a colour picture's quality costs.")
    catalogue = Objaverse(options.cache)
    uids = catalogue.select(None)
    rows: list[dict[str, Any]] = []
    for uid in [uids[index * len(uids) // options.assets] for index in range(options.assets)]:
        try:
            rows += measure_asset(catalogue.fetch(uid), uid, options)
        except ItemError as error:
            print(f"{uid}: left out, {error.reason}")
    table = summarise(rows, options.ladder)
    print(f"{'setting':24} {'PSNR mean':>9} {'worst':>6} {'s a view':>9} {'times as fast':>13}")
    for row in table:
        print(
            f"{row['setting']:24} {row['psnr_mean']:9.2f} {row['psnr_worst']:6.2f} {row['seconds']:9.3f} "
            f"{row['times_as_fast']:13.2f}"
        )
    machine = {"python": platform.python_version(), "blender": bpy.app.version_string, "cores": os.cpu_count()}
    result = {"command": shlex.join(sys.orig_argv[1:]), "machine": machine, "options": config.resolved(options)}
    settings = {name: json.loads(json.dumps(vars(quality))) for name, quality in options.ladder.items()}
    write_json(options.out, {**result, "settings": settings, "table": table, "rows": rows})
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
