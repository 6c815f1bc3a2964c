"""Official weights: fetched once, resumed, checked; without a network, everything that a user needs to bring them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess import weights
from preprocess.weights import Official, WeightsError
from tests.datasets import mirror
from turntable import download

CONTENT = bytes(range(256)) * 40
SMALL = Official("v9", "small.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
HASTE = download.Policy(tries=2, backoff_s=0.01, timeout_s=1.0)


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[mirror.Mirror]:
    (tmp_path / "server" / "v9").mkdir(parents=True)
    (tmp_path / "server" / "v9" / "small.pth").write_bytes(CONTENT)
    server = mirror.Mirror(tmp_path / "server")
    yield server
    server.server.shutdown()


def test_weights_are_fetched_once(tmp_path: Path, releases: mirror.Mirror) -> None:
    releases.script["/v9/small.pth"] = [mirror.breaks_after(3000)]
    for _ in range(2):
        path = weights.obtain(SMALL, tmp_path / "cache", releases.url, HASTE)
        assert path.read_bytes() == CONTENT
    assert releases.ranges("/v9/small.pth") == [None, "bytes=3000-"]


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[:-1], CONTENT * 2])
def test_other_content_is_refused(tmp_path: Path, releases: mirror.Mirror, content: bytes) -> None:
    (tmp_path / "server" / "v9" / "small.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=SMALL.sha256):
        weights.obtain(SMALL, tmp_path / "cache", releases.url, HASTE)
    assert not (tmp_path / "cache" / "small.pth").exists()


def test_a_file_that_somebody_laid_there_is_checked(tmp_path: Path) -> None:
    (tmp_path / "small.pth").write_bytes(CONTENT)
    assert weights.obtain(SMALL, tmp_path, "http://127.0.0.1:9", HASTE).read_bytes() == CONTENT
    (tmp_path / "small.pth").write_bytes(CONTENT[1:])
    with pytest.raises(WeightsError, match=rf"small\.pth: its SHA-256 is .*; delete it.*{SMALL.sha256}"):
        weights.obtain(SMALL, tmp_path, "http://127.0.0.1:9", HASTE)


def test_without_a_network_the_error_says_what_to_bring_where(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        weights.obtain(SMALL, tmp_path, "http://127.0.0.1:9", HASTE)
    for needed in (
        str(tmp_path / "small.pth"),
        "10240 bytes",
        SMALL.sha256,
        "http://127.0.0.1:9/v9/small.pth",
        "by hand",
    ):
        assert needed in str(caught.value)


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TURNTABLE_CACHE", str(tmp_path))
    assert download.weights_folder() == tmp_path / "weights"
    monkeypatch.delenv("TURNTABLE_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert download.weights_folder() == Path("/somewhere/.cache/turntable/weights")
