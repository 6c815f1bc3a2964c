"""Training samples from shards: a framed input view, rays of side views, cameras, in the input view's canonical frame.

A sample of object i depends on (seed, epoch, i), and on which of the epoch's draws of i it is, alone: same in any worker
process, in any order. Frames: *world* is the object's upright frame of the shard; *canonical* is the world turned so that the
input camera sits at (0, -d, 0), see `turntable.cameras.canonical_from_world`. Everything is in object units.

Decoded pictures and visual hulls are kept in a cache of bounded size, so that a small set is decoded once.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.augmentation import Augmentation, draw_background, draw_fill, exposed, mirrored, misjudged
from datasets.order import Draw
from datasets.shards import ShardError, ShardSet
from datasets.solids import KEPT_BYTES, Solid, draw_points, reduced
from turntable import cameras, framing
from turntable.geometry import visual_hull


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn."""

    input_size: int = 224
    """Side of the model's input picture, pixels."""
    fill: float = framing.DEFAULT_FILL
    """Share of the input picture's side that the matte's longer side fills."""
    views: int = 4
    """Supervised views a sample, without repetition; an object that has fewer repeats some."""
    rays: int = 1024
    """Supervised rays a view."""
    region_share: float = 0.5
    """Share of a view's rays that form one square region, in [0, 1]; the rest lie scattered over the picture."""
    foreground_share: float = 0.5
    """Share of regions and scattered rays that aim at the matte's box, in [0, 1]; the rest fall anywhere."""
    render_size: int = 128
    """Side of the pictures that rays are taken from, pixels."""
    further_sizes: tuple[int, ...] = ()
    """Further sides; each sample draws one of all."""
    input_view: int | None = None
    """Always this view as input; None: a random one."""
    held_out_views: int = 0
    """The last so many views of every object are neither input nor supervised, and the hull does not know them."""
    background: float = 1.0
    """Grey behind the object, 1 is white."""
    with_depth: bool = False
    """Also give the rays' true depth; the shards must hold the depth pass."""
    with_normals: bool = False
    """Also give the surface's true normals; the shards must hold the normal pass."""
    solid_points: int = 0
    """Points of which it is told whether they lie in the object; the shards must store geometry."""
    hull_resolution: int = 64
    """Voxels along a side of the visual hull's grid."""
    augment: Augmentation = field(default_factory=Augmentation)
    """What is changed at random."""
    cache_bytes: float = 1e9
    """Memory for decoded pictures and hulls, a process."""
    seed: int = 0
    """Views and rays."""

    def __post_init__(self) -> None:
        for name in ("input_size", "views", "rays", "render_size", "hull_resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("region_share", "foreground_share", "background"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.held_out_views < 0 or (self.input_view is not None and self.input_view < 0):
            raise ValueError(
                f"held_out_views and input_view must not be negative, got {self.held_out_views} and {self.input_view}"
            )
        smallest = min(self.render_size, *self.further_sizes, self.render_size)
        if self.region_side > smallest:
            raise ValueError(f"a region of {self.region_side}² rays does not fit into pictures of {smallest}²")

    @property
    def region_side(self) -> int:
        """Side of the square region, pixels: the first `region_side`² rays of a view, row by row."""
        return int((self.rays * self.region_share) ** 0.5 + 1e-9)


class InputView(NamedTuple):
    """What a model is given."""

    image: Tensor
    """(3, S, S) float32 in [0, 1], framed, on the background."""
    camera: Tensor
    """(16,) float32: canonical world_from_camera (3×4, row by row), then the framed intrinsics (4)."""
    canonical_from_world: np.ndarray
    """(3, 4) float64 rotation."""


class TargetView(NamedTuple):
    """What a model's rendering is compared with."""

    rgb: np.ndarray
    """(S, S, 3) float32 in [0, 1], on the background."""
    alpha: np.ndarray
    """(S, S) float32 in [0, 1]."""
    world_from_camera: np.ndarray
    """(3, 4) float64, canonical frame."""
    intrinsics: np.ndarray
    """(4,) float64, normalised."""


def framed_picture(shards: ShardSet, index: int, view: int, size: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """One view framed around its matte, (size, size, 4) uint8, and its framed intrinsics (4,).

    Cut from the smallest stored size that still has `size` pixels where the frame is. An empty matte is a ShardError.
    """
    stored = input_picture_size(shards, index, view, size, fill)
    _, intrinsics = shards.cameras(index)
    return framing.frame(shards.picture(index, view, stored), intrinsics[view], size, fill)


def input_picture_size(shards: ShardSet, index: int, view: int, size: int, fill: float) -> int:
    """The smallest stored size in which the square around the object has `size` pixels."""
    x0, y0, x1, y1 = shards.matte_boxes(index)[view].tolist()
    longer = max(x1 - x0, y1 - y0)
    if longer <= 0:
        raise ShardError(f"{shards.uids[index]}: the matte of view {view} is empty; it cannot be an input view")
    return shards.stored_size(index, int(np.ceil(size * fill / longer)))


def input_view(shards: ShardSet, index: int, view: int, config: SampleConfig) -> InputView:
    """View `view` of object `index` as a model's input. Nothing is random."""
    rgba, intrinsics = framed_picture(shards, index, view, config.input_size, config.fill)
    return _as_input(rgba, intrinsics, shards.cameras(index)[0][view], config.background)


def target_view(
    shards: ShardSet, index: int, view: int, size: int, canonical_from_world: np.ndarray, background: float = 1.0
) -> TargetView:
    """View `view` of object `index` as a picture of `size` pixels to compare with. Nothing is random."""
    rgba = shards.picture(index, view, size)
    poses, intrinsics = shards.cameras(index)
    pose = cameras.compose(canonical_from_world, poses[view])
    alpha = rgba[..., 3].astype(np.float32) / 255
    return TargetView(framing.on_background(rgba, background), alpha, pose, intrinsics[view])


def _as_input(rgba: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, background: float) -> InputView:
    canonical_from_world = cameras.canonical_from_world(world_from_camera)
    pose = cameras.compose(canonical_from_world, world_from_camera)
    image = _tensor(framing.on_background(rgba, background).transpose(2, 0, 1))
    camera = torch.from_numpy(np.concatenate([pose.reshape(12), intrinsics])).float()
    return InputView(image, camera, canonical_from_world)


class ShardSamples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples of the objects `indices` (default: all) of a set of shards. V, R, S, n: see `SampleConfig`.

    A sample is a dict of tensors, float32 unless said otherwise:
        image                 (3, S, S)       the input picture, framed, on the background, in [0, 1]
        camera                (16,)           canonical world_from_camera of the input (12, row by row), framed intrinsics (4)
        world_from_camera     (V, 3, 4)       supervised cameras, canonical frame
        intrinsics            (V, 4)          of the supervised pictures, which are not framed
        uv                    (V, R, 2)       pixel centres of the rays; the first region_side² are a square, row by row
        rgb                   (V, R, 3)       on the background, in [0, 1]
        alpha                 (V, R)          in [0, 1]
        world_from_canonical  (3, 3)          rotation
        depth                 (V, R)          planar, object units, 0 where nothing is hit; only `with_depth`
        normal                (V, R, 3)       unit, canonical frame, 0 where nothing is hit; only `with_normals`
        points                (P, 3)          canonical frame, in the unit ball, half near the surface; only with `solid_points`
        solid                 (P,)            1 for those in the object, 0 for the others; only with `solid_points`
        hull                  (n, n, n) bool  visual hull of the views that may be seen, world frame, indexed [x, y, z]
        index                 ()  int64       the object in the set of shards
        seed                  ()  int64       for whatever else is random about this draw
    """

    def __init__(self, shards: ShardSet, config: SampleConfig, indices: Sequence[int] | None = None) -> None:
        self.shards, self.config = shards, config
        self.indices = list(range(len(shards))) if indices is None else list(indices)
        self.epoch = 0
        self._cache = _Cache(config.cache_bytes)
        for index in self.indices:  # an object that cannot give a sample is named now, not hours later
            self._views(index)
            require_sense(shards, index)

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of items asked for by number alone. Worker processes do not hear of it: see `__getitem__`."""
        self.epoch = epoch

    def __getitem__(self, item: int | tuple[int, ...]) -> dict[str, Tensor]:
        """Item i of the current epoch, or a `Draw`: a sampler that yields those serves any number of workers."""
        number, epoch, repeat = Draw(*item) if isinstance(item, tuple) else Draw(item, self.epoch)
        index = self.indices[number]
        rng = np.random.default_rng([self.config.seed, epoch, index, repeat])
        inputs, supervised = self._views(index)
        chosen = int(rng.choice(inputs)) if self.config.input_view is None else self.config.input_view
        given = self._input(rng, index, chosen)
        views = _draw_views(rng, supervised, self.config.views)
        poses, intrinsics = self.shards.cameras(index)
        size = int(rng.choice([self.config.render_size, *self.config.further_sizes]))
        pixels = self._pixels(rng, index, views, size)
        uv = (pixels + 0.5) / size
        rgb, alpha = self._seen(index, views, pixels, size)
        depth = {"depth": _tensor(self._at(self._depth, index, views, uv))} if self.config.with_depth else {}
        normal = {}
        if self.config.with_normals:
            turn = given.canonical_from_world[:, :3]
            normal = {"normal": _tensor(self._at(self._normal, index, views, uv) @ turn.T)}
        sample = {
            "image": given.image,
            "camera": misjudged(rng, given.camera, self.config.augment),
            "world_from_camera": _tensor(cameras.compose(given.canonical_from_world[None], poses[views])),
            "intrinsics": _tensor(intrinsics[views]),
            "uv": _tensor(uv),
            "rgb": rgb,
            "alpha": alpha,
            **depth,
            **normal,
            **self._solid(rng, index, given.canonical_from_world),
            "world_from_canonical": _tensor(given.canonical_from_world[:, :3].T),
            "hull": torch.from_numpy(self.hull(index)),
            "index": torch.tensor(index),
            "seed": torch.tensor(int(rng.integers(2**62))),
        }
        return mirrored(sample) if self.config.augment.mirror and rng.random() < 0.5 else sample

    def bytes_when_full(self) -> float:
        """What the cache will hold once every view has been drawn: decoded pictures, framed inputs, depth, shapes."""
        sizes = [self.config.render_size, *self.config.further_sizes, self.config.input_size]
        if self.config.with_depth:
            sizes.append(max(self.shards.sizes))
        views = sum(self.shards.view_count(index) for index in self.indices)
        solids = KEPT_BYTES * len(self.indices) if self.config.solid_points else 0
        return min(self.config.cache_bytes, solids + views * sum(4.0 * size**2 for size in sizes))

    def hull(self, index: int) -> np.ndarray:
        """(n, n, n) bool visual hull, world frame, of the views of object `index` that are not held out."""
        n = self.config.hull_resolution
        (packed,) = self._cache.get(("hull", index), lambda: (np.packbits(self._carve(index)),))
        return np.unpackbits(packed, count=n**3).view(bool).reshape(n, n, n)

    def _carve(self, index: int) -> np.ndarray:
        _, supervised = self._views(index)
        poses, intrinsics = self.shards.cameras(index)
        mattes = [self._picture(index, int(view), self.config.render_size)[..., 3] for view in supervised]
        return visual_hull(mattes, poses[supervised], intrinsics[supervised], self.config.hull_resolution)

    def _views(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of an object that may be input (something is seen in them), and views that may be supervised."""
        supervised = np.arange(self.shards.view_count(index) - self.config.held_out_views)
        if len(supervised) == 0:
            raise ShardError(
                f"{self.shards.uids[index]}: has {self.shards.view_count(index)} views and {self.config.held_out_views} are "
                "to be held out; none is left to train on"
            )
        inputs = supervised[self.shards.matte_boxes(index)[supervised].any(axis=1)]
        asked = self.config.input_view
        if len(inputs) == 0 or (asked is not None and asked not in inputs):
            wanted = "any of its views" if asked is None else f"view {asked}"
            raise ShardError(
                f"{self.shards.uids[index]}: {wanted} as input was asked for; the views that are not held out and show "
                f"something are {inputs.tolist()}"
            )
        return inputs, supervised

    def _input(self, rng: np.random.Generator, index: int, view: int) -> InputView:
        config, augment = self.config, self.config.augment
        if augment.fill_spread:
            rgba, intrinsics = self._reframed(index, view, draw_fill(rng, config.fill, augment))
        else:
            rgba, intrinsics = self._cache.get(
                ("input", index, view),
                lambda: framed_picture(self.shards, index, view, config.input_size, config.fill),
            )
        background = draw_background(rng, config.background, augment)
        return _as_input(exposed(rng, rgba, augment), intrinsics, self.shards.cameras(index)[0][view], background)

    def _reframed(self, index: int, view: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
        """As `framed_picture` with another share; what is decoded for the usual share is kept."""
        stored = input_picture_size(self.shards, index, view, self.config.input_size, self.config.fill)
        (picture,) = self._cache.get(("whole", index, view), lambda: (self.shards.picture(index, view, stored),))
        return framing.frame(picture, self.shards.cameras(index)[1][view], self.config.input_size, fill)

    def _picture(self, index: int, view: int, size: int) -> np.ndarray:
        """(size, size, 4) uint8."""
        return self._cache.get(("picture", index, view, size), lambda: (self.shards.picture(index, view, size),))[0]

    def _pixels(self, rng: np.random.Generator, index: int, views: np.ndarray, size: int) -> np.ndarray:
        """(V, R, 2) column and row of each view's region and scattered rays in pictures of `size` pixels."""
        boxes = self.shards.matte_boxes(index)[views]
        return np.stack([_draw_pixels(rng, box, self.config, size) for box in boxes])

    def _seen(self, index: int, views: np.ndarray, pixels: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
        """rgb (V, R, 3) on the background and alpha (V, R) at pixels (V, R, 2) of pictures of `size` pixels."""
        pictures = (self._picture(index, int(view), size) for view in views)
        rgba = np.stack(
            [picture[row, column] for picture, (column, row) in zip(pictures, pixels.swapaxes(1, 2), strict=True)]
        )
        rgb = framing.on_background(rgba, self.config.background)
        return torch.from_numpy(rgb), _tensor(rgba[..., 3] / 255)

    def _at(
        self, picture: Callable[[int, int], np.ndarray], index: int, views: np.ndarray, uv: np.ndarray
    ) -> np.ndarray:
        """(V, R, …) of a pass's nearest pixel at uv (V, R, 2)."""
        found = []
        for view, at in zip(views, uv, strict=True):
            whole = picture(index, int(view))
            column, row = (at * len(whole)).astype(np.int64).T
            found.append(whole[row, column])
        return np.stack(found)

    def _solid(self, rng: np.random.Generator, index: int, canonical_from_world: np.ndarray) -> dict[str, Tensor]:
        """Points of the ball and whether they lie in the object, where they were asked for."""
        if not self.config.solid_points:
            return {}
        kept = Solid(*self._cache.get(("solid", index), lambda: reduced(self.shards.geometry(index))))
        points, within = draw_points(rng, kept, self.config.solid_points)
        return {"points": _tensor(points @ canonical_from_world[:, :3].T), "solid": _tensor(within)}

    def _normal(self, index: int, view: int) -> np.ndarray:
        """(s, s, 3) float32 normals as rendered, world frame."""
        return self._cache.get(("normal", index, view), lambda: (self.shards.normal(index, view),))[0]

    def _depth(self, index: int, view: int) -> np.ndarray:
        """(s, s) float32 planar depth as rendered."""
        return self._cache.get(("depth", index, view), lambda: (self.shards.depth(index, view),))[0]


FARTHEST_CAMERA = 1000.0
"""Object units; an object is a pixel long before."""


def require_sense(shards: ShardSet, index: int) -> None:
    """Cameras and matte boxes of an object are such as pictures can have; a ShardError names the views of which that is not true."""
    poses, intrinsics = shards.cameras(index)
    for fault, sound in _soundness(poses, intrinsics, shards.matte_boxes(index)).items():
        if not sound.all():
            raise ShardError(
                f"{shards.uids[index]}: the {fault} (views {np.flatnonzero(~sound).tolist()}); leave the object out (--uids), or write"
                " its shard again"
            )


def _soundness(poses: np.ndarray, intrinsics: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
    """What can be wrong -> (V,) bool, where it is not. A comparison with what is not a number is false."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm(poses[:, :, 3], axis=1)
        turn = poses[:, :, :3]
        finite = np.isfinite(poses).all(axis=(1, 2)) & np.isfinite(intrinsics).all(axis=1)
        skew = np.abs(turn.swapaxes(1, 2) @ turn - np.eye(3)).max(axis=(1, 2))
        in_picture = ((boxes >= 0) & (boxes <= 1)).all(axis=1)
        return {
            "cameras are not numbers, or have no focal length": finite & (intrinsics[:, :2] > 0).all(axis=1),
            "cameras' axes are not a rotation": skew < 1e-3,
            "cameras lie at the object's centre, or out of its sight": (distance > 1e-6) & (distance < FARTHEST_CAMERA),
            "matte boxes are not boxes in the picture": in_picture
            & (~boxes.any(axis=1) | (boxes[:, :2] < boxes[:, 2:]).all(axis=1)),
        }


def _draw_views(rng: np.random.Generator, allowed: np.ndarray, count: int) -> np.ndarray:
    """`count` of the allowed views, none twice before each was drawn once."""
    rounds = -(-count // len(allowed))
    return np.concatenate([rng.permutation(allowed) for _ in range(rounds)])[:count]


def _draw_pixels(rng: np.random.Generator, box: np.ndarray, config: SampleConfig, size: int) -> np.ndarray:
    """(R, 2) column and row of one view's rays: a square region, then scattered pixels.

    Most of a picture is background, of which a few rays say enough: `foreground_share` of the rays aim at the matte's box.
    """
    side = config.region_side
    aims_at_box = rng.random() < config.foreground_share
    low, high = _box_pixels(box, size) if aims_at_box else (np.zeros(2), np.full(2, size))
    centre = rng.uniform(low, high)
    corner = np.clip(np.round(centre - side / 2), 0, size - side).astype(np.int64)
    region = np.stack(np.meshgrid(corner[0] + np.arange(side), corner[1] + np.arange(side)), axis=-1).reshape(-1, 2)
    scattered = config.rays - side * side
    aimed = int(round(scattered * config.foreground_share))
    inside = rng.uniform(*_box_pixels(box, size), (aimed, 2))
    anywhere = rng.uniform(0, size, (scattered - aimed, 2))
    pixels = np.concatenate([inside, anywhere]).astype(np.int64).clip(0, size - 1)
    return np.concatenate([region, pixels])


def _box_pixels(box: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A normalised matte box in pixels, a margin of a twentieth of the picture around it; the whole picture where it is empty."""
    if not box.any():
        return np.zeros(2), np.full(2, float(size))
    return np.clip(box[:2] - 0.05, 0, 1) * size, np.clip(box[2:] + 0.05, 0, 1) * size


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


class _Cache:
    """Arrays made once and kept while there is room; those unused for longest go first. Every process has its own."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: collections.OrderedDict[Any, tuple[np.ndarray, ...]] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "bytes": 0, "_kept": collections.OrderedDict()}

    def get(self, key: Any, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """The arrays of `key`, made by `make` unless they are kept. They are not to be written to."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        arrays = make()
        self._kept[key] = arrays
        self.bytes += sum(array.nbytes for array in arrays)
        while self.bytes > self.limit:
            self.bytes -= sum(array.nbytes for array in self._kept.popitem(last=False)[1])
        return arrays
