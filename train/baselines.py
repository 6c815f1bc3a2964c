"""What a model must beat: a white picture, the mean picture, the mean shape, the wrong input picture, the nearest training object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets import samples
from datasets.categories import Categories
from datasets.shards import ShardSet
from turntable import cameras, framing
from turntable.geometry import Geometry, describe, iou, voxel_centres, voxel_indices

_COMPARED_SIZE = 32


@dataclass(frozen=True)
class NearestView:
    """The training view that looks most like an input picture."""

    index: int
    """Object in the training shards."""
    view: int
    """View of that object."""


class TrainingSet:
    """The training objects as a memory to look things up in: no learning, only their pictures."""

    def __init__(self, shards: ShardSet, indices: list[int], fill: float) -> None:
        self.shards, self.indices, self.fill = shards, indices, fill
        self._places: list[NearestView] = []
        pictures = []
        for index in indices:
            for view in range(shards.view_count(index)):
                rgba = shards.picture(index, view, max(_COMPARED_SIZE, min(shards.sizes)))
                if framing.matte_box(rgba[..., 3]) is None:
                    continue
                pictures.append(self._reduced(rgba))
                self._places.append(NearestView(index, view))
        self._pictures = np.stack(pictures)

    def _reduced(self, rgba: np.ndarray) -> np.ndarray:
        framed, _ = framing.frame(rgba, np.array([1, 1, 0.5, 0.5]), _COMPARED_SIZE, self.fill)
        return framing.on_background(framed)

    def nearest(self, rgba: np.ndarray) -> NearestView:
        """The training view whose framed picture, at 32², has the smallest mean squared difference to the framed `rgba`."""
        difference = ((self._pictures - self._reduced(rgba)) ** 2).mean(axis=(1, 2, 3))
        return self._places[int(difference.argmin())]

    def mean_picture(self, size: int) -> np.ndarray:
        """(size, size, 3) mean of every training view on white, as rendered."""
        total = np.zeros((size, size, 3))
        count = 0
        for index in self.indices:
            for view in range(self.shards.view_count(index)):
                total += framing.on_background(self.shards.picture(index, view, size))
                count += 1
        return total / count

    def canonical_shape(self, nearest: NearestView) -> Geometry:
        """The training object's true shape in the canonical frame of the view that was found."""
        poses, _ = self.shards.cameras(nearest.index)
        return turned(self.shards.geometry(nearest.index), cameras.canonical_from_world(poses[nearest.view]))

    def input_view(self, nearest: NearestView, config: samples.SampleConfig) -> samples.InputView:
        """The view that was found, as a model's input."""
        return samples.input_view(self.shards, nearest.index, nearest.view, config)


class MeanShapes:
    """Of each class, the shape that its training objects have in common: where enough of their solids overlap."""

    def __init__(self, shards: ShardSet, indices: list[int], categories: Categories | None) -> None:
        """`categories` None: classes are LVIS classes."""
        self._category = categories.of if categories else (lambda record: record.get("lvis_class"))
        self._indices: dict[str | None, list[int]] = {}
        for index in indices:
            self._indices.setdefault(self._category(shards.record(index)), []).append(index)
        self.shards = shards
        self._shapes: dict[str | None, Geometry | None] = {}

    def of(self, record: dict[str, Any]) -> Geometry | None:
        """The mean shape of an object's class, upright, in object units; None where no training object is of the class."""
        category = self._category(record)
        if category not in self._shapes:
            solids = [self.shards.geometry(index).solid for index in self._indices.get(category, [])]
            self._shapes[category] = common_shape(solids) if solids else None
        return self._shapes[category]


def common_shape(solids: list[np.ndarray]) -> Geometry | None:
    """What so large a share of solids (n, n, n) bool has in common that IoU with them is highest; None where that is nothing."""
    from skimage import measure

    share = np.mean(np.stack(solids), axis=0, dtype=np.float32)
    tried = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    scores = [np.mean([iou(share > least, solid) for solid in solids]) for least in tried]
    least = tried[int(np.argmax(scores))]
    if not (share > least).any():
        return None
    vertices, faces, _, _ = measure.marching_cubes(np.pad(share, 1), least, gradient_direction="ascent")
    corners = (vertices - 0.5) * (2 / len(share)) - 1
    return describe(corners.clip(-1, 1).astype(np.float32), faces.astype(np.int64), np.random.default_rng(0))


def turned(shape: Geometry, b_from_a: np.ndarray) -> Geometry:
    """A shape under a rotation (3, 4); the solid is looked up at the turned voxels' centres."""
    rotation = b_from_a[:, :3]
    grid = shape.solid
    sources = voxel_centres(len(grid)).astype(np.float64) @ rotation  # the inverse of a rotation is its transpose
    inside = (np.abs(sources) <= 1).all(axis=1)
    solid = np.zeros(grid.size, dtype=bool)
    solid[inside] = grid[tuple(voxel_indices(sources[inside], len(grid)).T)]
    return Geometry(shape.points @ rotation.T, shape.normals @ rotation.T, solid.reshape(grid.shape))
