"""Upscaling: nothing moves, edges stay clean, alpha is left to a classical filter."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.shards import ShardSet
from preprocess import upscale
from preprocess.captures import PreprocessConfig, preprocess
from preprocess.upscale import UpscaleError
from tests.datasets.synthetic import write_captures
from tests.preprocess import esrgan
from turntable import cameras, framing
from turntable.errors import UserError


def doubling(folder: Path, tensors: esrgan.Tensors) -> upscale.Upscaler:
    torch.save({"params_ema": tensors}, folder / "weights.pth")
    return upscale.find(str(folder / "weights.pth"), device="cpu")


def repeating(scale: int) -> esrgan.Tensors:
    """An RRDBNet in the official layout that repeats each pixel: its blocks add nothing, its other layers pass colours on."""
    tensors = {name: torch.zeros_like(value) for name, value in esrgan.random_rrdbnet(12, 1, scale).items()}
    for name in ("conv_up1", "conv_up2", "conv_hr"):
        tensors[f"{name}.weight"][range(12), range(12), 1, 1] = 1
    if scale == 4:
        tensors["conv_first.weight"][range(3), range(3), 1, 1] = 1
    else:  # The mean of each square of 2 × 2, which pixel-unshuffle has made channels.
        for channel in range(12):
            tensors["conv_first.weight"][channel // 4, channel, 1, 1] = 0.25
    tensors["conv_last.weight"][range(3), range(3), 1, 1] = 1
    return tensors


def disc(side: int, centre: tuple[float, float] = (0.45, 0.55), radius: float = 0.3) -> np.ndarray:
    """A smooth orange disc, straight alpha, drawn with 8 × 8 samples a pixel; black under what is transparent."""
    fine = (np.arange(8 * side) + 0.5) / (8 * side)
    inside = np.hypot(fine[None] - centre[0], fine[:, None] - centre[1]) < radius
    alpha = inside.reshape(side, 8, side, 8).mean(axis=(1, 3))
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[..., 3] = np.round(alpha * 255)
    rgba[alpha > 0, :3] = (230, 120, 40)
    return rgba


def textured(side: int = 48) -> np.ndarray:
    rgba = disc(side)
    colours = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    rgba[..., :3] = cv2.resize(colours, (side, side), interpolation=cv2.INTER_CUBIC) * (rgba[..., 3:] > 0)
    return rgba


@pytest.mark.parametrize("scale", [4, 2])
def test_nothing_moves(tmp_path: Path, scale: int) -> None:
    """Through a network that repeats pixels (or their means over 2 × 2), averaging gives the very picture back."""
    rgba = textured()
    larger = doubling(tmp_path, repeating(scale))(rgba)
    assert larger.shape == (48 * scale, 48 * scale, 4)
    inside = rgba[..., 3] == 255
    mean = larger[..., :3].reshape(48, scale, 48, scale, 3).mean(axis=(1, 3))
    if scale == 4:
        np.testing.assert_array_equal(mean[inside], rgba[inside, :3])
    else:
        coarse = rgba[..., :3].reshape(24, 2, 24, 2, 3).mean(axis=(1, 3)).repeat(2, 0).repeat(2, 1)
        whole = inside.reshape(24, 2, 24, 2).all(axis=(1, 3)).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(mean[whole], coarse[whole], atol=0.51)  # rounded to 8 bits


@pytest.mark.parametrize("scale", [4, 2])
def test_intrinsics_stay_right(tmp_path: Path, scale: int) -> None:
    """A sphere's picture, before and after: its middle and its size are where the same normalised camera projects them."""
    pose = cameras.look_at(np.array([0.3, -2.5, 0.4]))
    intrinsics = np.array([1.2, 1.2, 0.47, 0.53])
    (centre,), _ = cameras.project(np.array([[0.1, 0.0, -0.05]]), pose, intrinsics)
    larger = doubling(tmp_path, repeating(scale))(disc(64, tuple(centre), 0.2))
    weight = larger[..., 3] / 255.0
    uv = cameras.pixel_centres(64 * scale, 64 * scale)
    found = (uv * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
    # In pixels of the input. A shift by half a pixel of the result would be 0.125 or 0.25; rounding to 8 bits gives 0.002.
    assert np.abs((found - centre) * 64).max() < 0.01
    colour = larger[..., 0].astype(float) * weight
    found = (uv * colour[..., None]).sum(axis=(0, 1)) / colour.sum()
    assert np.abs((found - centre) * 64).max() < 0.01


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_edges_are_clean_on_black_and_on_white(tmp_path: Path, background: float) -> None:
    """A flat disc over a background has no colour that is not on the way from the one to the other."""
    rgba = disc(64)
    larger = doubling(tmp_path, repeating(4))(rgba)
    assert set(map(tuple, larger[larger[..., 3] > 0][:, :3])) == {(230, 120, 40)}
    shown = framing.on_background(larger, background)
    # Between two edges that are one picture's, the fringe would be a step of tens.
    smooth = framing.on_background(framing.resize(rgba, 256, 256), background)
    assert np.abs(shown - smooth).max() * 255 < 2


def test_without_bleeding_the_edge_would_be_dark(tmp_path: Path) -> None:
    """The network mixes neighbours; this one averages 3 × 3."""
    tensors = repeating(4)
    tensors["conv_first.weight"][range(3), range(3)] = 1 / 9
    upscaler = doubling(tmp_path, tensors)
    edge = upscaler(disc(64))
    assert np.abs(edge[edge[..., 3] > 0][:, :3].astype(int) - (230, 120, 40)).max() <= 1
    assert isinstance(upscaler, upscale.NetworkUpscaler)
    plain = upscaler._tiled(disc(64)[None, ..., :3])[0]
    assert np.abs(plain[edge[..., 3] > 128].astype(int) - (230, 120, 40)).max() > 30


def test_alpha_is_left_to_the_cubic_filter(tmp_path: Path) -> None:
    rgba = textured()
    larger = doubling(tmp_path, esrgan.random_rrdbnet(4, 1, 4))(rgba)
    # framing.resize rounds alpha's half steps once, we do too; both clip.
    np.testing.assert_allclose(larger[..., 3], framing.resize(rgba, 192, 192)[..., 3], atol=1)
    assert not larger[larger[..., 3] == 0].any()


def test_colour_is_carried_on_under_transparent_pixels() -> None:
    rgba = np.zeros((40, 50, 4), np.uint8)
    rgba[:, :20] = (200, 10, 30, 255)
    rgba[:, 30:] = (20, 90, 250, 255)
    bled = upscale.bleed(rgba)
    seen = rgba[..., 3] > 0
    np.testing.assert_array_equal(bled[seen], rgba[seen, :3])
    assert np.abs(bled[:, 20:22].astype(int) - (200, 10, 30)).max() < 28  # an eighth of the way
    assert np.abs(bled[:, 28:30].astype(int) - (20, 90, 250)).max() < 28
    between = bled.astype(int)[:, 20:30]
    assert (between.min(axis=(0, 1)) >= (20, 10, 30)).all() and (between.max(axis=(0, 1)) <= (200, 90, 250)).all()


def test_an_opaque_picture_is_not_bled() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (33, 21, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    np.testing.assert_array_equal(upscale.bleed(rgba), rgba[..., :3])


def test_views_together_are_views_alone(tmp_path: Path) -> None:
    upscaler = doubling(tmp_path, repeating(4))
    views = np.stack([disc(32), np.zeros((32, 32, 4), np.uint8), disc(32, (0.3, 0.3), 0.2)])
    together = upscaler(views)
    for view, larger in zip(views, together, strict=True):
        np.testing.assert_array_equal(upscaler(view), larger)
    assert not together[1].any()


def test_threads_take_turns(tmp_path: Path) -> None:
    upscaler = doubling(tmp_path, repeating(2))
    pictures = [disc(24, (0.5, 0.5), 0.1 + 0.03 * index) for index in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        results[index] = upscaler(pictures[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(results[index], upscaler(picture))


def test_the_identity_names_the_weights(tmp_path: Path) -> None:
    first = doubling(tmp_path, repeating(2)).identity
    assert (first["name"], first["scale"], first["precision"]) == ("weights.pth", 2, "float32")
    second = doubling(tmp_path, repeating(4)).identity
    assert first["sha256"] != second["sha256"] and len(first["sha256"]) == 64
    assert upscale.find("none").identity == {"name": "none"}


@pytest.mark.parametrize(
    "picture", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 4), np.float32), np.zeros((0, 8, 4), np.uint8)]
)
def test_other_arrays_are_no_pictures(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(UpscaleError, match="must be"):
        doubling(tmp_path, repeating(2))(picture)


def test_a_result_too_large_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(UpscaleError, match="8000×4, 4 times as large, passes 16384"):
        doubling(tmp_path, repeating(4))(np.zeros((4, 8000, 4), np.uint8))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("magic", r"no such upscaler; there is none, realesrgan-x4plus"), ("gone.pth", "gone.pth: no such file")],
)
def test_unknown_names_list_what_there_is(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        upscale.check(name)


def test_captures_become_larger_shards(tmp_path: Path) -> None:
    """The whole way: sizes above the rendered one, cameras untouched, depth as it was, and what was done in the record."""
    write_captures(tmp_path / "captures", 1, views=10, resolution=32)
    torch.save({"params_ema": repeating(4)}, tmp_path / "weights.pth")
    shared = {"captures": tmp_path / "captures", "sizes": (128, 64, 32), "threads": 2}
    preprocess(PreprocessConfig(out=tmp_path / "plain", **shared))
    preprocess(PreprocessConfig(out=tmp_path / "larger", upscale=str(tmp_path / "weights.pth"), **shared))
    plain, larger = ShardSet(tmp_path / "plain"), ShardSet(tmp_path / "larger")
    assert (sorted(plain.sizes), sorted(larger.sizes)) == ([32], [32, 64, 128])
    for ours, theirs in zip(larger.cameras(0), plain.cameras(0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for view in range(10):
        before, after = plain.picture(0, view, 32), larger.picture(0, view, 32)
        inside = cv2.erode(before[..., 3], np.ones((5, 5), np.uint8)) == 255
        assert inside.any()
        np.testing.assert_allclose(after[inside].astype(int), before[inside], atol=1)  # rounded once more
        np.testing.assert_array_equal(larger.depth(0, view), plain.depth(0, view))
    done = larger.record(0)["upscaling"]
    assert done["name"] == "weights.pth" and done["scale"] == 4 and len(done["sha256"]) == 64
    figures = done["disagreement"]
    # Pixels that are repeated are as far from the truth as the pixels were: half a pixel at most.
    assert figures["points"] > 100 and 0 < figures["before"] < figures["after"] < 3 * figures["before"]
    assert "upscaling" not in plain.record(0)


def test_other_weights_in_the_same_file_do_not_fill_the_same_folder(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 1, views=1, resolution=16)
    torch.save(repeating(4), tmp_path / "weights.pth")
    config = PreprocessConfig(
        captures=tmp_path / "captures", out=tmp_path / "shards", sizes=(16,), upscale=str(tmp_path / "weights.pth")
    )
    preprocess(config)
    assert preprocess(config).skipped == 1
    torch.save(repeating(2), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"its upscaling came of .* use another --out"):
        preprocess(config)


def test_weights_that_cannot_be_used_are_told_before_anything_is_written(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 1, views=1, resolution=16)
    (tmp_path / "weights.pth").write_text("nothing of the kind")
    with pytest.raises(UserError, match="cannot be read as weights"):
        preprocess(
            PreprocessConfig(
                captures=tmp_path / "captures", out=tmp_path / "shards", upscale=str(tmp_path / "weights.pth")
            )
        )
    assert not (tmp_path / "shards" / "config.json").exists()
