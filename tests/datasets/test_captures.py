"""The capture format: round trips, an independent look at the archive, and damaged or hostile archives."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.captures import MAX_ENTRY_BYTES, CaptureError, CaptureReader, capture_path, capture_paths, write_capture
from datasets.pictures import decode_normal, decode_png, encode_depth, encode_normal, encode_png
from tests.datasets.synthetic import DEPTH_SCALE, cast, make_capture, render, scene, uid_of
from turntable import cameras

UID = uid_of(1)


@pytest.fixture(scope="module")
def capture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = capture_path(tmp_path_factory.mktemp("captures"), UID)
    write_capture(path, make_capture(UID, 1, views=3, resolution=40, points=300))
    return path


def content(path: Path) -> list[Any]:
    """Everything that a reader gives."""
    with CaptureReader(path) as reader:
        shape = reader.geometry()
        pictures = [reader.picture(name, view) for view in range(len(reader)) for name in reader.passes]
        arrays = [reader.world_from_camera, reader.intrinsics, shape.points, shape.normals, shape.solid, *pictures]
        return [reader.uid, reader.depth_scale, reader.record, *arrays]


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in zip(a, b, strict=True)
    )


def test_what_is_written_is_read(capture_file: Path) -> None:
    capture = make_capture(UID, 1, views=3, resolution=40, points=300)
    with CaptureReader(capture_file) as reader:
        assert (reader.uid, len(reader), reader.width, reader.passes) == (UID, 3, 40, ["rgba", "depth", "normal"])
        assert reader.record["licence"] == "cc0"
        for view, made in enumerate(capture.views):
            np.testing.assert_allclose(reader.world_from_camera[view], made.world_from_camera, atol=1e-15)
            np.testing.assert_allclose(reader.intrinsics[view], made.intrinsics, rtol=1e-15)
            assert reader.encoded("rgba", view) == made.images["rgba"]
            assert reader.view_records[view] == made.record
            rgba, depth, normal = render(scene(1), made.world_from_camera, made.intrinsics, 40)
            np.testing.assert_array_equal(reader.picture("rgba", view), rgba)
            assert np.abs(reader.depth(view) - depth).max() <= DEPTH_SCALE / 2 + 1e-6
            # Eight bits a component: half a step is 0.004, a vector at most √3 of it.
            assert np.abs(decode_normal(reader.picture("normal", view)) - normal).max() < 0.01
        shape = reader.geometry()
        np.testing.assert_array_equal(shape.points, capture.geometry.points)
        np.testing.assert_array_equal(shape.solid, capture.geometry.solid)
        np.testing.assert_allclose(shape.normals, capture.geometry.normals, atol=1e-3)  # stored in half precision


def test_the_same_input_gives_the_same_bytes(capture_file: Path, tmp_path: Path) -> None:
    write_capture(tmp_path / "again.zip", make_capture(UID, 1, views=3, resolution=40, points=300))
    assert (tmp_path / "again.zip").read_bytes() == capture_file.read_bytes()


def test_plain_tools_read_it(capture_file: Path) -> None:
    """zipfile and json alone: the NeRF convention, pixel units, nothing compressed; depth falls on the surface's points."""
    with zipfile.ZipFile(capture_file) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        transforms = json.loads(archive.read("transforms.json"))
        frame = transforms["frames"][1]
        depth = decode_png(archive.read(frame["depth_file_path"])) * transforms["integer_depth_scale"]
        assert archive.read(frame["file_path"])[:4] == b"\x89PNG"
    row, column = np.nonzero(depth)
    z = depth[row, column]
    x = (column + 0.5 - frame["cx"]) / frame["fl_x"] * z
    y = -(row + 0.5 - frame["cy"]) / frame["fl_y"] * z
    world = np.array(frame["transform_matrix"]) @ np.stack([x, y, -z, np.ones_like(z)])
    centre = np.array(frame["transform_matrix"])[:3, 3]
    direction = world[:3].T - centre
    distance = np.linalg.norm(direction, axis=1)
    hit, truth, _, _ = cast(scene(1), np.tile(centre, (len(z), 1)), direction / distance[:, None])
    assert hit.mean() > 0.99  # rounding moves no ray, but a ray along an edge may go either way
    assert np.abs(truth[hit] - distance[hit]).max() < 2 * DEPTH_SCALE


def test_paths_are_sorted_by_uid_and_unfinished_captures_unseen(tmp_path: Path) -> None:
    for uid in ("bb1", "aa2", "aa1"):
        capture_path(tmp_path, uid).parent.mkdir(exist_ok=True)
        capture_path(tmp_path, uid).touch()
    (tmp_path / "aa" / ".aa3.zip.tmp").touch()
    assert [path.stem for path in capture_paths(tmp_path)] == ["aa1", "aa2", "bb1"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    shape = (7, 5) if channels == 1 else (7, 5, channels)
    picture = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    np.testing.assert_array_equal(decode_png(encode_png(picture)), picture)


def test_a_hit_is_never_encoded_as_nothing() -> None:
    depth = np.array([[0, 1e-9, 0.5, 100.0]])
    assert decode_png(encode_depth(depth, 1e-4)).tolist() == [[0, 1, 5000, 65535]]
    normal, hit = np.array([[[-1.0, 0, 0], [0, 0, -1]]]), np.array([[True, False]])
    decoded = decode_normal(decode_png(encode_normal(normal, hit)))
    np.testing.assert_allclose(decoded, [[[-1, 0, 0], [0, 0, 0]]], atol=0.01)


# Damage. Whatever happens to the file, a reader gives what was written or an error that names the file.


def test_a_flipped_byte_is_found_or_changes_nothing(capture_file: Path, tmp_path: Path) -> None:
    whole, truth = capture_file.read_bytes(), content(capture_file)
    rng = np.random.default_rng(0)
    path = tmp_path / f"{UID}.zip"
    with zipfile.ZipFile(capture_file) as archive:
        pictures_end = archive.start_dir
    spots = [*rng.integers(0, len(whole), 150), *rng.integers(pictures_end, len(whole), 250)]
    found = 0
    for spot in spots:
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert same(content(path), truth), f"byte {spot} changed what is read, unnoticed"
        except CaptureError as error:
            assert str(path) in str(error)
            found += 1
    assert found > len(spots) / 2


def test_a_truncated_capture_is_found(capture_file: Path, tmp_path: Path) -> None:
    whole = capture_file.read_bytes()
    path = tmp_path / f"{UID}.zip"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CaptureError, match="render"):
            content(path)


def test_things_that_are_no_captures(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with pytest.raises(CaptureError, match="no such capture"):
        CaptureReader(path)
    path.write_bytes(b"<!doctype html><title>404</title>")
    with pytest.raises(CaptureError, match="not a whole zip"):
        CaptureReader(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CaptureError, match=r"transforms\.json is missing"):
        CaptureReader(path)


def rewritten(
    source: Path, target: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A copy of a capture in which `change` edits entries (None: leaves the entry out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a capture whose transforms.json went through `edit`, which works in place."""

    def change(name: str, data: bytes) -> bytes:
        if name != "transforms.json":
            return data
        transforms = json.loads(data)
        edit(transforms)
        return json.dumps(transforms).encode()

    return rewritten(source, target, change)


def test_captures_of_version_1_are_read(capture_file: Path, tmp_path: Path) -> None:
    """It differs in nothing but that it knew three passes."""
    path = edited(capture_file, tmp_path / f"{UID}.zip", lambda t: t["turntable"].update(format_version=1))
    with CaptureReader(path) as old, CaptureReader(capture_file) as new:
        assert old.passes == new.passes and np.array_equal(old.picture("rgba", 0), new.picture("rgba", 0))
        assert np.array_equal(old.depth(0), new.depth(0)) and np.array_equal(old.intrinsics, new.intrinsics)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["turntable"].update(format_version=3), "capture format 3"),
        (lambda t: t.pop("turntable"), "not a turntable capture"),
        (lambda t: t.update(turntable=[]), "not a turntable capture"),
        (lambda t: t.update(frames=[]), "malformed"),
        (lambda t: t.update(frames=3), "malformed"),
        (lambda t: t.update(w=0), "malformed"),
        (lambda t: t.update(w=10**9), "malformed"),
        (lambda t: t.update(integer_depth_scale=-1), "malformed"),
        (lambda t: t.update(integer_depth_scale=float("nan")), "malformed"),
        (lambda t: t["frames"][0].update(fl_x=float("nan")), "malformed"),
        (lambda t: t["frames"][0].update(transform_matrix=[[1, 2], [3, 4]]), "malformed"),
        (lambda t: t["frames"][0]["transform_matrix"][0].__setitem__(0, float("inf")), "malformed"),
        (lambda t: t["frames"][0].update(file_path=7), "malformed"),
        (lambda t: t["frames"][0].update(turntable=None), "malformed"),
    ],
)
def test_malformed_transforms_are_named(capture_file: Path, tmp_path: Path, edit: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        CaptureReader(edited(capture_file, tmp_path / f"{UID}.zip", edit))


def test_names_that_lead_elsewhere_lead_nowhere(capture_file: Path, tmp_path: Path) -> None:
    path = edited(capture_file, tmp_path / "a.zip", lambda t: t["frames"][0].update(file_path="../../etc/passwd"))
    with CaptureReader(path) as reader, pytest.raises(CaptureError, match="is missing"):
        reader.picture("rgba", 0)


def test_pictures_of_another_kind_are_refused(capture_file: Path, tmp_path: Path) -> None:
    wrong = {
        "rgba/000.png": encode_png(np.zeros((40, 40, 3), np.uint8)),
        "depth/000.png": encode_png(np.zeros((40, 40), np.uint8)),
        "normal/000.png": encode_png(np.zeros((41, 40, 3), np.uint8)),
        "rgba/001.png": b"\xff\xd8\xff not a png",
        "depth/001.png": encode_png(np.ones((40, 40), np.uint16))[:60],
    }
    with CaptureReader(rewritten(capture_file, tmp_path / "a.zip", lambda n, d: wrong.get(n, d))) as reader:
        for name, view in (("rgba", 0), ("depth", 0), ("normal", 0), ("rgba", 1), ("depth", 1)):
            with pytest.raises(CaptureError, match=f"{name} of view {view}"):
                reader.picture(name, view)


def test_missing_passes_are_named(capture_file: Path, tmp_path: Path) -> None:
    path = edited(capture_file, tmp_path / "a.zip", lambda t: t["frames"][2].pop("depth_file_path"))
    with CaptureReader(path) as reader:
        assert reader.passes == ["rgba", "normal"]
        with pytest.raises(CaptureError, match="no pass 'depth'"):
            reader.picture("depth", 2)


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + header
    rest = b"IDAT" + zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(rest) - 4) + rest + struct.pack(">I", zlib.crc32(rest))
    )  # fmt: skip


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (0, 10)])
def test_a_picture_that_claims_to_be_enormous_is_not_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="refused"):
        decode_png(bomb_png(*size))


def test_an_entry_that_unpacks_to_a_gigabyte_is_refused(capture_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(capture_file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name == "rgba/000.png":
                with new.open(name, "w") as entry:
                    for _ in range((MAX_ENTRY_BYTES >> 20) + 1):
                        entry.write(bytes(1 << 20))
            else:
                new.writestr(name, old.read(name))
    assert path.stat().st_size < 2 << 20
    with CaptureReader(path) as reader, pytest.raises(CaptureError, match=r"claims .* refused"):
        reader.picture("rgba", 0)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


SOLID = np.zeros(262144, np.uint8)


@pytest.mark.parametrize(
    "geometry",
    [
        b"not an archive",
        npz(points=np.zeros((5, 3), np.float32), normals=np.zeros((5, 3), np.float16)),
        npz(points=np.zeros((5, 3), np.float32), normals=np.zeros((4, 3), np.float16), solid=SOLID),
        npz(points=np.zeros((5, 2), np.float32), normals=np.zeros((5, 2), np.float16), solid=SOLID),
        npz(points=np.zeros((5, 3), np.float32), normals=np.zeros((5, 3), np.float16), solid=SOLID[:9]),
        npz(points=np.zeros((5, 3), np.complex64), normals=np.zeros((5, 3), np.float16), solid=SOLID),
        npz(points=np.array([{}], dtype=object), normals=np.zeros((5, 3), np.float16), solid=SOLID),
        npz(points=np.zeros((5, 3), np.float32), normals=np.zeros((5, 3), np.float16), solid=SOLID).replace(
            b"(5, 3), ", b"(9**9, 3"
        ),
    ],
)
def test_malformed_geometry_is_named(capture_file: Path, tmp_path: Path, geometry: bytes) -> None:
    path = rewritten(capture_file, tmp_path / "a.zip", lambda n, d: geometry if n == "geometry.npz" else d)
    with CaptureReader(path) as reader, pytest.raises(CaptureError, match=r"geometry\.npz is malformed"):
        reader.geometry()


def test_cameras_of_every_view_are_rigid(capture_file: Path) -> None:
    with CaptureReader(capture_file) as reader:
        products = reader.world_from_camera[:, :, :3].swapaxes(1, 2) @ reader.world_from_camera[:, :, :3]
        np.testing.assert_allclose(products, np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
        assert cameras.elevation_deg(reader.world_from_camera[0]) < 60
