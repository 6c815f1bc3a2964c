"""Runs whose folder is a URL: the same files, whole or absent, and the same resumption; and `turntable.status` on both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.conftest import ROOT
from tests.turntable.servants import Errand
from turntable import files
from turntable.errors import UserError
from turntable.files import UploadError, listing, location, read_json
from turntable.jobs import Worker
from turntable.runs import MOST_UPLOADS_LOST
from turntable.status import read_status, take_out


@pytest.fixture(params=["path", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty folder, by its path, its URL, or in memory."""
    text = {"path": f"{tmp_path}/place", "file": f"file://{tmp_path}/place", "memory": "memory://place"}[request.param]
    yield location(text)
    fsspec.filesystem("memory").store.clear()


def errand_into(place: Path, servant: Callable[..., Worker], tmp_path: Path) -> Errand:
    errand = Errand(tmp_path, servant)
    errand.out = place
    return errand


def test_a_run_s_folder_may_be_anywhere(place: Path, servant: Callable[..., Worker], tmp_path: Path) -> None:
    items = ["0-a", "1-empty", "2-b", "3-lost", "4-once"]
    summary = errand_into(place, servant, tmp_path)(items)
    assert (summary.done, summary.failed) == (3, {"empty": 1, "download": 1})
    left = {"0-a.txt", "2-b.txt", "4-once.txt", "items.txt", "summary.json"}
    assert listing(place) - {"4-once.tried"} == left | {"failures/1-empty.json", "failures/3-lost.json"}
    assert (place / "0-a.txt").read_text() == "a" and read_json(place / "summary.json")["done"] == 3
    assert (place / "items.txt").read_text().splitlines() == [f"{item}.txt" for item in items]

    again = errand_into(place, servant, tmp_path)
    again.prepare = lambda item: {"do": "a", "out": str(again.output(item))}  # type: ignore[method-assign]
    summary = again(items)
    assert (summary.skipped, summary.done, summary.failed_before) == (3, 1, {"empty": 1})
    assert "failures/3-lost.json" not in listing(place)


def test_status_tells_and_takes_out(place: Path, servant: Callable[..., Worker], tmp_path: Path) -> None:
    errand_into(place, servant, tmp_path)(["0-a", "1-empty", "2-empty", "3-bug"])
    (place / "0-a.txt").unlink()
    status = read_status(place)
    assert (status.done, status.failed, status.unreached) == (0, {"empty": 2, "crash": 1}, ("0-a",))
    assert "empty: 2, such as 1-empty: nothing in it" in status.text() and "no such key" in status.text()
    with pytest.raises(UserError, match="the reasons are: crash, empty"):
        take_out(place, status, ("timeout",))
    assert take_out(place, status, ("empty",)) == 2
    assert read_status(place).record() == {
        "done": 0,
        "failed": {"crash": ["3-bug"]},
        "missing": ["0-a", "1-empty", "2-empty"],
    }
    assert take_out(place, status, ("all",)) == 3 and read_status(place).missing == 4


def test_the_status_command_says_what_to_run(servant: Callable[..., Worker], tmp_path: Path) -> None:
    place = location(f"file://{tmp_path}/place")
    errand_into(place, servant, tmp_path)(["0-a", "1-empty", "2-bug"])
    files.write_json(place / "config.json", {"command": "-m render.objaverse --out place", "config": {}})

    def status(*options: str) -> str:
        command = [sys.executable, "-m", "turntable.status", str(place), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert json.loads(status("--json"))["failed"] == {"crash": ["2-bug"], "empty": ["1-empty"]}
    said = status("--retry", "empty", "--retry", "crash")
    assert said == "2 failures taken out; try those items again: python -m render.objaverse --out place\n"
    assert status() == "1 done, 0 failed, 2 missing\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UPLOAD_WAITS", (0.01, 0.01))


@pytest.mark.parametrize("system", [LocalFileSystem, MemoryFileSystem])
def test_an_upload_that_breaks_off_shows_nothing(
    system: Any, impatient: None, servant: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = location(f"file://{tmp_path}/place" if system is LocalFileSystem else "memory://broken")
    put = system.put_file

    def put_half(self: Any, source: str, target: str, **options: Any) -> None:
        if "1-b.txt" not in target:
            return put(self, source, target, **options)
        with self.open(target, "wb") as stream:
            stream.write(Path(source).read_bytes()[:1])
            raise ConnectionError("the line went dead")

    monkeypatch.setattr(system, "put_file", put_half)
    summary = errand_into(place, servant, tmp_path)(["0-a", "1-b", "2-c"])
    assert (summary.done, summary.failed) == (2, {"upload": 1})
    assert not [name for name in listing(place) if "1-b" in name and not name.startswith("failures/")]
    assert "the line went dead" in read_json(place / "failures" / "1-b.json")["message"]
    monkeypatch.setattr(system, "put_file", put)
    assert errand_into(place, servant, tmp_path)(["0-a", "1-b", "2-c"]).done == 1  # unasked


def test_a_short_break_costs_no_item(impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ConnectionError("once"), OSError("twice")]
    put = LocalFileSystem.put_file

    def stumble(self: Any, source: str, target: str, **options: Any) -> None:
        if failures:
            raise failures.pop()
        put(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", stumble)
    files.write_text(location(f"file://{tmp_path}/text"), "whole")
    assert (tmp_path / "text").read_text() == "whole" and not failures


def test_a_run_that_can_bring_nothing_home_stops(
    impatient: None, servant: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = location(f"file://{tmp_path}/place")
    put = LocalFileSystem.put_file

    def refuse(self: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith(".txt.tmp") and "items" not in target:
            raise ConnectionError("no route")
        put(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", refuse)
    with pytest.raises(UserError, match="could not be uploaded"):
        errand_into(place, servant, tmp_path)([f"{number}-a" for number in range(MOST_UPLOADS_LOST + 10)])


def test_places_that_cannot_be_opened(impatient: None) -> None:
    with pytest.raises(UserError, match="nonsense"):
        location("nonsense://bucket/x")
    assert location("C/plain:name") == Path("C/plain:name")
    with pytest.raises(UploadError, match="cannot be written"):
        files.write_text(location("file:///proc/nowhere/x"), "")
