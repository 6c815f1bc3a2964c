"""Small object videos in MVImgNet's layout, ray-cast through distorting lenses: every pixel and point is known from a formula."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from preprocess.colmap import Lens
from tests.datasets import synthetic
from turntable import cameras

NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5}
"""COLMAP's camera models by their numbers in cameras.bin, from its documentation."""


LENS = Lens("SIMPLE_RADIAL", 160, 120, (170.0, 80.0, 60.0, -0.12))


@dataclass(frozen=True)
class Video:
    """What a video is made of."""

    seed: int = 1
    views: int = 14
    lens: Lens = LENS
    colmap_from_world: np.ndarray | None = None
    """(3, 4) similarity; None: one drawn from the seed."""
    arc_deg: float = 200.0
    """How far the cameras go around."""
    roll_deg: float = 0.0
    """How the camera is turned about its axis: 90 for a video on its side."""
    floor_points: int = 300
    object_points: int = 300
    mask_scale: float = 0.5
    """Size of the masks over that of the frames."""

    def similarity(self) -> np.ndarray:
        """(3, 4) colmap_from_world."""
        if self.colmap_from_world is not None:
            return self.colmap_from_world
        rng = np.random.default_rng([self.seed, 5])
        rotation = Rotation.random(random_state=self.seed).as_matrix() * rng.uniform(0.3, 4)
        return np.concatenate([rotation, rng.normal(0, 3, (3, 1))], axis=1)

    def poses(self) -> list[np.ndarray]:
        """world_from_camera, (3, 4) each."""
        rng = np.random.default_rng([self.seed, 6])
        found = []
        for view in range(self.views):
            azimuth = self.arc_deg * view / max(self.views - 1, 1)
            position = cameras.spherical_position(azimuth, rng.uniform(8, 35), rng.uniform(3.6, 4.2))
            aim = rng.uniform(-0.05, 0.05, 3)
            found.append(cameras.look_at(position, aim, roll_deg=self.roll_deg + rng.uniform(-1, 1)))
        return found

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) points on the object, (M, 3) on the floor, in the world."""
        rng = np.random.default_rng([self.seed, 7])
        scene = synthetic.scene(self.seed)
        on_object = synthetic.surface(scene, rng, 2 * self.object_points)[0][: self.object_points]
        floor = rng.uniform(-2.5, 2.5, (self.floor_points, 3))
        floor[:, 2] = scene.box_centre[2] - scene.half_extent[2]
        return on_object, floor

    def bounds(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Low and high corner of the object's box (3,), and its farthest point's distance from the box's middle."""
        scene = synthetic.scene(self.seed)
        low = np.minimum(scene.box_centre - scene.half_extent, scene.ball_centre - scene.ball_radius)
        high = np.maximum(scene.box_centre + scene.half_extent, scene.ball_centre + scene.ball_radius)
        middle = (low + high) / 2
        far = np.abs(scene.box_centre - middle) + scene.half_extent
        ball = np.linalg.norm(scene.ball_centre - middle) + scene.ball_radius
        return low, high, float(max(np.linalg.norm(far), ball))


def write(video: Video, root: Path, label: str = "7", instance: str = "v1") -> Path:
    """Writes frames, masks and model; gives the scene's folder."""
    folder, masks = root / label / instance, root / "mask" / label / instance
    for made in (folder / "images", folder / "sparse" / "0", masks):
        made.mkdir(parents=True)
    for number, pose in enumerate(video.poses()):
        colour, hit = picture(video, pose)
        Image.fromarray(colour).save(folder / "images" / f"{number:03}.jpg", quality=97)
        size = round(video.lens.width * video.mask_scale), round(video.lens.height * video.mask_scale)
        mask = cv2.resize(hit, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(masks / f"{number:03}.jpg.png"), mask)
    write_model(video, folder / "sparse" / "0")
    return folder


def picture(video: Video, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 as the lens takes it and (H, W) uint8, 255 where the object is."""
    lens = video.lens
    pixels = cameras.pixel_centres(lens.width, lens.height).reshape(-1, 2) * [lens.width, lens.height]
    ahead = np.concatenate([lens.slopes(pixels), np.ones((len(pixels), 1))], axis=1)
    directions = ahead @ cameras.OPENGL_FROM_OPENCV @ pose[:, :3].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hit, _, _, colour = synthetic.cast(synthetic.scene(video.seed), np.tile(pose[:, 3], (len(pixels), 1)), directions)
    shown = np.where(hit[:, None], colour, 0.4)
    return _square(shown, lens), _square(hit[:, None], lens)[..., 0]


def _square(values: np.ndarray, lens: Lens) -> np.ndarray:
    return np.round(values * 255).astype(np.uint8).reshape(lens.height, lens.width, -1)


def write_model(video: Video, folder: Path) -> None:
    """The three files of COLMAP's binary format."""
    similarity = video.similarity()
    scale = np.cbrt(np.linalg.det(similarity[:, :3]))
    points = cameras.transform(similarity, np.concatenate(video.points()))
    lens = video.lens
    header = struct.pack("<QIiQQ", 1, 1, NUMBERS[lens.model], lens.width, lens.height)
    (folder / "cameras.bin").write_bytes(header + struct.pack(f"<{len(lens.parameters)}d", *lens.parameters))
    images, tracks = [struct.pack("<Q", video.views)], [[] for _ in points]
    for number, pose in enumerate(video.poses()):
        rotation = similarity[:, :3] @ pose[:, :3] / scale @ cameras.OPENGL_FROM_OPENCV
        position = cameras.transform(similarity, pose[:, 3])
        x, y, z, w = Rotation.from_matrix(rotation.T).as_quat()
        seen = (points - position) @ rotation
        pixels = lens.pixels(seen[:, :2] / seen[:, 2:])
        inside = np.flatnonzero((seen[:, 2] > 0) & (pixels >= 0).all(1) & (pixels < [lens.width, lens.height]).all(1))
        name = f"{number:03}.jpg".encode() + b"\0"
        images.append(struct.pack("<I7dI", number + 1, w, x, y, z, *(-rotation.T @ position), 1) + name)
        images.append(struct.pack("<Q", len(inside)))
        for place, row in enumerate(inside):
            images.append(struct.pack("<ddq", *pixels[row], row + 1))
            tracks[row].append((number + 1, place))
    (folder / "images.bin").write_bytes(b"".join(images))
    kept = [row for row, track in enumerate(tracks) if track]
    parts = [struct.pack("<Q", len(kept))]
    for row in kept:
        parts.append(struct.pack("<Q3d3BdQ", row + 1, *points[row], 9, 9, 9, 0.5, len(tracks[row])))
        parts += [struct.pack("<II", *each) for each in tracks[row]]
    (folder / "points3D.bin").write_bytes(b"".join(parts))
