"""Pictures as people have them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from model import photos
from model.photos import PictureError, read_picture


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
    import cv2

    colour = np.array([[[65535, 32896, 257]]], np.uint16)
    cv2.imwrite(str(tmp_path / "rgb.png"), colour[..., ::-1])
    assert read_picture(tmp_path / "rgb.png")[0, 0].tolist() == [255, 128, 1]


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
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif")[0, 0, :3].tolist() == [0, 0, 255]


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
