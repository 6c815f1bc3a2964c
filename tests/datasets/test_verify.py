"""`datasets.verify`, `show`, `index`: what they find and how they end."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets import index
from datasets.captures import CaptureReader, capture_path, write_capture
from datasets.shard_writer import ShardObject
from datasets.shards import ShardError, encode_rgba
from datasets.show import ShowConfig, contact_sheet, evenly
from datasets.verify import verify
from tests.conftest import ROOT
from tests.datasets.synthetic import make_capture, uid_of, write_captures
from tests.datasets.test_shards import make_object, write
from turntable.errors import UserError
from turntable.geometry import Geometry


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    write_captures(folder, 3, views=2, resolution=32)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write(tmp_path / "shard-000000.h5", make_object(0)[0], make_object(1)[0])
    write(tmp_path / "shard-000001.h5", make_object(2)[0])
    return tmp_path


def test_sound_data_is_sound(captures: Path, shards: Path) -> None:
    for path, objects, views in [
        (captures, 3, 6),
        (capture_path(captures, uid_of(1)), 1, 2),
        (shards, 3, 6),
        (shards / "shard-000001.h5", 1, 2),
    ]:
        findings = verify(path, threads=2)
        assert (findings.objects, findings.views, findings.damage) == (objects, views, [])


def test_every_damaged_item_is_listed_and_only_those(shards: Path) -> None:
    path = shards / "shard-000000.h5"
    whole = bytearray(path.read_bytes())
    spots = [at for at in range(len(whole)) if whole[at : at + 4] in (b"RIFF", b"\x89PNG")]
    assert len(spots) == 2 * 2 * 4
    for spot in (spots[0], spots[-1]):
        whole[spot + 40] ^= 1
    path.write_bytes(whole)
    damage = verify(shards).damage
    assert len(damage) == 3 and all(str(path) in line for line in damage)
    assert "SHA-256" in damage[0]
    assert sum("checksum" in line and "object" in line and "view" in line for line in damage) == 2


def damaged_geometry(item: ShardObject, **change: Any) -> ShardObject:
    assert item.geometry is not None
    return dataclasses.replace(item, geometry=dataclasses.replace(item.geometry, **change))


def mirrored(item: ShardObject) -> ShardObject:
    return dataclasses.replace(item, world_from_camera=item.world_from_camera * np.array([-1, 1, 1, 1]))


def not_finite(item: ShardObject) -> ShardObject:
    return dataclasses.replace(item, intrinsics=item.intrinsics * [np.nan, 1, 1, 1])


def wrong_size(item: ShardObject) -> ShardObject:
    other = [encode_rgba(np.zeros((9, 9, 4), np.uint8)), item.images["rgba", 24][1]]
    return dataclasses.replace(item, images={**item.images, ("rgba", 24): other})


@pytest.mark.parametrize(
    ("damage", "message", "count"),
    [
        (mirrored, "not a rotation", 2),
        (not_finite, "not finite", 2),
        (lambda o: dataclasses.replace(o, intrinsics=-o.intrinsics), "focal length", 2),
        (lambda o: dataclasses.replace(o, matte_box=o.matte_box[:, [2, 1, 0, 3]]), "matte box", 2),
        (lambda o: dataclasses.replace(o, matte_box=o.matte_box * 2), "matte box", 2),
        (wrong_size, "9×9 pixels, expected 24×24", 1),
        (lambda o: damaged_geometry(o, points=o.geometry.points * 3), "outside the unit sphere", 1),
        (lambda o: damaged_geometry(o, points=o.geometry.points * np.nan), "not finite", 1),
        (lambda o: damaged_geometry(o, normals=o.geometry.normals * 0.5), "unit length", 1),
        (lambda o: damaged_geometry(o, solid=o.geometry.solid & False), "solid is empty", 1),
        (lambda o: dataclasses.replace(o, record={"depth_scale": 0.1}), "states no uid", 1),
    ],
)
def test_values_that_make_no_sense_are_found(
    tmp_path: Path, damage: Callable[[ShardObject], ShardObject], message: str, count: int
) -> None:
    """The checksums fit: these were written so."""
    path = write(tmp_path / "shard-000000.h5", make_object(0)[0], damage(make_object(1)[0]))
    found = verify(path).damage
    assert len(found) == count and all(message in line and "object 1" in line for line in found), found


def test_an_empty_matte_is_no_damage(tmp_path: Path) -> None:
    item, _ = make_object(0)
    item.matte_box[1] = 0
    assert verify(write(tmp_path / "shard-000000.h5", item)).damage == []


def test_a_uid_in_two_places_is_found(shards: Path) -> None:
    write(shards / "shard-000002.h5", make_object(1)[0])
    (line,) = verify(shards).damage
    assert "shard-000002.h5" in line and "shard-000000.h5" in line and uid_of(1) in line


def test_damaged_captures_are_found(captures: Path, tmp_path: Path) -> None:
    for path in captures.glob("??/*.zip"):
        capture_path(tmp_path, path.stem).parent.mkdir(exist_ok=True)
        capture_path(tmp_path, path.stem).write_bytes(path.read_bytes())
    flipped, cut, misnamed = (capture_path(tmp_path, uid_of(n)) for n in range(3))
    content = bytearray(flipped.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:1000])
    misnamed.rename(misnamed.with_name(misnamed.name.replace("5", "6")))
    damage = verify(tmp_path).damage
    assert len(damage) == 3
    assert "rgba/000.png is damaged" in damage[0]
    assert "not a whole zip" in damage[1]
    assert "its name does not fit" in damage[2]


def test_captures_with_wrong_values_are_found(tmp_path: Path) -> None:
    capture = make_capture(uid_of(0), 0, 2, 32)
    view = dataclasses.replace(capture.views[0], world_from_camera=capture.views[0].world_from_camera * 2)
    shape = Geometry(capture.geometry.points * 9, capture.geometry.normals, capture.geometry.solid)
    path = capture_path(tmp_path, uid_of(0))
    write_capture(path, dataclasses.replace(capture, views=[view, capture.views[1]], geometry=shape))
    damage = verify(path).damage
    assert len(damage) == 2 and "view 0" in damage[0] and "unit sphere" in damage[1]


def test_nothing_to_verify_is_a_users_error(tmp_path: Path, shards: Path, captures: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, message in [
        (empty, "neither captures"),
        (tmp_path / "absent", "no such"),
        (Path(__file__), "neither a capture"),
    ]:
        with pytest.raises(UserError, match=message):
            verify(path)
    for path in captures.glob("??/*.zip"):
        capture_path(shards, path.stem).parent.mkdir(exist_ok=True)
        capture_path(shards, path.stem).touch()
    with pytest.raises(UserError, match="name one of the files"):
        verify(shards)


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_exit_codes(shards: Path, tmp_path: Path) -> None:
    sound = run("datasets.verify", shards)
    assert sound.returncode == 0 and "3 objects, 6 views checked: all sound" in sound.stdout, sound.stderr
    path = shards / "shard-000001.h5"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    damaged = run("datasets.verify", shards)
    assert damaged.returncode == 1 and str(path) in damaged.stdout and "items are damaged" in damaged.stdout
    missing = run("datasets.verify", tmp_path / "absent")
    assert missing.returncode == 2 and "Traceback" not in missing.stderr and "no such file" in missing.stderr


def test_index_is_made_from_the_shards_and_says_when_it_is_old(shards: Path) -> None:
    assert not index.is_current(shards)
    out = run("datasets.index", shards)
    assert out.returncode == 0, out.stderr
    assert index.is_current(shards)
    content = json.loads((shards / "index.json").read_text())
    assert [o["uid"] for o in content["objects"]] == [uid_of(0), uid_of(1), uid_of(2)]
    assert content["objects"][2] == {
        "uid": uid_of(2),
        "licence": "cc0",
        "name": "Stühlchen",
        "shard": "shard-000001.h5",
        "number": 0,
        "views": 2,
    }
    assert content["shards"][0]["sha256"] in (shards / "shard-000000.h5").read_bytes()[:512].decode()
    assert content["shards"][0]["bytes"] == (shards / "shard-000000.h5").stat().st_size
    write(shards / "shard-000002.h5", make_object(7)[0])
    assert not index.is_current(shards)
    (shards / "index.json").write_text("{")
    assert not index.is_current(shards)
    write(shards / "shard-000003.h5", make_object(7)[0])
    with pytest.raises(ShardError, match=r"shard-000002\.h5 and in"):
        index.build_index(shards)


def test_the_sheet_shows_what_is_stored(captures: Path, tmp_path: Path) -> None:
    """A row an object: two views, depth, normals; each at its place, on white."""
    sheet = contact_sheet(ShowConfig(captures, tmp_path / "a.png", views=2, size=32))
    assert sheet.shape == (3 * (32 + 16 + 4) + 4, 4 * 36 + 4, 3)
    with CaptureReader(capture_path(captures, uid_of(1))) as reader:
        rgba = reader.picture("rgba", 1)
    tile = sheet[4 + 52 : 4 + 52 + 32, 4 + 36 : 4 + 36 + 32]
    opaque = rgba[..., 3] == 255
    np.testing.assert_array_equal(tile[opaque], rgba[opaque][:, :3])
    assert (tile[rgba[..., 3] == 0] == 255).all()
    depth = sheet[4 + 52 : 4 + 52 + 32, 4 + 72 : 4 + 72 + 32]
    assert (depth[rgba[..., 3] == 0] == 255).mean() > 0.5 and (depth < 255).any()


def test_shards_and_captures_give_the_same_sheet(captures: Path, tmp_path: Path) -> None:
    assert run("preprocess.captures", "--captures", captures, "--out", tmp_path, "--threads", 1).returncode == 0
    of_captures = contact_sheet(ShowConfig(captures, tmp_path / "a.png", size=24))
    of_shards = contact_sheet(ShowConfig(tmp_path, tmp_path / "a.png", size=24))
    np.testing.assert_array_equal(of_captures, of_shards)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.webp", "sheet.jpg"])
def test_show_writes_a_picture(shards: Path, tmp_path: Path, name: str) -> None:
    out = run("datasets.show", shards, "--out", tmp_path / name, "--objects", 2)
    assert out.returncode == 0, out.stderr
    assert cv2.imread(str(tmp_path / name)).shape[0] == 2 * 180 + 4


def test_show_refuses_what_it_cannot_write(shards: Path) -> None:
    out = run("datasets.show", shards, "--out", shards / "sheet.gif")
    assert out.returncode == 2 and "must end in" in out.stderr and "Traceback" not in out.stderr


def test_evenly() -> None:
    assert evenly(10, 3) == [0, 3, 6]
    assert evenly(2, 5) == [0, 1]
    assert evenly(5, 5) == [0, 1, 2, 3, 4]
