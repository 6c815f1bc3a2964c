"""How items get done: by workers in processes of their own. `turntable.runs` drives several of them over a list.

A worker is any command that calls `serve`. It is started with two pipes of its own, over which jobs come and replies go as
lines of JSON; whatever it or its libraries print goes to a log file. `Worker` is the one place that knows about timeouts,
silence, crashes, memory, recycling and quarantine.

    parent -> worker   {"job": {…}}                                    end of file: exit
    worker -> parent   {"ready": {…}}                                  once, after start
                       {"beat": "view 3 of 12"}                        sign of life
                       {"done": {…}} | {"failed": {"reason": …, "message": …}}
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from turntable import resources
from turntable.errors import DiskFullError, UserError
from turntable.files import UploadError, atomic_path, is_local, location, temporary_path

_CALL = "TURNTABLE_WORKER"
"""The environment variable that tells a worker its pipes, its parent and its limits, as JSON."""
_LOG_LIMIT = 16 << 20
_POLL_S = 0.1
"""Seconds between two looks at a worker's memory: a process can fill some hundred MiB in that time."""
_NO_MEMORY = re.compile(
    r"MemoryError|bad_alloc|alloc\w* (array )?(returns null|aborted)|Cannot allocate memory", re.IGNORECASE
)
"""What Python, C++, Blender and the C library print when they are refused memory."""


class ItemError(UserError):
    """An item that cannot be done; the run goes on without it."""

    def __init__(self, reason: str, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        """A short name to count by: `bad-asset`, `timeout`, `crash`, …"""
        self.log_tail = log_tail
        """The end of what the worker printed meanwhile, where that may tell more."""


class WorkerDied(ItemError):
    """The worker's process ended, or fell silent, while it had the item. That may be the worker's fault: the item is tried
    once more, by a new one."""


class WorkerError(UserError):
    """A worker that does not start; no item is to blame."""


class WorkerLost(UserError):
    """A worker that went away with its machine; no item is to blame, and it may come back elsewhere."""


@dataclass(frozen=True)
class Limits:
    """What a worker may take."""

    timeout_s: float = 1800.0
    """Seconds an item may take; then its worker is killed."""
    silence_s: float = 600.0
    """Seconds without a sign of life from a worker that has an item; then it is taken for hung and killed, and the item tried
    once more."""
    start_s: float = 900.0
    """Seconds a worker may take to start: a GPU's kernels may have to be compiled once."""
    recycle_gb: float = 2.0
    """A worker that holds more memory than this (GiB resident) after an item is replaced by a new one."""
    recycle_items: int = 1000
    """A worker is replaced after this many items."""
    memory_gb: float = 0.0
    """A worker that holds more memory than this (GiB resident) during an item is killed; 0 = its share of nine tenths of the
    machine's."""
    hard_memory: bool = True
    """Whether the system, too, refuses a worker much more than that, so that not even one huge allocation passes."""
    file_gb: float = 8.0
    """A file that a worker writes may not grow larger than this (GiB)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name not in ("memory_gb", "hard_memory")):
                raise ValueError(f"{name} must be positive, got {value}")

    def shared_by(self, workers: int) -> Limits:
        """With a memory limit, where there is none yet, that lets so many workers live on this machine together."""
        return replace(self, memory_gb=self.memory_gb or 0.9 * resources.memory_gb() / max(workers, 1))


class Worker:
    """One worker process and its successors. `do` is for one thread at a time; `kill` may come from any."""

    def __init__(
        self, command: Sequence[str], log_path: Path, limits: Limits | None = None, folder: Path | None = None
    ) -> None:
        """`command` runs, in `folder` (default: ours), a program that calls `serve`; what it prints is appended to `log_path`."""
        self.command = list(command)
        self.folder = folder
        self.log_path = log_path
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        """Where the process puts its temporary files; one that is killed cannot take them away itself."""
        self._jobs = self._replies = -1
        self._buffer = b""
        self._items = 0
        self._log_start = 0
        self._oom_kills: int | None = None
        self.ready: dict[str, Any] = {}
        """What the process said when it was ready."""
        self._killed = threading.Event()

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.log_path.stem

    def start(self) -> bool:
        """Starts the process, if there is none, and waits until it is ready: True. Raises `WorkerError` when it does not come up.

        A process that dies while it starts is started once more: somebody may have killed it.
        """
        if self._process:
            return True
        for last in (False, True):
            try:
                self._start()
                break
            except ItemError as error:
                if error.reason == "interrupted":
                    raise
                if last or not isinstance(error, WorkerDied):
                    raise WorkerError(f"no worker starts: {error}\n{error.log_tail}".rstrip()) from error
        return True

    def _start(self) -> None:
        self._launch()
        if self._killed.is_set():  # killed while it was being started
            self.kill()
        reply = self._wait(self.limits.start_s, self.limits.start_s)
        if "failed" in reply:
            self._end()
            raise WorkerError(str(reply["failed"]["message"]))
        self.ready = reply["ready"]

    def _launch(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        mode = "wb" if self.log_path.exists() and self.log_path.stat().st_size > _LOG_LIMIT else "ab"
        jobs_read, self._jobs = os.pipe()
        self._replies, replies_write = os.pipe()
        self._scratch = tempfile.TemporaryDirectory(prefix="turntable-worker-", ignore_cleanup_errors=True)
        call = {"pipes": [jobs_read, replies_write], "parent": os.getpid(), "file_gb": self.limits.file_gb}
        call["memory_gb"] = self.limits.memory_gb if self.limits.hard_memory else 0
        try:
            with self.log_path.open(mode) as output:
                self._log_start = output.tell()
                self._process = subprocess.Popen(
                    self.command,
                    cwd=self.folder,
                    env={**os.environ, "TMPDIR": self._scratch.name, _CALL: json.dumps(call)},
                    pass_fds=(jobs_read, replies_write),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerError(f"no worker starts: {self.command[0]}: {error.strerror}") from error
        finally:
            os.close(jobs_read)
            os.close(replies_write)
        self._buffer, self._items = b"", 0
        self._oom_kills = resources.oom_kills()

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Has the process do one job -> what `serve`'s handler returned.

        `job["out"]`, where there is one, names the file that the job leaves: a path, which the handler writes atomically, or a
        URL, for which the handler is given a path of this machine and the finished file is uploaded here.
        Raises `ItemError` when the handler raised one, or when the job outlived the limits or ended two workers.
        """
        if "out" not in job:
            return self._try_twice(job)
        out = location(str(job["out"]))
        if is_local(out):
            return self._leave(job, out)
        try:
            with atomic_path(out) as finished:
                return self._leave({**job, "out": str(finished)}, finished)
        except UploadError as error:
            raise ItemError("upload", str(error)) from error

    def _leave(self, job: dict[str, Any], out: Path) -> dict[str, Any]:
        """Does a job that has to leave the file `out`."""
        try:
            result = self._try_twice(job)
            if not out.exists():
                raise ItemError("crash", f"its worker said done, but left no {out.name}", self.log_tail())
        except ItemError:
            temporary_path(out).unlink(missing_ok=True)  # of a worker that was killed while it wrote
            raise
        return result

    def _try_twice(self, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._attempt(job)
        except WorkerDied:
            pass
        try:
            return self._attempt(job)
        except WorkerDied as error:
            message = f"{error}; it has ended two workers and is put aside"
            raise ItemError(error.reason, message, error.log_tail) from error

    def _attempt(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._process and self._process.poll() is not None:  # it died between two items: none is to blame
            self._end()
        self.start()
        self._log_start = self.log_path.stat().st_size
        with contextlib.suppress(BrokenPipeError):  # it shows when the reply is read
            os.write(self._jobs, json.dumps({"job": job}).encode() + b"\n")
        reply = self._wait(self.limits.timeout_s, self.limits.silence_s)
        self._items += 1
        if self._items >= self.limits.recycle_items or self.resident_gb() > self._recycle_gb():
            self.close()
        if "failed" in reply:
            failed = reply["failed"]
            raise ItemError(failed["reason"], failed["message"], failed.get("log", ""))
        return reply["done"]

    def _recycle_gb(self) -> float:
        """An old worker must leave its next item most of what the limit allows."""
        limit = self.limits.memory_gb
        return min(self.limits.recycle_gb, limit / 2) if limit else self.limits.recycle_gb

    def _wait(self, timeout_s: float, silence_s: float) -> dict[str, Any]:
        """The next message that is no beat: `ready`, `done` or `failed`. A worker that dies or outlives its time is an `ItemError`."""
        started = last_sign = time.monotonic()
        doing = ""
        while True:
            reply = self._read(_POLL_S)
            now = time.monotonic()
            if reply is None:
                raise self._death(doing)
            if "beat" in reply:
                doing, last_sign = f" (last at {reply['beat']})", now
            elif reply:
                return reply
            if now - started > timeout_s:
                raise self._give_up("timeout", f"not finished after {timeout_s:g} s{doing}")
            if now - last_sign > silence_s:
                raise self._give_up("timeout", f"no sign of life for {silence_s:g} s{doing}", WorkerDied)
            if self.limits.memory_gb and self.resident_gb() > self.limits.memory_gb:
                # What an old worker holds may be left from items before.
                kind = WorkerDied if self._items else ItemError
                raise self._give_up("out-of-memory", f"needs more than {self.limits.memory_gb:.3g} GiB{doing}", kind)

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """One message, {} when none came within `seconds`, None when the process has closed its end."""
        if b"\n" not in self._buffer:
            if not select.select([self._replies], [], [], seconds)[0]:
                return {}
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return {}
        self._buffer = rest
        return json.loads(line)

    def _give_up(self, reason: str, message: str, kind: type[ItemError] = ItemError) -> ItemError:
        self._end()
        return kind(reason, message, self.log_tail())

    def _death(self, doing: str) -> ItemError:
        assert self._process
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        self._end()
        tail = self.log_tail()
        if self._killed.is_set():
            return ItemError("interrupted", "interrupted", tail)
        if code == -signal.SIGKILL:
            kills = resources.oom_kills()
            if kills is not None and kills == self._oom_kills:
                return WorkerDied("killed", f"its worker was killed by somebody, not for memory{doing}", tail)
            return WorkerDied(
                "out-of-memory", f"its worker was killed, most likely by the kernel for memory{doing}", tail
            )
        if _NO_MEMORY.search(tail):
            return WorkerDied("out-of-memory", f"its worker ran out of memory{doing}", tail)
        if code is None:
            how = "closed its pipe"
        else:
            how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return WorkerDied("crash", f"its worker {how}{doing}", tail)

    def log_tail(self, limit: int = 4000) -> str:
        """The end of what was printed since the job began."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as output:
            end = output.seek(0, os.SEEK_END)
            output.seek(max(self._log_start, end - limit))
            return "\n".join(output.read().decode(errors="replace").splitlines()[-20:])
        return ""

    def resident_gb(self) -> float:
        """GiB of memory that the process holds; 0 when there is none."""
        if not self._process:
            return 0.0
        try:
            return psutil.Process(self._process.pid).memory_info().rss / 2**30
        except psutil.NoSuchProcess:
            return 0.0

    def close(self, patience_s: float = 10.0) -> None:
        """Lets an idle process end by itself, kills it if it does not. The next `do` starts a new one."""
        if self._process:
            self._close_pipe("_jobs")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=patience_s)
        self._end()

    def kill(self) -> None:
        """Kills the process and all that it started, now and for good; a `do` under way raises `ItemError`."""
        self._killed.set()
        if self._process:
            self._kill_group(self._process)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            self._kill_group(process)
            process.wait()
        if self._scratch:
            self._scratch.cleanup()
        self._close_pipe("_jobs")
        self._close_pipe("_replies")

    def _close_pipe(self, name: str) -> None:
        descriptor = getattr(self, name)
        setattr(self, name, -1)
        if descriptor >= 0:
            os.close(descriptor)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def serve(
    handle: Callable[[dict[str, Any], Callable[[str], None]], dict[str, Any]],
    prepare: Callable[[], dict[str, Any]] = dict,
) -> None:
    """A worker's life: `prepare` once, then `handle(job, beat)` for every job until the parent closes its pipe or dies.

    `handle` calls `beat(where)` as it goes along. What it raises becomes the item's failure: `ItemError` its own reason,
    `MemoryError` `out-of-memory`, `DiskFullError` `disk-full`, anything else `crash` with the traceback.
    """
    call = json.loads(os.environ.pop(_CALL))
    jobs, replies = call["pipes"]
    _die_with(call["parent"])
    resources.limit_this_process(call["memory_gb"], call["file_gb"])

    def send(message: dict[str, Any]) -> None:
        os.write(replies, json.dumps(message).encode() + b"\n")

    try:
        ready = prepare()
    except UserError as error:
        send({"failed": {"message": str(error)}})
        return
    send({"ready": ready})
    for line in os.fdopen(jobs):
        try:
            reply = {"done": handle(json.loads(line)["job"], lambda where: send({"beat": where}))}
        except Exception as error:
            reply = {"failed": _failure(error)}
        with contextlib.suppress(BrokenPipeError):
            send(reply)


def _failure(error: Exception) -> dict[str, str]:
    if isinstance(error, ItemError):
        return {"reason": error.reason, "message": str(error), "log": error.log_tail}
    if isinstance(error, MemoryError):
        return {"reason": "out-of-memory", "message": "Python ran out of memory"}
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return {"reason": "too-large", "message": f"a file that it writes grows beyond the limit (--file-gb): {error}"}
    if isinstance(error, DiskFullError):
        return {"reason": "disk-full", "message": str(error.strerror)}
    import traceback

    text = "".join(traceback.format_exception(error))
    return {"reason": "crash", "message": f"{type(error).__name__}: {error}", "log": text[-4000:]}


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when the parent dies, however it dies. Elsewhere than on Linux the pipe's end does.

    The parent may be further up, where a script starts the program that we are.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent not in {process.pid for process in psutil.Process().parents()}:  # it died before that took hold
        os._exit(1)
