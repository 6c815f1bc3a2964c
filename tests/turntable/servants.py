"""A worker that does what its job says, be it good or bad, and runs of such jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from turntable.jobs import ItemError, Worker
from turntable.outcomes import remaining
from turntable.runs import Run

PATIENCE = 120
"""Seconds before a process is taken to hang; a loaded machine may take a good part of them, an idle one takes one."""
SERVANT = """
import os, signal, sys, tempfile, time
from pathlib import Path
from turntable.errors import UserError
from turntable.files import write_text
from turntable.jobs import ItemError, serve

def handle(job, beat):
    do, out = job["do"], Path(job["out"])
    print("doing", do, flush=True)
    beat(do)
    if do == "sleep": time.sleep(60)
    if do == "beat":
        for _ in range(20): time.sleep(0.1); beat("still here")
    if do == "abort": os.abort()
    if do == "exit": os._exit(7)
    if do == "litter": out.with_suffix(".litter").write_text(tempfile.mkdtemp()); os._exit(7)
    if do == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if do == "once" and not out.with_suffix(".tried").exists():
        out.with_suffix(".tried").touch(); os._exit(7)
    if do == "empty": raise ItemError("empty", "nothing in it")
    if do == "bug": raise KeyError("no such key")
    if do == "memory": raise MemoryError
    if do == "grow": bytearray(300 << 20); job["kept"] = bytearray(os.urandom(1) * (300 << 20)); time.sleep(60)
    if do == "liar": return {}
    if do == "child": os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ); time.sleep(60)
    if do == "huge": print("got", len(bytearray(40 << 30)))
    if do == "large": out.write_bytes(bytes(3 << 20))
    if do == "stop once" and not out.with_suffix(".tried").exists():
        out.with_suffix(".tried").touch(); os.kill(os.getpid(), signal.SIGSTOP)
    if do == "half": out.with_name(f".{out.name}.tmp").write_text("half"); time.sleep(60)
    if do == "slow": time.sleep(0.4)
    write_text(out, do)
    if do == "doubt" and not Path(job["out"] + ".sure").exists(): return {"doubts": ["too dark"]}
    return {"pid": os.getpid()}

def prepare():
    if "broken" in sys.argv: raise UserError("no graphics here")
    if "dead" in sys.argv: print("cannot load library"); sys.exit(3)
    return {}

serve(handle, prepare)
"""


def job(tmp_path: Path, do: str) -> dict[str, Any]:
    return {"do": do, "out": str(tmp_path / f"{do}.txt")}


def failure(worker: Worker, tmp_path: Path, do: str) -> ItemError:
    with pytest.raises(ItemError) as caught:
        worker.do(job(tmp_path, do))
    return caught.value


def gone(pid: int, within_s: float = 60) -> bool:
    """Whether the process has ended; a zombie that nobody has reaped yet has."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


class Errand:
    """A run over items named `<number>-<what to do>`."""

    def __init__(self, folder: Path, servant: Callable[..., Worker], workers: int = 2, **limits: float) -> None:
        self.out = folder / "out"
        self.workers = [servant(**limits) for _ in range(workers)]

    def output(self, item: str) -> Path:
        return self.out / self.name(item)

    def name(self, item: str) -> str:
        return f"{item}.txt"

    def prepare(self, item: str) -> dict[str, Any]:
        do = item.partition("-")[2]
        if do == "lost":
            raise ItemError("download", "did not arrive")
        return {"do": do, "out": str(self.output(item))}

    def __call__(self, items: list[str], retry: tuple[str, ...] = ()) -> Any:
        todo, summary = remaining(self.out, items, self.name, retry)
        return Run(self.out, self.prepare, self.name, self.workers)(todo, summary)
