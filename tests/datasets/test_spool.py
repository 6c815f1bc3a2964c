"""Files that are deleted after use, also those of a run that was killed; and downloads that go on while workers work."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from datasets.catalogue import CatalogueError
from datasets.objaverse import Objaverse
from datasets.spool import Spool
from tests.conftest import ROOT
from tests.datasets.mirror import Mirror, breaks_after, serve
from tests.datasets.test_objaverse import GLB, UID, make_mirror, write_table
from turntable.download import Policy
from turntable.jobs import ItemError, Limits, Worker
from turntable.outcomes import remaining
from turntable.runs import Run

QUICK = Policy(tries=2, backoff_s=0.01, longest_wait_s=0.05, timeout_s=5)


def test_nothing_is_made_before_it_is_needed_nor_left_after(tmp_path: Path) -> None:
    folder = tmp_path / "out/downloads"
    Spool(folder).close()
    assert not folder.parent.exists()
    spool = Spool(folder)
    for name in ("a.glb", "b.glb", "b.glb.part"):
        spool.place(name).write_bytes(b"x")
    spool.drop("b.glb")
    spool.drop("never.glb")
    assert [path.name for path in folder.rglob("*.glb*")] == ["a.glb"]
    spool.close()
    assert not folder.exists() and folder.parent.exists()


def test_two_runs_do_not_touch_each_others_files(tmp_path: Path) -> None:
    one, two = Spool(tmp_path / "d"), Spool(tmp_path / "d")
    first, second = one.place("a.glb"), two.place("a.glb")
    assert first != second
    for path in (first, second):
        path.touch()
    Spool(tmp_path / "d").close()
    assert first.exists() and second.exists()
    one.close()
    assert not first.exists() and second.exists()
    two.close()
    assert not (tmp_path / "d").exists()


HOLDER = """
import sys, time
from pathlib import Path
from datasets.spool import Spool
spool = Spool(Path(sys.argv[1]))
spool.place("a.glb").write_bytes(bytes(1000))
print("ready", flush=True)
time.sleep(100)
"""


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        Spool(folder)
        during = len(list(folder.rglob("a.glb")))
        os.kill(process.pid, signal.SIGKILL)
    assert during == 1  # it lived: its files were its own
    assert len(list(folder.rglob("a.glb"))) == 1
    Spool(folder)
    assert not folder.exists()


def test_what_others_keep_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    spool = Spool(tmp_path)
    spool.place("a.glb").touch()
    spool.close()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror(make_mirror(tmp_path / "mirror"))
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def test_a_catalogue_that_keeps_nothing(mirror: Mirror, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "downloads")
    for place in (mirror.url, str(tmp_path / "mirror")):
        catalogue = Objaverse(tmp_path / "cache", place, QUICK, spool)
        path = catalogue.fetch(UID)
        assert path.read_bytes() == GLB and not path.is_relative_to(tmp_path / "cache")
        catalogue.release(UID)
        catalogue.release(UID)
        catalogue.release("nobody")
        assert not path.exists() and not list((tmp_path / "cache").rglob("*.glb"))
    assert len(list((tmp_path / "mirror").rglob("*.glb"))) == 1  # a local mirror's own file is nobody's to delete


def test_what_was_in_the_cache_is_never_deleted(mirror: Mirror, tmp_path: Path) -> None:
    path = Objaverse(tmp_path / "cache", mirror.url, QUICK).fetch(UID)
    catalogue = Objaverse(tmp_path / "cache", mirror.url, QUICK, Spool(tmp_path / "downloads"))
    assert catalogue.fetch(UID) == path
    catalogue.release(UID)
    assert path.read_bytes() == GLB


def test_a_download_that_fails_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script[f"/glbs/000-007/{UID}.glb"] = [breaks_after(1000), breaks_after(0), breaks_after(0)]
    catalogue = Objaverse(tmp_path / "cache", mirror.url, QUICK, Spool(tmp_path / "downloads"))
    with pytest.raises(CatalogueError):
        catalogue.fetch(UID)
    catalogue.release(UID)
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file() and path.name != ".lock"]


SERVANT = """
import time
from pathlib import Path
from turntable.jobs import ItemError, serve

def handle(job, beat):
    time.sleep(job["seconds"])
    content = Path(job["asset"]).read_bytes()
    if job["fails"]: raise ItemError("empty", "as told")
    Path(job["out"]).write_bytes(content[:4])
    return {}

serve(handle, lambda: {})
"""
COUNT, WAIT_S, WORK_S = 12, 0.3, 0.3


class Shop:
    """A slow mirror of twelve objects and two trivial workers, with a watch on how many downloaded files there are at once."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.most, self.asked_at_once = tmp_path, 0, 0
        self.uids = [f"{i:032x}" for i in range(COUNT)]
        folder, under_way, lock = tmp_path / "mirror", [0], threading.Lock()
        write_table(folder / "object-paths.json.gz", {uid: f"glbs/000-000/{uid}.glb" for uid in self.uids})
        (folder / "glbs/000-000").mkdir(parents=True)

        def slowly(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
            with lock:
                under_way[0] += 1
                self.asked_at_once = max(self.asked_at_once, under_way[0])
            time.sleep(WAIT_S)
            with lock:
                under_way[0] -= 1
            serve(handler, content, start)

        self.mirror = Mirror(folder)
        for uid in self.uids:
            (folder / f"glbs/000-000/{uid}.glb").write_bytes(b"glTF" + uid.encode())
            self.mirror.script[f"/glbs/000-000/{uid}.glb"] = [slowly]
        (tmp_path / "servant.py").write_text(SERVANT)
        self.spool = Spool(tmp_path / "downloads")
        self.catalogue = Objaverse(tmp_path / "cache", self.mirror.url, QUICK, self.spool)
        self.out = tmp_path / "out"

    def prepare(self, uid: str) -> dict[str, Any]:
        try:
            path = self.catalogue.fetch(uid)
        except CatalogueError as error:
            raise ItemError(error.reason, str(error)) from error
        self.most = max(self.most, len(list(self.spool.folder.rglob("*.glb"))))
        return {"asset": str(path), "out": str(self.output(uid)), "seconds": WORK_S, "fails": uid == self.uids[3]}

    def output(self, uid: str) -> Path:
        return self.out / f"{uid}.txt"

    def run(self, ahead: int) -> float:
        """Does all -> seconds."""
        self.out.mkdir(exist_ok=True)
        command = [sys.executable, str(self.tmp_path / "servant.py")]
        workers = [Worker(command, self.out / f"worker-{i}.log", Limits()) for i in range(2)]
        for worker in workers:
            worker.start()  # not what is measured
        todo, summary = remaining(self.out, self.uids, self.output)
        started = time.monotonic()
        summary = Run(self.out, self.prepare, self.output, workers, ahead, self.catalogue.release)(todo, summary)
        assert summary.done == COUNT - 1 and summary.failed == {"empty": 1}
        return time.monotonic() - started


@pytest.mark.parametrize("ahead", [1, 3])
def test_downloads_overlap_with_work_and_their_number_is_bounded(tmp_path: Path, ahead: int) -> None:
    shop = Shop(tmp_path)
    try:
        seconds = shop.run(ahead)
    finally:
        shop.mirror.server.shutdown()
        shop.mirror.server.server_close()
    logging.getLogger(__name__).info("%d ahead: %.2f s", ahead, seconds)
    # Never more than those ahead, and one with each of two workers.
    assert shop.asked_at_once == ahead and shop.most <= ahead + 2
    assert not list(shop.spool.folder.rglob("*.glb"))
    if ahead == 3:
        # One after another it would take all waits and the work of two workers: 12 × 0.3 s + 6 × 0.3 s. Three at once and
        # beside the work take 2.1 s; between the two lies what a loaded machine costs.
        assert seconds < COUNT * WAIT_S + COUNT / 2 * WORK_S
    else:
        # One at a time cannot be quicker than twelve waits: the bound is a real one.
        assert seconds > COUNT * WAIT_S
