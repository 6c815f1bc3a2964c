"""Mattes from mask files: found, fitted, and refused with a name for what is wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.pictures import encode_png
from preprocess import matte
from preprocess.cutout import MatteError, cut_out
from turntable.errors import UserError

HEIGHT, WIDTH = 96, 160
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ellipse(height: int, width: int) -> np.ndarray:
    """(height, width) uint8: the same shape at any size, its edge one pixel wide."""
    y, x = (np.mgrid[: height * 8, : width * 8] + 0.5) / 8
    inside = ((x / width - 0.45) / 0.3) ** 2 + ((y / height - 0.55) / 0.35) ** 2 < 1
    return (inside.reshape(height, 8, width, 8).mean(axis=(1, 3)) * 255).round().astype(np.uint8)


def put(folder: Path, name: str, mask: np.ndarray) -> matte.Matter:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(mask))
    return matte.find(f"masks:{folder}")


@pytest.mark.parametrize("name", ["7/a001/001.jpg.png", "7/a001/001.png"])
def test_a_mask_of_the_same_size_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    rgba = put(tmp_path, name, ellipse(HEIGHT, WIDTH))(PICTURE, "7/a001/001.jpg")
    np.testing.assert_array_equal(rgba[..., 3], ellipse(HEIGHT, WIDTH))
    np.testing.assert_array_equal(rgba[rgba[..., 3] == 255][:, :3], PICTURE[rgba[..., 3] == 255])


@pytest.mark.parametrize("scale", [0.5, 0.25, 2])
def test_a_mask_of_another_size_lies_where_the_object_is(tmp_path: Path, scale: float) -> None:
    mask = ellipse(int(HEIGHT * scale), int(WIDTH * scale))
    alpha = put(tmp_path, "1.png", mask)(PICTURE, "1.jpg")[..., 3]
    true = ellipse(HEIGHT, WIDTH).astype(float)
    # The outline is 258 pixels long. A mask pixel as wide as s pictures' and the linear filter make its edge √12·s wide (the
    # variances of a box and a tent), which misses a step by a quarter of that. A filter
    # that shrinks by averaging misses nothing but rounding, by a few of 255 levels a pixel.
    bound = 258 * np.sqrt(12) / 4 / scale if scale < 1 else 258 * 4 / 255
    assert np.abs(alpha - true).sum() / 255 < bound
    moments = [cv2.moments(picture.astype(np.float32)) for picture in (alpha, true)]
    for axis in ("m10", "m01"):
        ours, theirs = (m[axis] / m["m00"] for m in moments)
        assert abs(ours - theirs) < 0.02  # pixels: a shift by half a pixel of a small mask would be 1 to 2


def test_a_hard_mask_of_half_the_size_gets_soft_edges_without_stairs(tmp_path: Path) -> None:
    hard = np.where(ellipse(HEIGHT // 2, WIDTH // 2) > 127, 255, 0).astype(np.uint8)
    alpha = put(tmp_path, "1.png", hard)(PICTURE, "1.jpg")[..., 3]
    assert ((alpha > 10) & (alpha < 245)).sum() > 258  # at least one a pixel of the outline
    nearest = np.repeat(np.repeat(hard, 2, axis=0), 2, axis=1)
    true = ellipse(HEIGHT, WIDTH).astype(float)
    assert np.square(alpha - true).mean() < 0.6 * np.square(nearest - true).mean()


@pytest.mark.parametrize("kind", ["labels", "bool-grey", "colour", "alpha", "16 bits"])
def test_masks_of_any_kind_are_understood(tmp_path: Path, kind: str) -> None:
    hard = np.where(ellipse(HEIGHT, WIDTH) > 127, 255, 0).astype(np.uint8)
    masks = {
        "labels": hard // 255,
        "bool-grey": hard,
        "colour": np.repeat(hard[..., None], 3, axis=-1),
        "alpha": np.dstack([PICTURE, hard]),
        "16 bits": hard.astype(np.uint16) * 257,
    }
    rgba = put(tmp_path, "1.png", masks[kind])(PICTURE, "1.jpg")
    np.testing.assert_array_equal(rgba[..., 3], hard)


def test_a_mask_counts_also_where_the_picture_has_a_matte(tmp_path: Path) -> None:
    own = np.dstack([PICTURE, np.full((HEIGHT, WIDTH), 9, np.uint8)])
    rgba = put(tmp_path, "1.png", ellipse(HEIGHT, WIDTH))(own, "1.jpg")
    np.testing.assert_array_equal(rgba[..., 3], ellipse(HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("mask", "reason", "words"),
    [
        (np.zeros((48, 80), np.uint8), "no-subject", "the mask is empty"),
        (np.full((48, 80), 255, np.uint8), "no-matte", "covers the whole picture"),
        (ellipse(80, 48), "bad-mask", "48×80 for a picture of 160×96 pixels, another shape"),
    ],
)
def test_masks_that_cannot_be_used_are_named(tmp_path: Path, mask: np.ndarray, reason: str, words: str) -> None:
    way = put(tmp_path, "7/1.jpg.png", mask)
    with pytest.raises(MatteError, match=rf"1\.jpg\.png: .*{words}") as caught:
        way(PICTURE, "7/1.jpg")
    assert caught.value.reason == reason


def test_missing_and_damaged_masks_are_named(tmp_path: Path) -> None:
    way = put(tmp_path, "7/1.jpg.png", ellipse(48, 80))
    with pytest.raises(MatteError, match=r"no mask for 7/2\.jpg, neither 7/2\.jpg\.png nor 7/2\.png") as caught:
        way(PICTURE, "7/2.jpg")
    assert caught.value.reason == "missing-mask"
    with pytest.raises(MatteError, match="no name") as caught:
        way(PICTURE)
    assert caught.value.reason == "missing-mask"
    whole = (tmp_path / "7/1.jpg.png").read_bytes()
    huge = whole[:16] + (60000).to_bytes(4, "big") * 2 + whole[24:]
    for content in (b"", b"no picture", whole[:60], huge):
        (tmp_path / "7/1.jpg.png").write_bytes(content)
        with pytest.raises(MatteError, match="cannot be read") as caught:
            way(PICTURE, "7/1.jpg")
        assert caught.value.reason == "bad-mask"


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", ellipse(48, 80))
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="leads out"):
        matte.find(f"masks:{tmp_path / 'masks'}")(PICTURE, "../secret.jpg")


def test_soft_edges_lose_the_colour_of_what_was_behind() -> None:
    """A blue disc seen on red, its edge five pixels wide: on white and on black it looks as if it had never been there."""
    y, x = np.mgrid[:80, :80]
    alpha = ((28 - np.hypot(x - 40, y - 40)) / 5 + 0.5).clip(0, 1)
    blue, red = np.array([30.0, 60.0, 220.0]), np.array([230.0, 40.0, 20.0])
    seen = (alpha[..., None] * blue + (1 - alpha[..., None]) * red).round().astype(np.uint8)
    matted = (alpha * 255).round().astype(np.uint8)
    rgba = cut_out(seen, matted).astype(float)
    share = rgba[..., 3:] / 255
    for behind in (0, 255):
        error = np.abs(share * (rgba[..., :3] - blue))
        assert error.max() < 6  # of 255; with the colours as seen, the worst pixel errs by 50
        over = share * rgba[..., :3] + (1 - share) * behind
        np.testing.assert_allclose(over, share * blue + (1 - share) * behind, atol=6)
    solid = matted == 255
    np.testing.assert_array_equal(rgba[solid][:, :3], seen[solid])
