"""Where a worker's time goes: seconds by stage, and the share of rendering that is spent on handing the scene over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Stages:
    """Seconds by stage: load, sync, render, encode, shape, write."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._renders: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what runs inside to `name`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def render(self, kind: str) -> Iterator[None]:
        """One render of a `kind` (colour, passes) whose first also hands the scene over to Cycles."""
        started = time.perf_counter()
        yield
        self._renders.setdefault(kind, []).append(time.perf_counter() - started)

    def record(self) -> dict[str, float]:
        """Stage -> seconds. Blender does not tell when its synchronisation ends: `sync` is what a first render takes more."""
        synced = [surplus_of_first(times) for times in self._renders.values()]
        rendered = sum(sum(times) for times in self._renders.values()) - sum(synced)
        seconds = {"load": self.seconds.get("load", 0.0), "sync": sum(synced), "render": rendered}
        return {**seconds, **{name: s for name, s in self.seconds.items() if name != "load"}}


def surplus_of_first(times: Sequence[float]) -> float:
    """What the first takes beyond the median of the others; 0 where there are none to compare with."""
    return max(times[0] - statistics.median(times[1:]), 0.0) if len(times) > 1 else 0.0
