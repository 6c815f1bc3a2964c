"""The self-test's verdict on data in order, and on the same with shuffled cameras: `python -m benchmarks.overfit_verdict SHARDS`.

The second set holds the same pictures; within each object the cameras are dealt out anew, so that each picture has another one's.
Both are trained on alike. Prints both verdicts and writes `benchmarks/results/overfit_verdict.json`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record
from datasets.packing import Packer, stored_object
from datasets.shards import ShardSet
from turntable import config
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import read_json


@dataclass(frozen=True)
class VerdictBenchmark:
    """What to try."""

    shards: tyro.conf.Positional[Path]
    """Shards whose first objects are learned."""
    objects: int = 1
    """How many."""
    minutes: float = 3.0
    """Of training, each."""
    out: Path = Path("benchmarks/results/overfit_verdict.json")


def write_set(shards: ShardSet, objects: int, folder: Path, shuffled: bool) -> None:
    """The first objects as shards of their own; `shuffled` gives every picture the camera of another."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with Packer(folder) as packer:
        for index in range(objects):
            reader, number = shards.place(index)
            item = stored_object(reader, number)
            if shuffled:
                # Each to the next one of a random ring: none keeps its own.
                ring = rng.permutation(len(item.world_from_camera))
                dealt = np.empty_like(ring)
                dealt[ring] = np.roll(ring, 1)
                item = replace(item, world_from_camera=item.world_from_camera[dealt], intrinsics=item.intrinsics[dealt])
            packer.add(item, {"benchmark": "overfit_verdict"})


def verdict(shards: Path, options: VerdictBenchmark, out: Path) -> dict[str, Any]:
    """What the self-test writes down, and its exit code."""
    command = [sys.executable, "-m", "train.lrm", "--shards", shards, "--out", out, "--overfit", options.objects]
    command += ["--minutes", options.minutes, "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode not in (EXIT_OK, EXIT_ITEMS_FAILED):
        raise UserError(f"train.lrm ended with {done.returncode}: {done.stderr[-500:]}")
    return {"exit_code": done.returncode, **read_json(out / "self-test.json")}


def main() -> int:
    options = config.parse(VerdictBenchmark, __doc__ or "")
    shards, result = ShardSet(options.shards), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("in order", "cameras shuffled"):
            place = folder / kind.replace(" ", "-")
            write_set(shards, options.objects, place, shuffled=kind != "in order")
            result[kind] = verdict(place, options, folder / f"run-{place.name}")
            print(f"{kind:18s}{result[kind]}", flush=True)
    record.write(options.out, options, result)
    return 0


if __name__ == "__main__":
    config.run(main)
