"""The catalogue against real models, and its downloads against a real HTTP server that misbehaves in every way we know."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from datasets.catalogue import CatalogueError, read_uids
from datasets.objaverse import Objaverse
from datasets.selection import Filters
from tests.conftest import ROOT
from tests.datasets.mirror import Mirror, breaks_after, hangs, ignores_range, refuse, send, serve
from turntable.download import Policy
from turntable.errors import UserError

UID = "0" * 31 + "1"
OTHER = "0" * 31 + "2"
GLB = b"glTF" + np.random.default_rng(0).integers(0, 256, 999_999, dtype=np.uint8).tobytes()
QUICK = Policy(tries=3, backoff_s=0.01, longest_wait_s=0.05, timeout_s=0.5)


def write_table(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode()))


def make_mirror(folder: Path, paths: dict[str, object] | None = None) -> Path:
    write_table(folder / "object-paths.json.gz", paths or {UID: f"glbs/000-007/{UID}.glb", OTHER: "glbs/000-008/x.glb"})
    write_table(folder / "lvis-annotations.json.gz", {"chair": [UID], "sofa": [OTHER]})
    record = {"name": "A chair", "license": "by", "viewerUrl": "https://example.org/1", "user": {"username": "Ada"}}
    write_table(folder / "metadata/000-007.json.gz", {UID: record})
    glb = folder / f"glbs/000-007/{UID}.glb"
    glb.parent.mkdir(parents=True)
    glb.write_bytes(GLB)
    return folder


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror(make_mirror(tmp_path / "mirror"))
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


@pytest.fixture
def catalogue(mirror: Mirror, tmp_path: Path) -> Objaverse:
    return Objaverse(tmp_path / "cache", mirror.url, QUICK)


GLB_PATH = f"/glbs/000-007/{UID}.glb"


def test_everything_is_downloaded_once(mirror: Mirror, catalogue: Objaverse) -> None:
    assert catalogue.select([UID]) == [UID]
    assert catalogue.asset(UID).creator == "Ada"
    assert catalogue.fetch(UID).read_bytes() == GLB
    count = len(mirror.requests)
    assert count == 4  # paths, annotations, one metadata file, one glb: nothing else was looked at
    again = Objaverse(catalogue.cache, mirror.url, QUICK)
    again.asset(UID)
    again.fetch(UID)
    assert len(mirror.requests) == count
    assert not list(catalogue.cache.rglob("*.part"))


def test_two_refusals_then_served(mirror: Mirror, catalogue: Objaverse) -> None:
    mirror.script[GLB_PATH] = [refuse(503), refuse(429, Retry_After="1")]
    assert catalogue.fetch(UID).read_bytes() == GLB
    assert mirror.ranges(GLB_PATH) == [None, None, None]


def test_given_up_after_the_stated_number_of_tries(mirror: Mirror, catalogue: Objaverse) -> None:
    mirror.script[GLB_PATH] = [refuse(503)] * 10
    with pytest.raises(CatalogueError, match=r"HTTP 503.*after 3 tries") as caught:
        catalogue.fetch(UID)
    assert caught.value.reason == "download"
    assert len(mirror.ranges(GLB_PATH)) == QUICK.tries


@pytest.mark.parametrize("cuts", [[300_000], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_broken_off_and_resumed(mirror: Mirror, catalogue: Objaverse, cuts: list[int]) -> None:
    """More breaks than tries are allowed in a row: each brought new bytes, so none counts against it."""
    mirror.script[GLB_PATH] = [breaks_after(cut) for cut in cuts]
    assert catalogue.fetch(UID).read_bytes() == GLB
    held = [sum(cuts[:i]) for i in range(1, len(cuts) + 1)]
    assert mirror.ranges(GLB_PATH) == [None, *(f"bytes={n}-" for n in held)]


def test_a_killed_run_is_resumed(mirror: Mirror, catalogue: Objaverse) -> None:
    part = catalogue.cache / f"glbs/000-007/{UID}.glb.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(GLB[:123_456])
    assert catalogue.fetch(UID).read_bytes() == GLB
    assert mirror.ranges(GLB_PATH) == ["bytes=123456-"]


@pytest.mark.parametrize("left", [GLB, GLB + b"more"])
def test_a_part_that_cannot_be_continued_begins_anew(mirror: Mirror, catalogue: Objaverse, left: bytes) -> None:
    part = catalogue.cache / f"glbs/000-007/{UID}.glb.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert catalogue.fetch(UID).read_bytes() == GLB


def test_a_server_without_ranges(mirror: Mirror, catalogue: Objaverse) -> None:
    mirror.script[GLB_PATH] = [breaks_after(1000), ignores_range]
    assert catalogue.fetch(UID).read_bytes() == GLB


def test_a_body_that_is_always_short(mirror: Mirror, catalogue: Objaverse) -> None:
    def short(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        send(handler, 200, {"Content-Length": str(len(content))}, content[:500])
        handler.close_connection = True

    mirror.script[GLB_PATH] = [short] * 20
    with pytest.raises(CatalogueError, match="broke off after 500 bytes") as caught:
        catalogue.fetch(UID)
    assert caught.value.reason == "download"
    assert not (catalogue.cache / GLB_PATH[1:]).exists()


def test_missing_at_the_mirror(mirror: Mirror, catalogue: Objaverse) -> None:
    with pytest.raises(CatalogueError, match="HTTP 404") as caught:
        catalogue.fetch(OTHER)
    assert caught.value.reason == "not-found"
    assert len(mirror.ranges("/glbs/000-008/x.glb")) == 1  # no use in asking again


def test_a_server_that_hangs(mirror: Mirror, catalogue: Objaverse) -> None:
    mirror.script[GLB_PATH] = [hangs]
    start = time.monotonic()
    assert catalogue.fetch(UID).read_bytes() == GLB
    assert time.monotonic() - start < 1.4  # less than the server hangs: our own timeout of 0.5 s ended it
    assert mirror.ranges(GLB_PATH) == [None, "bytes=1000-"]


def test_a_log_in_page_does_not_settle_in_the_cache(mirror: Mirror, catalogue: Objaverse) -> None:
    mirror.script[GLB_PATH] = [lambda handler, content, start: serve(handler, b"<html>Please log in</html>", 0)]
    with pytest.raises(CatalogueError, match="another kind, it begins with b'<html>Please log in") as caught:
        catalogue.fetch(UID)
    assert caught.value.reason == "download"
    assert catalogue.fetch(UID).read_bytes() == GLB


def test_a_file_too_large_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    small = Objaverse(tmp_path / "cache", mirror.url, Policy(max_bytes=100_000))
    with pytest.raises(CatalogueError, match="1000003 bytes, more than 100000; refused") as caught:
        small.fetch(UID)
    assert caught.value.reason == "bad-asset"
    # The limit of assets is none of tables.
    tight = Objaverse(tmp_path / "other", mirror.url, QUICK, asset_bytes=10)
    assert tight.select([UID]) == [UID] and tight.asset(UID).creator == "Ada"
    with pytest.raises(CatalogueError, match="more than 10; refused"):
        tight.fetch(UID)


def test_a_body_without_length_is_limited_too(mirror: Mirror, tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        send(handler, 200, {"Connection": "close"}, content)
        handler.close_connection = True

    mirror.script[GLB_PATH] = [endless]
    with pytest.raises(CatalogueError, match="more than 500000 bytes; refused"):
        Objaverse(tmp_path / "cache", mirror.url, Policy(max_bytes=500_000)).fetch(UID)


def test_a_hash_that_the_server_states_is_checked(mirror: Mirror, catalogue: Objaverse) -> None:
    catalogue.select(None)
    mirror.headers["X-Linked-ETag"] = f'"{hashlib.sha256(GLB).hexdigest()}"'

    def flipped(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        serve(handler, content[:-1] + bytes([content[-1] ^ 1]), start)

    mirror.script[GLB_PATH] = [flipped]
    assert catalogue.fetch(UID).read_bytes() == GLB
    (catalogue.cache / GLB_PATH[1:]).unlink()
    mirror.script[GLB_PATH] = [flipped] * 3
    with pytest.raises(CatalogueError, match="SHA-256"):
        catalogue.fetch(UID)


def test_a_changed_file_is_not_glued_to_the_old_start(mirror: Mirror, catalogue: Objaverse) -> None:
    """A server that honours If-Range sends the whole new file when the ETag is no longer the one we hold."""
    catalogue.select(None)
    mirror.headers["ETag"] = '"old"'
    new = GLB[:4] + bytes(reversed(GLB[4:]))

    def changed(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        assert handler.headers["If-Range"] == '"old"'
        mirror.headers["ETag"] = '"new"'
        serve(handler, new, 0)

    mirror.script[GLB_PATH] = [breaks_after(1000), changed]
    assert catalogue.fetch(UID).read_bytes() == new


def test_two_at_once_download_once(mirror: Mirror, catalogue: Objaverse) -> None:
    other = Objaverse(catalogue.cache, mirror.url, QUICK)
    for each in (catalogue, other):
        each.select(None)

    def slow(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        time.sleep(0.2)
        serve(handler, content, start)

    mirror.script[GLB_PATH] = [slow, slow]
    threads = [threading.Thread(target=each.fetch, args=(UID,)) for each in (catalogue, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (catalogue.cache / GLB_PATH[1:]).read_bytes() == GLB
    assert mirror.ranges(GLB_PATH) == [None]


def test_no_mirror_and_no_cache(mirror: Mirror, tmp_path: Path) -> None:
    mirror.server.shutdown()
    mirror.server.server_close()
    with pytest.raises(CatalogueError, match=r"(?s)not in the cache.*--cache.*--mirror.*datasets.procedural") as caught:
        Objaverse(tmp_path / "cache", mirror.url, QUICK).select(None)
    assert caught.value.reason == "download"


def test_a_directory_as_mirror(tmp_path: Path) -> None:
    catalogue = Objaverse(tmp_path / "cache", str(make_mirror(tmp_path / "mirror")))
    assert catalogue.fetch(UID).read_bytes() == GLB
    assert catalogue.fetch(UID).is_relative_to(tmp_path / "cache")
    with pytest.raises(CatalogueError, match="no such file in the mirror") as caught:
        catalogue.fetch(OTHER)
    assert caught.value.reason == "not-found"


def test_a_mirror_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="neither a directory nor an http"):
        Objaverse(tmp_path, "ftp://example.org").select(None)


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "glbs/../../x.glb",
        "glbs/000-000/..%2f.glb",
        "glbs/a/b/c.glb",
        7,
        None,
        ["glbs"],
    ],
)
def test_hostile_object_paths(tmp_path: Path, path: object) -> None:
    cache = make_mirror(tmp_path / "cache", {UID: path})
    (tmp_path / "x.glb").write_bytes(b"outside")
    for act in (Objaverse(cache, str(cache)).fetch, Objaverse(cache, str(cache)).asset):
        with pytest.raises(CatalogueError, match="refused") as caught:
            act(UID)
        assert caught.value.reason == "not-found"


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", gzip.compress(b"[1, 2]"), gzip.compress(b'{"a": 1}' * 99)[:-20]]
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    cache = make_mirror(tmp_path / "cache")
    (cache / "object-paths.json.gz").write_bytes(content)
    with pytest.raises(CatalogueError, match=r"object-paths\.json\.gz: not a gzipped JSON table.*delete it"):
        Objaverse(cache).select(None)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    cache = make_mirror(tmp_path / "cache")
    write_table(cache / "metadata/000-007.json.gz", {UID: "no record"})
    with pytest.raises(CatalogueError, match=r"000-007\.json\.gz: not a gzipped JSON table"):
        Objaverse(cache).asset(UID)


def test_a_record_with_nothing_in_it(tmp_path: Path) -> None:
    cache = make_mirror(tmp_path / "cache")
    write_table(cache / "metadata/000-007.json.gz", {UID: {"license": None, "user": None}})
    asset = Objaverse(cache).asset(UID)
    assert (asset.licence, asset.creator, asset.name, asset.source_url) == ("unknown", "", "", "")


def test_unknown_uid(tmp_path: Path) -> None:
    catalogue = Objaverse(make_mirror(tmp_path / "cache"))
    for act in (catalogue.asset, catalogue.fetch):
        with pytest.raises(CatalogueError, match="nonesuch: no such uid among the 2") as caught:
            act("nonesuch")
        assert caught.value.reason == "not-found"
    # It stays in a selection, whatever the filters, so that a run reports it instead of dropping it silently.
    assert catalogue.select(["nonesuch", UID, UID], Filters(classes=("chair",), licences=("by",))) == ["nonesuch", UID]


def test_selection_of_real_models(shared: Path) -> None:
    catalogue = Objaverse(shared / "objaverse")
    uids = catalogue.select(None)
    assert len(uids) == len(set(uids)) == 632
    assert uids == sorted(uids)
    seats = catalogue.select(None, Filters(classes=("chair", "sofa")))
    assert {catalogue.asset(u).lvis_class for u in seats} == {"chair", "sofa"}
    free = catalogue.select(None, Filters(classes=("chair", "sofa"), licences=("cc0",)))
    assert 0 < len(free) < len(seats)
    assert set(free) == {u for u in seats if catalogue.asset(u).licence == "cc0"}
    assert all(catalogue.asset(u).creator and catalogue.asset(u).name for u in uids)
    listed = read_uids(shared / "objaverse/splits/furniture-train.txt")
    assert catalogue.select(listed) == listed
    chairs = Filters(classes=("chair",))
    assert set(catalogue.select(listed, chairs)) == set(listed) & set(catalogue.select(None, chairs))
    assert all(catalogue.fetch(u).read_bytes()[:4] == b"glTF" for u in listed[:5])


def test_selections_that_leave_nothing(shared: Path) -> None:
    catalogue = Objaverse(shared / "objaverse")
    with pytest.raises(UserError, match=r"class 'chairs': not among the 421 LVIS classes .*near: chair"):
        catalogue.select(None, Filters(classes=("chairs",)))
    with pytest.raises(
        UserError,
        match=r"0 of 39 assets chosen; --licences public-domain left out 39; their licences are by .*cc0 .*widen",
    ):
        catalogue.select(None, Filters(classes=("chair",), licences=("public-domain",)))


def test_read_uids(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# chairs\n\n{UID}  # the first\r\n  {OTHER}\n{UID}\n")
    assert read_uids(path) == [UID, OTHER]
    path.write_text(f"{UID}\n../../etc/passwd\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: '\.\./\.\./etc/passwd' is no uid"):
        read_uids(path)
    path.write_text("# nothing\n")
    with pytest.raises(UserError, match="no uid in 1 lines"):
        read_uids(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_uids(tmp_path / "absent.txt")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_uids(path)


def test_the_objaverse_package_reads_our_cache(
    mirror: Mirror, catalogue: Objaverse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An independent reader: the package whose layout we share finds everything that we downloaded, and downloads nothing."""
    objaverse = pytest.importorskip("objaverse")
    asset, path = catalogue.asset(UID), catalogue.fetch(UID)
    monkeypatch.setattr(objaverse, "_VERSIONED_PATH", str(catalogue.cache))
    assert objaverse.load_objects([UID]) == {UID: str(path)}
    assert objaverse.load_annotations([UID])[UID]["license"] == asset.licence
    assert objaverse.load_lvis_annotations()["chair"] == [UID]


def test_import_is_light() -> None:
    code = "import sys, datasets.objaverse; print([m for m in ('requests', 'objaverse', 'numpy', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
