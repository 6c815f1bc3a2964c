"""Pictures as people have them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from model import photos
from model.photos import PictureError, read_photo, read_picture
from tests.conftest import ROOT


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)


def test_rgb_and_rgba_come_as_they_are(colours, tmp_path):
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(colours[..., :3].copy()).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), colours)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), colours[..., :3])


def test_grey_and_palette_become_colour(colours, tmp_path):
    grey = colours[..., 0].copy()
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    Image.merge("LA", [Image.fromarray(colours[..., i].copy()) for i in (0, 3)]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "la.png")[..., 3], colours[..., 3])
    palette = Image.fromarray(colours[..., :3].copy()).quantize(8)
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png", transparency=0)
    read = read_picture(tmp_path / "palette.png")
    assert read.shape == (6, 9, 4)
    np.testing.assert_array_equal(read[..., 3] == 0, np.asarray(palette) == 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]
    colour = np.array([[[65535, 32896, 257]]], np.uint16)
    cv2.imwrite(str(tmp_path / "rgb.png"), colour[..., ::-1])
    assert read_picture(tmp_path / "rgb.png")[0, 0].tolist() == [255, 128, 1]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_colours_keep_their_higher_byte(suffix, tmp_path):
    """PIL drops the lower byte, which is at most one of 255 steps from rounding."""
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    for channels in (3, 4) if suffix == "png" else (3,):
        order = [2, 1, 0, 3][:channels]
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), deep[..., order])
        read = read_picture(tmp_path / f"deep.{suffix}")
        assert read.shape == (5, 7, channels) and read.dtype == np.uint8
        assert np.abs(read - deep[..., :channels] / 257).max() <= 1


def test_a_mode_with_a_band_called_a_has_no_alpha(tmp_path):
    Image.new("LAB", (3, 2), (100, 128, 128)).save(tmp_path / "lab.tiff")
    assert read_picture(tmp_path / "lab.tiff").shape == (2, 3, 3)
    Image.new("1", (3, 2), 1).save(tmp_path / "bits.png")
    assert read_picture(tmp_path / "bits.png").tolist() == [[[255] * 3] * 3] * 2


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    picture.paste((255, 255, 255), (0, 0, 10, 20))  # white at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    read = read_picture(tmp_path / "turned.jpg")
    assert read.shape == (40, 20, 3)
    assert read[2].mean() > 200 and read[-3].mean() < 50  # white is now at the top


def test_cmyk_and_animations_can_be_read(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_picture(tmp_path / "a.jpg")[0, 0].astype(int)
    assert red > 200 and green < 60 and blue < 60
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        read = read_photo(tmp_path / f"a.{suffix}")
        # WebP is lossy.
        assert np.abs(read.picture[0, 0, :3] - np.array([0.0, 0, 255])).max() <= 2
        assert read.notes == ("the first of 2 frames",)


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("png", "RGBA"), ("png", "P")])
def test_a_large_picture_is_scaled_down_as_it_is_read_and_says_so(suffix, mode, tmp_path):
    """Left half red, right half blue, or transparent; four times as wide as asked."""
    rgba = np.zeros((500, 2000, 4), np.uint8)
    rgba[:, :1000] = (255, 0, 0, 255)
    rgba[:, 1000:] = (0, 255, 0, 0) if mode == "RGBA" else (0, 0, 255, 255)
    Image.fromarray(rgba).convert(mode).save(tmp_path / f"large.{suffix}", quality=95)
    read = read_photo(tmp_path / f"large.{suffix}", 500)
    assert read.picture.shape[:2] == (125, 500)
    assert read.notes == ("scaled down from 2000×500 pixels",)
    assert np.abs(read.picture[60, 100, :3] - np.array([255.0, 0, 0])).max() < 6
    if mode == "RGBA":
        # What is transparent leaves no colour of its own at the edge.
        edge = read.picture[60, 240:260]
        assert edge[edge[:, 3] > 0][:, 1].max() < 3 and edge[-1, 3] == 0
    assert read_photo(tmp_path / f"large.{suffix}", None).picture.shape[:2] == (500, 2000)


def test_a_legal_giant_takes_bounded_memory(tmp_path):
    """64 megapixels of RGB are 192 MB; in floats, as matting and framing would have it, six times as much."""
    Image.new("RGB", (8000, 7900), (100, 50, 20)).save(tmp_path / "giant.jpg")
    code = (
        "import resource; from pathlib import Path; from model.photos import read_photo;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"picture = read_photo(Path({str(tmp_path / 'giant.jpg')!r})).picture;"
        "print(max(picture.shape), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    side, kilobytes = map(int, done.stdout.split())
    assert side == photos.LONGEST_SIDE
    assert kilobytes < 500_000


def test_a_url_is_no_file():
    with pytest.raises(PictureError, match="a URL; download the picture"):
        read_picture(Path("https://example.org/chair.png"))


def test_a_single_pixel_is_a_picture(tmp_path):
    Image.new("RGBA", (1, 1), (10, 20, 30, 200)).save(tmp_path / "one.png")
    assert read_picture(tmp_path / "one.png").tolist() == [[[10, 20, 30, 200]]]


def test_files_that_are_no_pictures(tmp_path):
    with pytest.raises(PictureError, match=r"a\.png: no such picture"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "page.png").write_text("<!doctype html>")
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(tmp_path / "page.png")
    with pytest.raises(PictureError, match="folder"):
        read_picture(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match="floating-point"):
        read_picture(tmp_path / "float.tiff")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_damaged_not_grey(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    (tmp_path / "cut").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(PictureError, match=r"damaged|not a picture"):
        read_picture(tmp_path / "cut")


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_huge_claim_is_refused_before_decoding(side, tmp_path):
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))))
    with pytest.raises(PictureError, match=f"more than {photos.MAX_PIXELS:,}"):
        read_picture(tmp_path / "bomb.png")
