"""Shards at URLs: the same content, few bytes asked for, a cache of bounded size that heals itself and is shared by processes."""

from __future__ import annotations

import http.server
import multiprocessing
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.index import write_index
from datasets.shards import ShardError, ShardReader, ShardSet, encode_rgba
from datasets.storage import BlockCache, Remote, open_content
from datasets.verify import verify
from tests.datasets.synthetic import uid_of
from tests.datasets.test_shards import content, make_object, same, write
from turntable.files import location

fsspec = pytest.importorskip("fsspec")
BLOCK = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    write(made / "shard-000000.h5", make_object(0)[0], make_object(1)[0])
    write(made / "shard-000001.h5", make_object(2)[0])
    write_index(made)
    return made


@pytest.fixture
def url(folder: Path) -> Iterator[Path]:
    """The folder in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/shards", recursive=True)
    yield location("memory://shards")
    memory.rm("/shards", recursive=True)


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", 64 * BLOCK, BLOCK)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every request."""
    sizes: list[int] = []
    system = type(fsspec.filesystem("memory"))
    before = system.cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        found = before(self, path, start, end, **more)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(system, "cat_file", cat_file)
    return sizes


def kept(cache: BlockCache) -> int:
    return sum(path.stat().st_size for path in cache.cache_folder.glob("*/*"))


def test_what_is_read_is_what_is_there(folder: Path, url: Path, cache: BlockCache) -> None:
    """The cache holds a third of what is read."""
    expected = content(folder)
    assert same(content(ShardSet(url, cache)), expected)
    assert same(content(ShardSet(location(f"file://{folder}"), cache)), expected)
    assert same(content(ShardSet(url / "shard-000001.h5", cache)), content(folder / "shard-000001.h5"))
    assert kept(cache) <= cache.cache_bytes < sum(p.stat().st_size for p in folder.glob("*.h5")) / 3


def test_only_what_is_needed_is_asked_for_and_only_once(url: Path, tmp_path: Path, asked: list[int]) -> None:
    cache = BlockCache(tmp_path / "large", 1e8, BLOCK)
    shards = ShardSet(url, cache)
    opened, length = sum(asked), sum(p.stat().st_size for p in (url.glob("*.h5")))
    assert opened < length / 4
    asked.clear()
    shape = shards.geometry(1)
    stored = shape.points.nbytes + shape.normals.nbytes // 2 + 128**3 // 8
    assert stored - 2 * BLOCK < sum(asked) <= stored + 6 * BLOCK
    shards.picture(0, 1, 24)
    shards.picture(0, 0, 24)
    asked.clear()
    for number in range(50):
        shards.picture(0, number % 2, 24)
    again = ShardSet(url, cache)
    again.picture(0, 0, 24)
    assert sum(asked) == 2 * 512  # the two headers that tell whether these are still the same shards


def test_the_cache_never_exceeds_its_bound_and_keeps_what_was_used_last(cache: BlockCache) -> None:
    for number in range(200):
        cache.put("a", number, bytes([number]) * BLOCK)
        assert kept(cache) <= cache.cache_bytes
        assert cache.get("a", number) == bytes([number]) * BLOCK
        assert cache.get("a", 0) is not None, number  # asked for all the time
    assert cache.get("a", 100) is None


def test_a_bound_holds_for_all_processes_together(cache: BlockCache) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: cache.put(f"shard{n % 5}", n, bytes(BLOCK)), range(400)))
    assert kept(cache) <= cache.cache_bytes


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "long"])
def test_a_damaged_cache_heals_itself(folder: Path, url: Path, tmp_path: Path, damage: str) -> None:
    cache = BlockCache(tmp_path / "cache", 1e8, BLOCK)
    expected = content(folder)
    assert same(content(ShardSet(url, cache)), expected)
    for path in cache.cache_folder.glob("*/*"):
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 4
        parts = {"flip": whole, "cut": whole[:-1], "empty": b"", "long": whole + b"x"}
        path.write_bytes(parts[damage])
    assert same(content(ShardSet(url, cache)), expected)


def test_damage_at_the_url_is_found_as_here(folder: Path, url: Path, cache: BlockCache) -> None:
    system = fsspec.filesystem("memory")
    whole = bytearray((folder / "shard-000000.h5").read_bytes())
    spot = whole.index(encode_rgba(make_object(1)[1][0])) + 30
    whole[spot] ^= 1
    system.pipe("/shards/shard-000000.h5", bytes(whole))
    shards = ShardSet(url, cache)
    with pytest.raises(ShardError, match=r"shards/shard-000000\.h5: rgba of 48 pixels, object 1, view 0: its checksum"):
        shards.picture(1, 0, 48)
    shards.picture(1, 1, 48)
    damage = verify(url).damage
    assert len(damage) == 2 and "SHA-256" in damage[0] and "object 1, view 0" in damage[1]


def test_verify_reads_the_url_not_the_cache(url: Path, folder: Path) -> None:
    assert verify(url).damage == []
    system = fsspec.filesystem("memory")
    whole = bytearray((folder / "shard-000000.h5").read_bytes())
    whole[-1] ^= 1
    system.pipe("/shards/shard-000000.h5", bytes(whole))
    assert verify(url).damage


def test_a_replaced_shard_is_not_mixed_with_the_one_before(url: Path, cache: BlockCache, tmp_path: Path) -> None:
    before = ShardSet(url / "shard-000001.h5", cache)
    before.picture(0, 0, 48)
    replacement = write(tmp_path / "new.h5", make_object(7)[0])
    fsspec.filesystem("memory").put_file(str(replacement), "/shards/shard-000001.h5")
    assert same(content(ShardSet(url / "shard-000001.h5", cache)), content(replacement))
    with pytest.raises(ShardError):  # who opened the old one is told, and not given parts of the new one
        for view in range(2):
            before.depth(0, view)
            before.geometry(0)


def test_shards_are_found_by_listing_or_by_the_index(
    folder: Path, url: Path, cache: BlockCache, monkeypatch: Any
) -> None:
    system = type(fsspec.filesystem("memory"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("no listing")

    for name in ("ls", "glob", "find"):
        monkeypatch.setattr(system, name, refuse)
    assert ShardSet(url, cache).uids == [uid_of(n) for n in range(3)]
    monkeypatch.undo()
    with pytest.raises(ShardError, match=r"nothing: no shard-\*\.h5 is listed there, nor by an index\.json"):
        ShardSet(location("memory://nothing"), cache)
    with pytest.raises(ShardError, match="no such shard"):
        ShardSet(url / "shard-000009.h5", cache)
    system().pipe("/evil/index.json", b'{"shards": [{"file": "../shards/shard-000000.h5"}]}')
    with pytest.raises(ShardError, match="which is no shard beside it"):
        ShardSet(location("memory://evil"), cache)
    system().rm("/evil", recursive=True)


def test_a_store_that_fails_now_and_then_is_asked_again(url: Path, cache: BlockCache, monkeypatch: Any) -> None:
    system = type(fsspec.filesystem("memory"))
    before, failures = system.cat_file, iter([True, False] * 1000)

    def flaky(self: Any, *arguments: Any, **more: Any) -> bytes:
        if next(failures):
            raise ConnectionError("reset")
        return before(self, *arguments, **more)

    monkeypatch.setattr(system, "cat_file", flaky)
    monkeypatch.setattr("datasets.storage._WAITS", (0, 0))
    ShardSet(url / "shard-000001.h5", cache).picture(0, 0, 48)
    monkeypatch.setattr(system, "cat_file", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("reset")))
    with pytest.raises(ShardError, match=r"shard-000001\.h5: cannot be read \(ConnectionError: reset\)"):
        ShardSet(url / "shard-000001.h5", cache)
    monkeypatch.setattr(system, "cat_file", lambda self, path, start=None, end=None: self.store[path].getvalue())
    with pytest.raises(ShardError, match="must know range requests"):
        ShardSet(url / "shard-000001.h5", cache)


def _sum_of(shards: ShardSet, times: int) -> int:
    rng = np.random.default_rng(times)
    return sum(int(shards.picture(int(rng.integers(3)), int(rng.integers(2)), 48).sum()) for _ in range(times))


def test_processes_share_one_cache(folder: Path, cache: BlockCache) -> None:
    shards = ShardSet(location(f"file://{folder}"), cache)
    local = ShardSet(folder)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        found = pool.starmap(_sum_of, [(shards, times) for times in range(20, 26)])
    assert found == [_sum_of(local, times) for times in range(20, 26)]
    assert kept(cache) <= cache.cache_bytes


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    for number in range(6):
        write(tmp_path / f"shard-{number:06d}.h5", make_object(number)[0])
    expected = content(tmp_path)
    monkeypatch.setattr(ShardSet, "MOST_OPEN", 2)
    shards = ShardSet(tmp_path)
    assert same(content(shards), expected)
    assert sum(reader._opened is not None for reader in shards._readers) == 2
    monkeypatch.undo()
    shards = ShardSet(tmp_path, tables_limit=2.5 * ShardReader(tmp_path / "shard-000000.h5").tables_bytes)
    assert same(content(shards), expected)
    assert sum(reader._opened is not None for reader in shards._readers) == 2


def test_a_cache_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow it more"):
        BlockCache(tmp_path, 1e6)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server that knows range requests."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return super().do_GET()
        whole = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(asked[1]), min(int(asked[2]), len(whole) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(whole[first : last + 1])

    def log_message(self, *_: Any) -> None:
        pass


def test_a_web_server_with_ranges(folder: Path, tmp_path: Path, cache: BlockCache) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http(s) with aiohttp, which is not installed")
    shutil.copytree(folder, tmp_path / "web")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: Ranges(*a, directory=str(tmp_path / "web"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shards = ShardSet(location(f"http://127.0.0.1:{server.server_port}"), cache)
        assert same(content(shards), content(folder))
        server.shutdown()


def test_bytes_beyond_the_end_are_refused(folder: Path, url: Path, cache: BlockCache) -> None:
    for path in (folder, url):
        found = open_content(path / "shard-000000.h5", cache)
        for start, count in ((len(found), 1), (-1, 5), (0, len(found) + 1), (5, -1)):
            with pytest.raises(ShardError, match="has no bytes"):
                found.read(start, count)
        assert len(found.read(len(found) - 3, 3)) == 3 and isinstance(found, Remote) == (path is url)
