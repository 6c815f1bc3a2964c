"""What this machine has and what a process may take of it: memory, file sizes, and whether the kernel ran out."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path

import psutil

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Version 2 and 1; a container sees its own limit there, `max` or a huge number where it has none."""
_SLACK_GB = 1.0
"""Writable memory that a process may reserve beyond what it may hold: stacks of threads, memory not touched yet. An idle
Blender reserves 0.1 GiB more than it holds."""


def memory_gb() -> float:
    """GiB of memory that this machine, or the container around us, has."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total / 2**30


def peak_memory() -> int:
    """Bytes that this process' program has had resident at most.

    Not what getrusage says where the kernel tells better: that counts whoever started the process too, if it was larger.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def oom_kills() -> int | None:
    """How many processes the kernel has killed for memory since it started; None where it does not tell (not Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def limit_this_process(memory_gb: float, file_gb: float) -> None:
    """Has the system refuse this process more writable memory, or a larger file, than this (GiB; 0 = as much as there is).

    Memory is limited by RLIMIT_DATA. RLIMIT_AS would count address space that is merely reserved, of which GPU drivers take
    terabytes; polling alone misses an allocation of many GiB at once. A write beyond the file limit is EFBIG, no signal.
    The kernel, when memory runs out all the same, is asked to choose this process before any other.
    """
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if memory_gb:
        _lower(resource.RLIMIT_DATA, memory_gb + _SLACK_GB)
    if file_gb:
        _lower(resource.RLIMIT_FSIZE, file_gb)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(kind: int, gigabytes: float) -> None:
    import resource

    soft, hard = resource.getrlimit(kind)
    wanted = int(gigabytes * 2**30)
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(kind, (wanted, hard))
