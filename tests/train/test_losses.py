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
    config = SampleConfig(128, views=2, rays=64, render_size=64, with_depth=True, with_normals=True, solid_points=128)
    data = ShardSamples(ShardSet(folder / "shards"), config)
    return [data[index] for index in range(3)]


def test_a_batch_s_loss_is_the_mean_of_its_objects(samples: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    objective = Objective(LRM(SIZES["tiny"]), LossWeights(solid=0.1, normal=0.1, variation=0.1))
    with torch.no_grad():
        whole, terms = objective(default_collate(samples), SETTINGS)
        parts = [objective(default_collate([sample]), SETTINGS) for sample in samples]
    assert set(terms) == {"colour", "mask", "empty", "depth", "solid", "normal", "variation"}
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


class KnownField(torch.nn.Module):
    """A ball of radius 0.5, denser than the surface's density inside."""

    def density(self, planes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return torch.where(points.norm(dim=-1) < 0.5, 1e4, 1e-2)


def test_the_solid_term_is_nothing_for_the_true_shape_and_much_for_its_inverse() -> None:
    from train.losses import _solid_error

    lrm = LRM(SIZES["tiny"])
    lrm.field = KnownField()  # type: ignore[assignment]
    points = torch.nn.functional.normalize(torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    points = points * torch.linspace(0, 0.99, 200)[:, None]
    inside = (points.norm(dim=-1) < 0.5).float()
    right = _solid_error(lrm, torch.zeros(2), {"points": points, "solid": inside})
    wrong = _solid_error(lrm, torch.zeros(2), {"points": points, "solid": 1 - inside})
    # A thousand times the surface's density, and a thousandth of it: ln(1 + 1/1000) and about ln 1000.
    assert float(right) == pytest.approx(0.001, rel=0.01)
    assert float(wrong) == pytest.approx(6.909, rel=0.01)
