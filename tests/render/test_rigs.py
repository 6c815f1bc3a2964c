"""Cameras: where each rig puts them, that they look at their target, that they depend on (seed, uid, view) only."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from render.rigs import OWN, Camera, Rig, count, depth_scale, draw, settled, stream
from turntable import cameras

GENERATED = ("shell", "ring", "hammersley", "zero123plus", "openlrm")


def positions(views: int, uid: str = "ab", seed: int = 0, **fields: Any) -> np.ndarray:
    return np.stack([camera.world_from_camera[:, 3] for camera in draw(Rig(**fields), views, seed, uid)])


def angles(spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth in [0, 360) and elevation, degrees, of (N, 3) positions; 0 is at -y, growing towards +x."""
    x, y, z = spots.T
    return np.rad2deg(np.arctan2(x, -y)).round(9) % 360, np.rad2deg(np.arcsin(z / np.linalg.norm(spots, axis=1)))


@pytest.mark.parametrize("rig", GENERATED)
def test_cameras_look_at_the_centre_from_their_distance(rig: Any) -> None:
    near, far = OWN[rig].distance
    for camera in draw(Rig(rig=rig), 6, 3, "cd"):
        assert camera.world_from_camera.dtype == np.float64 and camera.world_from_camera.shape == (3, 4)
        uv, depth = cameras.project(np.zeros((1, 3)), camera.world_from_camera, camera.intrinsics)
        assert np.allclose(uv, 0.5) and near - 1e-9 <= depth[0] <= far + 1e-9
        # World's up is up in the picture.
        assert camera.world_from_camera[2, 1] >= 0 and abs(camera.world_from_camera[2, 0]) < 1e-9
        assert np.allclose(camera.intrinsics, cameras.intrinsics_from_fov(OWN[rig].fov_deg))


def test_the_shell_keeps_to_its_ranges_and_sees_the_whole_unit_sphere() -> None:
    sphere = np.random.default_rng(0).normal(size=(2000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for camera in draw(Rig(), 50, 3, "cd"):
        assert -0.9 <= camera.world_from_camera[2, 3] <= 1.95
        uv, depth = cameras.project(sphere, camera.world_from_camera, camera.intrinsics)
        assert (depth > 0).all() and uv.min() > 0.005 and uv.max() < 0.995


@pytest.mark.parametrize("rig", GENERATED)
def test_a_camera_depends_on_seed_and_uid(rig: Any) -> None:
    assert np.array_equal(positions(6, rig=rig), positions(6, rig=rig))
    if rig not in ("ring", "zero123plus"):  # these are the same for all
        assert not np.allclose(positions(6, rig=rig), positions(6, uid="ac", rig=rig))
        assert not np.allclose(positions(6, rig=rig), positions(6, seed=1, rig=rig))


@pytest.mark.parametrize("rig", ["shell", "zero123plus", "openlrm"])
def test_the_first_cameras_do_not_depend_on_how_many_are_asked_for(rig: Any) -> None:
    jitter = {"jitter_roll_deg": 5, "jitter_focal": 0.1, "jitter_target": 0.1}
    assert np.array_equal(positions(4, rig=rig, **jitter), positions(6, rig=rig, **jitter)[:4])


def test_a_dozen_views_of_the_shell_leave_no_side_unseen() -> None:
    for uid in map(str, range(50)):
        azimuth = np.sort(angles(positions(12, uid))[0])
        # Twelve independent azimuths leave a gap of more than 90° in two draws of five.
        assert np.diff(np.append(azimuth, azimuth[0] + 360)).max() < 90, uid


def test_first_views_are_uniform_over_the_shell_s_part_of_the_sphere() -> None:
    first = np.concatenate([positions(1, str(uid)) for uid in range(2000)])
    low, high = OWN["shell"].height
    for values in (angles(first)[0] / 360, (first[:, 2] - low) / (high - low)):
        histogram = np.histogram(values, bins=10, range=(0, 1))[0]
        # 200 expected a bin, standard deviation 13.4: five of them.
        assert abs(histogram - 200).max() < 67


def test_the_ring_is_evenly_spaced() -> None:
    azimuth, elevation = angles(positions(12, rig="ring", elevation_deg=(20.0,), azimuth_deg=15.0))
    assert np.allclose(azimuth, 15 + 30 * np.arange(12)) and np.allclose(elevation, 20)
    azimuth, elevation = angles(positions(8, rig="ring", elevation_deg=(-30.0, 30.0)))
    assert np.allclose(azimuth, np.tile(90 * np.arange(4), 2)) and np.allclose(elevation, np.repeat([-30, 30], 4))
    assert len(positions(1, rig="ring", elevation_deg=(0.0, 90.0))) == 1


def test_hammersley_covers_the_sphere() -> None:
    everywhere = np.random.default_rng(1).normal(size=(4000, 3))
    everywhere /= np.linalg.norm(everywhere, axis=1, keepdims=True)
    for uid in map(str, range(10)):
        spots = positions(150, uid, rig="hammersley") / OWN["hammersley"].distance[0]
        nearest = np.rad2deg(np.arccos((everywhere @ spots.T).max(axis=1).clip(-1, 1)))
        # 150 caps of equal area have a radius of 9.4°; 150 independent points leave holes of over 25°.
        assert nearest.max() < 19
        # Even by height too: sphere area is uniform in z, so each tenth of it has a tenth of the views.
        assert (np.histogram(spots[:, 2], bins=10, range=(-1, 1))[0] == 15).all()


@pytest.mark.parametrize(("release", "elevations"), [("1.1", (30, -20)), ("1.2", (20, -10))])
def test_zero123plus_has_its_six_views(release: Any, elevations: tuple[float, float]) -> None:
    azimuth, elevation = angles(positions(6, rig="zero123plus", zero123plus=release))
    assert np.allclose(azimuth, [30, 90, 150, 210, 270, 330]) and np.allclose(elevation, elevations * 3)
    # Its unit sphere just fills 30°: sphere of radius 0.5 seen from 0.5 / tan 15°.
    assert np.linalg.norm(positions(1, rig="zero123plus")) == pytest.approx(1 / np.tan(np.deg2rad(15)), abs=1e-3)


def test_openlrm_s_first_view_is_frontal_and_the_rest_keep_to_its_ranges() -> None:
    spots = np.concatenate([positions(20, str(uid), rig="openlrm") for uid in range(20)]).reshape(20, 20, 3)
    assert np.allclose(spots[:, 0, [0, 2]], 0) and (spots[:, 0, 1] < 0).all()
    others = spots[:, 1:].reshape(-1, 3)
    assert others[:, 2].min() >= -0.63 and others[:, 2].max() <= 1.33 and np.ptp(others[:, 2]) > 1.8
    assert (np.histogram(angles(others)[0], bins=6, range=(0, 360))[0] > 30).all()


def test_jitter_stays_within_its_ranges() -> None:
    plain = draw(Rig(rig="ring"), 200, 0, "ab")
    changed = draw(Rig(rig="ring", jitter_roll_deg=10, jitter_focal=0.2, jitter_target=0.05), 200, 0, "ab")
    rolls, focals, moves = [], [], []
    for before, after in zip(plain, changed, strict=True):
        turn = before.world_from_camera[:, :3].T @ after.world_from_camera[:, :3]
        assert np.allclose(turn[2], [0, 0, 1])  # about the viewing axis alone
        rolls.append(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))
        focals.append(after.intrinsics[:2] / before.intrinsics[:2] - 1)
        moves.append(after.world_from_camera[:, 3] - before.world_from_camera[:, 3])
        # It looks at the target: the centre, moved as the camera is.
        uv, depth = cameras.project(moves[-1][None], after.world_from_camera, after.intrinsics)
        assert np.allclose(uv, 0.5) and depth[0] == pytest.approx(2.5)
    for values, limit in ((np.array(rolls), 10), (np.array(focals), 0.2), (np.array(moves), 0.05)):
        # 200 uniform draws come within 5 % of both ends but for one time in 10⁴.
        assert abs(values).max() <= limit and values.max() > 0.9 * limit and values.min() < -0.9 * limit


def test_every_rig_s_settled_form_draws_the_same_and_survives_json() -> None:
    from turntable.config import resolved, restored

    for rig in (*(Rig(rig=name) for name in GENERATED), Rig(rig="list", listed=((1.0,) * 16,) * 2)):  # type: ignore[arg-type]
        whole = settled(rig)
        assert settled(whole) == whole
        again = restored(Rig, json.loads(json.dumps(resolved(whole))))
        assert again == whole
        for one, two in zip(draw(rig, 2, 0, "a"), draw(again, 2, 0, "a"), strict=True):
            assert np.array_equal(one.world_from_camera, two.world_from_camera)
            assert np.array_equal(one.intrinsics, two.intrinsics)


def test_numbers_of_views() -> None:
    assert [count(Rig(rig=name), None) for name in GENERATED] == [32, 32, 32, 6, 32]  # type: ignore[arg-type]
    assert count(Rig(rig="zero123plus"), 4) == 4 and count(Rig(), 100) == 100
    with pytest.raises(ValueError, match="at most 6"):
        count(Rig(rig="zero123plus"), 7)
    with pytest.raises(ValueError, match="at most 2"):
        count(Rig(rig="list", listed=((1.0,) * 16,) * 2), 3)


def test_depth_reaches_behind_the_object() -> None:
    lens = cameras.intrinsics_from_fov(50)
    drawn = [Camera(cameras.look_at(np.array([0.0, -distance, 0.0])), lens) for distance in (2.0, 3.0)]
    assert 4.0 < depth_scale(drawn) * 65535 < 4.1


def test_streams_of_different_purposes_differ() -> None:
    draws = {stream(s, u, p).integers(2**60) for s in (0, 1) for u in ("a", "b") for p in ("x", "y")}
    assert len(draws) == 8
    assert stream(5, "a", "x").integers(2**60) == stream(5, "a", "x").integers(2**60)


@pytest.mark.parametrize(
    "fields",
    [
        {"fov_deg": 0},
        {"distance": (0.0, 3.0)},
        {"distance": (3.0, 2.5)},
        {"height": (-3.0, 0.0)},
        {"rig": "ring", "height": (0.0, 1.0)},
        {"elevation_deg": (10.0,)},
        {"rig": "ring", "elevation_deg": (100.0,)},
        {"rig": "list"},
        {"cameras": "a.json"},
        {"jitter_focal": 1.0},
        {"fill": 0.0},
    ],
)
def test_a_rig_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Rig(**fields)
