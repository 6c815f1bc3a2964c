"""A whole training step beside the dense twin's, and two processes beside one: `python -m benchmarks.train_step SHARDS`.

A step is everything: an object drawn and decoded, image to planes, rendering, loss, backward pass, AdamW. Both ways train the same
network on the same draws with colour and opacity losses; ours renders as `train.lrm` does (with `--recompute` too), the twin as
`benchmarks.dense_twin` does, a view after the other. Each in a process of its own. Then `train.lrm` runs by one process of one
thread and by two (torchrun, gloo), in turn, and its own log says how many objects a second each took, once all that a run keeps
decoded is decoded. Prints a table and writes `benchmarks/results/train_step.json`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks import child, dense_twin, record
from datasets.shards import ShardSet
from train import sets
from train.assembly import build_trainer
from train.history import read_history
from train.losses import LossWeights, Objective, RenderSettings
from train.settings import TrainConfig
from turntable import cameras, config
from turntable.files import read_json, write_json, write_text
from turntable.resources import peak_memory

COLOURS = LossWeights(colour=1.0, mask=0.5, empty=0.0, depth=0.0)


@dataclass(frozen=True)
class StepBenchmark:
    """What to measure."""

    shards: tyro.conf.Positional[Path]
    """Shards to train on."""
    model: Literal["tiny", "small", "base", "large"] = "small"
    batch: int = 1
    """Objects a step."""
    views: int = 4
    rays: int = 4096
    """Rays a view: 64²."""
    samples: int = 96
    repeats: int = 4
    """Steps; the best counts, the first is not among them."""
    threads: int = 2
    scaling_steps: int = 120
    """Steps of `train.lrm` with the tiny model, by one and by two processes; 0: not."""
    scaling_rounds: int = 2
    """How often each, in turn; the median of all logged rates counts."""
    scaling_objects: int = 16
    """Of so many objects, which are decoded before the first half of the steps is over; the second half counts."""
    way: Literal["all", "twin", "ours", "recomputed"] = "all"
    """One way only is what a process of this benchmark's own is asked for; it writes its figures to `out`."""
    out: Path = Path("benchmarks/results/train_step.json")


class DenseObjective(Objective):
    """The same losses of what the dense twin renders."""

    def forward(self, batch: dict[str, Tensor], settings: RenderSettings) -> tuple[Tensor, dict[str, Tensor]]:
        planes = self.lrm.planes(batch["image"], batch["camera"])
        origins, directions = cameras.rays(batch["uv"], batch["world_from_camera"], batch["intrinsics"])
        seen = [
            dense_twin.render(self.lrm.field, planes[k : k + 1], origins[k], directions[k], settings.samples)
            for k in range(len(planes))
        ]
        colour, opacity = torch.stack([s.colour for s in seen]), torch.stack([s.opacity for s in seen])
        error = (colour - batch["rgb"]).square().mean()
        mask = (opacity - batch["alpha"]).square().mean()
        return error + self.weights.mask * mask, {"colour": error.detach(), "mask": mask.detach()}


def one_way(options: StepBenchmark) -> dict[str, float]:
    """Seconds of a step, and the most memory."""
    settings = TrainConfig(
        options.shards, options.out.parent / "run", model=options.model, steps=100, batch=options.batch, views=options.views,
        rays=options.rays, samples=options.samples, weights=COLOURS, threads=options.threads, device="cpu",
        recompute=options.way == "recomputed",
    )  # fmt: skip
    shards = ShardSet(options.shards)
    trainer = build_trainer(settings, shards, sets.chosen_objects(shards, None))
    if options.way == "twin":
        trainer = replace(trainer, objective=DenseObjective(trainer.state.lrm, COLOURS))
    batches = trainer.batches(0)
    seconds = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        trainer.step(batches)
        seconds.append(time.perf_counter() - start)
    return {"seconds": round(min(seconds[1:]), 3), "peak_mb": round(peak_memory() / 2**20)}


def all_ways(options: StepBenchmark, folder: Path) -> dict[str, Any]:
    """The twin's step, ours, and ours with `--recompute`; how many times faster ours are, in what share of the memory."""
    found: dict[str, Any] = {}
    for way in ("twin", "ours", "recomputed"):
        out = folder / f"{way}.json"
        words = [options.shards, "--model", options.model, "--batch", options.batch, "--views", options.views]
        words += ["--rays", options.rays, "--samples", options.samples, "--repeats", options.repeats]
        child.run("benchmarks.train_step", [*words, "--threads", options.threads, "--way", way, "--out", out])
        found[way] = read_json(out)
        found[way]["times_faster"] = round(found["twin"]["seconds"] / found[way]["seconds"], 2)
        found[way]["share_of_memory"] = round(found[way]["peak_mb"] / found["twin"]["peak_mb"], 3)
    return found


def scaling(options: StepBenchmark, folder: Path) -> dict[str, Any]:
    """Objects a second by one process of one thread, by two, and their ratio; each process has eight objects a step."""
    uids = folder / "uids.txt"
    write_text(uids, "\n".join(ShardSet(options.shards).uids[: options.scaling_objects]) + "\n")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.scaling_rounds):
        for processes, found in rates.items():
            out = folder / f"processes-{processes}-{number}"
            data: list[object] = [
                "--shards",
                options.shards,
                "--uids",
                uids,
                "--out",
                out,
                "--steps",
                options.scaling_steps,
            ]
            child.run(*child.trainer(processes, [*data, "--batch", 8 * processes, "--save-minutes", 60]))
            lines = read_history(out / "log.jsonl")
            found.extend(line["objects_per_second"] for line in lines[len(lines) // 2 :])
    one, two = (float(np.median(found)) for found in rates.values())
    return {"one": round(one, 2), "two": round(two, 2), "ratio": round(two / one, 2), "rates": list(rates.values())}


def main() -> int:
    options = config.parse(StepBenchmark, __doc__ or "")
    torch.set_num_threads(options.threads)
    if options.way != "all":
        write_json(options.out, one_way(options))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = all_ways(options, Path(folder))
        if options.scaling_steps:
            result["processes"] = scaling(options, Path(folder))
    for name, value in result.items():
        print(f"{name:18s}{value}")
    record.write(options.out, options, result)
    return 0


if __name__ == "__main__":
    config.run(main)
