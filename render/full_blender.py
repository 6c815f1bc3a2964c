"""A full Blender (`--blender PATH`) in the place of its wheel: how its command line runs our modules, and what it lacks for them.

Blender brings a Python of its own with numpy, and nothing else that workers import. `python -m render.system --blender PATH
--install` puts wheels for that Python into a folder of their own, which `render/inside_blender.py` adds behind Blender's own
packages: Blender itself stays as it is, and its numpy the one that is used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from turntable.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES_VARIABLE = "TURNTABLE_BLENDER_PACKAGES"
"""Environment variable: where the packages for Blender's Python are, instead of `.blender-packages` in the checkout."""
NEEDED = {
    "cv2": "opencv-python-headless>=4.8",
    "scipy": "scipy>=1.11",
    "tyro": "tyro>=0.9",
    "psutil": "psutil>=5.9",
    "OpenEXR": "OpenEXR>=3.3",
}
"""Module that a worker imports -> what to install for it."""
OLDEST = (4, 2)
"""First Blender whose importers and shaders are those that we call."""
_PROBE_S = 120


class BlenderError(UserError):
    """A Blender that cannot do what workers need."""


def packages_folder() -> Path:
    """Where packages for Blender's Python are put."""
    return Path(os.environ.get(PACKAGES_VARIABLE) or ROOT / ".blender-packages")


def command(blender: Path, module: str, *arguments: str) -> list[str]:
    """The command that runs `module` of this checkout inside Blender; no user preferences, no scripts of the files it opens."""
    options = ["--background", "--factory-startup", "--disable-autoexec", "--python-exit-code", "3"]
    script = [str(ROOT / "render" / "inside_blender.py"), "--", str(packages_folder()), module, *arguments]
    return [str(blender), *options, "--python", *script]


def probe(blender: Path) -> dict[str, Any]:
    """What this Blender says of itself: `blender` and `python` versions as lists, `numpy`, and the `missing` modules."""
    found = shutil.which(blender)
    if not found:
        raise BlenderError(f"--blender {blender}: no program there; give the path of Blender's executable")
    try:
        asked = subprocess.run(
            command(Path(found), "probe", *NEEDED), capture_output=True, text=True, timeout=_PROBE_S, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BlenderError(f"--blender {blender}: does not run ({error})") from error
    answers = [line for line in asked.stdout.splitlines() if line.startswith("{")]
    if asked.returncode or not answers:
        last = (asked.stderr.strip() or asked.stdout.strip() or "it said nothing").splitlines()[-1]
        raise BlenderError(
            f"--blender {blender}: does not run a script in the background (code {asked.returncode}): {last}"
        )
    return json.loads(answers[-1])


def require(blender: Path) -> None:
    """Raises `BlenderError` unless workers can run in this Blender."""
    said = probe(blender)
    _check_version(blender, said)
    if said["missing"]:
        raise BlenderError(
            f"--blender {blender}: its Python {'.'.join(map(str, said['python']))} lacks {', '.join(said['missing'])}; "
            f"put them beside the checkout: python -m render.system --blender {blender} --install"
        )


def _check_version(blender: Path, said: dict[str, Any]) -> None:
    if tuple(said["blender"][:2]) < OLDEST:
        versions = ".".join(map(str, said["blender"])), ".".join(map(str, OLDEST))
        raise BlenderError(f"--blender {blender}: is Blender {versions[0]}; {versions[1]} or newer is needed")


def install(blender: Path) -> None:
    """Puts what workers import into `packages_folder`, as wheels for Blender's Python, whichever Python runs us."""
    said = probe(blender)
    _check_version(blender, said)
    folder, version = packages_folder(), ".".join(map(str, said["python"][:2]))
    fresh = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(fresh)]
    # Blender's numpy, so that what is built against numpy fits it.
    wanted = ["--python-version", version, "--only-binary=:all:", f"numpy=={said['numpy']}", *NEEDED.values()]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise BlenderError(f"--blender {blender}: pip finds no packages for its Python {version}: {last}")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    require(blender)
