"""A field made under a supposed camera lies, under the true one, where the picture shows it."""

from __future__ import annotations

import numpy as np
import pytest

from model.placement import SupposedCamera, camera_in_field, object_from_field
from turntable import cameras

SUPPOSED = SupposedCamera(2.184, 1.374)


def true_camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A camera that does not look straight at the centre, and a framed picture whose middle is elsewhere."""
    rng = np.random.default_rng(seed)
    pose = cameras.look_at(cameras.spherical_position(rng.uniform(0, 360), rng.uniform(-60, 60), rng.uniform(2, 6)))
    pose = cameras.look_at(pose[:, 3], rng.normal(size=3) * 0.1, roll_deg=rng.uniform(-20, 20))
    focal = rng.uniform(1, 3)
    return pose, np.array([focal, focal * 1.02, rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)])


@pytest.mark.parametrize("seed", range(5))
def test_both_cameras_see_the_same_near_the_middle(seed):
    pose, lens = true_camera(seed)
    similarity = object_from_field(pose, lens, SUPPOSED)
    # In the plane through the field's middle that faces the camera; farther from it perspective differs.
    points = np.array([[0, 0, 0], [0.01, 0, 0], [0, 0, 0.01], [-0.01, 0, 0.01]])
    expected, _ = cameras.project(points, SUPPOSED.pose, SUPPOSED.intrinsics)
    found, depth = cameras.project(cameras.transform(similarity, points), pose, lens)
    assert (depth > 0).all()
    np.testing.assert_allclose(found[0], [0.5, 0.5], atol=1e-12)
    # An off-centre picture is seen at an angle: lengths in it differ by its square, here 1 in 50 at most, and focal lengths
    # by 1 in 100.
    np.testing.assert_allclose(found, expected, atol=0.03 * 0.01)


def test_a_camera_as_supposed_changes_nothing():
    similarity = object_from_field(SUPPOSED.pose, SUPPOSED.intrinsics, SUPPOSED)
    np.testing.assert_allclose(similarity, np.eye(3, 4), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rays_of_a_camera_meet_the_same_points_in_both_frames(seed):
    pose, lens = true_camera(seed)
    similarity = object_from_field(pose, lens, SUPPOSED)
    other, _ = true_camera(seed + 50)
    inside = camera_in_field(other, similarity)
    points = np.random.default_rng(seed).normal(size=(20, 3)) * 0.3
    expected, _ = cameras.project(cameras.transform(similarity, points), other, lens)
    np.testing.assert_allclose(cameras.project(points, inside, lens)[0], expected, atol=1e-9)
    np.testing.assert_allclose(inside[:, :3] @ inside[:, :3].T, np.eye(3), atol=1e-9)


def test_the_scale_is_that_of_the_picture():
    """Twice as far with twice the focal length shows the same picture of the same object; half the object needs neither."""
    pose, lens = SUPPOSED.pose.copy(), SUPPOSED.intrinsics
    pose[:, 3] *= 2
    assert np.linalg.det(object_from_field(pose, lens * [2, 2, 1, 1], SUPPOSED)[:, :3]) == pytest.approx(1)
    assert np.linalg.det(object_from_field(pose, lens, SUPPOSED)[:, :3]) == pytest.approx(8)
