"""A user's own cameras: every accepted form round trips, everything else is refused by file, entry and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from render import camera_lists
from render.camera_lists import CameraListError
from render.rigs import Rig, draw, settled
from turntable import cameras
from turntable.errors import UserError

POSE = cameras.look_at(cameras.spherical_position(40, 25, 2.7), np.array([0.1, 0.0, 0.2]), 15.0)
SPOT = {"azimuth_deg": 30, "elevation_deg": 20, "distance": 2.6}


def read(folder: Path, content: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Poses and lenses, through the rig and back out of it."""
    path = folder / "cams.json"
    path.write_text(json.dumps(content))
    rig = settled(Rig(rig="list", cameras=path, fov_deg=45))
    path.unlink()  # whoever draws needs no file
    return [(c.world_from_camera, c.intrinsics) for c in draw(rig, len(rig.listed), 0, "a")]


def test_directions(tmp_path: Path) -> None:
    (one, two) = read(tmp_path, [SPOT, {**SPOT, "fov_deg": 60}])
    assert np.array_equal(one[0], cameras.look_at(cameras.spherical_position(30, 20, 2.6)))
    assert np.allclose(one[1], cameras.intrinsics_from_fov(45)) and np.allclose(two[1], cameras.intrinsics_from_fov(60))


def test_poses_and_intrinsics(tmp_path: Path) -> None:
    lens = [1.1, 1.2, 0.45, 0.55]
    whole = cameras.homogeneous(POSE).tolist()
    for matrix in (POSE.tolist(), whole):
        ((pose, found),) = read(tmp_path, {"cameras": [{"world_from_camera": matrix, "intrinsics": lens}]})
        assert np.allclose(pose, POSE, atol=1e-12) and found.tolist() == lens


def test_frames_of_a_transforms_json(tmp_path: Path) -> None:
    frame = {"transform_matrix": cameras.homogeneous(POSE).tolist(), "file_path": "rgba/000.png"}
    pixels = {"w": 640, "h": 480, "fl_x": 500, "fl_y": 510, "cx": 300, "cy": 250, "k1": 0.0}
    ((pose, lens),) = read(tmp_path, {**pixels, "frames": [frame]})
    assert np.allclose(pose, POSE) and np.allclose(lens, [500 / 640, 510 / 480, 300 / 640, 250 / 480])
    # A frame's own lens counts before the file's.
    ((_, lens),) = read(tmp_path, {**pixels, "frames": [{**frame, "fl_x": 1000, "fl_y": 1000}]})
    assert lens[0] == 1000 / 640
    ((_, lens),) = read(tmp_path, {"camera_angle_x": 0.8, "frames": [frame]})
    assert np.allclose(lens, cameras.intrinsics_from_fov(np.rad2deg(0.8)))


def test_four_decimals_are_good_enough(tmp_path: Path) -> None:
    ((pose, _),) = read(tmp_path, [{"world_from_camera": POSE.round(4).tolist()}])
    assert np.allclose(pose[:, :3].T @ pose[:, :3], np.eye(3), atol=1e-12) and np.allclose(pose, POSE, atol=2e-4)


def bent(change: str) -> Any:
    pose = POSE.copy()
    if change == "scaled":
        pose[:, :3] *= 1.1
    if change == "mirrored":
        pose[:, 0] *= -1
    if change == "far":
        pose[:, 3] *= 1e4
    return {"world_from_camera": pose.tolist()}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7, "an object was expected"),
        ({"azimuth_deg": 3}, "elevation_deg is missing"),
        ({**SPOT, "distance": 0}, "distance must lie"),
        ({**SPOT, "distance": "2"}, "finite number"),
        ({**SPOT, "distance": 10**400}, "finite number"),
        ({**SPOT, "distance": True}, "finite number"),
        ({**SPOT, "elevation_deg": 95}, "elevation_deg must lie"),
        ({**SPOT, "azimuth_deg": float("nan")}, "finite number"),
        ({**SPOT, "fov_deg": 180}, "fov_deg must lie"),
        ({**SPOT, "fov_deg": 179.9}, "focal lengths"),
        ({**SPOT, "intrinsics": [1, 1, 0.5]}, "intrinsics must be"),
        ({**SPOT, "intrinsics": [500, 500, 320, 240]}, "focal lengths divided"),
        ({**SPOT, "intrinsics": [1, 1, 1.5, 0.5]}, "principal point"),
        ({**SPOT, "fl_x": 500}, "w is missing"),
        ({**SPOT, "k1": 0.1}, "distorts"),
        ({"world_from_camera": [[1, 2], [3, 4]]}, "3 or 4 rows of 4"),
        ({"world_from_camera": "eye"}, "3 or 4 rows of 4"),
        ({"world_from_camera": [*POSE.tolist(), [0, 0, 1, 1]]}, "last row"),
        (bent("scaled"), "no rotation"),
        (bent("mirrored"), "mirrors"),
        (bent("far"), "object units from the centre"),
    ],
)
def test_an_entry_that_is_no_camera_is_named(tmp_path: Path, entry: Any, words: str) -> None:
    path = tmp_path / "cams.json"
    path.write_text(json.dumps([SPOT, entry]))
    with pytest.raises(CameraListError) as caught:
        camera_lists.read(path, 45)
    assert f"{path}, camera 1" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1", "[]", "{}", '"a"', '{"frames": 3}', "[" * 100_000])
def test_a_file_that_is_no_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cams.json"
    path.write_text(text)
    with pytest.raises(UserError, match="cams"):
        camera_lists.read(path, 45)
    with pytest.raises(UserError, match="no such file"):
        camera_lists.read(tmp_path / "none.json", 45)
