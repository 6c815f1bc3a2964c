"""Filters over Objaverse's metadata, their account, and what choosing among many costs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets.objaverse import Objaverse
from datasets.selection import Facts, Filters, facts_of
from tests.conftest import ROOT
from tests.datasets.test_objaverse import write_table
from turntable.errors import UserError

RECORDS: dict[str, dict[str, Any]] = {
    "plain": {"license": "by", "faceCount": 500, "animationCount": 0, "tags": [{"name": "Chair", "slug": "chair"}]},
    "glb": {"license": "by", "faceCount": 9, "archives": {"glb": {"faceCount": 5000, "textureCount": 3}}, "tags": []},
    "moving": {
        "license": "cc0",
        "faceCount": 1000,
        "animationCount": 2,
        "tags": [{"name": "Old Wood", "slug": "old-wood"}],
    },
    "bare": {"license": "cc0", "archives": {"glb": {"textureCount": 0}}, "animationCount": 0},
    "silent": {},
    "odd": {"license": "by", "faceCount": "many", "tags": {"name": "chair"}, "archives": [1], "animationCount": True},
}


@pytest.fixture
def catalogue(tmp_path: Path) -> Objaverse:
    """The records above, in two files."""
    folders = {uid: f"000-00{index % 2}" for index, uid in enumerate(RECORDS)}
    write_table(tmp_path / "object-paths.json.gz", {uid: f"glbs/{folder}/{uid}.glb" for uid, folder in folders.items()})
    write_table(tmp_path / "lvis-annotations.json.gz", {"chair": ["plain", "glb", "silent", "gone"], "bed": ["bare"]})
    for folder in set(folders.values()):
        table = {uid: record for uid, record in RECORDS.items() if folders[uid] == folder}
        write_table(tmp_path / f"metadata/{folder}.json.gz", table)
    return Objaverse(tmp_path, str(tmp_path / "no-mirror"))


@pytest.mark.parametrize(
    ("options", "left", "account"),
    [
        ({}, set(RECORDS), ""),
        ({"classes": ("chair",)}, {"plain", "glb", "silent"}, ""),
        ({"licences": ("by",)}, {"plain", "glb", "odd"}, "--licences by left out 3"),
        ({"licences": ("cc0", "unknown")}, {"moving", "bare", "silent"}, "--licences cc0 unknown left out 3"),
        # The .glb's own count goes before the upload's.
        (
            {"min_faces": 1000},
            {"glb", "moving"},
            "--min-faces 1000 left out 4, 3 of them because their record does not say",
        ),
        ({"max_faces": 1000}, {"plain", "moving"}, "--max-faces 1000 left out 4, 3 of them"),
        ({"min_faces": 600, "max_faces": 1000}, {"moving"}, "--min-faces 600 left out 4, 3"),
        ({"tags": ("chair", "lamp")}, {"plain"}, "--tags chair lamp left out 5, 3 of them"),
        ({"tags": ("OLD WOOD",)}, {"moving"}, ""),
        ({"tags": ("old-wood",)}, {"moving"}, ""),
        ({"textured": "yes"}, {"glb"}, "--textured yes left out 5, 4 of them"),
        ({"textured": "no"}, {"bare"}, ""),
        ({"animated": "no"}, {"plain", "bare"}, "--animated no left out 4, 3 of them"),
        ({"animated": "yes"}, {"moving"}, ""),
        ({"classes": ("chair",), "licences": ("by",), "max_faces": 600}, {"plain"}, "--max-faces 600 left out 1"),
    ],
)
def test_each_filter_and_its_account(
    catalogue: Objaverse, caplog: pytest.LogCaptureFixture, options: dict[str, Any], left: set[str], account: str
) -> None:
    with caplog.at_level(logging.INFO):
        chosen = catalogue.select(None, Filters(**options))
    assert set(chosen) == left and chosen == sorted(chosen)
    assert account in caplog.text
    assert not options or f"{len(left)} of " in caplog.text
    # The order of a list stays, and the records are those that are read without any filter.
    listed = list(RECORDS)[::-1]
    assert catalogue.select(listed, Filters(**options)) == [uid for uid in listed if uid in left]
    again = Objaverse(catalogue.cache)
    assert [catalogue.asset(uid) for uid in chosen] == [again.asset(uid) for uid in chosen]


def test_nothing_left_says_which_filter_took_how_many(catalogue: Objaverse) -> None:
    with pytest.raises(UserError) as caught:
        catalogue.select(None, Filters(classes=("chair",), licences=("by",), textured="no"))
    message = str(caught.value)
    assert "0 of 3 assets" in message and "widen" in message
    for part in ("--licences by left out 1;", "--textured no left out 2, 1 of them", "by (2), unknown (1)"):
        assert part in message


def test_uids_that_nobody_knows_stay_to_be_reported(catalogue: Objaverse) -> None:
    assert catalogue.select(["nobody", "plain", "glb"], Filters(max_faces=600)) == ["nobody", "plain"]


@pytest.mark.parametrize("options", [{"min_faces": -1}, {"max_faces": -1}, {"min_faces": 10, "max_faces": 9}])
def test_filters_that_nothing_passes(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no object has as many"):
        Filters(**options)


def test_facts_of_a_record_that_states_nothing() -> None:
    assert facts_of({}, "by") == Facts("by", None, None, None, None)


def test_names_in_the_tables_become_no_paths(tmp_path: Path) -> None:
    write_table(tmp_path / "object-paths.json.gz", {"../../x": "glbs/000-000/x.glb"})
    with pytest.raises(UserError, match=r"'\.\./\.\./x' is no uid"):
        Objaverse(tmp_path).select(None)


MEASURE = """
import resource, sys
from pathlib import Path
from datasets.objaverse import Objaverse
from datasets.selection import Filters
catalogue = Objaverse(Path(sys.argv[1]))
catalogue.select(["0"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(catalogue.select(None, Filters(max_faces=int(sys.argv[2])))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_choosing_holds_one_file_of_records_in_memory(tmp_path: Path) -> None:
    """Twelve files of records of 6 kB each, as Sketchfab's are; all together they would take more than twice what is allowed."""
    padding = {"thumbnails": {"images": [{"url": f"https://example.org/{i:060}", "size": i} for i in range(40)]}}
    per_file, files = 400, 12
    names = [str(i) for i in range(per_file * files)]
    write_table(tmp_path / "object-paths.json.gz", {n: f"glbs/{int(n) % files:03}/{n}.glb" for n in names})
    write_table(tmp_path / "lvis-annotations.json.gz", {})
    for index in range(files):
        table = {n: {"license": "by", "faceCount": int(n), **padding} for n in names[index::files]}
        write_table(tmp_path / f"metadata/{index:03}.json.gz", table)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(len(names) // 2)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    chosen, grown_kb = map(int, result.stdout.split())
    assert chosen == len(names) // 2 + 1
    # A parsed record takes about 16 kB: one file 7 MB beside its text and the next one's, all files 77 MB.
    assert grown_kb < 35_000
