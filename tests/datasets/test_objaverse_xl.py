"""Objaverse-XL: addresses on literal examples, annotations from parquet tables, downloads from a server that stands for all hosts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow
import pytest
from pyarrow import parquet

from datasets.annotations import (
    COLUMNS,
    Entry,
    Source,
    XLFilters,
    large_file_location,
    location,
    pointed_at,
    read_annotations,
    sketchfab_uid,
)
from datasets.catalogue import CatalogueError
from datasets.objaverse_xl import ObjaverseXL, obtain_annotations
from datasets.spool import Spool
from tests.datasets.mirror import Mirror, breaks_after, refuse, send, serve
from tests.datasets.test_objaverse import write_table
from turntable.download import Policy, may_follow, seconds_asked
from turntable.errors import UserError

SUFFIXES = (".glb", ".obj", ".stl")
COMMIT = "ead0bed6a76012452273bbe18d12e4d68a881956"
RAW = f"raw.githubusercontent.com/ada/models/{COMMIT}"
QUICK = Policy(tries=3, backoff_s=0.01, longest_wait_s=0.3, timeout_s=5)


def entry(identifier: str, source: Source, suffix: str = ".glb", licence: str = "MIT License") -> Entry:
    return Entry(identifier, source, licence, suffix)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("source", "identifier", "address"),
    [
        ("github", f"https://github.com/ada/models/blob/{COMMIT}/a/Big chair.glb", f"{RAW}/a/Big chair.glb"),
        ("github", f"https://github.com/ada/models/blob/{COMMIT}/50%25.obj", f"{RAW}/50%25.obj"),
        ("thingiverse", "https://www.thingiverse.com/thing:123/#fileId=4567", "www.thingiverse.com/download:4567"),
        (
            "smithsonian",
            "https://3d-api.si.edu/content/document/3d_package:d8c6/resources/a%E2%80%93b.glb",
            "3d-api.si.edu/content/document/3d_package:d8c6/resources/a–b.glb",
        ),
    ],
)
def test_where_files_are_to_be_had(source: Source, identifier: str, address: str) -> None:
    found = location(entry(identifier, source))
    assert found and "/".join(found) == address


@pytest.mark.parametrize(
    ("source", "identifier"),
    [
        ("github", f"https://github.com/ada/models/blob/{COMMIT}/../../../other/repo/x.glb"),
        ("github", f"https://github.com/ada/../blob/{COMMIT}/x.glb"),
        ("github", f"https://github.com/ada/models/blob/{COMMIT}//x.glb"),
        ("github", f"https://github.com/ada/models/blob/{COMMIT}/x\0.glb"),
        ("github", f"https://github.com/ada/models/blob/{COMMIT}/x\n.glb"),
        ("github", "https://github.com/ada/models/blob/main/x.glb"),
        ("github", f"https://github.com.evil.org/ada/models/blob/{COMMIT}/x.glb"),
        ("github", "file:///etc/passwd"),
        ("thingiverse", "https://www.thingiverse.com/thing:1/#fileId=2/../../x"),
        ("thingiverse", "https://evil.org/thing:1/#fileId=2"),
        ("smithsonian", "https://evil.org/3d-api.si.edu/x.glb"),
        ("smithsonian", "https://evilsi.edu/x.glb"),
        ("smithsonian", "https://3d-api.si.edu@evil.org/x.glb"),
        ("smithsonian", "https://3d-api.si.edu/%2e%2e/%2e%2e/x.glb"),
        ("sketchfab", "https://sketchfab.com/3d-models/../x"),
    ],
)
def test_addresses_that_lead_elsewhere_are_refused(source: Source, identifier: str) -> None:
    assert location(entry(identifier, source)) is None and sketchfab_uid(entry(identifier, source)) is None


def test_ids_agree_with_the_objaverse_package() -> None:
    xl = pytest.importorskip("objaverse.xl")
    thing = "https://www.thingiverse.com/thing:123/#fileId=4567"
    assert xl.thingiverse.ThingiverseDownloader.get_file_id_from_file_identifier(thing) == "4567"
    model = xl.sketchfab.SketchfabDownloader.uid_to_file_identifier("00595cea11106496385cb66c03b03f59")
    assert sketchfab_uid(entry(model, "sketchfab")) == "00595cea11106496385cb66c03b03f59"


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n"


def test_pointers_to_large_files() -> None:
    assert pointed_at(POINTER.format("a" * 64).encode()) == "a" * 64
    for content in (b"glTF", b"", POINTER.format("a" * 63).encode(), b"x" + POINTER.format("a" * 64).encode()):
        assert pointed_at(content) is None
    found = large_file_location(entry(f"https://github.com/ada/models/blob/{COMMIT}/x.glb", "github"))
    assert "/".join(found) == f"media.githubusercontent.com/media/ada/models/{COMMIT}/x.glb"


def row(number: int, **fields: Any) -> dict[str, Any]:
    identifier = f"https://github.com/ada/models/blob/{COMMIT}/{number}.glb"
    plain = {
        "source": "github",
        "license": "MIT License",
        "fileType": "glb",
        "sha256": f"{number:064x}",
        "metadata": "{}",
    }
    return {"fileIdentifier": identifier, **plain, **fields}


def write_annotations(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_annotations_are_read_and_what_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        row(0),
        row(1, license=None, fileType="GLB"),
        row(2, fileType="3ds"),
        row(3, sha256="no hash"),
        row(4, sha256=None),
        row(5, fileIdentifier="https://evil.org/x.glb"),
        row(6, source="elsewhere"),
        row(0, license="GPL"),
        row(7, source="sketchfab", fileIdentifier="https://sketchfab.com/3d-models/abc", license="by"),
        row(8, fileType=".obj"),
    ]
    path = write_annotations(tmp_path / "a.parquet", rows)
    with caplog.at_level(logging.INFO):
        entries = read_annotations([path], XLFilters(), SUFFIXES)
    assert list(entries) == [f"{n:064x}" for n in (0, 1, 7, 8)]
    assert [e.suffix for e in entries.values()] == [".glb", ".glb", ".glb", ".obj"]
    assert [e.licence for e in entries.values()] == ["MIT License", "unknown", "by", "MIT License"]
    for part in (
        "4 of 10 assets chosen",
        "a type that is not read left out 1",
        "a sha256 of other than 64 digits left out 2",
        "an address of no known form left out 2",
        "the content of an earlier file left out 1",
        "(4 github, 1 sketchfab)",
    ):
        assert part in caplog.text
    assert list(read_annotations([path, path], XLFilters(), SUFFIXES)) == list(entries)


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (XLFilters(source=("sketchfab",)), [2]),
        (XLFilters(source=("sketchfab", "github")), [0, 1, 2]),
        (XLFilters(licences=("mit license", "unknown")), [0, 1]),
        (XLFilters(file_types=("obj",)), [1]),
        (XLFilters(file_types=(".GLB",), licences=("by",)), [2]),
    ],
)
def test_filters(tmp_path: Path, filters: XLFilters, left: list[int]) -> None:
    sketchfab = row(2, source="sketchfab", fileIdentifier="https://sketchfab.com/3d-models/abc", license="by")
    path = write_annotations(tmp_path / "a.parquet", [row(0), row(1, license=None, fileType="obj"), sketchfab])
    assert list(read_annotations([path], filters, SUFFIXES)) == [f"{n:064x}" for n in left]


def test_tables_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "page.parquet").write_text("<html>")
    cut = write_annotations(tmp_path / "cut.parquet", [row(n) for n in range(50)])
    cut.write_bytes(cut.read_bytes()[:-20])
    narrow = tmp_path / "narrow.parquet"
    parquet.write_table(pyarrow.table({"uid": ["a"], "sha256": ["b"]}), narrow)
    for path in (tmp_path / "page.parquet", cut, tmp_path / "none.parquet", tmp_path):
        with pytest.raises(UserError, match="not a parquet table"):
            read_annotations([path], XLFilters(), SUFFIXES)
    with pytest.raises(
        UserError, match=r"no column fileIdentifier, fileType, license, source among \['uid', 'sha256'\]"
    ):
        read_annotations([narrow], XLFilters(), SUFFIXES)
    path = write_annotations(tmp_path / "a.parquet", [row(0), row(1)])
    with pytest.raises(
        UserError, match=r"0 of 2 assets chosen; --licences cc0 left out 2; .* MIT License \(2\); widen"
    ):
        read_annotations([path], XLFilters(licences=("cc0",)), SUFFIXES)


class World:
    """All the hosts, on one server; `entries` grow with each file that is put there."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.folder = tmp_path, tmp_path / "hosts"
        self.mirror = Mirror(self.folder)
        self.entries: dict[str, Entry] = {}

    def put(self, address: str, content: bytes) -> None:
        path = self.folder / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def github(self, name: str, content: bytes, served: bytes | None = None) -> str:
        """A file on GitHub, which serves other content if `served` is given -> its uid."""
        self.put(f"{RAW}/{name}", content if served is None else served)
        identifier = f"https://github.com/ada/models/blob/{COMMIT}/{name}"
        self.entries[sha256(content)] = entry(identifier, "github", Path(name).suffix)
        return sha256(content)

    def catalogue(self, spool: Spool | None = None, mirror: str | None = None, policy: Policy = QUICK) -> ObjaverseXL:
        return ObjaverseXL(self.entries, self.tmp_path / "cache", mirror or self.mirror.url, policy, spool)

    def asked(self, name: str) -> list[str | None]:
        return self.mirror.ranges(quote(f"/{RAW}/{name}"))

    def script(self, name: str, *answers: Any) -> None:
        self.mirror.script[quote(f"/{RAW}/{name}")] = list(answers)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.mirror.server.shutdown()
    world.mirror.server.server_close()


def failure(catalogue: ObjaverseXL, uid: str) -> CatalogueError:
    with pytest.raises(CatalogueError) as caught:
        catalogue.fetch(uid)
    return caught.value


def kept(world: World) -> list[str]:
    """Files of assets in the cache, partial ones too."""
    return sorted(path.name for path in (world.tmp_path / "cache").rglob("*") if path.is_file())


def test_a_file_of_github(world: World) -> None:
    uid = world.github("a/Big chair é.obj", b"o chair")
    catalogue = world.catalogue()
    path = catalogue.fetch(uid)
    # Its name is made of the hash and a known suffix, of nothing that a server or a table says.
    assert path == world.tmp_path / f"cache/xl-objects/{uid[:2]}/{uid}.obj" and path.read_bytes() == b"o chair"
    assert catalogue.fetch(uid) == path and len(world.asked("a/Big chair é.obj")) == 1
    asset = catalogue.asset(uid)
    assert (asset.name, asset.creator, asset.licence, asset.lvis_class) == ("Big chair é", "ada", "MIT License", None)
    assert asset.source_url == world.entries[uid].identifier
    catalogue.release(uid)
    assert path.exists()


def test_another_content_is_no_substitute(world: World) -> None:
    uid = world.github("x.glb", b"glTF as it was", b"glTF as it is now")
    error = failure(world.catalogue(), uid)
    assert error.reason == "hash-mismatch" and sha256(b"glTF as it is now") in str(error) and "ada/models" in str(error)
    assert len(world.asked("x.glb")) == 1
    assert not any(name.endswith((".glb", ".tmp")) for name in kept(world))
    assert all(path.stat().st_size == 0 for path in (world.tmp_path / "cache").rglob("*.part"))
    # As from a folder:
    assert failure(world.catalogue(mirror=str(world.folder)), uid).reason == "hash-mismatch"
    assert not any(name.endswith((".glb", ".tmp")) for name in kept(world))


def test_a_left_start_of_another_file_is_thrown_away(world: World) -> None:
    uid = world.github("x.glb", b"glTF the right content")
    part = world.tmp_path / f"cache/xl-objects/{uid[:2]}/{uid}.glb.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other start")
    assert world.catalogue().fetch(uid).read_bytes() == b"glTF the right content"
    assert world.asked("x.glb") == ["bytes=11-", None]


def test_large_files(world: World) -> None:
    big = b"glTF" + bytes(100_000)
    uid = world.github("big.glb", big, POINTER.format(sha256(big)).encode())
    world.put(f"media.githubusercontent.com/media/ada/models/{COMMIT}/big.glb", big)
    assert world.catalogue().fetch(uid).read_bytes() == big
    stale = world.github("stale.glb", b"glTF was here", POINTER.format("b" * 64).encode())
    error = failure(world.catalogue(), stale)
    assert error.reason == "hash-mismatch" and "pointer to other content" in str(error)
    gone = world.github("gone.glb", b"glTF is gone", POINTER.format(sha256(b"glTF is gone")).encode())
    assert failure(world.catalogue(), gone).reason == "not-found"


@pytest.mark.parametrize(
    ("status", "reason", "tries"), [(404, "not-found", 1), (451, "not-found", 1), (403, "download", 1)]
)
def test_dead_and_forbidden_files(world: World, status: int, reason: str, tries: int) -> None:
    uid = world.github("x.glb", b"glTF")
    world.script("x.glb", *[refuse(status)] * 5)
    assert failure(world.catalogue(), uid).reason == reason
    assert len(world.asked("x.glb")) == tries


def test_too_many_requests(world: World) -> None:
    uid = world.github("x.glb", b"glTF and more")
    world.script("x.glb", refuse(429, Retry_After="1"), breaks_after(6))
    started = datetime.now(UTC)
    patient = Policy(tries=3, backoff_s=0.01, longest_wait_s=60, timeout_s=5)
    assert world.catalogue(policy=patient).fetch(uid).read_bytes() == b"glTF and more"
    assert datetime.now(UTC) - started > timedelta(seconds=1)
    assert world.asked("x.glb") == [None, None, "bytes=6-"]


def test_waits_that_servers_ask_for() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < seconds_asked(soon) <= 100
    assert seconds_asked("120") == 120
    for nonsense in ("", "soon", "-5", "1e9", "²", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT"):
        assert seconds_asked(nonsense) == 0


def redirect(target: str) -> Any:
    return lambda handler, content, start: send(handler, 302, {"Location": target, "Content-Length": "0"}, b"")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://example.org/x.glb", "data:,glTF", "javascript:1", "gopher:x"]
)
def test_redirects_to_other_schemes_are_refused_at_once(world: World, target: str) -> None:
    uid = world.github("x.glb", b"glTF")
    world.script("x.glb", *[redirect(target)] * 9)
    error = failure(world.catalogue(), uid)
    assert error.reason == "download" and "refused" in str(error) and target in str(error)
    assert len(world.asked("x.glb")) == 1


def test_redirects_that_are_followed_and_those_without_end(world: World) -> None:
    uid = world.github("x.glb", b"glTF", b"elsewhere")
    world.put("cdn/anything", b"glTF")
    world.script("x.glb", redirect("/cdn/anything"))
    assert world.catalogue().fetch(uid).name == f"{uid}.glb"  # not `anything`
    other = world.github("y.glb", b"glTF again")
    world.script("y.glb", *[redirect(quote(f"/{RAW}/y.glb"))] * 100)
    assert failure(world.catalogue(), other).reason == "download"
    assert len(world.asked("y.glb")) <= QUICK.tries * (QUICK.redirects + 1)


@pytest.mark.parametrize(
    ("url", "target", "followed"),
    [
        ("https://a.org/x", "https://b.org/y", True),
        ("http://a.org/x", "https://b.org/y", True),
        ("http://a.org/x", "http://b.org/y", True),
        ("https://a.org/x", "http://b.org/y", False),
        ("https://a.org/x", "FILE:///etc/passwd", False),
    ],
)
def test_which_redirects_are_followed(url: str, target: str, followed: bool) -> None:
    assert may_follow(url, target) is followed


def test_sizes_are_limited(world: World) -> None:
    uid = world.github("x.glb", b"glTF" + bytes(1000))

    def endless(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        send(handler, 200, {"Connection": "close"}, content)
        handler.close_connection = True

    for answer in (serve, endless):
        world.script("x.glb", answer)
        error = failure(world.catalogue(policy=Policy(tries=1, max_bytes=500)), uid)
        assert error.reason == "bad-asset" and "more than 500" in str(error), error


def test_the_other_sources(world: World) -> None:
    stl, glb = b"solid thing", b"glTF of a museum"
    world.put("www.thingiverse.com/download:4567", stl)
    world.entries[sha256(stl)] = entry("https://www.thingiverse.com/thing:12/#fileId=4567", "thingiverse", ".stl")
    place = "3d-api.si.edu/content/document/3d_package:d8c6/a%E2%80%93b.glb"
    world.put("3d-api.si.edu/content/document/3d_package:d8c6/a–b.glb", glb)
    world.entries[sha256(glb)] = entry(f"https://{place}", "smithsonian", licence="CC0")
    catalogue = world.catalogue()
    for content in (stl, glb):
        assert catalogue.fetch(sha256(content)).read_bytes() == content
    assert catalogue.asset(sha256(stl)).source_url.endswith("fileId=4567")
    assert (catalogue.asset(sha256(glb)).name, catalogue.asset(sha256(glb)).licence) == ("a–b", "CC0")


def test_files_of_sketchfab_come_from_objaverse(world: World) -> None:
    base = "huggingface.co/datasets/allenai/objaverse/resolve/main"
    good, changed = b"glTF of sketchfab", b"glTF of another time"
    names = {"good": good, "changed": changed}
    write_table(world.folder / base / "object-paths.json.gz", {n: f"glbs/000-001/{n}.glb" for n in names})
    write_table(world.folder / base / "lvis-annotations.json.gz", {"chair": ["good"]})
    records = {n: {"name": f"The {n}", "license": "by", "user": {"username": "Ada"}} for n in names}
    write_table(world.folder / base / "metadata/000-001.json.gz", records)
    for name in names:
        world.put(f"{base}/glbs/000-001/{name}.glb", good)
        identifier = f"https://sketchfab.com/3d-models/{name}"
        world.entries[sha256(names[name])] = entry(identifier, "sketchfab", licence="unknown")
    catalogue = world.catalogue()
    path = catalogue.fetch(sha256(good))
    assert path == world.tmp_path / "cache/hf-objaverse-v1/glbs/000-001/good.glb" and path.read_bytes() == good
    asset = catalogue.asset(sha256(good))
    assert (asset.uid, asset.lvis_class, asset.licence, asset.name) == (sha256(good), "chair", "by", "The good")
    assert failure(catalogue, sha256(changed)).reason == "hash-mismatch"
    assert "changed.glb" not in kept(world)
    # Two hashes for one page, nothing kept: neither is given the other's file, nor loses its own with it.
    passing = ObjaverseXL(world.entries, world.tmp_path / "other", world.mirror.url, QUICK, Spool(world.tmp_path / "d"))
    first = passing.fetch(sha256(good))
    world.entries[sha256(changed)] = world.entries[sha256(good)]
    assert failure(passing, sha256(changed)).reason == "hash-mismatch"
    passing.release(sha256(changed))
    assert first.read_bytes() == good
    passing.release(sha256(good))
    assert not first.exists()
    path.write_bytes(changed)  # in the cache before, whatever its content: refused, and not ours to delete
    assert failure(catalogue, sha256(good)).reason == "hash-mismatch" and path.exists()


def test_what_is_not_kept(world: World) -> None:
    uid, other = world.github("x.glb", b"glTF one"), world.github("y.glb", b"glTF two")
    was_there = world.catalogue().fetch(other)
    catalogue = world.catalogue(Spool(world.tmp_path / "downloads"))
    path = catalogue.fetch(uid)
    assert path.is_relative_to(world.tmp_path / "downloads") and catalogue.fetch(other) == was_there
    for each in (uid, other, "nobody"):
        catalogue.release(each)
    assert not path.exists() and was_there.exists()


def test_unknown_uid(world: World) -> None:
    for act in (world.catalogue().fetch, world.catalogue().asset):
        with pytest.raises(CatalogueError, match="not among the 0 files") as caught:
            act("a" * 64)
        assert caught.value.reason == "not-found"


def test_annotations_are_downloaded_where_the_package_has_them(world: World) -> None:
    place = world.folder / "huggingface.co/datasets/allenai/objaverse-xl/resolve/main/github/github.parquet"
    place.parent.mkdir(parents=True)
    write_annotations(place, [row(0)])
    for _ in range(2):
        paths = obtain_annotations(["github"], world.tmp_path / "cache", world.mirror.url, QUICK)
        assert paths == [world.tmp_path / "cache/github/github.parquet"]
    assert len(world.mirror.requests) == 1
    assert set(read_annotations(paths, XLFilters(), SUFFIXES)) == {f"{0:064x}"}
    with pytest.raises(UserError, match=r"--annotations FILE\.parquet"):
        obtain_annotations(["thingiverse"], world.tmp_path / "cache", world.mirror.url, QUICK)
    frame = pytest.importorskip("objaverse.xl").github.GitHubDownloader.get_annotations(str(world.tmp_path / "cache"))
    assert list(frame["sha256"]) == [f"{0:064x}"] and set(COLUMNS) <= set(frame.columns)
