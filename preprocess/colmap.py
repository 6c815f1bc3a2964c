"""COLMAP's sparse models: lenses, posed frames and points, in our camera convention.

The three binary files are read here and not by pycolmap, which takes a `cameras.bin` or `images.bin` that was cut short
without a word and never comes back from some such `points3D.bin` (seen with pycolmap 4.2). Here every count is held against the
bytes that are left before anything is made of it. Lenses are pycolmap's: whatever camera model it knows can be undistorted.

Layout (https://colmap.github.io/format.html), little-endian, each file a uint64 count and then so many of

    cameras.bin    uint32 id, int32 model, uint64 width, uint64 height, float64 parameters (their number is the model's)
    images.bin     uint32 id, float64 quaternion w x y z and translation (camera_from_world), uint32 camera id, name ended
                   by a zero byte, uint64 n, n × (float64 x, float64 y, int64 point id or -1)
    points3D.bin   uint64 id, float64 xyz, uint8 rgb, float64 error, uint64 n, n × (uint32 image id, uint32 observation)

Pixel coordinates are COLMAP's, which are ours: the centre of the top left pixel lies at (0.5, 0.5).
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from turntable import cameras
from turntable.errors import UserError

MAX_FILE_BYTES = 1 << 30
"""A model of thirty frames takes a few megabytes."""
MAX_SIDE = 1 << 15
"""Pixels; OpenCV's remap takes no larger picture."""
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


class ModelError(UserError):
    """A sparse model that is missing, damaged, or not what it says."""


@dataclass(frozen=True)
class Lens:
    """One camera of a model: how directions become pixels of the frames as they were taken."""

    model: str
    """COLMAP's name of it: SIMPLE_RADIAL, OPENCV, …"""
    width: int
    height: int
    parameters: tuple[float, ...]
    """In COLMAP's order, pixels where they are lengths."""

    @functools.cached_property
    def _camera(self) -> Any:
        camera = _pycolmap().Camera.create_from_model_name(1, self.model, 1.0, self.width, self.height)
        camera.params = self.parameters
        return camera

    @property
    def focal(self) -> float:
        """Pixels; the mean where a lens has two."""
        return float(self._camera.mean_focal_length())

    @property
    def principal_point(self) -> tuple[float, float]:
        """Pixels."""
        return float(self._camera.principal_point_x), float(self._camera.principal_point_y)

    def pixels(self, slopes: np.ndarray) -> np.ndarray:
        """(N, 2) slopes x/z, y/z of directions, OpenCV axes -> (N, 2) pixels of the distorted frame; nan where there are none."""
        rays = np.concatenate([slopes, np.ones((len(slopes), 1))], axis=1)
        return self._camera.img_from_cam(rays)

    def slopes(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 2) pixels of the distorted frame -> (N, 2) slopes; the inverse of `pixels`, nan where it is not found."""
        return self._camera.cam_from_img(np.ascontiguousarray(pixels, dtype=np.float64))

    def border(self, steps: int = 32) -> np.ndarray:
        """(4·steps, 2) pixels on the frame's border, once around."""
        t = np.arange(steps) / steps
        zero, one = np.zeros(steps), np.ones(steps)
        sides = [(t, zero), (one, t), (1 - t, one), (zero, 1 - t)]
        return np.concatenate([np.stack(side, axis=1) for side in sides]) * [self.width, self.height]

    def check(self) -> None:
        """Raises ModelError unless the whole frame can be undistorted into a pinhole's picture and comes back."""
        border = self.border()
        back = self.pixels(slopes) if np.isfinite(slopes := self.slopes(border)).all() else slopes * np.nan
        if not (np.abs(back - border) < 0.01).all() or not np.isfinite(self.focal) or self.focal <= 0:
            raise ModelError(
                f"a lens {self.model} {self.parameters} of {self.width}×{self.height} pixels: its frame's border has no "
                "place in a pinhole's picture, so its frames cannot be undistorted"
            )


@dataclass(frozen=True)
class Frame:
    """One registered frame."""

    name: str
    """As COLMAP knew it, below the folder of images."""
    lens: Lens
    world_from_camera: np.ndarray
    """(3, 4) float64, OpenGL camera axes, COLMAP's world."""
    pixels: np.ndarray
    """(M, 2) float64, where points were seen, pixels of the distorted frame."""
    points: np.ndarray
    """(M,) int64, which points: rows of the model's `points`."""

    def project(self, points_world: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N, 2) pixels of the distorted frame; nan behind the camera."""
        p_camera = cameras.transform(cameras.invert(self.world_from_camera), points_world)
        x, y, z = (p_camera @ cameras.OPENGL_FROM_OPENCV).T
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.stack([x / z, y / z], axis=1)
        return self.lens.pixels(np.where(z[:, None] > 0, slopes, np.nan))


@dataclass(frozen=True)
class Model:
    """A sparse model. Lengths are in COLMAP's own arbitrary unit."""

    frames: tuple[Frame, ...]
    """By name."""
    points: np.ndarray
    """(N, 3) float64, COLMAP's world."""
    lens_count: int
    """Cameras that its frames have; a video of one piece has one."""
    dropped_frames: tuple[str, ...]
    """Names of frames without a finite pose."""

    def track_lengths(self) -> np.ndarray:
        """(N,) frames that see each point."""
        seen = [frame.points for frame in self.frames]
        return np.bincount(np.concatenate([*seen, np.zeros(0, np.int64)]), minlength=len(self.points))


def read_model(folder: Path) -> Model:
    """The model in `folder` (`sparse/0`). Raises ModelError for anything that is not one, whole."""
    lenses = _read_cameras(_Bytes(folder / "cameras.bin"))
    ids, points = _read_points(_Bytes(folder / "points3D.bin"))
    frames, dropped = _read_images(_Bytes(folder / "images.bin"), lenses, ids)
    used = {id(frame.lens) for frame in frames}
    return Model(tuple(sorted(frames, key=lambda frame: frame.name)), points, len(used), tuple(sorted(dropped)))


class _Bytes:
    """A file's content, read from front to back and never beyond its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: {size} bytes, more than any sparse model of a video; refused")
            self.content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); the scene has no sparse model") from error

    def take(self, count: int) -> int:
        """Steps over `count` bytes; gives where they begin."""
        start, self.place = self.place, self.place + count
        if self.place > len(self.content):
            raise ModelError(
                f"{self.path}: is cut short or damaged: {self.place} bytes needed and there are {len(self.content)}; "
                "fetch the scene again"
            )
        return start

    def values(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next values of this layout."""
        return layout.unpack_from(self.content, self.take(layout.size))

    def count(self, least: int) -> int:
        """A number of things that take at least `least` bytes each."""
        (number,) = self.values(_COUNT)
        if number * least > len(self.content) - self.place:
            raise ModelError(
                f"{self.path}: is cut short or damaged: announces {number} entries of at least {least} bytes and has "
                f"{len(self.content) - self.place} left; fetch the scene again"
            )
        return number

    def name(self) -> str:
        """A text that ends in a zero byte."""
        end = self.content.find(b"\0", self.place)
        if end < 0:
            raise ModelError(f"{self.path}: is cut short or damaged: a name without an end; fetch the scene again")
        start = self.take(end + 1 - self.place)
        return self.content[start:end].decode("utf-8", "backslashreplace")

    def end(self) -> None:
        """Nothing may be left."""
        if self.place != len(self.content):
            raise ModelError(f"{self.path}: {len(self.content) - self.place} bytes too long; fetch the scene again")


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3BdQ")


def _read_cameras(content: _Bytes) -> dict[int, Lens]:
    lenses = {}
    for _ in range(content.count(_CAMERA.size)):
        number, model, width, height = content.values(_CAMERA)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise ModelError(f"{content.path}: a camera of {width}×{height} pixels; damaged, fetch the scene again")
        name, count = _camera_model(content.path, model)
        parameters = content.values(struct.Struct(f"<{count}d"))
        if not np.isfinite(parameters).all():
            raise ModelError(f"{content.path}: camera {number} has parameters {parameters}; damaged")
        lenses[number] = Lens(name, width, height, parameters)
    content.end()
    return lenses


def _camera_model(path: Path, number: int) -> tuple[str, int]:
    """Name and number of parameters of COLMAP's camera model `number`."""
    pycolmap = _pycolmap()
    known = {int(model): model for model in pycolmap.CameraModelId.__members__.values()}
    if number < 0 or number not in known:
        raise ModelError(
            f"{path}: camera model {number}; pycolmap {pycolmap.__version__} knows {sorted(k for k in known if k >= 0)}"
        )
    camera = pycolmap.Camera.create_from_model_id(1, known[number], 1.0, 1, 1)
    if camera.is_spherical():
        raise ModelError(f"{path}: camera model {known[number].name}; panoramas have no pinhole's picture")
    return known[number].name, len(camera.params)


def _read_images(content: _Bytes, lenses: dict[int, Lens], point_ids: np.ndarray) -> tuple[list[Frame], list[str]]:
    """Frames with a pose, and the names of those without."""
    frames, dropped, names = [], [], set()
    for _ in range(content.count(_IMAGE.size + 9)):
        _, *pose, camera = content.values(_IMAGE)
        name = content.name()
        count = content.count(_OBSERVATION.itemsize)
        seen = np.frombuffer(content.content, _OBSERVATION, count, content.take(count * _OBSERVATION.itemsize))
        if camera not in lenses:
            raise ModelError(f"{content.path}: {name} was taken by camera {camera}, which cameras.bin does not hold")
        if name in names:
            raise ModelError(f"{content.path}: holds {name} twice; damaged, fetch the scene again")
        names.add(name)
        world_from_camera = _pose(np.array(pose))
        if world_from_camera is None:
            dropped.append(name)
            continue
        pixels, points = _observations(seen, point_ids)
        frames.append(Frame(name, lenses[camera], world_from_camera, pixels, points))
    content.end()
    return frames, dropped


def _pose(values: np.ndarray) -> np.ndarray | None:
    """(7,) quaternion w x y z and translation of camera_from_world, OpenCV axes -> (3, 4) ours; None where it is no pose."""
    if not np.isfinite(values).all() or not 0.5 < np.linalg.norm(values[:4]) < 2:
        return None
    rotation = Rotation.from_quat(values[[1, 2, 3, 0]]).as_matrix()
    camera_from_world = np.concatenate([rotation, values[4:, None]], axis=1)
    return cameras.invert(cameras.OPENGL_FROM_OPENCV @ camera_from_world)


def _observations(seen: np.ndarray, point_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (M, 2) and rows (M,) of the observations whose points the model holds. `point_ids` ascend."""
    row = np.searchsorted(point_ids, seen["point"])
    row[row == len(point_ids)] = 0
    known = point_ids[row] == seen["point"] if len(point_ids) else np.zeros(len(seen), bool)
    known &= np.isfinite(seen["xy"]).all(axis=1)
    return np.array(seen["xy"][known]), row[known]


def _read_points(content: _Bytes) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) int64, ascending, and places (N, 3) of the points; those without a finite place are left out."""
    count = content.count(_POINT.size)
    rows = []
    for _ in range(count):
        number, x, y, z, _, _, _, _, track = content.values(_POINT)
        content.take(8 * track)
        rows.append((number, (x, y, z)))
    content.end()
    ids = np.array([number for number, _ in rows], np.uint64)
    places = np.array([place for _, place in rows]).reshape(-1, 3)
    kept = np.flatnonzero(np.isfinite(places).all(axis=1) & (ids < 1 << 62))
    order = kept[np.argsort(ids[kept])]
    return ids[order].astype(np.int64), places[order]


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise UserError(
            f"COLMAP's lenses need pycolmap, which cannot be imported ({error}); pip install -e '.[preprocess]'"
        ) from error
    return pycolmap
