"""`python -m render.objaverse` as a user runs it: bad input, resumption, the same bytes from any worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets.captures import CaptureReader, capture_path, capture_paths
from render import devices
from tests.conftest import ROOT
from tests.render.models import Gltf, bracket, write_cache

QUICK = ["--views", "2", "--resolution", "32", "--samples", "1"]


def command(cache: Path, uids: Path, out: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "render.objaverse", "--uids", uids, "--cache", cache, "--out", out]
    return [str(word) for word in [*start, *QUICK, *options]]


def render(cache: Path, uids: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(cache, uids, out, *options), cwd=ROOT, capture_output=True, text=True, timeout=300)


def write_list(folder: Path, uids: list[str]) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{uid}\n" for uid in uids))
    return path


def brackets(count: int) -> dict[str, bytes]:
    return {f"{index:02x}bracket": bracket(1 + index / 10).data() for index in range(count)}


def contents(out: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in capture_paths(out)}


def test_bad_assets_are_named_and_the_rest_is_rendered(tmp_path: Path) -> None:
    empty, good = Gltf(), bracket().data()
    empty.node()
    models = {
        "good": good,
        "page": b"<!DOCTYPE html>",
        "half": good[:500],
        "void": empty.data(),
        "last": bracket(2).data(),
    }
    cache = write_cache(tmp_path / "cache", models)
    uids, out = write_list(tmp_path, ["page", "good", "half", "nobody", "void", "last"]), tmp_path / "out"
    first = render(cache, uids, out)
    assert first.returncode == 1, first.stderr
    failures = {path.stem: json.loads(path.read_text()) for path in (out / "failures").iterdir()}
    reasons = {uid: record["reason"] for uid, record in failures.items()}
    assert reasons == {"page": "bad-asset", "half": "bad-asset", "nobody": "not-found", "void": "empty"}
    assert "HTML" in failures["page"]["message"] and "cut off" in failures["half"]["message"]
    assert "2 done" in first.stdout and "1 empty" in first.stdout and "Traceback" not in first.stderr
    with CaptureReader(capture_path(out, "good")) as reader:
        assert len(reader) == 2 and reader.passes == ["rgba", "depth", "normal"]
        record = reader.record
        assert (record["lvis_class"], record["licence"], record["creator"]) == ("chair", "by", "Ada")
        assert record["asset"]["triangles"] == 36 and record["settings"]["resolution"] == 32
        assert all(view["coverage"] > 0 and not view["border"] for view in reader.view_records)

    started, before = time.monotonic(), {p.name: p.read_bytes() for p in (out / "logs").iterdir()}
    again = render(cache, uids, out)
    assert again.returncode == 1 and "2 done before" in again.stdout
    # Nothing to do: Blender is not even started, so nothing is logged. Ten seconds are promised.
    assert time.monotonic() - started < 10 and {p.name: p.read_bytes() for p in (out / "logs").iterdir()} == before

    other = render(cache, uids, out, "--seed", "5")
    assert other.returncode == 2 and "other settings" in other.stderr and "another --out" in other.stderr
    status = subprocess.run(
        [sys.executable, "-m", "turntable.status", out], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert status.stdout.splitlines()[0] == "2 done, 4 failed (2 bad-asset, 1 empty, 1 not-found), 0 missing"
    assert "bad-asset: 2, such as half: " in status.stdout


def test_bytes_do_not_depend_on_worker_order_or_threads(tmp_path: Path) -> None:
    models = brackets(4)
    cache = write_cache(tmp_path / "cache", models)
    uids = sorted(models)
    one = render(cache, write_list(tmp_path, uids), tmp_path / "a", "--workers-per-gpu", "1", "--samples", "4")
    two = render(cache, write_list(tmp_path, uids[::-1]), tmp_path / "b", "--workers-per-gpu", "2", "--samples", "4")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert len(contents(tmp_path / "a")) == 4 and contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    models = brackets(6)
    cache, uids = write_cache(tmp_path / "cache", models), write_list(tmp_path, sorted(models))
    assert render(cache, uids, tmp_path / "whole").returncode == 0

    process = subprocess.Popen(command(cache, uids, tmp_path / "cut"), cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(capture_paths(tmp_path / "cut")) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # for the kernel to end the worker
    kept = {path: path.stat().st_mtime_ns for path in capture_paths(tmp_path / "cut")}
    assert 2 <= len(kept) < 6

    assert render(cache, uids, tmp_path / "cut").returncode == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path: Path, small_disk: Path) -> None:
    models = brackets(3)
    cache, uids, out = write_cache(tmp_path / "cache", models), write_list(tmp_path, sorted(models)), small_disk / "out"
    # A capture takes about 2.1 MB, most of it surface points: there is room for one.
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - (3 << 20)))
    full = render(cache, uids, out)
    assert full.returncode == 3 and "DiskFullError" in full.stderr and "same command again" in full.stderr
    assert len(contents(out)) == 1 and not list(out.rglob("*.tmp"))
    ballast.unlink()
    again = render(cache, uids, out)
    assert again.returncode == 0 and "1 done before" in again.stdout and len(contents(out)) == 3


def test_gpus_that_are_not_there(tmp_path: Path) -> None:
    found = len(devices.available()[1])
    if found >= 64:
        pytest.skip("needs a machine with fewer than 64 GPUs")
    cache, uids = write_cache(tmp_path / "cache", brackets(1)), write_list(tmp_path, ["00bracket"])
    refused = render(cache, uids, tmp_path / "out", "--gpus", "64")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1 and "--gpus 0" in refused.stderr and "64" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_a_gpu_renders_what_the_cpu_renders(tmp_path: Path) -> None:
    if not devices.available()[1]:
        pytest.skip("needs a GPU that Blender can use")
    cache, uids = write_cache(tmp_path / "cache", brackets(1)), write_list(tmp_path, ["00bracket"])
    for out, gpus in (("cpu", "0"), ("gpu", "1")):
        assert render(cache, uids, tmp_path / out, "--gpus", gpus, "--samples", "64").returncode == 0
    with (
        CaptureReader(capture_path(tmp_path / "cpu", "00bracket")) as cpu,
        CaptureReader(capture_path(tmp_path / "gpu", "00bracket")) as gpu,
    ):
        assert gpu.record["versions"]["device"] == "gpu"
        # Other rounding, other noise: a mean of a few grey levels; depth but for pixels on an edge.
        assert abs(cpu.picture("rgba", 0).astype(int) - gpu.picture("rgba", 0)).mean() < 3
        assert (abs(cpu.depth(0) - gpu.depth(0)) < 1e-3).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views", "0"], "views"),
        (["--gpus", "-1"], "gpus"),
        (["--fov-deg", "0"], "fov_deg"),
        (["--rig", "zero123plus", "--views", "7"], "at most 6"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: list[str], words: str) -> None:
    cache, uids = write_cache(tmp_path / "cache", brackets(1)), write_list(tmp_path, ["00bracket"])
    refused = render(cache, uids, tmp_path / "out", *options)
    assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr


def test_what_is_doubtful_is_counted_and_strict_fails_it(tmp_path: Path) -> None:
    cache, uids = write_cache(tmp_path / "cache", brackets(1)), write_list(tmp_path, ["00bracket"])
    counted = render(cache, uids, tmp_path / "out", "--min-coverage", "0.8")
    assert counted.returncode == 0 and "1 done (1 of them doubtful)" in counted.stdout
    with CaptureReader(capture_path(tmp_path / "out", "00bracket")) as reader:
        assert reader.record["doubts"] == ["2 of 2 views show almost nothing"]
        assert [view["doubts"] for view in reader.view_records] == [["small"], ["small"]]
    strict = render(cache, uids, tmp_path / "strict", "--min-coverage", "0.8", "--strict")
    assert strict.returncode == 1 and "1 failed (1 doubtful)" in strict.stdout
    assert "almost nothing" in (tmp_path / "strict" / "failures" / "00bracket.json").read_text()
