"""Who renders: Blender workers on this machine, or on the nodes of a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from render import devices, full_blender
from render.settings import Settings
from turntable.cluster import PYTHON, Cluster, ClusterConfig, make_order
from turntable.files import log_folder
from turntable.jobs import Limits, Worker
from turntable.runs import AnyWorker

SELF_CONTAINED = (".glb", ".stl", ".ply", ".usdz")
"""Formats that refer to no other file."""


class Options(Protocol):
    """What of a render command's options decides who renders."""

    @property
    def out(self) -> Path: ...
    @property
    def gpus(self) -> int: ...
    @property
    def backend(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def workers_per_gpu(self) -> int: ...
    @property
    def blender(self) -> Path | None: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def cluster(self) -> ClusterConfig: ...


def make_workers(options: Options, module: str = "render.worker") -> list[Worker]:
    """This machine's workers, not yet started; on the CPU each has an even share of the cores. `module` is what they run."""
    devices = [str(gpu) for gpu in range(options.gpus)] or ["cpu"]
    cores = len(os.sched_getaffinity(0))
    each = options.workers_per_gpu or (1 if options.gpus else max(cores // 4, 1))
    # On a GPU the cores only feed it: Blender may use as many as it likes (0).
    threads = 0 if options.gpus else max(cores // each, 1)
    limits = _limits(options.limits, bool(options.gpus)).shared_by(each * len(devices))
    return [
        Worker(
            _command(options, sys.executable, module, device, str(threads), options.backend, options.settings.engine),
            log_folder(options.out) / f"worker-{device}-{index}.log",
            limits,
        )
        for device in devices
        for index in range(each)
    ]


def _command(options: Options, python: str, module: str, *arguments: str) -> list[str]:
    """How to run a module that needs Blender."""
    if options.blender:
        return full_blender.command(options.blender, module, *arguments)
    return [python, "-m", module, *arguments]


def check_blender(options: Options) -> None:
    """Raises `UserError` unless this machine's Blender runs and has the GPUs; on a cluster every node finds out for itself."""
    if options.cluster.ray:
        return
    if options.blender:
        full_blender.require(options.blender)
    program = functools.partial(_command, options, sys.executable)
    if options.gpus:
        devices.require(options.gpus, options.backend, program)
    if options.settings.engine == "eevee":
        devices.require_eevee(options.gpus, options.backend, program)


def _limits(limits: Limits, on_gpu: bool) -> Limits:
    """On a GPU the system's own memory limit is not tried: drivers reserve memory in ways of their own."""
    return dataclasses.replace(limits, hard_memory=limits.hard_memory and not on_gpu)


@contextlib.contextmanager
def workforce(
    options: Options, module: str = "render.worker"
) -> Iterator[tuple[Sequence[AnyWorker], Callable[[], Sequence[AnyWorker]]]]:
    """The workers to begin with, and a function that gives those for which room has come since."""
    cluster = options.cluster
    if not cluster.ray:
        yield make_workers(options, module), tuple
        return
    on_gpu = cluster.gpus_per_worker > 0
    # Ray shows a worker the GPUs that it gave it and no others: the first of them is GPU 0.
    device, threads = ("0", 0) if on_gpu else ("cpu", max(int(cluster.cpus_per_worker), 1))
    command = _command(options, PYTHON, module, device, str(threads), options.backend, options.settings.engine)
    order = make_order(command, _limits(options.limits, on_gpu), cluster, options.out, SELF_CONTAINED)
    with Cluster(order) as joined:
        yield joined.first_workers(), joined.workers
