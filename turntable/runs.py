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
import json
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
from typing import Any, Protocol

from tqdm import tqdm

from turntable.errors import DiskFullError, UserError
from turntable.files import listing, read_all, read_json, write_json, write_text
from turntable.jobs import ItemError, WorkerError, WorkerLost

log = logging.getLogger(__name__)

RETRYABLE = frozenset({"download", "upload", "killed", "worker-lost"})
"""Reasons that the next run tries again unasked; others would most likely end the same way, and are named by `--retry`."""


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
    workers_given_up: int = 0
    """Workers that could not be started again."""
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
        workers = {"workers_given_up": self.workers_given_up}
        return {**counts, **failures, "left": left, **workers, **times, **rates, **stages}

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
        if self.workers_given_up:
            parts.append(f"{self.workers_given_up} workers given up")
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


def read_failures(out: Path, present: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Item -> its failure's record, of those whose file is in `present`, a listing of `out`."""
    names = [name for name in present if name.startswith("failures/") and name.endswith(".json")]
    try:
        records = [json.loads(content) for content in read_all(out, names).values()]
        return {str(record["uid"]): {**record, "reason": str(record["reason"])} for record in records}
    except (ValueError, KeyError, TypeError):
        # Only now, to say which: one by one.
        for name in names:
            if not {"uid", "reason"} <= set(read_json(out / name)):
                raise UserError(
                    f"{out / name}: not a failure's record; delete it to have the item tried again"
                ) from None
        raise


def remaining(
    out: Path, items: Iterable[str], output: Callable[[str], str], retry: Sequence[str] = ()
) -> tuple[list[str], Summary]:
    """What a run has to do: items that are neither done nor failed for a reason that stays, and the summary it begins with.

    `output(item)` names the file below `out` that the item leaves. `retry` names reasons to try again beside the retryable
    ones; `all` names all.
    """
    present = listing(out)
    failures = read_failures(out, present)
    summary, todo = Summary(), []
    for item in dict.fromkeys(items):
        summary.total += 1
        if output(item) in present:
            summary.skipped += 1
            continue
        reason = failures[item]["reason"] if item in failures else None
        if reason is None or reason in RETRYABLE or reason in retry or "all" in retry:
            todo.append(item)
        else:
            summary.failed_before[reason] += 1
    return todo, summary


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
