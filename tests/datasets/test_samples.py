"""Samples: every ray says where it came from, cameras agree with a known scene, and nothing held out is ever seen."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from datasets import samples  # noqa: E402
from datasets.samples import SampleConfig, ShardSamples, input_view, target_view  # noqa: E402
from datasets.shard_writer import ShardObject  # noqa: E402
from datasets.shards import ShardError, ShardSet, encode_rgba  # noqa: E402
from tests.datasets.synthetic import Scene, cast, scene, shell_cameras, uid_of  # noqa: E402
from tests.datasets.synthetic import render as render_scene  # noqa: E402
from tests.datasets.test_shards import write  # noqa: E402
from turntable import cameras, framing  # noqa: E402
from turntable.geometry import voxel_centres  # noqa: E402

SIZE = 64
CONFIG = SampleConfig(input_size=48, views=3, rays=100, render_size=SIZE, hull_resolution=16)


def coded_object(number: int, views: int = 6, size: int = SIZE, empty: tuple[int, ...] = ()) -> ShardObject:
    """Pictures that say themselves where they are from: red is the column, green the row, blue 20 × view."""
    poses, intrinsics = shell_cameras(views, number)
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    pictures = []
    for view in range(views):
        inside = (np.abs(column - 30 - view) < 15) & (np.abs(row - 32) < 20)
        alpha = np.where(inside, 255, 0) if view not in empty else inside * 0
        colour = np.stack([column, row, np.full_like(row, 20 * view)], axis=-1)
        pictures.append(np.concatenate([colour, alpha[..., None]], axis=-1).astype(np.uint8))
    boxes = np.array([framing.matte_box(p[..., 3]) or (0, 0, 0, 0) for p in pictures])
    images = {("rgba", size): [encode_rgba(p) for p in pictures]}
    return ShardObject({"uid": uid_of(number)}, poses, intrinsics, boxes, images)


def scene_object(number: int, views: int = 6, size: int = 96) -> ShardObject:
    poses, intrinsics = shell_cameras(views, number)
    pictures = [render_scene(scene(number), *camera, size)[0] for camera in zip(poses, intrinsics, strict=True)]
    images = {("rgba", s): [encode_rgba(framing.resize(p, s, s)) for p in pictures] for s in (size, size // 2)}
    boxes = np.array([framing.matte_box(p[..., 3]) for p in pictures])
    return ShardObject({"uid": uid_of(number)}, poses, intrinsics, boxes, images)


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(
        write(tmp_path_factory.mktemp("coded") / "shard-000000.h5", coded_object(0), coded_object(1, views=4))
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(write(tmp_path_factory.mktemp("scenes") / "shard-000000.h5", scene_object(0), scene_object(1)))


def drawn_views(sample: dict, coded: ShardSet) -> list[int]:
    """Which views a sample of coded pictures supervises."""
    rgb, alpha = sample["rgb"].numpy(), sample["alpha"].numpy()
    return [int(round(float(rgb[v][alpha[v] == 1][0, 2]) * 255 / 20)) for v in range(len(rgb))]


def test_shapes_and_types(coded: ShardSet) -> None:
    sample = ShardSamples(coded, CONFIG)[0]
    shapes = {
        "image": (3, 48, 48), "camera": (16,), "world_from_camera": (3, 3, 4), "intrinsics": (3, 4), "uv": (3, 100, 2),
        "rgb": (3, 100, 3), "alpha": (3, 100), "world_from_canonical": (3, 3), "hull": (16, 16, 16), "index": (), "seed": (),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in sample.items()} == shapes
    kinds = {"hull": torch.bool, "index": torch.int64, "seed": torch.int64}
    assert all(value.dtype == kinds.get(name, torch.float32) for name, value in sample.items())


def test_a_rays_colour_is_that_of_its_pixel(coded: ShardSet) -> None:
    """Exactly: uv is the centre of the pixel whose red and green name it."""
    dataset = ShardSamples(coded, CONFIG)
    for epoch in range(10):
        sample = dataset[0, epoch]
        pixel = sample["uv"].numpy() * SIZE - 0.5
        np.testing.assert_allclose(pixel, pixel.round(), atol=1e-4)
        inside = sample["alpha"].numpy() == 1
        colour = sample["rgb"].numpy() * 255
        np.testing.assert_allclose(colour[inside][:, :2], pixel[inside], atol=1e-3)
        np.testing.assert_array_equal(colour[~inside], 255)  # nothing there: white
        view = np.array(drawn_views(sample, coded))[:, None]
        column, row = pixel[..., 0].round(), pixel[..., 1].round()
        np.testing.assert_array_equal(inside, (np.abs(column - 30 - view) < 15) & (np.abs(row - 32) < 20))


def test_the_cameras_are_those_of_the_drawn_views(coded: ShardSet) -> None:
    dataset = ShardSamples(coded, CONFIG)
    poses, intrinsics = coded.cameras(0)
    for epoch in range(5):
        sample = dataset[0, epoch]
        views = drawn_views(sample, coded)
        assert len(set(views)) == 3
        turn = sample["world_from_canonical"].double().numpy()
        expected = turn.T @ poses[views]
        np.testing.assert_allclose(sample["world_from_camera"].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(sample["intrinsics"].numpy(), intrinsics[views], atol=1e-7)


def on_surface(
    world: Scene, sample: dict, uv: np.ndarray, rgb: np.ndarray, pose: np.ndarray, lens: np.ndarray
) -> np.ndarray:
    """Colour error (N,) of rays of one canonical camera, ray-cast into the true scene."""
    turn = sample["world_from_canonical"].double().numpy()
    origins, directions = cameras.rays(uv, pose, lens)
    hit, _, _, colour = cast(world, origins @ turn.T, directions @ turn.T)
    return np.where(hit, np.abs(colour - rgb).max(axis=1), 1.0)


def test_rays_and_cameras_hit_the_true_scene(scenes: ShardSet) -> None:
    """The scene is cast along the sample's own rays: inside the matte the colours agree, so uv, cameras and frames do."""
    dataset = ShardSamples(scenes, dataclasses.replace(CONFIG, rays=400, render_size=96))
    for number in range(2):
        sample = dataset[number, 3]
        for view in range(3):
            opaque = sample["alpha"][view].numpy() == 1
            uv, rgb = (sample[name][view].double().numpy()[opaque] for name in ("uv", "rgb"))
            pose, lens = sample["world_from_camera"][view].double().numpy(), sample["intrinsics"][view].double().numpy()
            error = on_surface(scene(number), sample, uv, rgb, pose, lens)
            # A pixel averages 3×3 rays around its centre and is rounded to 1/255; where box meets ball the mean differs.
            assert np.median(error) < 1 / 255 and (error < 4 / 255).mean() > 0.9
            mirrored = pose * np.array([-1, 1, 1, 1])
            wrong = on_surface(scene(number), sample, uv, rgb, mirrored, lens)
            assert (wrong < 4 / 255).mean() < 0.5  # the check can fail


def test_the_input_picture_and_its_camera_hit_the_true_scene(scenes: ShardSet) -> None:
    dataset = ShardSamples(scenes, dataclasses.replace(CONFIG, input_size=80))
    for number in range(2):
        for epoch in range(4):
            sample = dataset[number, epoch]
            pose, lens = sample["camera"][:12].reshape(3, 4).double().numpy(), sample["camera"][12:].double().numpy()
            distance = -pose[1, 3]
            np.testing.assert_allclose(pose, [[1, 0, 0, 0], [0, 0, -1, -distance], [0, 1, 0, 0]], atol=1e-6)
            assert 2.5 <= distance <= 3.0
            uv = cameras.pixel_centres(80, 80).reshape(-1, 2)
            rgb = sample["image"].permute(1, 2, 0).reshape(-1, 3).double().numpy()
            lit = ndimage.binary_erosion((rgb < 0.97).any(axis=1).reshape(80, 80), iterations=2).reshape(-1)
            error = on_surface(scene(number), sample, uv[lit], rgb[lit], pose, lens)
            # Two pixels off the outline; rescaling mixes neighbours where box meets ball, elsewhere colours are smooth.
            assert np.median(error) < 2 / 255 and (error < 6 / 255).mean() > 0.9
            off_by_one_pixel = lens + np.array([0, 0, 1 / 80, 0])
            assert np.median(on_surface(scene(number), sample, uv[lit], rgb[lit], pose, off_by_one_pixel)) > np.median(
                error
            )


def test_the_input_picture_is_framed(scenes: ShardSet) -> None:
    image = ShardSamples(scenes, dataclasses.replace(CONFIG, input_size=80))[0]["image"]
    lit = (image < 0.99).any(dim=0).numpy()
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    assert longer == pytest.approx(framing.DEFAULT_FILL * 80, abs=4)  # two pixels of the matte's own picture
    assert abs(rows.mean() - 39.5) < 3 and abs(columns.mean() - 39.5) < 3


def test_a_sample_depends_on_seed_epoch_and_item_alone(coded: ShardSet) -> None:
    first, second = ShardSamples(coded, CONFIG), ShardSamples(coded, CONFIG)
    backwards = {i: second[i, 0] for i in (1, 0)}
    for i in (0, 1):
        assert all(torch.equal(value, backwards[i][name]) for name, value in first[i].items())
    second.set_epoch(7)
    assert all(torch.equal(value, second[0][name]) for name, value in first[0, 7].items())
    assert not torch.equal(first[0, 0]["uv"], first[0, 1]["uv"])
    other = ShardSamples(coded, dataclasses.replace(CONFIG, seed=1))
    assert not torch.equal(first[0]["uv"], other[0]["uv"])
    only_second = ShardSamples(coded, CONFIG, [1])
    assert len(only_second) == 1 and int(only_second[0]["index"]) == 1
    assert torch.equal(only_second[0]["uv"], first[1]["uv"])


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_samples(coded: ShardSet, workers: int) -> None:
    dataset = ShardSamples(coded, CONFIG)
    items = [(0, 0), (1, 0), (1, 1), (0, 1)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=1, sampler=items, num_workers=workers, multiprocessing_context="spawn"
    )  # type: ignore[arg-type]
    for item, batch in zip(items, loader, strict=True):
        for name, value in dataset[item].items():
            assert torch.equal(batch[name][0], value), name


def test_held_out_views_are_neither_input_nor_supervised(coded: ShardSet) -> None:
    dataset = ShardSamples(coded, dataclasses.replace(CONFIG, held_out_views=2))
    seen: set[int] = set()
    inputs: set[int] = set()
    for epoch in range(60):
        sample = dataset[0, epoch]
        seen |= set(drawn_views(sample, coded))
        blue = sample["image"][2, 24, 24]
        inputs.add(int(round(float(blue) * 255 / 20)))
    assert seen == inputs == {0, 1, 2, 3}


def test_the_hull_knows_nothing_of_held_out_views(tmp_path: Path) -> None:
    """An empty matte would carve everything away: with those views held out nothing is missing, with them all is."""
    shards = ShardSet(write(tmp_path / "a.h5", coded_object(0, empty=(4, 5))))
    open_hull = ShardSamples(shards, dataclasses.replace(CONFIG, held_out_views=2)).hull(0)
    assert open_hull[7:9, 7:9, 7:9].all()
    assert not ShardSamples(shards, CONFIG).hull(0)[7:9, 7:9, 7:9].any()


def test_the_hull_holds_the_object(scenes: ShardSet) -> None:
    sample = ShardSamples(scenes, dataclasses.replace(CONFIG, hull_resolution=32))[1]
    world = scene(1)
    centres = voxel_centres(32)
    inside = ((centres - world.ball_centre) ** 2).sum(axis=1) < world.ball_radius**2
    inside |= (np.abs(centres - world.box_centre) < world.half_extent).all(axis=1)
    hull = sample["hull"].numpy().reshape(-1)
    assert hull[inside].all() and hull.mean() < 0.5


def test_a_fixed_input_view_is_always_the_input(coded: ShardSet) -> None:
    dataset = ShardSamples(coded, dataclasses.replace(CONFIG, input_view=2))
    for epoch in range(5):
        assert float(dataset[0, epoch]["image"][2, 24, 24]) * 255 == pytest.approx(40, abs=0.01)


def test_views_without_object_are_no_input(tmp_path: Path) -> None:
    shards = ShardSet(write(tmp_path / "a.h5", coded_object(0, empty=(0, 1, 2, 4, 5))))
    dataset = ShardSamples(shards, CONFIG)
    for epoch in range(20):
        assert float(dataset[0, epoch]["image"][2, 24, 24]) * 255 == pytest.approx(60, abs=0.01)
    with pytest.raises(ShardError, match=r"view 2 as input.*\[3\]"):
        ShardSamples(shards, dataclasses.replace(CONFIG, input_view=2))
    with pytest.raises(ShardError, match="matte of view 2 is empty"):
        input_view(shards, 0, 2, CONFIG)


def test_objects_that_cannot_give_samples_are_named_at_once(coded: ShardSet) -> None:
    with pytest.raises(ShardError, match=rf"{uid_of(1)}: has 4 views and 4 are"):
        ShardSamples(coded, dataclasses.replace(CONFIG, held_out_views=4))
    with pytest.raises(ShardError, match="view 9 as input"):
        ShardSamples(coded, dataclasses.replace(CONFIG, input_view=9))


def test_more_views_than_there_are_repeat_evenly(coded: ShardSet) -> None:
    sample = ShardSamples(coded, dataclasses.replace(CONFIG, views=10))[1, 0]
    counts = np.bincount(drawn_views(sample, coded), minlength=4)
    assert counts.sum() == 10 and set(counts.tolist()) == {2, 3}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_first_rays_are_a_square_row_by_row(coded: ShardSet, share: float) -> None:
    config = dataclasses.replace(CONFIG, region_share=share)
    side = config.region_side
    assert side == int((100 * share) ** 0.5)
    pixel = np.rint(ShardSamples(coded, config)[0]["uv"].numpy() * SIZE - 0.5)
    square = pixel[:, : side * side].reshape(3, side, side, 2)
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    if side:
        np.testing.assert_array_equal(square - square[:, :1, :1], np.stack([column, row], axis=-1)[None].repeat(3, 0))
    assert pixel.min() >= 0 and pixel.max() < SIZE


def test_a_region_as_large_as_the_picture_is_the_picture(coded: ShardSet) -> None:
    config = dataclasses.replace(CONFIG, rays=SIZE * SIZE, region_share=1.0, views=1)
    sample = ShardSamples(coded, config)[0]
    view = drawn_views(sample, coded)[0]
    expected = framing.on_background(coded.picture(0, view, SIZE)).reshape(-1, 3)
    np.testing.assert_array_equal(sample["rgb"][0].numpy(), expected)


def test_rays_aim_at_the_object_as_asked(coded: ShardSet) -> None:
    def covered(share: float) -> float:
        dataset = ShardSamples(coded, dataclasses.replace(CONFIG, foreground_share=share, region_share=0.0))
        return float(torch.stack([dataset[0, e]["alpha"] for e in range(20)]).mean())

    object_share = 29 * 39 / SIZE**2  # 0.28
    # 6,000 rays: standard deviation 0.006.
    assert covered(0.0) == pytest.approx(object_share, abs=0.03)
    box = (29 + 0.1 * SIZE) * (39 + 0.1 * SIZE)
    assert covered(1.0) == pytest.approx(29 * 39 / box, abs=0.03)


def test_the_cache_stays_within_its_limit_and_changes_nothing(coded: ShardSet) -> None:
    whole = ShardSamples(coded, CONFIG)
    for limit in (0, 20_000, 100_000):
        small = ShardSamples(coded, dataclasses.replace(CONFIG, cache_bytes=limit))
        for epoch in range(5):
            for i in (0, 1):
                assert all(torch.equal(v, small[i, epoch][k]) for k, v in whole[i, epoch].items())
                assert small._cache.bytes <= limit
    kept = sum(a.nbytes for arrays in whole._cache._kept.values() for a in arrays)
    assert whole._cache.bytes == kept > 0


def test_writing_to_a_sample_does_not_reach_the_next(coded: ShardSet) -> None:
    dataset = ShardSamples(coded, CONFIG)
    truth = {name: value.clone() for name, value in dataset[0].items()}
    for value in dataset[0].values():
        value.zero_()
    assert all(torch.equal(value, truth[name]) for name, value in dataset[0].items())


def test_evaluations_views_have_no_randomness_and_agree_with_the_samples(scenes: ShardSet) -> None:
    config = dataclasses.replace(CONFIG, input_view=1)
    sample = ShardSamples(scenes, config)[0]
    image, camera, canonical_from_world = input_view(scenes, 0, 1, config)
    assert torch.equal(image, sample["image"]) and torch.equal(camera, sample["camera"])
    np.testing.assert_allclose(canonical_from_world[:, :3].T, sample["world_from_canonical"].numpy(), atol=1e-7)
    target = target_view(scenes, 0, 4, 48, canonical_from_world)
    poses, intrinsics = scenes.cameras(0)
    np.testing.assert_allclose(target.world_from_camera, cameras.compose(canonical_from_world, poses[4]))
    np.testing.assert_array_equal(target.intrinsics, intrinsics[4])
    rgba = scenes.picture(0, 4, 48)
    np.testing.assert_array_equal(target.rgb, framing.on_background(rgba))
    np.testing.assert_allclose(target.alpha, rgba[..., 3] / 255, atol=1e-7)


def test_the_input_is_cut_from_pictures_that_are_large_enough(
    scenes: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """96 and 48 are stored; the object fills about half the picture."""
    asked: list[int] = []
    original = ShardSet.picture
    monkeypatch.setattr(ShardSet, "picture", lambda self, i, v, s: asked.append(s) or original(self, i, v, s))
    for size in (16, 64):
        samples.framed_picture(scenes, 0, 0, size, 0.85)
    assert asked == [48, 96]


@pytest.mark.parametrize(
    "change",
    [
        {"views": 0},
        {"rays": 0},
        {"region_share": 1.5},
        {"held_out_views": -1},
        {"input_view": -1},
        {"rays": 65 * 65, "region_share": 1.0, "render_size": 64},
    ],
)
def test_impossible_settings_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"must|does not fit"):
        dataclasses.replace(CONFIG, **change)


def test_an_item_costs_milliseconds(scenes: ShardSet) -> None:
    """Not a benchmark, a guard: ten times what an item of this size takes on an idle machine (1.3 ms)."""
    dataset = ShardSamples(scenes, SampleConfig(input_size=128, views=4, rays=512))
    for epoch in range(20):
        dataset[0, epoch]
    start = time.perf_counter()
    for epoch in range(50):
        dataset[0, epoch]
    assert (time.perf_counter() - start) / 50 < 0.013
