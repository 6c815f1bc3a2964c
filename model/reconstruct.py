"""Pictures to 3D: `python -m model.reconstruct photo.png --checkpoint runs/x --out DIR`.

Writes `mesh.glb` (upright), `turntable.mp4` and `preview.png`. The object must be cut out (a true alpha channel) or `--matte`
must say how to find it.

The camera: the field of view of the whole photo (`--fov`) and the camera's distance in object units (`--distance`) where they
are known. Where they are not, the photo is taken to show the object as the training pictures typically did: the
checkpoint remembers their median distance and framed focal length, and of the two the missing one follows from the
given one, since the framed object always fills the same share. Reconstruction happens in the frame of the input camera;
`--elevation`, the angle from which the photo looks down on the object, turns the result upright.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from model import mesh_files, pipeline, preview, video
from model.lrm import LRM
from model.mesh import Mesh
from model.photograph import Photograph
from model.pipeline import Failure, Model, Reconstruction, Source, Stages, SurfaceSettings, pick_device
from preprocess.matte import check
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import write_bytes
from turntable.report import encode_picture

__all__ = ["Photograph", "ReconstructConfig", "main", "pick_device", "reconstruct"]


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
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    frames: int = 48
    """Frames of the video, one turn; 0 writes none."""
    frame_size: int = 256
    """Pixels, the side of the video's frames; even."""
    samples: int = 64
    """Samples a ray in the video and the preview."""
    batch: int = 1
    """Pictures that go through the network at once."""
    device: str = "auto"
    """`cpu`, `cuda`, …; auto: a GPU where there is one."""

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("no picture given")
        if self.samples < 1 or self.frames < 0 or self.batch < 1:
            raise ValueError(f"samples ≥ 1, frames ≥ 0, batch ≥ 1, got {self.samples}, {self.frames}, {self.batch}")
        if self.frame_size < 2 or self.frame_size % 2:
            raise ValueError(f"frame_size must be even and at least 2, got {self.frame_size}")


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
    model = Model(*checkpoint, "") if isinstance(checkpoint, tuple) else pipeline.load(checkpoint, device)
    source = Source("", image if isinstance(image, np.ndarray) else Path(image))
    stages = Stages()
    framed = pipeline.prepare(model, source, photograph, stages)
    (planes,) = pipeline.encode(model, [framed], [stages])
    settings = SurfaceSettings(resolution, level, texture=0)
    return pipeline.surface(model, source, framed, planes, settings, stages).shape


def write_reconstruction(result: Reconstruction, folder: Path, options: ReconstructConfig) -> str:
    """Everything of one picture into `folder`; returns the sentence that says so."""
    stages = Stages(seconds=result.seconds)
    with stages("write"):
        folder.mkdir(parents=True, exist_ok=True)
        mesh_files.write(folder / "mesh.glb", result.surface)
    with stages("views"):
        sheet = preview.preview(result, options.frame_size, options.samples)
        write_bytes(folder / "preview.png", encode_picture(sheet, ".png"))
    if options.frames:
        with stages("video"):
            frames = preview.turntable_frames(result, options.frames, options.frame_size, options.samples)
            video.write_video(folder / "turntable.mp4", frames, options.frame_size)
    config.write_config(folder, options)
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.seconds.items())
    total = sum(stages.seconds.values())
    return f"{result.source.picture} → {folder}: {len(result.shape.faces):,} triangles in {total:.1f} s ({parts})"


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
    sources = [Source(path.name, path) for path in options.pictures]
    model = pipeline.load(options.checkpoint, options.device)
    failed = 0
    results = pipeline.reconstruct(model, sources, options.photograph, options.surface, options.batch)
    for folder, result in zip(targets, results, strict=True):
        if isinstance(result, Reconstruction):
            print(write_reconstruction(result, folder, options))
            continue
        named = named_failure(result)
        if len(targets) == 1:
            raise UserError(named)
        failed += 1
        print(named, file=sys.stderr)
    return EXIT_ITEMS_FAILED if failed else EXIT_OK


def named_failure(failure: Failure) -> str:
    """One line that names the picture."""
    path = str(failure.source.picture)
    return failure.message if path in failure.message else f"{path}: {failure.message}"


if __name__ == "__main__":
    config.run(main)
