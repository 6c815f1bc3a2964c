"""`--blender`: workers in a full Blender, whose Python has nothing of ours.

No full Blender is at hand here. Its stand-in is a script that takes Blender's command line and runs it on the wheel, in a Python that
is as bare as Blender's own: no site-packages but bpy and numpy, no PYTHONPATH, the current folder not on the path, Blender's
whole command line in `sys.argv`, its greetings on stdout. Packages are the real ones, linked instead of downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.captures import capture_path
from render import full_blender
from tests.conftest import ROOT
from tests.render.models import bracket, write_cache

QUICK = ["--views", "2", "--resolution", "32", "--samples", "1"]
SITE = Path(np.__file__).parent.parent
STAND_IN = """#!/bin/sh
exec {python} -I -S -c '
import sys
words = sys.argv[1:]
assert words[:3] == ["--background", "--factory-startup", "--disable-autoexec"], words
code, script = int(words[words.index("--python-exit-code") + 1]), words[words.index("--python") + 1]
sys.path.append("{bare}")
import bpy
{lie}
sys.argv = ["blender", *words]
print("Blender stand-in", flush=True)
try:
    exec(compile(open(script).read(), script, "exec"), {{"__name__": "__main__", "__file__": script}})
except Exception:
    import traceback
    traceback.print_exc()
    sys.exit(code)
print("Blender quit", flush=True)
' "$@"
"""


def link(folder: Path, *patterns: str) -> Path:
    folder.mkdir()
    for pattern in patterns:
        for path in SITE.glob(pattern):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def blender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, and a folder of packages that is not there yet."""
    bare = link(tmp_path / "bare", "bpy", "numpy", "numpy.libs")
    monkeypatch.setenv(full_blender.PACKAGES_VARIABLE, str(tmp_path / "packages"))
    return stand_in(tmp_path / "blender", bare)


def stand_in(path: Path, bare: Path, lie: str = "") -> Path:
    path.write_text(STAND_IN.format(python=sys.executable, bare=bare, lie=lie))
    path.chmod(0o755)
    return path


def fill(folder: Path) -> None:
    link(
        folder, "cv2", "opencv_python*", "scipy*", "psutil*", "OpenEXR*", "Imath*", "tyro*", "docstring_parser*", "typ*"
    )


def render(tmp_path: Path, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    cache = write_cache(tmp_path / f"cache {out}", {"00bracket": bracket().data(), "01page": b"<html>"})
    (tmp_path / "list.txt").write_text("00bracket\n01page\n")
    command = [sys.executable, "-m", "render.objaverse", "--uids", tmp_path / "list.txt", "--cache", cache]
    command += ["--out", tmp_path / out, *QUICK, *options]
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_full_blender_renders_what_the_wheel_renders(blender: Path, tmp_path: Path) -> None:
    lacking = render(tmp_path, "full", "--blender", str(blender))
    assert lacking.returncode == 2 and "lacks cv2" in lacking.stderr and "--install" in lacking.stderr
    assert not (tmp_path / "full").exists() and "Traceback" not in lacking.stderr

    fill(tmp_path / "packages")
    for out, options in (("full", ["--blender", str(blender)]), ("wheel", [])):
        done = render(tmp_path, out, *options)
        assert done.returncode == 1 and "1 done" in done.stdout and "1 bad-asset" in done.stdout, done.stderr
    full, wheel = (capture_path(tmp_path / out, "00bracket").read_bytes() for out in ("full", "wheel"))
    assert full == wheel
    assert "Blender stand-in" in (tmp_path / "full" / "logs" / "worker-cpu-0.log").read_text()


def test_a_blender_that_will_not_do_says_why(blender: Path, tmp_path: Path) -> None:
    old = stand_in(tmp_path / "old", tmp_path / "bare", 'bpy.app = type(sys)("app"); bpy.app.version = (3, 4, 1)')
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot open display >&2; exit 1\n")
    broken.chmod(0o755)
    for path, words in (
        (old, "is Blender 3.4.1; 4.2 or newer"),
        (broken, "cannot open display"),
        (tmp_path, "no program"),
    ):
        with pytest.raises(full_blender.BlenderError, match=words):
            full_blender.require(path)


def test_the_driver_needs_no_blender(tmp_path: Path) -> None:
    """Who drives a full Blender, or a cluster, may run any Python: nothing that the commands import may import bpy."""
    code = "import sys; sys.modules['bpy'] = None; import render.objaverse, render.folder, turntable.cluster"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
