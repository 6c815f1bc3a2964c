"""Scenes of `../shared/mvimgnet` in a shard against their truth: `python -m tests.preprocess.mvimgnet_truth ../shared/mvimgnet`.

The figures of a scene, all from what its shard stores and from files that nothing of `preprocess` reads or writes:

- *up*: angle between our +z and the truth's, after the best similarity between the cameras' places (ours to the truth's);
- *centre*: distance of our origin from the middle of the true box, in per cent of the box's longest side;
- *scale*: our box's diagonal against the true box's; and *radius*: our unit against the distance of the model's farthest vertex
  from the middle of its box (the unit of the renders in other shards);
- *pixels*: for every observation in COLMAP's model, the point projected by COLMAP's camera into the frame, against the point
  projected by the stored camera into the stored square and taken back from there by a radial polynomial written out below;
- *without k*: the same with the radial term left out, which must not pass.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.shards import ShardSet
from preprocess import mvimgnet
from preprocess.filling import fill
from turntable import cameras
from turntable.geometry import umeyama


@dataclass(frozen=True)
class Placement:
    """A scene's object against the truth."""

    up_deg: float
    centre_percent: float
    scale_percent: float
    radius_percent: float | None
    """None where the model is not there."""


@dataclass(frozen=True)
class Agreement:
    """A scene's cameras against COLMAP's."""

    observations: int
    worst_px: float
    worst_without_k_px: float


def placement(shards: ShardSet, index: int, root: Path) -> Placement:
    """How far off the object of a stored scene is."""
    record = shards.record(index)
    truth = json.loads((root / record["path"] / "groundtruth.json").read_text())
    true_poses = {name: np.array(pose) for name, pose in truth["world_from_camera_opengl"].items()}
    ours = shards.cameras(index)[0][:, :, 3]
    theirs = np.stack([true_poses[view["file"]][:3, 3] for view in record["views"]])
    truth_from_object = umeyama(ours, theirs)
    scale = np.cbrt(np.linalg.det(truth_from_object[:, :3]))
    low, high = np.array(truth["object_bbox"])
    up = truth_from_object[:, 2] / scale
    centre = truth_from_object[:, 3] - (low + high) / 2
    diagonal = np.linalg.norm(record["box"]["size"]) * scale
    radius = true_radius(root.parent / "objaverse", truth["glb"])
    return Placement(
        float(np.rad2deg(np.arccos(np.clip(up[2], -1, 1)))),
        float(100 * np.linalg.norm(centre) / (high - low).max()),
        float(100 * (diagonal / np.linalg.norm(high - low) - 1)),
        None if radius is None else float(100 * (scale / radius - 1)),
    )


def true_radius(objaverse: Path, uid: str) -> float | None:
    """Distance of a model's farthest vertex from its box's middle, the box's longest side being 1."""
    import trimesh

    path = next(objaverse.glob(f"glbs/*/{uid}.glb"), None)
    if path is None:
        return None
    vertices = trimesh.load(path, force="scene").to_mesh().vertices
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return float(np.linalg.norm(vertices - (low + high) / 2, axis=1).max() / (high - low).max())


def agreement(shards: ShardSet, index: int, root: Path) -> Agreement:
    """How far the stored cameras of a scene are from COLMAP's, over all that its frames see."""
    import pycolmap

    record = shards.record(index)
    model = pycolmap.Reconstruction(str(root / record["path"] / "sparse" / "0"))
    images = {image.name: image for image in model.images.values()}
    object_from_colmap = np.array(record["object_from_colmap"])
    with_k, without_k = [], []
    for view, pose, intrinsics in zip(record["views"], *shards.cameras(index), strict=True):
        image = images[view["file"]]
        points = np.stack([model.points3D[seen.point3D_id].xyz for seen in image.get_observation_points2D()])
        expected = np.stack([image.project_point(point) for point in points])
        uv, depth = cameras.project(cameras.transform(object_from_colmap, points), pose, intrinsics)
        assert (depth > 0).all()
        for kept, into in ((1, with_k), (0, without_k)):
            into.append(np.linalg.norm(distorted(uv, view, kept) - expected, axis=1))
    return Agreement(sum(map(len, with_k)), float(np.concatenate(with_k).max()), float(np.concatenate(without_k).max()))


def distorted(uv: np.ndarray, view: dict[str, Any], kept: float) -> np.ndarray:
    """(N, 2) places in a stored square -> (N, 2) pixels of the frame. SIMPLE_RADIAL: pixel = f · (1 + k r²) · (x, y) + (cx, cy)."""
    left, top, side = view["square"]
    focal, cx, cy, k = view["lens"]["parameters"]
    slopes = (uv * side + [left, top] - [cx, cy]) / focal
    return focal * slopes * (1 + kept * k * (slopes**2).sum(axis=1, keepdims=True)) + [cx, cy]


def table(root: Path) -> str:
    """All figures of the scenes below `root`."""
    lines = ["scene    up°   centre %  scale %  radius %   observations  worst px  without k"]
    with tempfile.TemporaryDirectory() as folder:
        config = mvimgnet.MVImgNetConfig(root=root, out=Path(folder), keep_cut_off=True)
        fill(config, mvimgnet.MVImgNet(config))
        shards = ShardSet(config.out)
        for index in range(len(shards)):
            place, seen = placement(shards, index, root), agreement(shards, index, root)
            radius = "–" if place.radius_percent is None else f"{place.radius_percent:+.2f}"
            lines.append(
                f"{shards.record(index)['path']}  {place.up_deg:4.2f}  {place.centre_percent:8.2f}  {place.scale_percent:+7.2f}"
                f"  {radius:>8}  {seen.observations:13}  {seen.worst_px:8.1e}  {seen.worst_without_k_px:9.2f}"
            )
        for path in sorted((config.out / "failures").glob("*.json")):
            failure = json.loads(path.read_text())
            lines.append(f"{failure['uid']}: {failure['reason']}: {failure['message']}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
