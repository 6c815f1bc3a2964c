"""The loss of a batch is the mean of its parts' losses, whatever the parts; its terms are what they are called."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import default_collate

from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardSet
from model.lrm import LRM, SIZES
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from train.losses import LossWeights, Objective, RenderSettings

SETTINGS = RenderSettings(samples=12, empty_points=64)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 3, views=4, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    config = SampleConfig(128, views=2, rays=64, render_size=64, with_depth=True, with_normals=True)
    data = ShardSamples(ShardSet(folder / "shards"), config)
    return [data[index] for index in range(3)]


def test_a_batch_s_loss_is_the_mean_of_its_objects(samples: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    objective = Objective(LRM(SIZES["tiny"]), LossWeights(normal=0.1, variation=0.1))
    with torch.no_grad():
        whole, terms = objective(default_collate(samples), SETTINGS)
        parts = [objective(default_collate([sample]), SETTINGS) for sample in samples]
    assert set(terms) == {"colour", "mask", "empty", "depth", "normal", "variation"}
    for name, value in terms.items():
        # float32 sums in another order.
        assert float(value) == pytest.approx(sum(float(part[name]) for _, part in parts) / 3, rel=2e-5, abs=1e-7)
    assert float(whole) == pytest.approx(sum(float(loss) for loss, _ in parts) / 3, rel=2e-5)


def test_the_normal_term_is_nothing_for_the_field_s_own_normals(samples: list[dict[str, torch.Tensor]]) -> None:
    from model.volume import Rendering
    from train.losses import _normal_error

    batch = default_collate(samples)
    shape = batch["alpha"].flatten(1)
    right = Rendering(batch["rgb"].flatten(1, 2), shape, shape, batch["normal"].flatten(1, 2))
    wrong = Rendering(batch["rgb"].flatten(1, 2), shape, shape, -batch["normal"].flatten(1, 2))
    assert float(_normal_error(right, batch)) == pytest.approx(0, abs=1e-3)  # the pass has 8 bits
    assert float(_normal_error(wrong, batch)) == pytest.approx(2, abs=1e-3)
