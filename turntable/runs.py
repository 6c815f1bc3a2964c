"""A run: what of a list of items is left to do, done by several workers, a thread each, and summed up at the end.

The same run again does what is missing and tries again what is retryable. What it leaves on disk: `turntable.outcomes`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from turntable.errors import DiskFullError, UserError
from turntable.files import listing, write_json, write_text
from turntable.jobs import ItemError, WorkerError, WorkerLost
from turntable.outcomes import Summary, doubts_path, failure_path

log = logging.getLogger(__name__)

MOST_LOSSES = 3
"""Workers that may be lost over one item before it is put aside: an item might be what brings their machines down."""
MOST_UPLOADS_LOST = 10
"""Items in a row that cannot be brought to their place; then the run stops, since all that follow would be lost too."""
ASK_S = 5.0
"""Seconds between two questions for more workers."""


class AnyWorker(Protocol):
    """What `Run` drives: a `turntable.jobs.Worker`, or one on another machine."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def start(self) -> bool:
        """True once it is ready; False where there is no place for it yet: ask again. Raises `WorkerError`."""

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Raises `ItemError`, or, when the item is not to blame, `WorkerError` or `WorkerLost`."""

    def close(self) -> None:
        """The run needs it no more."""

    def kill(self) -> None:
        """At once, from any thread."""


@dataclass
class _Work:
    """An item on its way through a run."""

    item: str
    job: dict[str, Any] | BaseException
    """What to give a worker, or why there is nothing to give."""
    losses: int = 0
    """Workers lost over it."""


class Run:
    """Workers over a list of items, a thread each. `out` keeps items.txt, failures/, logs/ and summary.json."""

    def __init__(
        self,
        out: Path,
        prepare: Callable[[str], dict[str, Any]],
        output: Callable[[str], str],
        workers: Sequence[AnyWorker],
        ahead: int = 0,
        finished: Callable[[str], None] = lambda item: None,
        more_workers: Callable[[], Sequence[AnyWorker]] = tuple,
    ) -> None:
        """`prepare` makes an item's job (it may download, and raise `ItemError`); `output(item)` names the file below `out` that
        the done item leaves.

        At most `ahead` items (0 = two a worker) are being prepared, each by a thread of its own, or wait prepared for a worker.
        `finished` is told each item that is done or has failed for good, so that what `prepare` brought can go. `more_workers`
        is asked every few seconds for workers to add.
        """
        self.out, self.prepare, self.output, self.finished = out, prepare, output, finished
        self.workers, self.more_workers = list(workers), more_workers
        self.ahead = ahead or max(2 * len(workers), 1)
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._returned: list[_Work] = []
        self._places = threading.Semaphore(self.ahead)
        self._unclaimed = self._unfinished = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Semaphore(0)
        self._first_start = threading.Lock()
        self._one_runs = False
        self._given_up = 0
        self._uploads_lost = 0
        self._fatal: BaseException | None = None

    def __call__(self, todo: Sequence[str], summary: Summary, unit: str = "item") -> Summary:
        """Does `todo`, which with `summary` comes from `remaining`. Raises what stops a run: no worker, no disk, Ctrl-C."""
        started = time.monotonic()
        self._record_items(todo)
        self._failed_before = {name.removeprefix("failures/") for name in listing(self.out / "failures")}
        self._doubted_before = {name.removeprefix("doubts/") for name in listing(self.out / "doubts")}
        for item in todo:
            self._waiting.put(item)
        self._unclaimed = self._unfinished = len(todo)
        self.summary = summary
        try:
            bar = tqdm(total=summary.total, initial=summary.total - len(todo), unit=unit, smoothing=0)
            with _terminated_like_interrupted(), bar as self._bar:
                self._drive_all(len(todo))
        except BaseException as error:
            self._fatal = error
        finally:
            summary.seconds = time.monotonic() - started
        with contextlib.suppress(OSError) if self._fatal else contextlib.nullcontext():
            write_json(self.out / "summary.json", summary.record())
        if self._fatal:
            log.info("%s", summary.text(self.out))
            raise self._fatal
        return summary

    def _drive_all(self, count: int) -> None:
        del self.workers[count:]
        threads = [threading.Thread(target=self._drive, args=(worker,)) for worker in self.workers]
        feeders = [threading.Thread(target=self._feed, daemon=True) for _ in range(min(self.ahead, count))]
        try:
            for thread in threads + feeders:
                thread.start()
            ended, asked = 0, time.monotonic()
            while ended < len(threads):
                # Not Thread.join: Ctrl-C during it makes Python 3.11 take a running thread for ended, and leave without it.
                ended += self._ended.acquire(timeout=0.2)
                if time.monotonic() - asked > ASK_S and self._unclaimed:
                    threads += self._add_workers()
                    asked = time.monotonic()
        finally:
            self._stop.set()
            for worker in self.workers:
                if any(thread.is_alive() for thread in threads):
                    worker.kill()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _add_workers(self) -> list[threading.Thread]:
        added = list(self.more_workers())
        threads = [threading.Thread(target=self._drive, args=(worker,)) for worker in added]
        with self._lock:
            self.workers += added
        for worker, thread in zip(added, threads, strict=True):
            log.info("worker %s joins", worker.name)
            thread.start()
        return threads

    def _drive(self, worker: AnyWorker) -> None:
        """One thread: an item after another through one worker."""
        try:
            while self._wanted():
                # Whoever has no worker yet claims nothing: others may have one.
                if not self._start(worker):
                    continue
                work = self._claim()
                if work:
                    self._finish(work, worker)
            worker.close()
        except WorkerError as error:
            self._give_up(worker, error)
        except BaseException as error:
            worker.kill()
            self._fail_run(error)
        finally:
            self._ended.release()

    def _wanted(self) -> bool:
        """Waits until there is something to claim; False when nothing will be, or the run is being stopped."""
        while not self._stop.is_set():
            with self._lock:
                if self._unclaimed or self._returned:
                    return True
                if not self._unfinished:
                    return False
            self._stop.wait(0.1)
        return False

    def _feed(self) -> None:
        """One thread: prepares jobs ahead of the workers, so that none waits for a download."""
        while not self._stop.is_set() and not self._waiting.empty():
            if not self._places.acquire(timeout=0.2):
                continue
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work = _Work(item, self.prepare(item))
            except BaseException as error:
                work = _Work(item, error)
            self._ready.put(work)

    def _claim(self) -> _Work | None:
        """The next prepared job; None when every one is claimed, or the run is being stopped."""
        with self._lock:
            if self._returned:
                return self._returned.pop()
            if not self._unclaimed:
                return None
            self._unclaimed -= 1
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                claimed = self._ready.get(timeout=0.2)
                self._places.release()
                return claimed
        return None

    def _finish(self, work: _Work, worker: AnyWorker) -> None:
        try:
            if isinstance(work.job, BaseException):
                raise work.job
            result = worker.do(work.job)
        except (WorkerLost, WorkerError) as error:
            self._give_back(work, worker, error)
            if isinstance(error, WorkerError):
                raise
        except ItemError as error:
            if self._stop.is_set() or error.reason == "interrupted":
                return
            if error.reason == "disk-full":
                raise DiskFullError(0, str(error)) from error
            self._record_failure(work.item, error)
        else:
            self._record_success(work.item, result)

    def _start(self, worker: AnyWorker) -> bool:
        """The first worker starts alone: what is compiled or cached once is there for the others, and an error shows once."""
        with self._first_start:
            if not self._one_runs and not self._stop.is_set():
                self._one_runs = worker.start()
                return self._one_runs
        return not self._stop.is_set() and worker.start()

    def _give_back(self, work: _Work, worker: AnyWorker, error: UserError) -> None:
        """The item goes to another worker, unless it has cost too many."""
        if self._stop.is_set():
            return
        work.losses += 1
        if work.losses >= MOST_LOSSES:
            return self._record_failure(
                work.item, ItemError("worker-lost", f"{work.losses} workers lost over it: {error}")
            )
        tqdm.write(f"{work.item}: goes to another worker, {worker.name} is lost: {error}", file=sys.stderr)
        with self._lock:
            self._returned.append(work)

    def _give_up(self, worker: AnyWorker, error: WorkerError) -> None:
        """The run goes on without this worker, as long as there is another that ever ran."""
        worker.kill()
        with self._lock:
            self._given_up += 1
            self.summary.workers_given_up += 1
            others = self._given_up < len(self.workers) and self._one_runs
        if not others:
            return self._fail_run(error)
        tqdm.write(f"{worker.name}: given up: {error}", file=sys.stderr)

    def _record_success(self, item: str, result: dict[str, Any]) -> None:
        if f"{item}.json" in self._failed_before:
            failure_path(self.out, item).unlink(missing_ok=True)
        doubts = result.get("doubts")
        if doubts:
            write_json(doubts_path(self.out, item), {"uid": item, "doubts": doubts})
        elif f"{item}.json" in self._doubted_before:
            doubts_path(self.out, item).unlink(missing_ok=True)
        with self._lock:
            self.summary.done += 1
            self.summary.doubtful += bool(doubts)
            self.summary.counts.update(result.get("counts", {}))
            for stage, seconds in result.get("seconds", {}).items():
                self.summary.stages[stage] = self.summary.stages.get(stage, 0.0) + seconds
            self._uploads_lost = 0
            self._unfinished -= 1
            self._bar.update()
        self.finished(item)

    def _record_failure(self, item: str, error: ItemError) -> None:
        path = failure_path(self.out, item)
        with self._lock:
            self._uploads_lost = self._uploads_lost + 1 if error.reason == "upload" else 0
            lost = self._uploads_lost
        if lost >= MOST_UPLOADS_LOST:
            raise UserError(
                f"the last {lost} items could not be uploaded ({error}); mend that and run the same command again"
            )
        record = {"uid": item, "reason": error.reason, "message": str(error)}
        write_json(path, record | ({"log": error.log_tail} if error.log_tail else {}))
        tqdm.write(f"{item}: {error.reason}: {error}; listed in {path}", file=sys.stderr)
        with self._lock:
            self.summary.failed[error.reason] += 1
            self._unfinished -= 1
            self._bar.update()
        self.finished(item)

    def _fail_run(self, error: BaseException) -> None:
        with self._lock:
            self._fatal = self._fatal or error
            workers = list(self.workers)
        self._stop.set()
        for worker in workers:
            worker.kill()

    def _record_items(self, todo: Sequence[str]) -> None:
        """items.txt: a line an item, the file it leaves, so that `turntable.status` can tell what is missing."""
        path = self.out / "items.txt"
        known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = list(dict.fromkeys([*known, *map(self.output, todo)]))
        if len(lines) > len(known):
            write_text(path, "".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send, ends the run as Ctrl-C does. Only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
