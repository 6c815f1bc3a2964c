"""A command in a process of its own, and what the kernel says that it took."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from turntable.errors import UserError


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all cores together, its children's included."""
    peak_mb: float
    """MiB resident at most, by the command or by whoever started it, if that was larger (the kernel counts from before the
    command's own program is loaded); `turntable.resources.peak_memory` is the command's own."""


def run(module: str, words: Sequence[object]) -> Usage:
    """Runs `python -m module words…`, silently. Raises UserError when it fails."""
    command = [sys.executable, "-m", module, *map(str, words)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        raise UserError(f"{shlex.join(command)} failed; run it by hand to see why")
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def shared(processes: int, module: str, words: Sequence[object]) -> tuple[str, list[object]]:
    """Module and words that run a module by so many processes together."""
    if processes == 1:
        return module, [*words]
    return "torch.distributed.run", ["--standalone", f"--nproc-per-node={processes}", "-m", module, *words]


def trainer(processes: int, words: Sequence[object]) -> tuple[str, list[object]]:
    """Module and words that run `train.lrm` on the CPU with the tiny model, by so many processes of one thread each."""
    return shared(processes, "train.lrm", [*words, "--model", "tiny", "--device", "cpu", "--threads", 1])
