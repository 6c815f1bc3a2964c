"""Shards of object videos train beside shards of renders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from datasets.samples import SampleConfig, ShardSamples  # noqa: E402
from datasets.shards import ShardError, ShardSet  # noqa: E402
from preprocess import filling  # noqa: E402
from preprocess.captures import PreprocessConfig, preprocess  # noqa: E402
from preprocess.gates import Gates  # noqa: E402
from preprocess.mvimgnet import MVImgNet, MVImgNetConfig  # noqa: E402
from tests.datasets.synthetic import write_captures  # noqa: E402
from tests.preprocess import videos  # noqa: E402

CONFIG = SampleConfig(input_size=48, views=3, rays=100, render_size=64, hull_resolution=16)


def test_object_videos_and_renders_mix(tmp_path: Path) -> None:
    """Shards of videos hold no depth, normals or geometry; samples of both kinds have the same shapes."""
    videos.write(videos.Video(), tmp_path / "root")
    config = MVImgNetConfig(
        root=tmp_path / "root", out=tmp_path / "out", sizes=(64, 32), gates=Gates(min_object_side=20)
    )
    filling.fill(config, MVImgNet(config))
    write_captures(tmp_path / "captures", 1)
    preprocess(PreprocessConfig(captures=tmp_path / "captures", out=tmp_path / "renders", sizes=(64, 32)))
    paths = [tmp_path / name / "shard-000000.h5" for name in ("out", "renders")]
    shards = ShardSet(paths)
    dataset = ShardSamples(shards, CONFIG)
    video, render = dataset[0], dataset[1]
    assert shards.uids[0] == "mvimgnet-7-v1"
    assert {name: value.shape for name, value in video.items()} == {name: value.shape for name, value in render.items()}
    assert all(torch.isfinite(value).all() for value in video.values() if value.is_floating_point())
    # The hull of the video's mattes holds the object: its box, a unit ball around it, and no more than that.
    assert 0.01 < video["hull"].float().mean() < 0.5
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=2)))  # type: ignore[var-annotated]
    assert batch["rgb"].shape[0] == 2
    with pytest.raises(ShardError, match="stores no geometry"):
        shards.geometry(0)
    with pytest.raises(ShardError, match="stores no depth"):
        ShardSamples(shards, dataclasses.replace(CONFIG, with_depth=True), [0])[0]
