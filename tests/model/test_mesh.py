"""Surfaces of fields that are known in closed form, and the .glb read by trimesh and by hand."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from model import mesh, mesh_files, occupancy
from model.mesh import EmptyMeshError, Mesh
from turntable import cameras, geometry

PLANES = torch.zeros(1, 3, 1, 16, 16)


@dataclass
class Blob:
    """Density that is `level` on an ellipsoid and grows inward by a factor e every `softness`."""

    centre: tuple[float, float, float] = (0.1, -0.05, 0.2)
    radii: tuple[float, float, float] = (0.6, 0.3, 0.45)
    softness: float = 0.02
    level: float = mesh.DEFAULT_LEVEL
    evaluated: int = 0

    def project(self, planes: Tensor, density_only: bool = False) -> None:
        return None

    def evaluate_density(self, table: None, points: Tensor, owners: int) -> Tensor:
        self.evaluated += len(points)
        reach = ((points - torch.tensor(self.centre)) / torch.tensor(self.radii)).norm(dim=-1)
        return self.level * torch.exp((1 - reach) * min(self.radii) / self.softness)

    def evaluate(self, table: None, points: Tensor, owners: int) -> tuple[Tensor, Tensor]:
        return self.evaluate_density(table, points, owners), (points + 1) / 2


def shape(surface: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.faces)


@pytest.mark.parametrize("resolution", [48, 96])
def test_an_ellipsoid_comes_out_closed_where_it_is_and_facing_outward(resolution):
    blob = Blob()
    surface = mesh.extract(blob, PLANES, resolution)
    body = shape(surface)
    assert body.is_watertight and body.is_winding_consistent
    # A voxel's chord cuts less than a tenth of it off.
    reach = np.linalg.norm((surface.vertices - blob.centre) / blob.radii, axis=1)
    assert np.abs(reach - 1).max() * min(blob.radii) < 0.1 * 2 / resolution
    assert body.volume == pytest.approx(4 / 3 * np.pi * np.prod(blob.radii), rel=0.02)
    outward = (surface.vertices - blob.centre) / np.square(blob.radii)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    # The centred differences of marching cubes turn normals by a few degrees.
    assert (surface.normals() * outward).sum(axis=1).min() > 0.95
    np.testing.assert_allclose(surface.colours, (surface.vertices + 1) / 2, atol=1e-6)


def test_coarse_to_fine_finds_the_dense_surface_with_a_fraction_of_the_points():
    blob, dense = Blob(softness=0.02), Blob(softness=0.02)
    fine = mesh.density_grid(blob, PLANES, 128, blob.level)
    everything = (
        dense.evaluate_density(None, torch.from_numpy(geometry.voxel_centres(128)), 0).view(128, 128, 128).numpy()
    )
    assert blob.evaluated < 0.25 * 128**3
    near = (everything > 0.5 * blob.level) & (everything < 1.5 * blob.level)
    np.testing.assert_array_equal(fine[near], everything[near])
    np.testing.assert_array_equal(fine > blob.level, everything > blob.level)


def test_a_body_cut_by_the_wall_is_closed_there():
    surface = mesh.extract(Blob(centre=(0.0, 0.0, 0.9)), PLANES, 64)
    assert shape(surface).is_watertight
    assert surface.vertices[:, 2].max() <= 1
    assert np.abs(surface.vertices).max() <= 1


def test_chunks_do_not_change_the_mesh():
    whole, pieces = (mesh.extract(Blob(), PLANES, 32, chunk=chunk) for chunk in (10**6, 777))
    np.testing.assert_array_equal(whole.vertices, pieces.vertices)
    np.testing.assert_array_equal(whole.faces, pieces.faces)
    np.testing.assert_array_equal(whole.colours, pieces.colours)


def test_the_solid_of_the_mesh_is_the_solid_of_the_ellipsoid():
    """The measure that training is judged by."""
    blob = Blob()
    surface = mesh.extract(blob, PLANES, 128)
    centres = geometry.voxel_centres(64)
    truth = (np.linalg.norm((centres - blob.centre) / blob.radii, axis=1) < 1).reshape(64, 64, 64)
    # The rule counts voxels that the surface only touches; the truth here counts centres.
    assert geometry.iou(geometry.coarsen(geometry.solid_grid(surface.vertices, surface.faces), 64), truth) > 0.85


def test_an_empty_result_says_how_dense_the_field_is():
    with pytest.raises(EmptyMeshError, match=r"reaches 0\.00\d+ at most, below the level 10; --level 0\.0\d+ would"):
        mesh.extract(Blob(level=1e-3, softness=0.3), PLANES, 32)
    with pytest.raises(ValueError, match="above 0, got 0"):
        mesh.extract(Blob(), PLANES, 32, level=0)


def test_occupied_voxels_hold_all_the_density_that_matters():
    blob = Blob()
    grid = occupancy.occupied(blob, PLANES, 64, threshold=0.2).grid.numpy().reshape(-1)
    density = blob.evaluate_density(None, torch.from_numpy(geometry.voxel_centres(64)), 0).numpy()
    assert grid[density > 0.2].all()
    assert grid.mean() < 0.3


def test_a_turned_mesh_keeps_its_faces_outward():
    pose = cameras.look_at(np.array([1.0, -2.0, 0.5]))
    surface = mesh.extract(Blob(), PLANES, 32)
    moved = mesh.transformed(surface, pose)
    assert shape(moved).volume == pytest.approx(shape(surface).volume, rel=1e-5)
    np.testing.assert_allclose(moved.vertices, cameras.transform(pose, surface.vertices.astype(float)), atol=1e-6)


@pytest.fixture
def pyramid() -> Mesh:
    """Base z = 0, tip up (+z); the vertex at the front (-y) dark red, at the right (+x) mid green."""
    vertices = np.array([[0.5, 0, 0], [0, 0.5, 0], [-0.5, 0, 0], [0, -0.5, 0], [0, 0, 0.8]], np.float32)
    faces = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [0, 3, 2], [0, 2, 1]])
    colours = np.array([[0, 0.5, 0], [1, 1, 1], [0, 0, 0], [0.02, 0, 0], [1, 1, 0]], np.float32)
    return Mesh(vertices, faces, colours)


def test_the_glb_opens_with_its_up_along_y_and_its_front_along_z(pyramid, tmp_path):
    mesh_files.write(tmp_path / "a.glb", pyramid)
    loaded = trimesh.load(tmp_path / "a.glb", force="mesh")
    assert loaded.is_watertight and loaded.volume > 0
    # glTF 2.0, 3.4: +y up, +z forward, so a viewer that looks along -z sees our front with our +x at its right.
    expected = [[0.5, 0, 0], [0, 0, -0.5], [-0.5, 0, 0], [0, 0, 0.5], [0, 0.8, 0]]
    np.testing.assert_allclose(loaded.vertices, expected, atol=1e-6)


def read_glb(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON and the first primitive's attributes, by the specification's byte layout and nothing else."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    json_length, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    tree = json.loads(data[20 : 20 + json_length])
    binary = data[20 + json_length + 8 :]
    arrays = {}
    for name, index in tree["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = tree["accessors"][index]
        assert accessor["componentType"] == 5126
        start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"] + accessor.get("byteOffset", 0)
        width = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
        values = np.frombuffer(binary, np.float32, accessor["count"] * width, start)
        arrays[name] = values.reshape(-1, width)
    return tree, arrays


def test_the_glb_holds_linear_colours_unrounded_normals_and_a_matt_material(pyramid, tmp_path):
    mesh_files.write(tmp_path / "a.glb", pyramid)
    tree, arrays = read_glb(tmp_path / "a.glb")
    # IEC 61966-2-1: 0.5 is 0.21404 linear; 0.02 is on the straight part, 0.02 / 12.92.
    assert arrays["COLOR_0"][0, :3].tolist() == pytest.approx([0, 0.21404, 0], abs=1e-5)
    assert arrays["COLOR_0"][3, :3].tolist() == pytest.approx([0.02 / 12.92, 0, 0], rel=1e-5)
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=1e-5)
    assert arrays["NORMAL"][4].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    primitive = tree["meshes"][0]["primitives"][0]
    assert tree["materials"][primitive["material"]]["pbrMetallicRoughness"]["metallicFactor"] == 0
