"""The capture format: one stored .zip an asset, made by `render`, read by `preprocess`; docs/formats.md is its contract.

    <out>/<uid[:2]>/<uid>.zip
        transforms.json      cameras in the NeRF convention (nerfstudio, instant-ngp), extended under "turntable"
        <pass>/000.png …     one picture a view and pass, see datasets.pictures
        geometry.npz         points (N, 3) float32, normals (N, 3) float16, solid (262144,) uint8 (see turntable.geometry)
        preview.webp         contact sheet

A capture that exists is complete. Its bytes depend on nothing but the asset, the settings and the versions: no clock, no
host name. Archives are treated as hostile: names, sizes and picture dimensions are checked before anything is decoded.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.pictures import MAX_PICTURE_SIDE, PASS_CHANNELS, POSITION_OFFSET, POSITION_SCALE, decode_png
from turntable import cameras
from turntable.errors import UserError
from turntable.files import atomic_path
from turntable.geometry import Geometry, pack_solid, unpack_solid

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 knows no passes but rgba, depth and normal; what it has is as in version 2."""
MAX_ENTRY_BYTES = 256 << 20
_ARCHIVE_ERRORS = (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, struct.error, zlib.error)
"""What zipfile raises over damaged archives: a flipped bit may ask for a password or for a method that does not exist."""


class CaptureError(UserError):
    """A capture that cannot be read or may not be written."""


@dataclass(frozen=True)
class View:
    """One camera and its encoded pictures."""

    world_from_camera: np.ndarray
    """(3, 4) float64, OpenGL axes, normalised world frame, object units."""
    intrinsics: np.ndarray
    """(4,) float64, normalised."""
    images: dict[str, bytes]
    """Pass -> PNG bytes, see `datasets.pictures`."""
    record: dict[str, Any] = field(default_factory=dict)
    """What is known of this view: coverage and other checks. JSON values."""


@dataclass(frozen=True)
class Capture:
    """Everything that a capture's archive holds."""

    uid: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    depth_scale: float
    """Object units a step of the 16-bit depth."""
    views: list[View]
    geometry: Geometry
    preview: bytes
    """WebP bytes of a contact sheet."""
    record: dict[str, Any] = field(default_factory=dict)
    """Seed, lights, normalisation, asset record, source, class, licence, attribution, settings, versions. JSON values."""


def capture_name(uid: str) -> str:
    """The capture of `uid`, relative to a captures folder."""
    return f"{uid[:2]}/{uid}.zip"


def capture_path(folder: Path, uid: str) -> Path:
    """Where the capture of `uid` lies below a captures folder."""
    return folder / uid[:2] / f"{uid}.zip"


def capture_paths(folder: Path) -> list[Path]:
    """Every finished capture below `folder`, sorted by uid."""
    return sorted(folder.glob("??/*.zip"), key=lambda path: path.stem)


def write_capture(path: Path, capture: Capture) -> None:
    """Writes `capture` to `path` (.zip, stored): under a temporary name, read back once, renamed. Same input, same bytes."""
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, content in _entries(capture):
                archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
        with zipfile.ZipFile(temporary) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CaptureError(f"{path}: {damaged} does not read back as written; check the disk and run again")


def _entries(capture: Capture) -> Iterator[tuple[str, bytes]]:
    yield "transforms.json", (json.dumps(_transforms(capture), indent=1, allow_nan=False) + "\n").encode()
    for index, view in enumerate(capture.views):
        for name, content in view.images.items():
            yield f"{name}/{index:03d}.png", content
    yield "geometry.npz", geometry_npz(capture.geometry)
    yield "preview.webp", capture.preview


def geometry_npz(shape: Geometry) -> bytes:
    """A `geometry.npz`."""
    buffer = io.BytesIO()
    np.savez(buffer, points=shape.points, normals=shape.normals.astype(np.float16), solid=pack_solid(shape.solid))
    return buffer.getvalue()


def _transforms(capture: Capture) -> dict[str, Any]:
    frames = []
    for index, view in enumerate(capture.views):
        fl_x, fl_y, cx, cy = cameras.pixel_intrinsics(view.intrinsics, capture.width, capture.height).tolist()
        frame = {"fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy, "w": capture.width, "h": capture.height}
        frame["transform_matrix"] = cameras.homogeneous(view.world_from_camera).tolist()
        for name in view.images:
            key = "file_path" if name == "rgba" else f"{name}_file_path"
            frame[key] = f"{name}/{index:03d}.png"
        frame["turntable"] = view.record
        frames.append(frame)
    ours = {"format": "turntable-capture", "format_version": FORMAT_VERSION, "uid": capture.uid}
    return {
        "camera_model": "OPENCV",
        **shared_lens(frames),
        "integer_depth_scale": capture.depth_scale,
        "integer_position_scale": POSITION_SCALE,
        "integer_position_offset": POSITION_OFFSET,
        "aabb_scale": 1,
        "frames": frames,
        "turntable": {**capture.record, **ours},
    }


def shared_lens(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Lens and size at the top of a transforms.json: the lens only where all frames agree.

    nerfstudio takes what stands at the top for every frame, whatever the frame says.
    """
    lens = ("fl_x", "fl_y", "cx", "cy")
    agree = all(frame[name] == frames[0][name] for frame in frames for name in lens)
    return {name: frames[0][name] for name in (*(lens if agree else ()), "w", "h")}


class CaptureReader:
    """Reads one capture. Use it as a context manager; every error is a `CaptureError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise CaptureError(f"{path}: no such capture") from None
        except (ValueError, *_ARCHIVE_ERRORS) as error:
            raise CaptureError(
                f"{path}: not a whole zip archive ({error}); delete it and render the asset again"
            ) from error
        try:
            self._open()
        except BaseException:
            self._archive.close()
            raise

    def _open(self) -> None:
        try:
            transforms = json.loads(self._entry("transforms.json"))
            ours = transforms["turntable"]
            version, self.uid = ours["format_version"], str(ours["uid"])
        except (KeyError, TypeError, ValueError) as error:
            raise CaptureError(f"{self.path}: transforms.json is not a turntable capture's ({error!r})") from error
        if version not in READABLE_VERSIONS:
            raise CaptureError(
                f"{self.path}: capture format {version}, this version reads {READABLE_VERSIONS}; render it again"
            )
        try:
            self._take(transforms)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CaptureError(f"{self.path}: transforms.json is malformed ({error!r})") from error

    def _take(self, transforms: dict[str, Any]) -> None:
        """Fields from transforms.json, each of the type and in the range that the format says; else an error of any kind."""
        self.record: dict[str, Any] = transforms["turntable"]
        self.width, self.height = int(transforms["w"]), int(transforms["h"])
        if not (0 < self.width <= MAX_PICTURE_SIDE and 0 < self.height <= MAX_PICTURE_SIDE):
            raise ValueError(f"pictures of {self.width}×{self.height} pixels")
        self.depth_scale = float(transforms["integer_depth_scale"])
        if not 0 < self.depth_scale < np.inf:
            raise ValueError(f"integer_depth_scale {self.depth_scale}")
        frames = transforms["frames"]
        self.world_from_camera = np.stack([cameras.world_from_opengl(f["transform_matrix"]) for f in frames])
        pixels = np.array([[f["fl_x"], f["fl_y"], f["cx"], f["cy"]] for f in frames], dtype=np.float64)
        if not np.isfinite(pixels).all() or (pixels[:, :2] <= 0).any():
            raise ValueError("intrinsics that are not finite, or a focal length that is not positive")
        self.intrinsics = cameras.normalised_intrinsics(pixels, self.width, self.height)
        self.view_records: list[dict[str, Any]] = [dict(f["turntable"]) for f in frames]
        self._names = [
            {n: f.get("file_path" if n == "rgba" else f"{n}_file_path") for n in PASS_CHANNELS} for f in frames
        ]
        if not all(isinstance(name, str | None) for names in self._names for name in names.values()):
            raise TypeError("a file_path that is no text")

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def passes(self) -> list[str]:
        """The passes that every view has."""
        return [name for name in PASS_CHANNELS if all(names[name] for names in self._names)]

    def encoded(self, name: str, view: int) -> bytes:
        """The PNG bytes of one view's pass."""
        entry = self._names[view].get(name)
        if not entry:
            raise CaptureError(f"{self.path}: view {view} has no pass {name!r}; it has {self.passes}")
        return self._entry(entry)

    def picture(self, name: str, view: int) -> np.ndarray:
        """One view's pass, decoded: (H, W) or (H, W, channels) of the type that `PASS_CHANNELS` says."""
        try:
            picture = decode_png(self.encoded(name, view))
        except ValueError as error:
            raise CaptureError(f"{self.path}: {name} of view {view}: {error}") from error
        channels, dtype = PASS_CHANNELS[name]
        expected = (self.height, self.width) if channels == 1 else (self.height, self.width, channels)
        if picture.shape != expected or picture.dtype != dtype:
            found = f"{picture.shape} {picture.dtype}"
            raise CaptureError(f"{self.path}: {name} of view {view} is {found}, expected {expected} {np.dtype(dtype)}")
        return picture

    def depth(self, view: int) -> np.ndarray:
        """(H, W) float32 planar depth in object units, 0 where nothing is hit."""
        return self.picture("depth", view).astype(np.float32) * np.float32(self.depth_scale)

    def preview(self) -> bytes:
        """WebP bytes of the contact sheet."""
        return self._entry("preview.webp")

    def geometry(self) -> Geometry:
        """Surface points, normals and the solid."""
        content = self._entry("geometry.npz")
        try:
            return parse_geometry(content)
        except ValueError as error:
            raise CaptureError(f"{self.path}: geometry.npz is malformed ({error})") from error

    def _entry(self, name: str) -> bytes:
        try:
            size = self._archive.getinfo(name).file_size
        except KeyError:
            raise CaptureError(
                f"{self.path}: {name} is missing; delete the capture and render the asset again"
            ) from None
        if size > MAX_ENTRY_BYTES:
            raise CaptureError(f"{self.path}: {name} claims {size} bytes, more than {MAX_ENTRY_BYTES}; refused")
        try:
            return self._archive.read(name)
        except (ValueError, *_ARCHIVE_ERRORS) as error:
            raise CaptureError(
                f"{self.path}: {name} is damaged ({error}); delete the capture and render again"
            ) from error


def parse_geometry(content: bytes) -> Geometry:
    """A `geometry.npz`'s bytes, treated as hostile. Raises ValueError."""
    try:
        return _parse_geometry(content)
    # Overflow, memory: array headers that claim sizes which the archive does not hold.
    except (KeyError, TypeError, EOFError, OverflowError, MemoryError, *_ARCHIVE_ERRORS) as error:
        raise ValueError(str(error)) from error


def _parse_geometry(content: bytes) -> Geometry:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_ENTRY_BYTES:
            raise ValueError(f"more than {MAX_ENTRY_BYTES} bytes when unpacked; refused")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        points, normals, solid = arrays["points"], arrays["normals"], arrays["solid"]
    if points.ndim != 2 or points.shape[1] != 3 or normals.shape != points.shape:
        raise ValueError(f"points {points.shape} and normals {normals.shape}, expected (N, 3) both")
    if points.dtype != np.float32 or normals.dtype != np.float16 or solid.dtype != np.uint8:
        raise ValueError(f"points, normals, solid are {points.dtype}, {normals.dtype}, {solid.dtype}")
    return Geometry(points, normals.astype(np.float32), unpack_solid(solid))
