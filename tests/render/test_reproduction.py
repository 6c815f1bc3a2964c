"""What a capture records is enough to reproduce its cameras and lights, without the files that its command named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from datasets.captures import CaptureReader, capture_path
from render import lights, rigs
from render.settings import Settings
from tests.conftest import ROOT
from tests.render.models import bracket, write_cache
from turntable.config import restored


def test_a_list_of_cameras_travels_with_the_capture(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"00bracket": bracket().data()})
    (tmp_path / "list.txt").write_text("00bracket\n")
    cams = tmp_path / "cams.json"
    spots = [{"azimuth_deg": a, "elevation_deg": 20, "distance": 1.5, "fov_deg": 40 + a} for a in (0, 10)]
    cams.write_text(json.dumps(spots))
    options = (
        f"--cameras {cams} --rig list --fit enlarge --jitter-roll-deg 20 --light-per-view --resolution 48 --samples 1"
    )
    words = ["--uids", tmp_path / "list.txt", "--cache", cache, "--out", tmp_path / "out"]
    base = [sys.executable, "-m", "render.objaverse", *map(str, words)]
    command = [*base, *options.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cams.write_text("[]")

    with CaptureReader(capture_path(tmp_path / "out", "00bracket")) as reader:
        settings = restored(Settings, reader.record["settings"])
        assert (settings.views, settings.rig.cameras, len(settings.rig.listed)) == (2, None, 2)
        drawn = rigs.draw(settings.rig, settings.view_count, settings.seed, reader.uid)
        for view, camera in enumerate(drawn):
            pose, record = reader.world_from_camera[view], reader.view_records[view]
            assert np.allclose(reader.intrinsics[view], camera.intrinsics)
            assert np.allclose(pose[:, :3], camera.world_from_camera[:, :3])
            # Straight back from where it was drawn, as far as its record says, and then nothing is cut off.
            assert record["fit_factor"] > 1.2 and not record["border"]
            assert np.allclose(pose[:, 3], camera.world_from_camera[:, 3] * record["fit_factor"])
            expected = lights.draw(settings.lighting, settings.seed, reader.uid, view).record()
            assert record["lights"] == json.loads(json.dumps(expected))
        assert reader.view_records[0]["lights"] != reader.view_records[1]["lights"]
        assert reader.depth(0).max() > np.linalg.norm(reader.world_from_camera[0][:, 3]) - 1

    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "cams.json: no cameras in it" in refused.stderr
    missing = ["--light", "hdri", "--hdri", str(tmp_path / "nowhere")]
    refused = subprocess.run([*base, *missing], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "no such folder" in refused.stderr, refused.stderr
