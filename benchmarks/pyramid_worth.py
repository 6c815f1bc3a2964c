"""What the pyramid of `--model mini` is worth: `python -m benchmarks.pyramid_worth SHARDS --dev-uids DEV.txt`.

Two networks are trained by the same steps on the same draws, from nothing: `mini`, and `mini` with a linear layer a patch and three
convolutions for its details instead (as `mini` had). Judged as they train, by the solid loss on objects
that are not trained on. Prints a table and writes `benchmarks/results/pyramid_worth.json`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import child, record
from model.checkpoints import save_model
from model.lrm import LRM, SIZES, LRMConfig
from train.history import read_history
from turntable import config

MINI = SIZES["mini"]
WAYS: dict[str, LRMConfig] = {
    "pyramid": MINI,
    "patches": dataclasses.replace(
        MINI,
        pyramid=None,
        encoder=dataclasses.replace(MINI.encoder, mean=(0.5,) * 3, deviation=(0.25,) * 3),
    ),
}


@dataclass(frozen=True)
class PyramidBenchmark:
    """What to train, and how long."""

    shards: tyro.conf.Positional[Path]
    """Shards to train on."""
    dev_uids: Path
    """Objects to judge on."""
    steps: int = 600
    """Optimiser steps of eight objects, each."""
    every: int = 150
    """Steps between two judgements."""
    threads: int = 1
    out: Path = Path("benchmarks/results/pyramid_worth.json")


def trained(options: PyramidBenchmark, way: LRMConfig, folder: Path) -> dict[str, Any]:
    """Solid loss on the development objects by step, and what a step took."""
    torch.manual_seed(0)
    begin = folder / "begin.safetensors"
    folder.mkdir()
    lrm = LRM(way)
    save_model(begin, lrm, {})
    words: list[object] = ["--shards", options.shards, "--init", begin, "--model", "mini", "--out", folder / "run"]
    words += ["--steps", options.steps, "--batch", 8, "--solid", 0.3, "--empty", 0]
    words += ["--average", 0.99, "--device", "cpu"]
    words += ["--dev-uids", options.dev_uids, "--dev-every", options.every, "--dev-by", "solid"]
    words += ["--threads", options.threads, "--save-minutes", 60, "--decoded-bytes", 4e9]
    child.run("train.lrm", words)
    lines = read_history(folder / "run" / "log.jsonl")
    seconds = max(line["seconds"] for line in lines if "seconds" in line)
    return {
        "parameters": sum(parameter.numel() for parameter in lrm.parameters()),
        "development_solid": {line["step"]: round(line["development_solid"], 4) for line in lines if "development_solid" in line},
        "seconds_a_step": round(seconds / options.steps, 3),
    }  # fmt: skip


def main() -> int:
    options = config.parse(PyramidBenchmark, __doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        result = {way: trained(options, network, Path(name) / way) for way, network in WAYS.items()}
    for way, found in result.items():
        print(f"{way:10s}{found}")
    record.write(options.out, options, result)
    return 0


if __name__ == "__main__":
    config.run(main)
