"""Readers of exported folders that follow other programs' code, not ours: their file names, their float32, their axes.

Nothing of `turntable` or `datasets` is used here, so that a mistake of ours is not repeated.

- OpenLRM: openlrm/datasets/objaverse.py, base.py and cam_utils.py of 3DTopia/OpenLRM, and its ray sampler, which numbers
  pixels by (column + 0.5) / resolution and turns camera axes by diag(1, -1, -1) before it shoots OpenCV rays.
- nerfstudio: nerfstudio_dataparser.py (the lens from the top of the file if it stands there, else of each frame; frames
  sorted by name) and cameras.py (rays (x - cx) / fx, -(y - cy) / fy, -1 for x = column + 0.5).
- instant-ngp: nerf_loader.cu (the top of the file first, then each frame over it; principal point over w and h).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ForeignView:
    """One view as another program has it."""

    pixels_from_world: np.ndarray
    """(3, 4) float32 projection matrix: world points -> homogeneous pixel coordinates, the first pixel's centre at 0.5."""
    picture: Path

    def rgba(self) -> np.ndarray:
        """(H, W, 4) uint8."""
        return np.array(Image.open(self.picture))

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N, 2) pixels."""
        homogeneous = np.c_[points, np.ones(len(points))] @ self.pixels_from_world.T.astype(np.float64)
        return homogeneous[:, :2] / homogeneous[:, 2:]


def _projection(fx: float, fy: float, cx: float, cy: float, opengl_pose: np.ndarray) -> np.ndarray:
    """P = K [R | t] for OpenCV axes, from a 4×4 camera-to-world in OpenGL axes."""
    world_from_opencv = opengl_pose.astype(np.float64) @ np.diag([1.0, -1, -1, 1])
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return k @ np.linalg.inv(world_from_opencv)[:3]


def read_openlrm(root: Path, uid: str, views: int) -> list[ForeignView]:
    """The first `views` views, as OpenLRM numbers them."""
    assert uid in json.loads((root / "uids.json").read_text())
    table = np.load(root / uid / "intrinsics.npy").astype(np.float32)
    assert table.shape == (3, 2)
    (fx, fy), (cx, cy), (width, height) = table
    result = []
    for view in range(views):
        rt = np.load(root / uid / "pose" / f"{view:03d}.npy").astype(np.float32)
        assert rt.shape == (3, 4)
        pose = np.concatenate([rt, np.array([[0, 0, 0, 1]], np.float32)])
        # Its cameras are normalised by the table's width and height; pictures are then read at any size.
        normalised = np.float32([fx / width, fy / height, cx / width, cy / height])
        path = root / uid / "rgba" / f"{view:03d}.png"
        rgba = np.array(Image.open(path))
        assert rgba.shape[2] == 4, "its blending takes channel 3 for alpha"
        size = np.array([rgba.shape[1], rgba.shape[0]] * 2)
        result.append(ForeignView(_projection(*(normalised * size), pose), path))
    return result


def read_nerfstudio(folder: Path) -> list[ForeignView]:
    """The views sorted by file name."""
    meta = json.loads((folder / "transforms.json").read_text())
    assert meta["camera_model"] in ("OPENCV", "PINHOLE")
    result = []
    for frame in sorted(meta["frames"], key=lambda f: f["file_path"]):
        lens = [np.float32(meta[key] if key in meta else frame[key]) for key in ("fl_x", "fl_y", "cx", "cy")]
        assert all(float(meta.get(k, 0)) == float(frame.get(k, 0)) == 0 for k in ("k1", "k2", "k3", "p1", "p2"))
        pose = np.array(frame["transform_matrix"], dtype=np.float32)
        path = folder / frame["file_path"]
        with Image.open(path) as picture:
            assert picture.size == (int(meta.get("w", frame["w"])), int(meta.get("h", frame["h"])))
        result.append(ForeignView(_projection(*lens, pose), path))
    return result


def read_instant_ngp(folder: Path) -> list[ForeignView]:
    """The same by instant-ngp's rules."""
    meta = json.loads((folder / "transforms.json").read_text())
    result = []
    for frame in meta["frames"]:
        path = folder / frame["file_path"]
        with Image.open(path) as picture:
            width, height = picture.size
        lens, principal = {"x": 0.0, "y": 0.0}, [0.5, 0.5]
        for source in (meta, frame):
            lens |= {axis: source[f"fl_{axis}"] for axis in lens if f"fl_{axis}" in source}
            principal[0] = source["cx"] / source["w"] if "cx" in source else principal[0]
            principal[1] = source["cy"] / source["h"] if "cy" in source else principal[1]
        pose = np.array(frame["transform_matrix"], dtype=np.float32)
        centre = np.float32([principal[0] * width, principal[1] * height])
        if "depth_path" in frame:
            with Image.open(folder / frame["depth_path"]) as depth:
                assert depth.size == (width, height), "it stops at a depth picture of another size"
        result.append(ForeignView(_projection(lens["x"], lens["y"], *centre, pose), path))
    return result


def read_ply(path: Path) -> np.ndarray:
    """(N, 6) float32: x, y, z, nx, ny, nz of a binary PLY with just these."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property float")]
    assert names == ["x", "y", "z", "nx", "ny", "nz"]
    return np.frombuffer(body, "<f4").reshape(-1, 6)
