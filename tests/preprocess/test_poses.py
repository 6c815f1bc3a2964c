"""A video's object is found: its centre, its size and which way is up, whatever world COLMAP put it in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocess import poses
from preprocess.colmap import Frame, Lens, Model, read_model
from preprocess.gates import Gates
from preprocess.locate import Found, locate
from preprocess.scenes import Scene
from tests.preprocess import videos
from tests.preprocess.videos import Video
from turntable import cameras

LOOSE = Gates(min_object_side=20)


def located(video: Video, folder: Path, noise: float = 0.0) -> tuple[Model, Found]:
    """A video's model as its files would give it, and its object."""
    videos.write_model(video, folder)
    model = read_model(folder)
    if noise:
        size = noise * np.cbrt(np.linalg.det(video.similarity()[:, :3]))
        points = model.points + np.random.default_rng(3).normal(0, size, model.points.shape)
        model = Model(model.frames, points, model.lens_count, ())
    mattes = {}
    for frame, pose in zip(model.frames, video.poses(), strict=True):
        hit = videos.picture(video, pose)[1]
        mattes[frame.name] = cv2.resize(hit, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return model, locate(Scene(folder, "7", "v"), model, mattes, {}, LOOSE)


def errors(video: Video, found: Found) -> tuple[float, float, float]:
    """Up in degrees; centre and radius as shares of the true box's longest side and radius."""
    low, high, radius = video.bounds()
    world_from_colmap = poses.inverse(video.similarity())
    scale = np.cbrt(np.linalg.det(world_from_colmap[:, :3]))
    up = world_from_colmap[:, :3] @ found.up.direction / scale
    centre = cameras.transform(world_from_colmap, found.box.centre) - (low + high) / 2
    return (
        float(np.rad2deg(np.arccos(np.clip(up[2], -1, 1)))),
        float(np.linalg.norm(centre) / (high - low).max()),
        float(found.box.radius * scale / radius - 1),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_object_is_found(tmp_path: Path, seed: int) -> None:
    video = Video(seed=seed)
    _, found = located(video, tmp_path, noise=0.005)
    up, centre, radius = errors(video, found)
    assert found.up.method == "ground-plane"
    assert up < 0.5  # 300 points with noise of a two-hundredth
    # Masks here are 80 pixels wide and the object in them 30: half a pixel is a sixtieth of it, at either end.
    assert centre < 0.03 and abs(radius) < 0.05


def test_colmaps_world_does_not_matter(tmp_path: Path) -> None:
    """Whatever similarity COLMAP's world has, the object's cameras come out the same."""
    results = []
    for number, turn in enumerate((None, Rotation.from_rotvec([1.0, -2.0, 0.5]).as_matrix() * 7.5)):
        similarity = np.eye(3, 4) if turn is None else np.concatenate([turn, [[3.0], [-5.0], [8.0]]], axis=1)
        folder = tmp_path / str(number)
        folder.mkdir()
        model, found = located(Video(colmap_from_world=similarity), folder)
        front = model.frames[0].world_from_camera[:, 3]
        object_from_colmap = poses.object_from_colmap(found.box, front)
        results.append([poses.moved(object_from_colmap, frame.world_from_camera) for frame in model.frames])
    # RANSAC draws the same triples; the box's turn on the ground is found to single precision.
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)


def test_a_moved_pose_sees_the_same() -> None:
    rng = np.random.default_rng(0)
    similarity = np.concatenate([Rotation.random(random_state=1).as_matrix() * 0.31, rng.normal(size=(3, 1))], axis=1)
    pose, lens = cameras.look_at(np.array([1.0, -3.0, 2.0])), cameras.intrinsics_from_fov(50)
    points = rng.uniform(-1, 1, (20, 3))
    uv, _ = cameras.project(points, pose, lens)
    moved = poses.moved(similarity, pose)
    np.testing.assert_allclose(moved[:, :3].T @ moved[:, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(cameras.project(cameras.transform(similarity, points), moved, lens)[0], uv, atol=1e-12)
    np.testing.assert_allclose(
        cameras.transform(poses.inverse(similarity), cameras.transform(similarity, points)), points
    )


def test_the_first_frame_is_at_azimuth_0_and_the_box_in_the_unit_ball(tmp_path: Path) -> None:
    model, found = located(Video(), tmp_path)
    front = model.frames[0].world_from_camera[:, 3]
    object_from_colmap = poses.object_from_colmap(found.box, front)
    x, y, z = cameras.transform(object_from_colmap, front)
    assert abs(x) < 1e-9 and y < 0 and z > 0
    on_object, _ = Video().points()
    placed = cameras.transform(object_from_colmap, cameras.transform(Video().similarity(), on_object))
    assert 0.93 < np.linalg.norm(placed, axis=1).max() < 1.04


def test_without_a_floor_level_cameras_tell_up(tmp_path: Path) -> None:
    video = Video(floor_points=0)
    _, found = located(video, tmp_path)
    assert found.up.method == "level-cameras" and found.up.ground is None
    assert errors(video, found)[0] < 1.0  # cameras are rolled by up to a degree, each another way


@pytest.mark.parametrize("roll_deg", [90, -90])
@pytest.mark.parametrize("floor_points", [0, 300])
def test_a_video_on_its_side_stands_up(tmp_path: Path, roll_deg: int, floor_points: int) -> None:
    """Phones write portrait videos as landscape frames that lie on their side. Cameras that look down tell which side is up."""
    lens = Lens("SIMPLE_RADIAL", 160, 160, (170.0, 80.0, 80.0, -0.1))
    video = Video(roll_deg=roll_deg, floor_points=floor_points, lens=lens)
    _, found = located(video, tmp_path)
    assert errors(video, found)[0] < 1.5  # cameras are rolled by up to a degree


def test_a_wall_is_no_ground() -> None:
    """Most of the points around lie on a wall behind the object, and the floor is found all the same."""
    video = Video(floor_points=120)
    on_object, floor = video.points()
    rng = np.random.default_rng(5)
    wall = np.column_stack([rng.uniform(-2, 2, 400), np.full(400, 2.0), rng.uniform(-1, 2, 400)])
    frames = tuple(
        Frame(f"{i}", video.lens, pose, np.zeros((0, 2)), np.zeros(0, np.int64)) for i, pose in enumerate(video.poses())
    )
    points = np.concatenate([on_object, floor, wall])
    is_object = np.arange(len(points)) < len(on_object)
    up = poses.up_axis(Model(frames, points, 1, ()), is_object, ~is_object, np.random.default_rng(0))
    assert up.method == "ground-plane"
    assert np.rad2deg(np.arccos(up.direction[2])) < 0.1


def test_a_hull_of_a_cube_is_the_cube() -> None:
    faces = np.concatenate([np.concatenate([np.eye(3), -np.eye(3)]), -np.ones((6, 1))], axis=1)
    corners = poses.convex_hull(faces)
    assert corners is not None
    np.testing.assert_allclose(np.abs(corners), 1, atol=1e-9)
    assert poses.convex_hull(np.concatenate([faces, [[1, 0, 0, 2]]])) is None  # nothing is left
    assert poses.convex_hull(faces[:3]) is None  # open
