"""Procedural furniture: sound solids, whole and standing pieces, no two alike, the same bytes for the same seed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial import Delaunay

from datasets.catalogue import read_uids
from datasets.furniture.glb import corners, write_glb
from datasets.furniture.materials import Material, cloth, leather, stone, wood
from datasets.furniture.pieces import Draw, Piece
from datasets.furniture.shapes import (
    Solid,
    box,
    circle,
    corner_share,
    cushion,
    filleted,
    lathe,
    pillow,
    prism,
    rectangle,
    sweep,
)
from datasets.objaverse import Objaverse
from datasets.procedural import Kind, Order, ProceduralConfig, orders, write_set
from datasets.selection import Filters
from tests.conftest import ROOT
from turntable.geometry import surface_grid

KINDS: tuple[Kind, ...] = get_args(Kind)
EACH = 12
"""Pieces of a kind that are looked at: more than the styles of any one choice."""

pytest.importorskip("PIL")  # trimesh decodes embedded textures with it


@cache
def made(kind: Kind, number: int) -> Piece:
    return Order(kind, number, seed=0).make()


def joined(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """All parts as one (V, 3), (F, 3)."""
    starts = np.cumsum([0, *(len(solid.vertices) for _, solid in piece.parts)])
    faces = [solid.faces + start for (_, solid), start in zip(piece.parts, starts[:-1], strict=True)]
    return np.concatenate([solid.vertices for _, solid in piece.parts]), np.concatenate(faces)


def grid_of(piece: Piece, resolution: int) -> tuple[np.ndarray, float]:
    """The voxels that a piece's surface passes through, and their size in metres."""
    vertices, faces = joined(piece)
    low, high = vertices.min(0), vertices.max(0)
    longest = (high - low).max()
    return surface_grid((vertices - (low + high) / 2) * (1.98 / longest), faces, resolution), longest / resolution


pieces = pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind in KINDS for number in range(EACH)])


@pieces
def test_every_part_is_watertight_and_faces_outward(kind: Kind, number: int) -> None:
    for material, solid in made(kind, number).parts:
        mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
        assert mesh.is_watertight, material.name
        assert mesh.is_winding_consistent, material.name
        assert mesh.volume > 0, material.name
        assert np.isfinite(solid.vertices).all()


@pieces
def test_nothing_floats(kind: Kind, number: int) -> None:
    """One connected component of surface voxels. Gaps below two voxels, 2 to 3 cm on a bed, less on a chair, are not seen."""
    grid, _ = grid_of(made(kind, number), 160)
    _, components = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    assert components == 1


def test_the_floating_test_can_fail() -> None:
    grid, _ = grid_of(Piece("x", "x", [(Material("m", (1, 1, 1)), box((1, 1, 1)).moved(z=z)) for z in (0, 1.05)]), 160)
    assert ndimage.label(grid, structure=np.ones((3, 3, 3)))[1] == 2


@pieces
def test_it_stands_on_the_ground_and_does_not_fall_over(kind: Kind, number: int) -> None:
    piece = made(kind, number)
    vertices, _ = joined(piece)
    assert vertices[:, 2].min() == pytest.approx(0, abs=1e-12)
    feet = vertices[vertices[:, 2] < 0.002, :2]
    solids = [trimesh.Trimesh(s.vertices, s.faces, process=False) for _, s in piece.parts]
    centre = np.average([s.center_mass[:2] for s in solids], axis=0, weights=[s.volume for s in solids])
    assert Delaunay(feet).find_simplex(centre) >= 0  # within the convex hull of what touches the ground


SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "chair": ((0.38, 0.38, 0.68), (0.75, 0.85, 1.20)),
    "stool": ((0.30, 0.30, 0.40), (0.60, 0.60, 0.82)),
    "table": ((0.38, 0.28, 0.44), (2.15, 1.45, 0.78)),
    "coffee_table": ((0.55, 0.35, 0.33), (1.35, 1.05, 0.47)),
    "desk": ((1.0, 0.5, 0.71), (1.75, 0.8, 1.25)),
    "bookcase": ((0.30, 0.2, 0.3), (2.2, 0.65, 2.35)),
    "bed": ((0.85, 1.9, 0.35), (2.2, 2.5, 2.2)),
    "bunk_bed": ((0.9, 1.9, 1.4), (1.4, 2.3, 2.0)),
    "sofa": ((1.1, 0.8, 0.68), (3.5, 1.75, 1.1)),
    "armchair": ((0.5, 0.75, 0.65), (1.4, 1.15, 1.1)),
}
"""LVIS class -> smallest and largest width, depth and height in metres, from furniture as it is sold."""


@pieces
def test_sizes_are_those_of_furniture(kind: Kind, number: int) -> None:
    piece = made(kind, number)
    low, high = piece.bounds()
    smallest, largest = SIZES[piece.lvis_class]
    assert (high - low >= smallest).all(), (piece.name, high - low)
    assert (high - low <= largest).all(), (piece.name, high - low)
    assert np.allclose((low + high)[:2], 0, atol=1e-9)
    assert len(joined(piece)[1]) < 60_000


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_are_alike(kind: Kind) -> None:
    """Outlines from the front, the side and above, each piece scaled to one size: colour and size do not count.

    Two drawings of one design at 64² overlap by 1; the limits leave room for what must be alike (beds are boxes).
    """
    count = 30
    views = []
    for number in range(count):
        grid, _ = grid_of(made(kind, number), 64)
        views.append(np.concatenate([grid.any(axis).reshape(-1) for axis in range(3)]))
    outlines = np.array(views, dtype=float)
    shared = outlines @ outlines.T
    area = outlines.sum(1)
    overlap = shared / (area[:, None] + area - shared)
    assert (np.diag(overlap) == 1).all()
    np.fill_diagonal(overlap, 0)
    assert overlap.max() < (0.9 if kind == "chair" else 0.985), np.unravel_index(overlap.argmax(), overlap.shape)


def test_every_style_occurs_in_a_small_set() -> None:
    """Choices are balanced: as many pieces as options show each option once."""
    options = list("abcdefg")
    for block in range(3):
        numbers = range(block * len(options), (block + 1) * len(options))
        assert sorted(Draw(3, "chair", n).pick("back", options) for n in numbers) == options
    orders_of = [[Draw(seed, "chair", n).pick("back", options) for n in range(7)] for seed in range(5)]
    assert len({tuple(o) for o in orders_of}) > 1


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datasets.procedural", "--count", "7", "--seed", "5", "--out"]
    done = subprocess.run([*command, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "7 pieces (7 new), 5 to train, 2 held out" in done.stdout
    write_set(ProceduralConfig(tmp_path / "b", count=7, seed=5))
    other = contents(tmp_path / "b")
    mine = {name: digest for name, digest in contents(tmp_path / "a").items() if name != "config.json"}
    assert mine == other
    write_set(ProceduralConfig(tmp_path / "c", count=7, seed=6))
    assert not {n for n in contents(tmp_path / "c") if n.endswith(".glb")} & set(other)


def test_growing_keeps_what_was_there(tmp_path: Path) -> None:
    assert write_set(ProceduralConfig(tmp_path, count=6)) == 6
    glbs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.glb")}
    assert write_set(ProceduralConfig(tmp_path, count=8)) == 2
    assert all(path.stat().st_mtime_ns == at for path, at in glbs.items())
    before = contents(tmp_path)
    next(iter(glbs)).unlink()
    assert write_set(ProceduralConfig(tmp_path, count=8)) == 1
    assert contents(tmp_path) == before


def test_a_folder_never_mixes_two_seeds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datasets.procedural", "--out", str(tmp_path), "--count", "1", "--seed"]
    subprocess.run([*command, "1"], cwd=ROOT, capture_output=True, check=True)
    again = subprocess.run([*command, "2"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2
    assert "seed was 1, is 2" in again.stderr


@pytest.mark.parametrize(
    ("args", "complaint"), [(["--count", "0"], "count must be"), (["--classes", "bed", "bed"], "once")]
)
def test_refused_settings(tmp_path: Path, args: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "datasets.procedural", "--out", str(tmp_path / "x"), *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_piece_does_not_depend_on_what_else_is_made() -> None:
    alone = orders(ProceduralConfig(Path(), count=3, classes=("sofa",)))
    among = [order for order in orders(ProceduralConfig(Path(), count=15)) if order.kind == "sofa"]
    assert [order.uid for order in alone] == [order.uid for order in among]


def test_the_catalogue_reads_it(tmp_path: Path) -> None:
    settings = ProceduralConfig(tmp_path, count=20)
    write_set(settings)
    catalogue = Objaverse(tmp_path, str(tmp_path / "no mirror"))
    uids = catalogue.select(None, Filters(licences=("cc0",)))
    assert len(uids) == 20
    assert all(len(uid) == 32 and set(uid) <= set("0123456789abcdef") for uid in uids)
    assert {catalogue.asset(uid).creator for uid in uids} == {"Turntable"}
    for order in orders(settings):
        assert catalogue.asset(order.uid).lvis_class == order.make().lvis_class
        assert catalogue.fetch(order.uid).read_bytes()[:4] == b"glTF"
    train, held_out = (read_uids(tmp_path / f"splits/{name}.txt") for name in ("train", "heldout"))
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(uids)
    kinds = json.loads((tmp_path / "splits/furniture-classes.json").read_text())
    assert sorted(kinds[uid] for uid in held_out) == sorted(KINDS)


def test_classes_are_those_of_the_real_models(shared: Path) -> None:
    with gzip.open(shared / "objaverse/lvis-annotations.json.gz") as handle:
        assert SIZES.keys() <= json.load(handle).keys()


def test_the_objaverse_package_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objaverse = pytest.importorskip("objaverse")
    write_set(ProceduralConfig(tmp_path, count=5))
    monkeypatch.setattr(objaverse, "_VERSIONED_PATH", str(tmp_path))
    uids = objaverse.load_uids()
    assert len(objaverse.load_objects(uids)) == 5
    assert all(record["license"] == "cc0" for record in objaverse.load_annotations(uids).values())
    assert "bookcase" in objaverse.load_lvis_annotations()


def chunks(glb: bytes) -> tuple[dict, bytes]:
    """The two chunks of a .glb, read by the specification's table."""
    magic, version, length = struct.unpack_from("<4sII", glb)
    assert (magic, version, length) == (b"glTF", 2, len(glb))
    json_length, json_kind = struct.unpack_from("<I4s", glb, 12)
    bin_length, bin_kind = struct.unpack_from("<I4s", glb, 20 + json_length)
    assert (json_kind, bin_kind) == (b"JSON", b"BIN\0")
    assert json_length % 4 == bin_length % 4 == 0
    assert 28 + json_length + bin_length == length
    return json.loads(glb[20 : 20 + json_length]), glb[28 + json_length :]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_sound(kind: Kind) -> None:
    """Every buffer view lies inside and aligned, normals are unit and agree with their faces, coordinates are finite."""
    piece = made(kind, 0)
    document, blob = chunks(write_glb(piece.parts, piece.name))

    def array(index: int) -> np.ndarray:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype, columns = (
            {5126: "<f4", 5125: "<u4"}[accessor["componentType"]],
            {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]],
        )
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= len(blob) == document["buffers"][0]["byteLength"]
        return np.frombuffer(blob, dtype, accessor["count"] * columns, view["byteOffset"]).reshape(-1, columns)

    assert document["materials"]
    for primitive in document["meshes"][0]["primitives"]:
        positions, normals = (array(primitive["attributes"][name]) for name in ("POSITION", "NORMAL"))
        faces = array(primitive["indices"]).reshape(-1, 3)
        assert faces.max() < len(positions)
        bounds = document["accessors"][primitive["attributes"]["POSITION"]]
        assert np.array_equal(positions.min(0), np.float32(bounds["min"]))
        assert np.array_equal(positions.max(0), np.float32(bounds["max"]))
        # Normals are rounded to six digits.
        assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
        face = np.cross(
            positions[faces[:, 1]] - positions[faces[:, 0]], positions[faces[:, 2]] - positions[faces[:, 0]]
        )
        area = np.linalg.norm(face, axis=1)
        # Slivers below a tenth of a square millimetre have no direction worth the name in single precision.
        large = area > 2e-7
        agreement = (normals[faces[large]] * (face / np.maximum(area, 1e-12)[:, None])[large, None]).sum(-1)
        # A corner's normal is a mean over faces within SMOOTH_DEG of its own: it stays on their side.
        assert agreement.min() > 0.3
        if "TEXCOORD_0" in primitive["attributes"]:
            assert np.isfinite(array(primitive["attributes"]["TEXCOORD_0"])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_reader_finds_the_same_piece(kind: Kind) -> None:
    """trimesh: +y up, front at +z, same size, same area, physically based materials, textures that decode."""
    piece = made(kind, 1)
    scene = trimesh.load(io.BytesIO(write_glb(piece.parts, piece.name)), file_type="glb")
    (low_x, low_y, low_z), (high_x, high_y, high_z) = piece.bounds()
    # Positions are single precision rounded to a micrometre.
    assert np.allclose(scene.bounds, [[low_x, low_z, -high_y], [high_x, high_z, -low_y]], atol=2e-6)
    vertices, faces = joined(piece)
    assert scene.area == pytest.approx(trimesh.Trimesh(vertices, faces, process=False).area, rel=1e-4)
    materials = [mesh.visual.material for mesh in scene.geometry.values()]
    assert {m.name for m in materials} == {m.name for m, _ in piece.parts}
    textures = [m.baseColorTexture for m in materials if m.baseColorTexture is not None]
    assert len(textures) == len({m.name for m, _ in piece.parts if m.texture is not None})
    assert all(np.asarray(texture).std() > 1 for texture in textures)


def test_fronts_face_minus_y() -> None:
    """What is leant on lies behind what is sat on."""
    for kind, numbers in (("sofa", range(EACH)), ("chair", range(EACH))):
        for number in numbers:
            piece = made(kind, number)
            if piece.lvis_class == "stool":
                continue
            vertices, _ = joined(piece)
            top = vertices[:, 2] > 0.9 * vertices[:, 2].max()
            assert vertices[top, 1].mean() > 0.02, piece.name


@pytest.mark.parametrize("make", [wood, cloth, leather, stone])
def test_textures_repeat_without_a_seam(make) -> None:
    """The step across the border is no larger than the steps inside."""
    for seed in range(6):
        texture = make(np.random.default_rng(seed)).texture.astype(float)
        for axis in (0, 1):
            steps = np.abs(np.diff(texture, axis=axis)).mean(axis=(1 - axis, 2))
            border = np.abs(np.take(texture, 0, axis) - np.take(texture, -1, axis)).mean()
            assert border <= steps.max() * 1.05 + 1


def test_materials_are_varied_and_physical() -> None:
    seen = {m.name.partition(" (")[0] for kind in KINDS for n in range(EACH) for m, _ in made(kind, n).parts}
    assert {"frame", "seat", "cover", "sheet", "knob"} <= seen
    for kind in KINDS:
        for number in range(EACH):
            for material, _ in made(kind, number).parts:
                assert 0 <= material.metallic <= 1
                assert 0 < material.roughness <= 1
                assert all(0 <= c <= 1 for c in material.colour)


SOLIDS: dict[str, tuple[Solid, float]] = {
    # name -> solid, its volume by formula
    "box": (box((1, 2, 0.5)), 1.0),
    "lathe": (lathe([(0.5, 0), (0.5, 1)], 256), np.pi / 4),
    "cone": (lathe([(0.5, 0), (0.0, 1)], 256), np.pi / 12),
    "prism": (prism(rectangle(1, 0.6), 0.1, edge=0), 0.06),
    "sweep": (sweep([(0, 0, 0), (1, 0, 0)], rectangle(0.1, 0.2)), 0.02),
    "ring": (
        sweep([(np.cos(t), np.sin(t), 0) for t in np.arange(256) * np.pi / 128], circle(0.1, 64), closed=True),
        2 * np.pi**2 * 0.01,
    ),
    "ball": (box((1, 1, 1), 0.5, segments=24), np.pi / 6),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_volumes(name: str) -> None:
    solid, volume = SOLIDS[name]
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert mesh.is_watertight
    # Facets inscribed in curves lose well under 1 % at these counts.
    assert mesh.volume == pytest.approx(volume, rel=0.01)


@pytest.mark.parametrize(
    "solid",
    [
        box((1, 0.2, 0.3), 0.05, 3, 4),
        box((0.02, 0.3, 0.3), 0.5),
        cushion((0.6, 0.5, 0.15)),
        pillow((0.7, 0.4, 0.16)),
        prism(rectangle(0.4, 0.5, 0.05), 0.04, 0.014, dome=0.02),
        sweep(filleted([(0, 0, 0), (0, 0, 1), (0, 1, 1)], 0.1), circle(0.02)),
        sweep(filleted([(0, 0, 0), (0, 0, 1), (0, 1, 1)], 0.1, closed=True), circle(0.02), up=(1, 0, 0), closed=True),
        box((1, 2, 3)).mirrored().turned((0, 0, 1), 40).moved(1, 2, 3),
    ],
)
def test_solids_are_closed(solid: Solid) -> None:
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0


def test_a_rounded_box_keeps_its_size() -> None:
    assert np.allclose(np.ptp(box((1, 0.4, 0.2), 0.05, 2).vertices, axis=0), [1, 0.4, 0.2])


def test_corner_share() -> None:
    assert corner_share(rectangle(2, 1)) == pytest.approx(1)
    # A polygon of 400 sides lies within 0.01 % of its circle.
    assert corner_share(circle(1, 400)) == pytest.approx(np.sqrt(0.5), rel=1e-3)


def test_normals_are_sharp_on_a_box_and_smooth_on_a_cylinder() -> None:
    sharp = corners(box((1, 1, 1)))
    assert len(sharp.positions) == 24
    assert set(map(tuple, np.abs(sharp.normals).round(3).tolist())) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    round_ = corners(lathe([(0.5, 0), (0.5, 1)], 32))
    side = np.abs(round_.normals[:, 2]) < 0.5
    radial = round_.positions[side, :2] / 0.5
    # Exactly radial by symmetry; positions and normals are rounded to six digits.
    assert np.allclose(round_.normals[side, :2], radial, atol=1e-5)


def test_import_is_light() -> None:
    code = "import sys, datasets.procedural; print([m for m in ('torch', 'bpy', 'requests', 'trimesh') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_faces_and_textures_are_counted_as_a_reader_counts_them(tmp_path: Path) -> None:
    write_set(ProceduralConfig(out=tmp_path, count=3, seed=1))
    records = json.loads(gzip.decompress((tmp_path / "metadata" / "000-000.json.gz").read_bytes()))
    for path in tmp_path.rglob("*.glb"):
        scene = trimesh.load(path)
        glb = records[path.stem]["archives"]["glb"]
        # Triangles without area are dropped by the reader, never added.
        assert 0.95 * glb["faceCount"] <= sum(len(part.faces) for part in scene.geometry.values()) <= glb["faceCount"]
        assert glb["textureCount"] >= 0
