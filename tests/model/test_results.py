"""Runs over several pictures: what is written, what is skipped, what a second run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from datasets.captures import CaptureReader
from datasets.objects import Objects
from datasets.verify import verify
from model import pipeline, results
from model import reconstruct as command
from model.checkpoints import save_model
from model.lrm import LRM
from model.photograph import Photograph
from model.pipeline import Failure, Source, SurfaceSettings
from preprocess import captures as preprocess_captures
from tests.conftest import ROOT
from tests.model import foreign
from tests.model.test_reconstruct import SMALL, TYPICAL
from turntable import cameras, geometry
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, EXIT_USAGE, UserError

QUICK = [
    "--resolution",
    "20",
    "--level",
    "0.2",
    "--frames",
    "0",
    "--frame-size",
    "16",
    "--samples",
    "8",
    "--texture",
    "0",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained network. Its density is near exp(-1) throughout the ball, so a level below that gives a body."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    save_model(folder / "model.safetensors", LRM(SMALL), TYPICAL | {"camera_elevation": 15.0})
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of two discs and a text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[:40, :40]
    for name, colour in (("red", (200, 30, 30, 255)), ("blue", (30, 30, 200, 255))):
        rgba = np.zeros((40, 40, 4), np.uint8)
        rgba[np.hypot(x - 20, y - 20) < 12] = colour
        Image.fromarray(rgba).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("none")
    return folder


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
    return command.main()


def test_a_folder_is_reconstructed_once_and_again_only_when_told(pictures, checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    same = [pictures, "--checkpoint", checkpoint, "--out", out, *QUICK]
    assert run(monkeypatch, *same, "--batch", 2) == EXIT_OK
    said = capsys.readouterr()
    assert "2 reconstructed" in said.out and "notes.txt: not a picture" in said.err
    record = json.loads((out / "red" / results.RECORD).read_text())
    assert record["picture"] == "red.png" and record["level"] == 0.2
    assert record["camera"]["elevation_deg"] == 15.0  # what the checkpoint takes as typical
    assert record["watertight"] is True and record["density_maximum"] > 0.2
    assert set(record["seconds"]) >= {"read", "matte", "frame", "planes", "mesh", "texture", "write", "views"}
    before = (out / "red" / "mesh.glb").stat().st_mtime_ns

    assert run(monkeypatch, *same) == EXIT_OK
    assert "0 reconstructed, 2 were there already" in capsys.readouterr().out
    (out / "blue" / "preview.png").unlink()
    assert run(monkeypatch, *same) == EXIT_OK
    assert "1 reconstructed, 1 were there already" in capsys.readouterr().out
    assert (out / "red" / "mesh.glb").stat().st_mtime_ns == before

    other = [*same, "--elevation", "30"]
    assert run(monkeypatch, *other) == EXIT_ITEMS_FAILED
    said = capsys.readouterr()
    assert "elevation was None, is 30.0" in said.err and "--overwrite" in said.err and "other-settings: 2" in said.out
    assert run(monkeypatch, *other, "--overwrite", "--format", "ply") == EXIT_OK
    assert {path.name for path in (out / "red").iterdir()} == {"mesh.ply", "preview.png", results.RECORD}


def test_every_format_opens_and_shows_the_same_shape(pictures, checkpoint, tmp_path, monkeypatch):
    arguments = ["--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK, "--texture", "32"]
    assert run(monkeypatch, pictures / "red.png", *arguments, "--format", "glb", "obj", "ply") == EXIT_OK
    shapes = {kind: trimesh.load(tmp_path / "out" / f"mesh.{kind}", force="mesh") for kind in ("glb", "obj", "ply")}
    record = json.loads((tmp_path / "out" / results.RECORD).read_text())
    assert {len(shape.faces) for shape in shapes.values()} == {record["faces"]}
    # .glb and .obj have +y up, .ply our +z; see model.mesh_files.
    for kind in ("glb", "obj"):
        np.testing.assert_allclose(shapes[kind].extents, shapes["ply"].extents[[0, 2, 1]], atol=1e-4)
    assert {*record["files"]} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_rendered_views_are_a_sound_capture_of_the_mesh(pictures, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, "--out", out, *QUICK, "--views", "3", "--view-size", "24"]
    assert run(monkeypatch, pictures / "red.png", *arguments, "--elevation", "25") == EXIT_OK
    # Another camera, another capture: the old one goes with the results that it belonged to.
    assert run(monkeypatch, pictures / "red.png", *arguments, "--elevation", "20", "--overwrite") == EXIT_OK
    findings = verify(out / "captures")
    assert findings.objects == 1 and findings.views == 3 and findings.damage == []
    stored = Objects(out / "captures").open(0)
    shape = stored.geometry()
    # As for any asset: centred on the bounding box, the farthest point at distance 1.
    assert np.linalg.norm(shape.points, axis=1).max() == pytest.approx(1, abs=0.02)
    # The stored points are the .glb's, once its +y up is ours and the stored transform is applied.
    body = trimesh.load(out / "mesh.glb", force="mesh")
    vertices = np.stack([body.vertices[:, 0], -body.vertices[:, 2], body.vertices[:, 1]], axis=1)
    similarity = np.array(stored.record["normalisation"]["object_from_asset"])
    placed = cameras.transform(similarity, vertices)
    points, _ = geometry.sample_surface(placed, body.faces, 20_000, np.random.default_rng(0))
    # 20,000 samples of a surface of about 12 square units lie 0.02 apart.
    assert cKDTree(points).query(shape.points[::50])[0].max() < 0.1
    # Depth and camera put pixels back onto the surface: a step of depth, and the distance between samples.
    uv = cameras.pixel_centres(24, 24)
    for view in range(3):
        depth = stored.depth(view)
        assert (depth > 0).mean() > 0.2
        seen = cameras.backproject(uv, depth, stored.world_from_camera[view], stored.intrinsics[view])[depth > 0]
        assert cKDTree(points).query(seen)[0].max() < 0.1
        # The field, a faint body, is seen where the mesh is: of 576 pixels some 60 lie on the outline.
        alpha = stored.rgba(view, 24)[..., 3]
        assert ((alpha > 5) != (depth > 0)).mean() < 0.1


def test_captures_become_shards(pictures, checkpoint, tmp_path, monkeypatch):
    arguments = ["--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK, "--views", "2", "--view-size", "24"]
    assert run(monkeypatch, pictures, *arguments) == EXIT_OK
    shards = tmp_path / "shards"
    words = ["captures", "--captures", tmp_path / "out" / "captures", "--out", shards, "--sizes", "24"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    assert preprocess_captures.main() == EXIT_OK
    assert len(Objects(shards)) == 2
    assert Objects(shards).record(0)["source"] == "reconstruction"
    with CaptureReader(next((tmp_path / "out" / "captures").glob("??/*.zip"))) as capture:
        assert capture.record["licence"] == "unknown" and capture.record["name"] in ("red", "blue")


@pytest.mark.parametrize("family", ["openlrm", "triposr"])
def test_published_layouts_go_the_whole_way(family, pictures, tmp_path, monkeypatch, capsys):
    """Random weights: a density near its bias everywhere, in the whole box."""
    folder = getattr(foreign, f"write_{family}")(tmp_path / family)
    out = tmp_path / "out"
    quick = ["--resolution", "20", "--frames", "0", "--frame-size", "16", "--samples", "8", "--texture", "32"]
    same = [pictures / "red.png", "--checkpoint", folder, "--out", out, *quick, "--level", "0.01", "--views", "2"]
    assert run(monkeypatch, *same, "--view-size", "16") == EXIT_OK, capsys.readouterr().err
    record = json.loads((out / results.RECORD).read_text())
    assert record["checkpoint"]["family"].lower() == family
    assert record["camera"]["told_to_network"] is (family == "openlrm")
    assert verify(out / "captures").damage == []
    if family == "triposr":
        with pytest.raises(UserError, match="leave --fov and --distance out"):
            run(monkeypatch, *same, "--fov", "40", "--overwrite")


def test_an_empty_result_says_the_level_that_would_do_and_shows_the_field(
    pictures, checkpoint, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    same = [pictures / "red.png", "--checkpoint", checkpoint, "--out", out, *QUICK]
    assert run(monkeypatch, *same, "--level", "50") == EXIT_USAGE
    complaint = capsys.readouterr().err
    assert "below the level 50" in complaint and "red.png" in complaint
    assert (out / "preview.png").exists() and not (out / results.RECORD).exists()
    proposed = complaint.partition("--level ")[2].split()[0]
    assert run(monkeypatch, *same, "--level", proposed) == EXIT_OK


def test_broken_planes_of_one_picture_are_that_pictures_alone(pictures, checkpoint, tmp_path):
    model = pipeline.load(checkpoint, "cpu")
    rgba = {name: np.asarray(Image.open(pictures / f"{name}.png")) for name in ("red", "blue")}

    # A camera so far that its numbers overflow in the network for this picture alone is hard to come by; a hook is honest about
    # what it does: the network itself answers NaN for the second picture of the batch.
    def broken(module, arguments, output):
        output = output.clone()
        output[1] = torch.nan
        return output

    handle = model.lrm.upsampler.register_forward_hook(broken)
    found = list(
        pipeline.reconstruct(
            model,
            [Source(name, rgba[name]) for name in ("red", "blue")],
            Photograph(),
            SurfaceSettings(20, 0.2, texture=0),
            batch=2,
        )
    )
    handle.remove()
    assert not isinstance(found[0], Failure)
    assert isinstance(found[1], Failure) and found[1].reason == "not-finite" and found[1].planes is None


def test_a_batch_gives_what_pictures_one_by_one_give(pictures, checkpoint):
    model = pipeline.load(checkpoint, "cpu")
    named = [Source(name, pictures / f"{name}.png") for name in ("red", "blue")]
    settings = SurfaceSettings(20, 0.2, texture=0)
    single, batched = (list(pipeline.reconstruct(model, named, settings=settings, batch=n)) for n in (1, 2))
    for one, other in zip(single, batched, strict=True):
        # Matrix products of another shape may add up in another order.
        torch.testing.assert_close(one.planes, other.planes, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_interrupted_leaves_no_half_file_and_continues(pictures, checkpoint, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "model.reconstruct", pictures, "--checkpoint", checkpoint, "--out", out, *QUICK]
    words = [*map(str, words), "--frames", "2000"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*/.turntable.mp4.tmp")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 130, process.stderr.read()
    assert not list(out.rglob("*.tmp")) and not list(out.rglob(results.RECORD)) and not list(out.rglob("*.mp4"))
    assert list(out.rglob("mesh.glb"))  # what was finished is whole


def test_an_old_record_that_is_no_json_is_named(tmp_path):
    (tmp_path / results.RECORD).write_text("{")
    with pytest.raises(UserError, match=r"reconstruction\.json: not valid JSON"):
        results.is_complete(tmp_path, tmp_path, results.Identity("a", "b", {}))


def test_a_record_cannot_have_files_elsewhere_removed(tmp_path):
    keep = tmp_path / "keep.txt"
    keep.touch()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / results.RECORD).write_text(
        json.dumps({"files": ["../keep.txt", str(keep), "mesh.glb"], "capture": "../keep.txt"})
    )
    (folder / "mesh.glb").touch()
    os.symlink(tmp_path, folder / "link")  # noqa: PTH211
    results.clear(folder, folder)
    assert keep.exists() and not (folder / "mesh.glb").exists()


@pytest.mark.parametrize(("hole", "watertight"), [(False, True), (True, False)])
def test_watertight_is_told_by_edges(hole, watertight):
    box = trimesh.creation.box()
    assert results.is_watertight(box.faces[1:] if hole else box.faces) is watertight
