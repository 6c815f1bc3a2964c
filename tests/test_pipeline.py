"""The whole way in miniature, through the commands a user types."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trimesh

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a minute or two; many times that on a crowded machine


def command(*words: object) -> str:
    """Runs `python -m …` from the checkout; its output. A failure shows what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_assets_to_mesh(tmp_path: Path) -> None:
    assets, captures, shards, run = (tmp_path / name for name in ("assets", "captures", "shards", "run"))
    command("datasets.procedural", "--out", assets, "--count", 5, "--seed", 1)
    uids = assets / "splits" / "train.txt"
    render = ("render.objaverse", "--cache", assets, "--uids", uids, "--gpus", 0, "--out", captures)
    command(*render, "--views", 5, "--resolution", 64, "--samples", 4)
    command("preprocess.captures", "--captures", captures, "--out", shards)
    command("datasets.verify", captures)
    command("datasets.verify", shards)
    command("datasets.show", shards, "--out", tmp_path / "sheet.png")
    train = ("train.lrm", "--shards", shards, "--out", run, "--steps", 30, "--rays", 64, "--samples", 8)
    command(*train, "--render-size", 64, "--input-view", 0, "--threads", 1)
    # 30 steps leave a fog: a low level gives it a surface.
    judged = tmp_path / "judged.txt"
    judged.write_text("\n".join(uids.read_text().split()[:2]) + "\n")
    judge = ("train.evaluate", "--checkpoint", run, "--shards", shards, "--uids", judged, "--out", tmp_path / "report")
    out = command(*judge, "--size", 32, "--samples", 16, "--resolution", 32, "--level", 0.01)
    assert "nearest training object" in out
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert figures["summary"]["rows"]["model"]["psnr"]["mean"] > 3
    uid = uids.read_text().split()[0]
    with zipfile.ZipFile(captures / uid[:2] / f"{uid}.zip") as archive:
        photo = archive.extract("rgba/000.png", tmp_path)
    reconstruct = ("model.reconstruct", photo, "--checkpoint", run, "--out", tmp_path / "mesh")
    command(*reconstruct, "--resolution", 48, "--level", 0.01)
    mesh = trimesh.load(tmp_path / "mesh" / "mesh.glb", force="mesh")
    assert len(mesh.faces) > 100
    assert (tmp_path / "mesh" / "turntable.mp4").stat().st_size > 1000
    assert (tmp_path / "mesh" / "preview.png").exists()
