"""`python -m train.lrm --shards shards/ --model tiny --out runs/x`: trains an LRM on shards."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from datasets.catalogue import read_weights
from datasets.order import Order
from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardError, ShardSet, found
from datasets.storage import BlockCache
from model.checkpoints import FILE_NAME
from model.lrm import LRM, SIZES, LRMConfig
from train import checkpoints, lpips
from train.curves import draw_curves
from train.evaluate import EvaluateConfig, evaluate
from train.loop import Schedule, Trainer, adamw
from train.losses import LossWeights, RenderSettings
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_OK, UserError
from turntable.files import location

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What suits a size of the model when the command line does not say otherwise."""

    learning_rate: float
    warmup_steps: int
    batch: int
    """Objects a step."""
    views: int
    """Supervised views an object."""
    rays: int
    """Supervised rays a view."""
    samples: int
    """Samples a ray."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    minutes: float | None = None


# `tiny` is for a CPU and minutes: a high rate and short warm-up. The others follow Hong et al. 2024 (LRM), table of
# training details: 4e-4, 3,000 warm-up steps, input view and three side views, regions of 128².
_PAPER = Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=4096, samples=96)
RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(learning_rate=2e-3, warmup_steps=50, batch=4, views=4, rays=128, samples=48),
    "small": _PAPER,
    "base": _PAPER,
    "large": Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=4096, samples=128),
    "paper": Recipe(learning_rate=4e-4, warmup_steps=3000, batch=8, views=4, rays=16384, samples=128),
}


@dataclass(frozen=True)
class TrainConfig:
    """Trains an LRM on shards. Fields left out take the model size's recipe."""

    shards: Location
    """A folder of shards or one shard, here or at a URL."""
    out: Path
    """The run's folder: checkpoints, curves, pictures, configuration."""
    model: Literal["tiny", "small", "base", "large", "paper"] = "tiny"
    """Size of the model; `tiny` trains on a CPU."""
    uids: Path | None = None
    """Train on these objects only: a file with a uid a line; a weight behind a uid says how often it is drawn."""
    mix: tuple[str, ...] = ()
    """Further shards, each with the draws from it for one draw from --shards: --mix mvimgnet/shards=3."""
    shuffle_shards: int = 0
    """Shuffle the objects of so many shards together, then of the next, which suits shards at URLs; 0: of all."""
    cache: BlockCache = field(default_factory=BlockCache)
    """Where shards at URLs keep what was read of them."""
    steps: int | None = None
    """Optimiser steps."""
    minutes: float | None = None
    """Minutes of training; with --steps, whichever ends first."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint; a run that has none yet begins."""
    overfit: int = 0
    """Check the set-up on the first N objects: one input view, then a report on training views and held-out views."""
    input_view: int | None = None
    """Always this view as input; left out: a random one a sample (0 with --overfit)."""
    held_out_views: int = 0
    """The last N views of every object are neither input nor supervised."""
    learning_rate: float | None = None
    """Peak learning rate."""
    batch: int | None = None
    """Objects a step."""
    views: int | None = None
    """Supervised views an object."""
    rays: int | None = None
    """Supervised rays a view."""
    samples: int | None = None
    """Samples a ray."""
    render_size: int = 128
    """Side in pixels of the pictures that rays are taken from."""
    weights: LossWeights = field(default_factory=LossWeights)
    """The loss's terms."""
    lpips_weights: Path | None = None
    """Folder with LPIPS's weights (default: torch.hub's checkpoint cache); read only when --lpips is above 0."""
    encoder_weights: str | None = None
    """Pre-trained ViT for the encoder: a folder or a hub name (facebook/dino-vitb16 …); left out: from scratch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU that has it, float32 elsewhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    threads: int | None = None
    """torch's CPU threads; left out: one a core. On a machine that is busy otherwise, fewer are far faster."""
    workers: int = 0
    """Loader processes; 0 loads in the training process."""
    save_minutes: float = 5.0
    """Minutes between checkpoints."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Initial weights, data order, rays."""

    def __post_init__(self) -> None:
        for name in ("overfit", "held_out_views", "workers", "shuffle_shards"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.save_minutes <= 0 or self.clip <= 0:
            raise ValueError(f"save_minutes and clip must be positive, got {self.save_minutes} and {self.clip}")
        mixture_of(self)


FREE_ON_RESUME = {"resume", "steps", "minutes", "threads", "workers", "save_minutes", "device", "shards", "cache"}
"""Fields that a continued run may change."""


def mixture_of(config: TrainConfig) -> dict[Path, float]:
    """Shards -> how often they are drawn from, relative to one another."""
    sets: dict[Path, float] = {config.shards: 1.0}
    for text in config.mix:
        place, _, share = text.rpartition("=")
        if not (place and re.fullmatch(r"[0-9]*\.?[0-9]+", share) and float(share) > 0):
            raise ValueError(f"--mix {text}: write SHARDS=SHARE with a share above 0, such as mvimgnet/shards=3")
        if location(place) in sets:
            raise ValueError(f"--mix {text}: these shards are named already")
        sets[location(place)] = float(share)
    return sets


def open_shards(config: TrainConfig) -> ShardSet:
    """The objects of all sets that the run draws from."""
    paths = [path for place in mixture_of(config) for path in found(place)]
    return ShardSet(paths, config.cache)


def draw_order(config: TrainConfig, shards: ShardSet, indices: list[int]) -> Order:
    """In which order and how often the objects `indices` are drawn."""
    held_by = np.array([shards.shard_of(index) for index in indices])
    ends = np.cumsum([len(found(place)) for place in mixture_of(config)])
    pools = np.searchsorted(ends, held_by, side="right")
    listed = read_weights(config.uids) if config.uids else {}
    weights = np.array([listed.get(shards.uids[index], 1.0) for index in indices])
    shares = np.array(list(mixture_of(config).values()))
    for pool, share in enumerate(shares):
        mine = pools == pool
        if not mine.any():
            raise UserError(
                f"{list(mixture_of(config))[pool]}: none of its objects is chosen; leave it out of --mix or --uids"
            )
        weights[mine] *= share / weights[mine].sum()
    even = bool(np.allclose(weights, weights[0], rtol=1e-9))
    return Order(len(indices), config.seed, None if even else weights, held_by, pools, config.shuffle_shards)


def choose(config: TrainConfig, name: str) -> Any:
    """A field of the command line, or the model size's recipe where it was left out."""
    given = getattr(config, name)
    return getattr(RECIPES[config.model], name) if given is None else given


def batch_and_rays(config: TrainConfig, objects: int) -> tuple[int, int]:
    """Objects a step and rays a view. With fewer objects than the recipe's batch, each gets as many more rays."""
    batch, rays = min(choose(config, "batch"), objects), choose(config, "rays")
    return batch, rays if config.rays else rays * choose(config, "batch") // batch


def choose_device(device: str, precision: str) -> tuple[torch.device, bool]:
    """The device, and whether planes are computed in bfloat16. Asking for what is not there is a UserError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or leave it out")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    able = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and chosen.type == "cuda" and not able:
        raise UserError("--precision bfloat16: this GPU has no bfloat16; use --precision float32")
    return chosen, precision == "bfloat16" or (precision == "auto" and able)


def chosen_objects(shards: ShardSet, config: TrainConfig) -> list[int]:
    """Indices of the objects to train on. An unknown uid or nothing left is a UserError."""
    indices = shards.listed(config.uids)
    if config.overfit:
        indices = indices[: config.overfit]
    if not indices:
        raise UserError(f"{config.shards}: no object to train on; preprocess captures into it first")
    return indices


def sample_config(config: TrainConfig, shards: ShardSet, indices: list[int]) -> SampleConfig:
    """How samples are drawn, from the command line and the model's size."""
    views = min(shards.view_count(i) for i in indices)
    if config.held_out_views >= views:
        raise UserError(
            f"--held-out-views {config.held_out_views}: an object of {config.shards} has only {views} views; hold out fewer"
        )
    model = SIZES[config.model]
    return SampleConfig(
        input_size=model.encoder.image_size,
        fill=model.fill,
        views=choose(config, "views"),
        rays=batch_and_rays(config, len(indices))[1],
        render_size=config.render_size,
        input_view=0 if config.overfit and config.input_view is None else config.input_view,
        held_out_views=config.held_out_views,
        region_share=1.0 if config.weights.lpips else 0.0,
        with_depth=config.weights.depth > 0,
        seed=config.seed,
    )


def require_depth(shards: ShardSet, indices: list[int], config: TrainConfig) -> None:
    """The depth loss needs shards that hold depth; a set without it (videos, say) is a UserError that says what to do."""
    if not config.weights.depth:
        return
    try:
        shards.depth(indices[0], 0)
    except ShardError as error:
        raise UserError(f"the depth loss was asked for and {error}; train without it: --depth 0") from error


def camera_defaults(shards: ShardSet, indices: list[int], fill: float) -> dict[str, Any]:
    """Median distance and framed focal length of the training cameras: what `model.reconstruct` assumes of a photo."""
    distances, focals = [], []
    for index in indices[:200]:
        poses, intrinsics = shards.cameras(index)
        boxes = shards.matte_boxes(index)
        distances += np.linalg.norm(poses[:, :, 3], axis=1).tolist()
        longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        # Framing cuts a square in which the box's longer side fills `fill`: the focal length grows by the same factor.
        focals += (intrinsics[longer > 0, 0] * fill / longer[longer > 0]).tolist()
    return {"camera_distance": float(np.median(distances)), "camera_focal": float(np.median(focals))}


def model_config(config: TrainConfig) -> LRMConfig:
    """The size of the command line, with the encoder's weights where they were asked for."""
    size = SIZES[config.model]
    return replace(size, encoder=replace(size.encoder, weights=config.encoder_weights))


def build_trainer(config: TrainConfig, shards: ShardSet, indices: list[int]) -> Trainer:
    """Model, data and optimiser of a run, nothing trained yet."""
    device, bf16 = choose_device(config.device, config.precision)
    with torch.random.fork_rng():  # torch initialises from its global generator; ours leaves it as it was
        torch.manual_seed(config.seed)
        lrm = LRM(model_config(config)).to(device)
    require_depth(shards, indices, config)
    recipe, samples = RECIPES[config.model], sample_config(config, shards, indices)
    schedule = _schedule(config)
    licences = sorted({str(shards.record(i).get("licence", "unknown")) for i in indices})
    return Trainer(
        lrm=lrm,
        samples=ShardSamples(shards, samples, indices),
        order=draw_order(config, shards, indices),
        out=config.out,
        schedule=schedule,
        weights=config.weights,
        settings=RenderSettings(samples=choose(config, "samples"), bf16=bf16),
        batch=batch_and_rays(config, len(indices))[0],
        seed=config.seed,
        device=device,
        optimiser=adamw(lrm, schedule.learning_rate, recipe.weight_decay, recipe.betas),
        workers=config.workers,
        save_minutes=config.save_minutes,
        clip=config.clip,
        extra={
            "training_objects": len(indices),
            "licences": licences,
            "held_out_views": config.held_out_views,
            **camera_defaults(shards, indices, samples.fill),
        },
        lpips=lpips.load(config.lpips_weights).to(device) if config.weights.lpips else None,
        region_side=samples.region_side,
    )


def _schedule(config: TrainConfig) -> Schedule:
    recipe = RECIPES[config.model]
    steps, minutes = config.steps, config.minutes
    if steps is None and minutes is None:
        steps = 30_000 if config.model == "tiny" else 300_000
    return Schedule(config.learning_rate or recipe.learning_rate, recipe.warmup_steps, steps, minutes)


def main() -> int:
    return train(command_line.parse(TrainConfig, "Train an LRM on shards."))


def train(config: TrainConfig) -> int:
    """Trains as the configuration says, draws the curves, and returns the exit code."""
    begun = bool(checkpoints.finished(config.out))
    if begun and not config.resume:
        raise UserError(f"{config.out} already holds a run; continue it with --resume or choose another --out")
    command_line.claim_folder(config.out, config, FREE_ON_RESUME)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # densities and Adam's moments fade through denormal numbers, which CPUs crawl on
    shards = open_shards(config)
    indices = chosen_objects(shards, config)
    trainer = build_trainer(config, shards, indices)
    progress = checkpoints.Progress()
    if begun:
        progress = checkpoints.resume(config.out, trainer.lrm, trainer.optimiser)
        log.info("continuing %s from step %d", config.out, progress.step)
    parameters = sum(p.numel() for p in trainer.lrm.parameters())
    log.info("%s: %.1f M parameters, %d objects, on %s", config.model, parameters / 1e6, len(indices), trainer.device)
    progress = trainer.run(progress)
    draw_curves(config.out)
    rate = progress.step / max(progress.seconds, 1e-9)
    log.info(
        "%d steps in %.1f min (%.1f a second), %d skipped", progress.step, progress.seconds / 60, rate, progress.skipped
    )
    log.info("model: %s; curves: %s", config.out / FILE_NAME, config.out / "curves.png")
    if config.overfit:
        report_overfit(config, [shards.uids[i] for i in indices])
    return EXIT_OK


def report_overfit(config: TrainConfig, uids: list[str]) -> None:
    """Evaluates an --overfit run on its own objects and prints training views beside held-out views."""
    uid_file = config.out / "overfit-uids.txt"
    uid_file.write_text("\n".join(uids) + "\n")
    evaluate(EvaluateConfig(config.out, config.shards, config.out / "evaluation", uids=uid_file, baselines=False))


if __name__ == "__main__":
    command_line.run(main)
