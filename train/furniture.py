"""`python -m train.furniture --shards shards/ --init runs/general --out runs/furniture`: fine-tunes a model on a few categories.

The categories are data (`--categories`, by default datasets/furniture.toml: tables, chairs, bookshelves, beds, sofas). Each is
drawn equally often, however many objects it has. The settings are those that suit tens or hundreds of objects: a low learning
rate, lower still near the picture, mirrored and disturbed samples, a moving average of the weights, and, with --dev-uids, the
model that did best on objects it did not see, blended with the one it began from so that they lose nothing. Objects in
--judge-uids are judged before and after, by category.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets.augmentation import STRONG, Augmentation
from datasets.catalogue import read_uids
from datasets.categories import FURNITURE, Categories, read_categories
from datasets.shards import ShardSet, found
from train import checkpoints
from train.blend import blend_run
from train.development import DevelopmentConfig
from train.distributed import first_process, write_once
from train.evaluate import EvaluateConfig, evaluate, names
from train.losses import LossWeights
from train.lrm import has_begun, train
from train.methods import require_truth
from train.optimiser import Frozen, OptimiserConfig
from train.presets import PresetName, Size, recipe_of
from train.settings import Precision, TrainConfig
from train.summary import Rows, markdown, table
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_OK, UserError
from turntable.files import write_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FurnitureConfig:
    """Fine-tunes a model on the objects of a few categories."""

    shards: Location
    """Shards that hold the objects; others in them are left alone."""
    init: Path
    """The model to begin from: a run, a file, a published model's name."""
    out: Path
    """The run's folder; report/ in it holds the figures before and after."""
    categories: Path = FURNITURE
    """A TOML file: which LVIS classes make which category."""
    uids: Path | None = None
    """Train on these of them only."""
    dev_uids: Path | None = None
    """Objects that choose the best model and end the run; they are not trained on."""
    judge_uids: Path | None = None
    """Objects that are judged before and after; they are not trained on."""
    general: Location | None = None
    """Shards that the model was trained on before; some of each step's objects are drawn from them, so that it forgets less."""
    general_share: float = 0.5
    """Draws from --general for one draw from the categories."""
    preset: PresetName | None = None
    """Steps that fit a CPU, or a GPU with so much memory."""
    model: Size | None = None
    """Whose recipe (batch, views, rays) to follow; left out: the preset's, or `tiny`'s."""
    steps: int = 1500
    """Optimiser steps at most."""
    minutes: float | None = None
    """Minutes at most."""
    batch: int | None = None
    """Objects a step, of all processes together; left out: the recipe's number for each process."""
    rays: int | None = None
    """Supervised rays a view; left out: the recipe's."""
    learning_rate: float | None = None
    """Peak; left out: a fifth of the recipe's."""
    freeze: Frozen = "none"
    """Parts that stay as they are."""
    lora: int = 0
    """Rank of low-rank adapters to train in place of encoder and decoder; 0: none."""
    layer_decay: float = 0.85
    """The learning rate of each layer is so many times that of the next one."""
    average: float = 0.99
    """Decay a step of the moving average of the weights."""
    dev_every: int = 100
    """Steps between two judgements on the development objects."""
    dev_by: Literal["psnr", "solid"] = "psnr"
    """Which figure is best: of pictures, or of the shape (needs --solid)."""
    blend: bool = True
    """With --dev-uids: in the end go back towards the model that it began from, as far as the development objects gain from it and
    are nowhere worse than in the beginning: blended.safetensors, see `train.blend`."""
    patience: int = 6
    """Stop after so many judgements without a better one."""
    augment: Augmentation = STRONG
    """What is changed at random."""
    weights: LossWeights = field(default_factory=LossWeights)
    """The loss's terms."""
    input_view: int = 0
    """The view that is given when the objects are judged."""
    precision: Precision = "auto"
    """auto: bfloat16 on a GPU that has it, float32 elsewhere."""
    decoded_bytes: float = 1e9
    """Memory for decoded pictures and shapes that each loading process keeps, bytes."""
    workers: int = 0
    """Loader processes."""
    threads: int | None = None
    """torch's CPU threads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    resume: bool = False
    """Continue the run in --out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.general_share <= 0:
            raise ValueError(f"general_share must be above 0, got {self.general_share}; leave --general out instead")


def category_objects(config: FurnitureConfig, categories: Categories) -> dict[str, str]:
    """Uid -> category of the objects of the categories to train on. A category without an object is a UserError."""
    left_out = {uid for path in (config.dev_uids, config.judge_uids) if path for uid in read_uids(path)}
    shards = ShardSet(config.shards)
    every = {shards.uids[index]: categories.of(shards.record(index)) for index in shards.listed(config.uids)}
    kinds = {uid: kind for uid, kind in every.items() if kind and uid not in left_out}
    counts = Counter(kinds.values())
    missing = [name for name in categories.members if not counts[name]]
    if missing:
        raise UserError(
            f"{config.shards}: no object to train on of {', '.join(missing)} ({config.categories.name}); add some, or leave the"
            " category out of a copy of that file"
        )
    if first_process():
        log.info("training objects: %s", ", ".join(f"{counts[name]} {name}" for name in categories.members))
    return kinds


def training_list(config: FurnitureConfig, kinds: dict[str, str]) -> list[str]:
    """Lines of a list of uids with weights: every category is drawn equally often; the general objects equally often each."""
    left_out = {uid for path in (config.dev_uids, config.judge_uids) if path for uid in read_uids(path)}
    counts = Counter(kinds.values())
    lines = [f"{uid} {1 / counts[kind]:.6g}" for uid, kind in kinds.items()]
    if config.general is not None:
        lines += [uid for uid in ShardSet(found(config.general)).uids if uid not in left_out and uid not in kinds]
    return lines


def training(config: FurnitureConfig, listed: Path) -> TrainConfig:
    """The run of `train.lrm` that this is."""
    rate = config.learning_rate or recipe_of(config.model, config.preset).learning_rate / 5
    development = DevelopmentConfig(
        config.dev_uids, config.dev_every, config.dev_by, config.patience if config.dev_uids else 0
    )
    return TrainConfig(
        shards=config.shards,
        out=config.out,
        preset=config.preset,
        model=config.model,
        init=config.init,
        uids=listed,
        mix=(f"{config.general}={config.general_share}",) if config.general is not None else (),
        development=development,
        steps=config.steps,
        minutes=config.minutes,
        batch=config.batch,
        rays=config.rays,
        resume=config.resume,
        optimiser=OptimiserConfig(
            rate,
            average=config.average,
            freeze=config.freeze,
            layer_decay=config.layer_decay,
            lora=config.lora,
        ),
        augment=config.augment,
        weights=config.weights,
        precision=config.precision,
        decoded_bytes=config.decoded_bytes,
        workers=config.workers,
        threads=config.threads,
        device=config.device,
        seed=config.seed,
    )


def compare(config: FurnitureConfig, known: Path) -> dict[str, Any]:
    """Judges the model before and after on --judge-uids; writes report/ and returns its figures. `known`: the training objects of
    the categories, which the baselines may look at."""
    models = (config.init, checkpoints.to_use(config.out))
    result = evaluate(
        EvaluateConfig(
            checkpoint=models,
            shards=Path(config.shards),
            out=config.out / "report",
            uids=config.judge_uids,
            categories=config.categories,
            input_view=config.input_view,
            held_out_views=0,
            training_uids=known,
            device=config.device,
        )
    )
    rows = before_and_after(result["summary"], names(models))
    write_text(config.out / "report" / "before-after.txt", table(rows) + "\n")
    write_json(config.out / "report" / "before-after.json", rows)
    print(f"\n{table(rows)}\n\nobject by object, with 95 % intervals\n{markdown(result['summary']['differences'])}")
    return result


def before_and_after(summary: dict[str, Any], models: list[str]) -> Rows:
    """Rows of each category before and after, and of all objects."""
    rows: Rows = {}
    parts = {**summary["classes"], "all": summary}
    for name, part in parts.items():
        for when, model in zip(("before", "after"), models, strict=True):
            rows[f"{name} ({part['objects']}), {when}"] = part["rows"][model]
    return rows


def main() -> int:
    return tune(command_line.parse(FurnitureConfig, "Fine-tune a model on a few categories."))


def _require_judgeable(config: FurnitureConfig) -> None:
    """What is judged in the end is there, and can be: said now, not after training."""
    if config.judge_uids is None:
        return
    shards = ShardSet(config.shards)
    for index in shards.listed(config.judge_uids):
        require_truth(shards, index, config.input_view, 0)
    both = set(read_uids(config.judge_uids)) & set(read_uids(config.dev_uids) if config.dev_uids else ())
    if both:
        log.warning(
            "%d objects are in --dev-uids and in --judge-uids: the model is chosen by what it is then judged on, which flatters it",
            len(both),
        )


def tune(config: FurnitureConfig) -> int:
    """Fine-tunes, and judges where there is something to judge on."""
    categories = read_categories(config.categories)
    _require_judgeable(config)
    kinds = category_objects(config, categories)
    listed, known = config.out / "train-uids.txt", config.out / "category-uids.txt"
    lines = "\n".join(training_list(config, kinds)) + "\n"
    if has_begun(config.out, config.resume) and listed.is_file() and listed.read_text() != lines:
        raise UserError(
            f"{config.out} was trained on other objects (its {listed.name} differs); use the same shards and lists, or another --out"
        )
    write_once(listed, lines)
    write_once(known, "\n".join(kinds) + "\n")
    run = training(config, listed)
    train(run)
    if first_process():
        if config.blend and config.dev_uids is not None:
            blend_run(run)
        else:
            (config.out / checkpoints.BLENDED_NAME).unlink(missing_ok=True)  # of an earlier part of the run
    if config.judge_uids is not None and first_process():
        compare(config, known)
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
