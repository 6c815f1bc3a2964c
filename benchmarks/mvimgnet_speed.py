"""How fast object videos become shards, and in how much memory: `python -m benchmarks.mvimgnet_speed --root ../shared/mvimgnet`.

A good scene is enlarged to the size of MVImgNet's frames (pictures, masks, lens and observations alike) and linked as often as a
run is to have scenes. Each run is a process of its own, of which the kernel says the peak of its memory. Were memory to grow
with the number of scenes, the last run would show it. Prints a table and writes `benchmarks/results/mvimgnet_speed.json`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import child
from preprocess.colmap import read_model
from turntable import config as command_line
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import write_json


@dataclass(frozen=True)
class SpeedBenchmark:
    """What to measure."""

    root: Path
    """A root in MVImgNet's layout that holds `scene` and its masks."""
    scene: str = "43/b001"
    """The scene of which there are many."""
    enlarge: int = 3
    """Factor of its frames' sides: 640×360 becomes 1920×1080."""
    scenes: tuple[int, ...] = (2, 8, 32)
    """Scenes of each run."""
    threads: int = 1
    """Scenes worked on at the same time."""
    limit_growth: float = 1.15
    """Peak memory of the last run over that of the run before."""
    out: Path = Path("benchmarks/results/mvimgnet_speed.json")
    """The result."""


def enlarged(options: SpeedBenchmark, folder: Path) -> None:
    """The scene, larger, as `folder`/{scene,mask}."""
    source = options.root / options.scene
    masks = options.root / "mask" / options.scene
    if not masks.is_dir():
        raise UserError(f"--root {options.root}: no {options.scene} with masks in it")
    for pictures, target in ((source / "images", folder / "scene" / "images"), (masks, folder / "mask")):
        target.mkdir(parents=True)
        for path in pictures.iterdir():
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            size = picture.shape[1] * options.enlarge, picture.shape[0] * options.enlarge
            cv2.imwrite(str(target / path.name), cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))
    shutil.copytree(source / "sparse", folder / "scene" / "sparse", copy_function=shutil.copyfile)
    _enlarge_model(folder / "scene" / "sparse" / "0", options.enlarge)


def _enlarge_model(model: Path, factor: int) -> None:
    """Scales the one SIMPLE_RADIAL lens and every observation of a model in place. Layout: see `preprocess.colmap`."""
    lens = read_model(model).frames[0].lens
    focal, cx, cy, k = lens.parameters
    header = struct.pack("<IiQQ", 1, 2, lens.width * factor, lens.height * factor)
    content = (model / "cameras.bin").read_bytes()
    camera = content[8:12] + header[4:] + struct.pack("<4d", focal * factor, cx * factor, cy * factor, k)
    (model / "cameras.bin").write_bytes(content[:8] + camera)
    images = bytearray((model / "images.bin").read_bytes())
    place = 8
    for _ in range(int.from_bytes(images[:8], "little")):
        place = images.index(b"\0", place + struct.calcsize("<I7dI")) + 1
        count = int.from_bytes(images[place : place + 8], "little")
        seen = np.frombuffer(images, [("xy", "<f8", 2), ("point", "<i8")], count, place + 8)
        seen["xy"] *= factor
        place += 8 + seen.nbytes
    (model / "images.bin").write_bytes(images)


def measure(options: SpeedBenchmark, folder: Path, count: int) -> dict[str, Any]:
    """One run over `count` scenes."""
    root, out = folder / f"root-{count}", folder / f"out-{count}"
    for place, target in ((root / "43", folder / "scene"), (root / "mask" / "43", folder / "mask")):
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"c{number:05}").symlink_to(target)
    words = ["--root", root, "--out", out, "--threads", options.threads]
    words += ["--max-reprojection", 3 * options.enlarge]  # errors grow with the pixels
    used = child.run("preprocess.mvimgnet", words)
    size = sum(path.stat().st_size for path in out.glob("shard-*.h5")) / count
    shutil.rmtree(out)
    rate = {
        "scenes_per_minute": round(60 * count / used.seconds, 2),
        "cpu_seconds_a_scene": round(used.cpu_seconds / count, 2),
    }
    return {
        "scenes": count,
        "seconds": round(used.seconds, 1),
        **rate,
        "peak_mb": round(used.peak_mb),
        "shard_mb_a_scene": round(size / 1e6, 2),
    }


def main() -> int:
    """The command."""
    options = command_line.parse(
        SpeedBenchmark, "Measure how fast object videos become shards, and in how much memory."
    )
    with tempfile.TemporaryDirectory() as folder:
        enlarged(options, Path(folder))
        views = len(list((Path(folder) / "scene" / "images").iterdir()))
        print(f"{views} frames a scene, {options.threads} threads")
        print("scenes  seconds  scenes/min  CPU s a scene  peak MiB  shard MB a scene")
        rows = []
        for count in options.scenes:
            row = measure(options, Path(folder), count)
            rows.append(row)
            print(
                "{scenes:6}  {seconds:7}  {scenes_per_minute:10}  {cpu_seconds_a_scene:13}  {peak_mb:8}  {shard_mb_a_scene:16}".format(
                    **row
                )
            )
    growth = rows[-1]["peak_mb"] / rows[-2]["peak_mb"] if len(rows) > 1 else 1.0
    print(f"the last run's peak is {growth:.2f} of the one before it (limit {options.limit_growth})")
    names = ("numpy", "opencv-python", "pycolmap", "h5py")
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
    machine = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    result = {"command": shlex.join(sys.orig_argv[1:]), "views": views, "growth": round(growth, 3), "rows": rows}
    write_json(options.out, {**result, "machine": machine, "versions": versions})
    return EXIT_OK if growth <= options.limit_growth else EXIT_ITEMS_FAILED


if __name__ == "__main__":
    command_line.run(main)
