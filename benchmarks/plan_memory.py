"""Whether `train.lrm --plan` tells what a run will take: `python -m benchmarks.plan_memory SHARDS`.

For several models and steps: what `--plan` predicts, and what the same command without it then took by its own log, memory at most
and seconds a step. A few objects only, so that all that a run keeps decoded is decoded by its end. Prints a table and writes
`benchmarks/results/plan_memory.json`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record
from datasets.shards import ShardSet
from train.history import read_history
from train.loop import LOG_EVERY
from turntable import config
from turntable.errors import UserError
from turntable.files import write_text

RUNS: dict[str, str] = {
    "tiny, 4 objects": "--model tiny --batch 4 --steps 60",
    "tiny, 8 objects, 1,024 rays": "--model tiny --batch 8 --views 2 --rays 512 --steps 60",
    "mini, 8 objects, solid": "--model mini --batch 8 --solid 0.1 --empty 0 --steps 60",
    "mini, 8 objects, 2 at once": "--model mini --batch 8 --micro-batch 2 --solid 0.1 --empty 0 --steps 60",
    "small, 1 object": "--model small --batch 1 --views 2 --rays 128 --samples 32 --steps 20",
}
"""Name -> what `train.lrm` is told."""
SAID = re.compile(r"^predicted .*: ([\d.]+) s, ([\d.]+) GiB$", re.MULTILINE)


@dataclass(frozen=True)
class PlanBenchmark:
    """What to compare."""

    shards: tyro.conf.Positional[Path]
    """Shards to train on."""
    objects: int = 8
    """How many of their objects."""
    threads: int = 2
    out: Path = Path("benchmarks/results/plan_memory.json")


def trainer(words: list[object]) -> str:
    """What `train.lrm` prints."""
    command = [sys.executable, "-m", "train.lrm", *map(str, words), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def compared(words: list[object], out: Path) -> dict[str, Any]:
    """What was predicted and what was taken."""
    said = SAID.search(trainer([*words, "--out", out, "--plan"]))
    assert said is not None
    seconds, memory = float(said[1]), float(said[2])
    trainer([*words, "--out", out])
    lines = [line for line in read_history(out / "log.jsonl") if "peak_memory_gb" in line]
    moments = [0.0, *(line["seconds"] for line in lines)]
    taken = float(np.median(np.diff(moments)[-2:])) / LOG_EVERY
    peak = lines[-1]["peak_memory_gb"]
    return {
        "predicted_gib": memory, "taken_gib": round(peak, 2), "memory_off": round(memory / peak - 1, 3),
        "predicted_s": seconds, "taken_s": round(taken, 3),
    }  # fmt: skip


def main() -> int:
    options = config.parse(PlanBenchmark, __doc__ or "")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "uids.txt", "\n".join(ShardSet(options.shards).uids[: options.objects]) + "\n")
        data: list[object] = ["--shards", options.shards, "--uids", folder / "uids.txt", "--threads", options.threads]
        for number, (run, words) in enumerate(RUNS.items()):
            result[run] = compared([*data, *words.split()], folder / str(number))
            print(f"{run:30s}{result[run]}", flush=True)
            record.write(options.out, options, result)  # the last takes longest; what is known is kept
    return 0


if __name__ == "__main__":
    config.run(main)
