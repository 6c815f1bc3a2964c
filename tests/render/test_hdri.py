"""Folders of surroundings: what is read of them, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest

from render import hdri
from render.hdri import HdriError
from turntable.files import sha256


def write_exr(path: Path, radiance: np.ndarray, channels: str = "RGB") -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = {channels: radiance} if channels == "RGB" else {channels: np.ascontiguousarray(radiance[..., 0])}
    OpenEXR.File(header, pixels).write(str(path))


def even(level: float, height: int = 16) -> np.ndarray:
    return np.full((height, 2 * height, 3), level, np.float32) * np.array([1, 0.5, 0.25], np.float32)


def test_pictures_are_listed_with_hash_and_brightness(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "b.hdr"), even(4.0)[..., ::-1])
    write_exr(tmp_path / "a.EXR", even(0.5))
    (tmp_path / "notes.txt").write_text("")
    one, two = hdri.listing(tmp_path)
    assert (one.file, two.file) == ("a.EXR", "b.hdr") and one.sha256 == sha256(tmp_path / "a.EXR")
    # A white sphere in an even world shows it; Radiance's mantissa has eight bits.
    assert one.brightest == pytest.approx(0.5, rel=0.01) and two.brightest == pytest.approx(4.0, rel=0.01)
    assert np.allclose(hdri.read(tmp_path / "b.hdr")[3, 3], [4, 2, 1], rtol=0.01)
    assert np.allclose(hdri.read(tmp_path / "a.EXR")[3, 3], [0.5, 0.25, 0.125])


def broken(path: Path, kind: str) -> Path:
    """A file of that kind of damage."""
    name = path / ("a.exr" if kind in ("grey", "nan", "black", "no exr", "cut exr") else "a.hdr")
    cv2.imwrite(str(path / "a.hdr"), even(1.0)[..., ::-1])
    whole = (path / "a.hdr").read_bytes()
    (path / "a.hdr").unlink()
    picture = even(1.0)
    picture[2, 3, 1] = np.nan
    write = {
        "html": lambda: name.write_bytes(b"<!DOCTYPE html>"),
        "empty": lambda: name.write_bytes(b""),
        "cut": lambda: name.write_bytes(whole[: len(whole) // 2]),
        "huge": lambda: name.write_bytes(whole.replace(b"-Y 16 +X 32", b"-Y 99999 +X 199998")),
        "square": lambda: cv2.imwrite(str(name), np.ones((16, 16, 3), np.float32)),
        "turned": lambda: name.write_bytes(whole.replace(b"-Y 16 +X 32", b"+X 32 -Y 16")),
        "grey": lambda: write_exr(name, even(1.0), "Y"),
        "nan": lambda: write_exr(name, picture),
        "black": lambda: write_exr(name, even(0.0)),
        "no exr": lambda: name.write_bytes(whole),
        "cut exr": lambda: (write_exr(name, even(1.0)), name.write_bytes(name.read_bytes()[:200])),
    }
    write[kind]()
    return name


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("html", "no Radiance picture"),
        ("empty", "no Radiance picture"),
        ("cut", "cannot be used"),
        ("huge", "more than 8192"),
        ("square", "twice as wide as high"),
        ("turned", "usual order"),
        ("grey", "expected R, G and B"),
        ("nan", "1 pixels are not finite"),
        ("black", "all black"),
        ("no exr", "no OpenEXR picture"),
        ("cut exr", "cannot be used"),
    ],
)
def test_what_cannot_light_is_named(tmp_path: Path, kind: str, words: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(HdriError) as caught:
        hdri.listing(tmp_path)
    assert str(path) in str(caught.value) and words in str(caught.value)


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(HdriError, match="none of its 1 files"):
        hdri.listing(tmp_path)
    with pytest.raises(HdriError, match="no such folder"):
        hdri.listing(tmp_path / "missing")
