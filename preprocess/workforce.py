"""Who preprocesses, when threads of one process do not: worker processes on this machine, or on the nodes of a cluster.

They are handed a shard's worth of objects at a time. A list over which workers die is halved until the object that kills them
stands alone; it is put aside under its reason and all others arrive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.packing import next_number
from preprocess.filling import Failure, Filling, Laid, Lay, Source, Summary, note
from preprocess.upscale import Upscaler
from turntable import outcomes
from turntable.cluster import PYTHON, Cluster, make_order
from turntable.config import resolved
from turntable.files import is_local, log_folder
from turntable.jobs import ItemError, Worker
from turntable.runs import AnyWorker, Run

BLAMED = frozenset({"crash", "timeout", "out-of-memory", "killed", "too-large"})
"""Reasons for which one of a job's objects may be to blame."""


def laying(module: str) -> Lay:
    """How `filling.fill` lays objects into shards by workers that run the command of `module`."""

    def lay(config: Filling, _source: Source, _upscaler: Upscaler, uids: list[str], summary: Summary) -> None:
        first = next_number(config.out)
        size = config.objects_per_job
        lists = {f"{first + k:06d}": uids[start : start + size] for k, start in enumerate(range(0, len(uids), size))}
        lock = threading.Lock()

        def told(result: dict[str, Any]) -> None:
            with lock:
                _note_all(config, result, summary)

        with workforce(config, module, told) as (workers, more_workers):
            run = Run(
                config.out / "jobs",
                lambda name: {"number": int(name), "uids": lists[name]},
                lambda name: f"{name}.json",
                workers,
                more_workers=more_workers,
            )
            run(list(lists), outcomes.Summary(total=len(lists)), unit="job")
        summary.left = len(uids) - summary.done - summary.failed.total()

    return lay


def _note_all(config: Filling, result: dict[str, Any], summary: Summary) -> None:
    for uid, empty_views in result["laid"].items():
        note(config, uid, Laid(empty_views), summary)
    for uid, (reason, message) in result["failed"].items():
        note(config, uid, Failure(reason, message), summary)
    summary.shards += result["shards"]


class Halving:
    """A worker that finds out which object of a job kills its processes."""

    def __init__(self, worker: AnyWorker, told: Callable[[dict[str, Any]], None]) -> None:
        """`told` gets what becomes of objects, part of a job by part."""
        self._worker, self._told = worker, told

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._worker.name

    def start(self) -> bool:
        """See `AnyWorker`."""
        return self._worker.start()

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Does a job, in halves where it must be. Raises `ItemError` where no object is to blame."""
        try:
            self._told(self._worker.do(job))
        except ItemError as error:
            if error.reason not in BLAMED:
                raise
            uids = job["uids"]
            if len(uids) == 1:
                message = "\n".join(filter(None, [str(error), error.log_tail]))
                self._told({"laid": {}, "failed": {uids[0]: [error.reason, message]}, "shards": []})
                return {}
            for half in (uids[: len(uids) // 2], uids[len(uids) // 2 :]):
                self.do({**job, "uids": half})
        return {}

    def close(self) -> None:
        """See `AnyWorker`."""
        self._worker.close()

    def kill(self) -> None:
        """See `AnyWorker`."""
        self._worker.kill()


@contextlib.contextmanager
def workforce(
    config: Filling, module: str, told: Callable[[dict[str, Any]], None]
) -> Iterator[tuple[Sequence[AnyWorker], Callable[[], Sequence[AnyWorker]]]]:
    """The workers to begin with, and a function that gives those for which room has come since."""
    # Drivers reserve memory in ways of their own: on a GPU the system's own limit is not tried.
    on_gpu = config.cluster.gpus_per_worker > 0 or config.upscale != "none" or config.matte_device != "cpu"
    limits = dataclasses.replace(
        config.limits,
        timeout_s=config.limits.timeout_s * config.objects_per_job,
        hard_memory=config.limits.hard_memory and not on_gpu,
    )
    if config.cluster.ray:
        threads = max(int(config.cluster.cpus_per_worker), 1)
        order = make_order(command(PYTHON, module, config, threads), limits, config.cluster, config.out, ())
        with Cluster(order) as joined:
            yield _halving(joined.first_workers(), told), lambda: _halving(joined.workers(), told)
        return
    threads = max(len(os.sched_getaffinity(0)) // config.processes, 1)
    words = command(sys.executable, module, config, threads)
    logs = log_folder(config.out)
    shared = limits.shared_by(config.processes)
    yield _halving([Worker(words, logs / f"worker-{k}.log", shared) for k in range(config.processes)], told), tuple


def _halving(workers: Sequence[AnyWorker], told: Callable[[dict[str, Any]], None]) -> list[Halving]:
    return [Halving(worker, told) for worker in workers]


def command(python: str, module: str, config: Filling, threads: int) -> list[str]:
    """How to start a worker. Its paths are absolute: it may run elsewhere."""
    # One process as far as it knows itself: what it writes is decided by the job.
    alone = dataclasses.replace(
        config, threads=threads, processes=0, cluster=dataclasses.replace(config.cluster, ray="")
    )
    values = resolved(alone)
    for name, value in vars(alone).items():
        if isinstance(value, Path) and is_local(value):
            values[name] = str(value.absolute())
    return [python, "-m", "preprocess.worker", module, json.dumps(values)]
