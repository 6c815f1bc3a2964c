"""Every torture asset ends as it must, and one that was made to run a script has not run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.render import torture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torture")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, torture.Outcome]:
    return {outcome.case.file: outcome for outcome in torture.run(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("case", torture.CASES, ids=lambda case: case.file)
def test_every_asset_ends_as_it_must(outcomes: dict[str, torture.Outcome], case: torture.Case) -> None:
    outcome = outcomes[case.file]
    assert not outcome.complaints, f"{outcome.end}: {outcome.message} {outcome.record}"


@pytest.mark.slow
def test_a_missing_texture_shows_no_magenta(outcomes: dict[str, torture.Outcome], folder: Path) -> None:
    """Blender's own colour for it; ours is the material's."""
    assert outcomes["missing-texture.gltf"].end == torture.CAPTURE
    with torture.CaptureReader(torture.capture_path(folder / "out", "missing-texture-gltf")) as reader:
        rgba = reader.picture("rgba", 0)
    red, green, blue = rgba[rgba[..., 3] == 255][:, :3].astype(int).T
    # The model is red, green and blue by parts; magenta is red and blue without green.
    assert len(red) and not ((red > green + 60) & (blue > green + 60)).any()


@pytest.mark.slow
def test_no_script_of_a_blend_file_runs(outcomes: dict[str, torture.Outcome], folder: Path) -> None:
    assert outcomes["scripts.blend"].end == torture.CAPTURE
    path = folder / "assets" / "scripts-blend" / "scripts.blend"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # The same file opened by someone who trusts it does run: the trap is a trap.
    trusting = "import sys, os, bpy; bpy.ops.wm.open_mainfile(filepath=sys.argv[1], use_scripts=True); os._exit(0)"
    subprocess.run([sys.executable, "-c", trusting, path], cwd=ROOT, capture_output=True, timeout=120)
    assert (path.parent / "trace").exists()
