"""What is changed at random is changed consistently: pictures, cameras, rays and hull of the same mirrored or reframed world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.augmentation import STRONG, Augmentation, mirrored, mirrored_camera, misjudged
from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardSet
from model.volume import Occupancy
from preprocess.captures import PreprocessConfig, preprocess
from tests.datasets.synthetic import write_captures
from turntable import cameras

CONFIG = SampleConfig(
    input_size=48, views=3, rays=200, render_size=64, with_depth=True, with_normals=True, input_view=1
)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("scenes")
    write_captures(folder / "captures", 2, views=5, resolution=64, seed=1)
    preprocess(PreprocessConfig(captures=folder / "captures", out=folder / "shards"))
    return ShardSet(folder / "shards")


def surface(sample: dict[str, torch.Tensor]) -> torch.Tensor:
    """(V, R, 3) the points that the rays hit, canonical frame, by the sample's depth."""
    origins, directions = cameras.rays(sample["uv"], sample["world_from_camera"], sample["intrinsics"])
    along = cameras.camera_directions(sample["uv"], sample["intrinsics"][:, None]).norm(dim=-1)
    return origins + directions * (sample["depth"] * along)[..., None]


def test_a_mirrored_sample_shows_the_mirrored_world(shards: ShardSet) -> None:
    sample = ShardSamples(shards, CONFIG)[0]
    other = mirrored(sample)
    # float32; points lie within a few units.
    torch.testing.assert_close(surface(other), surface(sample) * MIRROR, atol=1e-5, rtol=0)
    torch.testing.assert_close(other["normal"], sample["normal"] * MIRROR)
    assert torch.equal(other["image"], sample["image"].flip(-1))
    # Still rotations, not reflections.
    torch.testing.assert_close(torch.linalg.det(other["world_from_camera"][..., :3]), torch.ones(3))
    torch.testing.assert_close(mirrored(other)["world_from_camera"], sample["world_from_camera"])


def test_the_hull_of_a_mirrored_sample_is_mirrored(shards: ShardSet) -> None:
    sample = ShardSamples(shards, CONFIG)[0]
    other = mirrored(sample)
    points = torch.rand(1, 2000, 3, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    inside = Occupancy(sample["hull"][None], sample["world_from_canonical"][None]).contains(points)
    mirrored_inside = Occupancy(other["hull"][None], other["world_from_canonical"][None]).contains(points * MIRROR)
    assert torch.equal(inside, mirrored_inside) and 0.05 < inside.float().mean() < 0.95


def test_a_mirrored_camera_sees_the_mirrored_point_at_the_mirrored_place() -> None:
    pose = torch.tensor(cameras.look_at(np.array([1.0, -2.0, 0.5])), dtype=torch.float64)
    lens = torch.tensor([1.3, 1.2, 0.4, 0.55], dtype=torch.float64)
    point = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    other_pose, other_lens = mirrored_camera(pose.float(), lens.float())
    uv, depth = cameras.project(point, pose, lens)
    other_uv, other_depth = cameras.project((point * MIRROR).float(), other_pose, other_lens)
    np.testing.assert_allclose(other_uv[0], [1 - uv[0, 0], uv[0, 1]], atol=1e-6)
    np.testing.assert_allclose(other_depth, depth, rtol=1e-6)


def test_another_share_of_the_picture_goes_with_another_focal_length(shards: ShardSet) -> None:
    """The object's size in the picture over the focal length stays."""
    plain = ShardSamples(shards, CONFIG)[0]
    ratios = []
    for epoch in range(6):
        data = ShardSamples(shards, replace(CONFIG, augment=Augmentation(fill_spread=0.5)))
        data.set_epoch(epoch)
        sample = data[0]
        width = [float((each["image"] < 0.99).any(dim=0).any(dim=0).sum()) for each in (sample, plain)]
        focal = [float(each["camera"][12]) for each in (sample, plain)]
        ratios.append(focal[0] / focal[1])
        assert width[0] / width[1] == pytest.approx(ratios[-1], abs=0.06)  # a pixel of 40 on either side
    assert min(ratios) < 0.8 and max(ratios) <= 1.01


def test_a_misjudged_camera_shows_the_object_as_large_and_where_it_is() -> None:
    camera = torch.tensor([1, 0, 0, 0.0, 0, 0, -1, -2.5, 0, 1, 0, 0.0, 1.2, 1.2, 0.5, 0.45])
    found = misjudged(np.random.default_rng(0), camera, Augmentation(camera_noise=0.5))
    assert (found != camera).nonzero()[:, 0].tolist() == [7, 12, 13] and 0.5 < found[7] / camera[7] < 2
    across = np.array([[0.0, 0.0, 0.0], [0.6, 0.0, -0.7], [-0.2, 0.0, 0.9]])  # in the plane through the centre
    (here, _), (there, _) = (
        cameras.project(across, numbers[:12].view(3, 4).double().numpy(), numbers[12:].double().numpy())
        for numbers in (camera, found)
    )
    assert there == pytest.approx(here, abs=1e-6)
    near = np.array([[0.5, -0.5, 0.5]])
    (here, _), (there, _) = (
        cameras.project(near, numbers[:12].view(3, 4).double().numpy(), numbers[12:].double().numpy())
        for numbers in (camera, found)
    )
    assert np.abs(there - here).max() > 1e-3  # what is nearer tells the lenses apart


def test_strong_augmentation_trains_and_none_changes_nothing(shards: ShardSet) -> None:
    strong = ShardSamples(shards, replace(CONFIG, augment=STRONG))
    shapes = {name: value.shape for name, value in ShardSamples(shards, CONFIG)[0].items()}
    assert {name: value.shape for name, value in strong[0].items()} == shapes
    assert torch.equal(strong[1]["image"], strong[1]["image"])


def test_cameras_that_are_not_numbers_are_named(shards: ShardSet) -> None:
    class Broken:
        """The shards, with one camera of the second object lost."""

        def __getattr__(self, name: str) -> object:
            return getattr(shards, name)

        def cameras(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            poses, lenses = shards.cameras(index)
            if index == 1:
                poses = poses.copy()
                poses[3, 0, 0] = np.nan
            return poses, lenses

    with pytest.raises(ValueError, match=f"{shards.uids[1]}: the cameras are not numbers.*views \\[3\\]"):
        ShardSamples(Broken(), CONFIG, [0, 1])  # type: ignore[arg-type]
