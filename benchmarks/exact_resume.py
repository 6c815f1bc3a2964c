"""Whether a run that is killed and continued is the run that was not: `python -m benchmarks.exact_resume SHARDS`.

The tiny model is trained on SHARDS by one process, and by two (gloo) sharing by DDP and by FSDP2; each way once to its end, and once
killed with SIGKILL on the way and continued. Compared are the losses of every logged step and the final weights of the two; and how
far two processes are from one at the first logged step, where rounding has not yet grown. Prints a table, writes
`benchmarks/results/exact_resume.json` and draws the curves as `exact_resume.webp` beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro

from benchmarks import child, record
from model.checkpoints import load_model
from train import checkpoints
from train.history import read_history
from turntable import config
from turntable.errors import UserError

LOSSES = ("colour", "mask", "depth", "empty", "gradient_norm")
WAYS: dict[str, tuple[int, str]] = {
    "one process": (1, "ddp"),
    "two processes, DDP": (2, "ddp"),
    "two processes, FSDP2": (2, "fsdp"),
}


@dataclass(frozen=True)
class ResumeBenchmark:
    """What to compare."""

    shards: tyro.conf.Positional[Path]
    """Shards to train on."""
    steps: int = 120
    """Optimiser steps."""
    killed_after: int = 40
    """The logged step after which a run is killed."""
    out: Path = Path("benchmarks/results/exact_resume.json")


def words(options: ResumeBenchmark, out: Path) -> list[object]:
    """What every run is told."""
    data: list[object] = ["--shards", options.shards, "--out", out, "--steps", options.steps]
    return [*data, "--batch", 4, "--rays", 96, "--save-minutes", 0.05]


def killed(module: str, run: list[object], out: Path, after: int) -> int:
    """Starts a run and kills all of its processes once step `after` is logged and saved; the step it will continue from."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, run)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not ((lines := read_history(out / "log.jsonl")) and lines[-1]["step"] >= after and checkpoints.finished(out)):
        if process.poll() is not None:
            raise UserError(f"a run ended before it could be killed; give more --steps ({out})")
        time.sleep(0.02)
    # torchrun's processes have sessions of their own: without the children named, they would train on.
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.kill()
    process.wait()
    return int(checkpoints.finished(out)[-1].name.removeprefix("step-"))


def losses(out: Path) -> dict[str, list[float]]:
    """Of every logged step."""
    lines = [line for line in read_history(out / "log.jsonl") if "colour" in line]
    return {name: [line[name] for line in lines] for name in ("step", *LOSSES)}


def compared(one: Path, other: Path) -> dict[str, Any]:
    """How far two runs are apart: largest relative difference of a logged loss, and of a weight over its tensor's spread."""
    a, b = losses(one), losses(other)
    if a["step"] != b["step"]:
        raise UserError(f"{other}: logged steps {b['step']}, expected {a['step']}")
    apart = [abs(x - y) / max(abs(x), 1e-12) for name in LOSSES for x, y in zip(a[name], b[name], strict=True)]
    weights, others = load_model(one).state_dict(), load_model(other).state_dict()
    spread = [
        float((others[name] - value).abs().max() / value.std().clamp(min=1e-6))
        for name, value in weights.items()
        if value.numel() > 1
    ]
    return {"losses": max(apart), "weights": max(spread), "to_the_last_bit": max(apart) == max(spread) == 0}


def first_apart(one: Path, other: Path) -> float:
    """Relative difference of two runs' losses at the first logged step, the largest."""
    a, b = losses(one), losses(other)
    return max(abs(a[name][0] - b[name][0]) / max(abs(a[name][0]), 1e-12) for name in LOSSES)


@dataclass(frozen=True)
class Pair:
    """A run to its end, and one that was killed and continued."""

    whole: Path
    killed: Path
    begun: int
    """The step that it was continued from."""
    ended: int
    """The last logged step before."""


def run_pair(options: ResumeBenchmark, folder: Path, processes: int, sharing: str) -> Pair:
    """Trains both."""
    whole, cut = folder / f"{sharing}-{processes}-whole", folder / f"{sharing}-{processes}-killed"
    child.run(*child.trainer(processes, [*words(options, whole), "--sharing", sharing]))
    module, run = child.trainer(processes, [*words(options, cut), "--sharing", sharing])
    begun = killed(module, run, cut, options.killed_after)
    ended = read_history(cut / "log.jsonl")[-1]["step"]
    child.run(module, [*run, "--resume"])
    return Pair(whole, cut, begun, ended)


def draw(path: Path, pairs: dict[str, Pair]) -> None:
    """The colour loss of every run over the steps, with where it was killed and where it continued."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, pair) in zip(figure.subplots(1, len(pairs), sharey=True).flat, pairs.items(), strict=True):
        true, found = losses(pair.whole), losses(pair.killed)
        axes.plot(true["step"], true["colour"], color="0.7", linewidth=5, label="not killed")
        axes.plot(
            found["step"], found["colour"], "o-", color="C3", markersize=3, linewidth=1, label="killed and continued"
        )
        axes.axvline(pair.ended, color="k", linestyle=":", label=f"killed after step {pair.ended}")
        axes.axvline(pair.begun, color="C0", linestyle=":", label=f"continued from step {pair.begun}")
        axes.set(title=name, xlabel="step", ylabel="colour loss")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main() -> int:
    options = config.parse(ResumeBenchmark, __doc__ or "")
    result: dict[str, Any] = {}
    pairs: dict[str, Pair] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (processes, sharing) in WAYS.items():
            pair = pairs[name] = run_pair(options, Path(folder), processes, sharing)
            result[name] = {
                "continued_from": pair.begun,
                **compared(pair.whole, pair.killed),
                "first_step_from_one_process": first_apart(pairs["one process"].whole, pair.whole),
            }
            print(f"{name:22s}{result[name]}", flush=True)
        draw(options.out.with_suffix(".webp"), pairs)
    record.write(options.out, options, result)
    return 0


if __name__ == "__main__":
    config.run(main)
