"""Fine-tuning on fifteen objects:

    python -m benchmarks.few_objects SHARDS --init RUN --uids TRAIN.txt --dev-uids DEV.txt --general FIRST

Three objects of each category are drawn from TRAIN.txt and `train.furniture` tunes RUN on them, what RUN was trained on mixed in
(--general). What comes of it is judged on objects of TRAIN.txt that were not drawn, seen by no training and by no choice, beside
RUN itself: the model that did best on DEV.txt (tuned), and that blended with RUN as far as nothing is lost on DEV.txt (blended).
Two more models say what the fifteen are worth: RUN trained on for as long on --general alone (general), and RUN tuned as one would
without care, on the same objects alone, at the recipe's full learning rate, the last weights kept (careless; `--no-careless`: not).
Prints a table and writes `benchmarks/results/few_objects.json`.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import child, record
from datasets.catalogue import read_uids
from datasets.categories import FURNITURE, read_categories
from datasets.shards import ShardSet
from train import checkpoints
from train.evaluate import EvaluateConfig, evaluate, names
from train.history import read_history
from train.summary import markdown, table
from turntable import config
from turntable.files import read_json, write_text

COMMON = "--model mini --batch 8 --rays 96 --threads 1 --device cpu --decoded-bytes 4e9 --solid 0.3 --empty 0"
"""Of all ways of tuning."""
CAREFUL = """
    --steps 100000 --learning-rate 5e-4 --average 0.998
    --fill-spread 0.15 --light-spread 0.2 --camera-noise 0 --background-share 0
"""
"""Half of `make furniture-model`'s rate, and changed at random as the bundled model's training was: more than a model is used to makes
its pictures worse before it can help."""


@dataclass(frozen=True)
class FewObjects:
    """What to try."""

    shards: tyro.conf.Positional[Path]
    """Shards with the objects of both lists."""
    init: Path
    """The model to begin from, which has seen none of them."""
    uids: Path
    """Objects to draw from, and to judge on."""
    dev_uids: Path
    """Objects that choose."""
    general: Path
    """Shards that the model was trained on."""
    general_share: float = 1.0
    """Draws from --general for one draw of the fifteen."""
    careless: bool = True
    """Also tune without care."""
    each: int = 3
    """Objects of a category to train on."""
    judged: int = 4
    """Objects of a category to judge on, at most."""
    minutes: float = 10.0
    """Of training, each."""
    seed: int = 0
    """Which objects are drawn."""
    processes: int = 2
    """That train together, of one thread each."""
    out: Path = Path("benchmarks/results/few_objects.json")


def draw(options: FewObjects, shards: ShardSet) -> tuple[list[str], list[str]]:
    """Uids to train on and uids to judge on, none in both."""
    rng, categories = np.random.default_rng(options.seed), read_categories(FURNITURE)
    train, judged = [], []
    listed = {uid: categories.of(shards.record(shards.uids.index(uid))) for uid in read_uids(options.uids)}
    for category in categories.members:
        own = rng.permutation([uid for uid, kind in listed.items() if kind == category]).tolist()
        train += own[: options.each]
        judged += own[options.each : options.each + options.judged]
    return train, judged


def tuned(options: FewObjects, folder: Path, uids: Path) -> dict[str, Path]:
    """Ways of tuning -> the model that comes of each."""
    few: list[object] = ["--shards", options.shards, "--uids", uids]
    mixed: list[object] = ["--general", options.general, "--general-share", options.general_share, "--layer-decay", 1]
    dev: list[object] = ["--dev-uids", options.dev_uids, "--dev-by", "solid", "--dev-every", 150, "--patience", 0]
    careful, general, careless = (folder / name for name in ("careful", "general", "careless"))

    def run(module: str, out: Path, *words: object) -> None:
        common = ["--init", options.init, "--out", out, "--minutes", options.minutes, *shlex.split(COMMON)]
        child.run(*child.shared(options.processes, module, [*common, *words]))

    run("train.furniture", careful, *few, *mixed, *dev, *shlex.split(CAREFUL))
    run("train.lrm", general, "--shards", options.general, "--mirror", *shlex.split(CAREFUL))
    found = {
        "tuned": careful / checkpoints.BEST_NAME,
        "blended": careful / checkpoints.BLENDED_NAME,
        "general": general,
    }
    if options.careless:
        run("train.lrm", careless, *few)
        found["careless"] = careless
    return found


def main() -> int:
    options = config.parse(FewObjects, __doc__ or "")
    shards = ShardSet(options.shards)
    train, judged = draw(options, shards)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for list_name, uids in (("train", train), ("judged", judged)):
            write_text(folder / f"{list_name}.txt", "\n".join(uids) + "\n")
        models = tuned(options, folder, folder / "train.txt")
        found = evaluate(
            EvaluateConfig(
                (options.init, *models.values()), options.shards, folder / "report", folder / "judged.txt", FURNITURE,
                held_out_views=0, baselines=False, device="cpu",
            )
        )  # fmt: skip
        before, *others = names((options.init, *models.values()))
        rows, changes = found["summary"]["rows"], found["summary"]["differences"]
        kinds = {"before": rows[before]} | {kind: rows[own] for kind, own in zip(models, others, strict=True)}
        gains = {kind: changes[f"{own} minus {before}"] for kind, own in zip(models, others, strict=True)}
        blends = read_json(folder / "careful" / "blends.json")
        curve = [
            {key: line[key] for key in ("step", "development_psnr", "development_solid")}
            for line in read_history(folder / "careful" / "log.jsonl")
            if "development_solid" in line
        ]
    print(
        f"\ntuned on {len(train)}, judged on {len(judged)}\n{table(kinds)}\n\nminus before, object by object\n{markdown(gains)}"
    )
    result: dict[str, Any] = {
        "trained_on": len(train),
        "judged_on": len(judged),
        "rows": kinds,
        "minus_before": gains,
        "blends": blends,
        "development": curve,
    }
    record.write(options.out, options, result)
    return 0


if __name__ == "__main__":
    config.run(main)
