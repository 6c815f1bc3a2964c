"""An independent reader's view of a capture: its depth, back-projected, lies on the model's surface.

`points_of` shares no code with the project: zipfile, json, numpy and OpenCV read an unzipped capture as nerfstudio's users
would. The surface comes from the original .glb through trimesh and the stored similarity. The same check must fail when the
world is mirrored and when the principal point is off by one pixel.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from render.lights import Lighting, draw
from render.settings import Settings
from render.worker import Job, render_asset
from tests.render.models import bracket

TOLERANCE = 0.005
"""Object units."""
SETTINGS = Settings(views=6, resolution=256, samples=1, denoise=False)
ASYMMETRIC = ("0e399a", "ead492", "74b808")
"""A chair with a writing board on one side, a bunk bed with stairs, an L-shaped sofa."""


def points_of(folder: Path, shift_px: float = 0.0) -> np.ndarray:
    """(N, 3) world points of all interior pixels (they and their 3×3 neighbours hit something) of a capture's folder."""
    scene = json.loads((folder / "transforms.json").read_text())
    points = []
    for frame in scene["frames"]:
        depth = cv2.imread(str(folder / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED) * scene["integer_depth_scale"]
        interior = cv2.erode((depth > 0).astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
        row, column = np.nonzero(interior)
        z = depth[row, column]
        x = (column + 0.5 - frame["cx"] - shift_px) / frame["fl_x"] * z
        y = -(row + 0.5 - frame["cy"]) / frame["fl_y"] * z
        camera = np.stack([x, y, -z, np.ones_like(z)])
        points.append((np.array(frame["transform_matrix"]) @ camera)[:3].T)
    return np.concatenate(points)


def surface_of(asset: Path, folder: Path) -> cKDTree:
    """The original file's surface in object units, by points: at this density none is farther than 0.002 from its neighbours."""
    mesh = trimesh.load(asset, force="mesh", process=False)
    samples, _ = trimesh.sample.sample_surface(mesh, 3_000_000, seed=0)
    blender = samples[:, [0, 2, 1]] * [1, -1, 1]  # glTF's +y up to +z up
    similarity = np.array(
        json.loads((folder / "transforms.json").read_text())["turntable"]["normalisation"]["object_from_asset"]
    )
    return cKDTree(blender @ similarity[:3, :3].T + similarity[:3, 3])


def share_on(surface: cKDTree, points: np.ndarray) -> float:
    return float((surface.query(points, distance_upper_bound=0.1)[0] < TOLERANCE).mean())


def shares(asset: Path, tmp_path: Path) -> dict[str, float]:
    """Share of interior pixels on the surface: as read, with the world mirrored, with the principal point one pixel off."""
    record: dict[str, Any] = {"source": "test"}
    out, folder = tmp_path / "capture.zip", tmp_path / "capture"
    render_asset(Job("abc", asset, out, SETTINGS, record), None, 0, lambda where: None)
    with zipfile.ZipFile(out) as archive:
        archive.extractall(folder)
    surface, points = surface_of(asset, folder), points_of(folder)
    assert len(points) > 5000
    result = {
        "as read": share_on(surface, points),
        "mirrored": share_on(surface, points * [-1, 1, 1]),
        "one pixel off": share_on(surface, points_of(folder, shift_px=1.0)),
    }
    print(asset.stem[:8], {k: f"{v:.4f}" for k, v in result.items()})
    return result


def check(found: dict[str, float]) -> None:
    assert found["as read"] >= 0.99
    assert found["mirrored"] < 0.99
    assert found["one pixel off"] < 0.99


def test_depth_of_a_hand_made_bracket(tmp_path: Path) -> None:
    check(shares(bracket().write(tmp_path / "bracket.glb"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("uid", ASYMMETRIC)
def test_depth_of_real_models(shared: Path, tmp_path: Path, uid: str) -> None:
    (asset,) = (shared / "objaverse").glob(f"glbs/*/{uid}*.glb")
    check(shares(asset, tmp_path))


def test_the_lights_in_the_capture_are_the_ones_drawn(tmp_path: Path) -> None:
    out = tmp_path / "capture.zip"
    settings = Settings(views=1, resolution=32, samples=1)
    render_asset(Job("abc", bracket().write(tmp_path / "a.glb"), out, settings, {}), None, 0, lambda where: None)
    with zipfile.ZipFile(out) as archive:
        stored = json.loads(archive.read("transforms.json"))["turntable"]["lights"]
    assert stored == json.loads(json.dumps(draw(Lighting(), 0, "abc").record()))
