"""Preprocessing by several processes, here and on a cluster: every object arrives once, whatever dies on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from datasets.shards import ShardSet
from preprocess import captures, workforce
from preprocess.filling import Summary, fill
from tests.conftest import ROOT, SMALL_NODE
from tests.datasets import synthetic
from tests.preprocess.deadly import COMMAND, DeadlyConfig, DeadlyDiscs
from turntable.cluster import ClusterConfig
from turntable.errors import UserError
from turntable.files import location
from turntable.jobs import ItemError


def deadly(folder: Path, uids: list[str], **options: Any) -> DeadlyConfig:
    (folder / "marks").mkdir(exist_ok=True)
    return DeadlyConfig(out=folder / "out", sizes=(16,), uids=tuple(uids), marks=folder / "marks", **options)


def lay(config: DeadlyConfig) -> Summary:
    return fill(config, DeadlyDiscs(config), workforce.laying(COMMAND.module))


def test_processes_store_what_threads_store(tmp_path: Path) -> None:
    synthetic.write_captures(tmp_path / "captures", 5, views=2, resolution=32)
    options: dict[str, Any] = {"captures": tmp_path / "captures", "sizes": (32, 16)}
    here = captures.PreprocessConfig(out=tmp_path / "here", threads=1, **options)
    captures.preprocess(here)
    there = captures.PreprocessConfig(out=tmp_path / "there", processes=2, objects_per_job=3, **options)
    source = captures.COMMAND.source(there)
    summary = fill(there, source, workforce.laying(captures.COMMAND.module))
    assert (summary.done, summary.skipped, sorted(summary.shards)) == (5, 0, ["shard-000000.h5", "shard-000001.h5"])
    a, b = ShardSet(tmp_path / "here"), ShardSet(tmp_path / "there")
    assert a.uids == b.uids
    for index in range(5):
        assert a.record(index) == b.record(index)
        (reader, k), (other, m) = a.place(index), b.place(index)
        for name, size in reader.layout:
            assert bytes(reader.encoded(name, size, k, 1)) == bytes(other.encoded(name, size, m, 1))
    assert (tmp_path / "there/index.json").exists() and not list((tmp_path / "there").glob(".shard*"))

    # The same again does nothing; with new captures it does those, under new numbers.
    assert fill(there, source, workforce.laying(captures.COMMAND.module)).skipped == 5
    synthetic.write_captures(tmp_path / "captures", 2, views=2, resolution=32, seed=9)
    more = captures.COMMAND.source(there)
    again = fill(there, more, workforce.laying(captures.COMMAND.module))
    assert (again.done, again.skipped, again.shards) == (2, 5, ["shard-000002.h5"])


def test_the_object_that_kills_its_processes_is_put_aside_alone(tmp_path: Path) -> None:
    uids = [f"{k:02d}" for k in range(8)]
    uids[2], uids[5], uids[7] = "02segfault", "05refused", "07unusable"
    summary = lay(deadly(tmp_path, uids, processes=1, objects_per_job=8))
    assert dict(summary.failed) == {"crash": 1, "out-of-memory": 1, "blurred": 1} and summary.done == 5
    assert sorted(ShardSet(tmp_path / "out").uids) == [uid for uid in uids if uid.isdigit()]
    record = json.loads((tmp_path / "out/failures/02segfault.json").read_text())
    assert record["reason"] == "crash" and "SIGSEGV" in record["message"] and "ended two workers" in record["message"]


def test_a_process_that_dies_once_costs_nothing_but_time(tmp_path: Path) -> None:
    summary = lay(deadly(tmp_path, ["a", "b", "c-once", "d"], processes=1, objects_per_job=4))
    assert summary.done == 4 and not summary.failed and ShardSet(tmp_path / "out").uids == ["a", "b", "c-once", "d"]


def test_a_process_killed_in_the_middle_is_followed_by_another(tmp_path: Path) -> None:
    uids = [f"{k}-slow" for k in range(12)]
    config = deadly(tmp_path, uids, processes=2, objects_per_job=6, threads=1)
    killed: list[int] = []

    def kill_one() -> None:
        while not (marks := list((tmp_path / "marks").iterdir())):
            time.sleep(0.02)
        killed.append(int(marks[0].suffix[1:]))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    summary = lay(config)
    assert killed and summary.done == 12 and not summary.failed
    assert sorted(ShardSet(tmp_path / "out").uids) == sorted(uids)
    assert not list((tmp_path / "out").glob(".shard*"))


def test_a_job_given_again_does_only_what_its_number_lacks(tmp_path: Path) -> None:
    from preprocess.worker import do_job

    config = deadly(tmp_path, ["a", "b", "c"])
    (tmp_path / "out").mkdir()
    beats: list[str] = []
    source, upscaler = DeadlyDiscs(config), config.upscaler()
    first = do_job(config, source, upscaler, {"number": 4, "uids": ["a"]}, beats.append)
    again = do_job(config, source, upscaler, {"number": 4, "uids": ["a", "b", "c"]}, beats.append)
    assert (first["shards"], again["shards"]) == (["shard-000004.h5"], ["shard-000004-01.h5"])
    # Each is loaded once; threads load "b" and "c" at the same time, so in which order is chance.
    assert list(again["laid"]) == ["a", "b", "c"] and sorted(source.loaded) == ["a", "b", "c"]
    assert sorted(ShardSet(tmp_path / "out").uids) == ["a", "b", "c"]


def test_faults_that_no_object_causes_are_not_laid_to_one() -> None:
    asked: list[int] = []

    class Full:
        name = "full"

        def do(self, job: dict[str, Any]) -> dict[str, Any]:
            asked.append(len(job["uids"]))
            raise ItemError("disk-full", "no space left")

    told: list[Any] = []
    with pytest.raises(ItemError, match="no space"):
        workforce.Halving(Full(), told.append).do({"number": 0, "uids": ["a", "b"]})  # type: ignore[arg-type]
    assert asked == [2] and not told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": 1, "cluster": ClusterConfig(ray="local")}, "--ray hands its work to others"),
        ({"processes": -1}, "processes must be 0 or more"),
        ({"objects_per_job": 0}, "objects_per_job 1 or more"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        deadly(tmp_path, ["a"], **options)


def test_a_worker_that_cannot_start_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    synthetic.write_captures(tmp_path / "captures", 1, views=2, resolution=32)
    command = [sys.executable, "-m", "preprocess.captures", "--captures", "captures", "--out", "out"]
    command += ["--processes", "1", "--matte", "masks:no-such-folder"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode == 2 and "no-such-folder" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_node_dies_and_every_object_arrives(cluster: Any, tmp_path: Path) -> None:
    uids = [f"{k:02d}-waits" for k in range(16)]
    nodes = [cluster.add_node(**SMALL_NODE) for _ in range(2)]
    ray = ClusterConfig(ray=cluster.address, cpus_per_worker=1)
    config = deadly(tmp_path, uids, objects_per_job=2, threads=1, cluster=ray)
    ended: list[Summary] = []
    run = threading.Thread(target=lambda: ended.append(lay(config)))
    run.start()
    end = time.monotonic() + 120
    # Until both nodes have a job in hand.
    while len({mark.suffix for mark in (tmp_path / "marks").iterdir()}) < 2:
        assert run.is_alive() and time.monotonic() < end
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)
    (tmp_path / "marks/go").touch()
    run.join(timeout=200)
    assert ended and ended[0].done == 16 and not ended[0].failed and not ended[0].left
    assert sorted(ShardSet(tmp_path / "out").uids) == uids


def test_shards_go_to_urls(tmp_path: Path) -> None:
    """A URL whose files happen to be here; whoever writes there sees nothing of that."""
    (tmp_path / "marks").mkdir()
    out = location(f"file://{tmp_path}/far/shards")
    made = {"sizes": (16,), "marks": tmp_path / "marks", "processes": 1, "objects_per_job": 2}
    first = DeadlyConfig(out=out, uids=("a", "b", "c", "unusable"), **made)
    assert lay(first).done == 3 and (tmp_path / "far/shards/failures/unusable.json").exists()
    second = lay(DeadlyConfig(out=out, uids=("a", "b", "c", "d"), **made))
    assert (second.done, second.skipped) == (1, 3)
    assert sorted(ShardSet(tmp_path / "far/shards").uids) == ["a", "b", "c", "d"]
    shards = [path.name for path in (tmp_path / "far/shards").glob("*.h5")]
    assert sorted(shards) == ["shard-000000.h5", "shard-000001.h5", "shard-000002.h5"]
    assert (tmp_path / "far/shards/index.json").exists() and not list((tmp_path / "far/shards").rglob("*.tmp"))
    with pytest.raises(UserError, match="--processes 1"):
        fill(dataclasses.replace(first, processes=0), DeadlyDiscs(first))
