"""`--dry-run`: renders a few views of a few assets and predicts time, disk and device hours for the whole list."""

from __future__ import annotations

import statistics
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from turntable.jobs import ItemError, Worker

PER_VIEW = ("sync", "render", "encode")
"""Stages whose time grows with the number of views; the others' does not."""


@dataclass(frozen=True)
class Trial:
    """One asset, rendered with a few views."""

    uid: str
    views: int
    stages: dict[str, float]
    """Stage -> seconds, as the worker tells."""
    view_bytes: int
    """Of all views' pictures."""
    other_bytes: int
    """Of everything else in the capture."""

    def seconds(self, views: int) -> float:
        """What the asset would take a worker with so many views."""
        per_view = sum(seconds for stage, seconds in self.stages.items() if stage in PER_VIEW)
        return sum(self.stages.values()) - per_view + per_view / self.views * views

    def size(self, views: int) -> float:
        """Bytes that its capture would have with so many views."""
        return self.other_bytes + self.view_bytes / self.views * views


def try_assets(
    uids: Sequence[str], make_job: Callable[[str], dict[str, Any]], worker: Worker, views: int
) -> tuple[list[Trial], list[ItemError]]:
    """Renders each of `uids` by one worker; `make_job`'s jobs ask for `views` views and name where the capture goes."""
    trials, failures = [], []
    for uid in uids:
        try:
            job = make_job(uid)
            result = worker.do(job)
        except ItemError as error:
            failures.append(error)
            continue
        with zipfile.ZipFile(job["out"]) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        pictures = sum(size for name, size in sizes.items() if name.endswith(".png"))
        trials.append(Trial(uid, views, result["seconds"], pictures, sum(sizes.values()) - pictures))
    return trials, failures


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` places, in the middles of equal parts: the first of a list is often not like the others."""
    return (
        sorted({(2 * i + 1) * count // (2 * wanted) for i in range(wanted)}) if count > wanted else list(range(count))
    )


@dataclass(frozen=True)
class Plan:
    """The whole run that is asked for."""

    assets: int
    views: int
    """Of each asset."""
    workers: int
    gpus: int
    start_s: float
    """Seconds until a worker is ready."""


def prediction(trials: Sequence[Trial], failed: Sequence[ItemError], plan: Plan) -> str:
    """What `plan` would take, in words: means over the trials, and the range that their spread leaves (two standard errors)."""
    tried = len(trials) + len(failed)
    lines = [f"dry run: {len(trials)} of {tried} assets rendered"]
    lines += [f"  {error.reason}: {error}" for error in failed]
    if not trials:
        return "\n".join([*lines, "  nothing can be predicted from this; mend the above, or name other assets"])
    expected = plan.assets * len(trials) / tried
    seconds = [trial.seconds(plan.views) for trial in trials]
    hours = [(expected * s / plan.workers + plan.start_s) / 3600 for s in _mean_and_range(seconds)]
    sizes = [expected * size for size in _mean_and_range([trial.size(plan.views) for trial in trials])]
    total: Counter[str] = Counter()
    for trial in trials:
        total.update(trial.stages)
    shares = ", ".join(f"{name} {100 * s / sum(total.values()):.0f} %" for name, s in total.items())
    device = f"{plan.gpus * hours[0]:.3g} GPU hours" if plan.gpus else "on the CPU"
    return "\n".join(
        [
            *lines,
            f"  an asset of {plan.views} views takes a worker {statistics.mean(seconds):.1f} s; in the trials: {shares}",
            f"  {plan.assets} assets, {plan.workers} worker(s): {_ranged(hours, _duration)}, {device}",
            f"  disk: {_ranged(sizes, _bytes)}",
        ]
    )


def _mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the mean less and plus two standard errors; of a single value a third to either side."""
    mean = statistics.mean(values)
    error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else mean / 3
    return mean, max(mean - error, min(values) / 2), mean + error


def _ranged(values: Sequence[float], show: Callable[[float], str]) -> str:
    return f"{show(values[0])} ({show(values[1])} to {show(values[2])})"


def _duration(hours: float) -> str:
    for unit, length in (("days", 24.0), ("hours", 1.0), ("minutes", 1 / 60)):
        if hours >= 2 * length:
            return f"{hours / length:.3g} {unit}"
    return f"{hours * 3600:.0f} seconds"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"
