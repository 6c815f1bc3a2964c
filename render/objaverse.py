"""`python -m render.objaverse`: renders Objaverse's objects into captures, by Blender workers that stay alive.

Chooses uids from the catalogue, gives each to a worker, and ends with a summary. The same command continues an interrupted run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.captures import capture_path
from datasets.objaverse import DEFAULT_CACHE, Catalogue, CatalogueError, read_uids
from render.devices import require
from render.settings import Settings
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK
from turntable.jobs import ItemError, Limits, Worker
from turntable.runs import Run, remaining

ANY_NUMBER_OF_TIMES = {
    "out",
    "uids",
    "classes",
    "licences",
    "cache",
    "mirror",
    "gpus",
    "workers_per_gpu",
    "retry",
    "limits",
}
"""Fields that may differ between the runs that fill one folder; they do not change what a capture holds."""


@dataclass(frozen=True)
class RenderConfig:
    """What to render, on what, and how."""

    out: Path
    """Folder of the captures."""
    uids: Path | None = None
    """Text file, one uid a line; default: all of `classes`."""
    classes: tuple[str, ...] = ()
    """LVIS classes to render; with `uids`, only those of the list that are of these classes."""
    licences: tuple[str, ...] = ()
    """Licences to render, as Sketchfab abbreviates them (by, by-sa, cc0, …); default: any."""
    cache: Path = DEFAULT_CACHE
    """Objaverse cache to read from and download into."""
    mirror: str | None = None
    """Folder or URL to download from instead of the public one."""
    gpus: int = 0
    """GPUs to render on, the first so many that Blender finds; 0 renders on the CPU."""
    workers_per_gpu: int = 0
    """Blender processes a GPU; with --gpus 0, processes in all, which share the cores evenly. 0 = one a GPU, or one for every
    four cores."""
    retry: tuple[str, ...] = ()
    """Reasons of earlier failures to try again (crash, timeout, …; all), beside those that always are."""
    settings: Settings = field(default_factory=Settings)
    """How to render."""
    limits: Limits = field(default_factory=Limits)
    """What a worker may take."""

    def __post_init__(self) -> None:
        if self.uids is None and not self.classes:
            raise ValueError("name what to render: --uids FILE (one uid a line) or --classes chair sofa …")
        if self.gpus < 0 or self.workers_per_gpu < 0:
            raise ValueError(f"gpus and workers_per_gpu must be 0 or more, got {self.gpus}, {self.workers_per_gpu}")


def job_maker(options: RenderConfig, catalogue: Catalogue) -> Callable[[str], dict[str, Any]]:
    """uid -> the worker's job, its file fetched."""
    settings = config.resolved(options.settings)

    def make(uid: str) -> dict[str, Any]:
        try:
            path, asset = catalogue.fetch(uid), catalogue.asset(uid)
        except CatalogueError as error:
            raise ItemError(error.reason, str(error)) from error
        record = {k: v for k, v in vars(asset).items() if k != "uid"}
        out = str(capture_path(options.out, uid).absolute())
        return {
            "uid": uid,
            "asset": str(path.absolute()),
            "out": out,
            "settings": settings,
            "record": {"source": "objaverse", **record},
        }

    return make


def make_workers(options: RenderConfig) -> list[Worker]:
    """The workers, not yet started; on the CPU each has an even share of the cores."""
    devices = [str(gpu) for gpu in range(options.gpus)] or ["cpu"]
    cores = len(os.sched_getaffinity(0))
    each = options.workers_per_gpu or (1 if options.gpus else max(cores // 4, 1))
    # On a GPU the cores only feed it: Blender may use as many as it likes (0).
    threads = 0 if options.gpus else max(cores // each, 1)
    return [
        Worker(
            [sys.executable, "-m", "render.worker", device, str(threads)],
            options.out / "logs" / f"worker-{device}-{index}.log",
            options.limits,
        )
        for device in devices
        for index in range(each)
    ]


def main() -> int:
    """The command."""
    options = config.parse(RenderConfig, "Render Objaverse's objects into captures.")
    catalogue = Catalogue(options.cache, options.mirror)
    listed = read_uids(options.uids) if options.uids else None
    uids = catalogue.select(listed, options.classes, options.licences)
    todo, summary = remaining(options.out, uids, lambda uid: capture_path(options.out, uid), options.retry)
    if todo and options.gpus:
        require(options.gpus)
    config.claim_folder(options.out, options, ANY_NUMBER_OF_TIMES)
    run = Run(
        options.out,
        job_maker(options, catalogue),
        lambda uid: capture_path(options.out, uid),
        make_workers(options),
    )
    summary = run(todo, summary, unit="asset")
    print(summary.text(options.out))
    return EXIT_OK if summary.all_done else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    config.run(main)
