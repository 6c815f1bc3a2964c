"""What a user may give by mistake, and what may break on the way: named, with the next step, and nothing lost."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from datasets.samples import SampleConfig, ShardSamples
from datasets.shard_writer import ShardObject
from datasets.shards import ShardError, ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import scene, shell_cameras, solid, surface, write_captures
from tests.datasets.test_order import Echo
from tests.datasets.test_samples import coded_object
from tests.datasets.test_shards import write
from tests.train.test_checkpoints import room
from train import checkpoints
from train.evaluate import EvaluateConfig, evaluate
from train.loop import LoadingError, _loaded, deaths_told_when_asked
from train.lrm import train
from train.methods import require_truth
from train.sets import require
from train.settings import TrainConfig, step_size
from turntable.errors import DiskFullError, UserError
from turntable.geometry import Geometry


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 3, views=6, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return folder / "shards"


def small(shards: Path, out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(shards, out, steps=2, batch=1, rays=32, samples=8, render_size=64, threads=1, device="cpu")
    return replace(config, **changes)  # type: ignore[arg-type]


def listed(path: Path, *uids: str) -> Path:
    path.write_text("\n".join(uids) + "\n")
    return path


def test_a_mistake_leaves_no_folder_so_that_the_mended_command_runs(shards: Path, tmp_path: Path) -> None:
    everything = listed(tmp_path / "all.txt", *ShardSet(shards).uids)
    config = small(shards, tmp_path / "run")
    with pytest.raises(UserError, match=r"all\.txt: names all 3 objects.*none to train on"):
        train(replace(config, development=replace(config.development, dev_uids=everything)))
    assert not config.out.exists()
    assert train(config) == 0
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written .*--out"):
        train(small(shards, tmp_path / "file"))


def test_objects_that_cannot_be_shared_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 objects a step cannot be shared out evenly among 2 processes"):
        step_size(TrainConfig(tmp_path, tmp_path, steps=1, batch=5), objects=9, processes=2)


def test_a_step_of_another_size_is_not_continued_and_other_objects_are_told_of(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where --batch was left out and the number of processes is another one now."""
    config = small(shards, tmp_path / "run")
    train(config)
    with pytest.raises(UserError, match=r"batch was 1, is 2.*--batch 1 --rays 32"):
        train(replace(config, batch=2, resume=True))
    write_captures(tmp_path / "captures", 1, views=3, resolution=64, seed=2)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=tmp_path / "other"))
    with caplog.at_level(logging.WARNING):
        train(replace(config, shards=tmp_path / "other", steps=3, resume=True))
    assert "was trained on 3 objects; --shards now gives 1" in caplog.text
    assert "1 of 1 objects have fewer than the 4 views" in caplog.text


# Shards that are whole, and wrong.


def broken(number: int = 0, **changes: Any) -> ShardObject:
    return replace(coded_object(number), **changes)


def poses_with(change: Callable[[np.ndarray], object]) -> np.ndarray:
    poses, _ = shell_cameras(6, 0)
    change(poses[2])
    return poses


BOXES = np.tile(np.array([0.2, 0.2, 0.8, 0.8], np.float32), (6, 1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"intrinsics": np.full((6, 4), np.inf)}, "not numbers"),
        ({"world_from_camera": poses_with(lambda p: p.__setitem__((0, 3), np.nan))}, r"not numbers.*\[2\]"),
        ({"world_from_camera": poses_with(lambda p: p.__setitem__((slice(None), 3), 0))}, r"object's centre.*\[2\]"),
        ({"world_from_camera": poses_with(lambda p: p.__setitem__((slice(None), 3), 1e30))}, r"out of its sight.*\[2\]"),
        ({"world_from_camera": poses_with(lambda p: p.__imul__(2.0))}, r"not a rotation.*\[2\]"),
        ({"matte_box": BOXES * np.float32(np.nan)}, "matte boxes"),
        ({"matte_box": BOXES[:, [2, 3, 0, 1]]}, "matte boxes"),
    ],
)  # fmt: skip
def test_tables_without_sense_are_named_before_training(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    found = ShardSet(write(tmp_path / "shard-000000.h5", broken(**change)))
    with pytest.raises(ShardError, match=rf"{found.uids[0]}: the .*{says}.*--uids"):
        ShardSamples(found, SampleConfig(input_size=48, views=2, rays=16, render_size=64))


def test_what_cannot_be_judged_is_named(tmp_path: Path) -> None:
    points, normals = surface(scene(0), np.random.default_rng(0), 50)
    points[3, 1] = np.nan
    shape = Geometry(points.astype(np.float32), normals.astype(np.float32), solid(scene(0)))
    found = ShardSet(write(tmp_path / "shard-000000.h5", broken(geometry=shape)))
    with pytest.raises(ShardError, match="surface points or normals are not numbers"):
        require_truth(found, 0, 0, 0)
    for view, held_out in ((6, 0), (0, 7)):
        with pytest.raises(ShardError, match="has 6 views"):
            require_truth(found, 0, view, held_out)


def test_records_without_a_uid(tmp_path: Path) -> None:
    path = write(tmp_path / "shard-000000.h5", broken(record={"name": "x"}))
    with pytest.raises(ShardError, match="object 0 states no uid"):
        ShardSet(path)


def test_a_pass_that_one_of_several_sets_lacks_is_refused_at_once(shards: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "shard-000000.h5", coded_object(7))
    both = ShardSet([*ShardSet(shards).paths, other])
    require(both, [0, 1, 2], "depth", "depth")
    with pytest.raises(UserError, match=r"stores no depth.*--depth 0"):
        require(both, [0, 1, 2, 3], "depth", "depth")


# What breaks on the way.


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_met_on_the_way_saves_what_was_trained(shards: Path, tmp_path: Path, workers: int) -> None:
    """The pictures of an object are read when it is first drawn; those of the others were good."""
    copy = tmp_path / "shards" / "shard-000000.h5"
    copy.parent.mkdir()
    content = bytearray((shards / copy.name).read_bytes())
    place = content.rfind(b"RIFF")  # the last picture of all
    content[place + 40] ^= 255
    copy.write_bytes(content)
    with pytest.raises(
        UserError, match=r"step \d+: \S+shard-000000\.h5: rgba.*datasets\.verify.*is saved.*--resume"
    ) as told:
        train(small(copy.parent, tmp_path / "run", steps=100, workers=workers))
    assert "Traceback" not in str(told.value)
    assert checkpoints.finished(tmp_path / "run")


def test_a_death_is_told_where_a_batch_is_asked_for_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where torch's handler is there already, brought by a loader that the trainer knows nothing of."""
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    foreign = iter(DataLoader(Echo(), num_workers=1, multiprocessing_context="spawn"))
    assert signal.getsignal(signal.SIGCHLD) is not before and next(foreign) == 0
    with deaths_told_when_asked():
        batches = iter(DataLoader(Echo(), num_workers=1, multiprocessing_context="spawn"))
    try:
        _loaded(batches)  # type: ignore[arg-type]
        for child in multiprocessing.active_children():
            child.kill()
        time.sleep(0.5)  # here the handler would raise
        with pytest.raises(LoadingError, match="a loader process died"):
            while True:
                _loaded(batches)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_loader_process_that_dies_loses_nothing(shards: Path, tmp_path: Path) -> None:
    config = small(shards, tmp_path / "run", steps=100_000, workers=1)

    def kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (config.out / "log.jsonl").is_file():
            time.sleep(0.05)
        while time.monotonic() < end and not (config.out / "log.jsonl").stat().st_size:
            time.sleep(0.05)
        for child in multiprocessing.active_children():
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match=r"a loader process died.*--workers; the run is saved: continue with --resume"):
        train(config)
    killer.join()
    step = int(checkpoints.finished(config.out)[-1].name[-8:])
    assert step >= 20
    assert train(replace(config, workers=0, steps=step + 1, resume=True)) == 0


def test_a_full_disk_ends_training_and_judging_by_name(shards: Path, small_disk: Path) -> None:
    config = small(shards, small_disk / "run")
    train(config)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (room(small_disk) - 100_000))
    with pytest.raises(DiskFullError, match="free some space"):
        train(replace(config, steps=4, resume=True))
    assert [folder.name for folder in checkpoints.finished(config.out)] == ["step-00000002"]
    judged = EvaluateConfig(
        (config.out,), shards, small_disk / "report", size=32, samples=8, resolution=24, baselines=False, device="cpu"
    )
    ballast.write_bytes(ballast.read_bytes() + b"0" * room(small_disk))
    with pytest.raises(DiskFullError, match="free some space"):
        evaluate(judged)
    ballast.unlink()
    assert train(replace(config, steps=4, resume=True)) == 0
