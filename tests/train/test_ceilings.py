"""What almost true shapes score, on shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datasets.samples import TargetView
from tests.train.test_metrics import ball
from train.baselines import common_shape
from train.ceilings import ceilings, enlarged
from turntable import cameras, geometry
from turntable.geometry import Geometry, iou

LENS = cameras.intrinsics_from_fov(4.0)


def views(radius: float = 0.8) -> list[TargetView]:
    """Silhouettes of a ball from so far away that they are all but orthographic: three along the axes, one askew."""
    u, v = np.moveaxis(cameras.pixel_centres(256, 256), -1, 0)
    distance = 40.0
    seen = np.hypot(u - 0.5, v - 0.5) <= LENS[0] * radius / distance
    positions = np.array([[1, 0, 0.0], [0, 1, 0], [0, 0.001, 1], [1, 1, 0]]) * distance
    poses = [cameras.look_at(position / np.linalg.norm(position) * distance) for position in positions]
    return [TargetView(np.zeros((256, 256, 3)), seen.astype(np.float32), pose, LENS) for pose in poses]


def plate() -> Geometry:
    shape = trimesh.creation.box((1.2, 0.02, 1.2))
    return geometry.describe(shape.vertices, shape.faces, np.random.default_rng(0), 1000)


def test_a_shift_is_merciless_to_the_thin() -> None:
    row = "ceiling: truth moved by a voxel"
    thin, thick = (ceilings(shape, views(), np.eye(3, 4))[row]["iou128"] for shape in (plate(), ball(points=1000)))
    assert thin < 0.6 < 0.9 < thick


def test_enlarging_and_silhouettes_score_what_geometry_says() -> None:
    true = ball(points=1000)
    rows = ceilings(true, views(), np.eye(3, 4))
    # Voxels at the border blur both by about one in a hundred.
    assert rows["ceiling: truth 3 % larger"]["iou128"] == pytest.approx(1.03**-3, abs=0.015)
    # Three cylinders at right angles have the volume 8 (2 - sqrt 2) r³ (the tricylinder), a ball 4/3 pi r³.
    expected = (4 / 3 * np.pi) / (8 * (2 - np.sqrt(2)))
    assert rows["ceiling: hull of three silhouettes"]["iou128"] == pytest.approx(expected, abs=0.02)
    assert enlarged(true.solid, 1.0).sum() == true.solid.sum()


def test_what_a_class_has_in_common_is_closer_to_each_than_they_are_to_one_another() -> None:
    solids = [ball(centre=(x, 0, 0), radius=0.6, points=1000).solid for x in (-0.2, 0.0, 0.2)]
    common = common_shape(solids)
    assert common is not None
    assert np.mean([iou(common.solid, solid) for solid in solids]) > iou(solids[0], solids[2]) + 0.1
    assert common_shape([np.zeros((128,) * 3, bool)]) is None
