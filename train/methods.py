"""What can be judged: the model, and the baselines it must beat. A method takes an object and says what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets import samples
from datasets.shards import ShardError, ShardSet
from model import mesh, occupancy, volume
from model.lrm import LRM
from model.placement import SupposedCamera, camera_in_field, object_from_field
from train.baselines import MeanShapes, TrainingSet, turned
from turntable import cameras, geometry
from turntable.geometry import Geometry


@dataclass(frozen=True)
class Truth:
    """An object to judge against, and the views it is judged on."""

    uid: str
    record: dict[str, Any]
    """What is known of the object: class, licence, creator, …"""
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


class Answer(NamedTuple):
    """What a network makes of an input view."""

    planes: Tensor
    """(1, 3, C, R, R)."""
    canonical_from_field: np.ndarray
    """(3, 4) similarity from the planes' frame to the canonical frame of the input view."""


@dataclass
class ModelMethod:
    """Reconstructs an object from its input view with a trained model."""

    lrm: LRM
    samples_per_ray: int
    resolution: int
    level: float
    device: torch.device
    supposed: SupposedCamera | None = None
    """The camera that the network supposes whatever the true one; None: it is told the true one."""

    def __call__(self, truth: Truth) -> Reconstruction:
        answer = self.answer(truth.input_view)
        surface = self.surface(answer, truth.input_view.canonical_from_world)
        return Reconstruction(
            judged=self.pictures(answer, truth.judged),
            supervised=self.pictures(answer, truth.supervised),
            shape=_describe(surface),
            surface=surface,
        )

    @torch.no_grad()
    def answer(self, view: samples.InputView) -> Answer:
        """The planes of one input view, and where they lie."""
        camera, placed = view.camera, np.eye(3, 4)
        if self.supposed is not None:
            numbers = np.concatenate([self.supposed.pose.reshape(12), self.supposed.intrinsics])
            true = camera.double().numpy()
            placed = object_from_field(true[:12].reshape(3, 4), true[12:], self.supposed)
            camera = torch.from_numpy(numbers).float()
        planes = self.lrm.planes(view.image[None].to(self.device), camera[None].to(self.device))
        return Answer(planes.float(), placed)

    def pictures(self, answer: Answer, targets: list[samples.TargetView]) -> list[np.ndarray]:
        """(S, S, 3) a target, rendered from cameras in the canonical frame."""
        rendered = []
        voxels = occupancy.occupied(self.lrm.field, answer.planes) if targets else None
        for target in targets:
            placed = camera_in_field(target.world_from_camera, answer.canonical_from_field)
            pose, lens = (torch.as_tensor(a, dtype=torch.float32) for a in (placed, target.intrinsics))
            view = volume.render_view(
                self.lrm.field,
                answer.planes,
                pose.to(self.device),
                lens.to(self.device),
                len(target.rgb),
                self.samples_per_ray,
                occupancy=voxels,
            )
            rendered.append(view.colour.cpu().numpy())
        return rendered

    def surface(self, answer: Answer, canonical_from_world: np.ndarray) -> mesh.Mesh | None:
        """The extracted mesh, turned into the object's world frame; None when the density never reaches the level."""
        try:
            found = mesh.extract(self.lrm.field, answer.planes, self.resolution, self.level)
        except mesh.EmptyMeshError:
            return None
        world_from_field = cameras.compose(cameras.invert(canonical_from_world), answer.canonical_from_field)
        return mesh.transformed(found, world_from_field)


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


def mean_shape(shapes: MeanShapes) -> Method:
    """A method that knows nothing but the object's class, and answers with what its training objects have in common."""

    def method(truth: Truth) -> Reconstruction:
        shape = shapes.of(truth.record)
        # A class that training has no object of has no mean shape, which is not the same as an empty one.
        return Reconstruction(judged=[], shape=shape, gives_shape=shape is not None)

    return method


def wrong_input(model: ModelMethod, others: dict[str, samples.InputView]) -> Method:
    """The model, given another object's input view: what of the result comes from looking at the picture at all.

    `others`: uid of the judged object -> the input view of a different one.
    """

    def method(truth: Truth) -> Reconstruction:
        answer = model.answer(others[truth.uid])
        surface = model.surface(answer, truth.input_view.canonical_from_world)
        return Reconstruction(judged=model.pictures(answer, truth.judged), shape=_describe(surface))

    return method


def nearest_training_object(model: ModelMethod, memory: TrainingSet, config: samples.SampleConfig) -> Method:
    """The training object with the view most like the input picture: its true shape, and the model's pictures of it.

    Both are taken in the canonical frame of the view that was found, which is laid over the judged object's own.
    """

    def method(truth: Truth) -> Reconstruction:
        found = memory.nearest(truth.input_rgba)
        answer = model.answer(memory.input_view(found, config))
        shape = turned(memory.canonical_shape(found), cameras.invert(truth.input_view.canonical_from_world))
        return Reconstruction(judged=model.pictures(answer, truth.judged), shape=shape)

    return method


def require_truth(shards: ShardSet, index: int, input_view: int, held_out: int) -> None:
    """An object can be judged: views to give and to compare with, cameras and a shape that are numbers. Else a ShardError."""
    count, uid = shards.view_count(index), shards.uids[index]
    if not (input_view < count and held_out <= count and count > 1):
        raise ShardError(
            f"{uid}: has {count} views; view {input_view} as input and {held_out or 'others'} to judge were asked for: leave it out"
            " (--uids), or ask for others (--input-view, --held-out-views)"
        )
    samples.require_sense(shards, index)
    shape = shards.geometry(index)
    if not (np.isfinite(shape.points).all() and np.isfinite(shape.normals).all()):
        raise ShardError(
            f"{uid}: its surface points or normals are not numbers; leave it out (--uids), or write its shard again"
        )


def load_truth(
    shards: ShardSet, index: int, input_view: int, held_out: int, size: int, config: samples.SampleConfig
) -> Truth:
    """An object's pictures, cameras and shape. Judged: the last `held_out` views, or with 0 every view but the input."""
    seen = samples.input_view(shards, index, input_view, config)
    count = shards.view_count(index)
    judged = list(range(count - held_out, count)) if held_out else [v for v in range(count) if v != input_view]
    supervised = list(range(count - held_out)) if held_out else []

    def targets(views: list[int]) -> list[samples.TargetView]:
        return [samples.target_view(shards, index, view, size, seen.canonical_from_world) for view in views]

    return Truth(
        uid=shards.uids[index],
        record=shards.record(index),
        input_view=seen,
        input_rgba=shards.picture(index, input_view, size),
        judged=targets(judged),
        supervised=targets(supervised),
        shape=shards.geometry(index),
    )


def mesh_path(out: Path, uid: str) -> Path:
    """Where an evaluation puts an object's mesh."""
    return out / "meshes" / f"{uid}.glb"
