"""The level that is chosen is the one whose meshes the evaluation likes best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.samples import SampleConfig
from datasets.shards import ShardSet
from model.checkpoints import load_checkpoint, save_model
from model.lrm import LRM, SIZES
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train.export import ExportConfig, export
from train.levels import RESOLUTION, STEPS, best_level, fits
from train.methods import ModelMethod, load_truth
from train.metrics import shape_metrics


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 1, views=3, resolution=48, seed=5)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return ShardSet(folder / "shards")


@pytest.fixture(scope="module")
def cloud() -> LRM:
    """A network at random: its densities vary a little about 3, so that each level cuts another surface."""
    torch.manual_seed(0)
    return LRM(replace(SIZES["tiny"], level=3.0)).eval()


def test_a_level_fits_as_the_evaluation_says(shards: ShardSet, cloud: LRM) -> None:
    levels = (2.0, 3.0, 4.0)
    found = fits(cloud, shards, [0], levels)
    config = cloud.config
    frame = SampleConfig(input_size=config.encoder.image_size, fill=config.fill, background=config.background)
    for level in levels:
        method = ModelMethod(cloud, 64, RESOLUTION, level, torch.device("cpu"))
        truth = load_truth(shards, 0, 0, 0, 32, frame)
        figures = shape_metrics(method(truth).shape, truth.shape)
        # Of the same mesh by the same rule: the same figure.
        assert found[level] == pytest.approx(np.mean([figures[f"iou{n}"] for n in (32, 64, 128)]), abs=1e-9)
    assert len(set(found.values())) == len(levels)


def test_an_exported_model_is_cut_where_it_fits_best(shards: ShardSet, cloud: LRM, tmp_path: Path) -> None:
    level, found = best_level(cloud, shards, [0])
    assert found[level] == max(found.values()) > 0 and len(found) == len(STEPS) + 2
    assert list(found) == sorted(found) and 0 in found.values()  # beyond the largest density there is no surface
    save_model(tmp_path / "model.safetensors", cloud, {})
    (tmp_path / "dev.txt").write_text(shards.uids[0] + "\n")
    files = (tmp_path / "model.safetensors", tmp_path / "out.safetensors")
    export(ExportConfig(*files, shards=shards.paths[0].parent, objects=1, level_uids=tmp_path / "dev.txt"))
    assert load_checkpoint(files[1])[0].config.level == level
    with pytest.raises(ValueError, match="--level-uids chooses"):
        ExportConfig(*files, level_uids=tmp_path / "dev.txt")
