"""Scenes in the files called transforms.json: nerfstudio's, instant-ngp's, the original NeRF's, unzipped captures, our exports.

A frame's own field counts before the same at the top of the file (instant-ngp's rule; nerfstudio takes the top alone, so
well-made files say the same in both places). Understood:

    lens        fl_x fl_y, else camera_angle_x camera_angle_y (radians), else x_fov y_fov (degrees); cx cy; w h
    distortion  k1 k2 p1 p2, k3; with camera_model OPENCV_FISHEYE or is_fisheye k1 … k4
    pictures    file_path, with or without suffix, below the folder; mask_path (white is object), depth and normals of our own
    original    transforms_train.json, _val, _test, where there is no transforms.json

Worlds are +z up by their tools' conventions. aabb, scale, offset and applied_transform say where another program's box or an
earlier world lies, not where the object does; they are kept in the record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import READABLE_VERSIONS as CAPTURE_VERSIONS
from datasets.exported import FORMAT as EXPORT
from datasets.exported import FORMAT_VERSION as EXPORT_VERSION
from datasets.folder import uid_of
from preprocess.colmap import Lens
from preprocess.filling import Unusable
from preprocess.posed import PosedScene, Shot, rigid
from turntable.errors import UserError
from turntable.files import inside

NAME = "transforms.json"
SPLITS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")
MAX_FILE_BYTES = 1 << 28
MAX_FRAMES = 10_000
_CAPTURE = "turntable-capture"
_KEPT = ("aabb", "aabb_scale", "scale", "offset", "applied_transform", "applied_scale", "orientation_override")
_NOT_PINHOLE = ("ftheta_p0", "latlong", "equirectangular")


def is_scene(folder: Path) -> bool:
    """Whether the folder holds a scene."""
    return any((folder / name).is_file() for name in (NAME, *SPLITS))


def scene_uid(folder: Path, root: Path) -> str:
    """The object's own uid in our files, else one made of the path below the root. A file that cannot be read has the latter."""
    try:
        ours = json_object(folder / NAME).get("turntable") if (folder / NAME).is_file() else None
    except Unusable:
        ours = None
    if isinstance(ours, dict) and ours.get("format") in (EXPORT, _CAPTURE) and isinstance(ours.get("uid"), str):
        return ours["uid"]
    return uid_of(folder.relative_to(root).as_posix() if folder != root else folder.resolve().name)


def read_scene(folder: Path, root: Path, licence: str = "unknown") -> PosedScene:
    """The scene in `folder`; no picture is opened. Raises Unusable."""
    names = [NAME] if (folder / NAME).is_file() else [name for name in SPLITS if (folder / name).is_file()]
    files = [json_object(folder / name) for name in names]
    shots = []
    for name, content in zip(names, files, strict=True):
        frames = content.get("frames")
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            raise Unusable("malformed", f"{folder / name}: no list of frames")
        shots += [_shot(folder, root, content, frame, number) for number, frame in enumerate(frames)]
    if not 0 < len(shots) <= MAX_FRAMES:
        raise Unusable("malformed", f"{folder}: {len(shots)} frames; from 1 to {MAX_FRAMES} can be used")
    ours, record = _ours(folder / names[0], files[0])
    if record is None:
        record = {"source": "nerf", "licence": licence, "transforms": {k: files[0][k] for k in _KEPT if k in files[0]}}
    record["uid"] = scene_uid(folder, root)
    geometry = folder / "geometry.npz"
    return PosedScene(folder, shots, record, ours, geometry if ours and geometry.is_file() else None)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may lie. Raises Unusable."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Unusable("malformed", f"{path}: {path.stat().st_size} bytes; refused")
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("malformed", f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise Unusable("malformed", f"{path}: not a JSON object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} in it")


def _ours(path: Path, content: dict[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """Whether Turntable wrote the file, and the object's record as it then has it."""
    ours = content.get("turntable")
    if not isinstance(ours, dict) or ours.get("format") not in (EXPORT, _CAPTURE):
        return False, None
    readable = (EXPORT_VERSION,) if ours["format"] == EXPORT else CAPTURE_VERSIONS
    if ours.get("format_version") not in readable:
        raise Unusable(
            "unknown-version", f"{path}: {ours['format']} {ours.get('format_version')}, this version reads {readable}"
        )
    if ours["format"] == EXPORT:
        record = ours.get("record")
        if not isinstance(record, dict):
            raise Unusable("malformed", f"{path}: an export without a record")
        return True, dict(record)
    views = [frame.get("turntable", {}) for frame in content["frames"]]
    return True, {
        **ours,
        "depth_scale": content.get("integer_depth_scale"),
        "rendered_size": content.get("w"),
        "views": views,
    }


def _shot(folder: Path, root: Path, content: dict[str, Any], frame: dict[str, Any], number: int) -> Shot:
    where = f"{folder}: frame {number}"
    try:
        pose = rigid(frame["transform_matrix"])
    except (KeyError, TypeError, ValueError) as error:
        what = "no transform_matrix" if isinstance(error, KeyError) else error
        raise Unusable("bad-pose", f"{where}: {what}") from error
    path = _file(folder, frame.get("file_path"), where)
    mask = _file(folder, frame["mask_path"], where) if frame.get("mask_path") else None
    passes = {
        name: _file(folder, frame[f"{name}_file_path"], where)
        for name in ("depth", "normal")
        if frame.get(f"{name}_file_path")
    }
    fields = {**{key: value for key, value in content.items() if key != "frames"}, **frame}
    return Shot(
        path.relative_to(root).as_posix(), path, pose, lambda width, height: lens(fields, width, height), mask, passes
    )


def _file(folder: Path, name: Any, where: str) -> Path:
    """The file that a frame names, which lies in the scene's folder; a suffix may be missing, as in the original NeRF's files."""
    if not isinstance(name, str) or not name.strip("./\\"):
        raise Unusable("malformed", f"{where}: a path that is no text or empty ({name!r})")
    name = name.replace("\\", "/")
    try:
        for candidate in (name, *(name + suffix for suffix in SUFFIXES)):
            path = inside(folder, candidate)
            if path.is_file():
                return path
    except (UserError, ValueError, OSError) as error:  # leads out, holds a zero byte, is too long
        raise Unusable("outside", f"{where}: {name!r} cannot be used ({error})") from error
    raise Unusable(
        "missing-picture", f"{where}: {folder / name} is not there, with none of the suffixes {' '.join(SUFFIXES[:4])}"
    )


def lens(fields: dict[str, Any], width: int, height: int) -> Lens:
    """The lens that a frame's fields and the file's describe, for a picture of this size. Raises ValueError."""
    stated = (_number(fields, "w", width), _number(fields, "h", height))
    if stated != (width, height):
        raise ValueError(f"a picture of {width}×{height} pixels, the file says {stated[0]:g}×{stated[1]:g}")
    _refuse_other_lenses(fields)
    fx = _focal(fields, "x", width)
    fy = _focal(fields, "y", height)
    if fx is None and fy is None:
        raise ValueError("no focal length: neither fl_x nor camera_angle_x nor x_fov")
    fx, fy = fx or fy, fy or fx
    centre = _number(fields, "cx", width / 2), _number(fields, "cy", height / 2)
    return _with_distortion(fields, width, height, (fx, fy, *centre))  # type: ignore[arg-type]


def _with_distortion(fields: dict[str, Any], width: int, height: int, pinhole: tuple[float, ...]) -> Lens:
    k1, k2, k3, k4, p1, p2 = (_number(fields, name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    fisheye = fields.get("camera_model") == "OPENCV_FISHEYE" or bool(fields.get("is_fisheye"))
    if fisheye:
        return Lens("OPENCV_FISHEYE", width, height, (*pinhole, k1, k2, k3, k4))
    if k4:
        raise ValueError(
            "k4 of a lens that is no fisheye, which programs understand differently; undistort the pictures first"
        )
    if k3:
        return Lens("FULL_OPENCV", width, height, (*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    if k1 or k2 or p1 or p2:
        return Lens("OPENCV", width, height, (*pinhole, k1, k2, p1, p2))
    return Lens("PINHOLE", width, height, pinhole)


def _refuse_other_lenses(fields: dict[str, Any]) -> None:
    model = fields.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"):
        raise ValueError(f"camera_model {model!r}; OPENCV, OPENCV_FISHEYE and PINHOLE are read")
    other = [name for name in _NOT_PINHOLE if fields.get(name)]
    if other:
        raise ValueError(f"{other[0]}: a lens that sees no pinhole's picture")
    shutter = fields.get("rolling_shutter")
    if shutter and np.any(shutter):
        raise ValueError("a rolling shutter, with a pose for each line; not read")


def _focal(fields: dict[str, Any], axis: str, side: int) -> float | None:
    """Focal length in pixels along an axis, by the first of the names that is there."""
    ways: tuple[tuple[str, Callable[[float], float]], ...] = (
        (f"fl_{axis}", lambda value: value),
        (f"camera_angle_{axis}", lambda angle: side / 2 / np.tan(angle / 2)),
        (f"{axis}_fov", lambda degrees: side / 2 / np.tan(np.deg2rad(degrees) / 2)),
    )
    for name, pixels in ways:
        if fields.get(name) is not None:
            focal = float(pixels(_number(fields, name, 0.0)))
            if not 0 < focal < np.inf:
                raise ValueError(f"{name} {fields[name]!r} gives a focal length of {focal:g} pixels")
            return focal
    return None


def _number(fields: dict[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)
