"""A reconstruction's folder: which files there are, when it is complete, and what is written about it.

`reconstruction.json` is written last and removed first, so a folder that has one is complete. It names the files beside it,
and the settings, picture and checkpoint that they come from.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from model import mesh_files, preview, video, views
from model.inputs import CAPTURES
from model.mesh import TexturedMesh
from model.pipeline import Failure, Model, Reconstruction, Source, Stages
from turntable.errors import UserError
from turntable.files import read_json, sha256, write_bytes, write_json
from turntable.report import encode_picture

RECORD = "reconstruction.json"
VERSION = 1
Format = Literal["glb", "obj", "ply"]


@dataclass(frozen=True)
class OutputSettings:
    """What is written of a reconstruction."""

    format: tuple[Format, ...] = ("glb",)
    """Files of the mesh: glb (+y up, texture inside), obj (with .mtl and .png), ply (our axes, colours at the vertices)."""
    video: bool = True
    """Whether to write turntable.mp4."""
    frames: int = 48
    """Frames of the video, one turn; 0 writes none either."""
    frame_size: int = 256
    """Pixels, the side of the video's frames and of the preview's pictures; even."""
    samples: int = 64
    """Samples a ray in video, preview and views."""
    views: int = 0
    """Rendered views to write as a capture, into the folder `captures` beside the results; 0 writes none."""
    view_size: int = 256
    """Pixels, the side of those views."""

    def __post_init__(self) -> None:
        if not self.format:
            raise ValueError("no format given; there are glb, obj and ply")
        if self.samples < 1 or self.frames < 0 or self.views < 0:
            raise ValueError(f"samples ≥ 1, frames ≥ 0, views ≥ 0, got {self.samples}, {self.frames}, {self.views}")
        if self.frame_size < 2 or self.frame_size % 2 or self.frame_size > 2048:
            raise ValueError(f"frame_size must be even and lie in [2, 2048], got {self.frame_size}")
        if not 8 <= self.view_size <= 2048:
            raise ValueError(f"view_size must lie in [8, 2048], got {self.view_size}")


@dataclass(frozen=True)
class Identity:
    """What decides a result: the same identity, the same files but for rounding."""

    picture: str
    """SHA-256 of the picture's file."""
    checkpoint: str
    """SHA-256 of the checkpoint's file."""
    settings: dict[str, Any]
    """JSON values."""

    def record(self) -> dict[str, Any]:
        """JSON."""
        return {"picture_sha256": self.picture, "checkpoint_sha256": self.checkpoint, "settings": self.settings}


class OtherSettingsError(UserError):
    """A folder that holds results of something else."""

    reason = "other-settings"


def is_complete(folder: Path, out: Path, identity: Identity) -> bool:
    """Whether the folder, in or at the run's `out`, holds this very result, whole. Raises `OtherSettingsError` for another."""
    if not (folder / RECORD).is_file():
        return False
    found = read_json(folder / RECORD)
    wanted = identity.record()
    differing = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
    if differing:
        what = ", ".join(_difference(name, found if isinstance(found, dict) else {}, wanted) for name in differing)
        raise OtherSettingsError(
            f"{folder} holds results of something else ({what}); add --overwrite to replace them, or choose another --out"
        )
    return all(path.is_file() for path in _named_files(found, folder, out))


def _named_files(record: Any, folder: Path, out: Path) -> list[Path]:
    """The files that a record names, those alone that lie in the folder or, a capture, in `out`."""
    if not isinstance(record, dict):
        return []
    files = record.get("files", [])
    named = [(folder, str(name)) for name in (files if isinstance(files, list) else [])]
    if isinstance(record.get("capture"), str):
        named.append((out, record["capture"]))
    return [root / name for root, name in named if (root / name).resolve().is_relative_to(root.resolve())]


def _difference(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if name != "settings":
        return f"another {name.removesuffix('_sha256')}"
    before = _flat(found.get(name, {}))
    now = _flat(wanted[name])
    return ", ".join(
        f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in now | before if before.get(k) != now.get(k)
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by their own names, as the command line has them."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def clear(folder: Path, out: Path) -> None:
    """Removes what an earlier run's record names, the record first; nothing else."""
    if not (folder / RECORD).is_file():
        return
    found = read_json(folder / RECORD)
    (folder / RECORD).unlink()
    for path in _named_files(found, folder, out):
        path.unlink(missing_ok=True)


def write(
    result: Reconstruction, folder: Path, out: Path, output: OutputSettings, model: Model, identity: Identity
) -> dict[str, Any]:
    """Writes everything into `folder`, a capture of rendered views below `out`; returns what `reconstruction.json` says."""
    clear(folder, out)
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(seconds=result.seconds)
    files = []
    with stages("write"):
        for kind in output.format:
            mesh_files.write(folder / f"mesh.{kind}", result.surface)
            files.append(f"mesh.{kind}")
    if "obj" in output.format:
        files += ["mesh.mtl", "mesh.png"] if isinstance(result.surface, TexturedMesh) else []
    with stages("views"):
        sheet = preview.preview(result, output.frame_size, output.samples)
        write_bytes(folder / "preview.png", encode_picture(sheet, ".png"))
        files.append("preview.png")
        capture = _write_capture(result, out / CAPTURES, output, model, identity) if output.views else None
    if output.video and output.frames:
        with stages("video"):
            frames = preview.turntable_frames(result, output.frames, output.frame_size, output.samples)
            video.write_video(folder / "turntable.mp4", frames, output.frame_size)
            files.append("turntable.mp4")
    record = described(result, model) | identity.record() | {"files": files, "seconds": _rounded(stages.seconds)}
    if capture is not None:
        record["capture"] = capture.relative_to(out).as_posix()
    write_json(folder / RECORD, record)
    return record


def write_failure(failure: Failure, folder: Path, output: OutputSettings, model: Model) -> None:
    """Of a picture whose field has no surface: what that field looks like, `preview.png`. An earlier result is left alone."""
    if failure.framed is None or failure.planes is None or (folder / RECORD).is_file():
        return
    parts = failure.planes, failure.framed, output.frame_size, output.samples
    sheet = preview.preview_without_surface(model.lrm.field, *parts)
    write_bytes(folder / "preview.png", encode_picture(sheet, ".png"))


def _write_capture(
    result: Reconstruction, captures: Path, output: OutputSettings, model: Model, identity: Identity
) -> Path:
    record = {
        "source": "reconstruction",
        "name": result.source.name,
        "licence": "unknown",
        "reconstruction": described(result, model) | identity.record(),
    }
    uid = views.uid_of(identity.record())
    return views.write_views(captures, uid, result, output.views, output.view_size, output.samples, record)


def described(result: Reconstruction, model: Model) -> dict[str, Any]:
    """What is known of a reconstruction. JSON values."""
    framed, lrm = result.framed, model.lrm
    told = bool(lrm.config.decoder.camera_width)
    return {
        "format": "turntable-reconstruction",
        "format_version": VERSION,
        "picture": _named(result.source),
        "notes": list(framed.notes),
        "checkpoint": {
            "name": model.name,
            "family": str(model.extra.get("family", "turntable")),
            "licences": model.extra.get("licences", []),
        },
        "camera": {
            "distance": framed.distance,
            "framed_focal": framed.intrinsics[:2].tolist(),
            "framed_principal_point": framed.intrinsics[2:].tolist(),
            "elevation_deg": framed.elevation,
            "told_to_network": told,
        },
        "upright_from_canonical": framed.upright_from_canonical.tolist(),
        "level": result.level,
        "density_maximum": result.density_maximum,
        "vertices": len(result.shape.vertices),
        "faces": len(result.shape.faces),
        "watertight": is_watertight(result.shape.faces),
        "texture": len(result.surface.texture) if isinstance(result.surface, TexturedMesh) else 0,
        "device": str(model.device),
        "versions": versions(),
    }


def _named(source: Source) -> str:
    return source.name if isinstance(source.picture, np.ndarray) else source.picture.name


def is_watertight(faces: np.ndarray) -> bool:
    """Whether every edge of the triangles (F, 3) is shared by one that runs the other way: no holes, no loose ends."""
    a, b, c = faces.astype(np.int64).T
    count = int(faces.max(initial=0)) + 1
    forth = np.sort(np.concatenate([a * count + b, b * count + c, c * count + a]))
    back = np.sort(np.concatenate([b * count + a, c * count + b, a * count + c]))
    return bool(np.array_equal(forth, back))


@cache
def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__} | {
        name: metadata.version(name) for name in _present("scikit-image", "xatlas", "fast-simplification", "trimesh")
    }


def _present(*names: str) -> Sequence[str]:
    installed = {
        str(distribution.metadata["Name"]).lower().replace("_", "-") for distribution in metadata.distributions()
    }
    return [name for name in names if name in installed]


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def identity_of(picture: Path, checkpoint_sha256: str, settings: dict[str, Any]) -> Identity:
    """Hashes the picture. One that is not there has no identity: UserError when it is read."""
    return Identity(sha256(picture) if picture.is_file() else "", checkpoint_sha256, settings)
