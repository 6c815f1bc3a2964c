"""Axioms of the camera convention, checked against points placed by hand and against torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from turntable import cameras

EXACT = 1e-12
"""Double precision, a few operations, values around 1."""


def random_pose(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return np.concatenate([q, rng.normal(size=(3, 1))], axis=1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_invert_is_the_inverse_of_the_homogeneous_matrix(rng: np.random.Generator) -> None:
    poses = np.stack([random_pose(rng) for _ in range(5)])
    expected = np.linalg.inv(np.stack([cameras.homogeneous(p) for p in poses]))[:, :3]
    np.testing.assert_allclose(cameras.invert(poses), expected, atol=EXACT)
    np.testing.assert_allclose(cameras.invert(cameras.invert(poses)), poses, atol=EXACT)


def test_compose_and_transform_agree_with_matrix_products(rng: np.random.Generator) -> None:
    a, b = random_pose(rng), random_pose(rng)
    expected = (cameras.homogeneous(a) @ cameras.homogeneous(b))[:3]
    np.testing.assert_allclose(cameras.compose(a, b), expected, atol=EXACT)
    points = rng.normal(size=(7, 3))
    one_after_the_other = cameras.transform(a, cameras.transform(b, points))
    np.testing.assert_allclose(cameras.transform(cameras.compose(a, b), points), one_after_the_other, atol=EXACT)


def test_a_front_camera_sees_right_right_up_up_and_near_near() -> None:
    """The convention in words: azimuth 0 stands on -y; +x appears on the right, +z at the top, -y nearest."""
    pose = cameras.look_at(cameras.spherical_position(0, 0, 2.5))
    lens = cameras.intrinsics_from_fov(50)
    np.testing.assert_allclose(pose[:, 3], [0, -2.5, 0], atol=EXACT)
    points = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0, 0.3], [0, -0.3, 0]], dtype=float)
    uv, depth = cameras.project(points, pose, lens)
    np.testing.assert_allclose(uv[0], [0.5, 0.5], atol=EXACT)
    assert uv[1, 0] > 0.5 and abs(uv[1, 1] - 0.5) < EXACT
    assert uv[2, 1] < 0.5 and abs(uv[2, 0] - 0.5) < EXACT
    np.testing.assert_allclose(depth, [2.5, 2.5, 2.5, 2.2], atol=EXACT)


def test_azimuth_grows_counter_clockwise_seen_from_above() -> None:
    np.testing.assert_allclose(cameras.spherical_position(90, 0, 1), [1, 0, 0], atol=EXACT)
    np.testing.assert_allclose(cameras.spherical_position(0, 90, 1), [0, 0, 1], atol=EXACT)
    assert cameras.elevation_deg(cameras.look_at(cameras.spherical_position(123, 34, 2))) == pytest.approx(34)


def test_the_field_of_view_ends_at_the_borders_of_the_picture() -> None:
    lens = cameras.intrinsics_from_fov(60, aspect=1.5)
    left, right = cameras.camera_directions(np.array([[0, 0.5], [1, 0.5]]), lens)
    angle = np.degrees(np.arccos(left @ right / np.linalg.norm(left) / np.linalg.norm(right)))
    assert angle == pytest.approx(60)
    width, height = 300, 200
    fx, fy, cx, cy = cameras.pixel_intrinsics(lens, width, height)
    assert fx == pytest.approx(fy)  # square pixels
    assert (cx, cy) == pytest.approx((150, 100))
    np.testing.assert_allclose(
        cameras.normalised_intrinsics(np.array([fx, fy, cx, cy]), width, height), lens, atol=EXACT
    )


@pytest.mark.parametrize("fov", [0, 180, -3, float("nan")])
def test_an_impossible_field_of_view_is_refused(fov: float) -> None:
    with pytest.raises(ValueError, match="fov_deg"):
        cameras.intrinsics_from_fov(fov)


def test_project_backproject_and_rays_agree(rng: np.random.Generator) -> None:
    pose = cameras.look_at(rng.normal(size=3) * 3, roll_deg=17)
    lens = np.array([1.1, 1.3, 0.47, 0.55])
    uv = rng.uniform(0, 1, (50, 2))
    depth = rng.uniform(1, 4, 50)
    points = cameras.backproject(uv, depth, pose, lens)
    again, depth_again = cameras.project(points, pose, lens)
    np.testing.assert_allclose(again, uv, atol=1e-10)
    np.testing.assert_allclose(depth_again, depth, atol=1e-10)
    origins, directions = cameras.rays(uv, pose, lens)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=EXACT)
    off_ray = np.linalg.norm(np.cross(points - origins, directions), axis=1)
    np.testing.assert_allclose(off_ray, 0, atol=1e-10)
    assert ((points - origins) * directions).sum(axis=1).min() > 0


def test_projection_is_that_of_opencv(rng: np.random.Generator) -> None:
    """An independent implementation, in its own axes and pixel units (its pixel centres are at 0, ours at 0.5)."""
    import cv2

    pose = cameras.look_at(np.array([1.0, -2.0, 0.7]), roll_deg=-8)
    lens, width, height = np.array([1.2, 0.9, 0.45, 0.56]), 640, 480
    points = rng.uniform(-0.5, 0.5, (20, 3))
    opencv_from_world = cameras.invert(pose)
    opencv_from_world = np.concatenate([cameras.OPENGL_FROM_OPENCV @ opencv_from_world], axis=-1)
    fx, fy, cx, cy = cameras.pixel_intrinsics(lens, width, height)
    matrix = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    turn, shift = cv2.Rodrigues(opencv_from_world[:, :3])[0], opencv_from_world[:, 3]
    expected = cv2.projectPoints(points, turn, shift, matrix, None)[0][:, 0]
    uv, _ = cameras.project(points, pose, lens)
    np.testing.assert_allclose(uv * [width, height] - 0.5, expected, atol=1e-8)


def test_pixel_centres_lie_half_a_pixel_in() -> None:
    centres = cameras.pixel_centres(4, 2)
    assert centres.shape == (2, 4, 2)
    np.testing.assert_allclose(centres[0, 0], [1 / 8, 1 / 4])
    np.testing.assert_allclose(centres[1, 3], [7 / 8, 3 / 4])


def test_a_camera_without_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        cameras.look_at(np.zeros(3))


@pytest.mark.parametrize("elevation", [90, -90, 89.9999, 0])
def test_look_at_is_a_rotation_everywhere(elevation: float) -> None:
    pose = cameras.look_at(cameras.spherical_position(30, elevation, 2), roll_deg=45)
    rotation = pose[:, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(-rotation[:, 2] * 2, -pose[:, 3], atol=1e-9)  # looks at the centre


def test_roll_turns_the_camera_counter_clockwise() -> None:
    """The camera turns counter-clockwise, so the world's up moves clockwise in the picture: to the right."""
    pose = cameras.look_at(np.array([0.0, -2.0, 0.0]), roll_deg=10)
    uv, _ = cameras.project(np.array([[0, 0, 0.5]]), pose, cameras.intrinsics_from_fov(50))
    assert uv[0, 0] > 0.5 + 0.01


def test_canonical_view_puts_the_camera_in_front(rng: np.random.Generator) -> None:
    for _ in range(20):
        pose = cameras.look_at(rng.normal(size=3) + np.array([0, 0, 1e-3]), roll_deg=rng.uniform(-180, 180))
        rotation = cameras.canonical_from_world(pose)
        canonical = cameras.compose(rotation, pose)
        distance = np.linalg.norm(pose[:, 3])
        np.testing.assert_allclose(rotation[:, :3] @ rotation[:, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation[:, :3]) == pytest.approx(1)
        # Camera axes in the canonical world: right +x, up +z, back -y.
        np.testing.assert_allclose(canonical[:, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-9)
        np.testing.assert_allclose(canonical[:, 3], [0, -distance, 0], atol=1e-9)


def test_canonical_view_keeps_the_offset_of_a_camera_that_looks_past_the_centre() -> None:
    pose = cameras.look_at(np.array([1.0, -2.0, 0.5]), target=np.array([0.2, 0.1, -0.1]))
    canonical = cameras.compose(cameras.canonical_from_world(pose), pose)
    np.testing.assert_allclose(canonical[:, 3], [0, -np.linalg.norm(pose[:, 3]), 0], atol=1e-9)
    assert abs(canonical[0, 1]) < 1e-9  # up has no sideways part
    assert canonical[2, 1] > 0
    assert np.abs(canonical[:, 2] - [0, -1, 0]).max() > 0.01  # and the viewing axis is still off the centre


def test_no_canonical_view_is_an_error_not_a_guess() -> None:
    with pytest.raises(ValueError, match="sits at"):
        cameras.canonical_from_world(np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1))
    sideways = np.concatenate([np.eye(3), [[0.0], [1.0], [0.0]]], axis=1)  # position along the camera's own up
    with pytest.raises(ValueError, match="right angles"):
        cameras.canonical_from_world(sideways)


def test_transforms_matrices_are_checked() -> None:
    pose = cameras.look_at(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(cameras.world_from_opengl(cameras.homogeneous(pose).tolist()), pose)
    for wrong in (np.eye(3), np.full((4, 4), np.nan), np.ones((4, 4))):
        with pytest.raises(ValueError, match="transform_matrix"):
            cameras.world_from_opengl(wrong)


def test_torch_and_numpy_give_the_same(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    poses, lenses = np.stack([random_pose(rng) for _ in range(3)]), rng.uniform(0.4, 1.2, (3, 4))
    uv, points = rng.uniform(0, 1, (3, 11, 2)), rng.normal(size=(11, 3)) + np.array([0, 0, -6])
    t = torch.from_numpy
    pairs = [
        (cameras.invert(poses), cameras.invert(t(poses))),
        (cameras.compose(poses, poses[::-1]), cameras.compose(t(poses), t(poses[::-1].copy()))),
        (cameras.transform(poses[0], points), cameras.transform(t(poses[0]), t(points))),
        (cameras.pixel_intrinsics(lenses, 64, 48), cameras.pixel_intrinsics(t(lenses), 64, 48)),
        *zip(cameras.rays(uv, poses, lenses), cameras.rays(t(uv), t(poses), t(lenses)), strict=True),
        *zip(
            cameras.project(points, poses[0], lenses[0]),
            cameras.project(t(points), t(poses[0]), t(lenses[0])),
            strict=True,
        ),
    ]
    for ours, theirs in pairs:
        assert isinstance(theirs, torch.Tensor)
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-10)


def test_rays_in_single_precision_stay_single() -> None:
    torch = pytest.importorskip("torch")
    pose = torch.from_numpy(cameras.look_at(np.array([0.0, -2.0, 0.0]))).float()
    lens = torch.from_numpy(cameras.intrinsics_from_fov(50)).float()
    origins, directions = cameras.rays(torch.rand(5, 2), pose, lens)
    assert origins.dtype == directions.dtype == torch.float32
    assert origins.shape == directions.shape == (5, 3)


def test_importing_cameras_imports_no_torch() -> None:
    code = "import sys, json, turntable.cameras; print(json.dumps('torch' in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) is False
