"""From pictures to surfaces: what `model.reconstruct` and `model.app` share. Nothing here prints, or decides where files go.

    model = pipeline.load("openlrm:mix-base-1.1")
    for result in pipeline.reconstruct(model, [Source("owl", Path("owl.png"))], Photograph(matte="rembg:u2net")):
        ...                                    # a `Reconstruction`, or a `Failure` with its reason, in the order of the sources

The steps can be called one by one, where what lies between them is to be shown:

    stages = Stages(progress)
    framed = pipeline.prepare(model, source, photograph, stages)     # framed.rgba shows the matte
    (planes,) = pipeline.encode(model, [framed], [stages])
    result = pipeline.surface(model, source, framed, planes, settings, stages)

Stages have names: read, matte, frame, planes, mesh, texture; callers add those of their own: views, video, write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from model import mesh, occupancy, texture, volume
from model.checkpoints import load_checkpoint
from model.chunks import in_chunks
from model.lrm import LRM, camera_numbers
from model.mesh import Mesh, TexturedMesh
from model.photograph import Framed, Photograph, check_camera, find_object, frame_object, small
from model.photos import LONGEST_SIDE, Photo, read_photo
from model.texture import LARGEST_TEXTURE
from model.triplane import TriplaneField
from turntable import framing
from turntable.errors import UserError

Result = TypeVar("Result")
TEXTURED_FACES = 20_000
"""Triangles that a textured surface is simplified to, where the user does not say."""
Progress = Callable[[str], None]
"""Called with a stage's name as it begins."""


@dataclass(frozen=True)
class Model:
    """A network ready to run."""

    lrm: LRM
    extra: dict[str, Any]
    """What its checkpoint says beside the weights."""
    name: str
    """As the user named it."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.lrm.parameters()).device


@dataclass(frozen=True)
class Source:
    """A picture to reconstruct from."""

    name: str
    """What its results are called."""
    picture: Path | np.ndarray
    """A file, or (H, W, 3 or 4) uint8 sRGB with straight alpha."""


@dataclass(frozen=True)
class SurfaceSettings:
    """What kind of surface is made of a field."""

    resolution: int = 256
    """Points of the density grid along the box's side."""
    level: float | None = None
    """Density of the surface, in 1 / object unit. None: the checkpoint's own."""
    floaters: float = 0.001
    """Pieces whose area is below this share of the largest piece's are dropped; 0 keeps all."""
    faces: int | None = None
    """Triangles to simplify the surface to; 0 keeps all. None: 20,000 with a texture, all without one.

    Unwrapping takes long: for some 100,000 triangles minutes.
    """
    texture: int = 1024
    """Texels, the side of the texture; 0 makes none, and the mesh has its colours at the vertices."""
    project_photo: bool = True
    """Whether the photo gives its colours where it sees the surface; elsewhere, or without it, they are the field's."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise ValueError(f"resolution must lie in [8, 1024], got {self.resolution}")
        if self.level is not None and not 0 < self.level < float("inf"):
            raise ValueError(f"level is a density and must be above 0, got {self.level}")
        if not 0 <= self.floaters < 1 or (self.faces or 0) < 0:
            raise ValueError(f"floaters must lie in [0, 1), faces be at least 0, got {self.floaters}, {self.faces}")
        if self.texture and not 16 <= self.texture <= LARGEST_TEXTURE:
            raise ValueError(f"a texture has 16 to {LARGEST_TEXTURE} texels a side, or 0 for none, got {self.texture}")

    @property
    def budget(self) -> int:
        """Triangles to simplify to; 0: none."""
        if self.faces is None:
            return TEXTURED_FACES if self.texture else 0
        return self.faces


@dataclass(frozen=True)
class Reconstruction:
    """A picture's object: the field, and the surface cut from it."""

    source: Source
    framed: Framed
    planes: Tensor
    """(1, 3, C, R, R), the field in the canonical frame of the input view."""
    surface: Mesh | TexturedMesh
    """Upright (+z up), seen by the input camera from its -y side."""
    level: float
    """The density that the surface lies at."""
    seconds: dict[str, float]
    """Of each stage; the network's share of a batch is its batch's, divided."""
    field: TriplaneField
    """What reads density and colour from the planes."""

    @property
    def shape(self) -> Mesh:
        """The surface without its texture."""
        return self.surface.surface if isinstance(self.surface, TexturedMesh) else self.surface

    @cached_property
    def occupancy(self) -> volume.Occupancy:
        """Where there is something, for rendering; made when first asked for."""
        return occupancy.occupied(self.field, self.planes)

    @cached_property
    def density_maximum(self) -> float:
        """The highest density at the centres of a 64³ grid, in 1 / object unit."""
        return float(mesh.density_grid(self.field, self.planes, 64, self.level).max())


@dataclass(frozen=True)
class Failure:
    """A picture of which nothing came."""

    source: Source
    reason: str
    """A short name: unreadable, no-matte, no-subject, empty, not-finite, out-of-memory, …"""
    message: str
    """What was found, and the next step."""
    seconds: dict[str, float]
    framed: Framed | None = None
    """The picture as the network took it, where it came so far."""
    planes: Tensor | None = None
    """(1, 3, C, R, R), the field without a surface, where it came so far and they are numbers."""


class NotFiniteError(UserError):
    """The network answers with values that are no numbers."""

    reason = "not-finite"


@dataclass
class Stages:
    """Seconds of each named stage, and a call as each begins."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what happens inside; a stage entered twice adds up. On a GPU it waits for what was begun."""
        if self.progress:
            self.progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def pick_device(name: str) -> torch.device:
    """`auto` or a torch device's name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; use cpu or auto") from error


def load(checkpoint: Path | str, device: str = "auto") -> Model:
    """A checkpoint's file, its folder, or a published model's name."""
    return Model(*load_checkpoint(checkpoint, pick_device(device)), str(checkpoint))


def reconstruct(
    model: Model,
    sources: Sequence[Source],
    photograph: Photograph = Photograph(),
    settings: SurfaceSettings = SurfaceSettings(),
    batch: int = 1,
    progress: Callable[[Source, str], None] | None = None,
) -> Iterator[Reconstruction | Failure]:
    """Each source's reconstruction or why there is none, in order; `batch` pictures go through the network at once.

    A picture's error is its own and becomes a `Failure`; what is wrong with all of them (a camera for a network that takes none)
    is raised.
    """
    check_camera(photograph, model.lrm)
    for start in range(0, len(sources), batch):
        yield from _group(model, sources[start : start + batch], photograph, settings, progress)


def _group(
    model: Model,
    sources: Sequence[Source],
    photograph: Photograph,
    settings: SurfaceSettings,
    progress: Callable[[Source, str], None] | None,
) -> Iterator[Reconstruction | Failure]:
    clocks = [Stages(partial(progress, source) if progress else None) for source in sources]
    inputs = [
        attempt(source, clock, partial(prepare, model, source, photograph, clock))
        for source, clock in zip(sources, clocks, strict=True)
    ]
    ready = {k: framed for k, framed in enumerate(inputs) if isinstance(framed, Framed)}
    encoded = attempt(sources[0], clocks[0], partial(encode, model, [*ready.values()], [clocks[k] for k in ready]))
    fields = {} if isinstance(encoded, Failure) else dict(zip(ready, encoded, strict=True))
    for k, (source, clock, framed) in enumerate(zip(sources, clocks, inputs, strict=True)):
        if isinstance(framed, Failure):
            yield framed
        elif isinstance(encoded, Failure):
            yield replace(encoded, source=source, seconds=clock.seconds)
        else:
            planes = fields.pop(k)
            result = attempt(source, clock, partial(surface, model, source, framed, planes, settings, clock))
            if isinstance(result, Failure):
                result = replace(
                    result, framed=framed, planes=None if result.reason == NotFiniteError.reason else planes
                )
            yield result


def attempt(source: Source, stages: Stages, work: Callable[[], Result]) -> Result | Failure:
    """What `work` returns; a `UserError`, or a GPU too small for a single chunk, is a `Failure` of this source."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        message = f"the device's memory is full ({str(error).splitlines()[0]}); free some of it, or choose --device cpu"
        return Failure(source, "out-of-memory", message, stages.seconds)
    except UserError as error:
        return Failure(source, getattr(error, "reason", "refused"), str(error), stages.seconds)


def prepare(model: Model, source: Source, photograph: Photograph, stages: Stages) -> Framed:
    """The stages read, matte and frame."""
    with stages("read"):
        given = source.picture
        name = None if isinstance(given, np.ndarray) else given.name
        # A mask file is as large as its picture.
        longest = None if photograph.matte.startswith("masks:") else LONGEST_SIDE
        read = Photo(given) if isinstance(given, np.ndarray) else read_photo(given, longest)
    with stages("matte"):
        rgba = find_object(read.picture, photograph, name)
    with stages("frame"):
        framed = frame_object(rgba, photograph, model.lrm, model.extra)
    return replace(framed, original=small(read.picture), notes=(*read.notes, *framed.notes))


@torch.no_grad()
def encode(model: Model, inputs: Sequence[Framed], stages: Sequence[Stages]) -> list[Tensor]:
    """The stage planes: each picture's (1, 3, C, R, R) float32, all in one pass where they fit into memory.

    The pass's time is shared out among `stages`, one a picture.
    """
    if not inputs:
        return []
    lrm, device = model.lrm, model.device
    images = np.stack([framing.on_background(framed.rgba, lrm.config.background) for framed in inputs])
    poses = np.stack([framed.canonical_from_camera for framed in inputs])
    lenses = np.stack([framed.intrinsics for framed in inputs])
    camera = camera_numbers(*(torch.as_tensor(part, dtype=torch.float32) for part in (poses, lenses)))

    def part(chosen: slice) -> Tensor:
        image = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2)
        return lrm.planes(image.to(device), camera[chosen].to(device)).float()

    whole = Stages(stages[0].progress)
    with whole("planes"):
        planes = torch.cat(list(in_chunks(part, len(inputs), len(inputs))))
    for clock in stages:
        clock.seconds["planes"] = whole.seconds["planes"] / len(inputs)
    return list(planes.split(1))


@torch.no_grad()
def surface(
    model: Model, source: Source, framed: Framed, planes: Tensor, settings: SurfaceSettings, stages: Stages
) -> Reconstruction:
    """The stages mesh and texture.

    Raises `EmptyMeshError` where the density never reaches the level, `NotFiniteError` for broken planes.
    """
    check_finite(planes)
    field, level = model.lrm.field, settings.level or model.lrm.config.level
    with stages("mesh"):
        shape = mesh.extract(field, planes, settings.resolution, level)
        if settings.floaters:
            shape = mesh.without_floaters(shape, settings.floaters)
        if settings.budget:
            shape = mesh.simplified(shape, settings.budget)
    with stages("texture"):
        photo = (
            texture.Photo(framed.rgba, framed.canonical_from_camera, framed.intrinsics)
            if settings.project_photo
            else None
        )
        coloured = texture.bake(shape, field, planes, settings.texture, photo)
    upright = mesh.transformed(coloured, framed.upright_from_canonical)
    return Reconstruction(source, framed, planes, upright, level, stages.seconds, field)


def check_finite(planes: Tensor) -> None:
    """Raises `NotFiniteError` where the network gave values that are no numbers."""
    broken = int((~torch.isfinite(planes)).sum())
    if broken:
        raise NotFiniteError(
            f"{broken:,} of the {planes.numel():,} values that the network gives for this picture are not finite;"
            " its checkpoint's training diverged, or the camera given is far from any that it was trained with"
        )
