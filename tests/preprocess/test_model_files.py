"""The files of rembg's networks: what rembg expects, what is said offline, what is never kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import rembg.sessions.u2net

from preprocess import matte, model_files
from preprocess.cutout import MatteError
from preprocess.model_files import ModelFile, bring, files_of
from preprocess.sessions import CUSTOM, names
from tests.datasets.mirror import Mirror


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "networks"))
    monkeypatch.delenv("MODEL_CHECKSUM_DISABLED", raising=False)
    return tmp_path / "networks"


def test_rembg_says_of_every_network_which_files_it_needs(home: Path) -> None:
    downloader = rembg.sessions.u2net.pooch
    for name in (name for name in names() if name not in CUSTOM):
        files = files_of(rembg.sessions.sessions[name])
        assert len(files) == (2 if name == "sam" else 1)
        for file in files:
            assert file.path.parent == home and file.path.suffix == ".onnx" and file.url.startswith("https://")
            assert (file.checksum is None) == (name == "sam")
            assert name == "sam" or re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum or "")
    assert rembg.sessions.u2net.pooch is downloader and not home.exists()


def test_offline_the_error_names_file_folder_checksum_and_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr(model_files, "POLICY", model_files.Policy(tries=1))
    with pytest.raises(MatteError) as caught:
        _ = matte.find("rembg:u2net").identity
    assert caught.value.reason == "no-model"
    for words in ("u2net.onnx", str(home), "60024c5c889badc19c04ad937298a77b", "https://github.com/", "U2NET_HOME"):
        assert words in str(caught.value)
    assert not (home / "u2net.onnx").exists()


def test_a_file_that_is_another_is_not_loaded(home: Path) -> None:
    home.mkdir()
    (home / "u2netp.onnx").write_bytes(b"something else")
    found = hashlib.md5(b"something else").hexdigest()
    with pytest.raises(
        MatteError, match=rf"u2netp\.onnx is md5:{found}, rembg expects md5:8e83ca70.*delete it"
    ) as caught:
        _ = matte.find("rembg:u2netp").identity
    assert caught.value.reason == "no-model" and (home / "u2netp.onnx").exists()


def test_what_is_fetched_is_checked_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.onnx").write_bytes(b"a network" * 1000)
    mirror, right = Mirror(tmp_path / "served"), "md5:" + hashlib.md5(b"a network" * 1000).hexdigest()
    target = tmp_path / "home" / "mine.onnx"
    with pytest.raises(MatteError, match=f"gave a file that is {right}, rembg expects md5:0000"):
        bring(ModelFile(target, f"{mirror.url}/net.onnx", "md5:" + "0" * 32), "rembg:x")
    assert [path for path in target.parent.iterdir() if not path.name.startswith(".")] == []
    with monkeypatch.context() as patch, pytest.raises(MatteError, match="9000 bytes, more than 100; refused"):
        patch.setattr(model_files, "POLICY", model_files.Policy(max_bytes=100))
        bring(ModelFile(target, f"{mirror.url}/net.onnx", right), "rembg:x")
    bring(ModelFile(target, f"{mirror.url}/net.onnx", right), "rembg:x")
    assert target.read_bytes() == b"a network" * 1000
    requests = len(mirror.requests)
    bring(ModelFile(target, f"{mirror.url}/net.onnx", right), "rembg:x")
    assert len(mirror.requests) == requests
