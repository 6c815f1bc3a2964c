"""The command survives what happens to long runs; see `faults.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.render import faults
from tests.render.models import bracket, write_cache


@pytest.mark.slow
def test_a_run_disturbed_in_every_way_ends_as_an_undisturbed_one(tmp_path: Path, small_disk: Path) -> None:
    models = {f"{index:02x}bracket": bracket(1 + index / 10).data() for index in range(12)}
    cache, listed = write_cache(tmp_path / "cache", models), tmp_path / "list.txt"
    listed.write_text("".join(f"{uid}\n" for uid in models))
    words = faults.command(cache, listed, "--views", "4", "--resolution", "48", "--samples", "4", "--silence-s", "5")
    said: list[str] = []
    assert faults.compare(words, list(models), tmp_path, small_disk, said.append) == []
    assert [word.split(":")[0].split(" of")[0] for word in said] == [
        "undisturbed run",
        "kill -9",
        "disk filled",
        "Ctrl-C",
        "SIGSTOP",
    ]


def test_a_difference_is_found(tmp_path: Path) -> None:
    for run, content in (("a", b"1"), ("b", b"2")):
        for name, data in (("same", b"0"), ("other", content)):
            path = tmp_path / run / name[:2] / f"{name}.zip"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (tmp_path / "b" / "failures").mkdir()
    (tmp_path / "b" / "failures" / "x.json").write_text("{}")
    assert faults.differences(tmp_path / "a", tmp_path / "b") == ["other.zip", "x.json"]
