"""A run: what of a list of items is left to do, done by several workers, a thread each, and summed up at the end.

An item ends as done, when the file that it stands for exists, or failed with a reason, in failures/<item>.json. The same run
again does what is missing and tries again what is retryable.

    <out>/items.txt             the file that each item leaves, a line an item
    <out>/failures/<item>.json  uid, reason, message, and the end of the worker's log where there is one
    <out>/doubts/<item>.json    uid, doubts: of a done item that its worker has doubts about
    <out>/logs/                 what workers print
    <out>/summary.json          the last run's counts
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from turntable.errors import DiskFullError
from turntable.files import read_json, temporary_path, write_json, write_text
from turntable.jobs import ItemError, Worker

log = logging.getLogger(__name__)

RETRYABLE = frozenset({"download"})
"""Reasons that the next run tries again unasked; others would most likely end the same way, and are named by `--retry`."""


@dataclass
class Summary:
    """How a run ended."""

    total: int = 0
    """Items asked for."""
    skipped: int = 0
    """Done before this run."""
    done: int = 0
    """Done by this run."""
    failed: Counter[str] = field(default_factory=Counter)
    """Reason -> items that failed in this run."""
    failed_before: Counter[str] = field(default_factory=Counter)
    """Reason -> items that failed before and were not tried again."""
    doubtful: int = 0
    """Of those done by this run, the ones that their workers have doubts about (`{"doubts": […]}` in what a job returns)."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the items done by this run hold, where workers tell (`{"counts": {"views": 12}}` in what a job returns)."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds that workers spent in it, where they tell (`{"seconds": {stage: …}}` in what a job returns)."""

    @property
    def all_done(self) -> bool:
        """Whether every item asked for is done."""
        return self.done + self.skipped == self.total

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        rate = 3600 * self.done / self.seconds if self.done else 0.0
        counts = {"total": self.total, "done": self.done, "doubtful": self.doubtful, "skipped": self.skipped}
        failures = {"failed": dict(self.failed), "failed_before": dict(self.failed_before)}
        left = self.total - self.done - self.skipped - self.failed.total() - self.failed_before.total()
        times = {"seconds": round(self.seconds, 1), "items_per_hour": round(rate, 1)}
        rates = {"per_second": {name: round(n / self.seconds, 3) for name, n in self.counts.items() if self.seconds}}
        stages = {"worker_seconds": {stage: round(seconds, 1) for stage, seconds in self.stages.items()}}
        return {**counts, **failures, "left": left, **times, **rates, **stages}

    def text(self, out: Path) -> str:
        """One paragraph for a person."""
        r = self.record()
        doubtful = f" ({self.doubtful} of them doubtful)" if self.doubtful else ""
        parts = [f"{self.done} done{doubtful}", f"{self.skipped} done before"]
        if self.failed:
            parts.append(f"{self.failed.total()} failed ({_counted(self.failed)})")
        if self.failed_before:
            again = " ".join(sorted(self.failed_before))
            parts.append(
                f"{self.failed_before.total()} failed before and not tried again ({_counted(self.failed_before)}; "
                f"--retry {again})"
            )
        if r["left"]:
            parts.append(f"{r['left']} not reached")
        rates = [f"{r['items_per_hour']:g} items an hour"] if self.done else []
        rates += [f"{rate:.2f} {name} a second" for name, rate in r["per_second"].items()]
        total = sum(self.stages.values())
        shares = [f"{name} {100 * seconds / total:.0f} %" for name, seconds in self.stages.items()] if total else []
        where = f"\nfailures are in {out / 'failures'}" if self.failed or self.failed_before else ""
        ended = f"{self.total} items: {', '.join(parts)} in {self.seconds:.0f} s"
        return "; ".join([ended, *rates]) + (f"\nworkers' time: {', '.join(shares)}" if shares else "") + where


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def failure_path(out: Path, item: str) -> Path:
    """Where the reason of an item's failure is written."""
    return out / "failures" / f"{item}.json"


def doubts_path(out: Path, item: str) -> Path:
    """Where what is doubtful about a done item is written."""
    return out / "doubts" / f"{item}.json"


def remaining(
    out: Path, items: Iterable[str], output: Callable[[str], Path], retry: Sequence[str] = ()
) -> tuple[list[str], Summary]:
    """What a run has to do: items that are neither done nor failed for a reason that stays, and the summary it begins with.

    `retry` names reasons to try again beside the retryable ones; `all` names all.
    """
    summary, todo = Summary(), []
    for item in dict.fromkeys(items):
        summary.total += 1
        if output(item).exists():
            summary.skipped += 1
            continue
        failure = failure_path(out, item)
        reason = read_json(failure)["reason"] if failure.exists() else None
        if reason is None or reason in RETRYABLE or reason in retry or "all" in retry:
            todo.append(item)
        else:
            summary.failed_before[reason] += 1
    return todo, summary


class Run:
    """Workers over a list of items, a thread each. `out` keeps items.txt, failures/, logs/ and summary.json."""

    def __init__(
        self,
        out: Path,
        prepare: Callable[[str], dict[str, Any]],
        output: Callable[[str], Path],
        workers: Sequence[Worker],
        ahead: int = 0,
        finished: Callable[[str], None] = lambda item: None,
    ) -> None:
        """`prepare` makes an item's job (it may download, and raise `ItemError`); `output` is the file that a done item leaves.

        At most `ahead` items (0 = two a worker) are being prepared, each by a thread of its own, or wait prepared for a worker.
        `finished` is told each item that is done or has failed for good, so that what `prepare` brought can go.
        """
        self.out, self.prepare, self.output, self.workers, self.finished = out, prepare, output, workers, finished
        self.ahead = ahead or 2 * len(workers)
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[str, dict[str, Any] | BaseException]] = queue.SimpleQueue()
        self._places = threading.Semaphore(self.ahead)
        self._unclaimed = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Semaphore(0)
        self._first_start = threading.Lock()
        self._one_runs = False
        self._fatal: BaseException | None = None

    def __call__(self, todo: Sequence[str], summary: Summary, unit: str = "item") -> Summary:
        """Does `todo`, which with `summary` comes from `remaining`. Raises what stops a run: no worker, no disk, Ctrl-C."""
        started = time.monotonic()
        self._record_items(todo)
        for item in todo:
            self._waiting.put(item)
        self._unclaimed = len(todo)
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
        threads = [threading.Thread(target=self._drive, args=(worker,)) for worker in self.workers[:count]]
        feeders = [threading.Thread(target=self._feed, daemon=True) for _ in range(min(self.ahead, count))]
        try:
            for thread in threads + feeders:
                thread.start()
            for _ in threads:
                # Not Thread.join: Ctrl-C during it makes Python 3.11 take a running thread for ended, and leave without it.
                while not self._ended.acquire(timeout=0.2):
                    pass
        finally:
            self._stop.set()
            for worker in self.workers:
                if any(thread.is_alive() for thread in threads):
                    worker.kill()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _drive(self, worker: Worker) -> None:
        """One thread: an item after another through one worker."""
        try:
            while claimed := self._claim():
                self._finish(*claimed, worker)
            worker.close()
        except BaseException as error:
            worker.kill()
            self._fail_run(error)
        finally:
            self._ended.release()

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
                job: dict[str, Any] | BaseException = self.prepare(item)
            except BaseException as error:
                job = error
            self._ready.put((item, job))

    def _claim(self) -> tuple[str, dict[str, Any] | BaseException] | None:
        """The next prepared job; None when every one is claimed, or the run is being stopped."""
        with self._lock:
            if not self._unclaimed:
                return None
            self._unclaimed -= 1
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                claimed = self._ready.get(timeout=0.2)
                self._places.release()
                return claimed
        return None

    def _finish(self, item: str, job: dict[str, Any] | BaseException, worker: Worker) -> None:
        try:
            if isinstance(job, BaseException):
                raise job
            self._start(worker)
            result = worker.do(job)
            if not self.output(item).exists():
                raise ItemError("crash", f"its worker said done, but left no {self.output(item)}", worker.log_tail())
        except ItemError as error:
            temporary_path(self.output(item)).unlink(missing_ok=True)  # of a worker that was killed while it wrote
            if self._stop.is_set() or error.reason == "interrupted":
                return
            if error.reason == "disk-full":
                raise DiskFullError(0, str(error)) from error
            self._record_failure(item, error)
            self.finished(item)
        else:
            failure_path(self.out, item).unlink(missing_ok=True)
            doubts = result.get("doubts")
            if doubts:
                write_json(doubts_path(self.out, item), {"uid": item, "doubts": doubts})
            with self._lock:
                self.summary.done += 1
                self.summary.doubtful += bool(doubts)
                self.summary.counts.update(result.get("counts", {}))
                for stage, seconds in result.get("seconds", {}).items():
                    self.summary.stages[stage] = self.summary.stages.get(stage, 0.0) + seconds
                self._bar.update()
            self.finished(item)

    def _start(self, worker: Worker) -> None:
        """The first worker starts alone: what is compiled or cached once is there for the others, and an error shows once."""
        with self._first_start:
            if not self._one_runs and not self._stop.is_set():
                worker.start()
                self._one_runs = True
        if self._stop.is_set():
            raise ItemError("interrupted", "the run is being stopped")
        worker.start()

    def _record_failure(self, item: str, error: ItemError) -> None:
        path = failure_path(self.out, item)
        record = {"uid": item, "reason": error.reason, "message": str(error)}
        write_json(path, record | ({"log": error.log_tail} if error.log_tail else {}))
        tqdm.write(f"{item}: {error.reason}: {error}; listed in {path}", file=sys.stderr)
        with self._lock:
            self.summary.failed[error.reason] += 1
            self._bar.update()

    def _fail_run(self, error: BaseException) -> None:
        with self._lock:
            self._fatal = self._fatal or error
        self._stop.set()
        for worker in self.workers:
            worker.kill()

    def _record_items(self, todo: Sequence[str]) -> None:
        """items.txt: a line an item, the file it leaves, so that `turntable.status` can tell what is missing."""
        path = self.out / "items.txt"
        known = path.read_text().splitlines() if path.exists() else []
        lines = [str(self.output(item).relative_to(self.out)) for item in todo]
        write_text(path, "".join(f"{line}\n" for line in dict.fromkeys(known + lines)))


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
