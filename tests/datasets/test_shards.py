"""The shard format: literal bytes, round trips, and that no damage is ever read as content."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import pickle
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from datasets.pictures import encode_depth, encode_normal
from datasets.shard_writer import ShardObject, ShardWriter, _SparseFile, spool_folder
from datasets.shards import ShardError, ShardReader, ShardSet, decode_rgba, encode_rgba
from datasets.verify import check_hash
from tests.conftest import ROOT
from tests.datasets.synthetic import DEPTH_SCALE, render, scene, shell_cameras, solid, surface, uid_of
from turntable import framing
from turntable.geometry import Geometry

SIZES = (48, 24)


def make_object(number: int, views: int = 2, sizes: tuple[int, ...] = SIZES) -> tuple[ShardObject, list[np.ndarray]]:
    """Scene `number` as a shard stores it, and its rgba pictures at the largest size."""
    world = scene(number)
    poses, intrinsics = shell_cameras(views, number)
    pictures: list[np.ndarray] = []
    images: dict[tuple[str, int], list[bytes]] = {("rgba", s): [] for s in sizes} | {
        ("depth", 48): [],
        ("normal", 48): [],
    }
    for pose, lens in zip(poses, intrinsics, strict=True):
        rgba, depth, normal = render(world, pose, lens, max(sizes))
        pictures.append(rgba)
        for size in sizes:
            images["rgba", size].append(encode_rgba(framing.resize(rgba, size, size)))
        _, depth, normal = render(world, pose, lens, 48)
        images["depth", 48].append(encode_depth(depth, DEPTH_SCALE))
        images["normal", 48].append(encode_normal(normal, depth > 0))
    points, normals = surface(world, np.random.default_rng(number), 200)
    shape = Geometry(points.astype(np.float32), normals.astype(np.float16).astype(np.float32), solid(world))
    boxes = np.array([framing.matte_box(p[..., 3]) for p in pictures])
    record = {"uid": uid_of(number), "depth_scale": DEPTH_SCALE, "licence": "cc0", "name": "Stühlchen"}
    return ShardObject(record, poses, intrinsics, boxes, images, shape), pictures


def write(path: Path, *objects: ShardObject) -> Path:
    writer = ShardWriter(path, {"sizes": list(SIZES)})
    for item in objects:
        writer.add(item)
    writer.close()
    return path


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / "shard-000000.h5", make_object(0)[0], make_object(1, views=3)[0])


def content(source: Path | ShardSet) -> list[Any]:
    """Everything that a set of shards gives, flat."""
    shards = source if isinstance(source, ShardSet) else ShardSet(source)
    out: list[Any] = [shards.uids, shards.sizes]
    for index in range(len(shards)):
        shape = shards.geometry(index)
        out += [shards.record(index), *shards.cameras(index), shards.matte_boxes(index)]
        out += [shape.points, shape.normals, shape.solid]
        for view in range(shards.view_count(index)):
            out += [shards.picture(index, view, size) for size in shards.sizes]
            out += [shards.depth(index, view), shards.normal(index, view)]
    return out


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in zip(a, b, strict=True)
    )


def test_what_is_written_is_read(shard: Path) -> None:
    shards = ShardSet(shard)
    assert (len(shards), shards.uids, shards.sizes) == (2, [uid_of(0), uid_of(1)], [24, 48])
    for index, views in ((0, 2), (1, 3)):
        item, pictures = make_object(index, views)
        assert shards.view_count(index) == views
        assert shards.record(index) == item.record
        poses, intrinsics = shards.cameras(index)
        np.testing.assert_array_equal(poses, item.world_from_camera)
        np.testing.assert_array_equal(intrinsics, item.intrinsics)
        np.testing.assert_allclose(shards.matte_boxes(index), item.matte_box, rtol=1e-6)
        assert item.geometry is not None
        shape = shards.geometry(index)
        for name in ("points", "normals", "solid"):
            np.testing.assert_array_equal(getattr(shape, name), getattr(item.geometry, name))
        for view, rgba in enumerate(pictures):
            np.testing.assert_array_equal(shards.picture(index, view, 48), rgba)
            np.testing.assert_array_equal(shards.picture(index, view, 24), framing.resize(rgba, 24, 24))
            _, depth, normal = render(scene(index), poses[view], intrinsics[view], 48)
            assert np.abs(shards.depth(index, view) - depth).max() <= DEPTH_SCALE / 2 + 1e-6
            assert np.abs(shards.normal(index, view) - normal).max() < 0.01  # eight bits a component


def test_the_smallest_stored_size_that_serves_is_used(shard: Path) -> None:
    shards = ShardSet(shard)
    _, pictures = make_object(0)
    small = framing.resize(pictures[0], 24, 24)
    np.testing.assert_array_equal(shards.picture(0, 0, 20), framing.resize(small, 20, 20))
    np.testing.assert_array_equal(shards.picture(0, 0, 25), framing.resize(pictures[0], 25, 25))
    np.testing.assert_array_equal(shards.picture(0, 0, 96), framing.resize(pictures[0], 96, 96))
    assert [shards.stored_size(0, s) for s in (1, 24, 25, 48, 999)] == [24, 24, 48, 48, 48]


def test_the_bytes_are_as_documented(shard: Path) -> None:
    """Read without the reader: user block, hash, contiguous data at the stated place, each with its checksum."""
    whole = shard.read_bytes()
    lines = whole[:512].rstrip(b"\0").decode("ascii").split("\n")
    assert lines == [
        "TURNTABLE-SHARD 1",
        f"bytes {len(whole)}",
        f"sha256 {hashlib.sha256(whole[512:]).hexdigest()}",
        "",
    ]
    with h5py.File(shard) as file:
        assert file.userblock_size == 512
        assert (file.attrs["format"], file.attrs["format_version"]) == (b"turntable-shard", 1)
        for name in ("format", "convention", "colour", "configuration"):
            assert not file.attrs.get_id(name).get_type().is_variable_str()
        assert json.loads(file.attrs["configuration"]) == {"sizes": [48, 24]}
        assert b"right-handed" in file.attrs["convention"] and b"sRGB" in file.attrs["colour"]
        assert file["objects/view_offsets"][...].tolist() == [0, 2, 5]
        assert sorted(file["images"]) == ["depth", "normal", "rgba"]
        for name, size in (("rgba", "48"), ("rgba", "24"), ("depth", "48"), ("normal", "48")):
            group = file["images"][name][size]
            assert group["data"].chunks is None and group["data"].dtype == np.uint8
            offsets, start = group["offsets"][...].astype(int), group["data"].id.get_offset()
            assert len(offsets) == 6 and offsets[0] == 0 and offsets[-1] == len(group["data"])
            for view in range(5):
                piece = whole[start + offsets[view] : start + offsets[view + 1]]
                assert piece == group["data"][offsets[view] : offsets[view + 1]].tobytes()
                assert piece.startswith(b"RIFF" if name == "rgba" else b"\x89PNG")
                assert zlib.crc32(piece) == group["crc32"][view]
        assert file["geometry/points"].shape == (2, 200, 3) and file["geometry/solid"].shape == (2, 262144)
        assert zlib.crc32(file["geometry/normals"][1].tobytes()) == file["geometry/crc32"][1, 1]

        def check(name: str, dataset: Any) -> None:
            if isinstance(dataset, h5py.Dataset):
                assert dataset.chunks is None and dataset.compression is None
                if "crc32" in dataset.attrs:
                    assert zlib.crc32(dataset[...].tobytes()) == dataset.attrs["crc32"]
                else:
                    assert name.rpartition("/")[2] in ("data", "points", "normals", "solid")

        file.visititems(check)


def test_the_same_objects_give_the_same_bytes(shard: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "other.h5", make_object(0)[0], make_object(1, views=3)[0])
    assert again.read_bytes() == shard.read_bytes()


def test_webp_keeps_what_is_seen_and_blackens_what_is_not() -> None:
    rng = np.random.default_rng(0)
    for alpha in (
        rng.integers(0, 256, (33, 33)),
        np.full((33, 33), 255),
        np.full((33, 33), 0),
        rng.integers(0, 2, (33, 33)),
    ):
        rgba = np.concatenate([rng.integers(0, 256, (33, 33, 3)), alpha[..., None]], axis=-1).astype(np.uint8)
        decoded = decode_rgba(np.frombuffer(encode_rgba(rgba), np.uint8), 33)
        np.testing.assert_array_equal(decoded, np.where(rgba[..., 3:] > 0, rgba, 0))


def test_pictures_of_another_kind_or_size_are_not_decoded() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[2:5, 2:5] = 200
    webp = np.frombuffer(encode_rgba(rgba), np.uint8)
    with pytest.raises(ValueError, match="8×8 pixels, expected 9×9"):
        decode_rgba(webp, 9)
    huge = webp.copy()
    huge[21:25] = np.frombuffer((16382 | 16382 << 14).to_bytes(4, "little"), np.uint8)
    with pytest.raises(ValueError, match="16383×16383"):
        decode_rgba(huge, 8)
    png = cv2.imencode(".png", rgba)[1]
    for other in (png, webp[:30], webp[:10], webp[:0]):
        with pytest.raises(ValueError, match="WebP"):
            decode_rgba(other, 8)


# Damage.


def test_verify_finds_every_flipped_byte(shard: Path, tmp_path: Path) -> None:
    """All of the user block, and bytes all over the file."""
    whole, path = shard.read_bytes(), tmp_path / "shard-000000.h5"
    rng = np.random.default_rng(0)
    for spot in [*range(512), *rng.integers(512, len(whole), 300), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[spot] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        assert check_hash(path), f"byte {spot}"
    path.write_bytes(whole)
    assert check_hash(path) == []


def test_a_reader_never_returns_changed_content(shard: Path, tmp_path: Path) -> None:
    """After any flip, everything that can be read is as it was written, or reading raises an error that names the file."""
    whole, truth = shard.read_bytes(), content(shard)
    path = tmp_path / "shard-000000.h5"
    rng = np.random.default_rng(1)
    with h5py.File(shard) as file:
        solids = file["geometry/solid"].id.get_offset(), 2 * 262144
    elsewhere = [
        s for s in range(len(whole)) if not solids[0] <= s < sum(solids)
    ]  # they are nine tenths of this small file
    noticed = 0
    for spot in [*rng.choice(elsewhere, 500), *rng.integers(0, len(whole), 30)]:
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert same(content(path), truth), f"byte {spot} changed what is read, unnoticed"
        except ShardError as error:
            assert str(path) in str(error)
            noticed += 1
    assert noticed > 400


def test_an_error_names_object_and_view_and_the_next_step(shard: Path, tmp_path: Path) -> None:
    with h5py.File(shard) as file:
        group = file["images/rgba/24"]
        spot = group["data"].id.get_offset() + int(group["offsets"][3]) + 20  # object 1, view 1
    damaged = bytearray(shard.read_bytes())
    damaged[spot] ^= 1
    path = tmp_path / "shard-000000.h5"
    path.write_bytes(damaged)
    shards = ShardSet(path)
    with pytest.raises(ShardError, match=r"rgba of 24 pixels, object 1, view 1.*datasets\.verify") as caught:
        shards.picture(1, 1, 24)
    assert str(path) in str(caught.value)
    shards.picture(1, 0, 24), shards.picture(1, 1, 48)  # the rest is still there


def test_a_truncated_or_grown_shard_is_refused(shard: Path, tmp_path: Path) -> None:
    whole, path = shard.read_bytes(), tmp_path / "shard-000000.h5"
    for piece in (b"", whole[:3], whole[:512], whole[:700], whole[: len(whole) // 2], whole[:-1], whole + b"x"):
        path.write_bytes(piece)
        with pytest.raises(ShardError, match=r"shard-000000\.h5"):
            ShardSet(path)


def test_other_versions_and_other_files_are_refused_by_name(shard: Path, tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.h5"
    for version in (0, 2, 10):
        path.write_bytes(shard.read_bytes().replace(b"SHARD 1\n", b"SHARD %d\n" % version, 1))
        with pytest.raises(ShardError, match=f"shard format {version}, this version of Turntable reads 1"):
            ShardSet(path)
    path.write_bytes(b"<!doctype html><title>404</title>" * 100)
    with pytest.raises(ShardError, match="not a turntable shard"):
        ShardSet(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(ShardError, match="not a turntable shard"):
        ShardSet(path)
    for absent in (tmp_path / "absent", tmp_path / "absent.h5"):
        with pytest.raises(ShardError, match=r"preprocess\.captures"):
            ShardSet(absent)
    path.unlink()
    with pytest.raises(ShardError, match=r"no shard-\*\.h5"):
        ShardSet(tmp_path)


def resealed(path: Path) -> None:
    """Gives a shard that was changed through h5py a fitting user block again."""
    whole = path.read_bytes()
    digest = hashlib.sha256(whole[512:]).hexdigest()
    path.write_bytes(
        f"TURNTABLE-SHARD 1\nbytes {len(whole)}\nsha256 {digest}\n".encode().ljust(512, b"\0") + whole[512:]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["views/intrinsics"].__setitem__((0, 0), 3.0), "intrinsics does not fit its checksum"),
        (lambda f: f["objects/view_offsets"].__setitem__(1, 1), "view_offsets does not fit its checksum"),
        (lambda f: f["images/rgba/24/offsets"].__setitem__(1, 0), "offsets does not fit its checksum"),
        (lambda f: f.attrs.__setitem__("format_version", 2), "calls itself turntable-shard 2"),
        (lambda f: f.attrs.__setitem__("convention", "left-handed"), "convention"),
        (lambda f: f.attrs.__setitem__("configuration", "{"), "HDF5 structure"),
        (lambda f: f.__delitem__("views"), "HDF5 structure"),
        (lambda f: f["views/matte_box"].attrs.__delitem__("crc32"), "HDF5 structure"),
    ],
)
def test_changed_tables_are_refused_even_with_a_fitting_hash(
    shard: Path, tmp_path: Path, change: Any, message: str
) -> None:
    path = tmp_path / "shard-000000.h5"
    path.write_bytes(shard.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    resealed(path)
    with pytest.raises(ShardError, match=message):
        ShardSet(path)


# Sets.


def test_many_shards_are_one_sequence(shard: Path, tmp_path: Path) -> None:
    write(tmp_path / "shard-000001.h5", make_object(5)[0])
    (tmp_path / "shard-000000.h5").write_bytes(shard.read_bytes())
    (tmp_path / ".shard-000002.h5.tmp").write_bytes(b"unfinished")
    shards = ShardSet(tmp_path)
    assert shards.uids == [uid_of(0), uid_of(1), uid_of(5)]
    assert [shards.view_count(i) for i in range(3)] == [2, 3, 2]
    np.testing.assert_array_equal(shards.picture(2, 1, 48), make_object(5)[1][1])
    assert ShardSet([tmp_path / "shard-000001.h5"]).uids == [uid_of(5)]


def test_shards_of_different_sizes_make_one_set(shard: Path, tmp_path: Path) -> None:
    write(tmp_path / "shard-000001.h5", make_object(5, sizes=(32,))[0])
    (tmp_path / "shard-000000.h5").write_bytes(shard.read_bytes())
    shards = ShardSet(tmp_path)
    assert shards.sizes == [24, 32, 48]
    assert shards.picture(0, 0, 32).shape == shards.picture(2, 0, 32).shape == (32, 32, 4)


def test_a_uid_in_two_shards_names_both(shard: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"shard-00000{number}.h5").write_bytes(shard.read_bytes())
    with pytest.raises(ShardError, match=r"shard-000000\.h5 and in .*shard-000001\.h5"):
        ShardSet(tmp_path)


def test_what_is_not_there_is_an_error(shard: Path, tmp_path: Path) -> None:
    reader = ShardReader(shard)
    for call in (lambda: reader.view_count(2), lambda: reader.record(-1), lambda: reader.picture(0, 2, 24)):
        with pytest.raises(IndexError, match="asked for"):
            call()
    item, _ = make_object(0)
    bare = {key: value for key, value in item.images.items() if key[0] == "rgba"}
    path = write(
        tmp_path / "a.h5", ShardObject({"uid": "x"}, item.world_from_camera, item.intrinsics, item.matte_box, bare)
    )
    reader = ShardReader(path)
    for call in (lambda: reader.depth(0, 0), lambda: reader.normal(0, 0), lambda: reader.geometry(0)):
        with pytest.raises(ShardError, match="stores no"):
            call()


def test_pickling_reopens_and_arrays_are_the_readers_own(shard: Path) -> None:
    shards = ShardSet(shard)
    truth = content(shards)
    assert len(pickle.dumps(shards)) < 5000
    assert same(content(pickle.loads(pickle.dumps(shards))), truth)
    for array in content(shards):
        if isinstance(array, np.ndarray):
            array[...] = 1  # must neither fail nor reach the map or the tables
    assert same(content(shards), truth)


def _content_of(shards: ShardSet) -> list[Any]:
    return content(shards)


def test_spawned_processes_and_threads_read_the_same(shard: Path) -> None:
    shards = ShardSet(shard)
    truth = content(shards)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert same(pool.apply(_content_of, (shards,)), truth)
    with ThreadPoolExecutor(8) as threads:
        assert all(
            same(got, truth) for got in threads.map(_content_of, [pickle.loads(pickle.dumps(shards)), *[shards] * 7])
        )


# Writing.


def test_nothing_is_there_before_the_close_and_no_spool_after(tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.h5"
    writer = ShardWriter(path, {})
    writer.add(make_object(0)[0])
    assert not path.exists() and spool_folder(path).exists() and list(tmp_path.glob("shard-*")) == []
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["shard-000000.h5"]
    writer = ShardWriter(tmp_path / "shard-000001.h5", {})
    writer.add(make_object(1)[0])
    writer.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["shard-000000.h5"]


def test_objects_of_another_layout_or_without_sense_are_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a.h5", {})
    writer.add(make_object(0)[0])
    with pytest.raises(ValueError, match="holds"):
        writer.add(make_object(1, sizes=(24,))[0])
    item, _ = make_object(2)
    with pytest.raises(ValueError, match="2 cameras, another number"):
        writer.add(
            ShardObject(
                item.record, item.world_from_camera, item.intrinsics[:1], item.matte_box, item.images, item.geometry
            )
        )
    writer.close()
    assert ShardSet(tmp_path / "a.h5").uids == [uid_of(0)]


def test_the_sparse_file_behaves_as_a_file() -> None:
    """Random reads, writes and seeks beside Python's own file in memory."""
    rng = np.random.default_rng(0)
    ours, theirs = _SparseFile(), io.BytesIO()
    for _ in range(400):
        where, count = int(rng.integers(0, 30_000)), int(rng.integers(0, 9_000))
        for file in (ours, theirs):
            file.seek(where)
        if rng.random() < 0.5:
            data = rng.bytes(count)
            assert ours.write(data) == theirs.write(data)
        else:
            end = max(len(theirs.getvalue()) - where, 0)
            assert ours.read(count)[:end] == theirs.read(count)
            theirs.seek(where + count)
        assert ours.tell() == theirs.tell()
    copy = io.BytesIO()
    ours.copy_to(copy)
    assert copy.getvalue() == theirs.getvalue()
    ours.seek(1 << 40)
    ours.write(b"far away")  # room for what is written, not for what lies before
    assert len(ours._pages) < 20


WRITE_LIMITED = """
import resource, signal, sys
from pathlib import Path
from datasets.shard_writer import ShardWriter
from tests.datasets.test_shards import make_object
from turntable.errors import DiskFullError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, limits = Path(sys.argv[1]), [int(a) for a in sys.argv[2:]]
objects = [make_object(n)[0] for n in range(3)]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    writer = ShardWriter(folder / "shard-000000.h5", {"sizes": [48, 24]})
    try:
        for item in objects:
            writer.add(item)
        writer.close()
        result = "written"
    except DiskFullError as error:
        result = error.errno
    left = [path.name for path in folder.iterdir()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(limit, result, *left, flush=True)
"""


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel's limit on file size stands for a full disk, at every stage: spools, HDF5's structure, bulk data."""
    size = write(tmp_path / "whole.h5", *(make_object(n)[0] for n in range(3))).stat().st_size
    (tmp_path / "whole.h5").unlink()
    limits = [1_000, 10_000, 100_000, 300_000, *range(786_400, size, 4001), size - 1, size]
    command = [sys.executable, "-c", WRITE_LIMITED, str(tmp_path), *map(str, limits)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    expected = [f"{limit} {errno.EFBIG}" for limit in limits[:-1]] + [f"{size} written shard-000000.h5"]
    assert out.stdout.splitlines() == expected, out.stderr
    assert out.returncode == 0
    assert ShardSet(tmp_path).uids == [uid_of(0), uid_of(1), uid_of(2)]
