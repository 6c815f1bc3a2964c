"""Files beside an asset and no others, and pictures measured by their headers."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from render import scene
from render.references import beside, found_beside
from render.texture_sizes import MAX_PIXELS, bytes_size, file_size, picture_size
from tests.render.exported import png
from tests.render.torture import obj
from turntable.errors import UserError


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "hdr", "jp2"])
def test_sizes_by_header_are_those_of_the_decoded_picture(suffix: str) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (37, 61, 3)).astype(np.uint8)
    values = picture.astype(np.float32) if suffix == "hdr" else picture
    content = cv2.imencode(f".{suffix}", values)[1].tobytes()
    assert picture_size(io.BytesIO(content)) == (61, 37)
    # Cut off or not, nothing but a size or none comes out.
    assert all(picture_size(io.BytesIO(content[:end])) in (None, (61, 37)) for end in range(0, len(content), 7))


def test_the_size_of_an_exr(tmp_path: Path) -> None:
    import OpenEXR

    path = tmp_path / "a.exr"
    OpenEXR.File({}, {"RGB": np.zeros((37, 61, 3), np.float32)}).write(str(path))
    assert file_size(path) == (61, 37)


def test_a_lossless_and_an_extended_webp() -> None:
    lossless = cv2.imencode(".webp", np.zeros((5, 300, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert b"VP8L" in lossless[:16] and picture_size(io.BytesIO(lossless)) == (300, 5)
    extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (69_999).to_bytes(3, "little") + (9).to_bytes(3, "little")
    assert picture_size(io.BytesIO(extended)) == (70_000, 10)


def test_a_targa_has_no_signature() -> None:
    head = bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 61, 0, 37, 0, 24, 0])
    assert picture_size(io.BytesIO(head + bytes(61 * 37 * 3))) == (61, 37)
    assert picture_size(io.BytesIO(b"just some words, no picture")) is None


def test_the_largest_picture_passes_and_a_larger_one_does_not() -> None:
    side = int(MAX_PIXELS**0.5)
    assert bytes_size("a", png(side, side, b"")) == (side, side)
    with pytest.raises(ValueError, match="more than"):
        bytes_size("a", png(side + 1, side, b""))


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "a/../../b.png",
        "..\\a.png",
        "/etc/passwd",
        "~/a.png",
        "C:\\a.png",
        "file:///a.png",
        "a\0b",
        "link/a.png",
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path)
    asset = tmp_path / "home" / "model.obj"
    with pytest.raises(UserError):
        beside(asset, name)


def test_percent_signs_are_decoded_once(tmp_path: Path) -> None:
    asset = tmp_path / "model.gltf"
    assert beside(asset, "a%20b.png", encoded=True) == tmp_path / "a b.png"
    assert beside(asset, "%252e%252e/a.png", encoded=True) == tmp_path / "%2e%2e" / "a.png"
    with pytest.raises(UserError):
        beside(asset, "%2e%2e/a.png", encoded=True)


def test_a_picture_is_found_by_its_name_beside_the_asset(tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    (tmp_path / "textures" / "wood.png").write_bytes(png(4, 4))
    asset = tmp_path / "model.obj"
    for name in ("textures/wood.png", "C:\\work\\wood.png", "/home/ada/wood.png", "../elsewhere/wood.png"):
        found = found_beside(asset, name)
        assert found and found.resolve() == (tmp_path / "textures" / "wood.png").resolve()
    assert found_beside(asset, "steel.png") is None


def test_the_author_s_path_does_not_matter_to_an_obj(tmp_path: Path) -> None:
    obj("model.mtl", "C:\\work\\paint.png")(tmp_path / "model.obj")
    _, _, _, missing = scene.load(tmp_path / "model.obj")
    assert (missing["textures"], missing["textures_missing"]) == (0, ["paint.png"])
    (tmp_path / "paint.png").write_bytes(png(4, 4))
    _, _, _, found = scene.load(tmp_path / "model.obj")
    assert (found["textures"], found["textures_missing"]) == (1, [])
