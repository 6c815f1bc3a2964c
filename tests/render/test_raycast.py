"""A capture's passes against an independent ray caster, on real models without normal maps.

The capture is read by zipfile, json and OpenCV alone; the surface is the original .glb through trimesh and the stored similarity;
the rays are Embree's. The same check with the camera half a pixel off must fail.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from render.settings import Settings
from render.worker import Job, render_asset

SIZE = 128
PASSES = ("rgba", "depth", "normal", "position", "mask")
MODELS = ("00f0d3", "1de47b", "452d39", "86ccf3", "8b225a")
"""A sofa, a grand piano, a dog, a bowl, a folding chair: opaque, one surface normal a vertex, no normal maps."""
MOST_DEPTH_ERROR = 1e-3
"""Relative, of nineteen pixels in twenty. A pixel at an outline may see one surface or the other: rays are float32 in both."""
LEAST_IOU = 0.995
MOST_NORMAL_ERROR_DEG = 2.0
"""The median's. Normals are stored in 8 bits: half a step is 0.2°."""
MOST_POSITION_ERROR = 1e-3
"""Object units, of any pixel: half a step of depth is 3e-5, of position 1.7e-5."""


@dataclass(frozen=True)
class Found:
    """How far a capture is from what the rays say."""

    depth_error: float
    """95th percentile, relative."""
    iou: float
    """Of the masks, all views together."""
    normal_error_deg: float
    """Median."""
    position_error: float
    """Largest distance between `position` and what depth and camera make of the pixel, object units."""

    @property
    def agrees(self) -> bool:
        return (
            self.depth_error <= MOST_DEPTH_ERROR
            and self.iou >= LEAST_IOU
            and self.normal_error_deg <= MOST_NORMAL_ERROR_DEG
            and self.position_error <= MOST_POSITION_ERROR
        )


def surface(asset: Path, object_from_asset: np.ndarray) -> trimesh.Trimesh:
    """The file's surface in object units, with its own vertex normals."""
    scene = trimesh.load(asset, force="scene", process=False)
    materials = [getattr(part.visual, "material", None) for part in scene.geometry.values()]
    assert not any(getattr(material, "normalTexture", None) for material in materials), "has a normal map"
    vertices, normals, faces = [], [], []
    upright = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # glTF's +y up to +z up
    for name in scene.graph.nodes_geometry:
        asset_from_part, key = scene.graph[name]
        part = scene.geometry[key]
        faces.append(part.faces + sum(len(v) for v in vertices))
        vertices.append(trimesh.transform_points(part.vertices, asset_from_part) @ upright.T)
        normals.append(part.vertex_normals @ np.linalg.inv(asset_from_part[:3, :3]) @ upright.T)
    corners = trimesh.transform_points(np.concatenate(vertices), object_from_asset)
    return trimesh.Trimesh(corners, np.concatenate(faces), vertex_normals=np.concatenate(normals), process=False)


def cast(mesh: trimesh.Trimesh, frame: dict, shift_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Planar depth (H, W), 0 where nothing is hit, and interpolated normals (H, W, 3), both by rays through pixel centres."""
    height, width = frame["h"], frame["w"]
    row, column = np.mgrid[:height, :width]
    x = (column + 0.5 + shift_px - frame["cx"]) / frame["fl_x"]
    y = -(row + 0.5 - frame["cy"]) / frame["fl_y"]
    pose = np.array(frame["transform_matrix"])
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)  # planar depth is the length along such a ray
    directions = rays @ pose[:3, :3].T
    origins = np.broadcast_to(pose[:3, 3], directions.shape)
    caster = trimesh.ray.ray_pyembree.RayMeshIntersector(mesh)
    triangle, ray, points = caster.intersects_id(origins, directions, multiple_hits=False, return_locations=True)
    depth, normal = np.zeros(len(rays)), np.zeros((len(rays), 3))
    depth[ray] = ((points - pose[:3, 3]) @ -pose[:3, 2]).ravel()
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], points)
    normal[ray] = (mesh.vertex_normals[mesh.faces[triangle]] * weights[..., None]).sum(axis=1)
    behind = (mesh.face_normals[triangle] * directions[ray]).sum(axis=1) > 0
    normal[ray[behind]] *= -1  # a face seen from behind shows the normal of its back
    return depth.reshape(height, width), normal.reshape(height, width, 3)


def compare(asset: Path, folder: Path, shift_px: float = 0.0) -> Found:
    """An unzipped capture against rays from its cameras, or from cameras that look `shift_px` pixels to the side."""
    scene = json.loads((folder / "transforms.json").read_text())
    mesh = surface(asset, np.array(scene["turntable"]["normalisation"]["object_from_asset"]))
    depth_errors, normal_errors, position_errors = [], [], []
    both = either = 0
    for frame in scene["frames"]:
        read = {name: cv2.imread(str(folder / frame[f"{name}_file_path"]), cv2.IMREAD_UNCHANGED) for name in PASSES[1:]}
        depth, mask = read["depth"] * scene["integer_depth_scale"], read["mask"] == 255
        expected, expected_normal = cast(mesh, frame, shift_px)
        both, either = both + (mask & (expected > 0)).sum(), either + (mask | (expected > 0)).sum()
        seen = mask & (expected > 0)
        depth_errors.append(abs(depth[seen] / expected[seen] - 1))
        normal, wanted = read["normal"][seen][:, ::-1] / 127.5 - 1, expected_normal[seen]
        lengths = np.linalg.norm(normal, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = (normal * wanted).sum(axis=1) / lengths
        normal_errors.append(np.rad2deg(np.arccos(cosine.clip(0, 1))))
        position_errors.append(_position_errors(scene, frame, depth, mask, read["position"]))
    return Found(
        float(np.quantile(np.concatenate(depth_errors), 0.95)),
        both / either,
        float(np.median(np.concatenate(normal_errors))),
        float(np.concatenate(position_errors).max()),
    )


def _position_errors(scene: dict, frame: dict, depth: np.ndarray, mask: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    stated = encoded[mask][:, ::-1] * scene["integer_position_scale"] + scene["integer_position_offset"]
    row, column = np.nonzero(mask)
    z = depth[mask]
    x, y = (column + 0.5 - frame["cx"]) / frame["fl_x"] * z, -(row + 0.5 - frame["cy"]) / frame["fl_y"] * z
    world = np.array(frame["transform_matrix"]) @ np.stack([x, y, -z, np.ones_like(z)])
    return np.linalg.norm(world[:3].T - stated, axis=1)


@pytest.mark.parametrize("uid", MODELS)
def test_passes_agree_with_an_independent_ray_caster(shared: Path, tmp_path: Path, uid: str) -> None:
    asset = next((shared / "objaverse" / "glbs").glob(f"*/{uid}*.glb"))
    settings = Settings(views=2, resolution=SIZE, samples=1, denoise=False, passes=PASSES)  # type: ignore[arg-type]
    render_asset(Job(uid, asset, tmp_path / "capture.zip", settings, {}), None, 0, lambda where: None)
    with zipfile.ZipFile(tmp_path / "capture.zip") as archive:
        archive.extractall(tmp_path / "capture")
    found = compare(asset, tmp_path / "capture")
    print(uid, found)
    assert found.agrees, found
    off = compare(asset, tmp_path / "capture", shift_px=0.5)
    print(uid, "half a pixel off", off)
    assert not off.agrees and off.depth_error > MOST_DEPTH_ERROR and off.iou < LEAST_IOU, off
