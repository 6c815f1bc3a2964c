"""What the render commands share: options, workers, jobs and the run; each command brings its own catalogue."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets.captures import capture_name, capture_path
from datasets.catalogue import Catalogue, CatalogueError, record
from render.estimate import Plan, prediction, spread, try_assets
from render.formats import Bounds
from render.report import ReportConfig, write_report
from render.settings import Settings, complete
from render.workforce import check_blender, make_workers, workforce
from turntable import config
from turntable.cluster import ClusterConfig
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK
from turntable.files import is_local
from turntable.jobs import ItemError, Limits
from turntable.outcomes import remaining
from turntable.runs import Run

TRIAL_ASSETS, TRIAL_VIEWS = 5, 3
"""What a dry run renders."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """How to render, on what, into what. Catalogues add which assets."""

    out: config.Location
    """Folder of the captures; a URL that fsspec knows (s3://bucket/captures) will do, with the package that it needs."""
    gpus: int = 0
    """GPUs to render on, the first so many that Blender finds; 0 renders on the CPU."""
    backend: Literal["auto", "optix", "cuda", "hip", "oneapi", "metal"] = "auto"
    """How Cycles reaches GPUs; auto = the first of these that finds any."""
    workers_per_gpu: int = 0
    """Blender processes a GPU; with --gpus 0, processes in all, which share the cores evenly. 0 = one a GPU, or one for every
    four cores."""
    prefetch: int = 0
    """Assets that are fetched ahead of the workers, that many at once; 0 = two a worker."""
    retry: tuple[str, ...] = ()
    """Reasons of earlier failures to try again (crash, timeout, …; all), beside those that always are."""
    strict: bool = False
    """Assets about which anything is doubtful (see the thresholds) fail with the reason `doubtful`."""
    dry_run: bool = False
    """Render a few views of a few assets, into a temporary folder, and predict time, disk and GPU hours for all."""
    settings: Settings = field(default_factory=Settings)
    """How to render."""
    bounds: Bounds = field(default_factory=Bounds)
    """What is too much for one asset."""
    limits: Limits = field(default_factory=Limits)
    """What a worker may take."""
    blender: Path | None = None
    """Executable of a full Blender to render with, instead of the wheel of this Python; see python -m render.system."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Many machines."""

    def __post_init__(self) -> None:
        if self.cluster.ray and (self.gpus or self.workers_per_gpu or self.dry_run):
            raise ValueError(
                "--ray goes with --gpus-per-worker and --cpus-per-worker, not with --gpus, --workers-per-gpu or --dry-run"
            )
        for name in ("gpus", "workers_per_gpu", "prefetch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


def job_maker(options: RenderConfig, catalogue: Catalogue) -> Callable[[str], dict[str, Any]]:
    """uid -> the worker's job, its file fetched."""
    settings = config.resolved(options.settings)

    def make(uid: str) -> dict[str, Any]:
        try:
            path, origin = catalogue.fetch(uid), record(catalogue, uid)
        except CatalogueError as error:
            raise ItemError(error.reason, str(error)) from error
        out = str(capture_path(options.out, uid).absolute())
        job = {"uid": uid, "asset": str(path.absolute()), "out": out, "settings": settings, "record": origin}
        return {**job, "strict": options.strict, "bounds": config.resolved(options.bounds)}

    return make


def predict(options: RenderConfig, catalogue: Catalogue, todo: Sequence[str]) -> str:
    """What rendering `todo` would take, from a trial."""
    views = min(TRIAL_VIEWS, options.settings.view_count)
    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(options.settings, views=views)
        trial = dataclasses.replace(options, out=Path(folder), settings=settings, strict=False)
        workers = make_workers(trial)
        try:
            started = time.monotonic()
            workers[0].start()
            start_s = time.monotonic() - started
            chosen = [todo[place] for place in spread(len(todo), TRIAL_ASSETS)]
            trials, failed = try_assets(chosen, job_maker(trial, catalogue), workers[0], views)
        finally:
            workers[0].close()
    return prediction(trials, failed, Plan(len(todo), options.settings.view_count, len(workers), options.gpus, start_s))


def render(options: RenderConfig, catalogue: Catalogue, uids: Sequence[str]) -> int:
    """Renders what of `uids` is missing in `options.out` -> the command's exit code."""
    options = dataclasses.replace(options, settings=complete(options.settings))
    todo, summary = remaining(options.out, uids, capture_name, options.retry)
    if todo:
        check_blender(options)
    if options.dry_run:
        print(predict(options, catalogue, todo) if todo else f"nothing is left to do in {options.out}")
        return EXIT_OK
    # Only what decides a capture's content must stay the same between the runs that fill one folder.
    free = set(vars(options)) - {"settings"}
    config.claim_folder(options.out, options, free)
    with workforce(options) if todo else contextlib.nullcontext(((), tuple)) as (workers, more_workers):
        run = Run(
            options.out,
            job_maker(options, catalogue),
            capture_name,
            workers,
            options.prefetch,
            catalogue.release,
            more_workers,
        )
        summary = run(todo, summary, unit="asset")
    print(summary.text(options.out))
    if is_local(options.out) and (options.out / "items.txt").exists():
        print(f"what to look at first: {write_report(ReportConfig(options.out))}")
    return EXIT_OK if summary.all_done else EXIT_ITEMS_FAILED
