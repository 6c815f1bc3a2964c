"""What tiles and alpha cost beside the plain network: `python -m benchmarks.upscale_speed`.

The plain network takes the whole picture's colour as a tensor and gives a tensor, nothing else. `--upscale` takes the picture with
its alpha: it bleeds colour under what is transparent, cuts tiles where memory asks for them, resizes alpha, rounds to 8 bits. Both
have the same randomly drawn weights in an official layout (speed does not depend on the values) and the same picture.

Ways take turns in one process, and each one's fastest turn counts, since other processes share the machine. Memory is each way's
own peak, in a process of its own, above what that process held before. Prints a table, writes `benchmarks/results/upscale_speed.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from preprocess import networks, upscale
from tests.preprocess import esrgan
from turntable import config
from turntable.errors import EXIT_OK
from turntable.files import write_json

Layout = Literal["realesr-general-x4v3", "realesrgan-x4plus", "realesrgan-x2plus"]
LAYOUTS: dict[str, Callable[[], esrgan.Tensors]] = {
    "realesr-general-x4v3": esrgan.random_compact,
    "realesrgan-x4plus": esrgan.random_rrdbnet,
    "realesrgan-x2plus": lambda: esrgan.random_rrdbnet(scale=2),
}


@dataclass(frozen=True)
class UpscaleBenchmark:
    """What to measure."""

    network: Layout = "realesr-general-x4v3"
    """Whose layout; RRDBNet multiplies some 15 times as much."""
    side: int = 192
    """Pixels of the square picture."""
    tile: int = 160
    """Side of the square, overlap included, that goes through at once where tiles are forced."""
    views: int = 3
    """Views that go through together."""
    turns: int = 3
    device: str = "cpu"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of both."""
    out: Path = Path("benchmarks/results/upscale_speed.json")
    only: str = ""
    """Runs this one way once and prints its peak memory; the benchmark calls itself so."""


Way = tuple[float, Callable[[], object]]
"""Megapixels of the result, and what is timed."""


def picture(side: int, seed: int = 0) -> np.ndarray:
    """(side, side, 4) uint8 noise, opaque."""
    rgba = np.random.default_rng(seed).integers(0, 256, (side, side, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    return rgba


def object_picture(side: int) -> np.ndarray:
    """The same with a disc's matte, as wide as six tenths of the picture."""
    rgba, axis = picture(side), (np.arange(side) + 0.5) / side - 0.5
    rgba[np.hypot(axis[:, None], axis[None]) > 0.3] = 0
    return rgba


def ways(options: UpscaleBenchmark, weights: Path) -> dict[str, Way]:
    """Name -> way. All that is loaded or prepared once is so here."""
    module = networks.load(weights).module.to(options.device)
    whole = upscale.find(str(weights), options.device, 0, options.precision)
    tiled = upscale.find(str(weights), options.device, options.tile, options.precision)
    one, seen = picture(options.side), object_picture(options.side)
    several = np.stack([picture(options.side, seed) for seed in range(options.views)])

    def plain(rgba: np.ndarray) -> Callable[[], object]:
        tensor = torch.from_numpy(rgba[..., :3].copy()).permute(0, 3, 1, 2).float().div(255).to(options.device)
        half = getattr(torch, options.precision)

        def run() -> object:
            with torch.inference_mode(), torch.autocast(options.device.split(":")[0], half, half != torch.float32):
                result = module(tensor)
            return result.cpu()  # waits for a GPU

        return run

    area = (options.side * whole.scale) ** 2 / 1e6
    return {
        "plain network": (area, plain(one[None])),
        "ours": (area, lambda: whole(one)),
        "ours, tiles forced": (area, lambda: tiled(one)),
        "ours, an object in the middle": (area, lambda: whole(seen)),
        "plain network, views together": (area * options.views, plain(several)),
        "ours, views together": (area * options.views, lambda: whole(several)),
    }


def peak_mib(options: UpscaleBenchmark, weights: Path, name: str) -> float:
    """MiB that one way takes at most above what its process holds beforehand."""
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ways(options, weights)[name][1]()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    run = ways(options, weights)[name][1]
    before = held_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (Linux)
    run()
    return (held_kib("VmHWM") - before) / 1024


def held_kib(field: str) -> int:
    """KiB that this process holds now (VmRSS), or has held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def measure(options: UpscaleBenchmark, weights: Path) -> dict[str, dict[str, float]]:
    """A row a way: seconds, megapixels of the result a second, peak memory."""
    prepared = ways(options, weights)
    fastest = dict.fromkeys(prepared, float("inf"))
    for turn in range(options.turns + 1):  # the first one warms up
        for name, (_, run) in prepared.items():
            start = time.perf_counter()
            run()
            if turn:
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    rows = {}
    for name, (megapixels, _) in prepared.items():
        command = [sys.executable, *sys.orig_argv[1:], "--only", name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows[name] = {
            "seconds": round(fastest[name], 3),
            "megapixels_a_second": round(megapixels / fastest[name], 4),
            "peak_mib": round(json.loads(report.splitlines()[-1])),
        }
    return rows


def main() -> int:
    """The command."""
    options = config.parse(UpscaleBenchmark, "Measure what tiles and alpha cost beside the plain network.")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save({"params_ema": LAYOUTS[options.network]()}, weights)
        if options.only:
            print(json.dumps(peak_mib(options, weights, options.only)))
            return EXIT_OK
        rows = measure(options, weights)
    for name, row in rows.items():
        print(f"{name:32s} {row['seconds']:8.2f} s {row['megapixels_a_second']:9.4f} Mpx/s {row['peak_mib']:7.0f} MiB")
    speed = {name: row["megapixels_a_second"] for name, row in rows.items()}
    ratios = {
        "ours": speed["ours"] / speed["plain network"],
        "tiles forced": speed["ours, tiles forced"] / speed["plain network"],
        "an object in the middle": speed["ours, an object in the middle"] / speed["plain network"],
        "views together": speed["ours, views together"] / speed["plain network, views together"],
    }
    print("of the plain network's speed: " + ", ".join(f"{name} {ratio:.0%}" for name, ratio in ratios.items()))
    machine = {"cores": len(os.sched_getaffinity(0)), "architecture": platform.machine(), "system": platform.system()}
    if options.device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name(options.device)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "spandrel", "numpy", "opencv-python")}
    write_json(
        options.out,
        {
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "machine": {**machine, "torch_threads": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), **versions},
            "settings": {
                "network": options.network,
                "side": options.side,
                "tile": options.tile,
                "views": options.views,
            },
            "rows": rows,
            "of_the_plain_networks_speed": {name: round(ratio, 3) for name, ratio in ratios.items()},
        },
    )
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
