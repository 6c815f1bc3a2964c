"""Damage of every kind, everywhere in a shard: `verify` finds each, and the reader gives what was written or an error.

The reader is compared by encoded bytes and raw arrays, every one of them, which is quicker than decoding; what those decode to
is `test_shards.py`'s.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from datasets.packing import Packer, writing
from datasets.shard_writer import ShardObject, ShardWriter
from datasets.shards import ShardError, ShardReader, ShardSet
from datasets.verify import check_hash, verify
from tests.datasets.synthetic import uid_of
from tests.datasets.test_shards import make_object, write
from turntable.errors import DiskFullError, UserError

Span = tuple[int, int]


def raw_content(path: Path) -> list[Any]:
    """Everything that a reader gives, as bytes."""
    shards = ShardSet(path)
    out: list[Any] = [shards.uids, shards.sizes]
    for index in range(len(shards)):
        reader, number = shards.place(index)
        out += [reader.record(number), reader.configuration, reader.layout, reader.has_geometry]
        out += [array.tobytes() for array in (*reader.cameras(number), reader.matte_boxes(number))]
        for name, size in reader.layout:
            out += [reader.encoded(name, size, number, v).tobytes() for v in range(reader.view_count(number))]
        if reader.has_geometry:
            shape = reader.geometry(number)
            out += [part.tobytes() for part in (shape.points, shape.normals, shape.solid)]
    return out


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects without depth and normals, so that tables and structure are the greater part."""
    items = []
    for number in (0, 1):
        item = make_object(number, views=2, sizes=(16,))[0]
        pictures = {key: value for key, value in item.images.items() if key[0] == "rgba"}
        items.append(ShardObject(item.record, item.world_from_camera, item.intrinsics, item.matte_box, pictures))
    return write(tmp_path_factory.mktemp("small") / "shard-000000.h5", *items)


@pytest.fixture(scope="module")
def whole_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a shard may hold."""
    return write(tmp_path_factory.mktemp("whole") / "shard-000000.h5", make_object(0)[0], make_object(1, views=3)[0])


def datasets_of(path: Path) -> dict[str, Span]:
    """Name -> first byte and the byte after the last of each dataset."""
    spans: dict[str, Span] = {}

    def note(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset) and entry.size:
            start = entry.id.get_offset()
            spans[name] = (start, start + entry.nbytes)

    with h5py.File(path) as file:
        file.visititems(note)
    return spans


@contextlib.contextmanager
def changed(path: Path, start: int, new: bytes) -> Iterator[None]:
    """Other bytes in a file for a while."""
    with path.open("r+b", buffering=0) as handle:
        handle.seek(start)
        before = handle.read(len(new))
        handle.seek(start)
        handle.write(new)
        try:
            yield
        finally:
            handle.seek(start)
            handle.write(before)


def noticed(path: Path, truth: list[Any]) -> bool:
    """Whether reading raises an error that names the file; content that is not as written fails the test."""
    try:
        assert raw_content(path) == truth, "changed content was read, unnoticed"
    except ShardError as error:
        assert str(path) in str(error)
        return True
    return False


def test_every_byte_of_a_shard_matters_to_verify(shard: Path) -> None:
    """Every single byte, flipped in one bit that differs from byte to byte."""
    length = shard.stat().st_size
    content = shard.read_bytes()
    missed = []
    for spot in range(length):
        with changed(shard, spot, bytes([content[spot] ^ 1 << spot % 8])):
            if not check_hash(shard):
                missed.append(spot)
    assert missed == [] and check_hash(shard) == []


def test_no_byte_of_header_tables_or_structure_changes_what_is_read(shard: Path) -> None:
    """Every other one, flipped in one bit; all of them take a quarter of a minute and pass."""
    truth, content = raw_content(shard), shard.read_bytes()
    bulk = [span for name, span in datasets_of(shard).items() if name.endswith("/data")]
    spots = [s for s in range(len(content)) if not any(start <= s < end for start, end in bulk)]
    found = 0
    for spot in spots[::2]:
        with changed(shard, spot, bytes([content[spot] ^ 1 << spot % 8])):
            found += noticed(shard, truth)
    assert found > 1500 and not noticed(shard, truth)


def test_no_byte_of_bulk_data_is_returned_changed(whole_shard: Path) -> None:
    truth, content = raw_content(whole_shard), whole_shard.read_bytes()
    rng = np.random.default_rng(0)
    for name, (start, end) in datasets_of(whole_shard).items():
        if name.endswith(("/data", "points", "normals", "solid")):
            for spot in (start, end - 1, *rng.integers(start, end, 12).tolist()):
                with changed(whole_shard, spot, bytes([content[spot] ^ int(rng.integers(1, 256))])):
                    assert noticed(whole_shard, truth), name
                    assert check_hash(whole_shard), name


def test_truncated_anywhere_or_grown_is_refused(whole_shard: Path, tmp_path: Path) -> None:
    """At every boundary of every dataset, a byte to either side, at page boundaries and anywhere."""
    content, path = whole_shard.read_bytes(), tmp_path / "shard-000000.h5"
    rng = np.random.default_rng(1)
    edges = {edge + by for span in datasets_of(whole_shard).values() for edge in span for by in (-1, 0, 1)}
    edges |= {*range(20), *range(500, 530), *range(0, len(content), 65536), *rng.integers(0, len(content), 60).tolist()}
    for length in sorted(edges - {len(content)}):
        path.write_bytes(content[:length] + b"\0" * max(length - len(content), 0))
        with pytest.raises(ShardError, match=r"shard-000000\.h5"):
            ShardSet(path)
        assert check_hash(path)
    for more in (b"\0", b"\0" * 4096, content[:512], content):
        path.write_bytes(content + more)
        with pytest.raises(ShardError, match=r"bytes long, written with"):
            ShardSet(path)


def test_regions_swapped_zeroed_or_repeated_are_found(whole_shard: Path) -> None:
    """As disks and careless copies do it: whole pages of zeros, pages in another's place."""
    truth, content = raw_content(whole_shard), whole_shard.read_bytes()
    rng = np.random.default_rng(2)
    for size in (16, 512, 4096):
        for _ in range(25):
            a, b = (int(x) for x in rng.integers(0, len(content) // size, 2) * size)
            for start, new in ((a, b"\0" * size), (a, content[b : b + size])):
                new = new[: len(content) - start]
                if new == content[start : start + len(new)]:
                    continue
                with changed(whole_shard, start, new):
                    assert check_hash(whole_shard)
                    noticed(whole_shard, truth)


def test_pictures_in_each_others_place_are_found(whole_shard: Path) -> None:
    """Both are sound pictures; each is where the other belongs."""
    with h5py.File(whole_shard) as file:
        group = file["images/rgba/24"]
        base, offsets = group["data"].id.get_offset(), [int(o) for o in group["offsets"]]
    content, truth = whole_shard.read_bytes(), raw_content(whole_shard)
    first, second = (content[base + offsets[k] : base + offsets[k + 1]] for k in (0, 1))
    with changed(whole_shard, base, second + first):
        assert noticed(whole_shard, truth)
        damage = verify(whole_shard).damage
    assert sum("checksum" in line for line in damage) >= 1 and "SHA-256" in damage[0]


def test_damage_after_opening_is_not_read_either(whole_shard: Path) -> None:
    """Tables are kept as they were when they were checked; pictures are checked every time."""
    reader = ShardReader(whole_shard)
    poses, boxes = reader.cameras(0)[0], reader.matte_boxes(0)
    reader.picture(0, 0, 24)
    spans = datasets_of(whole_shard)
    for name in ("views/world_from_camera", "views/matte_box", "images/rgba/24/data", "images/rgba/24/offsets"):
        start, end = spans[name]
        with changed(whole_shard, start, bytes(b ^ 255 for b in whole_shard.read_bytes()[start:end])):
            np.testing.assert_array_equal(reader.cameras(0)[0], poses)
            np.testing.assert_array_equal(reader.matte_boxes(0), boxes)
            if name.endswith("data"):
                with pytest.raises(ShardError):
                    reader.picture(0, 0, 24)


# Writers.


def _write_slowly(folder: Path, begun: Any) -> None:
    with writing(folder), Packer(folder) as packer:
        packer.add(make_object(0)[0], {})
        begun.set()
        time.sleep(60)


def _try_to_write(folder: Path, answers: Any) -> None:
    try:
        with writing(folder), Packer(folder) as packer:
            packer.add(make_object(1)[0], {})
        answers.put("written")
    except UserError as error:
        answers.put(str(error))


def test_another_process_s_folder_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    """What the killed one left is cleared, and nothing of it is taken for a shard."""
    context = multiprocessing.get_context("fork")
    begun, answers = context.Event(), context.Queue()
    first = context.Process(target=_write_slowly, args=(tmp_path, begun))
    first.start()
    assert begun.wait(60)
    second = context.Process(target=_try_to_write, args=(tmp_path, answers))
    second.start()
    assert "another run is writing" in answers.get(timeout=60)
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert list(tmp_path.glob(".shard-*.tmp")) and not list(tmp_path.glob("shard-*"))
    third = context.Process(target=_try_to_write, args=(tmp_path, answers))
    third.start()
    assert answers.get(timeout=60) == "written"
    for process in (second, third):
        process.join()
    assert ShardSet(tmp_path).uids == [uid_of(1)] and not list(tmp_path.glob(".shard-*.tmp"))
    assert verify(tmp_path).damage == []


def test_a_full_disk_leaves_finished_shards_and_no_half_one(small_disk: Path) -> None:
    """48 MiB; each object takes about 0.3."""
    item = make_object(0)[0]
    large = ShardObject(
        {**item.record, "filler": "x" * (1 << 20)}, item.world_from_camera, item.intrinsics, item.matte_box, item.images
    )
    with pytest.raises(DiskFullError, match="free some space"), writing(small_disk), Packer(small_disk, 8e6) as packer:
        for number in range(200):
            record = {**large.record, "uid": uid_of(number)}
            packer.add(
                ShardObject(
                    record, *[getattr(large, n) for n in ("world_from_camera", "intrinsics", "matte_box", "images")]
                ),
                {},
            )
    assert len(packer.finished) >= 2 and not list(small_disk.glob(".shard-*"))
    assert ShardSet(small_disk).uids == [uid_of(n) for n in range(len(ShardSet(small_disk)))]
    assert verify(small_disk).damage == []


def test_a_writer_that_was_killed_at_the_close_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    """Between the temporary file and the rename."""

    def die(self: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=_killed_at_the_rename, args=(tmp_path, die))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".shard-*.tmp")) and not list(tmp_path.glob("shard-*.h5"))
    with writing(tmp_path):
        assert not list(tmp_path.glob(".shard-*"))


def _killed_at_the_rename(folder: Path, die: Any) -> None:
    writer = ShardWriter(folder / "shard-000000.h5", {})
    writer.add(make_object(0)[0])
    Path.replace = die  # type: ignore[method-assign]
    writer.close()
