"""Cameras of the shell: where they may be, that they depend on (seed, uid, view) only, that a few of them see all sides."""

from __future__ import annotations

import numpy as np
import pytest

from render.rigs import Shell, shell_camera, stream
from turntable import cameras


def positions(count: int, uid: str = "ab", seed: int = 0) -> np.ndarray:
    return np.stack([shell_camera(Shell(), seed, uid, view)[:, 3] for view in range(count)])


def test_cameras_keep_to_the_shell_and_see_the_whole_unit_sphere() -> None:
    shell, sphere = Shell(), np.random.default_rng(0).normal(size=(2000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    lens = cameras.intrinsics_from_fov(shell.fov_deg)
    for view in range(50):
        pose = shell_camera(shell, 3, "cd", view)
        assert shell.distance[0] <= np.linalg.norm(pose[:, 3]) <= shell.distance[1]
        assert shell.height[0] <= pose[2, 3] <= shell.height[1]
        uv, depth = cameras.project(sphere, pose, lens)
        assert (depth > 0).all() and uv.min() > 0.005 and uv.max() < 0.995


def test_a_camera_depends_on_seed_uid_and_view_only() -> None:
    assert np.array_equal(positions(4), positions(32)[:4])
    assert not np.allclose(positions(4), positions(4, uid="ac"))
    assert not np.allclose(positions(4), positions(4, seed=1))


def test_a_dozen_views_leave_no_side_unseen() -> None:
    for uid in map(str, range(50)):
        x, y, _ = positions(12, uid).T
        azimuth = np.sort(np.arctan2(y, x))
        gaps = np.diff(np.append(azimuth, azimuth[0] + 2 * np.pi))
        # Twelve independent azimuths leave a gap of more than 90° in two draws of five.
        assert np.rad2deg(gaps.max()) < 90, uid


def test_first_views_are_uniform_over_the_shell_s_part_of_the_sphere() -> None:
    first = np.concatenate([positions(1, str(uid)) for uid in range(2000)])
    azimuth = np.arctan2(first[:, 1], first[:, 0]) / (2 * np.pi) + 0.5
    height = (first[:, 2] - Shell().height[0]) / np.ptp(Shell().height)
    for values in (azimuth, height):
        histogram = np.histogram(values, bins=10, range=(0, 1))[0]
        # 200 expected a bin, standard deviation 13.4: five of them.
        assert abs(histogram - 200).max() < 67


def test_streams_of_different_purposes_differ() -> None:
    draws = {stream(s, u, p).integers(2**60) for s in (0, 1) for u in ("a", "b") for p in ("x", "y")}
    assert len(draws) == 8
    assert stream(5, "a", "x").integers(2**60) == stream(5, "a", "x").integers(2**60)


@pytest.mark.parametrize(
    "fields",
    [{"fov_deg": 0}, {"distance": (2.0, 3.0)}, {"distance": (3.0, 2.5)}, {"height": (-3.0, 0.0)}, {"fov_deg": 40.0}],
)
def test_a_rig_that_would_clip_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Shell(**fields)  # type: ignore[arg-type]
