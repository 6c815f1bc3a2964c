"""How fast views are read for training: `python -m benchmarks.read_views --captures captures/`.

The same pictures twice: as OpenLRM lays them out (`<root>/<uid>/rgba/000.png`, one file a view at the rendered size), and as
shards. A trainer supervises pictures of 128², so that is what a read must give. OpenLRM's loader decodes the whole PNG,
puts it on the background and shrinks it with a bicubic filter; a shard stores 128² beside the larger sizes. Views are read
in random order, in one process with one thread, from the page cache (a first pass over everything warms it).

The ratio that is reported is the strict one: *decoding alone* of the loose files by the faster of two decoders, against
*all* that a shard's reader does, checksum included. Prints a table and writes `benchmarks/results/read_views.json`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.captures import CaptureReader, capture_paths
from datasets.shards import ShardSet
from preprocess.captures import PreprocessConfig, preprocess
from turntable import config as command_line
from turntable import framing
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_json

SUPERVISED_SIZE = 128
"""Pixels: what the trainers here and elsewhere look at."""


@dataclass(frozen=True)
class ReadBenchmark:
    """What to measure."""

    captures: Path
    """Folder of captures; 512² and more is what such data sets hold."""
    objects: int = 40
    """At most so many of them."""
    passes: int = 10
    """Every view is read so often and its fastest read counts, since other processes share the machine."""
    out: Path = Path("benchmarks/results/read_views.json")
    """The result."""


def lay_out_loose(captures: list[Path], root: Path) -> list[Path]:
    """OpenLRM's layout of the captures' pictures and cameras; returns the pictures' paths."""
    paths = []
    for file in captures:
        with CaptureReader(file) as capture:
            for folder in ("rgba", "pose"):
                (root / capture.uid / folder).mkdir(parents=True)
            fx, fy, cx, cy = capture.intrinsics[0] * [capture.width, capture.height, capture.width, capture.height]
            lens = np.array([[fx, fy], [cx, cy], [capture.width, capture.height]])
            np.save(root / capture.uid / "intrinsics.npy", lens)
            for view in range(len(capture)):
                path = root / capture.uid / "rgba" / f"{view:03d}.png"
                path.write_bytes(capture.encoded("rgba", view))
                np.save(root / capture.uid / "pose" / f"{view:03d}.npy", capture.world_from_camera[view])
                paths.append(path)
    return paths


def decode_cv2(path: Path) -> np.ndarray:
    """A loose picture, decoded by OpenCV."""
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def decode_pillow(path: Path) -> np.ndarray:
    """A loose picture, decoded by Pillow, as OpenLRM does it."""
    from PIL import Image

    return np.asarray(Image.open(path))


def load_as_openlrm(path: Path) -> np.ndarray:
    """A loose picture, decoded, on white, shrunk by a bicubic filter in single precision."""
    picture = framing.on_background(decode_pillow(path))
    return cv2.resize(picture, (SUPERVISED_SIZE, SUPERVISED_SIZE), interpolation=cv2.INTER_CUBIC)


def milliseconds(read: Callable[[int], object], count: int, passes: int) -> float:
    """Mean over views of each view's fastest read in several passes over all of them in random order."""
    order = np.random.default_rng(0).permutation(count).tolist()
    fastest = np.full(count, np.inf)
    for _ in range(passes + 1):  # the first one warms the page cache
        for number in order:
            start = time.perf_counter()
            read(number)
            fastest[number] = min(fastest[number], time.perf_counter() - start)
    return float(fastest.mean()) * 1000


def measure(options: ReadBenchmark) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a view for each way of reading, and what was read."""
    captures = capture_paths(options.captures)[: options.objects]
    if not captures:
        raise UserError(f"--captures {options.captures}: no capture in it; `python -m render.objaverse` writes them")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / "captures"
        for path in captures:
            (chosen / path.stem[:2]).mkdir(parents=True, exist_ok=True)
            (chosen / path.stem[:2] / path.name).symlink_to(path.resolve())
        loose = lay_out_loose(captures, Path(scratch) / "loose")
        preprocess(PreprocessConfig(chosen, Path(scratch) / "shards"))
        shards = ShardSet(Path(scratch) / "shards")
        places = [(i, view) for i in range(len(shards)) for view in range(shards.view_count(i))]
        largest = max(shards.sizes)
        ways: dict[str, Callable[[int], object]] = {
            "loose PNG, decoded (OpenCV)": lambda k: decode_cv2(loose[k]),
            "loose PNG, decoded (Pillow)": lambda k: decode_pillow(loose[k]),
            "loose PNG, as OpenLRM's loader": lambda k: load_as_openlrm(loose[k]),
            f"shard, {SUPERVISED_SIZE}²": lambda k: shards.picture(*places[k], SUPERVISED_SIZE),
            f"shard, on white, {SUPERVISED_SIZE}²": lambda k: framing.on_background(
                shards.picture(*places[k], SUPERVISED_SIZE)
            ),
            f"shard, {largest}²": lambda k: shards.picture(*places[k], largest),
        }
        times = {name: milliseconds(read, len(places), options.passes) for name, read in ways.items()}
        sizes = {"views": len(places), "objects": len(shards), "rendered_size": largest}
        sizes["loose_kib"] = sum(path.stat().st_size for path in loose) / 1024
    return times, sizes


def main() -> int:
    options = command_line.parse(ReadBenchmark, "Measure how fast views are read.")
    times, sizes = measure(options)
    decoding = min(times["loose PNG, decoded (OpenCV)"], times["loose PNG, decoded (Pillow)"])
    strict = decoding / times[f"shard, {SUPERVISED_SIZE}²"]
    whole = times["loose PNG, as OpenLRM's loader"] / times[f"shard, on white, {SUPERVISED_SIZE}²"]
    print(f"{sizes['views']} views of {sizes['objects']} objects, rendered at {sizes['rendered_size']}²")
    for name, value in times.items():
        print(f"{name:34s} {value:8.3f} ms a view {1000 / value:10.0f} views/s")
    print(
        f"a shard's reader is {strict:.1f} times as fast as decoding loose PNG alone, {whole:.1f} times as fast as the loader"
    )
    write_json(
        options.out,
        {
            "command": shlex.join(["python", "-m", "benchmarks.read_views", "--captures", options.captures.name]),
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "architecture": platform.machine(),
                "system": platform.system(),
            },
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("numpy", "opencv-python", "h5py", "pillow")},
            },
            "data": sizes,
            "milliseconds_a_view": times,
            "ratio_to_decoding_alone": strict,
            "ratio_to_the_loader": whole,
        },
    )
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
