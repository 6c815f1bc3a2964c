"""Commands over other catalogues than a cache, as a user runs them: a folder of one's own, Objaverse-XL."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
from pyarrow import parquet

from datasets.captures import CaptureReader, capture_paths
from tests.conftest import ROOT
from tests.render.models import bracket, write_cache

QUICK = ["--views", "2", "--resolution", "32", "--samples", "1"]


def render(command: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"render.{command}", *map(str, options), *QUICK]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def reasons(out: Path) -> dict[str, str]:
    records = [json.loads(path.read_text()) for path in (out / "failures").iterdir()]
    return {record["uid"].rpartition("-")[0] or record["uid"]: record["reason"] for record in records}


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder, out = tmp_path / "assets", tmp_path / "out"
    bracket().write(folder / "sub/Großer Stuhl.glb")
    bracket(2).write(folder / "plain.GLB")
    (folder / "page.glb").write_text("<!DOCTYPE html>")
    (folder / "notes.txt").write_text("not an asset")
    (folder / "out.glb").symlink_to("/etc/hostname")
    (tmp_path / "meta.csv").write_text("path,class,licence,creator\nsub/Großer Stuhl.glb,chair,by-sa,Ada\n")
    options = ("folder", "--assets", folder, "--out", out)
    first = render(*options, "--metadata", tmp_path / "meta.csv")
    assert first.returncode == 1 and "2 done" in first.stdout and "Traceback" not in first.stderr, first.stderr
    assert reasons(out) == {"page-glb": "bad-asset", "out-glb": "outside"}
    records = {}
    for path in capture_paths(out):
        with CaptureReader(path) as reader:
            records[reader.record["path"]] = reader.record
    stated = records["sub/Großer Stuhl.glb"]
    assert (stated["lvis_class"], stated["licence"], stated["creator"]) == ("chair", "by-sa", "Ada")
    assert (stated["source"], records["plain.GLB"]["licence"]) == ("folder", "unknown")
    # Once more: everything is remembered by its name alone, and what is mended is done.
    bracket().write(folder / "page.glb")
    again = render(*options, "--retry", "bad-asset")
    assert "1 done, 2 done before" in again.stdout and reasons(out) == {"out-glb": "outside"}
    # What nobody can render.
    empty = render("folder", "--assets", folder, "--out", tmp_path / "none", "--include", "*.stl")
    assert empty.returncode == 2 and ".glb" in empty.stderr and not (tmp_path / "none").exists()


def test_objaverse_xl_that_keeps_nothing(tmp_path: Path) -> None:
    commit, good, rows = "a" * 40, bracket().data(), []
    place = tmp_path / f"hosts/raw.githubusercontent.com/ada/models/{commit}"
    place.mkdir(parents=True)
    contents = {"good.glb": good, "changed.glb": bracket(2).data(), "gone.glb": bracket(3).data()}
    for name, content in contents.items():
        identifier = f"https://github.com/ada/models/blob/{commit}/{name}"
        plain = {"source": "github", "license": "MIT License", "fileType": "glb"}
        rows.append({"fileIdentifier": identifier, "sha256": hashlib.sha256(content).hexdigest(), **plain})
        if name != "gone.glb":
            (place / name).write_bytes(good)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    out = tmp_path / "out"
    places = ["--annotations", tmp_path / "a.parquet", "--mirror", tmp_path / "hosts", "--cache", tmp_path / "cache"]
    run = render("objaverse_xl", *places, "--out", out, "--keep-assets", "no")
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    uids = [row["sha256"] for row in rows]
    assert [path.stem for path in capture_paths(out)] == uids[:1]
    assert reasons(out) == {uids[1]: "hash-mismatch", uids[2]: "not-found"}
    with CaptureReader(capture_paths(out)[0]) as reader:
        assert (reader.record["source"], reader.record["creator"]) == ("objaverse-xl", "ada")
    assert not (out / "downloads").exists() and not (tmp_path / "cache").exists()
    assert len(list(place.iterdir())) == 2


def test_objaverse_by_its_metadata_keeping_nothing(tmp_path: Path) -> None:
    mirror = write_cache(tmp_path / "mirror", {"one": bracket().data(), "two": bracket(2).data()})
    out = tmp_path / "out"
    options = ("--cache", tmp_path / "cache", "--mirror", mirror, "--out", out, "--keep-assets", "no")
    run = render("objaverse", *options, "--licences", "by")
    assert run.returncode == 0 and len(capture_paths(out)) == 2, run.stderr
    assert not (out / "downloads").exists() and not list((tmp_path / "cache").rglob("*.glb"))
    assert len(list(mirror.rglob("*.glb"))) == 2
    none = render("objaverse", *options, "--max-faces", "100")
    assert none.returncode == 2 and "0 of 2 assets" in none.stderr and "their record does not say" in none.stderr
