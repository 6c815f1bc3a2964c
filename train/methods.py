"""What can be judged: the model, and the baselines it must beat. A method takes an object and says what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import samples
from datasets.shards import ShardSet
from model import mesh, volume
from model.lrm import LRM
from train.baselines import TrainingSet, turned
from turntable import cameras, geometry
from turntable.geometry import Geometry


@dataclass(frozen=True)
class Truth:
    """An object to judge against, and the views it is judged on."""

    uid: str
    lvis_class: str
    input_view: samples.InputView
    input_rgba: np.ndarray
    """(S, S, 4) uint8, as rendered."""
    judged: list[samples.TargetView]
    """Views the figures are about, cameras in the canonical frame."""
    supervised: list[samples.TargetView]
    """Views the model was trained on, where the object is a training object with views held out."""
    shape: Geometry
    """World frame."""


@dataclass
class Reconstruction:
    """What one method says an object is."""

    judged: list[np.ndarray]
    """(S, S, 3) on white, one a judged view."""
    supervised: list[np.ndarray] = field(default_factory=list)
    """The same for the supervised views."""
    shape: Geometry | None = None
    """World frame; None without a shape or with an empty surface."""
    gives_shape: bool = True
    """Whether the method gives shapes at all."""
    surface: mesh.Mesh | None = None
    """World frame; what `shape` was sampled from, where there is a mesh."""


Method = Callable[[Truth], Reconstruction]


@dataclass
class ModelMethod:
    """Reconstructs an object from its input view with a trained model."""

    lrm: LRM
    samples_per_ray: int
    resolution: int
    level: float
    device: torch.device

    def __call__(self, truth: Truth) -> Reconstruction:
        planes = self.planes(truth.input_view)
        surface = self.surface(planes, truth.input_view.canonical_from_world)
        return Reconstruction(
            judged=self.pictures(planes, truth.judged),
            supervised=self.pictures(planes, truth.supervised),
            shape=_describe(surface),
            surface=surface,
        )

    @torch.no_grad()
    def planes(self, view: samples.InputView) -> Tensor:
        """(1, 3, C, R, R) of one input view."""
        return self.lrm.planes(view.image[None].to(self.device), view.camera[None].to(self.device)).float()

    def pictures(self, planes: Tensor, targets: list[samples.TargetView]) -> list[np.ndarray]:
        """(S, S, 3) a target, rendered from cameras in the planes' frame."""
        rendered = []
        for target in targets:
            pose, lens = (
                torch.as_tensor(a, dtype=torch.float32) for a in (target.world_from_camera, target.intrinsics)
            )
            view = volume.render_view(
                self.lrm.field,
                planes,
                pose.to(self.device),
                lens.to(self.device),
                len(target.rgb),
                self.samples_per_ray,
            )
            rendered.append(view.colour.cpu().numpy())
        return rendered

    def surface(self, planes: Tensor, canonical_from_world: np.ndarray) -> mesh.Mesh | None:
        """The extracted mesh, turned into the object's world frame; None when the density never reaches the level."""
        try:
            canonical = mesh.extract(self.lrm.field, planes, self.resolution, self.level)
        except mesh.EmptyMeshError:
            return None
        return mesh.transformed(canonical, cameras.invert(canonical_from_world))


def _describe(surface: mesh.Mesh | None) -> Geometry | None:
    if surface is None:
        return None
    return geometry.describe(surface.vertices, surface.faces, np.random.default_rng(0))


def constant_picture(picture: np.ndarray | float) -> Method:
    """A method that answers every view with one picture (S, S, 3), or one grey value."""

    def method(truth: Truth) -> Reconstruction:
        views = [np.broadcast_to(np.asarray(picture, np.float32), target.rgb.shape) for target in truth.judged]
        return Reconstruction(judged=views, gives_shape=False)

    return method


def wrong_input(model: ModelMethod, others: dict[str, samples.InputView]) -> Method:
    """The model, given another object's input view: what of the result comes from looking at the picture at all.

    `others`: uid of the judged object -> the input view of a different one.
    """

    def method(truth: Truth) -> Reconstruction:
        planes = model.planes(others[truth.uid])
        surface = model.surface(planes, truth.input_view.canonical_from_world)
        return Reconstruction(judged=model.pictures(planes, truth.judged), shape=_describe(surface))

    return method


def nearest_training_object(model: ModelMethod, memory: TrainingSet, config: samples.SampleConfig) -> Method:
    """The training object with the view most like the input picture: its true shape, and the model's pictures of it.

    Both are taken in the canonical frame of the view that was found, which is laid over the judged object's own.
    """

    def method(truth: Truth) -> Reconstruction:
        found = memory.nearest(truth.input_rgba)
        planes = model.planes(memory.input_view(found, config))
        shape = turned(memory.canonical_shape(found), cameras.invert(truth.input_view.canonical_from_world))
        return Reconstruction(judged=model.pictures(planes, truth.judged), shape=shape)

    return method


def load_truth(
    shards: ShardSet, index: int, input_view: int, held_out: int, size: int, config: samples.SampleConfig
) -> Truth:
    """An object's pictures, cameras and shape. Judged: the last `held_out` views, or with 0 every view but the input."""
    seen = samples.input_view(shards, index, input_view, config)
    count = shards.view_count(index)
    judged = list(range(count - held_out, count)) if held_out else [v for v in range(count) if v != input_view]
    supervised = list(range(count - held_out)) if held_out else []
    record = shards.record(index)

    def targets(views: list[int]) -> list[samples.TargetView]:
        return [samples.target_view(shards, index, view, size, seen.canonical_from_world) for view in views]

    return Truth(
        uid=shards.uids[index],
        lvis_class=record.get("lvis_class") or "-",
        input_view=seen,
        input_rgba=shards.picture(index, input_view, size),
        judged=targets(judged),
        supervised=targets(supervised),
        shape=shards.geometry(index),
    )


def mesh_path(out: Path, uid: str) -> Path:
    """Where an evaluation puts an object's mesh."""
    return out / "meshes" / f"{uid}.glb"
