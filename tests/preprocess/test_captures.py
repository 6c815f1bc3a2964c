"""Captures into shards: what is stored, and what happens when a run is repeated, broken off, disturbed or out of space."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.captures import CaptureReader, capture_path, write_capture
from datasets.pictures import encode_png
from datasets.shards import ShardSet, shard_paths
from datasets.verify import verify
from preprocess.captures import PreprocessConfig, preprocess
from preprocess.filling import stored_sizes
from tests.conftest import ROOT
from tests.datasets.synthetic import make_capture, uid_of, write_captures
from tests.preprocess.onnx_networks import write_network
from turntable import framing
from turntable.errors import DiskFullError, UserError
from turntable.files import sha256

COUNT = 5


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    write_captures(folder, COUNT, views=2, resolution=32)
    return folder


def config(captures: Path, out: Path, **changes: object) -> PreprocessConfig:
    settings: dict = {"captures": captures, "out": out, "sizes": (512, 32, 16), "threads": 1, **changes}
    return PreprocessConfig(**settings)


def one_a_shard(captures: Path, out: Path, **changes: object) -> PreprocessConfig:
    return config(captures, out, shard_bytes=1, **changes)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def command(config: PreprocessConfig, *more: str) -> list[str]:
    sizes = [str(s) for s in config.sizes]
    places = ["--captures", str(config.captures), "--out", str(config.out), "--sizes", *sizes]
    numbers = ["--threads", str(config.threads), "--shard-bytes", str(config.shard_bytes)]
    return [sys.executable, "-m", "preprocess.captures", *places, *numbers, *more]


def run(config: PreprocessConfig, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *more), cwd=ROOT, capture_output=True, text=True)


def test_sizes_are_those_that_were_rendered_or_fewer() -> None:
    assert stored_sizes(512, (512, 256, 128)) == [512, 256, 128]
    assert stored_sizes(256, (512, 256, 128)) == [256, 128]
    assert stored_sizes(200, (512, 256, 128)) == [128]
    assert stored_sizes(64, (512, 256, 128)) == [64]


def test_a_shard_holds_what_the_captures_hold(captures: Path, tmp_path: Path) -> None:
    summary = preprocess(config(captures, tmp_path))
    assert (summary.done, summary.skipped, summary.failed, summary.empty_views) == (COUNT, 0, {}, 0)
    shards = ShardSet(tmp_path)
    assert shards.uids == [uid_of(n) for n in range(COUNT)]
    assert shards.sizes == [16, 32]
    assert verify(tmp_path).damage == []
    for index in range(COUNT):
        with CaptureReader(capture_path(captures, uid_of(index))) as capture:
            record = shards.record(index)
            assert (record["uid"], record["licence"], record["lvis_class"]) == (uid_of(index), "cc0", "lamp")
            assert record["depth_scale"] == capture.depth_scale and len(record["views"]) == 2
            poses, intrinsics = shards.cameras(index)
            np.testing.assert_array_equal(poses, capture.world_from_camera)
            np.testing.assert_array_equal(intrinsics, capture.intrinsics)
            np.testing.assert_array_equal(shards.geometry(index).solid, capture.geometry().solid)
            for view in range(2):
                rgba = capture.picture("rgba", view)
                np.testing.assert_array_equal(shards.picture(index, view, 32), rgba)
                np.testing.assert_array_equal(shards.picture(index, view, 16), framing.resize(rgba, 16, 16))
                np.testing.assert_array_equal(shards.depth(index, view), capture.depth(view))
                np.testing.assert_allclose(shards.matte_boxes(index)[view], framing.matte_box(rgba[..., 3]), rtol=1e-6)
                reader, number = shards.place(index)
                assert reader.encoded("depth", 32, number, view).tobytes() == capture.encoded("depth", view)
                assert reader.encoded("normal", 32, number, view).tobytes() == capture.encoded("normal", view)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"shard-000000.h5", "index.json", "config.json", ".lock"}


def test_bytes_do_not_depend_on_the_number_of_threads(captures: Path, tmp_path: Path) -> None:
    preprocess(config(captures, tmp_path / "one"))
    preprocess(config(captures, tmp_path / "two", threads=2))
    assert (tmp_path / "one/shard-000000.h5").read_bytes() == (tmp_path / "two/shard-000000.h5").read_bytes()


def test_a_full_shard_is_closed_and_the_next_begun(captures: Path, tmp_path: Path) -> None:
    summary = preprocess(config(captures, tmp_path, shard_bytes=800_000))  # an object takes about 300,000
    assert [len(ShardSet([path])) for path in shard_paths(tmp_path)] == [3, 2]
    assert summary.shards == ["shard-000000.h5", "shard-000001.h5"]
    assert len(ShardSet(tmp_path)) == COUNT


def test_a_run_again_adds_what_is_missing_and_touches_nothing_else(captures: Path, tmp_path: Path) -> None:
    partial = copied(captures, tmp_path / "captures")
    late = capture_path(partial, uid_of(2))
    content = late.read_bytes()
    late.unlink()
    out = tmp_path / "shards"
    preprocess(config(partial, out))
    before = (out / "shard-000000.h5").read_bytes(), (out / "shard-000000.h5").stat().st_mtime_ns
    late.write_bytes(content)
    summary = preprocess(config(partial, out, threads=2, shard_bytes=5.0))  # these two may differ
    assert (summary.done, summary.skipped, summary.shards) == (1, 4, ["shard-000001.h5"])
    assert before == ((out / "shard-000000.h5").read_bytes(), (out / "shard-000000.h5").stat().st_mtime_ns)
    assert sorted(ShardSet(out).uids) == [uid_of(n) for n in range(COUNT)]
    assert len(json.loads((out / "index.json").read_text())["objects"]) == COUNT


def test_nothing_to_do_is_quick_and_says_so(captures: Path, tmp_path: Path) -> None:
    preprocess(config(captures, tmp_path))
    start = time.monotonic()
    out = run(config(captures, tmp_path))
    assert out.returncode == 0 and "5 were there already" in out.stdout, out.stderr
    assert time.monotonic() - start < 10


def test_one_folder_never_mixes_two_settings(captures: Path, tmp_path: Path) -> None:
    preprocess(config(captures, tmp_path))
    with pytest.raises(UserError, match=r"other settings.*sizes"):
        preprocess(config(captures, tmp_path, sizes=(32,)))


def broken(captures: Path, tmp_path: Path) -> Path:
    """Five captures: a truncated one, one of HTML, one whose second view is empty, one never seen, one sound."""
    folder = copied(captures, tmp_path / "captures")
    cut, page = capture_path(folder, uid_of(0)), capture_path(folder, uid_of(1))
    cut.write_bytes(cut.read_bytes()[:-500])
    page.write_text("<!doctype html><title>404</title>")
    nothing = encode_png(np.zeros((32, 32, 4), np.uint8))
    for number, empty in ((2, (1,)), (3, (0, 1))):
        capture = make_capture(uid_of(number), number, 2, 32)
        views = [
            dataclasses.replace(v, images={**v.images, "rgba": nothing}) if k in empty else v
            for k, v in enumerate(capture.views)
        ]
        write_capture(capture_path(folder, uid_of(number)), dataclasses.replace(capture, views=views))
    return folder


def test_captures_that_cannot_be_used_are_named_and_passed_over(captures: Path, tmp_path: Path) -> None:
    folder, out = broken(captures, tmp_path), tmp_path / "shards"
    result = run(config(folder, out))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert ShardSet(out).uids == [uid_of(2), uid_of(4)]
    failures = {path.stem: json.loads(path.read_text()) for path in (out / "failures").iterdir()}
    assert {uid: f["reason"] for uid, f in failures.items()} == {
        uid_of(0): "corrupt-capture", uid_of(1): "corrupt-capture", uid_of(3): "empty",
    }  # fmt: skip
    assert all(f["uid"] == uid and str(capture_path(folder, uid)) in f["message"] for uid, f in failures.items())
    assert "2 captures could not be used: corrupt-capture" in result.stdout
    assert "1 of their views show nothing" in result.stdout
    assert ShardSet(out).matte_boxes(0)[1].tolist() == [0, 0, 0, 0]
    # Mended, and run again: what failed is taken up, its failure is forgotten.
    for number in (0, 1, 3):
        shutil.copy(capture_path(captures, uid_of(number)), capture_path(folder, uid_of(number)))
    again = run(config(folder, out))
    assert again.returncode == 0 and "3 objects" in again.stdout and list((out / "failures").iterdir()) == []
    assert verify(out).damage == []


def changed_capture(tmp_path: Path, rgba: np.ndarray, width: int) -> Path:
    folder = tmp_path / "captures"
    capture = make_capture(uid_of(0), 0, 1, 32)
    view = dataclasses.replace(capture.views[0], images={"rgba": encode_png(rgba)})
    path = capture_path(folder, uid_of(0))
    write_capture(path, dataclasses.replace(capture, views=[view], width=width))
    return folder


@pytest.mark.parametrize(
    ("rgba", "reason"),
    [
        (np.full((32, 32, 4), 255, np.uint8), "no-matte"),
        (np.full((32, 48, 4), 128, np.uint8), "not-square"),
    ],
)
def test_pictures_that_cannot_be_used_have_their_reason(tmp_path: Path, rgba: np.ndarray, reason: str) -> None:
    summary = preprocess(config(changed_capture(tmp_path, rgba, rgba.shape[1]), tmp_path / "shards"))
    assert dict(summary.failed) == {reason: 1} and summary.shards == []
    assert json.loads((tmp_path / f"shards/failures/{uid_of(0)}.json").read_text())["reason"] == reason


def test_captures_of_another_name_are_not_taken(captures: Path, tmp_path: Path) -> None:
    folder = copied(captures, tmp_path / "captures")
    path = capture_path(folder, uid_of(0))
    path.rename(path.with_name("00x.zip"))
    summary = preprocess(config(folder, tmp_path / "shards"))
    assert (summary.done, dict(summary.failed)) == (4, {"corrupt-capture": 1})


def test_captures_of_different_sizes_go_into_different_shards(captures: Path, tmp_path: Path) -> None:
    folder = copied(captures, tmp_path / "captures")
    write_capture(capture_path(folder, uid_of(2)), make_capture(uid_of(2), 2, 2, 20))
    preprocess(config(folder, tmp_path / "shards"))
    shards = ShardSet(tmp_path / "shards")
    assert len(shards) == COUNT and shards.sizes == [16, 32]
    assert verify(tmp_path / "shards").damage == []


def test_what_was_asked_wrongly_is_said_before_anything_starts(captures: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    (tmp_path / "empty").mkdir()
    for changed, words in [
        (config(tmp_path / "absent", out), "no such folder"),
        (config(tmp_path / "empty", out), "no capture"),
    ]:
        result = run(changed)
        assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    for option, words in [
        (("--upscale", "waifu"), "no such upscaler; there is none"),
        (("--matte", "guess"), "no such way to find the object; there is alpha"),
        (("--shard-bytes", "0"), "at least 1"),
    ]:
        result = run(config(captures, out), *option)
        text = " ".join(result.stderr.replace("│", " ").split())  # set in a frame and wrapped
        assert result.returncode == 2 and words in text and "Traceback" not in text
    assert not out.exists()


# Runs that end early.


def many(tmp_path: Path, count: int = 60) -> Path:
    """Enough captures that a run can be caught at work: one scene under many uids."""
    folder = tmp_path / "captures"
    capture = make_capture(uid_of(0), 5, 2, 32)
    for number in range(count):
        uid = uid_of(number, 3)
        write_capture(capture_path(folder, uid), dataclasses.replace(capture, uid=uid))
    return folder


def started(config: PreprocessConfig) -> subprocess.Popen[str]:
    """The command, at the moment at which two shards are finished and it goes on working."""
    process = subprocess.Popen(command(config), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(shard_paths(config.out)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_closes_the_shard_in_hand_and_the_same_command_continues(tmp_path: Path, threads: int) -> None:
    folder, out = many(tmp_path), tmp_path / "shards"
    settings = config(folder, out, shard_bytes=800_000, threads=threads)
    process = started(settings)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    kept = ShardSet(out).uids
    assert 2 <= len(kept) < 60
    assert kept == [uid_of(n, 3) for n in range(len(kept))] and verify(out).damage == []
    assert not list(out.glob(".shard*"))
    summary = preprocess(settings)
    assert (summary.skipped, summary.done) == (len(kept), 60 - len(kept))
    assert verify(out).objects == 60 and verify(out).damage == []


def test_a_killed_run_loses_only_the_unfinished_shard(tmp_path: Path) -> None:
    folder, out = many(tmp_path), tmp_path / "shards"
    settings = config(folder, out, shard_bytes=800_000)
    process = started(settings)
    process.kill()
    process.communicate()
    kept = ShardSet(out).uids
    assert 2 <= len(kept) < 60 and verify(out).damage == []
    (out / ".shard-000099.h5.tmp").write_bytes(b"half a shard")
    summary = preprocess(settings)
    assert (summary.skipped, summary.done) == (len(kept), 60 - len(kept))
    assert not list(out.glob(".shard*"))
    assert verify(out).objects == 60 and verify(out).damage == []


def test_a_killed_and_an_unbroken_run_hold_the_same(tmp_path: Path) -> None:
    folder = many(tmp_path, 20)
    preprocess(one_a_shard(folder, tmp_path / "unbroken"))
    settings = one_a_shard(folder, tmp_path / "shards")
    process = started(settings)
    process.kill()
    process.communicate()
    preprocess(settings)
    for path in shard_paths(tmp_path / "unbroken"):
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_two_runs_never_write_into_one_folder(tmp_path: Path) -> None:
    folder, out = many(tmp_path), tmp_path / "shards"
    settings = config(folder, out, shard_bytes=800_000)
    process = started(settings)
    process.send_signal(signal.SIGSTOP)
    try:
        second = run(settings)
        assert second.returncode == 2 and "another run is writing" in second.stderr and "Traceback" not in second.stderr
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert verify(out).objects == 60 and verify(out).damage == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one and a half megabytes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs; the limit on file size in test_shards stands in for it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_disk_keeps_the_finished_shards(captures: Path, tmp_path: Path, tiny_disk: Path, threads: int) -> None:
    settings = one_a_shard(captures, tiny_disk / "shards", threads=threads)
    result = run(settings)
    assert result.returncode == 3 and "DiskFullError" in result.stderr and "Traceback" not in result.stderr
    assert "free some space and run the same command again" in result.stderr
    kept = ShardSet(settings.out).uids
    assert 1 <= len(kept) < COUNT and verify(settings.out).damage == []
    assert not list(settings.out.glob(".shard*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny_disk)], check=True)
    assert run(settings).returncode == 0
    assert ShardSet(settings.out).uids == [uid_of(n) for n in range(COUNT)]


def test_a_full_disk_has_its_own_error(captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing may be mounted: the system's error at the rename, the last step."""

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    settings = config(captures, tmp_path / "shards")
    settings.out.mkdir()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskFullError, match="free some space"):
        preprocess(settings)
    assert shard_paths(settings.out) == []


def test_a_damaged_shard_is_not_built_upon(captures: Path, tmp_path: Path) -> None:
    preprocess(config(captures, tmp_path))
    path = tmp_path / "shard-000000.h5"
    path.write_bytes(path.read_bytes()[:-10])
    result = run(config(captures, tmp_path))
    assert result.returncode == 2 and "shard-000000.h5" in result.stderr and "Traceback" not in result.stderr


def test_mattes_by_a_network_are_recorded_and_not_mixed(tmp_path: Path) -> None:
    """Opaque pictures of a bright square; the network given by path is then replaced by another."""
    rgba = np.full((32, 32, 4), 255, np.uint8)
    rgba[..., :3] = 20
    rgba[8:24, 8:24, :3] = 240
    folder, network = changed_capture(tmp_path, rgba, 32), write_network(tmp_path / "bright.onnx")
    chosen = config(folder, tmp_path / "shards", matte=f"rembg:u2net_custom={network}")
    assert preprocess(chosen).done == 1
    shards = ShardSet(tmp_path / "shards")
    found = shards.record(0)["matting"]
    assert found["network"] == "u2net_custom" and found["sha256"] == {"bright.onnx": sha256(network)}
    # 2 of 32 pixels: the network's edge is soft
    np.testing.assert_allclose(shards.matte_boxes(0)[0], [0.25, 0.25, 0.75, 0.75], atol=2 / 32)
    write_network(network, gain=5.0)
    with pytest.raises(UserError, match=r"its mattes came of .* use another --out"):
        preprocess(chosen)


def test_a_network_that_cannot_be_had_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    folder = changed_capture(tmp_path, np.full((32, 32, 4), 255, np.uint8), 32)
    (tmp_path / "text.onnx").write_text("no network")
    result = run(config(folder, tmp_path / "shards"), "--matte", f"rembg:u2net_custom={tmp_path / 'text.onnx'}")
    assert result.returncode == 2 and "not a network that rembg can use" in result.stderr
    assert not (tmp_path / "shards" / "failures").exists()
