"""A run put together from its settings: shards, model, samples, stages, optimiser."""

from __future__ import annotations

from dataclasses import replace

import torch

from datasets.augmentation import Augmentation
from datasets.samples import SampleConfig, ShardSamples
from datasets.shards import ShardSet, found
from model.checkpoints import load_checkpoint
from model.lrm import LRM, SIZES, LRMConfig
from train import lora, lpips, sets
from train.checkpoints import State
from train.development import Development
from train.distributed import World, share
from train.loop import Stage, Trainer
from train.losses import Objective, RenderSettings
from train.optimiser import Average, GradientGuard, adamw, freeze
from train.schedule import Progress, Schedule
from train.settings import TrainConfig, choose, step_size
from turntable.errors import UserError

NEEDED: dict[str, sets.Stored] = {"depth": "depth", "normal": "normal", "solid": "geometry"}
"""Loss -> what the shards must store for it."""
SOLID_POINTS = 4096
"""Points an object that the solid loss looks at."""


def open_shards(config: TrainConfig) -> ShardSet:
    """The objects of all sets that the run draws from."""
    paths = [path for place in sets.mixture(config.shards, config.mix) for path in found(place)]
    return ShardSet(paths, config.cache)


def choose_device(device: str, precision: str) -> tuple[torch.device, bool]:
    """The device, and whether planes are computed in bfloat16. Asking for what is not there is a UserError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or leave it out")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    able = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and chosen.type == "cuda" and not able:
        raise UserError("--precision bfloat16: this GPU has no bfloat16; use --precision float32")
    return chosen, precision == "bfloat16" or (precision == "auto" and able)


def held_out_views(config: TrainConfig, shards: ShardSet, indices: list[int]) -> int:
    """How many of every object's views are kept for judging."""
    views = min(shards.view_count(i) for i in indices)
    held_out = config.held_out_views
    if held_out is None:
        held_out = views // 5 if config.overfit else 0
    if held_out >= views:
        raise UserError(
            f"--held-out-views {held_out}: an object of {config.shards} has only {views} views; hold out fewer"
        )
    return held_out


def sample_config(
    config: TrainConfig, lrm: LRMConfig, shards: ShardSet, indices: list[int], processes: int = 1
) -> SampleConfig:
    """How samples are drawn, from the command line and the model's size."""
    held_out = held_out_views(config, shards, indices)
    return SampleConfig(
        input_size=lrm.encoder.image_size,
        fill=lrm.fill,
        background=lrm.background,
        views=choose(config, "views"),
        rays=step_size(config, len(indices), processes).rays,
        render_size=config.render_size,
        further_sizes=config.further_sizes,
        input_view=0 if config.overfit and config.input_view is None else config.input_view,
        held_out_views=held_out,
        region_share=1.0 if config.weights.lpips else 0.0,
        with_depth=config.weights.depth > 0,
        with_normals=config.weights.normal > 0,
        solid_points=SOLID_POINTS if config.weights.solid else 0,
        augment=config.augment,
        cache_bytes=config.decoded_bytes,
        seed=config.seed,
    )


def build_model(config: TrainConfig) -> LRM:
    """The network that the run begins with."""
    if config.init is not None:
        lrm, _ = load_checkpoint(config.init)
        if not lrm.config.decoder.camera_width:
            raise UserError(
                f"--init {config.init}: its network is not told the picture's camera, which training needs; begin from one that"
                " is (openlrm:…, or a model of ours)"
            )
        lrm.config = replace(lrm.config, camera="true")  # whatever it supposed before, it is now told
        return lrm.train()
    size = SIZES[config.size]
    with torch.random.fork_rng():  # torch initialises from its global generator; ours leaves it as it was
        torch.manual_seed(config.seed)
        return LRM(replace(size, encoder=replace(size.encoder, weights=config.encoder_weights)))


def stages(config: TrainConfig, samples: ShardSamples, settings: RenderSettings) -> tuple[Stage, ...]:
    """The run's stages: all of it, or a coarse one and a fine one."""
    whole, fine = Stage(0.0, samples, settings), config.fine
    if fine.fine_from == 1:
        return (whole,)
    finer = replace(
        samples.config, render_size=fine.fine_size, further_sizes=(), rays=fine.fine_rays or 2 * samples.config.rays
    )
    closer = replace(settings, samples=fine.fine_samples or settings.samples * 3 // 2)
    return whole, Stage(fine.fine_from, ShardSamples(samples.shards, finer, samples.indices), closer)


def build_trainer(config: TrainConfig, shards: ShardSet, indices: list[int], world: World | None = None) -> Trainer:
    """Model, data and optimiser of a run, nothing trained yet."""
    device, bf16 = choose_device(config.device, config.precision)
    world = world or World(device=device)
    lrm = build_model(config).to(world.device)
    lrm.recompute(config.recompute)
    freeze(lrm, config.optimiser.freeze)
    if config.optimiser.lora:
        lora.adapt(lrm, config.optimiser.lora, config.optimiser.lora_scale, config.seed)
    for name, stored in NEEDED.items():
        if getattr(config.weights, name):
            sets.require(shards, indices, name, stored)
    samples = ShardSamples(shards, sample_config(config, lrm.config, shards, indices, world.size), indices)
    settings = RenderSettings(samples=choose(config, "samples"), bf16=bf16)
    judge = lpips.load(config.lpips_weights).to(world.device) if config.weights.lpips else None
    objective = Objective(lrm, config.weights, judge, samples.config.region_side)
    shared = share(objective, lrm, config.sharing, world)
    schedule, recipe, moved = _schedule(config), config.recipe, config.optimiser
    step = step_size(config, len(indices), world.size)
    place = sets.mixture(config.shards, config.mix)
    return Trainer(
        state=State(
            lrm,
            adamw(lrm, schedule.learning_rate, moved.weight_decay, recipe.betas, moved.layer_decay),
            Progress(),
            Average(lrm.named_parameters(), moved.average) if moved.average else None,
        ),
        objective=shared,
        stages=stages(config, samples, settings),
        order=sets.draw_order(shards, indices, place, config.uids, config.shuffle_shards, config.seed),
        out=config.out,
        schedule=schedule,
        batch=step.batch,
        micro_batch=step.micro_batch,
        workers=config.workers,
        save_minutes=config.save_minutes,
        clip=moved.clip,
        guard=GradientGuard(moved.explode),
        extra={
            "training_objects": len(indices),
            "objects": sets.fingerprint(shards, indices),
            "batch": step.batch,
            "rays": samples.config.rays,
            "licences": sets.licences(shards, indices),
            "held_out_views": samples.config.held_out_views,
            **sets.camera_defaults(shards, indices, lrm.config.fill),
        },
        world=world,
        wandb=config.wandb,
        development=_development(config, samples, settings),
    )


def development_objects(config: TrainConfig, lrm: LRMConfig) -> Development:
    """The development objects of a run with --dev-uids, as they are judged on its way."""
    shards = open_shards(config)
    indices = sets.chosen_objects(shards, config.uids, config.development.dev_uids, config.overfit)
    samples = ShardSamples(shards, sample_config(config, lrm, shards, indices), indices)
    bf16 = choose_device(config.device, config.precision)[1]
    found = _development(config, samples, RenderSettings(samples=choose(config, "samples"), bf16=bf16))
    assert found is not None
    return found


def _development(config: TrainConfig, samples: ShardSamples, settings: RenderSettings) -> Development | None:
    listed = config.development.dev_uids
    if listed is None:
        return None
    # The same rays every time, of pictures as they are, and from the first view: what is judged must not move.
    still = replace(
        samples.config,
        rays=512,
        input_view=0,
        augment=Augmentation(),
        with_depth=False,
        with_normals=False,
        further_sizes=(),
        seed=0,
    )
    return Development(config.development, ShardSamples(samples.shards, still, samples.shards.listed(listed)), settings)


def _schedule(config: TrainConfig) -> Schedule:
    recipe = config.recipe
    steps, minutes = config.steps, config.minutes
    if steps is None and minutes is None:
        steps = 30_000 if config.size == "tiny" else 300_000
    return Schedule(config.optimiser.learning_rate or recipe.learning_rate, recipe.warmup_steps, steps, minutes)
