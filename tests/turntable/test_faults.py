"""What happens to workers from outside costs time, never items; what items do to workers is theirs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.turntable.servants import PATIENCE, Errand, failure, job
from turntable import resources
from turntable.jobs import Limits, Worker, WorkerError, WorkerLost
from turntable.outcomes import remaining
from turntable.runs import MOST_LOSSES, Run


def children() -> list[int]:
    return [process.pid for process in psutil.Process().children()]


def harass(signals: list[signal.Signals], hit: list[int]) -> None:
    """Sends each signal to a worker that got none yet; so slowly that an item that was hit is done before the next signal."""
    for number in signals:
        time.sleep(1.5)
        pid = next(pid for pid in children() if pid not in hit)
        hit.append(pid)
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(2)  # until it is found out


def test_workers_killed_and_stopped_from_outside_leave_an_undisturbed_end(
    servant: Callable[..., Worker], tmp_path: Path
) -> None:
    items = [f"{number}-slow" for number in range(40)]  # 8 seconds for two workers
    errand, hit = Errand(tmp_path, servant, silence_s=1), []  # type: ignore[var-annotated]
    # More often than one item may cost workers: they hit different items, and none is blamed.
    harasser = threading.Thread(target=harass, args=([signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL], hit))
    harasser.start()
    summary = errand(items)
    harasser.join()
    assert len(hit) == 3, "the run was over before it was disturbed"
    assert summary.all_done and not summary.failed
    assert {path.name for path in errand.out.iterdir()} == {f"{item}.txt" for item in items} | {
        "items.txt",
        "summary.json",
    }


def test_a_stopped_worker_s_item_is_tried_again(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant(silence_s=1)
    assert "pid" in worker.do(job(tmp_path, "stop once"))
    worker.close()


def test_a_worker_killed_between_two_items_blames_none(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant()
    for do in "abc":
        os.kill(worker.do(job(tmp_path, do))["pid"], signal.SIGKILL)
        time.sleep(0.2)
    # Had the death counted, this item's own would be its second.
    assert "pid" in worker.do(job(tmp_path, "once"))
    worker.close()


def test_one_huge_allocation_is_refused_at_once(servant: Callable[..., Worker], tmp_path: Path) -> None:
    # 40 GiB may be more than the machine has: asked for without the limit, it would be granted (and zeroed lazily) or kill.
    worker = servant(memory_gb=1)
    before = worker.do(job(tmp_path, "a"))["pid"]
    error = failure(worker, tmp_path, "huge")
    assert error.reason == "out-of-memory" and "got" not in worker.log_path.read_text()
    assert worker.do(job(tmp_path, "b"))["pid"] == before
    worker.close()


def test_a_file_beyond_the_limit_fails_its_item_alone(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant(file_gb=1 / 1024)
    error = failure(worker, tmp_path, "large")
    assert error.reason == "too-large" and "--file-gb" in str(error)
    assert "pid" in worker.do(job(tmp_path, "a"))
    worker.close()


def test_workers_share_what_the_machine_has() -> None:
    each = Limits().shared_by(4).memory_gb
    assert 0 < 4 * each < resources.memory_gb() <= psutil.virtual_memory().total / 2**30
    assert Limits(memory_gb=3).shared_by(4).memory_gb == 3


class FickleWorker:
    """A worker's place in a run, for what no process of ours does: losing its machine, waiting for a place, not coming back."""

    def __init__(self, name: str, script: list[str]) -> None:
        self.name, self.script, self.did = name, script, []  # type: ignore[var-annotated]
        self.closed = self.killed = False

    def start(self) -> bool:
        if self.script[:1] == ["wait"]:
            self.script.pop(0)
            time.sleep(0.05)
            return False
        if self.script[:1] == ["broken"]:
            raise WorkerError("does not come up")
        return True

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        if self.script[:1] == ["lost"]:
            self.script.pop(0)
            raise WorkerLost("its node is gone")
        self.did.append(job["item"])
        return {}

    def close(self) -> None:
        self.closed = True

    def kill(self) -> None:
        self.killed = True


def run(tmp_path: Path, workers: list[FickleWorker], more: Callable[[], list[FickleWorker]] = list) -> Any:
    todo, summary = remaining(tmp_path, [f"{number}" for number in range(20)], lambda item: f"{item}.txt")
    return Run(tmp_path, lambda item: {"item": item}, lambda item: f"{item}.txt", workers, more_workers=more)(
        todo, summary
    )


@pytest.mark.timeout(PATIENCE)
def test_an_item_of_a_lost_worker_goes_to_another(tmp_path: Path) -> None:
    workers = [FickleWorker("a", ["lost", "wait", "lost"]), FickleWorker("b", []), FickleWorker("c", ["wait"] * 1000)]
    summary = run(tmp_path, workers)
    assert summary.all_done and not summary.failed
    assert sorted(workers[0].did + workers[1].did + workers[2].did, key=int) == [str(number) for number in range(20)]
    assert all(worker.closed for worker in workers)


@pytest.mark.timeout(PATIENCE)
def test_a_worker_that_does_not_come_back_is_given_up_and_the_last_one_ends_the_run(tmp_path: Path) -> None:
    summary = run(tmp_path / "one", [FickleWorker("a", []), FickleWorker("b", ["broken"])])
    assert summary.all_done and summary.workers_given_up <= 1
    with pytest.raises(WorkerError, match="does not come up"):
        run(tmp_path / "none", [FickleWorker("a", ["broken"]), FickleWorker("b", ["broken"])])


@pytest.mark.timeout(PATIENCE)
def test_an_item_that_costs_every_worker_is_put_aside(tmp_path: Path) -> None:
    summary = run(tmp_path, [FickleWorker("a", ["lost"] * MOST_LOSSES)])
    assert summary.failed == {"worker-lost": 1} and summary.done == 19


@pytest.mark.timeout(PATIENCE)
def test_workers_may_join_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [FickleWorker("late", [])]
    summary = run(tmp_path, [FickleWorker("a", ["wait"] * 200)], lambda: [late.pop()] if late else [])
    assert summary.all_done and not late
