"""The self-test's verdict: whether mattes and cameras agree, and every way to pass and to fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datasets.packing import Packer, stored_object
from datasets.shards import ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train import selftest
from train.lrm import train
from train.selftest import LEAST_COVERAGE, Findings, agreement, judge
from train.settings import TrainConfig
from turntable import cameras
from turntable.errors import EXIT_ITEMS_FAILED

GOOD = Findings(coverage=0.99, white=14.0, seen=30.0, held_out=26.0)


def test_mattes_agree_with_their_own_cameras_and_not_with_others() -> None:
    """A bar, seen from twelve sides."""
    rng = np.random.default_rng(0)
    bar = rng.uniform(-1, 1, (4000, 3)) * [0.9, 0.1, 0.15]
    poses = np.stack([
        cameras.look_at(cameras.spherical_position(30 * k, rng.uniform(-10, 50), 2.5)) for k in range(12)
    ])  # fmt: skip
    lenses = np.tile(cameras.intrinsics_from_fov(50.0), (12, 1))
    mattes = []
    for pose, lens in zip(poses, lenses, strict=True):
        column, row = (cameras.project(bar, pose, lens)[0] * 64).astype(int).T
        matte = np.zeros((64, 64), bool)
        matte[row, column] = True
        mattes.append(ndimage.binary_closing(matte, iterations=2))
    assert agreement(mattes, poses, lenses) > 0.99
    assert agreement(mattes, np.roll(poses, 4, axis=0), lenses) < LEAST_COVERAGE - 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "in order"),
        ({"coverage": 0.4}, "contradict one another"),
        ({"seen": 16.0}, "not learned"),
        ({"held_out": 15.0}, "pictures, not a body"),
        ({"held_out": None}, "in order"),
    ],
)
def test_the_verdict(change: dict[str, float], says: str) -> None:
    verdict = judge(replace(GOOD, **change))
    assert says in verdict.reason
    assert verdict.passed == (says == "in order")


def test_views_that_contradict_one_another_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    """Cameras that are half a unit off, every other one to the other side. (The scene's bodies are round: with one another's cameras
    they would look much the same.)"""
    write_captures(tmp_path / "captures", 1, views=8, resolution=48, seed=2)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=tmp_path / "shards"))
    shards = ShardSet(tmp_path / "shards")
    item = stored_object(*shards.place(0))
    off = item.world_from_camera.copy()
    off[:, :, 3] += 0.5 * off[:, :, 0] * np.where(np.arange(8) % 2, 1, -1)[:, None]
    (tmp_path / "off").mkdir()
    with Packer(tmp_path / "off") as packer:
        packer.add(replace(item, world_from_camera=off), {})
    config = TrainConfig(tmp_path / "off", tmp_path / "run", overfit=1, steps=10, threads=1, render_size=48)
    assert train(config) == EXIT_ITEMS_FAILED
    said = json.loads((tmp_path / "run/self-test.json").read_bytes())
    assert not said["passed"] and "contradict one another" in said["reason"] and said["coverage"] < LEAST_COVERAGE
    assert said["seen"] is None and not (tmp_path / "run/log.jsonl").exists()
    assert selftest.look(shards, [0], 48).coverage > LEAST_COVERAGE
