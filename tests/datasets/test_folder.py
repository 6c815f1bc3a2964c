"""A user's own folder: which files are assets, under which uids, with which licences; links, odd names and rubbish."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from datasets.catalogue import CatalogueError, record
from datasets.folder import Folder, uid_of
from datasets.metadata_file import read_metadata
from turntable.errors import UserError
from turntable.files import read_json, write_json

SUFFIXES = (".glb", ".gltf", ".obj")


def write(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"content of {path}")
    return folder


def paths(folder: Folder) -> list[str]:
    return [folder.asset(uid).path for uid in folder.uids()]


def test_assets_are_found_in_depth_and_their_parts_are_not_assets(tmp_path: Path) -> None:
    write(
        tmp_path,
        "b.glb",
        "a/Chair.OBJ",
        "a/chair.mtl",
        "a/wood.png",
        "c/d/e.gltf",
        "c/d/e.bin",
        "notes.txt",
        ".x/y.glb",
    )
    write(tmp_path, "._b.glb")
    folder = Folder(tmp_path, SUFFIXES)
    assert paths(folder) == ["a/Chair.OBJ", "b.glb", "c/d/e.gltf"]
    assert [folder.fetch(uid) for uid in folder.uids()] == [tmp_path / path for path in paths(folder)]
    # What belongs to an asset lies beside it still: a .gltf is read in its own place.
    assert (folder.fetch(folder.uids()[2]).parent / "e.bin").exists()


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("chairs/Red chair.obj", "chairs-Red-chair-obj-"),
        ("Stühle/Fußbank é.glb", "Stuhle-Fubank-e-glb-"),
        ("椅子.glb", "glb-"),
        ("-rf *.glb", "rf-glb-"),
        ("a" * 200 + "/the name.glb", "a" * 35 + "-the-name-glb-"),
        ("椅子", "asset-"),
        (os.fsdecode(b"bad\xff.glb"), "bad-glb-"),
    ],
)
def test_a_uid_is_a_readable_name_that_any_file_system_takes(path: str, begins: str) -> None:
    uid = uid_of(path)
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{8}", uid)
    assert re.fullmatch(r"[\w-]+", uid, re.ASCII) and len(uid) <= 57 and not uid.startswith("-")


def test_uids_depend_on_the_relative_path_alone() -> None:
    # A literal: uids name captures on users' disks, a change here would render everything anew.
    assert uid_of("chairs/Red chair.obj") == "chairs-Red-chair-obj-e36235a7"
    names = ["a/b.glb", "a-b.glb", "a b.glb", "a/b.obj", "A/b.glb", "a/b.gltf"]
    assert len({uid_of(name) for name in names}) == len(names)


def test_the_same_uids_wherever_the_folder_lies(tmp_path: Path) -> None:
    one, two = (Folder(write(tmp_path / where, "x/a.glb", "b.obj"), SUFFIXES).uids() for where in ("one", "two/three"))
    assert one == two
    write(tmp_path / "one", "another.glb")
    assert set(one) < set(Folder(tmp_path / "one", SUFFIXES).uids())


def test_globs(tmp_path: Path) -> None:
    write(tmp_path, "chairs/a.glb", "chairs/old/b.glb", "c.obj", "d.glb")
    assert paths(Folder(tmp_path, SUFFIXES, include=["chairs/*"])) == ["chairs/a.glb", "chairs/old/b.glb"]
    assert paths(Folder(tmp_path, SUFFIXES, include=["*.obj", "d*"])) == ["c.obj", "d.glb"]
    assert paths(Folder(tmp_path, SUFFIXES, include=["*.glb"], exclude=["chairs/old/*"])) == ["chairs/a.glb", "d.glb"]
    with pytest.raises(UserError, match=r"4 assets in it, none of which --include \['\*\.stl'\]"):
        Folder(tmp_path, SUFFIXES, include=["*.stl"])


def test_nothing_to_render(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder; give the folder of your assets \(.glb .gltf .obj\)"):
        Folder(tmp_path / "nowhere", SUFFIXES)
    with pytest.raises(UserError, match=r"0 files in it.*\.glb \.gltf \.obj"):
        Folder(tmp_path, SUFFIXES)
    write(tmp_path, "a.zip", "b.max")
    with pytest.raises(UserError, match=r"2 files in it, none of which is an asset; what is read: \.glb"):
        Folder(tmp_path, SUFFIXES)
    with pytest.raises(UserError, match=r"a\.zip: a file, not a folder"):
        Folder(tmp_path / "a.zip", SUFFIXES)


def test_links(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "secret.glb", "more/s.glb")
    folder = write(tmp_path / "assets", "a.glb", "sub/b.glb")
    (folder / "out.glb").symlink_to(outside / "secret.glb")
    (folder / "in.glb").symlink_to("a.glb")
    (folder / "more").symlink_to(outside / "more")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.glb").symlink_to("nothing.glb")
    catalogue = Folder(folder, SUFFIXES)
    by_path = {catalogue.asset(uid).path: uid for uid in catalogue.uids()}
    assert sorted(by_path) == ["a.glb", "dangling.glb", "in.glb", "out.glb", "sub/b.glb"]
    assert catalogue.fetch(by_path["in.glb"]).read_text() == "content of a.glb"
    for path, reason in {"out.glb": "outside", "dangling.glb": "not-found"}.items():
        with pytest.raises(CatalogueError) as caught:
            catalogue.fetch(by_path[path])
        assert caught.value.reason == reason
    assert catalogue.duplicates() == [("in.glb", "a.glb")]
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be a link
    assert Folder(tmp_path / "link", SUFFIXES).fetch(by_path["a.glb"]).exists()


def test_a_folder_swapped_for_a_link_after_the_list_was_made(tmp_path: Path) -> None:
    write(tmp_path / "outside", "b.glb")
    catalogue = Folder(write(tmp_path / "assets", "sub/b.glb"), SUFFIXES)
    (tmp_path / "assets/sub").rename(tmp_path / "assets/was")
    (tmp_path / "assets/sub").symlink_to(tmp_path / "outside")
    with pytest.raises(CatalogueError, match="leads out of"):
        catalogue.fetch(catalogue.uids()[0])


def test_duplicates_are_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "sub/b", "c"):
        write(tmp_path, f"{name}.glb")
        (tmp_path / f"{name}.glb").write_text("same" if name != "c" else "else")  # as long, another content
    with caplog.at_level(logging.INFO):
        folder = Folder(tmp_path, SUFFIXES)
    assert len(folder.uids()) == 3 and folder.duplicates() == [("sub/b.glb", "a.glb")]
    assert "sub/b.glb (as a.glb)" in caplog.text


CSV = '\ufeffPath,class,license,name,creator,url,notes\r\nx/a.glb,chair,by,"Chair, red",Ada,https://example.org,!\r\nb.glb,,cc0,,,\r\n'
LINES = (
    '{"path": "x/a.glb", "class": "chair", "licence": "by", "name": "Chair, red", "creator": "Ada", '
    '"url": "https://example.org", "year": 1990}\n\n{"path": "./b.glb", "licence": "cc0", "name": null}\n'
)


@pytest.mark.parametrize("text", [CSV, LINES])
def test_what_a_metadata_file_states_is_carried(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "meta").write_text(text)
    folder = write(tmp_path / "assets", "x/a.glb", "b.glb", "c.glb")
    with caplog.at_level(logging.INFO):
        catalogue = Folder(folder, SUFFIXES, metadata=tmp_path / "meta")
    records = [record(catalogue, uid) for uid in catalogue.uids()]
    empty = {"source": "folder", "lvis_class": None, "licence": "unknown", "creator": "", "source_url": ""}
    stated = {"lvis_class": "chair", "licence": "by", "creator": "Ada", "source_url": "https://example.org"}
    assert records == [
        {**empty, "licence": "cc0", "name": "b", "path": "b.glb"},
        {**empty, "name": "c", "path": "c.glb"},
        {**empty, **stated, "name": "Chair, red", "path": "x/a.glb"},
    ]
    assert "1 are not in" in caplog.text and "c.glb" in caplog.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,licence\na,by\n", "no column `path`, but"),
        ("", "no column `path`"),
        ("path,name\na.glb,x\na.glb,y\n", "line 3: a.glb a second time"),
        ('path,name\n"a.glb,x\n', "not CSV"),
        ("path,name\n,x\n", "line 2: no path"),
        ('{"path": "a.glb"}\n{"path"\n', "line 2: not a JSON object"),
        ('{"path": "a.glb"}\n[1]\n', "line 2: not a JSON object but list"),
        ('{"path": 7}\n', "line 1: no path"),
    ],
)
def test_malformed_metadata_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "meta").write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_metadata(tmp_path / "meta")


def test_metadata_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "meta").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "meta", tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_metadata(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe.glb")
    (tmp_path / odd).write_bytes(b"content")
    folder = Folder(tmp_path, SUFFIXES)
    (uid,) = folder.uids()
    assert folder.asset(uid).path.encode() == b"\\xff\\xfe.glb"
    assert folder.fetch(uid).exists()
    (tmp_path / odd).unlink()
    with pytest.raises(CatalogueError, match="no such file any more") as caught:
        folder.fetch(uid)
    write_json(
        tmp_path / "failure.json", {"message": str(caught.value)}
    )  # a failure's record can be written all the same
    assert "no such file" in read_json(tmp_path / "failure.json")["message"]


def test_unknown_uid(tmp_path: Path) -> None:
    folder = Folder(write(tmp_path, "a.glb"), SUFFIXES)
    for act in (folder.asset, folder.fetch):
        with pytest.raises(CatalogueError, match="none of the 1 assets") as caught:
            act("b")
        assert caught.value.reason == "not-found"
    folder.release(folder.uids()[0])
    assert (tmp_path / "a.glb").exists()
