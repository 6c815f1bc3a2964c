"""Pictures to 3D: `python -m model.reconstruct photo.png --checkpoint runs/x --out DIR`.

Writes `mesh.glb` (vertex colours, upright), `turntable.mp4` and `preview.png`. The object must be cut out (a true alpha
channel) or `--matte` must say how to find it.

The camera: the field of view of the whole photo (`--fov`) and the camera's distance in object units (`--distance`) where they
are known. Where they are not, the photo is taken to show the object as the training pictures typically did: the
checkpoint remembers their median distance and framed focal length, and of the two the missing one follows from the
given one, since the framed object always fills the same share. Reconstruction happens in the frame of the input camera;
`--elevation`, the angle from which the photo looks down on the object, turns the result upright.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from model import mesh, mesh_files, video, volume
from model.checkpoints import load_checkpoint
from model.lrm import LRM, camera_numbers
from model.mesh import Mesh
from model.photos import read_picture
from model.placement import supposed_camera
from preprocess.matte import Device, check, matte
from turntable import cameras, config, framing
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import write_bytes
from turntable.report import contact_sheet, encode_picture


@dataclass(frozen=True)
class Photograph:
    """What is known of how the pictures were taken, and how their object is found."""

    matte: str = "alpha"
    """How the object is found: `alpha`, `rembg:u2net`, `rembg:u2net_custom=FILE.onnx`, `masks:DIR`, …; see `preprocess.matte`."""
    matte_device: Device = "cpu"
    """Where a matting network runs."""
    fov: float | None = None
    """Degrees, horizontal field of view of the whole picture. None: as the training pictures typically had."""
    distance: float | None = None
    """Object units (the object's bounding sphere has radius 1) from the camera to the object's centre. None: typical."""
    elevation: float = 0.0
    """Degrees by which the camera looks down on the object; the result is turned upright by it."""

    def __post_init__(self) -> None:
        if self.fov is not None and not 0 < self.fov < 180:
            raise ValueError(f"fov must lie in (0, 180) degrees, got {self.fov}")
        if self.distance is not None and not self.distance > 1:
            raise ValueError(
                f"distance must be above 1, the radius of the object's bounding sphere, got {self.distance}"
            )
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"elevation must lie in [-90, 90] degrees, got {self.elevation}")


@dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct and what to write."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures; of several, each gets a folder of its own name."""
    checkpoint: Path
    """A checkpoint, the folder of a training run or with a published model's files, or a published model's name:
    openlrm:mix-base-1.1 (obj or mix; small, base or large), triposr."""
    out: Path
    """Folder for the results."""
    photograph: Photograph = field(default_factory=Photograph)
    resolution: int = 256
    """Points of the density grid along the box's side."""
    level: float | None = None
    """Density of the surface, in 1 / object unit. None: the checkpoint's own."""
    frames: int = 48
    """Frames of the video, one turn; 0 writes none."""
    frame_size: int = 256
    """Pixels, the side of the video's frames; even."""
    samples: int = 64
    """Samples a ray in the video and the preview."""
    device: str = "auto"
    """`cpu`, `cuda`, …; auto: a GPU where there is one."""

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("no picture given")
        if self.resolution < 8 or self.samples < 1 or self.frames < 0:
            raise ValueError(
                f"resolution ≥ 8, samples ≥ 1, frames ≥ 0, got {self.resolution}, {self.samples}, {self.frames}"
            )
        if self.frame_size < 2 or self.frame_size % 2:
            raise ValueError(f"frame_size must be even and at least 2, got {self.frame_size}")
        if self.level is not None and not self.level > 0:
            raise ValueError(f"level is a density and must be above 0, got {self.level}")


@dataclass(frozen=True)
class Framed:
    """A picture as the network takes it."""

    rgba: np.ndarray
    """(S, S, 4) uint8."""
    intrinsics: np.ndarray
    """(4,) of the framed picture, normalised."""
    canonical_from_camera: np.ndarray
    """(3, 4), the camera at (0, -d, 0)."""

    @property
    def distance(self) -> float:
        """Object units."""
        return float(np.linalg.norm(self.canonical_from_camera[:, 3]))


@torch.no_grad()
def reconstruct(
    image: np.ndarray | Path | str,
    checkpoint: Path | str | tuple[LRM, dict[str, Any]],
    photograph: Photograph = Photograph(),
    resolution: int = 256,
    level: float | None = None,
    device: str = "auto",
) -> Mesh:
    """The mesh of the object in a picture, upright (+z up), seen from its -y side.

    image: a file, or (H, W, 3 or 4) uint8 sRGB with straight alpha. checkpoint: a file, a folder or a published model's name, or
    what `model.checkpoints.load_checkpoint` returned, where many pictures are reconstructed.
    """
    lrm, extra = checkpoint if isinstance(checkpoint, tuple) else load_checkpoint(checkpoint, pick_device(device))
    picture = image if isinstance(image, np.ndarray) else read_picture(Path(image))
    framed = frame_photo(picture, photograph, lrm, extra, None if isinstance(image, np.ndarray) else Path(image).name)
    canonical = mesh.extract(lrm.field, planes_of(lrm, framed), resolution, level or lrm.config.level)
    return mesh.transformed(canonical, upright_from_canonical(photograph.elevation))


def pick_device(name: str) -> torch.device:
    """`auto` or a torch device's name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; use cpu or auto") from error


def frame_photo(
    picture: np.ndarray, photograph: Photograph, lrm: LRM, extra: dict[str, Any], name: str | None = None
) -> Framed:
    """Finds the object, cuts the square around it, and places the camera. `name` is the picture's, by which a mask is found."""
    if not lrm.config.decoder.camera_width and (photograph.fov, photograph.distance) != (None, None):
        raise UserError(
            "this checkpoint's network is not told a camera, and takes every picture to be taken from the same distance;"
            " leave --fov and --distance out"
        )
    rgba = matte(picture, photograph.matte, name, photograph.matte_device)
    height, width = rgba.shape[:2]
    # Without a field of view only the square matters, so the whole picture's intrinsics may be anything.
    lens = cameras.intrinsics_from_fov(photograph.fov or 50.0, width / height)
    try:
        framed, intrinsics = framing.frame(rgba, lens, lrm.config.encoder.image_size, lrm.config.fill)
    except ValueError as error:
        raise UserError(f"{error}: every pixel of the picture is transparent") from error
    distance = photograph.distance
    if photograph.fov is None or distance is None:
        typical = supposed_camera(extra)
        if photograph.fov is None:
            focal = typical.focal * (1.0 if distance is None else distance / typical.distance)
            intrinsics = np.array([focal, focal, 0.5, 0.5])
        if distance is None:
            distance = typical.distance
            if photograph.fov is not None:
                distance = max(distance * intrinsics[0] / typical.focal, 1.05)
    return Framed(framed, intrinsics, canonical_camera(intrinsics, distance))


def canonical_camera(intrinsics: np.ndarray, distance: float) -> np.ndarray:
    """(3, 4): the camera at (0, -distance, 0) that sees the object's centre in the middle of the framed picture.

    Where the framed picture's principal point is not its middle, the camera does not look straight at the centre.
    """
    towards = cameras.camera_directions(np.array([0.5, 0.5]), intrinsics)
    pose = np.concatenate([np.eye(3), -distance * (towards / np.linalg.norm(towards))[:, None]], axis=1)
    return cameras.compose(cameras.canonical_from_world(pose), pose)


def upright_from_canonical(elevation_deg: float) -> np.ndarray:
    """(3, 4): the turn about x that lifts the camera from (0, -d, 0) to its elevation, and so stands the object upright."""
    angle = np.deg2rad(elevation_deg)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0, 0], [0, c, s, 0], [0, -s, c, 0]])


@torch.no_grad()
def planes_of(lrm: LRM, framed: Framed) -> Tensor:
    """(1, 3, C, R, R) of one picture."""
    device = next(lrm.parameters()).device
    image = torch.from_numpy(framing.on_background(framed.rgba, lrm.config.background)).permute(2, 0, 1)[None]
    pose, lens = (
        torch.as_tensor(part[None], dtype=torch.float32) for part in (framed.canonical_from_camera, framed.intrinsics)
    )
    return lrm.planes(image.to(device), camera_numbers(pose, lens).to(device)).float()


class Stages:
    """Seconds of each named stage of one reconstruction."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s ({parts})"


def write_reconstruction(path: Path, folder: Path, options: ReconstructConfig, lrm: LRM, extra: dict[str, Any]) -> str:
    """Everything of one picture into `folder`; returns the sentence that says so."""
    stages = Stages()
    with stages("read"):
        framed = frame_photo(read_picture(path), options.photograph, lrm, extra, path.name)
    with stages("planes"):
        planes = planes_of(lrm, framed)
    upright = upright_from_canonical(options.photograph.elevation)
    with stages("mesh"):
        surface = mesh.extract(lrm.field, planes, options.resolution, options.level or lrm.config.level)
        folder.mkdir(parents=True, exist_ok=True)
        mesh_files.write(folder / "mesh.glb", mesh.transformed(surface, upright))
    occupancy = volume.Occupancy(mesh.occupied(lrm.field, planes)[None], torch.eye(3, device=planes.device)[None])
    with stages("preview"):
        write_bytes(
            folder / "preview.png", encode_picture(preview(lrm, planes, framed, upright, options, occupancy), ".png")
        )
    if options.frames:
        with stages("video"):
            poses = video.ring(options.frames, 20.0, framed.distance, cameras.invert(upright))
            views = video.render_ring(
                lrm.field, planes, poses, whole_view(framed.distance), options.frame_size, options.samples, occupancy
            )
            video.write_video(folder / "turntable.mp4", map(video.picture, views), options.frame_size)
    config.write_config(folder, options)
    return f"{path} → {folder}: {len(surface.faces):,} triangles in {stages}"


def whole_view(distance: float) -> np.ndarray:
    """(4,) intrinsics that show the whole bounding sphere, and so the object from any side, at a distance above 1."""
    return cameras.intrinsics_from_fov(2 * np.rad2deg(np.arcsin(1 / distance)))


def preview(
    lrm: LRM,
    planes: Tensor,
    framed: Framed,
    upright: np.ndarray,
    options: ReconstructConfig,
    occupancy: volume.Occupancy,
) -> np.ndarray:
    """(H, W, 3) uint8: the input, the reconstruction from the input's camera and from four sides, and its normals."""
    size = options.frame_size
    lens = whole_view(framed.distance)
    poses = [framed.canonical_from_camera, *video.ring(4, 20.0, framed.distance, cameras.invert(upright))]
    lenses = [framed.intrinsics] + [lens] * 4
    views = [
        volume.render_view(lrm.field, planes, pose, lens, size, options.samples, occupancy=occupancy)
        for pose, lens in zip(poses, lenses, strict=True)
    ]
    shown = (framing.on_background(framing.resize(framed.rgba, size, size)) * 255).round().astype(np.uint8)
    colours = [video.picture(view) for view in views]
    normals = [video.normal_picture(*parts) for parts in zip(views, poses, lenses, strict=True)]
    captions = ["input", "input camera", "front", "right", "back", "left", "", *["normals"] * 5]
    return contact_sheet([shown, *colours, np.full_like(shown, 255), *normals], 6, captions)


def folders(pictures: tuple[Path, ...], out: Path) -> list[Path]:
    """The folder of each picture's results: `out` itself for one, `out/<name>` for several."""
    if len(pictures) == 1:
        return [out]
    names = [picture.stem for picture in pictures]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(
            f"several pictures are called {', '.join(doubled)}, and their results would share a folder; rename one"
        )
    return [out / name for name in names]


def main() -> int:
    options = config.parse(ReconstructConfig, __doc__ or "")
    check(options.photograph.matte)
    targets = folders(options.pictures, options.out)
    lrm, extra = load_checkpoint(options.checkpoint, pick_device(options.device))
    failed = 0
    for path, folder in zip(options.pictures, targets, strict=True):
        try:
            print(write_reconstruction(path, folder, options, lrm, extra))
        except UserError as error:
            named = str(error) if str(path) in str(error) else f"{path}: {error}"
            if len(targets) == 1:
                raise UserError(named) from error
            failed += 1
            print(f"{type(error).__name__}: {named}", file=sys.stderr)
    return EXIT_ITEMS_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    config.run(main)
