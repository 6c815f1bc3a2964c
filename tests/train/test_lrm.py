"""Training on analytic scenes: it learns, it continues exactly, and it refuses what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.order import Order
from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import cast, scene, write_captures
from train import checkpoints, losses
from train.assembly import build_trainer, open_shards
from train.history import read_history
from train.lrm import train
from train.sets import camera_defaults, chosen_objects, draw_order, mixture
from train.settings import StepSize, TrainConfig, step_size
from turntable import cameras, framing
from turntable.errors import UserError
from turntable.files import only_run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 3, views=8, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return folder / "shards"


def small(shards: Path, out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(shards, out, steps=20, rays=64, samples=12, render_size=64, threads=1)
    return replace(config, **changes)  # type: ignore[arg-type]


def test_a_killed_run_resumed_equals_one_that_was_not(shards: Path, tmp_path: Path) -> None:
    """Same device, same schedule: the weights are equal to the last bit."""
    train(small(shards, tmp_path / "whole"))
    config = small(shards, tmp_path / "cut")
    trainer = build_trainer(config, ShardSet(shards), [0, 1, 2])
    batches = trainer.batches(0)
    for _ in range(11):
        trainer.step(batches)
        if trainer.progress.step == 7:
            trainer.save()  # four more steps are lost with the process
    train(replace(config, resume=True))
    whole, resumed = (
        checkpoints.load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    last = [read_history(tmp_path / name / "log.jsonl")[-1] for name in ("whole", "cut")]
    assert last[0]["step"] == last[1]["step"] == 20
    assert last[0]["colour"] == last[1]["colour"]


def test_two_runs_do_not_write_to_one_folder(shards: Path, tmp_path: Path) -> None:
    config = small(shards, tmp_path / "run")
    train(config)
    with only_run(tmp_path / "run"), pytest.raises(UserError, match="another run is writing here"):
        train(replace(config, steps=40, resume=True))
    assert read_history(tmp_path / "run/log.jsonl")[-1]["step"] == 20
    train(replace(config, steps=40, resume=True))  # nothing of the refusal stays
    assert read_history(tmp_path / "run/log.jsonl")[-1]["step"] == 40


def test_another_seed_is_another_run(shards: Path, tmp_path: Path) -> None:
    train(small(shards, tmp_path / "a"))
    train(small(shards, tmp_path / "b", seed=1))
    assert read_history(tmp_path / "a/log.jsonl")[-1]["colour"] != read_history(tmp_path / "b/log.jsonl")[-1]["colour"]


def test_depth_of_the_rays_is_the_scene_s(shards: Path) -> None:
    """Origin + true distance lies on the analytic surface, and the loss of the true distance is nothing."""
    data = ShardSamples(ShardSet(shards), SampleConfig(48, views=4, rays=200, render_size=64, with_depth=True))
    sample = data[0]
    origins, directions = cameras.rays(sample["uv"], sample["world_from_camera"], sample["intrinsics"])
    turn = sample["world_from_canonical"].T
    world = scene(1000)  # the first scene of seed 1
    hit, distance, _, _ = cast(world, (origins @ turn).flatten(0, 1).numpy(), (directions @ turn).flatten(0, 1).numpy())
    distance = torch.from_numpy(np.where(hit, distance, 0.0)).float().view(sample["depth"].shape)
    assert bool(((sample["depth"] > 0) == (distance > 0)).all())
    batch = {name: value[None] for name, value in sample.items()}
    error = losses._depth_error(distance[None], batch)
    assert float(error) < 2e-4  # two steps of the 16-bit depth
    assert float(losses._depth_error(distance[None] + 0.1, batch)) == pytest.approx(0.1, abs=2e-4)


@pytest.mark.slow
def test_it_learns(shards: Path, tmp_path: Path) -> None:
    config = small(shards, tmp_path / "x", steps=150, rays=256, samples=32, overfit=1, held_out_views=2)
    trainer = build_trainer(config, ShardSet(shards), [0])
    batches = trainer.batches(0)
    losses = [float(trainer.step(batches)[0]["colour"]) for _ in range(150)]
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:5])


def test_camera_defaults_are_the_framed_cameras_of_the_data(shards: Path) -> None:
    data = ShardSet(shards)
    found = camera_defaults(data, [0, 1, 2], 0.85)
    focals, distances, heights = [], [], []
    for index in range(3):
        poses, intrinsics = data.cameras(index)
        for view in range(data.view_count(index)):
            focals.append(framing.frame(data.picture(index, view, 64), intrinsics[view], 64, 0.85)[1][0])
            distances.append(np.linalg.norm(cameras.invert(cameras.invert(poses[view]))[:, 3]))
            heights.append(poses[view][2, 3] / distances[-1])
    assert found["camera_distance"] == pytest.approx(np.median(distances))
    assert found["camera_elevation"] == pytest.approx(np.median(np.rad2deg(np.arcsin(heights))))
    assert found["camera_focal"] == pytest.approx(np.median(focals), rel=0.02)  # framing rounds to whole pixels


def test_a_step_has_as_many_rays_with_fewer_objects(tmp_path: Path) -> None:
    config = TrainConfig(tmp_path, tmp_path, steps=1)
    many, few, one = (step_size(config, objects) for objects in (100, 2, 1))
    assert many.batch * many.rays == few.batch * few.rays == one.batch * one.rays and one.batch == 1
    assert step_size(replace(config, rays=64), 1) == StepSize(1, 1, 64)


def test_what_cannot_be_is_refused(shards: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "uids.txt"
    unknown.write_text("0" * 32 + "\n")
    with pytest.raises(UserError, match="1 of its uids are not in the shards"):
        train(small(shards, tmp_path / "a", uids=unknown))
    with pytest.raises(UserError, match="has only 8 views"):
        train(small(shards, tmp_path / "b", held_out_views=8))
    with pytest.raises(UserError, match=r"vgg16.*--lpips-weights"):
        weights = replace(small(shards, tmp_path).weights, lpips=1.0)
        train(small(shards, tmp_path / "c", weights=weights, lpips_weights=tmp_path))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="sees no CUDA device"):
            train(small(shards, tmp_path / "e", device="cuda"))


def test_a_begun_run_is_not_overwritten_and_not_mixed(shards: Path, tmp_path: Path) -> None:
    train(small(shards, tmp_path / "x"))
    with pytest.raises(UserError, match="already holds a run"):
        train(small(shards, tmp_path / "x"))
    with pytest.raises(UserError, match="rays was 64, is 32"):
        train(small(shards, tmp_path / "x", rays=32, resume=True))


def ordered(config: TrainConfig, shards: ShardSet) -> Order:
    chosen = chosen_objects(shards, config.uids)
    sets = mixture(config.shards, config.mix)
    return draw_order(shards, chosen, sets, config.uids, config.shuffle_shards, config.seed)


def test_sets_are_mixed_and_uids_weighed_as_asked(shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_captures(tmp_path / "captures", 2, views=4, resolution=32, seed=2)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=other))
    config = small(shards, tmp_path / "x", mix=(f"{other}=3",), shuffle_shards=1)
    both = open_shards(config)
    assert len(both) == 5
    order = ordered(config, both)
    drawn = np.concatenate([order.epoch(epoch)[0] for epoch in range(40)])
    assert (drawn >= 3).mean() == pytest.approx(0.75, abs=0.01)
    listed = tmp_path / "list.txt"
    listed.write_text(f"{both.uids[0]} 3\n{both.uids[4]}\n{both.uids[1]} 1\n")
    config = replace(config, uids=listed)
    order = ordered(config, both)
    assert order.weights is not None
    np.testing.assert_allclose(order.weights / order.weights.sum(), [0.25 * 3 / 4, 0.75, 0.25 / 4])
    assert ordered(small(shards, tmp_path), ShardSet(shards)).weights is None
    for wrong in ("other", "=3", "other=0", "other=x", f"{shards}=2"):
        with pytest.raises(ValueError, match="--mix"):
            small(shards, tmp_path, mix=(wrong,))


def test_a_mixture_is_continued_exactly_by_other_loader_processes(shards: Path, tmp_path: Path) -> None:
    """The batches after the third are the same, whoever loads them."""
    listed = tmp_path / "list.txt"
    uids = ShardSet(shards).uids
    listed.write_text(f"{uids[0]} 3\n{uids[1]}\n{uids[2]} 2\n")
    config = small(shards, tmp_path / "x", uids=listed, batch=2)
    trainer = build_trainer(config, ShardSet(shards), [0, 1, 2])
    batches = trainer.batches(0)
    for _ in range(3):
        trainer.step(batches)
    trainer.save()
    checkpoints.resume(config.out, trainer.state)
    assert (trainer.progress.step, trainer.progress.draws) == (3, 6)
    trainer.workers = 1
    for expected, found in zip(range(3), trainer.batches(trainer.progress.draws), strict=False):
        batch = next(batches)
        assert all(torch.equal(batch[name], found[name]) for name in batch), expected
