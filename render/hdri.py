"""Pictures of surroundings that light an object: Radiance (.hdr) and OpenEXR (.exr), equirectangular, linear, any brightness."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from render.brightness import sphere_points, under_panorama
from turntable.errors import UserError
from turntable.files import sha256

SUFFIXES = (".hdr", ".exr")
MAX_PIXELS = 8192 * 4096
"""400 MB of floats; light needs no finer picture."""


class HdriError(UserError):
    """A picture, or a folder of them, that cannot light anything."""


@dataclass(frozen=True)
class Surrounding:
    """What is known of one picture."""

    file: str
    """Name in its folder."""
    sha256: str
    brightest: float
    """Largest channel of linear radiance that a white matt sphere shows anywhere when the picture lights it as it is."""


def listing(folder: Path) -> list[Surrounding]:
    """Every picture of `folder`, by name. Each is read once, so that no asset fails for it later."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise HdriError(f"{folder}: no such folder; --hdri takes a folder of .hdr and .exr pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        found = len(list(folder.iterdir()))
        raise HdriError(f"{folder}: none of its {found} files is a .hdr or .exr picture; put surroundings into it")
    return [Surrounding(path.name, sha256(path), brightest(path)) for path in paths]


def brightest(path: Path) -> float:
    """See `Surrounding.brightest`. Raises `HdriError` over a picture that cannot be read or gives no light."""
    radiance = read(path)
    broken = int((~np.isfinite(radiance)).any(axis=2).sum())
    if broken:
        raise HdriError(f"{path}: {broken} pixels are not finite numbers; repair the picture or take it out")
    small = cv2.resize(np.maximum(radiance, 0), (64, 32), interpolation=cv2.INTER_AREA)
    value = float(under_panorama(small, sphere_points(500)).max())
    if not value > 1e-9:
        raise HdriError(f"{path}: all black, it gives no light; take it out")
    return value


def read(path: Path) -> np.ndarray:
    """(H, W, 3) float32 linear RGB, top row first. Its size is known from the header before anything is decoded."""
    try:
        width, height = _hdr_size(path) if path.suffix.lower() == ".hdr" else _exr_size(path)
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"{width}×{height} pixels, more than 8192×4096; make it smaller")
        if not 1.98 < width / height < 2.02:
            raise ValueError(
                f"{width}×{height} pixels; an equirectangular picture, twice as wide as high, was expected"
            )
        return _read_hdr(path) if path.suffix.lower() == ".hdr" else _read_exr(path)
    except (ValueError, OSError, RuntimeError, TypeError, KeyError) as error:
        raise HdriError(f"{path}: cannot be used as a surrounding: {error}") from error


def _hdr_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as handle:
        head = handle.read(1 << 14)
    if not head.startswith(b"#?"):
        raise ValueError(f"no Radiance picture (it begins with {head[:8]!r})")
    size = re.search(rb"\n-Y (\d{1,6}) \+X (\d{1,6})\n", head)
    if not size:
        raise ValueError("its header gives no size in the usual order (-Y height +X width)")
    return int(size[2]), int(size[1])


def _read_hdr(path: Path) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if picture is None or picture.dtype != np.float32:
        raise ValueError("a damaged Radiance picture")
    return np.ascontiguousarray(picture[..., ::-1])


def _exr_size(path: Path) -> tuple[int, int]:
    import OpenEXR

    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic != b"\x76\x2f\x31\x01":
        raise ValueError(f"no OpenEXR picture (it begins with {magic!r})")
    with OpenEXR.File(str(path), header_only=True) as file:
        low, high = file.header()["dataWindow"]
    width, height = (np.asarray(high, np.int64) - np.asarray(low, np.int64) + 1).tolist()
    return width, height


def _read_exr(path: Path) -> np.ndarray:
    import OpenEXR

    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        name = next((n for n in ("RGB", "RGBA") if n in channels), None)
        if name is None:
            raise ValueError(f"it has the channels {sorted(channels)}, expected R, G and B")
        return np.ascontiguousarray(channels[name].pixels[..., :3], dtype=np.float32)
