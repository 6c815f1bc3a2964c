"""Workers and runs, with real processes: what they return, survive, and leave behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.turntable.servants import PATIENCE, SERVANT, Errand, failure, gone, job
from turntable.errors import DiskFullError
from turntable.files import temporary_path, write_bytes
from turntable.jobs import Worker, WorkerError
from turntable.outcomes import doubts_path, failure_path
from turntable.status import read_status


def test_one_process_does_one_job_after_another(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant()
    first, second = worker.do(job(tmp_path, "a")), worker.do(job(tmp_path, "b"))
    assert first["pid"] == second["pid"] != os.getpid()
    assert worker.resident_gb() > 0
    worker.close()
    assert gone(first["pid"]) and worker.resident_gb() == 0
    assert "doing a" in worker.log_path.read_text()


@pytest.mark.parametrize(("do", "reason"), [("empty", "empty"), ("bug", "crash"), ("memory", "out-of-memory")])
def test_what_a_handler_raises_fails_the_item_and_not_the_worker(
    servant: Callable[..., Worker], tmp_path: Path, do: str, reason: str
) -> None:
    worker = servant()
    before = worker.do(job(tmp_path, "a"))["pid"]
    error = failure(worker, tmp_path, do)
    assert error.reason == reason
    if do == "bug":
        assert "no such key" in str(error) and "Traceback" in error.log_tail
    assert worker.do(job(tmp_path, "b"))["pid"] == before
    worker.close()


def test_a_process_that_dies_leaves_no_temporary_files(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant()
    failure(worker, tmp_path, "litter")
    litter = Path(next(tmp_path.glob("*.litter")).read_text())
    assert "turntable-worker-" in str(litter) and not litter.exists() and not litter.parent.exists()
    worker.close()


@pytest.mark.parametrize(
    ("do", "reason", "words"),
    [("abort", "crash", "SIGABRT"), ("exit", "crash", "code 7"), ("killed", "killed", "killed by somebody")],
)
def test_an_item_that_ends_two_workers_is_put_aside(
    servant: Callable[..., Worker], tmp_path: Path, do: str, reason: str, words: str
) -> None:
    worker = servant()
    error = failure(worker, tmp_path, do)
    assert error.reason == reason and words in str(error) and "two workers" in str(error)
    assert f"doing {do}" in error.log_tail
    assert worker.log_path.read_text().count(f"doing {do}") == 2
    assert "pid" in worker.do(job(tmp_path, "a"))
    worker.close()


def test_a_worker_that_dies_once_costs_nothing_but_time(servant: Callable[..., Worker], tmp_path: Path) -> None:
    worker = servant()
    assert "pid" in worker.do(job(tmp_path, "once"))
    worker.close()


def test_time_runs_out_for_the_slow_and_for_the_silent(servant: Callable[..., Worker], tmp_path: Path) -> None:
    assert "not finished after 1 s (last at sleep)" in str(failure(servant(timeout_s=1), tmp_path, "sleep"))
    silent = failure(servant(silence_s=1), tmp_path, "sleep")
    assert silent.reason == "timeout" and "no sign of life" in str(silent)
    worker = servant(silence_s=1.5)  # two seconds of work, but never long without a beat
    assert "pid" in worker.do(job(tmp_path, "beat"))
    worker.close()


def test_what_a_worker_started_ends_with_it(servant: Callable[..., Worker], tmp_path: Path) -> None:
    before = {p.pid for p in psutil.process_iter()}
    failure(servant(timeout_s=1), tmp_path, "child")
    sleeps = [
        p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and p.info["cmdline"] == ["sleep", "1000"]
    ]
    assert all(gone(p.pid) for p in sleeps)


def test_memory_limit_ends_a_job_and_recycling_a_process(servant: Callable[..., Worker], tmp_path: Path) -> None:
    error = failure(servant(memory_gb=0.2), tmp_path, "grow")
    assert error.reason == "out-of-memory" and "0.2 GiB" in str(error)
    for limits in ({"recycle_items": 1}, {"recycle_gb": 0.001}):
        worker = servant(**limits)
        assert worker.do(job(tmp_path, "a"))["pid"] != worker.do(job(tmp_path, "b"))["pid"]
        worker.close()


def test_a_worker_that_does_not_start_says_why(servant: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerError, match="no graphics here"):
        servant("broken").start()
    with pytest.raises(WorkerError, match="exited with code 3") as caught:
        servant("dead").start()
    assert "cannot load library" in str(caught.value)


def test_a_run_does_what_it_can_and_names_the_rest(servant: Callable[..., Worker], tmp_path: Path) -> None:
    items = ["0-a", "1-empty", "2-abort", "3-lost", "4-b", "5-liar", "6-sleep", "7-c"]
    summary = Errand(tmp_path, servant, timeout_s=6)(items)
    assert summary.done == 3 and not summary.all_done
    assert summary.failed == {"empty": 1, "crash": 2, "download": 1, "timeout": 1}
    out = tmp_path / "out"
    assert json.loads(failure_path(out, "1-empty").read_text()) == {
        "uid": "1-empty",
        "reason": "empty",
        "message": "nothing in it",
    }
    assert "doing abort" in json.loads(failure_path(out, "2-abort").read_text())["log"]
    written = json.loads((out / "summary.json").read_text())
    assert written["done"] == 3 and written["items_per_hour"] > 0 and written["left"] == 0
    status = read_status(out)
    assert (status.done, status.failed.total(), status.missing) == (3, 5, 0)


def test_a_doubt_lasts_as_long_as_the_item_that_it_is_about(servant: Callable[..., Worker], tmp_path: Path) -> None:
    errand = Errand(tmp_path, servant, workers=1)
    assert errand(["0-doubt"]).doubtful == 1 and doubts_path(errand.out, "0-doubt").exists()
    errand.output("0-doubt").unlink()
    errand.output("0-doubt").with_name("0-doubt.txt.sure").touch()
    assert Errand(tmp_path, servant, workers=1)(["0-doubt"]).doubtful == 0
    assert not doubts_path(errand.out, "0-doubt").exists()


def test_a_second_run_does_what_is_missing_or_retryable(servant: Callable[..., Worker], tmp_path: Path) -> None:
    items = ["0-a", "1-empty", "2-lost"]
    Errand(tmp_path, servant)(items)
    (tmp_path / "out" / "0-a.txt").unlink()
    again = Errand(tmp_path, servant)(items)
    assert again.done == 1 and again.failed == {"download": 1} and again.failed_before == {"empty": 1}
    assert "--retry empty" in again.text(tmp_path)
    named = Errand(tmp_path, servant)(items, retry=("empty",))
    assert named.skipped == 1 and named.failed == {"download": 1, "empty": 1}


def test_success_clears_the_failure(servant: Callable[..., Worker], tmp_path: Path) -> None:
    errand = Errand(tmp_path, servant)
    errand(["0-lost"])
    errand.prepare = lambda item: {"do": "a", "out": str(errand.output(item))}  # type: ignore[method-assign]
    assert errand(["0-lost"]).all_done
    assert not failure_path(errand.out, "0-lost").exists()


def test_nothing_to_do_starts_no_worker(servant: Callable[..., Worker], tmp_path: Path) -> None:
    Errand(tmp_path, servant)(["0-a"])
    (tmp_path / "worker.log").unlink()
    assert Errand(tmp_path, servant)(["0-a"]).skipped == 1
    assert not (tmp_path / "worker.log").exists()


def test_workers_that_do_not_start_stop_the_run(servant: Callable[..., Worker], tmp_path: Path) -> None:
    errand = Errand(tmp_path, servant)
    errand.workers = [servant("broken"), servant("broken")]
    with pytest.raises(WorkerError, match="no graphics"):
        errand(["0-a", "1-b", "2-c"])
    assert not (errand.out / "failures").exists()


RUNNER = """
import sys
from pathlib import Path
from turntable import config
from turntable.jobs import Limits, Worker
from turntable.outcomes import remaining
from turntable.runs import Run
out, script, items = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
output = lambda item: f"{item}.txt"
prepare = lambda item: {"do": item.partition("-")[2], "out": str(out / output(item))}
def main():
    workers = [Worker([sys.executable, script], out / f"worker-{i}.log", Limits()) for i in range(2)]
    todo, summary = remaining(out, items, output)
    return 0 if Run(out, prepare, output, workers)(todo, summary).all_done else 1
config.run(main)
"""


def start_runner(tmp_path: Path, items: list[str], **options: Any) -> subprocess.Popen[str]:
    (tmp_path / "servant.py").write_text(SERVANT)
    (tmp_path / "runner.py").write_text(RUNNER)
    command = [sys.executable, tmp_path / "runner.py", tmp_path / "out", tmp_path / "servant.py", *items]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def workers_of(process: subprocess.Popen[str], count: int) -> list[int]:
    """Process ids of the run's workers, once there are `count`."""
    for _ in range(20 * PATIENCE):
        children = psutil.Process(process.pid).children()
        if len(children) == count:
            return [child.pid for child in children]
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interruption_kills_workers_and_leaves_nothing_half_written(tmp_path: Path, how: signal.Signals) -> None:
    process = start_runner(tmp_path, ["0-a", "1-half", "2-half", "3-b"])
    half = [temporary_path(tmp_path / "out" / f"{item}.txt") for item in ("1-half", "2-half")]
    children = workers_of(process, 2)
    for _ in range(20 * PATIENCE):
        if all(path.exists() for path in half):
            break
        time.sleep(0.05)
    assert all(path.exists() for path in half), "the workers did not reach their items"
    process.send_signal(how)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, error
    assert "same command continues" in error and "2 not reached" not in error and "3 not reached" in error
    assert all(gone(child) for child in children)
    assert not any(path.exists() for path in half)
    assert (tmp_path / "out" / "0-a.txt").exists() and not (tmp_path / "out" / "failures").exists()


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process = start_runner(tmp_path, ["0-sleep", "1-sleep"])
    children = workers_of(process, 2)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert all(gone(child) for child in children)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    # Files may not grow beyond 100 bytes: what a full disk is to a process that writes.
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))}
    (tmp_path / "out").mkdir()
    process = start_runner(tmp_path, ["0-a", "1-" + "long" * 40, "2-b"], **limited)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 3, error
    assert "DiskFullError" in error and "run the same command again" in error


def test_disk_full_is_an_error_of_its_own(small_disk: Path) -> None:
    with pytest.raises(DiskFullError):
        write_bytes(small_disk / "large", bytes(64 << 20))
    assert list(small_disk.iterdir()) == []
